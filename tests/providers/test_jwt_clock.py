"""A server whose clock is set while tokens are in use."""

import time

import pytest
from conftest import ENVIRONMENT, INVALID, outcome
from harness.fixtures import TALKATIVE, VERSION, carriers, logs_no_secret, no_process_crashed, refuses
from harness.issuer import Issuer
from harness.server import Server
from harness.shims import Clock
from harness.world import World, impersonate, prepare

HOUR = 3600


@pytest.fixture(scope="module")
def clock():
    return Clock(VERSION)


@pytest.fixture(scope="module")
def issuer():
    with Issuer() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def world(clock, issuer):
    options = ["bodata.token_provider=jwt", "bodata.jwt_audience=db", "bodata.api_allow_http=on", "bodata.token_revalidate_interval=5min"]
    with Server(VERSION, "clock", environment={**ENVIRONMENT, **clock.environment}, options=[*TALKATIVE, *options]) as server:
        prepare(server)
        world = World(server)
        world.sql("SELECT immuta.map_issuer(%s, 'bim')", (issuer.url,))
        yield world
        no_process_crashed(world)
        logs_no_secret(world)
        world.admin.close()


@pytest.fixture
def alices(world, issuer, clock):
    world.tokens.append(issuer.token())
    yield world.tokens[-1]
    clock.set(0)


def test_the_clock_is_the_servers(world, clock):
    clock.set(-HOUR)
    assert world.value("SELECT extract(epoch FROM clock_timestamp())::bigint - %s", (int(time.time()),)) in range(-HOUR - 2, -HOUR + 3)
    clock.set(0)


def test_a_clock_that_is_set_back(world, clock, connect, alices):
    """Between two uses: what is remembered counts no longer, and a token from the future is none. When the clock is right again, so is
    the token."""
    connection = connect()
    assert outcome(connection, alices) == "alice"
    clock.set(-HOUR)
    assert outcome(connection, alices) == INVALID[1]
    assert outcome(connect(), alices) == INVALID[1]
    clock.set(0)
    assert outcome(connection, alices) == "alice"


def test_a_clock_that_is_set_forward(world, clock, connect, alices):
    """Past the end of the token: in the middle of the transaction, and for good in what follows."""
    connection = connect()
    impersonate(connection, alices)
    assert carriers(connection) == ["UA"]
    clock.set(HOUR)
    with refuses(*INVALID):
        carriers(connection)
    connection.rollback()
    assert outcome(connection, alices) == INVALID[1]
    clock.set(0)
    assert outcome(connection, alices) == "alice"


def test_a_little_is_no_matter(world, clock, connect, alices):
    """As far as bodata.jwt_clock_skew goes."""
    connection = connect()
    for seconds in (-20, 20, 0):
        clock.set(seconds)
        assert outcome(connection, alices) == "alice", seconds
