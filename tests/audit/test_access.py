"""Whoever changes who has access to what is on record, with what was said before and is said now: once it is committed, and
only then."""

import psycopg2
import pytest
from conftest import Trail, audited_server, schema, world_of
from harness.world import impersonate, query

SQL = """
CREATE ROLE immuta_system LOGIN PASSWORD 'system-password' CREATEROLE IN ROLE immuta_admin;
CREATE SCHEMA sales AUTHORIZATION immuta_system;
CREATE TABLE sales.orders (id int, region text); CREATE TABLE sales.customers (id int);
ALTER TABLE sales.orders OWNER TO immuta_system; ALTER TABLE sales.customers OWNER TO immuta_system;
CREATE ROLE spare NOLOGIN; GRANT immuta_mappable TO spare;
SELECT immuta.set_system_account('immuta_system');
"""


@pytest.fixture(scope="module")
def office(world):
    """The system account's connection."""
    for statement in SQL.strip().split(";\n"):
        world.sql(statement)
    connection = world.connect("immuta_system", "system-password")
    connection.autocommit = True
    for table in ("orders", "customers"):
        query(connection, f"SELECT immuta.register_data_source('sales.{table}')")
    query(connection, "SELECT immuta.create_user('ann'), immuta.create_user('ben')")
    yield connection
    connection.close()


@pytest.fixture(autouse=True)
def no_rules(world):
    yield
    world.sql("DELETE FROM immuta.impersonation_rule")


def said(record):
    payload = record["auditPayload"]
    return (record["action"], payload["changed"], (payload["user"] or {}).get("id"), [t["name"] for t in record["targets"]],
            payload["before"], payload["after"])


def state(name, access="READ", reason=None, until=None):
    return {"access": access, "state": name, "reason": reason, "valid_until": until}


ORDERS = ["sales.orders"]

# What an administrator does, and what is on record of it: what becomes of what, whose, of which data source, before, after.
DECISIONS = [
    ("subscribe('ann', 'sales.orders')", ("CREATE", "SUBSCRIPTION", "ann", ORDERS, None, state("approved"))),
    ("subscribe('ann', 'sales.orders', 'WRITE')", ("UPDATE", "SUBSCRIPTION", "ann", ORDERS, state("approved"), state("approved", "WRITE"))),
    ("unsubscribe('ann', 'sales.orders')", ("DELETE", "SUBSCRIPTION", "ann", ORDERS, state("approved", "WRITE"), None)),
    ("request_subscription('ann', 'sales.orders', reason => 'May')",
     ("CREATE", "SUBSCRIPTION", "ann", ORDERS, None, state("requested", reason="May"))),
    ("deny_subscription('ann', 'sales.orders', reason => 'no')",
     ("UPDATE", "SUBSCRIPTION", "ann", ORDERS, state("requested", reason="May"), state("denied", reason="no"))),
    ("approve_subscription('ann', 'sales.orders')",
     ("UPDATE", "SUBSCRIPTION", "ann", ORDERS, state("denied", reason="no"), state("approved", reason="no"))),
    ("set_user_attribute('ann', 'region', '{EU}')",
     ("CREATE", "USER_PROFILE", "ann", [], None, {"groups": [], "attributes": {"region": ["EU"]}})),
    ("create_row_policy('own', 'sales.orders', $$region = 'EU'$$)",
     ("CREATE", "ROW_POLICY", None, ORDERS, None, {"name": "own", "expression": "region = 'EU'"})),
    ("drop_row_policy('own', 'sales.orders')",
     ("DELETE", "ROW_POLICY", None, ORDERS, {"name": "own", "expression": "region = 'EU'"}, None)),
    ("create_masking_policy('hidden', 'null', columns => '{sales.orders.region}')", ("CREATE", "MASKING_POLICY", None, [], None, "method")),
    ("drop_masking_policy('hidden')", ("DELETE", "NAMED_COLUMN", None, ORDERS, "policies", None)),
    ("disable_user('ben')", ("UPDATE", "USER_ACCOUNT", "ben", [], "disabled", "disabled")),
    ("add_impersonation_rule('nobody', 'x*', false)",
     ("CREATE", "IMPERSONATION_RULE", None, [], None, {"impersonator": "nobody", "users": "x*", "allow": False, "iamid": "*",
                                                       "client_addr": None, "actors": "*"})),
    ("map_issuer('https://id', 'Okta')", ("CREATE", "TOKEN_ISSUER", None, [], None, "issuer")),
    ("register_data_source('sales.orders', exclude_columns => '{region}')", ("UPDATE", "DATA_SOURCE", None, ORDERS, "excluded_columns", "excluded_columns")),
]


