"""A server of its own for the attacks: the small world and what attackers may have planted in it."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import scene  # noqa: E402
from harness.fixtures import *  # noqa: E402,F401,F403
from harness.fixtures import VERSION  # noqa: E402
from harness.world import World  # noqa: E402


PARALLEL_ALWAYS = "force_parallel_mode" if int(VERSION) < 16 else "debug_parallel_query"
CRASH = re.compile(r"terminated by signal|PANIC: |TRAP: |panicked at|could not restore the session user")


@pytest.fixture(scope="session")
def server_name():
    return "attacks"


@pytest.fixture(scope="session")
def world(server):
    server.psql(input=scene.SQL.replace("parallel_always", PARALLEL_ALWAYS), dbname="immuta")
    if int(VERSION) >= 15:
        server.psql(input=scene.SQL_15, dbname="immuta")
    yield World(server)
    # Whatever was tried: no process of the server crashed.
    crashes = [line for line in server.log().splitlines() if CRASH.search(line[:1000])]
    assert crashes == []


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
