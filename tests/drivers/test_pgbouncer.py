"""PgBouncer that knows prepared statements, with one connection to the server: several clients, each with statements
and settings of its own, take turns on it."""

import asyncio
import itertools

import asyncpg
import psycopg
import pytest
from harness.pooler import PgBouncer, later_program
from harness.world import SERVICE

CARRIER = {"alice": "UA", "bob": "AA"}
ORDERS = "SELECT min(carrier), max(carrier), count(*) FROM app.orders WHERE id > {}"
PRESENT = "SELECT set_config('bodata.impersonation_token', {}, true)"


@pytest.fixture
def connect(world, pooler):
    made = []

    def make(**extra):
        made.append(psycopg.connect(host="127.0.0.1", port=pooler.port, user=SERVICE[0], password=SERVICE[1],
                                    dbname=world.dbname, autocommit=True, **extra))
        return made[-1]

    yield make
    for connection in made:
        connection.close()


def test_prepared_statements_of_several_clients(connect, tokens):
    """PgBouncer prepares them once for all clients, hence for all users."""
    clients = [connect(), connect()]
    for client in clients:
        client.prepare_threshold = 0
    pids = set()
    for client, user in list(itertools.product(clients, CARRIER)) * 4:
        with client.transaction():
            client.execute(PRESENT.format("%s"), (tokens[user],))
            assert client.execute(ORDERS.format("%s"), (0,)).fetchone() == (CARRIER[user], CARRIER[user], 10)
            pids.add(client.execute("SELECT pg_backend_pid()").fetchone()[0])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            client.execute(ORDERS.format("%s"), (0,))
    assert len(pids) == 1


def test_asyncpg_with_its_cache_of_statements(world, pooler, tokens):
    async def clients():
        where = dict(host="127.0.0.1", port=pooler.port, user=SERVICE[0], password=SERVICE[1], database=world.dbname,
                     ssl=False)
        pools = [await asyncpg.create_pool(min_size=1, max_size=1, **where) for _ in range(2)]
        for pool, user in list(itertools.product(pools, CARRIER)) * 4:
            async with pool.acquire() as connection, connection.transaction():
                await connection.fetchval(PRESENT.format("$1"), tokens[user])
                assert tuple(await connection.fetchrow(ORDERS.format("$1"), 0)) == (CARRIER[user], CARRIER[user], 10)
        for pool in pools:
            await pool.close()

    asyncio.run(clients())


def test_each_client_keeps_its_settings(connect, tokens):
    """PgBouncer sets them anew whenever another client takes its turn: on a connection that has had users."""
    settings = [dict(application_name="one", client_encoding="LATIN1", options="-c TimeZone=Asia/Tokyo"),
                dict(application_name="two", client_encoding="UTF8", options="-c TimeZone=UTC -c DateStyle=SQL,DMY")]
    clients = [connect(**given) for given in settings]
    shown = "SELECT current_setting('application_name'), current_setting('client_encoding'), " \
            "current_setting('TimeZone'), current_setting('DateStyle'), current_user"
    expected = [("one", "LATIN1", "Asia/Tokyo", "ISO, MDY"), ("two", "UTF8", "UTC", "SQL, DMY")]
    for user in ("alice", "bob") * 2:
        for client, values in zip(clients, expected):
            with client.transaction():
                client.execute(PRESENT.format("%s"), (tokens[user],))
                assert client.execute(shown).fetchone() == (*values, user)
            assert client.execute(shown).fetchone() == (*values, "svc")


LEFT = ["TimeZone = 'Asia/Tokyo'", "client_encoding = 'LATIN1'", "DateStyle = 'German'", "application_name = 'alice'"]


@pytest.mark.parametrize("setting", LEFT)
def test_what_a_user_leaves_stays_with_his_client(connect, tokens, setting):
    """PgBouncer is told of the change, takes it for the client's own, and gives the next client what is theirs."""
    alices, bobs = connect(), connect()
    name = setting.split()[0]
    before = bobs.execute(f"SHOW {name}").fetchone()
    with alices.transaction():
        alices.execute(PRESENT.format("%s"), (tokens["alice"],))
    alices.execute(f"SET {setting}")
    assert bobs.execute(f"SHOW {name}").fetchone() == before
    with bobs.transaction():
        bobs.execute(PRESENT.format("%s"), (tokens["bob"],))
        assert bobs.execute(f"SHOW {name}").fetchone() == before


@pytest.mark.parametrize("setting", ["standard_conforming_strings = off", "statement_timeout = 1",
                                     "client_encoding = 'SJIS'", "work_mem = '1MB'"])
def test_what_a_user_cannot_leave(connect, tokens, setting):
    alices = connect()
    with alices.transaction():
        alices.execute(PRESENT.format("%s"), (tokens["alice"],))
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        alices.execute(f"SET {setting}")


@pytest.mark.parametrize("setting", ["search_path = alice", "client_min_messages = error", "synchronous_commit = off"])
def test_what_has_no_effect_between_users(connect, tokens, setting):
    """An application that sets it when it connects gets a connection that others have used: it works, with a warning."""
    name = setting.split()[0]
    alices, bobs = connect(), connect()
    before = bobs.execute(f"SHOW {name}").fetchone()
    with alices.transaction():
        alices.execute(PRESENT.format("%s"), (tokens["alice"],))
    warnings = []
    alices.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
    alices.execute(f"SET {setting}")
    assert len(warnings) == 1 and name in warnings[0]
    with bobs.transaction():
        bobs.execute(PRESENT.format("%s"), (tokens["bob"],))
        assert bobs.execute(f"SHOW {name}").fetchone() == before


@pytest.mark.parametrize("is_told", [False, True])
def test_who_has_ended_their_transaction_goes_on_with_a_new_connection(world, tokens, is_told):
    """Which the server takes for the application's, unless it is told that a pooler shares its connections."""
    world.sql(f"ALTER ROLE svc SET bodata.shared_connections = {is_told}")
    try:
        with PgBouncer(world.server, *SERVICE, world.dbname, pool_size=2, program=later_program()) as pooler:
            clients = {user: psycopg.connect(host="127.0.0.1", port=pooler.port, user=SERVICE[0], password=SERVICE[1],
                                             dbname=world.dbname, autocommit=True) for user in ("alice", "bob", "carol")}

            def begin(user):
                clients[user].execute("BEGIN")
                clients[user].execute(PRESENT.format("%s"), (tokens[user],))

            begin("alice")
            clients["alice"].execute("COMMIT")
            begin("carol")  # on the one connection that there was
            clients["alice"].execute("SET search_path = alice, pg_catalog")
            begin("bob")
            [(path,)] = clients["bob"].execute("SHOW search_path").fetchall()
            for client in clients.values():
                client.close()
        assert (path == "alice, pg_catalog") != is_told, path
    finally:
        world.sql("ALTER ROLE svc RESET bodata.shared_connections")
