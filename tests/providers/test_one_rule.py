"""From a user to a role there is one rule: what views and dry runs say is what a switch gives, and a project gives nobody
more than they have.

Threats: 58 (docs/threats.md).
"""

import random

import psycopg2
import pytest
from conftest import NOT_ALLOWED, who
from harness.fixtures import refuses
from harness.world import impersonate, query

ROLES = [f"r{i}" for i in range(6)]
TABLES = [f"rule.t{i}" for i in range(4)]


@pytest.fixture
def rule(world):
    world.sql("CREATE SCHEMA rule; GRANT USAGE ON SCHEMA rule TO PUBLIC; CREATE ROLE powerful CREATEROLE; "
              "SELECT immuta.create_project('one'), immuta.create_project('two')")
    world.sql("".join(f"CREATE TABLE {table} (a int, b int); SELECT immuta.add_project_data_source('one', '{table}'), "
                      f"immuta.add_project_data_source('two', '{table}');" for table in TABLES))
    yield
    world.sql("SELECT immuta.drop_project('one'), immuta.drop_project('two'); DELETE FROM immuta.subscriber; "
              "SELECT immuta.drop_user(userid, iamid) FROM immuta.user_account WHERE userid ~ '^(r|u)[0-9]$'; "
              f"DROP SCHEMA rule CASCADE; DROP ROLE powerful; DROP ROLE IF EXISTS {', '.join(ROLES)}")


def arrange(world, api, chance):
    """Roles that are marked or not, readers of this and that; users with every mapping, subscriptions and projects."""
    users = []
    for role in ROLES:
        marked = " IN ROLE immuta_mappable" if chance.random() < 0.8 else ""
        world.sql(f"CREATE ROLE {role} {chance.choice(['', '', '', 'CREATEROLE'])}{marked}")
        for table in TABLES:
            columns = chance.choice(["", "", " (a)", None])
            if columns is not None:
                world.sql(f"GRANT SELECT{columns} ON {table} TO {role}")
    for userid in [*ROLES, "u1", "u2"]:
        iamid = chance.choice(["bim", "bim", "okta"])
        world.sql("SELECT immuta.create_user(%s, %s)", (userid, iamid))
        mapping = chance.choice(["name", "name", "name", "explicit", "none"])
        if mapping == "explicit":
            # Whatever has become of the role since.
            world.sql("UPDATE immuta.user_account SET mapping = 'explicit', postgres_role = %s::regrole WHERE userid = %s",
                      (chance.choice([*ROLES, "powerful"]), userid))
        elif mapping == "none":
            world.sql("SELECT immuta.unmap_user(%s, %s)", (userid, iamid))
        if chance.random() < 0.15:
            world.sql("SELECT immuta.disable_user(%s, %s)", (userid, iamid))
        for project in ("one", "two"):
            if chance.random() < 0.6:
                world.sql("SELECT immuta.add_project_member(%s, %s, %s)", (project, userid, iamid))
        named = {"postgresqlUser": chance.choice([*ROLES, "nosuchrole"])} if chance.random() < 0.4 else {}
        api.add_user(userid, iamid=iamid, external_ids=named)
        users.append((userid, iamid, bool(named)))
    for role in chance.sample(ROLES, 2):
        world.sql("INSERT INTO immuta.subscriber SELECT id, %s::regrole, %s, false FROM immuta.user_account "
                  "WHERE userid = %s ON CONFLICT DO NOTHING", (role, role, chance.choice(ROLES)))
    world.sql("SELECT immuta.equalise_projects()")
    return users


def columns_of(connection):
    return {tuple(row) for row in query(connection, """
        SELECT attrelid, attname FROM pg_attribute WHERE attrelid = ANY (%s::regclass[]) AND attnum > 0
        AND has_column_privilege(attrelid, attnum, 'SELECT')""", (TABLES,))}


def switch(world, token):
    """The role, and what it reads; None for nobody. In a session of its own: refusals make the next one wait."""
    connection = world.connect()
    try:
        impersonate(connection, token)
        return query(connection, "SELECT current_user::text")[0][0], columns_of(connection)
    except psycopg2.Error as error:
        assert error.diag.message_detail.startswith("IMPERSONATION_"), error
        return None, set()
    finally:
        connection.close()


@pytest.mark.parametrize("seed", range(12))
def test_views_dry_runs_and_switches_agree(world, api, token, settings, rule, seed):
    chance = random.Random(seed)
    by_name = {"map_by_username": chance.choice(["on", "on", "off"]),
               "map_by_username_iamids": chance.choice(["bim", "bim, okta", "okta"])}
    settings(**by_name)
    # The administrator's session is older than the settings.
    world.sql("".join(f"SET bodata.{name} = '{value}';" for name, value in by_name.items()))
    try:
        users = arrange(world, api, chance)
        for userid, iamid, is_named in users:
            text = token(userid, iamid)
            _, own = switch(world, text)
            projects = [name for name, in world.sql(
                "SELECT p.name FROM immuta.project p JOIN immuta.project_member m ON m.project_id = p.id "
                "JOIN immuta.user_account u ON u.id = m.user_id WHERE u.userid = %s AND u.iamid = %s", (userid, iamid))]
            for project in (None, *projects):
                world.sql("SELECT immuta.set_current_project(%s, %s, %s)", (project, userid, iamid))
                role, read = switch(world, text)
                assert read <= own, f"{project} gives {userid} more than they have"
                if is_named:
                    continue  # What the provider says only a switch can know.
                listed = world.sql("SELECT mapped_role FROM immuta.impersonators WHERE impersonator = 'svc' "
                                   "AND userid = %s AND iamid = %s", (userid, iamid))
                assert listed == ([(role,)] if role else [])
                for table in TABLES:
                    try:
                        [(allowed,)] = world.sql("SELECT allowed FROM immuta.test_access(%s, %s, %s)",
                                                 (userid, f"SELECT b FROM {table}", iamid))
                    except psycopg2.Error as error:
                        assert role is None and error.diag.message_detail.startswith("IMPERSONATION_")
                    else:
                        assert allowed is ((world.value("SELECT %s::regclass::oid", (table,)), "b") in read)
    finally:
        world.sql("RESET bodata.map_by_username; RESET bodata.map_by_username_iamids")


def test_a_project_does_not_count_with_what_the_provider_names(world, api, token, connect, rule):
    """The provider names r1 for r0; the project would give what r0 has."""
    world.sql("CREATE ROLE r0 IN ROLE immuta_mappable; CREATE ROLE r1 IN ROLE immuta_mappable; "
              "GRANT SELECT ON rule.t0 TO r0; SELECT immuta.create_user('r0'), immuta.add_project_member('one', 'r0'), "
              "immuta.set_current_project('one', 'r0')")
    api.add_user("r0", external_ids={"postgresqlUser": "r1"})
    with refuses(*NOT_ALLOWED) as seen:
        impersonate(connect(), token("r0"))
    assert "project" in seen.message and "map_user" in seen.hint
    api.add_user("r0", external_ids={"postgresqlUser": "r0"})
    assert who(connect(), token("r0")) == ("bim", "r0", "project_one")
    world.sql("SELECT immuta.map_user('r0', 'r0')")
    api.add_user("r0", external_ids={"postgresqlUser": "r1"})
    assert who(connect(), token("r0")) == ("bim", "r0", "project_one")
    world.sql("SELECT immuta.set_current_project(NULL, 'r0')")
    assert who(connect(), token("r0")) == ("bim", "r0", "r0")
