"""Who may impersonate whom: rules, one user per session, the mapped role's own settings.

Threats: 50 (docs/threats.md).
"""

import psycopg2
import pytest
from conftest import carriers, refuses
from harness.world import impersonate, query

NOT_ALLOWED = ("42501", "IMPERSONATION_NOT_ALLOWED")


@pytest.fixture
def rule(world):
    """Adds rules, which go with the test."""
    added = []

    def add(*args, **named):
        names = "".join(f", {name} => %s" for name in named)
        call = f"SELECT immuta.add_impersonation_rule({', '.join(['%s'] * len(args))}{names})"
        added.append(world.value(call, (*args, *named.values())))
        return added[-1]

    yield add
    for number in added:
        world.sql("SELECT immuta.drop_impersonation_rule(%s)", (number,))


def test_the_first_rule_that_matches_decides(world, service, rule):
    tokens = {user: world.token(user) for user in ("alice", "bob", "carol")}

    def allowed():
        seen = []
        for user, token in tokens.items():
            try:
                impersonate(service, token)
                seen.append(query(service, "SELECT userid FROM immuta.whoami()")[0][0])
            except psycopg2.Error as error:
                assert (error.pgcode, error.diag.message_detail) == NOT_ALLOWED
            service.rollback()
        return seen

    assert allowed() == ["alice", "bob", "carol"], "without rules everybody"
    rule("svc", "bob", False)
    assert allowed() == [], "with rules, nobody whom none allows; in a session that knows all three tokens"
    rule("s*", "*", True, iamid="bim")
    assert allowed() == ["alice", "carol"]
    rule("*", "bob", True)
    assert allowed() == ["alice", "carol"]
    assert [r[1:5] for r in world.sql("SELECT * FROM immuta.impersonation_rules()")] == [
        ("svc", "bob", False, "*"), ("s*", "*", True, "bim"), ("*", "bob", True, "*")]


def test_rules_act_at_the_next_transaction(world, service, rule):
    impersonate(service, world.token())
    rule("nobody", "*")
    assert carriers(service) == ["UA"]
    service.commit()
    with refuses(*NOT_ALLOWED):
        impersonate(service, world.token())


@pytest.mark.parametrize("where, is_near", [(["127.0.0.0/8"], True), (["127.0.0.1"], True), (["10.0.0.0/8"], False),
                                            (["::1", "10.0.0.0/8", "127.0.0.0/30"], True), ([], False)])
def test_a_rule_can_depend_on_the_address(world, service, rule, where, is_near):
    number = rule("svc", "*")
    world.sql("UPDATE immuta.impersonation_rule SET client_addr = %s::inet[] WHERE id = %s", (where, number))
    if is_near:
        impersonate(service, world.token())
        assert carriers(service) == ["UA"]
    else:
        with refuses(*NOT_ALLOWED):
            impersonate(service, world.token())


def test_what_a_star_stood_for_names_the_users(world, rule):
    world.sql("CREATE ROLE app_ali LOGIN PASSWORD 'app' IN ROLE bodata_impersonate_user")
    try:
        rule("app_*", "$1ce")
        connection = world.connect("app_ali", "app")
        impersonate(connection, world.token("alice"))
        assert carriers(connection) == ["UA"]
        connection.rollback()
        with refuses(*NOT_ALLOWED):
            impersonate(connection, world.token("bob"))
        connection.close()
    finally:
        world.sql("DROP ROLE app_ali")


@pytest.mark.parametrize("args, sqlstate", [
    (("svc", "$1"), "22023"), (("a*", "$1$2"), "22023"), (("", "x"), "22023"), (("x", "x" * 256), "22023"),
    ((None, "x"), "22004"), (("x", None), "22004"), (("x", "x", None), "22004"),
    (("x", "x", True, "*", [None]), "22004"), (("x", "x", True, "*", ["nonsense"]), "22P02")])
def test_bad_rules_are_refused(world, args, sqlstate):
    casts = ["%s::text", "%s::text", "%s::boolean", "%s::text", "%s::inet[]"][:len(args)]
    with refuses(sqlstate):
        world.sql(f"SELECT immuta.add_impersonation_rule({', '.join(casts)})", args)
    assert world.sql("SELECT * FROM immuta.impersonation_rules()") == []


