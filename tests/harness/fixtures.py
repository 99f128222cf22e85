"""Fixtures and helpers that every folder of tests shares. A conftest imports all of it and says, by a fixture
`server_name`, under which name its own server runs."""

import os
import time

import psycopg2
import pytest

from .server import Server
from .world import World, impersonate, prepare, query

VERSION = os.environ.get("PG_VERSION", "15")

# Every statement is logged, before and after it ran, with its parameters and in its errors.
TALKATIVE = ["log_statement=all", "log_min_duration_statement=0", "log_parameter_max_length_on_error=-1",
             "log_error_verbosity=verbose"]


def pytest_report_header():
    return f"PostgreSQL {VERSION}"


@pytest.fixture(scope="session")
def quick_logins():
    """Whether all clients of the suite put up with them."""
    return True


@pytest.fixture(scope="session")
def server(server_name, quick_logins):
    # With RUST_BACKTRACE on: the product must not depend on the server's environment.
    server = Server(VERSION, server_name, environment={"RUST_BACKTRACE": "1"}, options=TALKATIVE)
    with server:
        prepare(server, quick=quick_logins)
        yield server


@pytest.fixture(scope="session")
def world(server):
    world = World(server)
    yield world
    no_process_crashed(world)
    logs_no_secret(world)


CRASHES = ("terminated by signal", "PANIC: ", "TRAP: ", "panicked at", "could not restore the session user")


def no_process_crashed(world):
    """Whatever was tried."""
    crashes = [line for line in world.server.lines_with(*CRASHES) if any(crash in line[:1000] for crash in CRASHES)]
    assert crashes == []


def logs_no_secret(world):
    """Everything was logged, but none of the tokens of the whole run."""
    shown = world.server.lines_with(*world.tokens)
    assert shown == [], "\n".join(line[:300] for line in shown[:40])


@pytest.fixture
def service(world):
    """A connection of the service login, in psycopg2's default mode: BEGIN before the first statement."""
    connection = world.connect()
    yield connection
    connection.close()


@pytest.fixture
def alice(world, service):
    """The same, impersonating alice in an open transaction."""
    impersonate(service, world.token("alice"))
    return service


def wait_until(condition, seconds=10):
    """Whether that comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


class Refused:
    """What `refuses` saw."""

    sqlstate = detail = hint = message = None


class refuses:
    """Expects an error with this SQLSTATE and, for errors of ours, this code in DETAIL."""

    def __init__(self, sqlstate, code=None):
        self.sqlstate, self.code = sqlstate, code
        self.seen = Refused()

    def __enter__(self):
        return self.seen

    def __exit__(self, kind, error, _):
        assert error is not None, f"no error, expected {self.sqlstate} {self.code}"
        if not isinstance(error, psycopg2.Error):
            return False
        self.seen.sqlstate, self.seen.message = error.pgcode, str(error)
        self.seen.detail, self.seen.hint = error.diag.message_detail, error.diag.message_hint
        assert error.pgcode == self.sqlstate, f"{error.pgcode} instead of {self.sqlstate}: {error}"
        if self.code:
            assert error.diag.message_detail == self.code, error
            assert error.diag.message_hint, "an error of ours has a hint"
        return True


def rows_seen(connection):
    return query(connection, "SELECT count(*) FROM app.flights")[0][0]


def carriers(connection):
    return [r[0] for r in query(connection, "SELECT DISTINCT carrier FROM app.flights ORDER BY 1")]
