"""Registered tables and schemas, and object sync: what DDL does to data sources and grants, in its own transaction.

Threats: 42 (docs/threats.md).
"""

import psycopg2
import pytest
from conftest import VERSION, reads, refuses
from harness.world import World, impersonate, query

NAMES = "SELECT schema_name || '.' || table_name FROM immuta.data_sources"


def names(office):
    return [n for n, in office.sql(NAMES)]


@pytest.fixture
def everybody(sales):
    """Everybody reads all of the schema."""
    sales.sql("SELECT immuta.create_subscription_policy('all', schemas => '{sales}', expression => 'true')")
    return sales


def test_the_view_and_the_tree(sales):
    sales.sql("SELECT immuta.register_data_source('sales.orders', '{public,money}')")
    row = sales.sql("SELECT host, database_name, schema_name, table_name, kind, owner, columns, tags, by_schema, state "
                    "FROM immuta.data_sources WHERE table_name = 'orders'")
    assert row == [("127.0.0.1", "immuta", "sales", "orders", "table", "data_owner", ["id", "region", "amount"], ["money", "public"],
                    False, "ok")]
    assert sales.sql("SELECT level, tree, kind FROM immuta.data_source_tree") == [
        (1, "127.0.0.1", "host"), (2, "  immuta", "database"), (3, "    sales", "schema"),
        (4, "      customers", "table"), (4, "      orders", "table"), (4, "      totals", "view")]
    assert [n for n, in sales.sql("SELECT schema_name FROM immuta.registered_schemas()")] == ["sales"]


def test_tables_of_the_extension_are_none(sales):
    sales.sql("SET quote_all_identifiers = on")
    try:
        for table in ("immuta.token", "pg_catalog.pg_authid"):
            with pytest.raises(psycopg2.Error, match="belongs to the system"):
                sales.sql("SELECT immuta.register_data_source(%s)", (table,))
    finally:
        sales.sql("RESET quote_all_identifiers")


CHANGES = [
    ("CREATE TABLE sales.new (a int)", {"sales.new"}),
    ("CREATE TABLE sales.new AS SELECT 1 AS a", {"sales.new"}),
    ("SELECT 1 AS a INTO sales.new", {"sales.new"}),
    ("CREATE VIEW sales.new AS SELECT 1 AS a", {"sales.new"}),
    ("CREATE MATERIALIZED VIEW sales.new AS SELECT 1 AS a", {"sales.new"}),
    ("CREATE TABLE other.new (a int); ALTER TABLE other.new SET SCHEMA sales", {"sales.new"}),
    ('CREATE TABLE sales."a\'b""; DROP SCHEMA sales CASCADE; --" (a int)', {"sales.a'b\"; DROP SCHEMA sales CASCADE; --"}),
    ("CREATE TABLE sales.parts (a int) PARTITION BY LIST (a); CREATE TABLE sales.part PARTITION OF sales.parts FOR VALUES IN (1)",
     {"sales.parts"}),
    ("CREATE TABLE sales.parts (a int) PARTITION BY LIST (a); CREATE TABLE sales.part (a int);"
     "ALTER TABLE sales.parts ATTACH PARTITION sales.part FOR VALUES IN (1)", {"sales.parts"}),
    ("CREATE TABLE sales.parts (a int) PARTITION BY LIST (a); CREATE TABLE sales.part PARTITION OF sales.parts FOR VALUES IN (1);"
     "ALTER TABLE sales.parts DETACH PARTITION sales.part", {"sales.parts", "sales.part"}),
    ("CREATE TABLE other.new (a int)", set()),
    ("CREATE TEMP TABLE new (a int)", set()),
    ("CREATE TABLE sales.new (a int); DROP TABLE sales.new", set()),
    ("CREATE TABLE sales.new (a int); ALTER TABLE sales.new RENAME TO newer", {"sales.newer"}),
    ("CREATE TABLE sales.new (a int); ALTER TABLE sales.new SET SCHEMA other", set()),
    ("CREATE TABLE sales.parent (a int); CREATE TABLE sales.child () INHERITS (sales.parent)", {"sales.parent", "sales.child"}),
    ("CREATE UNLOGGED TABLE sales.new (a int)", {"sales.new"}),
    ("DO $$ BEGIN FOR i IN 1..3 LOOP EXECUTE 'CREATE TABLE sales.n' || i || ' ()'; END LOOP; END $$",
     {"sales.n1", "sales.n2", "sales.n3"}),
]


