"""Elsewhere stored OIDs mean something else: everything is adopted by its names there, or grants nothing.

Threats: 57 (docs/threats.md).
"""

import pytest
from conftest import VERSION, clean, reads, refuses
from harness.world import World, impersonate, query

# How each stored OID gets to another place. `by name`: immuta_internal.come_home(); `made anew`: immuta_internal.take_stock();
# `text`: a dump shows the name, and pg_upgrade and TEMPLATE keep the OID.
RULES = {
    "home.database": "says which place it is",
    "system_account.role": "by name", "subscriber.role": "by name", "access_class.role": "by name",
    "registered_schema.namespace": "by name", "data_source.relation": "by name", "part.relation": "by name",
    "masks.table_oid": "by name",
    "user_account.postgres_role": "text, if it agrees with the name that is stored",
    "project.postgres_role": "text, left out of dumps if the role is gone",
    "project_data_source.relation": "text, left out of dumps if the relation is gone",
    "class_member.role": "made anew",
    "grant_made.grantee": "made anew", "grant_made.object": "made anew", "grant_made.grantor": "made anew",
    "pending_sync.relation": "emptied: all is looked at",
}
# Numbers that are no OIDs.
COUNTERS = {
    "api_key.id", "api_key.user_id", "class_member.user_id", "class_source.data_source_id", "connection_state.version",
    "data_source.confirmed", "data_source.id", "grant_made.data_source_id", "named_column.data_source_id", "part.data_source_id", "policy_member.user_id",
    "project_member.user_id", "row_policy.data_source_id", "subscriber.user_id", "subscription.data_source_id",
    "subscription.user_id", "subscription_policy.data_sources", "token.id", "token.user_id", "user_account.id",
    "user_profile.user_id", "home.system_identifier", "audit_log.rows",
}


def test_each_stored_oid_has_a_rule(world):
    columns = world.sql(
        "SELECT c.relname || '.' || a.attname, t.typcategory = 'N' AND t.typname <> 'int8', t.oid::regtype::text FROM pg_class c "
        "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
        "JOIN pg_type t ON t.oid = a.atttypid "
        "WHERE c.relnamespace = 'immuta'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND (a.atttypid = ANY "
        "('{oid,regclass,regrole,regnamespace,regproc,regprocedure,regtype,regoper,regoperator,regconfig,regdictionary,"
        "regcollation,oid[],regclass[],regrole[],regnamespace[],regtype[],bigint,bigint[]}'::regtype[]))")
    oids = {name for name, _, kind in columns if not kind.startswith("bigint")}
    assert oids == set(RULES)
    assert {name for name, _, kind in columns if kind.startswith("bigint")} - COUNTERS == set()
    # What is adopted by name has its name beside it, and a dump brings it.
    for column in (c for c, rule in RULES.items() if rule == "by name"):
        table = column.split(".")[0]
        assert world.value("SELECT count(*) FROM pg_attribute WHERE attrelid = %s::regclass AND atttypid = 'name'::regtype", ("immuta." + table,))
        assert world.value("SELECT %s::regclass = ANY (extconfig) FROM pg_extension WHERE extname = 'immuta_ext'", ("immuta." + table,))
    for column in (c for c, rule in RULES.items() if rule == "made anew"):
        assert not world.value("SELECT %s::regclass = ANY (extconfig) FROM pg_extension WHERE extname = 'immuta_ext'",
                               ("immuta." + column.split(".")[0],))


def test_tables_load_in_any_order(world):
    """pg_restore --jobs knows no order between the tables of an extension."""
    assert world.sql("SELECT conrelid::regclass::text FROM pg_constraint WHERE contype = 'f' "
                     "AND connamespace = 'immuta'::regnamespace") == []


def elsewhere(world):
    """As pg_upgrade leaves it: another cluster, schemas with other OIDs."""
    world.sql("UPDATE immuta.home SET system_identifier = 1")


@pytest.fixture
def subscribed(sales):
    sales.ddl("GRANT USAGE ON SCHEMA other TO immuta_system; CREATE TABLE other.salaries (amount int)")
    sales.sql("SELECT immuta.create_subscription_policy('clerks', schemas => '{sales}', groups => '{clerks}')")
    sales.sql("SELECT immuta.set_user_groups('ann', '{clerks}'), immuta.subscribe('ben', 'sales.orders', 'WRITE')")
    yield sales


