"""Dump and restore to another server: the same access there, and everything goes on."""

import json
import uuid

import pytest
from conftest import SYSTEM, VERSION, clean, reads
from harness.server import Server
from harness.world import World, impersonate, query


ACCESS = """
SELECT u.userid, c.relname, has_table_privilege(b.role, c.oid, 'SELECT'), has_table_privilege(b.role, c.oid, 'DELETE'),
       has_schema_privilege(b.role, c.relnamespace, 'USAGE')
FROM immuta.user_account u JOIN immuta.subscriber b ON b.user_id = u.id
JOIN pg_class c ON c.relnamespace = 'sales'::regnamespace AND c.relkind IN ('r', 'v')
WHERE u.userid IN ('ann', 'ben', 'cleo') ORDER BY 1, 2
"""
ACL = """
SELECT c.relname, a.grantor::regrole::text, a.grantee::regrole::text, a.privilege_type
FROM pg_class c, aclexplode(c.relacl) a WHERE c.relnamespace = 'sales'::regnamespace ORDER BY 1, 2, 3, 4
"""


@pytest.fixture
def filled(sales):
    sales.world.sql("GRANT data_owner TO immuta_system; CREATE ROLE cleo IN ROLE immuta_mappable")
    # OIDs that mean something else on the other server.
    sales.ddl("CREATE TABLE sales.dropped (a int, b int); ALTER TABLE sales.customers ADD COLUMN gone int; "
              "ALTER TABLE sales.customers DROP COLUMN gone; ALTER TABLE sales.customers ADD COLUMN phone text, ADD COLUMN mail text;"
              "INSERT INTO sales.customers VALUES (1, 'Ann', '1', '2', 'ann@example.com')")
    sales.sql("SELECT immuta.create_user('cleo'), immuta.create_user('late')")
    sales.sql("SELECT immuta.set_user_groups('ann', '{clerks}'), immuta.set_user_attribute('ann', 'region', '{EU}'),"
              " immuta.set_user_attribute('ben', 'region', '{US}')")
    sales.sql("SELECT immuta.register_data_source('sales.customers', '{public}', '{ssn,phone}')")
    sales.sql("SELECT immuta.create_subscription_policy('clerks', schemas => '{sales}', groups => '{clerks}', access => 'WRITE')")
    sales.sql("SELECT immuta.create_subscription_policy('europe', tags => '{public}', expression => '$.attributes.region[*] == \"EU\"')")
    sales.sql("SELECT immuta.create_subscription_policy('list', data_sources => '{sales.totals}', attributes => '{\"region\": \"US\"}')")
    sales.sql("SELECT immuta.subscribe('ben', 'sales.orders'), immuta.subscribe('cleo', 'sales.orders', 'WRITE', until => now() + interval '1 day'),"
              " immuta.request_subscription('late', 'sales.orders')")
    sales.sql("SELECT immuta.create_row_policy('region', 'sales.orders', 'region = (SELECT immuta.user_attribute(''region''))')")
    sales.sql("SELECT immuta.register_data_source('sales.totals')")
    sales.sql("SELECT immuta.tag_column('sales.customers.mail', 'pii')")
    sales.sql("SELECT immuta.create_masking_policy('pii', 'hash', column_tags => '{pii}', except_groups => '{boss}')")
    sales.sql("SELECT immuta.create_masking_policy('ids', 'null', columns => '{sales.customers.id}', except_groups => '{clerks}')")
    # What waits to be confirmed waits there, too.
    sales.ddl("CREATE TABLE sales.secret (a int)")
    sales.sql("SELECT immuta.create_row_policy('none', 'sales.secret', 'false')")
    sales.ddl("DROP TABLE sales.dropped, sales.secret; CREATE VIEW sales.seen AS SELECT * FROM sales.orders")
    sales.world.sql("ALTER ROLE user_ben RENAME TO benjamin")
    sales.sql("SELECT * FROM immuta.sync()")
    sales.sql("SELECT immuta.create_project('p'), immuta.add_project_data_source('p', 'sales.customers'),"
              " immuta.add_project_member('p', 'ann'), immuta.set_current_project('p', 'ann')")
    for day in ("2031-01-01", "2031-01-02"):
        record(sales.world, day)
    yield sales
    sales.world.sql("SELECT immuta.drop_masking_policy('pii'), immuta.drop_masking_policy('ids')")
    sales.world.sql("SELECT immuta.drop_project('p'); DROP TABLE immuta.audit_log_20310101, immuta.audit_log_20310102")
    clean(sales.world)
    sales.world.sql("DROP ROLE cleo; REVOKE data_owner FROM immuta_system")


