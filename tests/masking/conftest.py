"""One server, and the same scene in two databases: `immuta`, where columns are masked, and `off`, where nothing is, and they
are excluded all the same. What is not rewritten must be refused: whatever gives a mask in the one is 42501 in the other."""

import sys
from pathlib import Path

import psycopg2
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import scene  # noqa: E402
from harness.fixtures import *  # noqa: E402,F401,F403
from harness.fixtures import TALKATIVE, VERSION  # noqa: E402
from harness.server import Server  # noqa: E402
from harness.world import impersonate, prepare  # noqa: E402


@pytest.fixture(scope="session")
def server_name():
    return "masking"


@pytest.fixture(scope="session")
def server(server_name):
    """Beside extensions that hook the planner and show plans, one before ours and one after it."""
    beside = ["shared_preload_libraries=pg_stat_statements,immuta_ext,auto_explain", "auto_explain.log_min_duration=0",
              "auto_explain.log_analyze=on", "auto_explain.log_verbose=on", "auto_explain.log_nested_statements=on"]
    with Server(VERSION, server_name, environment={"RUST_BACKTRACE": "1"}, options=[*TALKATIVE, *beside]) as server:
        prepare(server)
        yield server


@pytest.fixture(scope="session")
def masked(world):
    """The world with the scene in both databases."""
    world.sql("CREATE ROLE mallory LOGIN PASSWORD 'mallory-password' IN ROLE immuta_subscriber; "
              "CREATE ROLE excepted LOGIN PASSWORD 'excepted-password' IN ROLE immuta_subscriber; "
              "CREATE ROLE data_owner LOGIN PASSWORD 'owner-password'; GRANT mallory TO alice; GRANT immuta_subscriber TO alice")
    world.server.psql("-c", "CREATE DATABASE off")
    world.server.psql("-c", "CREATE EXTENSION immuta_ext", dbname="off")
    for database in (world.dbname, "off"):
        world.server.psql(input=scene.sql(int(VERSION)), dbname=database)
    world.server.psql("-c", "DELETE FROM immuta.masks", dbname="off")
    return world


@pytest.fixture(scope="session")
def has_xml(masked):
    """Whether PostgreSQL was built with libxml."""
    try:
        return bool(masked.sql("SELECT '<a/>'::xml"))
    except psycopg2.errors.FeatureNotSupported:
        return False


@pytest.fixture(autouse=True)
def needs_xml(request, has_xml):
    if not has_xml and "xml" in getattr(getattr(request.node, "callspec", None), "id", "").lower():
        pytest.skip("this server has no XML")


class Seen:
    """All that a client got to see of some statements."""

    def __init__(self):
        self.sqlstate = self.code = self.hint = None
        self.parts, self.rows = [], []

    @property
    def text(self):
        return "\n".join(map(str, self.parts))


def run(connection, statements):
    """Runs them in a transaction that is rolled back."""
    seen = Seen()
    del connection.notices[:]
    try:
        with connection.cursor() as cursor:
            for statement in statements.split(";;"):
                if statement.strip().startswith("COPY") and "STDOUT" in statement:
                    import io
                    out = io.StringIO()
                    cursor.copy_expert(statement, out)
                    seen.rows = [tuple(line.split("\t")) for line in out.getvalue().splitlines()]
                else:
                    cursor.execute(statement)
                    seen.rows = cursor.fetchall() if cursor.description else []
                seen.parts += seen.rows
    except psycopg2.Error as error:
        seen.sqlstate, seen.code, seen.hint = error.pgcode, error.diag.message_detail, error.diag.message_hint
        seen.parts += [error, *(getattr(error.diag, name) for name in dir(error.diag) if not name.startswith("_"))]
    finally:
        seen.parts += connection.notices
        connection.rollback()
    return seen


@pytest.fixture(scope="session")
def sessions(masked):
    """One connection for each role and database, used by one test after the other."""
    opened = {}

    def session(user="mallory", database=masked.dbname):
        key = user, database
        if key not in opened or opened[key].closed:
            passwords = {"mallory": "mallory-password", "excepted": "excepted-password", "data_owner": "owner-password"}
            opened[key] = masked.connect(user, passwords[user], database)
        return opened[key]

    yield session
    for connection in opened.values():
        connection.close()


@pytest.fixture(scope="session")
def tokens(masked):
    """Tokens of alice, who has the rights of mallory and is as much a subscriber."""
    return masked.token("alice")


@pytest.fixture
def as_alice(masked, tokens):
    connection = masked.connect()
    impersonate(connection, tokens)
    yield connection
    connection.close()