@pytest.mark.parametrize("ddl, added", CHANGES)
def test_ddl_is_followed(everybody, ddl, added):
    before = set(names(everybody))
    everybody.ddl(ddl)
    assert set(names(everybody)) - before == added
    assert everybody.drift() == []
    for name in added:
        relation = everybody.world.value("SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
                                         "WHERE nspname || '.' || relname = %s", (name,))
        assert everybody.access("ann", relation) == "READ", name
    everybody.ddl("DROP TABLE IF EXISTS pg_temp.new")


def test_names_are_followed(everybody):
    everybody.sql("SELECT immuta.subscribe('ann', 'sales.orders', 'WRITE')")
    everybody.ddl("ALTER TABLE sales.orders RENAME TO sold")
    assert everybody.access("ann", "sales.sold") == "WRITE" and "sales.sold" in names(everybody)
    everybody.world.sql("ALTER SCHEMA sales RENAME TO moved")
    assert names(everybody) == ["moved.customers", "moved.sold", "moved.totals"]
    assert everybody.sql("SELECT schemas FROM immuta.subscription_policies") == [(["moved"],)]
    assert everybody.access("ann", "moved.sold") == "WRITE" and everybody.access("ann", "moved.customers") == "READ"
    assert everybody.drift() == []
    everybody.world.sql("ALTER SCHEMA moved RENAME TO sales")
    assert everybody.drift() == []


def test_moved_out_and_dropped(everybody):
    everybody.sql("SELECT immuta.subscribe('ann', 'sales.orders', 'WRITE')")
    role = everybody.role("ann")
    everybody.ddl("ALTER TABLE sales.orders SET SCHEMA other")
    assert not everybody.world.value("SELECT has_table_privilege(%s, 'other.orders', 'SELECT')", (role,))
    assert everybody.sql("SELECT * FROM immuta.subscriptions") == []
    everybody.ddl("DROP VIEW sales.totals; DROP TABLE sales.customers")
    assert names(everybody) == []
    assert everybody.world.value("SELECT count(*) FROM immuta.grant_made") == 0
    assert everybody.world.value("SELECT count(*) FROM immuta.access_class") == 0
    assert not everybody.world.value("SELECT has_schema_privilege(%s, 'sales', 'USAGE')", (role,))


def test_a_dropped_schema(everybody):
    everybody.world.sql("DROP SCHEMA sales CASCADE")
    assert names(everybody) == [] and everybody.sql("SELECT * FROM immuta.registered_schemas()") == []
    assert everybody.sql("SELECT schemas FROM immuta.subscription_policies") == [([],)]
    # One of the same name is another one.
    everybody.world.sql("CREATE SCHEMA sales AUTHORIZATION data_owner; CREATE TABLE sales.t ()")
    assert names(everybody) == [] and everybody.drift() == []


def test_a_table_registered_by_itself_goes_where_it_wants(sales):
    sales.sql("SELECT immuta.register_data_source('sales.orders'), immuta.subscribe('ann', 'sales.orders')")
    sales.ddl("ALTER TABLE sales.orders SET SCHEMA other")
    assert "other.orders" in names(sales) and sales.access("ann", "other.orders") == "READ"
    assert not sales.world.value("SELECT has_schema_privilege('user_ann', 'sales', 'USAGE')")
    assert sales.value("SELECT immuta.unregister_data_source('other.orders')") is True
    assert sales.access("ann", "other.orders") is None and sales.drift() == []
    assert sales.value("SELECT immuta.unregister_data_source('other.orders')") is False


def test_unregistering_a_schema(everybody):
    everybody.sql("SELECT immuta.subscribe('ann', 'sales.orders', 'WRITE')")
    assert everybody.value("SELECT immuta.unregister_schema('sales')") is True
    assert names(everybody) == [] and everybody.access("ann", "sales.orders") is None
    assert everybody.value("SELECT immuta.unregister_schema('sales')") is False


def test_ddl_and_sync_roll_back_together(everybody):
    everybody.owner.autocommit = False
    everybody.ddl("CREATE TABLE sales.new (a int)")
    assert "sales.new" in [n for n, in query(everybody.owner, "SELECT n.nspname || '.' || relname FROM pg_class c JOIN pg_namespace n "
                                             "ON n.oid = relnamespace, aclexplode(relacl) WHERE grantee::regrole::text LIKE 'immuta_access%'")]
    everybody.owner.rollback()
    everybody.owner.autocommit = True
    assert "sales.new" not in names(everybody) and everybody.drift() == []