def record(world, day, identity=None):
    line = {"id": str(identity or uuid.uuid4()), "eventTimestamp": f"{day}T12:00:00Z", "action": "QUERY", "actionStatus": "SUCCESS",
            "actor": {}, "targets": [], "auditPayload": {"query": "SELECT 1"}}
    world.sql("SELECT immuta_internal.store_audit(ARRAY[%s])", (json.dumps(line),))


RECORDS = "SELECT tableoid::regclass::text, event_time, id, record FROM immuta.audit_log WHERE event_time > '2031-01-01' ORDER BY 2"


MASKED = "SELECT id, length(mail), mail FROM sales.customers"


def one_step(server, dump, jobs=()):
    server.psql("-c", "CREATE DATABASE immuta")
    server.run_client("pg_restore", "-d", "immuta", "--exit-on-error", *jobs, dump)


def eight_jobs(server, dump):
    one_step(server, dump, ["--jobs", "8"])


def data_apart(server, dump):
    server.psql("-c", "CREATE DATABASE immuta")
    server.run_client("pg_restore", "-d", "immuta", "--exit-on-error", "--schema-only", dump)
    server.run_client("pg_restore", "-d", "immuta", "--exit-on-error", "--data-only", "--disable-triggers", dump)


def schema_by_schema(server, dump):
    server.psql("-c", "CREATE DATABASE immuta")
    server.psql("-c", "CREATE EXTENSION immuta_ext; CREATE SCHEMA sales AUTHORIZATION data_owner;"
                "GRANT USAGE ON SCHEMA sales TO immuta_system WITH GRANT OPTION;"
                "ALTER DEFAULT PRIVILEGES FOR ROLE data_owner GRANT ALL ON TABLES TO immuta_system WITH GRANT OPTION", dbname="immuta")
    server.run_client("pg_restore", "-d", "immuta", "--exit-on-error", "--schema", "sales", dump)
    server.run_client("pg_restore", "-d", "immuta", "--exit-on-error", "--schema", "immuta", dump)