@pytest.mark.parametrize("call,expected", DECISIONS, ids=[call for call, _ in DECISIONS])
def test_what_an_administrator_decides(world, office, trail, call, expected):
    query(office, f"SELECT immuta.{call}")
    records = trail.new()
    record = next(r for r in records if said(r)[:4] == expected[:4])
    for seen, wanted in zip(said(record)[4:], expected[4:]):
        assert wanted in seen if isinstance(wanted, str) else seen == wanted
    assert record["actor"] == {"type": "USER_ACTOR", "id": None, "name": None, "identityProvider": None,
                               "impersonatedBy": "immuta_system"}
    assert record["auditPayload"]["technologyContext"]["transactionId"] > 0
    assert all(r["auditPayload"]["type"] == "AccessAuditPayload" for r in records)


def test_a_policy_and_whom_it_names(office, trail):
    query(office, "SELECT immuta.create_subscription_policy('eu', data_sources => '{sales.orders}', attributes => '{\"region\": [\"EU\"]}')")
    made = said(trail.new()[-1])[5]
    assert (made["name"], made["data_sources"], made["attributes"]) == ("eu", ORDERS, {"region": ["EU"]})
    query(office, "SELECT * FROM immuta.preview_policy('eu', data_sources => '{sales.orders}', groups => '{x}')")
    assert trail.new() == [], "a preview is no change"
    query(office, "SELECT immuta.drop_subscription_policy('eu')")
    assert said(trail.new()[0])[:2] == ("DELETE", "SUBSCRIPTION_POLICY")


def test_a_user_asks_and_time_decides(world, office, trail):
    """A request is the user's own; what lapsed or ended is told by the next record."""
    query(office, "SELECT immuta.subscribe('ann', 'sales.orders')")
    trail.new_from_here()
    service = world.connect()
    impersonate(service, world.token("ann"))
    query(service, "SELECT immuta.request_my_subscription('sales.customers', reason => 'mine')")
    assert [r for r in trail.new() if r["action"] == "CREATE"] == [], "not committed"
    service.commit()
    (record,) = [r for r in trail.new() if r["action"] == "CREATE"]
    assert said(record)[1:4] == ("SUBSCRIPTION", "ann", ["sales.customers"])
    assert (record["actor"]["id"], record["actor"]["impersonatedBy"]) == ("ann", "svc")
    service.close()
    world.sql("ALTER TABLE immuta.subscription DISABLE TRIGGER access_changes")
    world.sql("UPDATE immuta.subscription SET created_at = now() - interval '40 days' WHERE state = 'requested'")
    world.sql("ALTER TABLE immuta.subscription ENABLE TRIGGER access_changes")
    query(office, "SELECT immuta.deny_subscription('ann', 'sales.customers')")
    assert [r["auditPayload"]["before"]["state"] for r in trail.new()] == ["lapsed"]
    query(office, "SELECT immuta.subscribe('ann', 'sales.customers', until => clock_timestamp() + interval '10 ms')")
    query(office, "SELECT pg_sleep(0.02)")
    query(office, "SELECT immuta.expire_subscriptions()")
    assert [r["auditPayload"]["after"]["state"] for r in trail.new()] == ["approved", "expired"]


