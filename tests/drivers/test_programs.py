"""Programs that are no drivers: psql, pg_dump, pgcli, dbt; and pgpool-II."""

import json
import os
import subprocess

import psycopg
import pytest
from environments import python
from harness import debian
from harness.pooler import PgPool
from harness.world import SERVICE

CARRIER = {"alice": "UA", "bob": "AA", "carol": "DL"}


@pytest.fixture(scope="session")
def reporter(world):
    """A login whose connections may be a user's: programs that know nothing of tokens get one by PGOPTIONS."""
    world.sql("CREATE ROLE reporter LOGIN PASSWORD 'reporter-password' IN ROLE bodata_impersonate_user; "
              "ALTER ROLE reporter SET bodata.allow_session_impersonation = on")
    yield dict(PGHOST="127.0.0.1", PGPORT=str(world.server.port), PGUSER="reporter", PGPASSWORD="reporter-password",
               PGDATABASE=world.dbname)
    world.sql("DROP ROLE reporter")


def run(*words, **environment):
    done = subprocess.run([str(word) for word in words], text=True, capture_output=True, timeout=120,
                          env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def as_user(token):
    return {"PGOPTIONS": f"-c bodata.impersonation_token={token}"}


def test_psql_with_on_error_rollback(world, tokens, server):
    """It sets a savepoint before each statement, also before the one that brings the token."""
    script = "".join(f"BEGIN;\nSET LOCAL bodata.impersonation_token = '{tokens[user]}';\nSELECT 1/0;\n"
                     "SELECT current_user, min(carrier), max(carrier) FROM app.orders;\nCOMMIT;\n" for user in CARRIER)
    psql = server.program("psql")
    done = subprocess.run([psql, "-XAtq", "-v", "ON_ERROR_ROLLBACK=on", f"host=127.0.0.1 port={server.port} "
                           f"user={SERVICE[0]} password={SERVICE[1]} dbname={world.dbname}"],
                          input=script, text=True, capture_output=True, env=server.client_environment())
    assert done.stdout.splitlines() == [f"{user}|{carrier}|{carrier}" for user, carrier in CARRIER.items()], done.stderr
    assert done.stderr.count("division by zero") == 3 and done.stderr.count("ERROR") == 3


def test_pg_dump(reporter, tokens, server):
    """Of a connection that is the user's: their rows."""
    dump = server.program("pg_dump")
    text = run(dump, "-t", "app.flights", "--data-only", "--enable-row-security",
               **{**server.client_environment(), **reporter, **as_user(tokens["bob"])})
    assert text.count("\tAA\t") == 100 and "\tUA\t" not in text


def test_pgcli(reporter, tokens, world):
    program = python().parent / "pgcli"
    for user, carrier in CARRIER.items():
        text = run(program, "--single-connection", "--less-chatty", "-t", "-c",
                   "SELECT current_user, min(carrier), max(carrier) FROM app.orders", HOME=str(world.server.home),
                   XDG_CONFIG_HOME=str(world.server.home / "config"), **reporter, **as_user(tokens[user]))
        assert text.split("|")[1:4] == [f" {user} ", f" {carrier} ", f" {carrier} "] or \
            [word for word in text.split() if word.isalnum()][-3:] == [user, carrier, carrier], text


@pytest.fixture(scope="module")
def pgpool(world):
    with PgPool(world.server, *SERVICE, debian.program("pgpool2")) as it:
        yield it


def test_pgpool(pgpool, world, tokens):
    """One connection to the server, a client after the other, prepared statements included."""
    seen = set()
    for number in range(12):
        user = list(CARRIER)[number % 3]
        with psycopg.connect(host="127.0.0.1", port=pgpool.port, user=SERVICE[0], password=SERVICE[1], sslmode="disable",
                             dbname=world.dbname, prepare_threshold=0, autocommit=True) as client:
            for _ in range(3):
                with client.transaction():
                    client.execute("SELECT set_config('bodata.impersonation_token', %s, true)", (tokens[user],))
                    row = client.execute("SELECT min(carrier), max(carrier) FROM app.orders WHERE id > %s", (0,)).fetchone()
                    assert row == (CARRIER[user],) * 2
                    client.execute("SET work_mem = '5MB'")
                    seen.add(client.execute("SELECT pg_backend_pid()").fetchone())
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    client.execute("SELECT count(*) FROM app.orders")
            assert client.execute("SHOW work_mem").fetchone() == ("4MB",)
    assert len(seen) == 1
