"""The clients that people use, each through the same two hundred transactions of three users on two connections: see
`clients/scenario.py`. What cannot be had here is named in docs/compatibility.md."""

import json
import subprocess

import pytest
from environments import CLIENTS, node_program, python


@pytest.fixture
def given(world, tokens):
    where = dict(host="127.0.0.1", port=world.server.port, user="svc", password="service-password",
                 dbname=world.dbname)
    return dict(where=where, tokens=tokens)


def run(words, given, **options):
    done = subprocess.run([str(word) for word in words], text=True, input=json.dumps(given), capture_output=True, timeout=120,
                          **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert done.stdout.split()[-2:] == ["done", "200"], done.stdout


@pytest.mark.parametrize("client", ["psycopg2", "psycopg", "pipeline", "sqlalchemy", "sqlalchemy-orm", "django"])
def test_python(given, client):
    run([python(), CLIENTS / "python_sync.py", client], given)


@pytest.mark.parametrize("client", ["psycopg", "asyncpg", "sqlalchemy"])
def test_python_async(given, client):
    run([python(), CLIENTS / "python_async.py", client], given)


@pytest.mark.parametrize("client", ["pg", "postgres", "knex", "sequelize", "typeorm", "drizzle"])
def test_node(given, client):
    run(["node", node_program(CLIENTS / "node.mjs", CLIENTS / "scenario.mjs")], {**given, "client": client})
