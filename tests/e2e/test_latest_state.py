"""The latest state decides, not the snapshot of a transaction that an application left open; and guesses count, however many
sessions make them.

Threats: 48, 49 (docs/threats.md).
"""

import threading

import psycopg2
import pytest
from harness.server import Server
from harness.world import World, impersonate, prepare, query

REFUSED = [({"authenticated": False},)]
OLD = ["REPEATABLE READ", "SERIALIZABLE"]


def with_old_snapshot(world, isolation):
    """A service login's transaction whose snapshot is older than what comes now."""
    connection = world.connect()
    query(connection, f"SET TRANSACTION ISOLATION LEVEL {isolation}")
    query(connection, "SELECT 1")
    return connection


@pytest.fixture
def pat(world):
    world.sql("SELECT immuta.create_user('pat', postgres_role => 'alice'); SELECT immuta.set_password('pat', 'right')")
    yield
    world.sql("SELECT immuta.drop_user('pat')")


CHANGES = {
    "password": ("SELECT immuta.set_password('pat', 'other')", "SELECT immuta.authenticate('pat', 'right')"),
    "no password": ("SELECT immuta.set_password('pat', NULL)", "SELECT immuta.authenticate('pat', 'right')"),
    "disabled": ("SELECT immuta.disable_user('pat')", "SELECT immuta.authenticate('pat', 'right')"),
    "key revoked": ("SELECT immuta.revoke_api_key(id) FROM immuta.api_keys('pat')", "SELECT immuta.authenticate_api_key('{key}')"),
    "key of a disabled user": ("SELECT immuta.disable_user('pat')", "SELECT immuta.authenticate_api_key('{key}')"),
}


@pytest.mark.parametrize("isolation", OLD)
@pytest.mark.parametrize("change", CHANGES)
def test_a_credential_that_was_taken_away(world, pat, change, isolation):
    key = world.value("SELECT immuta.create_api_key('pat')")
    change, use = CHANGES[change]
    use = use.replace("{key}", key)
    connection = with_old_snapshot(world, isolation)
    assert query(connection, use)[0][0]["authenticated"]
    connection.rollback()
    connection.close()
    connection = with_old_snapshot(world, isolation)
    world.sql(change)
    assert query(connection, use) == REFUSED
    connection.close()


@pytest.mark.parametrize("isolation", OLD)
def test_attributes_and_groups_that_were_taken_away(world, pat, isolation):
    """Row policies ask for them."""
    ask = "SELECT immuta.user_attribute('region'), immuta.user_attribute_values('region'), immuta.user_in_group('sales')"
    world.sql("INSERT INTO immuta.user_profile SELECT id, '{sales}', '{\"region\": [\"west\"]}' FROM immuta.user_account "
              "WHERE userid = 'pat'")
    connection = with_old_snapshot(world, isolation)
    change = "UPDATE immuta.user_profile SET groups = '{}', attributes = %s WHERE groups = %s"
    world.sql(change, ('{"region": ["east"]}', ["sales"]))
    impersonate(connection, world.token("pat"))
    assert query(connection, ask) == [("east", ["east"], False)]
    world.sql(change, ("{}", []))
    assert query(connection, ask)[0][0] is None
    connection.close()


def test_guesses_in_many_sessions_at_once(world, pat):
    """No more of them are looked at than one session could make."""
    start, answers = threading.Barrier(20), []

    def guess(number):
        connection = world.connect()
        start.wait()
        # The right one is among them, late.
        answers.append(query(connection, "SELECT immuta.authenticate('pat', %s)", (f"wrong {number}",)))
        connection.close()

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [REFUSED] * 20
    # Those that came after the first five were not looked at, and so count no more.
    counted = world.value("SELECT failed_logins FROM immuta.user_account WHERE userid = 'pat'")
    assert 5 <= counted <= 8


def test_honest_logins_at_once_succeed(world, pat):
    """Waiting for one another is all that they notice."""
    answers = []

    def log_in():
        connection = world.connect()
        answers.append(query(connection, "SELECT immuta.authenticate('pat', 'right')")[0][0]["authenticated"])
        connection.close()

    threads = [threading.Thread(target=log_in) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 12
    assert world.value("SELECT failed_logins FROM immuta.user_account WHERE userid = 'pat'") == 0


def test_a_success_that_is_rolled_back_is_no_failure(world, pat):
    connection = world.connect()
    for _ in range(8):
        assert query(connection, "SELECT immuta.authenticate('pat', 'right')")[0][0]["authenticated"]
        connection.rollback()
    connection.close()


def test_without_a_worker_nothing_is_looked_at(server):
    """Whatever holds the slots: what cannot be counted is refused, though it be right."""
    crowded = Server(server.version, "crowded", options=["max_worker_processes=0", "max_parallel_workers=0",
                                                         "max_logical_replication_workers=0"])
    with crowded:
        prepare(crowded)
        world = World(crowded)
        world.sql("SELECT immuta.create_user('pat', postgres_role => 'alice'); SELECT immuta.set_password('pat', 'right')")
        connection = world.connect()
        assert query(connection, "SELECT immuta.authenticate('pat', 'right')") == REFUSED
        connection.rollback()
        # Tokens need none.
        impersonate(connection, world.token("pat"))
        assert query(connection, "SELECT current_user") == [("alice",)]
        connection.close()


def test_nobody_else_can_take_the_turn(world, pat):
    """An advisory lock of a user's with the same numbers does not hold up logins."""
    user = world.value("SELECT id FROM immuta.user_account WHERE userid = 'pat'")
    other = psycopg2.connect(**world.server.dsn(dbname="immuta"))
    query(other, f"SELECT pg_advisory_lock({user}), pg_advisory_lock(0, {user})")
    connection = world.connect()
    query(connection, "SET statement_timeout = '5s'")
    assert query(connection, "SELECT immuta.authenticate('pat', 'right')")[0][0]["authenticated"]
    connection.close()
    other.close()