def test_what_was_rolled_back_is_not_on_record(world, office, trail):
    with world.connect("immuta_system", "system-password") as connection:
        query(connection, "SELECT immuta.subscribe('ben', 'sales.orders')")
        connection.rollback()
        query(connection, "SAVEPOINT a")
        query(connection, "SELECT immuta.subscribe('ben', 'sales.orders')")
        query(connection, "SAVEPOINT b")
        query(connection, "SELECT immuta.subscribe('ben', 'sales.customers')")
        query(connection, "RELEASE b")
        query(connection, "ROLLBACK TO a")
        query(connection, "SELECT immuta.request_subscription('ben', 'sales.customers')")
        query(connection, "SAVEPOINT c")
        query(connection, "SELECT immuta.deny_subscription('ben', 'sales.customers')")
        query(connection, "RELEASE c")
        assert trail.new() == []
    connection.close()
    assert [said(r)[5]["state"] for r in trail.new() if said(r)[1] == "SUBSCRIPTION"] == ["requested", "denied"]
    with pytest.raises(psycopg2.Error):
        query(office, "SELECT immuta.subscribe('ann', 'sales.orders'), 1 / 0")
    assert trail.new() == []


@pytest.mark.parametrize("decision", ["approve", "deny", "request"])
def test_a_reason_fits_into_a_record(office, decision):
    query(office, "SELECT immuta.request_subscription('ben', 'sales.customers', reason => repeat('x', 1000))")
    with pytest.raises(psycopg2.Error) as error:
        query(office, f"SELECT immuta.{decision}_subscription('ben', 'sales.customers', reason => repeat('x', 1001))")
    assert error.value.pgcode == "22023"


def test_who_goes_is_named(world, office, trail):
    for call in ("create_user('gone')", "subscribe('gone', 'sales.customers')", "drop_user('gone')"):
        query(office, f"SELECT immuta.{call}")
    assert [said(r)[:3] for r in trail.new() if said(r)[0] == "DELETE"] == [
        ("DELETE", "SUBSCRIPTION", "gone"), ("DELETE", "USER_ACCOUNT", "gone")]
    # By hand, past every function: by a superuser.
    query(office, "SELECT immuta.subscribe('ann', 'sales.customers')")
    trail.new_from_here()
    world.sql("DELETE FROM immuta.subscription s USING immuta.data_source d WHERE d.id = s.data_source_id AND d.table_name = 'customers'")
    assert {said(r)[:2] for r in trail.new()} == {("DELETE", "SUBSCRIPTION")}
    world.sql("TRUNCATE immuta.row_policy")
    assert [said(r) for r in trail.new()] == [("DELETE", "ROW_POLICY", None, [], None, None)]


ANN, BEN, BOB = (f"(SELECT id FROM immuta.user_account WHERE userid = '{user}')" for user in ("ann", "ben", "bob"))
ORDERS_ID = "(SELECT id FROM immuta.data_source WHERE table_name = 'orders')"
CUSTOMERS = "(SELECT id FROM immuta.data_source WHERE table_name = 'customers')"

# What is moved, the table, and whose it was and is, or of which data source.
MOVES = [
    (f"subscription SET user_id = {BEN} WHERE user_id = {BOB}", "SUBSCRIPTION", ("bob", ORDERS), ("ben", ORDERS)),
    (f"subscription SET data_source_id = {CUSTOMERS} WHERE user_id = {ANN}", "SUBSCRIPTION", ("ann", ORDERS), ("ann", ["sales.customers"])),
    ("impersonation_rule SET id = -id", "IMPERSONATION_RULE", (None, []), (None, [])),
    ("user_account SET id = id + 1000 WHERE userid = 'carol'", "USER_ACCOUNT", ("carol", []), ("carol", [])),
    ("data_source SET relation = 'app.flights'::regclass WHERE table_name = 'orders'", "DATA_SOURCE", (None, ORDERS), (None, ORDERS)),
    (f"user_profile SET user_id = {BEN}", "USER_PROFILE", ("ann", []), ("ben", [])),
    (f"row_policy SET data_source_id = {CUSTOMERS}", "ROW_POLICY", (None, ORDERS), (None, ["sales.customers"])),
    (f"named_column SET data_source_id = {CUSTOMERS}", "NAMED_COLUMN", (None, ORDERS), (None, ["sales.customers"])),
    (f"project_member SET user_id = {BEN}", "PROJECT_MEMBER", ("ann", []), ("ben", [])),
    ("project_data_source SET relation = 'sales.customers'", "PROJECT_DATA_SOURCE", (None, ORDERS), (None, ["sales.customers"])),
    ("data_source SET table_name = 'zzz' WHERE table_name = 'orders'", "DATA_SOURCE", None, None),
    ("home SET system_identifier = system_identifier + 1", "HOME", None, None),
]


