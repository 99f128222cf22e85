"""The clients that people use, each through the same two hundred transactions of three users on two connections: see
`clients/scenario.py`. What cannot be had here is named in docs/compatibility.md."""

import json
import os
import subprocess

import pytest
from environments import CLIENTS, go_program, java, node_program, odbc, php, prisma, python, ruby, rust
from harness.pooler import PROGRAM, PgBouncer, later_program
from harness.world import SERVICE


@pytest.fixture
def given(world, tokens):
    where = dict(host="127.0.0.1", port=world.server.port, user="svc", password="service-password",
                 dbname=world.dbname)
    return dict(where=where, tokens=tokens)


def run(words, given, environment={}):
    done = subprocess.run([str(word) for word in words], text=True, input=json.dumps(given), capture_output=True, timeout=120,
                          env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert done.stdout.split()[-2:] == ["done", "200"], done.stdout


@pytest.mark.parametrize("client", ["psycopg2", "psycopg", "pipeline", "sqlalchemy", "sqlalchemy-orm", "django"])
def test_python(given, client):
    run([python(), CLIENTS / "python_sync.py", client], given)


POOLERS = {"PgBouncer 1.18": ("psycopg2", lambda *where: PgBouncer(*where, pool_size=2, program=PROGRAM)),
           "PgBouncer 1.24": ("psycopg", lambda *where: PgBouncer(*where, pool_size=2, program=later_program(),
                                                                  settings=["max_prepared_statements = 20"]))}


@pytest.mark.parametrize("name", POOLERS)
def test_pooler(world, given, name):
    """Before PgBouncer 1.21 drivers cannot prepare statements."""
    client, start = POOLERS[name]
    world.sql("ALTER ROLE svc SET bodata.shared_connections = on")
    try:
        with start(world.server, *SERVICE, world.dbname) as pooler:
            given["where"] |= dict(port=pooler.port, sslmode="disable")
            run([python(), CLIENTS / "python_sync.py", client], given)
    finally:
        world.sql("ALTER ROLE svc RESET bodata.shared_connections")


@pytest.mark.parametrize("client", ["psycopg", "asyncpg", "sqlalchemy"])
def test_python_async(given, client):
    run([python(), CLIENTS / "python_async.py", client], given)


@pytest.mark.parametrize("client", ["pg", "postgres", "knex", "sequelize", "typeorm", "drizzle"])
def test_node(given, client):
    run(["node", node_program(CLIENTS / "node.mjs", CLIENTS / "scenario.mjs")], {**given, "client": client})


def test_prisma(given):
    run(["node", prisma()], given)


@pytest.mark.parametrize("program", ["matrix", "sqlx"])
def test_rust(given, program):
    run([rust(program)], given)


def test_pgx(given):
    run([go_program(CLIENTS / "matrix.go")], given)


def test_odbc(given):
    driver, environment = odbc()
    run([python(), CLIENTS / "python_sync.py", "odbc", driver], given, environment)


def test_odbc_by_cursors(given):
    """UseDeclareFetch=1 reads by cursors that outlive the transaction."""
    driver, environment = odbc()
    with pytest.raises(AssertionError, match="a cursor WITH HOLD would outlive the transaction"):
        run([python(), CLIENTS / "python_sync.py", "odbc-cursors", driver], given, environment)


# The server tells pgjdbc apart by how it prepares, and by the savepoints it sets.
@pytest.mark.parametrize("autosave,threshold", [("never", 5), ("never", 1), ("always", 1), ("always", 0),
                                                ("conservative", 5), ("conservative", 1)])
def test_jdbc(given, autosave, threshold):
    where, tokens = given["where"], given["tokens"]
    environment = dict(HOST=where["host"], PORT=str(where["port"]), DBNAME=where["dbname"], SERVICE=where["user"],
                       PASSWORD=where["password"], AUTOSAVE=autosave, THRESHOLD=str(threshold),
                       **{user.upper(): token for user, token in tokens.items()})
    path = java("HikariCP", "slf4j-api", "slf4j-nop")
    run(["java", "-XX:TieredStopAtLevel=1", "-cp", path, CLIENTS / "Matrix.java"], given, environment)


def test_active_record(given):
    words, environment = ruby()
    run([*words, CLIENTS / "matrix.rb"], given, environment)


@pytest.mark.parametrize("client", ["prepared", "emulated"])
def test_pdo(given, client):
    run([*php(), CLIENTS / "matrix.php"], {**given, "client": client})


def test_laravel(given):
    """Its database layer, as Debian has it; PHP 8.2 finds much of that old-fashioned."""
    run([*php("php-illuminate-database"), "-d", "error_reporting=1", CLIENTS / "laravel.php"], given)
