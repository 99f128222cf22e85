"""ALTER EXTENSION immuta_ext UPDATE, to a version that this test makes: a table, a column, a setting and two functions more.
docs/installing.md, "Upgrading".

Threats: 55 (docs/threats.md).
"""

import difflib
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest
from conftest import ACCESS, PAIRS, ROLES, SYSTEM, sees, unwell
from harness.fixtures import refuses
from harness.releases import CURRENT, NEXT, PRELOADED, RELEASED, Tree, library_of_next, releases, shape
from harness.server import ROOT, Server
from harness.world import World, impersonate, prepare, query

VERSION = max(new for _, new in PAIRS)
UPDATE = f"immuta_ext--{CURRENT}--{NEXT}.sql"
READ = "SELECT count(*) FROM app.everyone"
CLOSED = (ROOT / "sql/closed.sql").read_text()

MORE = """
ALTER TABLE immuta.user_account ADD COLUMN nickname text;
CREATE TABLE immuta.next (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text NOT NULL);
REVOKE ALL ON immuta.next FROM PUBLIC;
GRANT SELECT ON immuta.next TO immuta_admin;
COMMENT ON TABLE immuta.next IS 'what the next version has';
SELECT pg_catalog.pg_extension_config_dump('immuta.next', '');
CREATE FUNCTION immuta_internal.next() RETURNS boolean LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'immuta_next_wrapper';
COMMENT ON FUNCTION immuta_internal.next() IS 'what the setting says';
CREATE FUNCTION immuta.is_next() RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN immuta_internal.next(); END $$;
COMMENT ON FUNCTION immuta.is_next() IS 'what the setting says';
"""


def scripts(tree, update=MORE + CLOSED):
    """Those of the next version: as it is made in an empty database, and as it is made of this one."""
    assert tree.script.count(CLOSED) == 1
    return {f"immuta_ext--{NEXT}.sql": tree.script.replace(CLOSED, MORE + CLOSED), UPDATE: PRELOADED + update}


@pytest.fixture
def preload():
    return "session"


@pytest.fixture
def tree():
    tree = Tree(VERSION, "update")
    yield tree
    tree.remove()


@pytest.fixture
def world(tree, preload):
    with Server(VERSION, "update", preload=preload, trees=tree.root, environment={"IMMUTA_NEXT_VERSION": "1"}) as server:
        yield World(server)


class Watch:
    """A service login that tries to read without a token, all the time: in a connection that stays and in new ones."""

    def __init__(self, world):
        self.world = world
        self.seen, self.answers, self.tries = [], set(), 0
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.stay), threading.Thread(target=self.come_and_go)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def read(self, connection):
        connection.autocommit = True
        self.tries += 1
        try:
            self.seen.append(query(connection, READ))
        except psycopg2.Error as error:
            self.answers.add(error.pgcode)

    def stay(self):
        self.connected(lambda connection: not connection.closed)

    def come_and_go(self):
        self.connected(lambda _: False)

    def connected(self, again):
        while not self.over.is_set():
            try:
                connection = self.world.connect()
            except psycopg2.OperationalError:
                continue
            self.read(connection)
            while again(connection) and not self.over.is_set():
                time.sleep(0.002)
                self.read(connection)
            connection.close()


def contents(world):
    """Of the extension's tables, as far as this version has them, without the uses of tokens."""
    tables = world.sql("SELECT c.oid::regclass::text, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) "
                       "FROM pg_extension e, unnest(e.extconfig) t (oid), pg_class c, pg_attribute a "
                       "WHERE c.oid = t.oid AND c.relkind IN ('r', 'p') AND a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
                       "AND a.attname NOT IN ('nickname', 'last_used_at') AND c.relname <> 'next' GROUP BY c.oid")
    assert len(tables) > 25
    return {table: {row for (row,) in world.sql(f"SELECT ROW({columns})::text FROM {table}")} for table, columns in tables}