SET_UP = f"""
CREATE SCHEMA sales; CREATE TABLE sales.orders (id int, region text); CREATE TABLE sales.customers (id int);
CREATE ROLE spare NOLOGIN; CREATE ROLE writer LOGIN PASSWORD 'writer-password' IN ROLE pg_read_all_data, pg_write_all_data;
SELECT immuta.create_user('ann'), immuta.create_user('ben'), immuta.add_impersonation_rule('x', 'a'), immuta.map_issuer('i', 'Okta');
INSERT INTO immuta.data_source (relation, schema_name, table_name)
VALUES ('sales.orders'::regclass, 'sales', 'orders'), ('sales.customers'::regclass, 'sales', 'customers');
INSERT INTO immuta.subscription VALUES ({ANN}, {ORDERS_ID}, 'READ', 'denied'), ({BOB}, {ORDERS_ID}, 'READ', 'denied');
INSERT INTO immuta.user_profile VALUES ({ANN}, '{{x}}');
INSERT INTO immuta.row_policy (data_source_id, name, expression) VALUES ({ORDERS_ID}, 'own', 'true');
INSERT INTO immuta.named_column VALUES ({ORDERS_ID}, 'region');
INSERT INTO immuta.project VALUES (7, 'p', 'spare');
INSERT INTO immuta.project_data_source VALUES (7, 'sales.orders');
INSERT INTO immuta.project_member VALUES (7, {ANN});
"""


@pytest.fixture(scope="module")
def by_hand():
    """A database of its own, somebody who may write all tables, and the trail."""
    with audited_server("audit-moves") as server:
        world = world_of(server)
        for statement in SET_UP.strip().split(";\n"):
            world.sql(statement)
        writer = world.connect("writer", "writer-password")
        writer.autocommit = True
        yield world, writer, Trail(server)
        writer.close()


@pytest.mark.parametrize("change,table,was,now", MOVES, ids=[change for change, *_ in MOVES])
def test_what_goes_to_another(by_hand, change, table, was, now):
    """The end of one and the beginning of the other."""
    _, writer, trail = by_hand
    trail.new_from_here()
    query(writer, f"UPDATE immuta.{change}")
    records = [said(r) for r in trail.new() if r["auditPayload"]["changed"] == table]
    if was is None:
        assert [r[0] for r in records] == ["UPDATE"] and records[0][4] != records[0][5]
    else:
        assert [(r[0], *r[2:4]) for r in records] == [("DELETE", *was), ("CREATE", *now)]
        assert records[0][4] and records[1][5] and not records[0][5] and not records[1][4]
    query(writer, "UPDATE immuta.user_account SET updated_at = now(), failed_logins = 1")
    query(writer, "UPDATE immuta.subscription SET decided_at = now(), state = state")
    assert trail.new() == [], "nothing about access"


def test_a_project_goes_with_its_tables(world, office, trail):
    """Also by a plan for any values, which is made after five runs."""
    for _ in range(7):
        query(office, "SELECT immuta.create_project('p')")
        query(office, "SELECT immuta.add_project_data_source('p', 'sales.orders')")
        trail.new_from_here()
        query(office, "SELECT immuta.drop_project('p')")
        assert [said(r)[:4] for r in trail.new() if said(r)[0] == "DELETE"] == [
            ("DELETE", "PROJECT", None, []), ("DELETE", "PROJECT_DATA_SOURCE", None, ORDERS)]