def access(office):
    return {(user, table): office.access(user, table) for user in ("ann", "ben")
            for table in ("sales.orders", "sales.customers", "other.salaries")}


@pytest.mark.parametrize("first", ["sync", "ddl", "change", "use"])
def test_schemas_with_other_oids(subscribed, first):
    """Nobody gets another schema, whatever looks at it first."""
    world = subscribed.world
    before = access(subscribed)
    world.sql("UPDATE immuta.registered_schema SET namespace = 'other'::regnamespace")
    elsewhere(world)
    assert subscribed.drift() == [("not adopted", "DATABASE immuta", "it came from elsewhere: SELECT * FROM immuta.sync()")]
    assert world.sql("SELECT ok FROM immuta.doctor() WHERE \"check\" LIKE 'all that was brought%%'") == [(False,)]
    assert reads(subscribed, "ann", "SELECT count(*) FROM sales.orders") == [(3,)]
    if first == "sync":
        assert subscribed.sql("SELECT * FROM immuta.sync()") == []
    elif first == "ddl":
        world.sql("ALTER SCHEMA sales RENAME TO moved")
        assert subscribed.access("ann", "moved.orders") == "READ" and subscribed.access("ben", "moved.orders") == "WRITE"
        world.sql("ALTER SCHEMA moved RENAME TO sales")
    elif first == "change":
        subscribed.sql("SELECT immuta.set_user_groups('ann', '{clerks}')")
    else:
        world.sql("SELECT immuta.expire_subscriptions()")
    assert world.value("SELECT immuta_internal.is_home()")
    assert world.sql("SELECT schema_name, namespace::regnamespace::text FROM immuta.registered_schema") == [("sales", "sales")]
    assert access(subscribed) == before
    assert subscribed.drift() == [] == subscribed.sql("SELECT * FROM immuta.sync()")
    subscribed.sql("SELECT immuta.set_user_groups('ann', '{}'), immuta.unsubscribe('ben', 'sales.orders')")
    assert set(access(subscribed).values()) == {None}


def test_what_was_renamed_meanwhile(subscribed):
    """Roles and relations that came along as a whole are known by their OIDs: whoever has their names is nobody."""
    world = subscribed.world
    role = subscribed.role("ben")
    elsewhere(world)
    world.sql(f"ALTER ROLE {role} RENAME TO benjamin; CREATE ROLE {role} IN ROLE immuta_mappable")
    try:
        assert world.sql("SELECT ok FROM immuta.doctor() WHERE \"check\" LIKE 'stored names%%'") == [(True,)]
        assert reads(subscribed, "ben", "SELECT count(*) FROM sales.orders") == [(3,)]
        subscribed.sql("SELECT * FROM immuta.sync()")
        assert subscribed.role("ben") == "benjamin" and subscribed.access("ben", "sales.orders") == "WRITE"
        assert not world.value(f"SELECT has_table_privilege('{role}', 'sales.orders', 'SELECT')")
        world.sql("ALTER ROLE benjamin RENAME TO benny")
        assert world.sql("SELECT ok, detail ~ 'benny' FROM immuta.doctor() WHERE \"check\" LIKE 'stored names%%'") == [(False, True)]
    finally:
        world.sql(f"DROP ROLE {role}")