@pytest.mark.parametrize("restore", [one_step, eight_jobs, data_apart, schema_by_schema], ids=lambda f: f.__name__)
def test_the_same_access_on_another_server(filled, tmp_path, restore):
    server = filled.world.server
    held = [("not confirmed", "sales.seen", "it shows what is hidden of sales.orders: nobody is granted it")]
    assert filled.drift() == held
    filled.world.sql("UPDATE immuta.project_member SET is_current = false")
    masked = reads(filled, "ann", MASKED)
    filled.world.sql("UPDATE immuta.project_member SET is_current = true")
    assert [row[:2] for row in masked] == [(1, 64)]
    used = filled.world.token("ben")
    form = ["-Fd", "-j", "2"] if restore is eight_jobs else ["-Fc"]
    server.run_client("pg_dump", *form, "-f", tmp_path / "dump", dbname="immuta")
    roles = server.run_client("pg_dumpall", "--globals-only", dbname="postgres").stdout
    with Server(VERSION, "restored") as other:
        # Other OIDs, so that none of the first server's means anything.
        other.psql("-c", "; ".join(f"CREATE TABLE filler{i} (a serial)" for i in range(50)))
        other.psql(input="\n".join(line for line in roles.splitlines() if " postgres" not in line.split(";")[0][:22]), dbname="postgres")
        restore(other, tmp_path / "dump")
        world = World(other)
        if restore is schema_by_schema:
            # The rights on the schema itself are not in it.
            assert world.sql(ACL) == filled.world.sql(ACL)
            assert world.sql(RECORDS) == filled.world.sql(RECORDS)
            world.sql("SELECT * FROM immuta.sync()")
            assert world.sql(ACCESS) == filled.world.sql(ACCESS)
            assert world.sql("SELECT * FROM immuta.drift() WHERE what <> 'mask warning'") == held
            world.sql("UPDATE immuta.project_member SET is_current = false")
            assert reads_there(world, "ann", MASKED) == masked
            return
        assert world.sql(ACL) == filled.world.sql(ACL)
        if restore is not data_apart:  # Without triggers the OIDs are still those of the other server.
            assert world.sql(ACCESS) == filled.world.sql(ACCESS)
        assert world.sql("SELECT what, object, detail FROM immuta.doctor() d(what, ok, detail), LATERAL (SELECT '') o(object) "
                         "WHERE NOT ok AND what LIKE 'all that was brought%%'") != []
        # Before anything else happens, tokens work and row policies hold.
        assert reads_there(world, "ben", "SELECT region, count(*) FROM sales.orders GROUP BY 1") == [("US", 1)]
        world.sql("UPDATE immuta.project_member SET is_current = false")
        assert reads_there(world, "ann", "SELECT count(*) FROM sales.orders") == [(2,)]
        if restore is not data_apart:
            assert reads_there(world, "ann", MASKED) == masked
        service = world.connect()
        impersonate(service, used)
        assert query(service, "SELECT region, count(*) FROM sales.orders GROUP BY 1") == [("US", 1)]
        service.close()
        # Records are there, each once, and more are stored.
        assert world.sql(RECORDS) == filled.world.sql(RECORDS)
        record(world, "2031-01-01", world.sql(RECORDS)[0][2])
        record(world, "2031-01-03")
        assert world.value("SELECT count(*) FROM immuta.audit_log WHERE event_time > '2031-01-01'") == 3
        # What is recorded is what was restored: nothing to do.
        system = world.connect(*SYSTEM)
        system.autocommit = True
        assert query(system, "SELECT what, detail FROM immuta.drift()") == [
            ("not adopted", "it came from elsewhere: SELECT * FROM immuta.sync()")]
        assert query(system, "SELECT * FROM immuta.sync()") == []
        assert reads_there(world, "ann", MASKED) == masked
        assert world.sql("SELECT * FROM immuta.doctor() WHERE NOT ok AND (\"check\" LIKE '%adopted' OR \"check\" ~ 'announced|projects')") == []
        assert world.sql("SELECT project, postgres_role, relation::text, columns, members FROM immuta.projects") == filled.world.sql(
            "SELECT project, postgres_role, relation::text, columns, members FROM immuta.projects")
        assert query(system, "SELECT * FROM immuta.drift() WHERE what <> 'mask warning'") == held
        assert world.sql(ACL) == filled.world.sql(ACL) and world.sql(ACCESS) == filled.world.sql(ACCESS)
        for view in ("data_sources", "subscriptions", "subscription_policies", "row_policies", "user_profiles", "masking_policies", "masked_columns", "column_tags"):
            assert query(system, f"SELECT * FROM immuta.{view}") == filled.sql(f"SELECT * FROM immuta.{view}"), view
        # And it goes on: what was granted there is revoked here, columns stay excluded, DDL is followed.
        query(system, "SELECT immuta.set_user_groups('ann', '{}'), immuta.unsubscribe('ben', 'sales.orders')")
        assert [row for row in world.sql(ACCESS) if row[0] == "ben" and row[1] == "orders"] == [("ben", "orders", False, False, True)]
        assert [row for row in world.sql(ACCESS) if row[0] == "ann" and row[1] == "orders"] == [("ann", "orders", False, False, True)]
        assert world.value("SELECT has_column_privilege('user_ann', 'sales.customers', 'name', 'SELECT')")
        assert not world.value("SELECT has_column_privilege('user_ann', 'sales.customers', 'phone', 'SELECT')")
        query(system, "SELECT immuta.approve_subscription('late', 'sales.orders')")
        owner = world.connect("data_owner", "owner-password")
        query(owner, "CREATE TABLE sales.new (a int); CREATE TABLE sales.secret (a int)")
        owner.commit()
        owner.close()
        assert query(system, "SELECT table_name, state ~ '^not confirmed' FROM immuta.data_sources "
                             "WHERE table_name IN ('new', 'secret')") == [("new", False), ("secret", True)]
        assert query(system, "SELECT object FROM immuta.drift() WHERE what <> 'mask warning'") == [("sales.secret",), ("sales.seen",)]
        system.close()


def reads_there(world, userid, statement):
    service = world.connect()
    try:
        impersonate(service, world.token(userid))
        return query(service, statement)
    finally:
        service.close()


def test_without_the_grants(filled, tmp_path):
    """Restored without privileges, sync() makes them again."""
    server = filled.world.server
    before = filled.world.sql(ACCESS)
    server.run_client("pg_dump", "-Fc", "-f", tmp_path / "dump", dbname="immuta")
    filled.world.sql("CREATE DATABASE bare")
    try:
        server.run_client("pg_restore", "-d", "bare", "--no-privileges", "--exit-on-error", tmp_path / "dump")
        bare = World(server, "bare")
        assert not any(row[2] for row in bare.sql(ACCESS))
        # The owner's grants are gone, too, but the system account may act for them.
        bare.sql("GRANT USAGE ON SCHEMA sales TO immuta_system WITH GRANT OPTION; REVOKE ALL ON FUNCTION immuta.sync() FROM PUBLIC")
        bare.sql("SELECT * FROM immuta.adopt()")
        assert bare.sql(ACCESS) == before
        assert bare.sql("SELECT object FROM immuta.drift() WHERE what <> 'mask warning'") == [("sales.seen",)]
        bare.admin.close()
    finally:
        filled.world.sql("DROP DATABASE bare WITH (FORCE)")