def anybody(world, connection):
    """Whoever has nothing to do with impersonation notices nothing, not in a parallel worker either."""
    query(connection, "SET debug_parallel_query = on" if int(VERSION) >= 16 else "SET force_parallel_mode = on")
    assert query(connection, READ) == [(1,)]
    with world.connect("plain", "plain-password") as fresh:
        assert query(fresh, READ) == [(1,)]
    fresh.close()


def is_held(world, connection, token, remedy):
    """With and without a token."""
    with refuses("55000", "IMPERSONATION_NOT_SUPPORTED") as refused:
        query(connection, READ)
    assert remedy in refused.hint
    connection.rollback()
    with refuses("55000", "IMPERSONATION_NOT_SUPPORTED") as refused:
        impersonate(connection, token)
    assert remedy in refused.hint
    connection.rollback()


def works(connection, token):
    with refuses("42501"):
        query(connection, READ)
    connection.rollback()
    impersonate(connection, token)
    assert query(connection, "SELECT region FROM sales.orders") == [("US",)]
    connection.rollback()


def database(world, name, statements):
    """An empty database with the extension."""
    world.sql(f"CREATE DATABASE {name}")
    world.sql(f"ALTER DATABASE {name} SET session_preload_libraries = 'immuta_ext'")
    world.server.psql(*(word for statement in statements for word in ("-c", statement)), dbname=name)
    return shape(world.server, name)


def differences(one, another):
    return [line for line in difflib.unified_diff(one, another, lineterm="", n=0) if not re.match(r"---|\+\+\+|@@", line)]


def superuser(world, **extra):
    connection = psycopg2.connect(**world.server.dsn(dbname="immuta", **extra))
    connection.autocommit = True
    return connection


def reads_masked(world, connection=None):
    """Whoever sees a mask in a session of their own."""
    own = connection or world.connect("cleo", "cleo-password")
    try:
        return query(own, "SELECT name FROM sales.customers") != [("a",)]
    finally:
        own.rollback()
        if own is not connection:
            own.close()


def waits_for_update(world, service, plain, token):
    """The SQL is older than the library: nobody has more access than before, who has nothing to do with it notices nothing."""
    is_held(world, service, token, "ALTER EXTENSION immuta_ext UPDATE")
    anybody(world, plain)
    # What is masked is not read.
    with refuses("42501"):
        reads_masked(world)
    [(ok, detail)] = world.sql("SELECT ok, detail FROM immuta.doctor()")
    assert not ok and "is older than its library" in detail