def test_what_cannot_be_adopted_stays(subscribed):
    """It grants nothing, and is told."""
    world = subscribed.world
    world.sql("ALTER EVENT TRIGGER immuta_drop DISABLE; ALTER EVENT TRIGGER immuta_before DISABLE")
    subscribed.sql("SELECT immuta.register_data_source('other.salaries')")
    subscribed.sql("SELECT immuta.create_user('cleo')")
    elsewhere(world)
    world.sql("DROP TABLE sales.customers; DROP TABLE other.salaries")
    changes = subscribed.sql("SELECT * FROM immuta.sync()")
    told = [("not adopted", f"TABLE {table}", "there is none of this name, or two data sources have it: run immuta.sync() when "
             "there is one, or immuta.forget_missing()") for table in ("other.salaries", "sales.customers")]
    assert [row for row in changes if row[0] == "not adopted"] == told == subscribed.drift()
    assert world.sql("SELECT ok, detail ~ 'sales.customers' FROM immuta.doctor() WHERE \"check\" LIKE 'all that was brought%%'") == [(False, True)]
    assert subscribed.sql("SELECT count(*) FROM immuta.data_sources WHERE state = 'missing'") == [(2,)]
    assert subscribed.access("ann", "sales.orders") == "READ"
    # It may come back.
    subscribed.ddl("CREATE TABLE sales.customers (id int)")
    assert subscribed.access("ann", "sales.customers") is None
    subscribed.sql("SELECT * FROM immuta.sync()")
    assert subscribed.access("ann", "sales.customers") == "READ"
    assert subscribed.value("SELECT immuta.forget_missing()") == 1
    assert subscribed.drift() == []


def test_roles_that_were_dropped_before_a_dump(subscribed, tmp_path):
    """They are numbers in it: elsewhere these are other roles, and other tables."""
    world, server = subscribed.world, subscribed.world.server
    world.sql("CREATE ROLE gone; SELECT immuta.create_user('zoe', postgres_role => 'gone')")
    subscribed.ddl("CREATE TABLE other.gone (a int)")
    world.sql("SELECT immuta.create_project('p'), immuta.add_project_data_source('p', 'other.gone'), immuta.create_project('q')")
    world.sql("DROP ROLE gone; DROP TABLE other.gone")
    world.sql("DROP ROLE project_q")
    # The number means another role by now, as it may in another cluster.
    world.sql("UPDATE immuta.user_account SET postgres_role = 'data_owner'::regrole WHERE userid = 'zoe'")
    world.sql("UPDATE immuta.user_account SET postgres_role_name = 'gone' WHERE userid = 'zoe'")
    server.run_client("pg_dump", "-Fc", "-f", tmp_path / "dump", dbname="immuta")
    world.sql("CREATE DATABASE second")
    try:
        server.run_client("pg_restore", "-d", "second", "--exit-on-error", tmp_path / "dump")
        second = World(server, "second")
        assert second.sql("SELECT postgres_role::oid FROM immuta.user_account WHERE userid = 'zoe'") == [(0,)]
        assert second.sql("SELECT name FROM immuta.project") == [("p",)]
        assert second.sql("SELECT * FROM immuta.project_data_source") == []
        second.sql("SELECT * FROM immuta.adopt()")
        assert ("not adopted", "ROLE gone", "it is missing or another one: map zoe (bim) with immuta.map_user()") in second.sql(
            "SELECT * FROM immuta.drift()")
        service = world.connect(dbname="second")
        with refuses("42704", "IMPERSONATION_NOT_MAPPED"):
            impersonate(service, second.token("zoe"))
        service.close()
        second.admin.close()
    finally:
        world.sql("DROP DATABASE second WITH (FORCE)")
        world.sql("DELETE FROM immuta.project WHERE name = 'q'; SELECT immuta.drop_project('p')")


@pytest.mark.skipif(int(VERSION) < 16, reason="before 16 CREATEROLE is enough")
def test_what_was_granted_before_16_can_be_revoked(subscribed):
    """Roles and memberships as pg_upgrade and pg_dumpall bring them from 14 and 15: without ADMIN, by the superuser."""
    world = subscribed.world
    (role,), = world.sql("SELECT role::regrole::text FROM immuta.access_class")
    membership = ("SELECT m.grantor::regrole::text, m.inherit_option, m.set_option FROM pg_auth_members m "
                  f"WHERE m.roleid = '{role}'::regrole AND m.member = '{subscribed.role('ann')}'::regrole")
    usual = world.sql(membership)
    assert usual == [("immuta_system", True, False)]
    world.sql(f"REVOKE {role} FROM immuta_system CASCADE; GRANT {role} TO {subscribed.role('ann')}")
    assert subscribed.sql("SELECT what, object, detail FROM immuta.drift()") == [
        ("not revocable", f"ROLE {role}", f"of {subscribed.role('ann')}"),
        ("not revocable", f"ROLE {role}", "the system account has no ADMIN on it")]
    assert subscribed.sql("SELECT ok, detail FROM immuta.doctor() WHERE \"check\" = 'memberships can be revoked'") == [
        (False, f"Run immuta.sync(): not those in {role}")]
    assert subscribed.sql("SELECT * FROM immuta.sync()") == [
        ("granted", f"ROLE {role}", "to immuta_system with ADMIN"), ("made revocable", f"ROLE {role}", f"of {subscribed.role('ann')}")]
    assert subscribed.drift() == [] == subscribed.sql("SELECT * FROM immuta.sync()") and world.sql(membership) == usual
    # What the first change after an upgrade finds.
    world.sql(f"REVOKE {role} FROM immuta_system CASCADE; GRANT {role} TO {subscribed.role('ann')}")
    elsewhere(world)
    subscribed.sql("SELECT immuta.set_user_groups('ann', '{}')")
    assert subscribed.access("ann", "sales.orders") is None
    subscribed.sql("SELECT immuta.drop_subscription_policy('clerks')")
    assert not world.value("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s)", (role,))