def test_sequences_of_new_columns(sales):
    sales.sql("SELECT immuta.subscribe('ann', 'sales.customers', 'WRITE')")
    may = "SELECT has_sequence_privilege('user_ann', %s, 'USAGE')"
    sales.ddl("ALTER TABLE sales.customers ADD COLUMN number serial")
    assert sales.world.value(may, ("sales.customers_number_seq",))
    sales.ddl("CREATE SEQUENCE sales.own; ALTER TABLE sales.customers ALTER COLUMN id SET DEFAULT nextval('sales.own')")
    assert sales.world.value(may, ("sales.own",))
    sales.ddl("ALTER TABLE sales.customers ALTER COLUMN id DROP DEFAULT")
    assert not sales.world.value(may, ("sales.own",))
    sales.ddl("ALTER TABLE sales.customers DROP COLUMN number")
    sales.ddl("ALTER TABLE sales.customers ADD COLUMN i int GENERATED ALWAYS AS IDENTITY")
    service = sales.world.connect()
    impersonate(service, sales.world.token("ann"))
    query(service, "INSERT INTO sales.customers (id) VALUES (7)")
    service.close()
    assert sales.drift() == []


def test_a_default_reaches_no_sequence_of_others(sales):
    sales.world.sql("CREATE SEQUENCE sales.foreigners; GRANT USAGE ON SEQUENCE sales.foreigners TO immuta_system WITH GRANT OPTION")
    sales.sql("SELECT immuta.subscribe('ann', 'sales.customers', 'WRITE')")
    sales.ddl("ALTER TABLE sales.customers ALTER COLUMN id SET DEFAULT nextval('sales.foreigners')")
    assert not sales.world.value("SELECT has_sequence_privilege('user_ann', 'sales.foreigners', 'USAGE')")
    assert sales.access("ann", "sales.customers") == "WRITE" and sales.drift() == []


def test_ddl_of_somebody_without_any_rights(everybody):
    """Of a user under a token, too: the sync is not done on their rights."""
    everybody.world.sql("GRANT CREATE, USAGE ON SCHEMA sales TO plain")
    plain = everybody.login("plain", "plain-password")
    query(plain, "CREATE TABLE sales.plains (a int)")
    assert "sales.plains" in names(everybody)
    assert everybody.sql("SELECT state FROM immuta.data_sources WHERE table_name = 'plains'")[0][0].startswith("not grantable")
    query(plain, "DROP TABLE sales.plains")
    everybody.world.sql("GRANT CREATE ON SCHEMA sales TO user_ann")
    service = everybody.world.connect()
    impersonate(service, everybody.world.token("ann"))
    query(service, "CREATE TABLE sales.anns (a int)")
    query(service, "GRANT ALL ON sales.anns TO immuta_system WITH GRANT OPTION")
    assert query(service, "SELECT current_user::text, count(*) FROM sales.anns GROUP BY 1") == []
    with refuses("42501"):
        query(service, "SET ROLE immuta_system")
    service.rollback()
    impersonate(service, everybody.world.token("ann"))
    query(service, "CREATE TABLE sales.anns (a int)")
    service.commit()
    service.close()
    assert "sales.anns" in names(everybody)
    everybody.world.sql("DROP TABLE sales.anns; REVOKE ALL ON SCHEMA sales FROM plain, user_ann")


def test_ddl_does_not_fail_with_us(everybody):
    """Without a system account that could grant there is a table, and a warning."""
    everybody.world.sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    everybody.world.sql("ALTER TABLE immuta.grant_made ADD CONSTRAINT broken CHECK (false) NOT VALID")
    try:
        everybody.owner.notices.clear()
        everybody.ddl("CREATE TABLE sales.new (a int)")
        assert any("not in step" in n for n in everybody.owner.notices)
    finally:
        everybody.world.sql("ALTER TABLE immuta.grant_made DROP CONSTRAINT broken")
        everybody.world.sql("GRANT CREATE ON SCHEMA public TO PUBLIC")
    assert ("data source missing", "sales.new", "its schema is registered") in everybody.drift()
    # Whatever changes next makes up for it.
    everybody.sql("SELECT immuta.create_user('next')")
    assert everybody.access("ann", "sales.new") == "READ" and everybody.drift() == []


