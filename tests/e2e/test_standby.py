"""A hot standby: tokens work, nothing is written, nothing hangs.

Threats: 48 (docs/threats.md).
"""

import time

import pytest
from conftest import VERSION, carriers, refuses
from harness.standby import Standby
from harness.world import World, impersonate, query


@pytest.fixture(scope="module")
def standby(world):
    standby = Standby(VERSION, "standby")
    try:
        yield World(standby.follow(world.server))
    finally:
        standby.destroy()


def wait_for(standby, world):
    """Until the standby has what the primary has now."""
    position = world.value("SELECT pg_current_wal_insert_lsn()")
    for _ in range(200):
        if standby.value("SELECT pg_last_wal_replay_lsn() >= %s", (position,)):
            return
        time.sleep(0.05)
    pytest.fail("the standby does not follow")


def test_tokens_work_and_nothing_is_written(world, standby):
    token = world.token("alice")
    world.sql("UPDATE immuta.token SET last_used_at = now() - interval '30 min'")
    wait_for(standby, world)
    service = standby.connect()
    for _ in range(2):
        impersonate(service, token)
        assert carriers(service) == ["UA"]
        service.commit()
    with refuses("42501", "IMPERSONATION_REQUIRED"):
        query(service, "SELECT * FROM app.everyone")
    service.close()
    assert world.value("SELECT max(last_used_at) < now() - interval '20 min' FROM immuta.token")


def test_a_revocation_arrives(world, standby):
    token = world.token("alice")
    wait_for(standby, world)
    service = standby.connect()
    impersonate(service, token)
    service.commit()
    world.sql("SELECT immuta.revoke_token(%s)", (token,))
    wait_for(standby, world)
    with refuses("28000", "IMPERSONATION_TOKEN_INVALID"):
        impersonate(service, token)
    service.close()


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
@pytest.mark.parametrize("change, back, expected", [
    ("SELECT immuta.disable_user('alice')", "SELECT immuta.disable_user('alice', disabled => false)", ("28000", "IMPERSONATION_TOKEN_INVALID")),
    ("ALTER ROLE alice BYPASSRLS", "ALTER ROLE alice NOBYPASSRLS", ("42501", "IMPERSONATION_NOT_ALLOWED"))])
def test_what_is_revoked_before_the_token_is_presented(world, standby, isolation, change, back, expected):
    """In a transaction of the standby that has begun, and has a snapshot from before."""
    token = world.token("alice")
    wait_for(standby, world)
    service = standby.connect()
    # The session knows the token.
    impersonate(service, token)
    service.commit()
    query(service, f"SET TRANSACTION ISOLATION LEVEL {isolation}")
    assert query(service, "SELECT count(*) > 0 FROM pg_class") == [(True,)]
    world.sql(change)
    try:
        wait_for(standby, world)
        with refuses(*expected):
            impersonate(service, token)
    finally:
        world.sql(back)
        service.close()


@pytest.mark.parametrize("call", ["authenticate('alice', 'wrong')", "authenticate('nobody', 'x')",
                                  "authenticate_api_key('x')"])
def test_authentication_is_refused_at_once(standby, call):
    service = standby.connect()
    query(service, "SET statement_timeout = '5s'")
    with refuses("25006"):
        query(service, f"SELECT immuta.{call}")
    service.close()