@pytest.fixture
def copy(subscribed):
    world = subscribed.world
    subscribed.sql("SELECT immuta.set_user_groups('ben', '{clerks}')")
    world.sql("SELECT immuta.create_project('p'), immuta.add_project_data_source('p', 'sales.orders'),"
              " immuta.add_project_member('p', 'ann'), immuta.add_project_member('p', 'ben'), immuta.set_current_project('p', 'ben')")
    subscribed.close()
    world.admin.close()
    world.server.psql("-c", "CREATE DATABASE copied TEMPLATE immuta")
    subscribed.__init__(world)
    copied = World(world.server, "copied")
    yield copied
    copied.admin.close()
    world.sql("DROP DATABASE copied WITH (FORCE)")
    world.sql("SELECT immuta.drop_project('p')")


ACL = ("SELECT c.relname, a.grantor::regrole::text, a.grantee::regrole::text, a.privilege_type FROM pg_class c, aclexplode(c.relacl) a "
       "WHERE c.relnamespace = 'sales'::regnamespace ORDER BY 1, 2, 3, 4")
MEMBERS = "SELECT roleid::regrole::text, member::regrole::text FROM pg_auth_members ORDER BY 1, 2"


def test_a_copy_leaves_its_original_alone(subscribed, copy):
    world = subscribed.world
    original = world.sql(ACL), world.sql(MEMBERS)
    assert copy.sql("SELECT object, detail FROM immuta.drift()") == [
        ("DATABASE copied", "it is a copy of immuta, whose roles it has: SELECT * FROM immuta.adopt()")]
    # What somebody may read in the original they may read in the copy; nobody changes that.
    for change in ("SELECT * FROM immuta.sync()", "SELECT immuta.set_user_groups('ann', '{}')", "SELECT immuta.drop_user('ben')",
                   "SELECT immuta.map_user('ann', 'alice')", "SELECT immuta.drop_project('p')", "SELECT immuta.equalise_projects()",
                   "SELECT immuta.set_system_account('immuta_system')", "SELECT immuta.register_schema('other')"):
        with refuses("55000") as seen:
            copy.sql(change)
        assert "adopt()" in seen.hint, change
    copy.sql("CREATE TABLE sales.more (a int); ALTER TABLE sales.more ADD b int; DROP TABLE sales.more")
    assert not copy.value("SELECT immuta_internal.is_home()")
    assert (world.sql(ACL), world.sql(MEMBERS)) == original
    service = world.connect(dbname="copied")
    impersonate(service, copy.token("ann"))
    assert query(service, "SELECT count(*) FROM sales.orders") == [(3,)]
    service.close()
    # What cannot be revoked there is not shown.
    copy.sql("UPDATE immuta.subscription SET valid_until = now() - interval '1 day' WHERE state = 'approved'")
    service = world.connect(dbname="copied")
    with refuses("55000"):
        impersonate(service, copy.token("ben"))
    service.close()
    copy.sql("UPDATE immuta.subscription SET valid_until = NULL")
    # With roles of its own it changes nothing but itself.
    copy.sql("SELECT * FROM immuta.adopt()")
    assert copy.sql("SELECT * FROM immuta.drift()") == [] == copy.sql("SELECT * FROM immuta.sync()")
    assert set(copy.sql("SELECT role FROM immuta.access_class")) & set(world.sql("SELECT role FROM immuta.access_class")) == set()
    assert not copy.value("SELECT EXISTS (SELECT FROM pg_class c, aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee "
                          "WHERE r.rolname IN ('project_p', 'immuta_access_1') AND c.relnamespace = 'sales'::regnamespace)")
    copy.sql("SELECT immuta.set_user_groups('ann', '{}'), immuta.drop_user('ben'), immuta.drop_project('p'),"
             " immuta.drop_subscription_policy('clerks')")
    assert not copy.value("SELECT bool_or(has_table_privilege(b.role, 'sales.orders', 'SELECT')) FROM immuta.subscriber b")
    assert world.sql(ACL) == original[0]
    assert set(original[1]) <= set(world.sql(MEMBERS))
    assert subscribed.drift() == [] == subscribed.sql("SELECT * FROM immuta.sync()")
    assert reads(subscribed, "ann", "SELECT count(*) FROM sales.orders") == [(3,)]
    assert reads(subscribed, "ben", "SELECT count(*) FROM sales.orders") == [(3,)]


