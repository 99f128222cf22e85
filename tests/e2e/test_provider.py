"""The embedded provider: tokens, API keys, passwords, idle time to live.

Threats: 34 (docs/threats.md).
"""

import datetime
import re
import time

import psycopg2
import pytest
from conftest import carriers, refuses, rows_seen, wait_until
from harness.world import digest, impersonate, query


def last_used(world, token):
    return world.value("SELECT last_used_at FROM immuta.token WHERE digest = %s", (digest(token),))


def age(world, token, seconds):
    """As if the token had last been used that long ago."""
    world.sql("UPDATE immuta.token SET last_used_at = now() - make_interval(secs => %s) "
              "WHERE digest = %s", (seconds, digest(token)))


@pytest.fixture
def short_ttl(world):
    """An idle time to live of 6 seconds, so that activity is recorded every half second."""
    world.sql("ALTER DATABASE immuta SET bodata.token_idle_ttl = '6s'")
    yield 6
    world.sql("ALTER DATABASE immuta RESET bodata.token_idle_ttl")


def test_secrets_are_stored_as_digests_only(world):
    token, key = world.token(), world.value("SELECT immuta.create_api_key('alice')")
    for secret in (token, key):
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", secret), "256 random bits"
    world.sql("SELECT immuta.set_password('alice', 'correct horse')")
    for table in ("user_account", "token", "api_key"):
        dump = str(world.sql(f"SELECT t::text FROM immuta.{table} t"))
        for secret in (token, key, "correct horse"):
            assert secret not in dump
    assert world.value("SELECT password_hash FROM immuta.user_account WHERE userid = 'alice'").startswith("$argon2id$")


def test_the_tutorial_flow_inside_one_database(world, service):
    world.sql("SELECT immuta.set_password('alice', 'correct horse')")
    # From PostgreSQL 18 on a session's own zone can be called so; the answer is in the real one.
    query(service, "SET LOCAL timezone = 'UTC+13:37'")
    answer = query(service, "SELECT immuta.authenticate('alice', 'correct horse')")[0][0]
    service.commit()
    assert set(answer) == {"authenticated", "token", "tokenExpiration"} and answer["authenticated"] is True
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", answer["tokenExpiration"])
    expires = datetime.datetime.fromisoformat(answer["tokenExpiration"].replace("Z", "+00:00"))
    left = expires - datetime.datetime.now(datetime.timezone.utc)
    assert 3500 < left.total_seconds() < 3700
    impersonate(service, answer["token"])
    assert carriers(service) == ["UA"]


def test_api_keys(world, service):
    key = world.value("SELECT immuta.create_api_key('bob')")
    answer = query(service, "SELECT immuta.authenticate_api_key(%s)", (key,))[0][0]
    service.commit()
    impersonate(service, answer["token"])
    assert carriers(service) == ["AA"]
    service.commit()
    keys = world.sql("SELECT id, created_at, last_used_at FROM immuta.api_keys('bob')")
    assert keys[-1][2] is not None
    assert world.value("SELECT immuta.revoke_api_key(%s)", (keys[-1][0],)) is True
    assert query(service, "SELECT immuta.authenticate_api_key(%s)", (key,)) == [({"authenticated": False},)]
    assert query(service, "SELECT immuta.authenticate_api_key(NULL)") == [({"authenticated": False},)]


def test_two_transactions_use_one_api_key_at_a_time(world):
    key = world.value("SELECT immuta.create_api_key('bob')")
    first, second = world.connect(), world.connect()
    for connection in (first, second):
        query(connection, "SET lock_timeout = '2s'")
        assert query(connection, "SELECT immuta.authenticate_api_key(%s)", (key,))[0][0]["authenticated"]
    first.close()
    second.close()


def test_wrong_passwords_are_refused_and_throttled(world, service):
    """Also when every attempt is rolled back, and although the counting runs in another transaction."""
    world.sql("SELECT immuta.create_user('throttled')")
    world.sql("SELECT immuta.set_password('throttled', 'right')")
    refused = [({"authenticated": False},)]
    for attempt in range(5):
        query(service, "BEGIN ISOLATION LEVEL REPEATABLE READ") if attempt == 2 else None
        assert query(service, "SELECT immuta.authenticate('throttled', %s)", (f"wrong{attempt}",)) == refused
        service.rollback()
    assert world.value("SELECT failed_logins FROM immuta.user_account WHERE userid = 'throttled'") == 5
    assert query(service, "SELECT immuta.authenticate('throttled', 'right')") == refused, "locked out for a second"
    service.rollback()
    world.sql("UPDATE immuta.user_account SET last_failed_login = now() - interval '1 h' WHERE userid = 'throttled'")
    assert query(service, "SELECT immuta.authenticate('throttled', 'right')")[0][0]["authenticated"]
    service.commit()
    assert world.value("SELECT failed_logins FROM immuta.user_account WHERE userid = 'throttled'") == 0


