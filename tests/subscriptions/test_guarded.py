"""What a table hides by row policies or excluded columns is not shown by another relation before an administrator
says so: not by one of its name, a part of it, or a view of it.

Threats: 44 (docs/threats.md).
"""

import pytest
from conftest import VERSION, reads, refuses
from harness.world import query
from test_row_policies import ruled  # noqa: F401

COUNT = "SELECT count(*) FROM "


@pytest.fixture
def guarded(ruled):  # noqa: F811
    """Everybody reads the schema; of the orders nobody sees a row, of the customers nobody the ssn."""
    ruled.ddl("DROP VIEW sales.totals; CREATE TABLE sales.parts (a int) PARTITION BY LIST (a);"
              "CREATE TABLE sales.part PARTITION OF sales.parts FOR VALUES IN (1)")
    ruled.sql("SELECT immuta.create_subscription_policy('all', schemas => '{sales}', expression => 'true')")
    ruled.sql("SELECT immuta.create_row_policy('none', 'sales.orders', 'false'),"
              " immuta.create_row_policy('none', 'sales.parts', 'false'),"
              " immuta.register_data_source('sales.customers', exclude_columns => '{ssn}')")
    assert ruled.drift() == []
    ruled.owner.notices.clear()
    return ruled


# DDL, and what shows something by it.
SHOWS = [
    ("DROP TABLE sales.orders; CREATE TABLE sales.orders (a int)", "sales.orders"),
    ("DROP TABLE sales.customers; CREATE VIEW sales.customers AS SELECT 1 AS ssn", "sales.customers"),
    ("ALTER TABLE sales.orders RENAME TO old; CREATE TABLE sales.orders AS SELECT * FROM sales.old", "sales.orders"),
    ("ALTER TABLE sales.orders SET SCHEMA other; CREATE TABLE sales.orders AS SELECT * FROM other.orders", "sales.orders"),
    ("CREATE TABLE sales.new (a int); ALTER TABLE sales.orders RENAME TO old; ALTER TABLE sales.new RENAME TO orders",
     "sales.orders"),
    ("ALTER TABLE sales.parts DETACH PARTITION sales.part", "sales.part"),
    ("CREATE TABLE sales.more PARTITION OF sales.parts DEFAULT; ALTER TABLE sales.parts DETACH PARTITION sales.more",
     "sales.more"),
    ("CREATE TABLE other.more PARTITION OF sales.parts DEFAULT; ALTER TABLE sales.parts DETACH PARTITION other.more;"
     "ALTER TABLE other.more SET SCHEMA sales", "sales.more"),
    ("CREATE TABLE sales.child () INHERITS (sales.orders)", "sales.child"),
    ("CREATE TABLE other.child () INHERITS (sales.orders); ALTER TABLE other.child NO INHERIT sales.orders;"
     "ALTER TABLE other.child SET SCHEMA sales", "sales.child"),
    ("CREATE VIEW sales.seen AS SELECT * FROM sales.orders", "sales.seen"),
    ("CREATE VIEW sales.seen AS SELECT ssn FROM sales.customers", "sales.seen"),
    ("CREATE MATERIALIZED VIEW sales.seen AS SELECT * FROM sales.orders", "sales.seen"),
    ("CREATE VIEW other.under AS SELECT * FROM sales.orders; CREATE VIEW sales.seen AS SELECT * FROM other.under", "sales.seen"),
    ("CREATE VIEW sales.seen AS SELECT * FROM sales.part", "sales.seen"),
    ("CREATE VIEW sales.seen AS SELECT 1 AS id; CREATE OR REPLACE VIEW sales.seen AS SELECT id FROM sales.orders", "sales.seen"),
    ("CREATE TABLE sales.whole (id int, region text, amount int) PARTITION BY LIST (region);"
     "ALTER TABLE sales.orders DROP CONSTRAINT orders_pkey; ALTER TABLE sales.orders ALTER id DROP NOT NULL;"
     "ALTER TABLE sales.whole ATTACH PARTITION sales.orders DEFAULT", "sales.whole"),
]