@pytest.mark.parametrize("preload", ["session", "shared"])
def test_an_update(world, tree, preload):
    server = world.server
    prepare(server, before="CREATE SCHEMA sales")
    server.psql(input=ROLES + ACCESS, dbname="immuta")
    world.sql("ALTER ROLE cleo LOGIN PASSWORD 'cleo-password'; SELECT immuta.set_user_groups('cleo', '{readers}')")
    before, token, data = sees(world), world.token("ben"), contents(world)
    assert unwell(world) == ([], [])
    old, long, plain, admin = world.connect(), world.connect(), world.connect("plain", "plain-password"), superuser(world)
    subscriber = world.connect("cleo", "cleo-password")
    plain.autocommit = True
    impersonate(long, token)
    with Watch(world) as watch:
        # The files come first. Nobody notices who is connected, or whose sessions are made by the running server.
        tree.install(library_of_next(VERSION))
        tree.offer(NEXT, scripts(tree))
        works(old, token)
        anybody(world, plain)
        assert reads_masked(world, subscriber)
        assert query(long, "SELECT region FROM sales.orders") == [("US",)]
        # The library that runs is not the new one: the update is refused as a whole, for want of a function or of the rest.
        for script, refusal in ((MORE + CLOSED, "42883"), ("SELECT", "55000")):
            tree.offer(NEXT, scripts(tree, script))
            with refuses(refusal):
                query(admin, "ALTER EXTENSION immuta_ext UPDATE")
            works(old, token)
        # It was not somebody who failed to impersonate.
        assert not any(re.search('"impersonatedBy": ?"postgres"', line) for line in server.lines_with("REFUSED"))
        if preload == "shared":
            new = world.connect()
            works(new, token)
            new.close()
            query(long, "SELECT 1")
            for connection in (old, long, plain, admin, subscriber):
                connection.close()
            world.admin.close()
            server.restart()
            old, plain, admin = world.connect(), world.connect("plain", "plain-password"), superuser(world)
            plain.autocommit = True
        # The new library with the old SQL.
        world.admin.close()
        new = world.connect()
        waits_for_update(world, new, plain, token)
        world.sql("SET ROLE data_owner; CREATE TABLE sales.meanwhile (id int); DROP TABLE sales.meanwhile; RESET ROLE")
        # An update that fails in its last statement leaves nothing.
        was = shape(server, "immuta")
        tree.offer(NEXT, scripts(tree, MORE + CLOSED + "SELECT 1/0;"))
        with refuses("22012"):
            world.sql("ALTER EXTENSION immuta_ext UPDATE")
        assert differences(was, shape(server, "immuta")) == [] and contents(world) == data
        is_held(world, new, token, "ALTER EXTENSION immuta_ext UPDATE")
        # One that leaves out what the library needs is refused.
        tree.offer(NEXT, scripts(tree, "ALTER TABLE immuta.project RENAME TO gone;"))
        with refuses("55000"):
            world.sql("ALTER EXTENSION immuta_ext UPDATE")
        tree.offer(NEXT, scripts(tree))
        # Nor is one of which nobody would hear.
        if preload == "session":
            bare = superuser(world, options="-c session_preload_libraries=")
            with refuses("55000", "IMPERSONATION_NOT_SUPPORTED"):
                query(bare, "ALTER EXTENSION immuta_ext UPDATE")
            bare.close()
        # While it is under way nobody sees any of it.
        world.sql("BEGIN; ALTER EXTENSION immuta_ext UPDATE")
        anybody(world, plain)
        with new.cursor() as cursor, pytest.raises(psycopg2.Error):
            cursor.execute(READ)
        new.rollback()
        # Whoever needs a table that it changes waits for its end.
        with ThreadPoolExecutor() as threads:
            if preload == "session":
                assert query(long, "SELECT session_user") == [("svc",)]
                rows = threads.submit(query, long, "SELECT region FROM sales.orders")
                time.sleep(0.1)
                assert not rows.done()
            world.sql("COMMIT")
            if preload == "session":
                assert rows.result(20) == [("US",)]
        works(new, token)
        assert reads_masked(world)
        if preload == "session":
            with refuses("42501"):
                reads_masked(world, subscriber)
            subscriber.close()
            # A transaction goes on as it began, unless a row policy asks about its user. The old library is held back in its turn.
            assert query(long, "SELECT session_user") == [("svc",)]
            with refuses("55000"):
                query(long, "SELECT region FROM sales.orders")
            long.rollback()
            is_held(world, long, token, "Connect again")
            is_held(world, old, token, "Connect again")
            long.close()
        else:
            works(old, token)
        anybody(world, plain)
        new.close()
        old.close()
    assert watch.seen == [] and watch.tries > 100 and watch.answers <= {"42501", "55000", None, "57P01", "57P03"}
    # Everybody has what they had, nothing is lost, and what is new is there.
    world.admin.close()
    assert sees(world) == before
    assert unwell(world) == ([], [])
    after = contents(world)
    assert {table for table in data if after[table] != data[table]} == {"immuta.token"} and after["immuta.token"] > data["immuta.token"]
    assert world.sql("SELECT extversion FROM pg_extension WHERE extname = 'immuta_ext'") == [(NEXT,)]
    world.sql("SET bodata.next = on; INSERT INTO immuta.next (note) VALUES ('kept')")
    assert world.sql("SELECT immuta.is_next()") == [(True,)]
    assert "'kept'" in server.run_client("pg_dump", "--data-only", "--inserts", "--dbname", "immuta").stdout
    system = world.connect(*SYSTEM)
    system.autocommit = True
    query(system, "SELECT immuta.unsubscribe('ben', 'sales.orders')")
    system.close()
    with refuses("42501"):
        works(world.connect(), token)


