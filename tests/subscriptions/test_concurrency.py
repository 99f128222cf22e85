"""Two administrators at once: no deadlock, no lost update."""

import threading

import psycopg2
import pytest
from conftest import SYSTEM, refuses
from harness.world import query


def run_together(*workers):
    errors = []

    def guarded(worker):
        try:
            worker()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return errors


def test_administrators_at_once(sales):
    """Each changes policies, users, tags and mappings in an order of their own."""
    users = [f"u{i}" for i in range(6)]
    for user in users:
        sales.sql("SELECT immuta.create_user(%s)", (user,))

    def administrator(number):
        connection = sales.login(*SYSTEM)

        def work():
            order = users if number % 2 else users[::-1]
            for turn in range(4):
                query(connection, "SELECT immuta.create_subscription_policy(%s, schemas => '{sales}', groups => %s, replace => true)",
                      (f"p{number}", [f"g{number}"]))
                for user in order:
                    query(connection, "SELECT immuta.add_user_to_group(%s, %s)", (user, f"g{number}"))
                    if turn % 2:
                        query(connection, "SELECT immuta.subscribe(%s, 'sales.orders', 'WRITE')", (user,))
                    query(connection, "SELECT immuta.tag_data_source('sales.orders', %s)", (f"t{number}-{turn}",))
                    query(connection, "UPDATE pg_settings SET setting = setting WHERE name = 'x'")

        return work

    def mapper():
        connection = sales.login(*SYSTEM)
        for _ in range(6):
            for user in users:
                query(connection, "SELECT immuta.unmap_user(%s)", (user,))

    def owner():
        connection = sales.login("data_owner", "owner-password")
        for i in range(12):
            query(connection, f"CREATE TABLE sales.made{i} (a int)")
            query(connection, f"ALTER TABLE sales.made{i} RENAME TO renamed{i}")

    # An administrator may be waiting for a table that the owner has locked, who then does not wait in turn.
    errors = run_together(*(administrator(n) for n in range(3)), mapper, owner)
    # A user who is mapped to nothing cannot be subscribed: that is the mapper's doing, and the only error there may be.
    assert [e for e in errors if e.pgcode != "42704"] == []
    assert [(g,) for g in ("t0-0", "t1-0", "t2-0")] == [t for t in sales.sql(
        "SELECT DISTINCT t FROM immuta.data_sources, unnest(tags) t WHERE table_name = 'orders' AND t LIKE '%-0' ORDER BY 1")]
    sales.sql("SELECT immuta.add_user_to_group('ann', 'x')")
    assert sales.drift() == [d for d in sales.drift() if d[0] == "user without a role"]
    assert sales.sql("SELECT * FROM immuta.sync()") == []


def test_ddl_does_not_wait_long_for_an_administrator(sales):
    sales.sql("SELECT immuta.create_subscription_policy('all', schemas => '{sales}', expression => 'true')")
    admin = sales.login(*SYSTEM)
    admin.autocommit = False
    query(admin, "SELECT immuta.add_user_to_group('ann', 'x')")
    sales.owner.notices.clear()
    sales.ddl("CREATE TABLE sales.late (a int)")
    assert any("not in step" in n for n in sales.owner.notices)
    assert sales.access("ann", "sales.late") is None
    admin.commit()
    # The next change makes up for it, whatever it is.
    sales.sql("SELECT immuta.add_user_to_group('ben', 'x')")
    assert sales.access("ann", "sales.late") == "READ" and sales.drift() == []


SWAPS = {
    "table": "ALTER TABLE sales.orders RENAME TO kept; ALTER TABLE sales.customers RENAME TO orders;"
             "ALTER TABLE sales.kept RENAME TO customers",
    "column": "ALTER TABLE sales.orders RENAME region TO kept; ALTER TABLE sales.orders RENAME amount TO region;"
              "ALTER TABLE sales.orders RENAME kept TO amount",
}