def test_what_is_done_elsewhere(by_hand):
    """After an upgrade or in a copy everything is on record; after a restore, what is not the restore."""
    world, writer, trail = by_hand
    insert = "INSERT INTO immuta.impersonation_rule (impersonator, users) VALUES ('x', 'a')"
    calls = ["immuta.add_impersonation_rule('x', 'a')", "immuta.map_issuer('j', 'Okta')", "immuta.create_user('cleo')"]
    query(writer, "UPDATE immuta.home SET system_identifier = 1")
    trail.new_from_here()
    query(writer, insert)
    assert [said(r)[:2] for r in trail.new()] == [("CREATE", "IMPERSONATION_RULE")]
    query(writer, "INSERT INTO immuta.home VALUES (2, 2)")
    assert [said(r)[:2] for r in trail.new()] == [("CREATE", "HOME")]
    query(writer, insert)
    assert trail.new() == [], "as a restore does"
    for call in calls:
        world.sql(f"SELECT {call}")
    assert [said(r)[:2] for r in trail.new()] == [("CREATE", what) for what in ("IMPERSONATION_RULE", "TOKEN_ISSUER", "USER_ACCOUNT")]


def test_no_secret_is_shown(world, office, trail):
    query(office, "SELECT immuta.create_user('hush')")
    query(office, "SELECT immuta.set_password('hush', 'correct horse battery')")
    records = trail.new()
    assert len(records) == 1 and "argon2" not in str(records) and "horse" not in str(records)
    query(office, "SELECT immuta.drop_user('hush')")


def test_nothing_changes_where_it_cannot_be_recorded(world, office, trail):
    world.sql("ALTER ROLE immuta_system SET bodata.audit_required = on")
    gone = world.server.data / "gone"
    gone.mkdir(mode=0o777)
    gone.chmod(0o777)
    world.sql(f"ALTER ROLE immuta_system SET bodata.audit_file = '{gone}/audit.jsonl'")
    try:
        with world.connect("immuta_system", "system-password") as connection:
            query(connection, "SELECT immuta.subscribe('ben', 'sales.customers', 'WRITE')")
            gone.rmdir()
            with pytest.raises(psycopg2.Error) as error:
                connection.commit()
            assert (error.value.pgcode, error.value.diag.message_detail) == ("58030", "IMPERSONATION_AUDIT_UNAVAILABLE")
        connection.close()
    finally:
        world.sql("ALTER ROLE immuta_system RESET ALL")
    assert query(office, "SELECT count(*) FROM immuta.subscriptions WHERE userid = 'ben' AND access = 'WRITE'") == [(0,)]


def test_the_older_format_says_the_same(world, office):
    trail = Trail(world.server, "legacy", "older.jsonl")
    world.sql("ALTER ROLE immuta_system SET bodata.audit_format = legacy")
    world.sql("ALTER ROLE immuta_system SET bodata.audit_file = 'older.jsonl'")
    try:
        with world.connect("immuta_system", "system-password") as connection:
            query(connection, "SELECT immuta.subscribe('ann', 'sales.customers', 'WRITE')")
        connection.close()
    finally:
        world.sql("ALTER ROLE immuta_system RESET ALL")
    (record,) = trail.new()
    extra = record["extra"]
    assert (record["recordType"], extra["event"], extra["changed"], record["dataSourceName"]) == (
        "accessChange", "accessCreated", "SUBSCRIPTION", "sales.customers")
    assert (extra["user"]["id"], extra["impersonationUser"], extra["after"]["access"]) == ("ann", "immuta_system", "WRITE")
    schema("legacy").validate(record)


def test_a_table_holds_them_too():
    with audited_server("audit-access", sink="table") as server:
        world = world_of(server)
        world.sql("SELECT immuta.map_user('bob', 'carol')")
        assert world.value("SELECT immuta.flush_audit()")
        rows = world.sql("SELECT impersonator, record #>> '{auditPayload,user,id}', record #>> '{auditPayload,after,postgres_role}' "
                         "FROM immuta.audit_log WHERE action = 'UPDATE'")
        assert rows == [(world.admin.info.user, "bob", "carol")]
