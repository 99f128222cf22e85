"""A server whose tokens are resolved elsewhere. Each test says by whom, for the sessions that it opens."""

import sys
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.certificates import Authority  # noqa: E402
from harness.fixtures import *  # noqa: E402,F401,F403
from harness.fixtures import TALKATIVE, VERSION  # noqa: E402
from harness.immuta_api import ImmutaApi  # noqa: E402
from harness.server import BUILD, Server  # noqa: E402
from harness.world import impersonate, prepare, query  # noqa: E402

# A proxy that nobody answers at: the environment of the server must not count.
NOWHERE = "http://127.0.0.1:9"
ENVIRONMENT = {"RUST_BACKTRACE": "1", "http_proxy": NOWHERE, "https_proxy": NOWHERE, "all_proxy": NOWHERE,
               "HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE, "ALL_PROXY": NOWHERE}

UNAVAILABLE = ("58030", "IMPERSONATION_PROVIDER_UNAVAILABLE")
INVALID = ("28000", "IMPERSONATION_TOKEN_INVALID")
NOT_ALLOWED = ("42501", "IMPERSONATION_NOT_ALLOWED")
NOT_MAPPED = ("42704", "IMPERSONATION_NOT_MAPPED")


@pytest.fixture(scope="session")
def server_name():
    return "providers"


@pytest.fixture(scope="session")
def server(server_name):
    server = Server(VERSION, server_name, environment=ENVIRONMENT, options=[*TALKATIVE, "bodata.api_allow_http=on", "max_connections=250"])
    with server:
        prepare(server)
        yield server


@pytest.fixture(scope="session")
def authority():
    """Certificates that sessions trust if they are told to."""
    return Authority(BUILD / "run" / f"providers-ca-{VERSION}")


@pytest.fixture
def settings(world):
    """Sets `bodata.*` for the sessions that are opened from now on, until the end of the test."""
    names = []

    def change(**values):
        for name, value in values.items():
            names.append(name)
            world.sql(f"ALTER DATABASE immuta SET bodata.{name} = %s", (str(value),))

    yield change
    for name in names:
        world.sql(f"ALTER DATABASE immuta RESET bodata.{name}")


@pytest.fixture
def api(world, settings):
    """A stand-in for the Immuta API, which the sessions of this test ask. It knows alice, bob and carol, whom rows of
    ours map to roles, and others whom none maps."""
    with ImmutaApi() as api:
        for user in ("alice", "bob", "carol"):
            api.add_user(user)
        settings(token_provider="immuta", api_url=api.url)
        yield api


@pytest.fixture
def token(world, api):
    """Issues tokens that the log is searched for at the end."""
    def issue(userid="alice", iamid="bim", **how):
        world.tokens.append(api.issue(userid, iamid, **how))
        return world.tokens[-1]

    return issue


@pytest.fixture
def connect(world):
    made = []

    def make(*args, **kwargs):
        made.append(world.connect(*args, **kwargs))
        return made[-1]

    yield make
    for connection in made:
        connection.close()


@contextmanager
def transaction(connection, token):
    impersonate(connection, token)
    try:
        yield connection
    finally:
        connection.rollback()


def who(connection, token):
    """(iamid, userid, role) of a transaction under this token."""
    with transaction(connection, token):
        return query(connection, "SELECT iamid, userid, current_user::text FROM immuta.whoami()")[0]


def outcome(connection, token):
    """The user's id, or the code of the refusal."""
    try:
        return who(connection, token)[1]
    except psycopg2.Error as error:
        connection.rollback()
        return error.diag.message_detail
