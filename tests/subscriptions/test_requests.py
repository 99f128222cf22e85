"""A user asks for access themselves, under their token; requests lapse; those who decide are told."""

import select

import pytest
from conftest import refuses
from harness.world import impersonate, query

MINE = "SELECT schema_name, table_name, access, state, reason, valid_until IS NULL FROM immuta.my_subscriptions() ORDER BY 2"
WAITING = "SELECT userid, table_name, access, reason, lapses_at - requested_at = interval '30 days' FROM immuta.subscription_requests"


@pytest.fixture
def ann(sales):
    """ann's session, in a transaction of hers; she reads one table already."""
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders')")
    connection = sales.world.connect()
    token = sales.world.token("ann")

    def run(statement, args=None, end="commit"):
        impersonate(connection, token)
        try:
            return query(connection, statement, args)
        finally:
            getattr(connection, end)()

    yield run
    connection.close()


def test_a_user_asks_and_sees_what_becomes_of_it(sales, ann):
    ann("SELECT immuta.request_my_subscription('sales.customers', 'write', 'month end')")
    assert ann(MINE) == [("sales", "customers", "WRITE", "requested", "month end", True),
                         ("sales", "orders", "READ", "approved", None, True)]
    assert sales.sql(WAITING) == [("ann", "customers", "WRITE", "month end", True)]
    assert sales.access("ann", "sales.customers") is None
    sales.sql("SELECT immuta.deny_subscription('ann', 'sales.customers', reason => 'ask again in May')")
    assert ann(MINE)[0][3:5] == ("denied", "ask again in May") and sales.sql(WAITING) == []
    ann("SELECT immuta.request_my_subscription('sales.customers')")
    assert ann(MINE)[0][2:5] == ("READ", "requested", None)
    sales.sql("SELECT immuta.approve_subscription('ann', 'sales.customers')")
    assert sales.access("ann", "sales.customers") == "READ" and sales.sql(WAITING) == []
    assert sales.sql("SELECT table_name, state, decided_by FROM immuta.subscriptions ORDER BY 1") == [
        ("customers", "approved", "immuta_system"), ("orders", "approved", "immuta_system")]
    with refuses("42710"):
        ann("SELECT immuta.request_my_subscription('sales.customers', 'WRITE')", end="rollback")
    assert sales.drift() == []


def test_nobody_asks_for_others_or_sees_theirs(sales, ann):
    sales.sql("SELECT immuta.request_subscription('ben', 'sales.customers', reason => 'secret')")
    assert [row[1] for row in ann(MINE)] == ["orders"]
    for statement in ("SELECT immuta.request_subscription('ben', 'sales.orders')", "SELECT immuta.approve_subscription('ann', 'sales.customers')",
                      "SELECT * FROM immuta.subscription_requests", "SELECT * FROM immuta.subscriptions", "SELECT * FROM immuta.subscription",
                      "SELECT immuta_internal.add_request(1, 1, 'READ', NULL)", "SELECT immuta_internal.impersonated_user()"):
        with refuses("42501"):
            ann(statement, end="rollback")
    # Without a user, whoever it is.
    for connection in (sales.world.connect(), sales.system, sales.owner):
        for statement in ("SELECT immuta.request_my_subscription('sales.orders')", "SELECT * FROM immuta.my_subscriptions()"):
            with refuses("42501", "IMPERSONATION_REQUIRED"):
                query(connection, statement)
            connection.rollback()


@pytest.mark.parametrize("statement,sqlstate", [
    ("SELECT immuta.request_my_subscription('sales.nowhere')", "42704"), ("SELECT immuta.request_my_subscription('customers')", "42704"),
    ("SELECT immuta.request_my_subscription('a.b.c')", "42704"), ("SELECT immuta.request_my_subscription('sales.')", "22023"),
    ("SELECT immuta.request_my_subscription(NULL)", "42704"), ("SELECT immuta.request_my_subscription('sales.customers', 'OWN')", "22023"),
    ("SELECT immuta.request_my_subscription('sales.customers', NULL)", "22023"),
    ("SELECT immuta.request_my_subscription('sales.customers', reason => repeat('x', 1001))", "22023")])
def test_what_cannot_be_asked_for(ann, statement, sqlstate):
    with refuses(sqlstate):
        ann(statement, end="rollback")


def test_requests_lapse(sales, ann):
    ann("SELECT immuta.request_my_subscription('sales.customers', reason => 'old')")
    sales.world.sql("UPDATE immuta.subscription SET created_at = now() - interval '31 days' WHERE state = 'requested'")
    assert ann(MINE)[0][3] == "lapsed" and sales.sql(WAITING) == []
    assert sales.sql("SELECT state FROM immuta.subscriptions WHERE table_name = 'customers'") == [("lapsed",)]
    with refuses("42704"):
        sales.sql("SELECT immuta.approve_subscription('ann', 'sales.customers')")
    ann("SELECT immuta.request_my_subscription('sales.customers', reason => 'old')")
    assert ann(MINE)[0][3] == "requested" and len(sales.sql(WAITING)) == 1
    for value, state in (("10s", "lapsed"), ("0", "requested"), ("40d", "requested")):
        sales.world.sql("UPDATE immuta.subscription SET created_at = now() - interval '35 days' WHERE state = 'requested'")
        sales.world.sql(f"ALTER DATABASE {sales.world.dbname} SET bodata.request_lapse_after = '{value}'")
        with sales.world.connect("immuta_system", "system-password") as connection:
            assert query(connection, "SELECT state FROM immuta.subscriptions WHERE table_name = 'customers'") == [(state,)], value
        connection.close()
    sales.world.sql(f"ALTER DATABASE {sales.world.dbname} RESET bodata.request_lapse_after")


def test_who_decides_is_told(sales, ann):
    """By NOTIFY, without a word of whom: everybody may LISTEN. Asking again for the same tells nobody."""
    listener = sales.login("immuta_system", "system-password")
    query(listener, "LISTEN immuta_requests")

    def told():
        select.select([listener], [], [], 0.3)
        listener.poll()
        notes = [(note.channel, note.payload) for note in listener.notifies]
        listener.notifies.clear()
        return notes

    ann("SELECT immuta.request_my_subscription('sales.customers')")
    assert told() == [("immuta_requests", "")]
    ann("SELECT immuta.request_my_subscription('sales.customers')")
    assert told() == []
    ann("SELECT immuta.request_my_subscription('sales.customers', reason => 'more')")
    assert len(told()) == 1
    ann("SELECT immuta.request_my_subscription('sales.customers', reason => 'taken back')", end="rollback")
    assert told() == []
    sales.sql("SELECT immuta.request_subscription('ben', 'sales.customers')")
    assert len(told()) == 1