@pytest.mark.parametrize("ddl, shows", SHOWS)
def test_it_is_held_until_it_is_confirmed(guarded, ddl, shows):
    guarded.ddl(ddl)
    assert any("is not confirmed" in n and "register_data_source" in n for n in guarded.owner.notices), guarded.owner.notices
    assert guarded.access("ann", shows) is None
    assert [(what, name) for what, name, _ in guarded.drift()] == [("not confirmed", shows)]
    state = "SELECT state FROM immuta.data_sources WHERE schema_name || '.' || table_name = %s"
    assert guarded.value(state, (shows,)).startswith("not confirmed: it ")
    why = "SELECT applies, detail ~ '^not confirmed: it ' FROM immuta.why('ann', %s) WHERE source = 'data source'"
    assert guarded.sql(why, (shows,)) == [(False, True)]
    with refuses("55000") as seen:
        guarded.sql("SELECT immuta.subscribe('ann', %s)", (shows,))
    assert "register_data_source" in seen.hint
    # Nothing that happens meanwhile confirms it.
    assert guarded.sql("SELECT * FROM immuta.sync()") == []
    guarded.sql("SELECT immuta.tag_data_source(%s, 'public')", (shows,))
    assert guarded.access("ann", shows) is None
    guarded.sql("SELECT immuta.register_data_source(%s)", (shows,))
    assert guarded.access("ann", shows) == "READ" and guarded.drift() == [] == guarded.sql(why, (shows,))


def test_what_takes_the_place_gets_rules_of_its_own(guarded):
    guarded.ddl("DROP TABLE sales.orders; CREATE TABLE sales.orders (a int); INSERT INTO sales.orders VALUES (1), (2)")
    guarded.sql("SELECT immuta.create_row_policy('one', 'sales.orders', 'a = 1')")
    assert guarded.access("ann", "sales.orders") is None
    guarded.sql("SELECT immuta.register_data_source('sales.orders')")
    assert reads(guarded, "ann", COUNT + "sales.orders") == [(1,)] and guarded.drift() == []


HARMLESS = [
    "CREATE TABLE sales.new (a int)",
    "CREATE VIEW sales.new AS SELECT name FROM sales.old",
    "CREATE TABLE other.orders (a int); ALTER TABLE other.orders RENAME TO new; ALTER TABLE other.new SET SCHEMA sales",
    "ALTER TABLE sales.orders RENAME TO moved; ALTER TABLE sales.moved RENAME TO orders; CREATE TABLE sales.new ()",
]


@pytest.mark.parametrize("ddl", HARMLESS)
def test_what_shows_nothing_is_not_held(guarded, ddl):
    guarded.ddl("CREATE TABLE sales.old (name text)")
    guarded.ddl(ddl)
    assert guarded.owner.notices == [] and guarded.access("ann", "sales.new") == "READ" and guarded.drift() == []


@pytest.mark.skipif(int(VERSION) < 15, reason="has no security invokers")
def test_a_security_invoker_is_not_held(guarded):
    guarded.ddl("CREATE VIEW sales.seen WITH (security_invoker) AS SELECT * FROM sales.orders")
    assert guarded.access("ann", "sales.seen") == "READ" and guarded.drift() == []
    assert reads(guarded, "ann", COUNT + "sales.seen") == [(0,)]
    guarded.ddl("ALTER VIEW sales.seen SET (security_invoker = off)")
    assert guarded.access("ann", "sales.seen") is None


def test_the_name_is_free_again_with_the_schema(guarded):
    guarded.ddl("DROP TABLE sales.orders")
    guarded.world.sql("ALTER SCHEMA sales RENAME TO moved")
    guarded.ddl("CREATE TABLE moved.orders (a int)")
    assert guarded.access("ann", "moved.orders") is None
    guarded.world.sql("ALTER SCHEMA moved RENAME TO sales")
    guarded.sql("SELECT immuta.unregister_schema('sales'); SELECT immuta.register_schema('sales')")
    assert guarded.value("SELECT state FROM immuta.data_sources WHERE table_name = 'orders'") == "ok"