def test_rules_are_for_administrators(world, service):
    for call in ("add_impersonation_rule('*', '*')", "drop_impersonation_rule(1)", "impersonation_rules()"):
        with refuses("42501"):
            query(service, f"SELECT immuta.{call}")
        service.rollback()
    assert world.value("SELECT immuta.drop_impersonation_rule(-1)") is False


def test_one_user_per_session(world):
    world.sql("ALTER ROLE svc SET bodata.single_impersonation_user = on")
    try:
        connection = world.connect()
        for _ in range(2):
            impersonate(connection, world.token("alice"))
            assert carriers(connection) == ["UA"]
            connection.commit()
        with refuses(*NOT_ALLOWED) as seen:
            impersonate(connection, world.token("bob"))
        assert "single_impersonation_user" in seen.hint
        connection.rollback()
        connection.autocommit = True
        query(connection, "DISCARD ALL")
        connection.autocommit = False
        with refuses(*NOT_ALLOWED):
            impersonate(connection, world.token("bob"))
        connection.rollback()
        impersonate(connection, world.token("alice"))
        connection.close()
    finally:
        world.sql("ALTER ROLE svc RESET bodata.single_impersonation_user")


def test_several_users_per_session_are_the_default(world, service):
    assert world.value("SHOW bodata.single_impersonation_user") == "names"
    for user, carrier in (("alice", "UA"), ("bob", "AA")):
        impersonate(service, world.token(user))
        assert carriers(service) == [carrier]
        service.commit()


@pytest.fixture
def role_settings(world):
    for setting in ("ALTER ROLE alice SET statement_timeout = '77s'", "ALTER ROLE alice SET search_path = app, pg_temp",
                    "ALTER ROLE alice SET app.tenant = 'everywhere'", "ALTER ROLE alice SET role = 'bob'",
                    "ALTER ROLE alice IN DATABASE immuta SET app.tenant = 'here'",
                    "ALTER ROLE alice IN DATABASE immuta SET bodata.require_token = off",
                    "ALTER ROLE alice SET log_min_duration_statement = '66s'",
                    "ALTER ROLE alice SET session_preload_libraries = ''",
                    "ALTER ROLE svc SET bodata.apply_role_settings = on"):
        world.sql(setting)
    yield
    for reset in ("ALTER ROLE alice RESET ALL", "ALTER ROLE alice IN DATABASE immuta RESET ALL",
                  "ALTER ROLE svc RESET ALL"):
        world.sql(reset)


SETTINGS = ("SELECT current_setting('statement_timeout'), current_setting('search_path'), "
            "current_setting('app.tenant', true), current_setting('log_min_duration_statement'), current_user, "
            "current_setting('bodata.require_token')")


def test_the_mapped_roles_settings_apply_to_its_transactions(world, role_settings):
    connection = world.connect()
    before = query(connection, SETTINGS)
    connection.commit()
    for end in (connection.commit, connection.rollback):
        impersonate(connection, world.token("alice"))
        assert query(connection, "SELECT count(*) FROM flights") == [(100,)], "the first statement finds its table"
        assert query(connection, SETTINGS) == [("77s", "app, pg_temp", "here", "66s", "alice", "on")]
        end()
        after = query(connection, SETTINGS)
        assert [v or None for v in after[0]] == [v or None for v in before[0]]
        connection.commit()
    impersonate(connection, world.token("bob"))
    assert query(connection, SETTINGS)[0][:2] == before[0][:2]
    connection.close()


@pytest.fixture
def tablespaces(world, role_settings):
    """One that alice may use and the login may not, and one the other way round."""
    world.sql("SET allow_in_place_tablespaces = on")
    for name, role in (("hers", "alice"), ("not_hers", "svc")):
        world.sql(f"CREATE TABLESPACE {name} LOCATION ''")
        world.sql(f"GRANT CREATE ON TABLESPACE {name} TO {role}")
    yield
    world.sql("DROP TABLESPACE hers")
    world.sql("DROP TABLESPACE not_hers")
    world.sql("RESET allow_in_place_tablespaces")


@pytest.mark.parametrize("value, is_applied", [
    ("hers", True), ("pg_default", True), ("", True), ("gone", False), ("not_hers", False), ("hers, gone", False)])