def test_a_copy_whose_original_is_gone_is_adopted(subscribed, copy):
    """Its roles are nobody else's then."""
    copy.sql("UPDATE immuta.home SET database = 4000000000")
    roles = copy.sql("SELECT role FROM immuta.access_class")
    assert copy.sql("SELECT * FROM immuta.sync()") == []
    assert copy.sql("SELECT role FROM immuta.access_class") == roles


def test_what_is_restored_without_triggers(subscribed, tmp_path):
    """Data only, triggers off: the OIDs of the other database arrive as they were."""
    world, server = subscribed.world, subscribed.world.server
    before, world_role = access(subscribed), subscribed.role("ben")
    server.run_client("pg_dump", "-Fc", "-f", tmp_path / "dump", dbname="immuta")
    world.sql("CREATE DATABASE second")
    try:
        second = World(server, "second")
        second.sql("; ".join(f"CREATE TABLE filler{i} (a serial)" for i in range(20)))
        server.run_client("pg_restore", "-d", "second", "--exit-on-error", "--schema-only", tmp_path / "dump")
        server.run_client("pg_restore", "-d", "second", "--exit-on-error", "--data-only", "--disable-triggers", tmp_path / "dump")
        assert second.sql("SELECT relation FROM immuta.data_source") == world.sql("SELECT relation FROM immuta.data_source")
        assert second.sql("SELECT ok FROM immuta.doctor() WHERE \"check\" = 'changes are announced'") == [(False,)]
        # Until then no mapping rests on a number: neither one that means another role here, nor whose role it is.
        second.sql("SET session_replication_role = replica; "
                   "UPDATE immuta.user_account SET postgres_role = 'data_owner'::regrole WHERE userid = 'ben'; "
                   "UPDATE immuta.subscriber SET role = role::oid::bigint + 1000000; RESET session_replication_role")
        second.sql("SELECT immuta.create_user(%s)", (world_role,))
        service = world.connect(dbname="second")
        for user in ("ben", world_role):
            with refuses("42704", "IMPERSONATION_NOT_MAPPED"):
                impersonate(service, second.token(user))
            service.rollback()
        impersonate(service, second.token("ann"))
        service.close()
        second.sql("SET session_replication_role = replica; "
                   "UPDATE immuta.user_account SET postgres_role = %s::regrole WHERE userid = 'ben'; "
                   "RESET session_replication_role; SELECT * FROM immuta.adopt()", (world_role,))
        assert second.sql("SELECT ok FROM immuta.doctor() WHERE \"check\" = 'changes are announced'") == [(True,)]
        assert second.sql("SELECT * FROM immuta.drift()") == []
        assert {(user, table): Elsewhere(second).access(user, table) for user, table in before} == before
        second.admin.close()
    finally:
        world.sql("DROP DATABASE second WITH (FORCE)")
        clean(world)


class Elsewhere:
    """An office of another database, as far as access() needs one."""

    def __init__(self, world):
        self.world = world

    from conftest import Office
    role, may, access = Office.role, Office.may, Office.access
