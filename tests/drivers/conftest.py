"""Other drivers, ORMs and poolers than those that the rest of the tests are written with: the honest twins of the
attacks. A server of its own."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.fixtures import *  # noqa: E402,F401,F403
from harness.pooler import PgBouncer, later_program  # noqa: E402
from harness.world import SERVICE, World, prepare  # noqa: E402
from harness.fixtures import logs_no_secret, no_process_crashed  # noqa: E402

# Written to by alice; each user sees their own rows.
SQL = """
SET ROLE owner;
CREATE TABLE app.orders (id serial PRIMARY KEY, carrier text NOT NULL, note text, at timestamptz DEFAULT now());
INSERT INTO app.orders (carrier) SELECT (ARRAY['UA', 'AA', 'DL'])[1 + i % 3] FROM generate_series(1, 30) i;
ALTER TABLE app.orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY alice_sees ON app.orders TO alice USING (carrier = 'UA');
CREATE POLICY bob_sees ON app.orders TO bob USING (carrier = 'AA');
CREATE POLICY carol_sees ON app.orders TO carol USING (carrier = 'DL');
GRANT SELECT, INSERT, UPDATE, DELETE ON app.orders TO alice, bob, carol;
GRANT USAGE ON SEQUENCE app.orders_id_seq TO alice, bob, carol;
"""


@pytest.fixture(scope="session")
def server_name():
    return "drivers"


@pytest.fixture(scope="session")
def quick_logins():
    """pgjdbc refuses them."""
    return False


@pytest.fixture(scope="session")
def world(server):
    server.psql(input=SQL, dbname="immuta")
    world = World(server)
    yield world
    no_process_crashed(world)
    logs_no_secret(world)


@pytest.fixture(scope="session")
def tokens(world):
    return {user: world.token(user) for user in ("alice", "bob", "carol")}


@pytest.fixture(scope="session")
def pooler(world):
    """A PgBouncer that knows prepared statements, with a single connection to the server: what one user leaves, the
    next would meet."""
    with PgBouncer(world.server, *SERVICE, world.dbname, pool_size=1, program=later_program(),
                   settings=["max_prepared_statements = 20", "ignore_startup_parameters = extra_float_digits"]) as it:
        yield it


@pytest.fixture(params=["direct", "PgBouncer"])
def port(request, world):
    """Of the server, or of PgBouncer before it."""
    return world.server.port if request.param == "direct" else request.getfixturevalue("pooler").port


@pytest.fixture
def where(world, port):
    return dict(host="127.0.0.1", port=port, user=SERVICE[0], password=SERVICE[1], dbname=world.dbname)