def test_event_triggers_begin_with_the_first_change(sales):
    states = "SELECT array_agg(format('%s %s', evtname, evtenabled) ORDER BY evtname) FROM pg_event_trigger"
    sales.world.sql("CREATE DATABASE quiet")
    try:
        quiet = World(sales.world.server, "quiet")
        quiet.sql("CREATE EXTENSION immuta_ext; CREATE SCHEMA here; GRANT USAGE ON SCHEMA here TO immuta_system WITH GRANT OPTION")
        assert quiet.value(states) == ["immuta_before D", "immuta_ddl D", "immuta_drop D"]
        quiet.sql("SELECT immuta.set_system_account('immuta_system'); SELECT immuta.register_schema('here')")
        assert quiet.value(states) == ["immuta_before O", "immuta_ddl O", "immuta_drop O"]
        # Whoever switches them off has a reason.
        quiet.sql("ALTER EVENT TRIGGER immuta_ddl DISABLE; CREATE TABLE here.unseen (a int)")
        assert quiet.sql("SELECT what FROM immuta.drift()") == [("data source missing",)]
        assert quiet.sql("SELECT what FROM immuta.doctor() d(what, ok, todo) WHERE NOT ok AND what = 'DDL is watched'")
        quiet.sql("SELECT * FROM immuta.sync()")
        assert quiet.sql("SELECT * FROM immuta.drift()") == []
        assert quiet.value(states) == ["immuta_before O", "immuta_ddl D", "immuta_drop O"]
        quiet.admin.close()
    finally:
        sales.world.sql("DROP DATABASE quiet WITH (FORCE)")


def test_sync_makes_up_for_what_the_triggers_missed(everybody):
    everybody.sql("SELECT immuta.subscribe('ann', 'sales.orders', 'WRITE')")
    everybody.world.sql("SET session_replication_role = replica")
    try:
        everybody.world.sql("SET ROLE data_owner; CREATE TABLE sales.new (a int); ALTER TABLE sales.orders RENAME TO sold;"
                            "DROP VIEW sales.totals; ALTER TABLE sales.customers SET SCHEMA other; RESET ROLE")
    finally:
        everybody.world.sql("RESET session_replication_role")
    assert {d[:2] for d in everybody.drift()} >= {("data source missing", "sales.new"), ("data source changed", "sales.orders"),
                                                  ("data source changed", "sales.totals"), ("data source changed", "sales.customers")}
    changed = everybody.sql("SELECT * FROM immuta.sync()")
    assert {c[:2] for c in changed} >= {("data source added", "sales.new"), ("data source changed", "sales.sold"),
                                        ("data source removed", "sales.totals"), ("data source removed", "sales.customers")}
    assert names(everybody) == ["sales.new", "sales.sold"]
    assert everybody.access("ann", "sales.sold") == "WRITE" and everybody.access("ann", "sales.new") == "READ"
    assert everybody.access("ann", "other.customers") is None
    assert everybody.drift() == [] and everybody.sql("SELECT * FROM immuta.sync()") == []


def test_what_comes_with_an_extension_is_not_registered(everybody):
    everybody.world.sql("CREATE EXTENSION pg_stat_statements SCHEMA sales")
    assert "sales.pg_stat_statements" not in names(everybody)
    everybody.world.sql("DROP EXTENSION pg_stat_statements")


def test_a_partition_is_not_registered(sales):
    sales.ddl("CREATE TABLE other.parts (a int) PARTITION BY LIST (a); CREATE TABLE other.part PARTITION OF other.parts DEFAULT")
    with refuses("42809") as seen:
        sales.sql("SELECT immuta.register_data_source('other.part')")
    assert "partition" in seen.message


def test_membership_by_hand_is_drift_and_stays(everybody):
    cls = everybody.world.value("SELECT role_name FROM immuta.access_class")
    everybody.sql(f"GRANT {cls} TO plain")
    assert everybody.drift() == [("membership by hand", f"ROLE {cls}", "of plain")]
    everybody.sql(f"REVOKE {cls} FROM {everybody.role('ann')}")
    assert ("membership missing", f"ROLE {cls}", "of user_ann") in everybody.drift()
    assert everybody.sql("SELECT * FROM immuta.sync()") == [("granted", f"ROLE {cls}", "to user_ann")]
    assert everybody.drift() == [("membership by hand", f"ROLE {cls}", "of plain")]
    everybody.sql(f"REVOKE {cls} FROM plain")


def test_a_lost_class_role_is_made_again(everybody):
    cls = everybody.world.value("SELECT role_name FROM immuta.access_class")
    everybody.world.sql(f"SET ROLE immuta_system; REVOKE ALL ON ALL TABLES IN SCHEMA sales FROM {cls}; "
                        f"REVOKE ALL ON SCHEMA sales FROM {cls}; RESET ROLE; DROP ROLE {cls}")
    assert everybody.access("ann", "sales.orders") is None
    assert ("role lost", f"ROLE {cls}", None) in everybody.sql("SELECT * FROM immuta.sync()")
    assert everybody.access("ann", "sales.orders") == "READ" and everybody.drift() == []