def test_tablespaces_that_are_gone_lock_nobody_out(world, tablespaces, value, is_applied):
    """As at a login of the role: what cannot be used is a warning, and the rest applies."""
    names = value or "''"
    world.sql(f"ALTER ROLE alice SET temp_tablespaces = {names}")
    connection = world.connect()
    impersonate(connection, world.token("alice"))
    assert query(connection, "SHOW temp_tablespaces") == [((value or '""') if is_applied else "",)]
    assert query(connection, "SHOW statement_timeout") == [("77s",)]
    assert any("temp_tablespaces" in notice for notice in connection.notices) != is_applied
    connection.close()



@pytest.mark.parametrize("reset", [
    "RESET ALL", "RESET statement_timeout", "SET statement_timeout TO DEFAULT", "SET LOCAL search_path TO DEFAULT",
    "DO 'BEGIN RESET ALL; END'", "DO $$ BEGIN EXECUTE 'RESET ALL'; RESET search_path; END $$", "SAVEPOINT s; RESET ALL",
    "SAVEPOINT s; RESET ALL; ROLLBACK TO s", "RESET ALL; SAVEPOINT s; RESET ALL; RELEASE s", "RESET app.tenant"])
def test_what_the_administrator_imposed_cannot_be_reset(world, role_settings, reset):
    """As for a login of the role: what RESET gives back is the role's setting."""
    world.sql("ALTER ROLE svc SET bodata.application_name_template = '{application_name} as {userid}'")
    connection = world.connect()
    before = query(connection, SETTINGS)
    connection.commit()
    impersonate(connection, world.token("alice"))
    query(connection, "SET LOCAL work_mem = '7MB'")
    with connection.cursor() as cursor:
        cursor.execute(reset)
    assert query(connection, SETTINGS) == [("77s", "app, pg_temp", "here", "66s", "alice", "on")]
    assert query(connection, "SHOW application_name")[0][0].endswith(" as alice")
    # What the user had set themselves is reset, or not, as ever.
    is_reset = "RESET ALL" in reset and "ROLLBACK TO" not in reset
    assert query(connection, "SHOW work_mem") == [("4MB" if is_reset else "7MB",)]
    # They may set what they may, and get back what is the role's.
    query(connection, "SET statement_timeout = '5s'")
    assert query(connection, "SHOW statement_timeout") == [("5s",)]
    query(connection, "RESET statement_timeout")
    assert query(connection, "SHOW statement_timeout") == [("77s",)]
    connection.commit()
    after = query(connection, SETTINGS)
    assert [v or None for v in after[0]] == [v or None for v in before[0]]
    connection.commit()
    assert query(connection, "SHOW application_name") == [("",)]
    connection.close()


def test_a_setting_that_is_no_longer_valid_is_a_warning(world, role_settings):
    world.sql("UPDATE pg_db_role_setting SET setconfig = array_append(setconfig, 'DateStyle=nonsense') "
              "WHERE setrole = 'alice'::regrole AND setdatabase = 0")
    connection = world.connect()
    impersonate(connection, world.token("alice"))
    assert query(connection, "SELECT count(*) FROM flights") == [(100,)]
    assert any("DateStyle" in notice for notice in connection.notices)
    connection.close()


def test_by_default_they_do_not_apply(world, service):
    world.sql("ALTER ROLE alice SET search_path = app")
    try:
        impersonate(service, world.token("alice"))
        assert query(service, "SHOW search_path") == [('"$user", public',)]
    finally:
        world.sql("ALTER ROLE alice RESET search_path")


def test_a_seed_of_the_role_is_gone_for_the_next_user(world):
    """No undoing of settings takes that back."""
    world.sql("ALTER ROLE alice SET seed = 0.42")
    world.sql("ALTER ROLE svc SET bodata.apply_role_settings = on")
    try:
        seen = set()
        for _ in range(2):
            connection = world.connect()
            impersonate(connection, world.token("alice"))
            query(connection, "SELECT 1")
            connection.commit()
            impersonate(connection, world.token("bob"))
            seen.add(query(connection, "SELECT random()")[0])
            connection.close()
        assert len(seen) == 2
    finally:
        world.sql("ALTER ROLE alice RESET ALL")
        world.sql("ALTER ROLE svc RESET bodata.apply_role_settings")
