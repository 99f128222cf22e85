"""An ERROR, a cancel and a panic while somebody logs in with OAuth (PostgreSQL 18), in the validator and where the connection becomes
its user's: there is no connection, whoever is not known yet hears nothing of it, and the next login is as ever.

Threats: 53, 61 (docs/threats.md).
"""

import time

import pytest
from harness.fixtures import TALKATIVE, VERSION, logs_no_secret, no_process_crashed
from harness.issuer import Issuer
from harness.server import Server
from harness.wire import Closed, Wire
from harness.world import World, prepare

pytestmark = pytest.mark.skipif(int(VERSION) < 18, reason="PostgreSQL 18 brought logins with OAuth")

SETTINGS = ("bodata.token_provider=jwt", "bodata.jwt_audience=db", "bodata.api_allow_http=on", "oauth_validator_libraries=immuta_ext")
UNKNOWN = ("OauthBegins", "OauthJudged", "OauthNamed")
KNOWN = ("CommitBegins", "Resolved", "Cached", "Settled", "RoleSet", "Locked", "Switched", "Started", "SessionKnows")


@pytest.fixture(scope="module")
def issuer():
    with Issuer() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def world(issuer):
    with Server(VERSION, "inject-logins", options=[*TALKATIVE, *SETTINGS]) as server:
        prepare(server)
        world = World(server)
        world.sql("CREATE ROLE bi LOGIN IN ROLE bodata_impersonate_user")
        world.sql("SELECT immuta.map_issuer(%s, 'bim')", (issuer.url,))
        hba = server.data / "pg_hba.conf"
        hba.write_text(f'host immuta bi 127.0.0.1/32 oauth issuer="{issuer.url}" scope="" delegate_ident_mapping=1\n' + hba.read_text())
        arm(world, "OauthBegins", "nothing", 0)
        yield world
        no_process_crashed(world)
        logs_no_secret(world)
        world.admin.close()


def arm(world, point, kind, times=1):
    """For sessions that begin from now on."""
    before = world.value("SELECT pg_conf_load_time()")
    world.sql(f"ALTER SYSTEM SET bodata.inject = '{point} {kind} {times}'")
    world.sql("SELECT pg_reload_conf()")
    deadline = time.monotonic() + 10
    while world.value("SELECT pg_conf_load_time()") == before:
        assert time.monotonic() < deadline
    time.sleep(0.05)


def login(world, issuer):
    world.tokens.append(issuer.token())
    return Wire("127.0.0.1", world.server.port, "bi", world.tokens[-1], "immuta")


def is_alice(world, issuer):
    wire = login(world, issuer)
    try:
        return wire.query("SELECT current_user").rows == [("alice",)]
    finally:
        wire.close()


@pytest.mark.parametrize("kind", ["error", "cancel", "panic"])
@pytest.mark.parametrize("point", [*UNKNOWN, *KNOWN])
def test_a_fault_in_a_login(world, issuer, point, kind):
    assert is_alice(world, issuer)
    arm(world, point, kind)
    begun = world.server.logged()
    try:
        with pytest.raises(Closed) as closed:
            login(world, issuer)
        [error] = closed.value.args
        if point in UNKNOWN:
            assert (error["C"], error["M"]) == ("28000", 'OAuth bearer authentication failed for user "bi"')
            assert not {"D", "H", "W"} & error.keys() and "a login with OAuth was refused" in world.server.log(begun)
        assert world.sql("SELECT pid FROM pg_stat_activity WHERE usename = 'bi'") == []
        assert world.sql("SELECT userid FROM immuta.impersonations") == []
    finally:
        arm(world, "OauthBegins", "nothing", 0)
    assert is_alice(world, issuer)