def test_what_was_there_before_is_told(ruled):  # noqa: F811
    """It goes on being granted: drift() lists it."""
    ruled.ddl("CREATE TABLE sales.child () INHERITS (sales.orders)")
    ruled.sql("SELECT immuta.create_subscription_policy('all', schemas => '{sales}', expression => 'true')")
    ruled.system.notices.clear()
    ruled.sql("SELECT immuta.create_row_policy('none', 'sales.orders', 'false')")
    assert any("shown by sales.child, sales.totals" in n for n in ruled.system.notices), ruled.system.notices
    shown = [("not confirmed", f"sales.{name}", "it shows what is hidden of sales.orders") for name in ("child", "totals")]
    assert ruled.drift() == shown
    assert ruled.access("ann", "sales.totals") == ruled.access("ann", "sales.child") == "READ"
    # Harmless DDL does not take it away, a view that may have become another one is held.
    ruled.ddl("ALTER TABLE sales.orders ADD COLUMN note text; ALTER VIEW sales.totals RENAME TO sums")
    assert ruled.access("ann", "sales.child") == "READ" and ruled.access("ann", "sales.sums") is None
    ruled.system.notices.clear()
    ruled.sql("SELECT immuta.register_data_source('sales.sums'), immuta.register_data_source('sales.child')")
    assert sum("are not restricted by row policies" in n for n in ruled.system.notices) == 2
    assert ruled.drift() == [] and ruled.access("ann", "sales.sums") == "READ"
    # Confirmed is what it showed then.
    ruled.sql("SELECT immuta.create_row_policy('none', 'sales.customers', 'false')")
    ruled.ddl("CREATE OR REPLACE VIEW sales.sums AS SELECT region, sum(amount) AS amount FROM sales.orders, sales.customers GROUP BY 1")
    assert ruled.access("ann", "sales.sums") is None


def test_it_is_found_without_the_triggers(guarded):
    guarded.world.sql("SET session_replication_role = replica; SET ROLE data_owner;"
                      "DROP TABLE sales.orders; CREATE TABLE sales.orders (a int); CREATE VIEW sales.seen AS SELECT * FROM sales.parts;"
                      "ALTER TABLE sales.parts DETACH PARTITION sales.part; RESET ROLE; RESET session_replication_role")
    guarded.sql("SELECT * FROM immuta.sync()")
    assert {d[:2] for d in guarded.drift()} == {("not confirmed", f"sales.{n}") for n in ("orders", "seen", "part")}


@pytest.mark.parametrize("hiding, other", [("one", "two"), ("two", "one")])
def test_tables_that_changed_their_names(guarded, hiding, other):
    """Seen only when both have done so, in whichever order they are looked at."""
    guarded.ddl("CREATE TABLE sales.one (a int); CREATE TABLE sales.two (a int)")
    guarded.sql("SELECT immuta.create_row_policy('none', %s, 'false')", (f"sales.{hiding}",))
    guarded.world.sql("SET session_replication_role = replica; ALTER TABLE sales.one RENAME TO x; ALTER TABLE sales.two RENAME TO one;"
                      "ALTER TABLE sales.x RENAME TO two; RESET session_replication_role")
    guarded.sql("SELECT * FROM immuta.sync()")
    assert [d[:2] for d in guarded.drift()] == [("not confirmed", f"sales.{hiding}")]
    assert guarded.access("ann", f"sales.{hiding}") is None
    assert reads(guarded, "ann", COUNT + f"sales.{other}") == [(0,)]