def test_another_system_account(everybody):
    everybody.sql("SELECT immuta.subscribe('ann', 'sales.orders', 'WRITE'), immuta.register_data_source('sales.customers', exclude_columns => '{ssn}')")
    everybody.world.sql("CREATE ROLE second CREATEROLE; GRANT ALL ON ALL TABLES IN SCHEMA sales TO second WITH GRANT OPTION;"
                        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA sales TO second WITH GRANT OPTION;"
                        "GRANT USAGE ON SCHEMA sales TO second WITH GRANT OPTION")
    everybody.world.sql("SELECT immuta.set_system_account('second')")
    grantors = ("SELECT DISTINCT grantor::regrole::text FROM pg_class c, aclexplode(relacl) WHERE relnamespace = 'sales'::regnamespace "
                "AND (grantee::regrole::text LIKE 'immuta_access%' OR grantee = 'user_ann'::regrole)")
    assert everybody.world.sql(grantors) == [("second",)]
    assert everybody.access("ann", "sales.orders") == "WRITE" and everybody.drift() == []
    everybody.world.sql("SELECT immuta.set_system_account('immuta_system')")
    assert everybody.world.sql(grantors) == [("immuta_system",)]
    assert everybody.access("ann", "sales.orders") == "WRITE" and everybody.drift() == []
    everybody.sql("SELECT immuta.unsubscribe('ann', 'sales.orders'), immuta.drop_subscription_policy('all')")
    assert everybody.access("ann", "sales.orders") is None
    everybody.world.sql("DROP OWNED BY second; DROP ROLE second")


KINDS = ["STORED"] + (["VIRTUAL"] if int(VERSION) >= 18 else [])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_computed_from_an_excluded_column_is_excluded_with_it(office, kind):
    office.ddl(f"CREATE TABLE other.t (a int, b text, g text GENERATED ALWAYS AS ('g:' || b) {kind}, "
               f"h int GENERATED ALWAYS AS (a + 1) {kind})")
    office.sql("SELECT immuta.create_user('ann')")
    office.sql("SELECT immuta.register_data_source('other.t', exclude_columns => '{b}'), immuta.subscribe('ann', 'other.t')")
    may = "SELECT string_agg(c, '' ORDER BY c) FROM unnest('{a,b,g,h}'::text[]) c WHERE has_column_privilege('user_ann', 'other.t', c, 'SELECT')"
    assert office.world.value(may) == "ah"
    assert office.value("SELECT excluded_columns::text[] FROM immuta.data_sources") == ["b", "g"]
    assert office.drift() == []
    # One that comes later, too.
    office.ddl(f"ALTER TABLE other.t ADD i text GENERATED ALWAYS AS (upper(b)) {kind}")
    assert office.world.value(may.replace(",h", ",h,i")) == "ah" and office.drift() == []
    office.sql("SELECT immuta.register_data_source('other.t', exclude_columns => '{}')")
    assert office.world.value(may) == "abgh"


def test_a_computed_column_that_was_granted_before_is_drift(office):
    """As after an update of this extension."""
    office.ddl("CREATE TABLE other.t (a int, b text, g text GENERATED ALWAYS AS ('g:' || b) STORED)")
    office.sql("SELECT immuta.create_user('ann')")
    office.sql("SELECT immuta.register_data_source('other.t', exclude_columns => '{b}'), immuta.subscribe('ann', 'other.t')")
    office.world.sql("UPDATE immuta.data_source SET excluded_columns = '{b}', excluded_numbers = '{2}'")
    assert ("data source changed", "other.t", "it is other.t now, or its columns changed") in office.drift()
    office.sql("SELECT * FROM immuta.sync()")
    assert office.drift() == []
    assert office.value("SELECT excluded_columns::text[] FROM immuta.data_sources") == ["b", "g"]


def test_a_partition_may_compute_a_column_otherwise(office):
    if int(VERSION) < 16:
        pytest.skip("all partitions compute it alike")
    office.ddl("CREATE TABLE other.p (a int, b int, g int GENERATED ALWAYS AS (a) STORED) PARTITION BY LIST (a);"
               "CREATE TABLE other.p1 (a int, b int, g int GENERATED ALWAYS AS (b) STORED);"
               "ALTER TABLE other.p ATTACH PARTITION other.p1 FOR VALUES IN (1)")
    office.sql("SELECT immuta.register_data_source('other.p', exclude_columns => '{b}')")
    assert office.value("SELECT excluded_columns::text[] FROM immuta.data_sources") == ["b", "g"]