@pytest.mark.parametrize("tag, statement", [("GRANT", 1), ("GRANT", 2), ("REVOKE", 1)])
@pytest.mark.parametrize("swapped", SWAPS)
def test_what_is_renamed_meanwhile_is_not_mistaken(sales, tag, statement, swapped):
    """Another one has the name when a GRANT or REVOKE is executed. What takes the place of excluded columns, and of
    their table, is not granted."""
    sales.ddl("DROP VIEW sales.totals; ALTER TABLE sales.customers ADD region text, ADD amount int")
    sales.sql("SELECT immuta.register_data_source('sales.orders', exclude_columns => '{amount}')")
    orders, customers = sales.world.sql("SELECT 'sales.orders'::regclass::oid, 'sales.customers'::regclass::oid")[0]
    change = "SELECT immuta.subscribe('ann', 'sales.orders')"
    if tag == "REVOKE":
        sales.sql(change)
        change = "SELECT immuta.unsubscribe('ann', 'sales.orders')"
    sales.world.sql(f"""
        CREATE SEQUENCE public.statements; GRANT USAGE ON SEQUENCE public.statements TO PUBLIC;
        CREATE FUNCTION public.wait_a_while() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('public.statements') = {statement} THEN PERFORM pg_advisory_xact_lock(77); END IF;
        END $$;
        CREATE EVENT TRIGGER wait_a_while ON ddl_command_start WHEN TAG IN ('{tag}') EXECUTE FUNCTION public.wait_a_while();
        SELECT pg_advisory_lock(77)""")

    def rename():
        while not sales.world.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
            pass
        sales.ddl(SWAPS[swapped])
        sales.world.sql("SELECT pg_advisory_unlock(77)")

    try:
        errors = run_together(lambda: sales.sql(change), rename)
    finally:
        sales.world.sql("DROP EVENT TRIGGER wait_a_while; DROP FUNCTION public.wait_a_while(); DROP SEQUENCE public.statements")
    if (tag, swapped) == ("REVOKE", "column"):
        # Said, and not done.
        assert [e.pgcode for e in errors] == ["42501"]
        sales.sql(change)
    else:
        assert errors == []
    readable = ("SELECT a.attnum FROM pg_attribute a WHERE a.attrelid = %s AND a.attnum > 0 "
                "AND has_column_privilege('user_ann', a.attrelid, a.attnum, 'SELECT') ORDER BY 1")
    assert sales.world.sql(readable, (orders,)) == (
        [] if tag == "REVOKE" else [(1,)] if swapped == "column" else [(1,), (2,)])
    assert sales.world.sql(readable, (customers,)) == []
    sales.sql("SELECT immuta.add_user_to_group('ann', 'x')")
    assert [d[:2] for d in sales.drift()] == ([("not confirmed", "sales.orders")] if swapped == "table" else [])


def test_no_update_is_lost(sales):
    """Each adds their groups to the same user, in transactions of their own."""
    def worker(number):
        connection = sales.login(*SYSTEM)

        def work():
            for i in range(15):
                query(connection, "SELECT immuta.add_user_to_group('ann', %s)", (f"{number}-{i}",))

        return work

    assert run_together(*(worker(n) for n in range(3))) == []
    assert sales.sql("SELECT cardinality(groups) FROM immuta.user_profiles WHERE userid = 'ann'") == [(45,)]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_an_old_snapshot_is_refused(sales, level):
    """Better an error that says: try again, than a policy that was worked out from what is no longer so."""
    connection = sales.login(*SYSTEM)
    connection.autocommit = False
    query(connection, f"SET TRANSACTION ISOLATION LEVEL {level}; SELECT count(*) FROM immuta.data_sources")
    sales.sql("SELECT immuta.add_user_to_group('ann', 'a')")
    with refuses("40001"):
        query(connection, "SELECT immuta.create_subscription_policy('p', schemas => '{sales}', groups => '{a}')")
    connection.rollback()
    query(connection, f"SET TRANSACTION ISOLATION LEVEL {level}; "
                      "SELECT immuta.create_subscription_policy('p', schemas => '{sales}', groups => '{a}')")
    connection.commit()
    assert sales.access("ann", "sales.orders") == "READ" and sales.drift() == []


def test_others_cannot_hold_the_lock(sales):
    """It is no advisory lock, which everybody could take."""
    plain = sales.login("plain", "plain-password")
    plain.autocommit = False
    for statement in ("LOCK TABLE immuta.connection_state", "SELECT * FROM immuta.connection_state FOR UPDATE"):
        with refuses("42501"):
            query(plain, statement)
        plain.rollback()


def test_it_can_be_cancelled(sales):
    """A full recalculation that is cancelled leaves things as they were."""
    sales.world.sql("SELECT immuta.create_user('many' || i) FROM generate_series(1, 150) i")
    before = sales.world.sql("SELECT count(*) FROM pg_roles")
    backend = sales.system.info.backend_pid

    def cancel():
        for _ in range(400):
            running = sales.world.sql("SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND state = 'active' "
                                      "AND query_start < clock_timestamp() - interval '30 ms'", (backend,))
            if running == [(1,)]:
                sales.world.sql("SELECT pg_cancel_backend(%s)", (backend,))
                return

    seen = []

    def create():
        try:
            sales.sql("SELECT immuta.create_subscription_policy('all', schemas => '{sales}', expression => 'true')")
        except psycopg2.Error as error:
            seen.append(error.pgcode)

    assert run_together(create, cancel) == []
    assert seen == ["57014"]
    assert sales.world.sql("SELECT count(*) FROM pg_roles") == before
    assert sales.sql("SELECT * FROM immuta.subscription_policies") == [] and sales.drift() == []
    sales.sql("SELECT immuta.create_subscription_policy('all', schemas => '{sales}', expression => 'true')")
    assert sales.access("many150", "sales.orders") == "READ" and sales.drift() == []