def test_others_ddl_is_left_alone(guarded):
    """Who may not even see the extension's tables makes views and parts of their own."""
    guarded.world.sql("GRANT CREATE, USAGE ON SCHEMA other, sales TO plain")
    plain = guarded.login("plain", "plain-password")
    query(plain, "CREATE TABLE other.mine (a int) PARTITION BY LIST (a); CREATE TABLE other.mine1 PARTITION OF other.mine DEFAULT;"
                 "ALTER TABLE other.mine DETACH PARTITION other.mine1; CREATE VIEW sales.mine AS SELECT * FROM other.mine;"
                 "DROP TABLE other.mine CASCADE; CREATE TABLE sales.orders2 (a int); DROP TABLE sales.orders2, other.mine1")
    assert plain.notices == ["NOTICE:  drop cascades to view sales.mine\n"] and guarded.drift() == []


# A member of a role may do this in its name: of the role that row policies are for, and of those that hold the grants.
TAKES_OFF = ["DROP OWNED BY immuta_subscriber", "DROP OWNED BY {user}, {access}"]
LEAVES_BEHIND = ["REASSIGN OWNED BY {user} TO {access}", "ALTER FUNCTION own.reads() OWNER TO {access}",
                 "ALTER FUNCTION own.reads() OWNER TO immuta_subscriber", "ALTER TABLE own.t OWNER TO {access}",
                 "ALTER SCHEMA own OWNER TO {access}", "CREATE SCHEMA AUTHORIZATION {access}",
                 "ALTER DEFAULT PRIVILEGES FOR ROLE {access} GRANT SELECT ON TABLES TO PUBLIC",
                 "DO $$ BEGIN EXECUTE 'ALTER TABLE own.t OWNER TO {access}'; END $$"]


@pytest.fixture
def member(ruled):  # noqa: F811
    """ann, by a policy a member of a role that holds the grants, and of the rows sees those of the EU."""
    ruled.ddl("DROP VIEW sales.totals")
    ruled.sql("SELECT immuta.create_subscription_policy('all', schemas => '{sales}', expression => 'true')")
    ruled.sql("SELECT immuta.create_row_policy('eu', 'sales.orders', $$ region = 'EU' $$)")
    names = {"user": ruled.role("ann"), "access": ruled.world.value("SELECT role::regrole::text FROM immuta.access_class WHERE role IS NOT NULL")}
    ruled.world.sql(f"CREATE SCHEMA own AUTHORIZATION {names['user']}; GRANT CREATE ON DATABASE immuta TO {names['access']}")
    token = ruled.world.token("ann")
    ruled.world.sql(f"SET ROLE {names['user']}; CREATE TABLE own.t (a int); CREATE FUNCTION own.reads() RETURNS bigint LANGUAGE sql "
                    f"SECURITY DEFINER AS 'SELECT count(*) FROM sales.orders'; GRANT CREATE, USAGE ON SCHEMA own TO {names['access']}; RESET ROLE")
    yield ruled, names, token
    ruled.world.sql(f"DROP SCHEMA own CASCADE; REVOKE CREATE ON DATABASE immuta FROM {names['access']}")


def test_members_do_nothing_in_the_name_of_the_roles_that_they_share(member):
    office, names, token = member
    service = office.world.connect()
    try:
        for statement in TAKES_OFF + LEAVES_BEHIND:
            query(service, "SET LOCAL bodata.impersonation_token = %s", (token,))
            with refuses("42501", "IMPERSONATION_ACTIVE"):
                query(service, statement.format(**names))
            service.rollback()
    finally:
        service.close()
    assert reads(office, "ann", COUNT + "sales.orders") == [(2,)]
    assert office.drift() == []


def test_neither_do_logins_drop_what_they_share(member):
    """Of a role that may log in, or is set by one that may: there is no token."""
    office, names, _ = member
    for statement in TAKES_OFF:
        office.world.sql("BEGIN")
        try:
            office.world.sql(f"SET LOCAL SESSION AUTHORIZATION {names['user']}")
            with refuses("42501") as seen:
                office.world.sql(statement.format(**names))
            assert "row policies" in seen.message
        finally:
            office.world.sql("ROLLBACK")
    assert office.drift() == []