def test_two_databases_of_one_cluster(sales, tmp_path):
    """They share the roles of users. What one of them takes away, the other keeps, and restricted as it was."""
    sales.world.sql("GRANT data_owner TO immuta_system")
    sales.ddl("DROP VIEW sales.totals; ALTER TABLE sales.orders ENABLE ROW LEVEL SECURITY;"
              "CREATE POLICY everything ON sales.orders USING (true)")
    sales.sql("SELECT immuta.create_subscription_policy('clerks', schemas => '{sales}', groups => '{clerks}')")
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders'), immuta.create_user('cleo'),"
              " immuta.set_user_groups('ben', '{clerks}'), immuta.set_user_groups('cleo', '{clerks}')")
    sales.sql("SELECT immuta.create_row_policy('one', 'sales.orders', 'amount = 1')")
    before = sales.world.sql(ACCESS)
    sales.world.server.run_client("pg_dump", "-Fc", "-f", tmp_path / "dump", dbname="immuta")
    sales.world.sql("CREATE DATABASE second")
    try:
        sales.world.server.run_client("pg_restore", "-d", "second", "--exit-on-error", tmp_path / "dump")
        second = World(sales.world.server, "second")
        second.sql("SELECT * FROM immuta.adopt()")
        classes = "SELECT role FROM immuta.access_class"
        assert second.sql(ACCESS) == before and second.sql(classes) != sales.world.sql(classes)
        assert second.sql("SELECT * FROM immuta.sync()") == second.sql("SELECT * FROM immuta.drift()") == sales.drift() == []
        # A group that ends in one, a user who goes from one.
        second.sql("SELECT immuta.set_user_groups('cleo', '{}'), immuta.drop_user('ann'), immuta.drop_user('ben')")
        assert [row[2] for row in second.sql(ACCESS)] == [False, False]
        assert sales.world.sql(ACCESS) == before and sales.drift() == []
        for user in ("ann", "ben", "cleo"):
            assert reads(sales, user, "SELECT amount FROM sales.orders") == [(1,)], user
        second.admin.close()
    finally:
        sales.world.sql("DROP DATABASE second WITH (FORCE)")
        clean(sales.world)
        sales.world.sql("REVOKE data_owner FROM immuta_system")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_databases_in_other_encodings(world, connected, encoding):
    """Names travel into statements as the bytes that they are."""
    world.sql(f"CREATE DATABASE other_encoding ENCODING {encoding} TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        other = World(world.server, "other_encoding")
        other.admin.set_client_encoding("LATIN1" if encoding == "LATIN1" else "UTF8")
        other.sql("CREATE EXTENSION immuta_ext; CREATE SCHEMA \"sch\u00e9ma\"; CREATE TABLE \"sch\u00e9ma\".\"tabl\u00e9\" (a text);"
                  "GRANT USAGE ON SCHEMA \"sch\u00e9ma\" TO immuta_system WITH GRANT OPTION;"
                  "GRANT ALL ON \"sch\u00e9ma\".\"tabl\u00e9\" TO immuta_system WITH GRANT OPTION")
        other.sql("SELECT immuta.set_system_account('immuta_system'), immuta.register_schema('sch\u00e9ma')")
        other.sql("SELECT immuta.create_user('Jos\u00e9'), immuta.set_user_attribute('Jos\u00e9', 'r\u00e9gion', '{\u00e9t\u00e9}')")
        other.sql("SELECT immuta.create_subscription_policy('p', schemas => '{sch\u00e9ma}', attributes => '{\"r\u00e9gion\": \"\u00e9t\u00e9\"}')")
        assert other.sql("SELECT has_table_privilege(b.role, d.relation, 'SELECT'), role_name FROM immuta.subscriber b, immuta.data_source d") == [
            (True, "user_Jos\u00e9")]
        assert other.sql("SELECT * FROM immuta.drift()") == []
        other.sql("ALTER TABLE \"sch\u00e9ma\".\"tabl\u00e9\" OWNER TO immuta_system")
        other.sql("SELECT immuta.create_row_policy('\u00e9', '\"sch\u00e9ma\".\"tabl\u00e9\"', 'a = (SELECT immuta.user_attribute(''r\u00e9gion''))')")
        other.sql("INSERT INTO \"sch\u00e9ma\".\"tabl\u00e9\" VALUES ('\u00e9t\u00e9'), ('hiver')")
        service = world.connect(dbname="other_encoding")
        service.set_client_encoding("LATIN1" if encoding == "LATIN1" else "UTF8")
        impersonate(service, other.token("Jos\u00e9"))
        assert query(service, "SELECT a FROM \"sch\u00e9ma\".\"tabl\u00e9\"") == [("\u00e9t\u00e9",)]
        service.close()
        other.sql("SELECT immuta.unregister_schema('sch\u00e9ma')")
        other.sql("SELECT immuta.drop_user('Jos\u00e9')")
        other.sql("DROP EXTENSION immuta_ext")
        assert other.sql("SELECT count(*) FROM pg_event_trigger") == [(0,)]
        other.admin.close()
    finally:
        world.sql("DROP DATABASE other_encoding WITH (FORCE)")