def test_logins_that_cannot_be(world, service):
    world.sql("SELECT immuta.create_user('nopassword')")
    refused = [({"authenticated": False},)]
    for name, password in (("nobody", "x"), ("nopassword", ""), ("nopassword", None), (None, None),
                           ("nopassword", "x" * 2000)):
        assert query(service, "SELECT immuta.authenticate(%s, %s)", (name, password)) == refused
        service.rollback()
    world.sql("SELECT immuta.set_password('nopassword', 'x')")
    world.sql("SELECT immuta.disable_user('nopassword')")
    assert query(service, "SELECT immuta.authenticate('nopassword', 'x')") == refused


def test_check_token_does_not_count_as_use(world, service):
    token = world.token()
    age(world, token, 1000)
    before = last_used(world, token)
    answer = query(service, "SELECT immuta.check_token(%s)", (token,))[0][0]
    assert (answer["active"], answer["iamid"], answer["userid"]) == (True, "bim", "alice")
    assert datetime.datetime.fromisoformat(answer["expires_at"]) == before + datetime.timedelta(hours=1)
    for bad in ("x", "", None, "x" * 20_000, token[:-1]):
        assert query(service, "SELECT immuta.check_token(%s)", (bad,)) == [({"active": False},)]
    time.sleep(0.3)
    assert last_used(world, token) == before


def test_an_idle_token_dies(world, service):
    token = world.token()
    age(world, token, 3599)
    impersonate(service, token)
    assert rows_seen(service) == 100
    service.commit()
    token = world.token()
    age(world, token, 3601)
    with refuses("28000", "IMPERSONATION_TOKEN_INVALID"):
        impersonate(service, token)


def test_a_use_is_recorded_by_any_kind_of_transaction(world, service):
    def used():
        token = world.token()
        age(world, token, 1800)
        impersonate(service, token)
        return token

    def recorded(token):
        return wait_until(lambda: last_used(world, token) > world.value("SELECT now() - interval '1 min'"))

    token = used()
    query(service, "SET TRANSACTION READ ONLY")
    rows_seen(service)
    assert query(service, "SELECT pg_current_xact_id_if_assigned()") == [(None,)]
    assert recorded(token), "while the reading transaction is still open"
    service.commit()
    token = used()
    rows_seen(service)
    service.rollback()
    assert recorded(token)


def test_a_use_is_written_at_most_every_twelfth_of_the_ttl(world, service):
    token = world.token()
    age(world, token, 1800)
    for _ in range(20):
        impersonate(service, token)
        rows_seen(service)
        service.commit()
    assert wait_until(lambda: last_used(world, token) > world.value("SELECT now() - interval '1 min'"))
    first = last_used(world, token)
    other = world.connect()
    impersonate(other, token)
    rows_seen(other)
    other.close()
    time.sleep(0.5)
    assert last_used(world, token) == first


def test_recording_neither_blocks_nor_is_blocked(world, service):
    token = world.token()
    age(world, token, 1800)
    locker = psycopg2.connect(**world.server.dsn(dbname=world.dbname))
    query(locker, "SELECT * FROM immuta.token FOR UPDATE")
    query(service, "SET statement_timeout = '2s'")
    service.commit()
    impersonate(service, token)
    assert rows_seen(service) == 100
    service.commit()
    locker.rollback()
    assert wait_until(lambda: last_used(world, token) > world.value("SELECT now() - interval '1 min'"))
    locker.close()


def test_uses_in_one_session_keep_the_token_alive_in_others(world, short_ttl):
    token = world.token()
    first, second = world.connect(), world.connect()
    for _ in range(5):
        time.sleep(short_ttl / 3)
        impersonate(first, token)
        rows_seen(first)
        first.rollback()
    impersonate(second, token)
    assert carriers(second) == ["UA"], "alive although issued longer than the time to live ago"
    second.rollback()
    time.sleep(short_ttl + 0.5)
    for connection in (first, second):
        with refuses("28000", "IMPERSONATION_TOKEN_INVALID"):
            impersonate(connection, token)
        connection.close()


def test_a_token_that_dies_inside_a_transaction_stops_it(world, short_ttl):
    connection = world.connect()
    impersonate(connection, world.token())
    rows_seen(connection)
    time.sleep(short_ttl + 0.3)
    with refuses("28000", "IMPERSONATION_TOKEN_INVALID"):
        rows_seen(connection)
    connection.close()


def test_prune_removes_what_has_long_expired(world):
    old, new = world.token(), world.token()
    age(world, old, 3 * 3600)
    assert world.value("SELECT immuta.prune_tokens('1 h')") >= 1
    known = [world.value("SELECT count(*) FROM immuta.token WHERE digest = %s", (digest(t),))
             for t in (old, new)]
    assert known == [0, 1]
