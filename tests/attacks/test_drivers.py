"""The honest twins: what drivers, ORMs and poolers do works as ever, and each user gets their own rows."""

import asyncio
import io

import asyncpg
import psycopg
import pytest
from harness.fixtures import carriers, rows_seen
from harness.world import impersonate, query
from scene import ALICE_ROWS, COUNT, REQUIRED, token_of

SET_CONFIG = "SELECT set_config('bodata.impersonation_token', {}, true)"
CARRIERS = "SELECT DISTINCT carrier FROM app.flights WHERE id > {} ORDER BY 1"
USERS = (("alice", ["UA"]), ("bob", ["AA"]), ("carol", ["AA", "DL", "UA"]))


def dsn(world):
    """Of the service login, by the names that both libpq and psycopg 3 know."""
    return world.server.dsn("svc", "service-password", world.dbname)


# -- psycopg 3 ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("threshold", [0, 1, 5, None])
def test_psycopg_prepares_statements_itself(world, threshold):
    """It keeps named statements for the life of the connection, hence for all users, after `prepare_threshold`
    uses."""
    with psycopg.connect(**dsn(world), autocommit=True) as connection:
        connection.prepare_threshold = threshold
        for _ in range(8):
            for user, expected in USERS:
                with connection.transaction():
                    assert connection.execute(SET_CONFIG.format("%s"),
                                              (token_of(world, user),)).fetchone() == ("********",)
                    rows = connection.execute(CARRIERS.format("%s"), (0,)).fetchall()
                    assert [row[0] for row in rows] == expected
                    assert connection.execute("SELECT current_user").fetchone() == (user,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
            connection.execute(CARRIERS.format("%s"), (0,))
        assert refused.value.diag.message_detail == REQUIRED[1]


def test_psycopg_nests_transactions(world):
    """Savepoints, after the token."""
    with psycopg.connect(**dsn(world)) as connection:
        with connection.transaction():
            connection.execute(SET_CONFIG.format("%s"), (token_of(world, "alice"),))
            with pytest.raises(psycopg.errors.DivisionByZero):
                with connection.transaction():
                    connection.execute("SELECT 1/0")
            with connection.transaction(force_rollback=True):
                connection.execute("DELETE FROM app.flights")
                with connection.transaction():
                    assert connection.execute(COUNT).fetchone() == (0, None, None)
            assert connection.execute(COUNT).fetchone() == (100, "UA", "UA")


@pytest.mark.parametrize("threshold", [0, None])
@pytest.mark.parametrize("statements", [["SELECT 1"], ["CREATE TEMP TABLE x (a int)", "DROP TABLE pg_temp.x"],
                                        ["CREATE TABLE alice.x (a int)", "ALTER TABLE alice.x ADD b int"]],
                         ids=["ROLLBACK TO", "DROP", "ALTER"])
def test_psycopg_goes_on_after(world, statements, threshold):
    """After these it sends DEALLOCATE ALL, if it has prepared anything: an ORM's nested transaction that fails is
    one."""
    with psycopg.connect(**dsn(world)) as connection:
        connection.prepare_threshold = threshold
        with connection.transaction():
            connection.execute(SET_CONFIG.format("%s"), (token_of(world, "alice"),))
            for _ in range(3):
                assert connection.execute(CARRIERS.format("%s"), (0,)).fetchall() == [("UA",)]
                with connection.transaction(force_rollback=True):
                    for statement in statements:
                        connection.execute(statement)


def test_psycopg_pipelines(world):
    with psycopg.connect(**dsn(world), autocommit=True) as connection:
        for user, expected in USERS * 3:
            with connection.pipeline():
                with connection.transaction():
                    connection.execute(SET_CONFIG.format("%s"), (token_of(world, user),))
                    cursors = [connection.execute(CARRIERS.format("%s"), (n,)) for n in (0, 1, 2)]
                for cursor in cursors:
                    assert [row[0] for row in cursor.fetchall()] == expected
        assert connection.execute("SELECT current_user").fetchone() == ("svc",)


def test_psycopg_cursors_and_copy(world):
    with psycopg.connect(**dsn(world)) as connection:
        connection.execute(SET_CONFIG.format("%s"), (token_of(world, "alice"),))
        with connection.cursor(name="served") as cursor:
            cursor.itersize = 7
            cursor.execute("SELECT carrier FROM app.flights")
            assert [row[0] for row in cursor] == ["UA"] * 100
        with connection.cursor().copy("COPY (SELECT carrier FROM app.flights) TO STDOUT") as copy:
            assert set(copy.rows()) == {("UA",)}
        with connection.cursor().copy("COPY alice.seen FROM STDIN") as copy:
            copy.write_row(("copied", "alice"))
        assert connection.execute("SELECT * FROM alice.seen").fetchall() == [("copied", "alice")]
        connection.cursor().executemany("INSERT INTO alice.seen VALUES (%s, %s)", [("a", "b")] * 20)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            with connection.cursor(name="held", withhold=True) as cursor:
                cursor.execute("SELECT carrier FROM app.flights")
        connection.rollback()
        assert connection.execute("SELECT current_user").fetchone() == ("svc",)


def test_psycopg_session_settings(world):
    with psycopg.connect(**dsn(world)) as connection:
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        connection.read_only = True
        connection.execute(SET_CONFIG.format("%s"), (token_of(world, "alice"),))
        assert connection.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
        assert connection.execute(COUNT).fetchone() == (100, "UA", "UA")
        connection.commit()
        connection.read_only = False
        connection.isolation_level = None
        connection.execute(SET_CONFIG.format("%s"), (token_of(world, "bob"),))
        assert connection.execute(COUNT).fetchone() == (100, "AA", "AA")


# -- asyncpg ------------------------------------------------------------------------------------------------------

def asynchronously(world, test, **options):
    async def run():
        where = dsn(world)
        connection = await asyncpg.connect(host=where["host"], port=where["port"], user=where["user"], ssl=False,
                                           password=where["password"], database=where["dbname"], **options)
        try:
            await test(connection)
        finally:
            await connection.close()
    asyncio.run(run())


def test_asyncpg_keeps_statements_across_users(world):
    async def test(connection):
        for _ in range(5):
            for user, expected in USERS:
                async with connection.transaction():
                    await connection.fetchval(SET_CONFIG.format("$1"), token_of(world, user))
                    rows = await connection.fetch(CARRIERS.format("$1"), 0)
                    assert [row["carrier"] for row in rows] == expected
        statement = None
        async with connection.transaction():
            await connection.execute(f"SET LOCAL bodata.impersonation_token = '{token_of(world, 'alice')}'")
            statement = await connection.prepare("SELECT count(*), min(carrier) FROM app.flights")
            assert tuple(await statement.fetchrow()) == (100, "UA")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await statement.fetchrow()
        async with connection.transaction():
            await connection.execute(f"SET LOCAL bodata.impersonation_token = '{token_of(world, 'bob')}'")
            assert tuple(await statement.fetchrow()) == (100, "AA")
    asynchronously(world, test)


def test_asyncpg_nested_transactions_cursors_and_copy(world):
    async def test(connection):
        async with connection.transaction(isolation="serializable"):
            await connection.fetchval(SET_CONFIG.format("$1"), token_of(world, "alice"))
            with pytest.raises(asyncpg.DivisionByZeroError):
                async with connection.transaction():
                    await connection.fetch("SELECT 1/0")
            found = [row["carrier"] async for row in connection.cursor("SELECT carrier FROM app.flights",
                                                                       prefetch=7)]
            assert found == ["UA"] * 100
            out = io.BytesIO()
            await connection.copy_from_query("SELECT carrier FROM app.flights", output=out)
            assert set(out.getvalue().split()) == {b"UA"}
            await connection.copy_records_to_table("seen", schema_name="alice", records=[("copied", "alice")])
            await connection.executemany("DELETE FROM alice.seen WHERE who = $1", [("copied",), ("x",)])
        assert await connection.fetchval("SELECT current_user") == "svc"
    asynchronously(world, test)


def test_asyncpg_looks_types_up(world):
    """Its introspection of types, with and without a token."""
    async def test(connection):
        assert await connection.fetchval("SELECT ARRAY[1, 2]::int[]") == [1, 2]
        assert await connection.fetchval("SELECT '[1,2)'::int4range") == asyncpg.Range(1, 2)
        await connection.set_type_codec("json", encoder=str, decoder=str, schema="pg_catalog")
        async with connection.transaction():
            await connection.fetchval(SET_CONFIG.format("$1"), token_of(world, "alice"))
            assert await connection.fetchval("SELECT ROW(1, 'x')") == (1, "x")
            await connection.execute("CREATE TYPE pg_temp.pair AS (a int, b text)")
            assert tuple(await connection.fetchval("SELECT ROW(1, 'x')::pg_temp.pair")) == (1, "x")
        assert await connection.fetchval("SELECT current_user") == "svc"
    asynchronously(world, test)


def test_asyncpg_resets_connections(world):
    """What its pool sends when a connection comes back: pg_advisory_unlock_all, CLOSE ALL, UNLISTEN *, RESET
    ALL."""
    async def test(connection):
        for user, expected in USERS:
            async with connection.transaction():
                await connection.fetchval(SET_CONFIG.format("$1"), token_of(world, user))
                rows = await connection.fetch(CARRIERS.format("$1"), 0)
                assert [row["carrier"] for row in rows] == expected
            await connection.reset()
    asynchronously(world, test)


def test_asyncpg_without_a_statement_cache(world):
    """As behind PgBouncer."""
    async def test(connection):
        for user, expected in USERS:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL bodata.impersonation_token = '{token_of(world, user)}'")
                rows = await connection.fetch(CARRIERS.format("$1"), 0)
                assert [row["carrier"] for row in rows] == expected
    asynchronously(world, test, statement_cache_size=0)


# -- psycopg2, poolers, and what PostgreSQL does in the background ------------------------------------------------

@pytest.mark.parametrize("reset", ["DISCARD ALL", "RESET ALL", "CLOSE ALL; UNLISTEN *; RESET ALL",
                                   "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; CLOSE ALL; UNLISTEN *; "
                                   "DISCARD SEQUENCES; DISCARD TEMP", "DEALLOCATE ALL", "SELECT 1", ""])
def test_what_poolers_send_between_transactions(world, service, reset):
    for user, expected in USERS * 2:
        impersonate(service, token_of(world, user))
        assert carriers(service) == expected
        service.commit()
        service.autocommit = True
        for statement in filter(None, reset.split(";")):
            query(service, statement)
        service.autocommit = False


def test_psycopg2_savepoints_cursors_and_copy(world, service):
    impersonate(service, token_of(world, "alice"))
    query(service, "SAVEPOINT django")
    with pytest.raises(Exception, match="division"):
        query(service, "SELECT 1/0")
    query(service, "ROLLBACK TO SAVEPOINT django")
    assert rows_seen(service) == 100
    with service.cursor("named") as cursor:
        cursor.execute("SELECT carrier FROM app.flights")
        assert {row[0] for row in cursor} == {"UA"}
    with service.cursor() as cursor:
        cursor.copy_expert("COPY alice.seen FROM STDIN", io.StringIO("copied\talice\n"))
    assert query(service, "SELECT * FROM alice.seen") == [("copied", "alice")]
    service.rollback()


def test_large_objects_are_the_users(world, service):
    """psycopg2's go by function call messages."""
    impersonate(service, token_of(world, "alice"))
    made = service.lobject(mode="wb")
    made.write(b"alices")
    made.close()
    service.commit()
    assert world.value("SELECT pg_get_userbyid(lomowner) FROM pg_largeobject_metadata WHERE oid = %s",
                       (made.oid,)) == "alice"
    with pytest.raises(Exception, match="token"):
        service.lobject(made.oid, "rb")
    service.rollback()
    impersonate(service, token_of(world, "bob"))
    with pytest.raises(Exception, match="permission denied"):
        service.lobject(made.oid, "rb").read()
    service.rollback()
    world.sql("SELECT lo_unlink(%s)", (made.oid,))


PARALLEL = ["SET LOCAL parallel_setup_cost = 0", "SET LOCAL parallel_tuple_cost = 0",
            "SET LOCAL min_parallel_table_scan_size = 0", "SET LOCAL max_parallel_workers_per_gather = 2"]


def test_parallel_workers_run_as_the_user(world, session):
    """Row 18: row policies, current_user and settings; the token is not handed to them."""
    world.sql("ALTER TABLE app.flights SET (parallel_workers = 2)")
    try:
        session.begin()
        for setting in PARALLEL:
            session.ok(setting)
        # Without a leader that takes part, whatever is counted was counted in a worker.
        session.ok("SET LOCAL parallel_leader_participation = off")
        plan = "\n".join(row[0] for row in session.rows(f"EXPLAIN (ANALYZE, COSTS OFF) {COUNT}"))
        assert "Workers Launched: 2" in plan, plan
        assert session.rows(COUNT) == ALICE_ROWS
        assert session.rows("SELECT DISTINCT carrier, current_user FROM app.flights") == [("UA", "alice")]
        shown = session.rows("SELECT DISTINCT current_setting('bodata.impersonation_token') FROM app.flights")
        assert set(shown) <= {("",), ("********",)}
        assert session.value("SELECT count(*) FROM app.flights WHERE current_user <> 'alice'") == "0"
        session.ok("SAVEPOINT s")
        session.refused("SELECT count(*) FROM app.flights WHERE 1 / (id % 3) >= 0 AND 1 / (delay - delay) > 0",
                        "22012")
        session.ok("ROLLBACK TO s")
        session.is_alice()
        session.ok("COMMIT")
        session.leaves_nothing()
    finally:
        world.sql("ALTER TABLE app.flights RESET (parallel_workers)")


def test_what_runs_in_a_worker_is_checked_as_elsewhere(session, connect):
    """For the user, for a login that needs no token, and inside a superuser's function."""
    def in_worker(session, command):
        return session.run("SELECT app.in_worker($1)", command)

    assert in_worker(session, "SELECT app.superusers_count()").rows == [("300",)]
    session.begin()
    for command, value in (("SELECT count(*) FROM app.flights", "100"), ("SELECT alice.definer_reads()", "100"),
                           ("SELECT current_user", "alice"), ("SELECT app.owners_count()", "300"),
                           ("SELECT count(*) FROM app.everyone", "1")):
        assert in_worker(session, command).rows == [(value,)]
    for command in ("SELECT set_config('role', 'none', false)", "RESET ROLE", "SELECT count(*) FROM pg_authid",
                    "SELECT set_config('bodata.impersonation_token', '', true)",
                    "SET SESSION AUTHORIZATION DEFAULT"):
        session.ok("SAVEPOINT s")
        assert in_worker(session, command).error is not None, command
        session.ok("ROLLBACK TO s")
        session.is_alice()
    session.ok("COMMIT")
    session.begin("bob")
    session.ok("SAVEPOINT s")
    assert in_worker(session, "SELECT count(*) FROM private.notes").error["C"] == "42501"
    session.ok("ROLLBACK TO s")
    assert in_worker(session, "SELECT count(*) FROM app.flights").rows == [("100",)]
    session.ok("COMMIT")
    migrator = connect(session.mode, "migrator", "migrator-password")
    assert in_worker(migrator, "SELECT count(*) FROM app.orders").rows == [("300",)]
    session.leaves_nothing()


def test_sessions_that_impersonate_nobody_are_as_ever(world, connect):
    """G7: a login that is no service user may do all that is refused to others."""
    session = connect("extended", "plain", "plain-password")
    for statement in ("SELECT * FROM app.everyone", "CREATE TEMP TABLE x (a int)", "SET search_path = app",
                      "LISTEN c",
                      "SELECT pg_advisory_lock(1)", "PREPARE s AS SELECT 1", "EXECUTE s", "DEALLOCATE s",
                      "DO 'BEGIN NULL; END'", "SELECT setseed(0.5)", "SET app.tenant = 'plain'", "BEGIN",
                      "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "COMMIT", "FETCH c", "DISCARD ALL",
                      "SELECT nextval('app.numbers')", "SELECT lastval()", "SET ROLE plain", "RESET ROLE",
                      "SELECT count(*) FROM pg_stat_activity", "SELECT lo_unlink(lo_creat(-1))", "NOTIFY c",
                      "SET SESSION AUTHORIZATION plain", "RESET SESSION AUTHORIZATION",
                      "ALTER ROLE plain SET work_mem = '5MB'",
                      "ALTER ROLE plain RESET ALL"):
        session.ok(statement)
    session.ok("BEGIN")
    session.ok("PREPARE TRANSACTION 'plains'")
    session.ok("COMMIT PREPARED 'plains'")