def test_its_result_is_that_of_a_new_installation(world, tree):
    """And whoever forgets something in the script is told by the comparison."""
    world.dbname = "postgres"
    tree.install(library_of_next(VERSION))
    tree.offer(NEXT, scripts(tree))
    new = database(world, "new", ["CREATE EXTENSION immuta_ext"])
    chain = [f"CREATE EXTENSION immuta_ext VERSION '{CURRENT}'", "ALTER EXTENSION immuta_ext UPDATE"]
    assert len(new) > 3000 and differences(new, database(world, "updated", chain)) == []
    for at, (forgotten, shown) in enumerate({
            CLOSED: "immuta_internal.next()",
            "COMMENT ON TABLE immuta.next IS 'what the next version has';": "what the next version has",
            "SELECT pg_catalog.pg_extension_config_dump('immuta.next', '');": "immuta.next",
            "ALTER TABLE immuta.user_account ADD COLUMN nickname text;": "nickname"}.items()):
        tree.offer(NEXT, scripts(tree, (MORE + CLOSED).replace(forgotten, "")))
        found = differences(new, database(world, f"forgotten{at}", chain))
        assert any(shown in line for line in found), forgotten


def test_each_release_becomes_this_version(world, tree):
    """By the scripts that were frozen, and those between them."""
    world.dbname = "postgres"
    tree.offer(CURRENT, {file.name: file.read_text() for folder in (RELEASED, ROOT / "sql") for file in folder.glob("immuta_ext--*.sql")})
    new = database(world, "new", ["CREATE EXTENSION immuta_ext"])
    for at, release in enumerate({*releases(), CURRENT}):
        chain = [f"CREATE EXTENSION immuta_ext VERSION '{release}'", "ALTER EXTENSION immuta_ext UPDATE"]
        assert len(new) > 3000 and differences(new, database(world, f"release{at}", chain)) == [], release


def test_an_update_that_changes_nothing_but_the_version(world, tree):
    """Sessions hear of it all the same, also of a step on the way to the version of the library."""
    world.dbname, between = "postgres", f"{CURRENT}.0"
    database(world, "same", [f"CREATE EXTENSION immuta_ext VERSION '{CURRENT}'"])
    world.sql("CREATE ROLE svc LOGIN PASSWORD 'service-password' IN ROLE bodata_impersonate_user")
    world.server.psql("-c", "CREATE TABLE granted (); GRANT SELECT ON granted TO PUBLIC", dbname="same")
    old = world.connect(dbname="same")
    tree.install(library_of_next(VERSION))
    steps = {f"immuta_ext--{one}--{other}.sql": PRELOADED for one, other in ((CURRENT, between), (between, NEXT))}
    tree.offer(NEXT, scripts(tree, "SELECT;") | steps)
    new = world.connect(dbname="same")
    for connection, expected in ((old, "42501"), (new, "55000")):
        with refuses(expected):
            query(connection, "SELECT FROM granted")
        connection.rollback()
    for version, expected in ((between, "55000"), (NEXT, "42501")):
        world.server.psql("-c", f"ALTER EXTENSION immuta_ext UPDATE TO '{version}'", dbname="same")
        for connection, held in ((old, "55000"), (new, expected)):
            with refuses(held):
                query(connection, "SELECT FROM granted")
            connection.rollback()
    old.close()
    new.close()
