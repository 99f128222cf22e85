"""A server of its own for the attacks: the small world and what attackers may have planted in it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import scene  # noqa: E402
from harness.fixtures import *  # noqa: E402,F401,F403
from harness.fixtures import VERSION, logs_no_secret, no_process_crashed  # noqa: E402
from harness.world import World  # noqa: E402


@pytest.fixture(scope="session")
def server_name():
    return "attacks"


def create_trusted_twins(world):
    """Some of alice's functions once more in schema app, owned by the superuser: those work without a token."""
    for name in ("runs", "runs_immutable", "sets_path", "sets_path_immutable", "sets_path_caught",
                 "lurks", "waits", "worker", "in_worker"):
        definition = world.value("SELECT pg_get_functiondef(oid) FROM pg_proc "
                                 "WHERE pronamespace = 'alice'::regnamespace AND proname = %s", (name,))
        world.sql(definition.replace("FUNCTION alice.", "FUNCTION app.").replace("alice.worker", "app.worker")
                  .replace("%", "%%"))
    world.sql("CREATE DOMAIN app.lurking AS text CHECK (app.lurks())")


@pytest.fixture(scope="session")
def world(server):
    version = int(VERSION)
    parallel_always = "force_parallel_mode" if version < 16 else "debug_parallel_query"
    server.psql(input=scene.SQL.replace("parallel_always", parallel_always), dbname="immuta")
    if version >= 15:
        server.psql(input=scene.SQL_SINCE_15, dbname="immuta")
    if version <= 15:
        server.psql(input=scene.SQL_UP_TO_15, dbname="immuta")
    world = World(server)
    create_trusted_twins(world)
    yield world
    no_process_crashed(world)
    logs_no_secret(world)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    item.has_failed = getattr(item, "has_failed", False) or report.failed
    return report


@pytest.fixture(scope="module")
def pool(world):
    """As an application's: one connection for each sub-protocol, used by one test after the other. What an attack
    leaves on it would meet the next."""
    sessions = {}
    yield sessions
    for session in sessions.values():
        session.close()


@pytest.fixture(params=scene.MODES)
def session(request, world, pool):
    """A connection of the service login, by each of the two sub-protocols."""
    mode = request.param
    if mode not in pool:
        pool[mode] = scene.Session(world, mode)
    yield pool[mode]
    if request.node.has_failed:
        pool.pop(mode).close()
    else:
        pool[mode].ok("DISCARD ALL")


@pytest.fixture
def connect(world):
    """Makes further connections, closed after the test."""
    made = []

    def make(mode="simple", *args, **kwargs):
        made.append(scene.Session(world, mode, *args, **kwargs))
        return made[-1]

    yield make
    for session in made:
        session.close()
