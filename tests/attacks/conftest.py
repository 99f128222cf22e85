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


CRASH = re.compile(r"terminated by signal|PANIC: |TRAP: |panicked at|could not restore the session user")


@pytest.fixture(scope="session")
def server_name():
    return "attacks"


@pytest.fixture(scope="session")
def world(server):
    server.psql(input=scene.SQL, dbname="immuta")
    if int(VERSION) >= 15:
        server.psql(input=scene.SQL_15, dbname="immuta")
    yield World(server)
    # Whatever was tried: no process of the server crashed.
    crashes = [line for line in server.log().splitlines() if CRASH.search(line[:1000])]
    assert crashes == []


@pytest.fixture(params=scene.MODES)
def session(request, world):
    """A connection of the service login, by each of the two sub-protocols."""
    session = scene.Session(world, request.param)
    yield session
    session.close()


@pytest.fixture
def wire(world):
    """A connection of the service login, driven message by message."""
    session = scene.Session(world)
    yield session.wire
    session.close()


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
