"""Impersonation for the session, and at connection time, by tokens that are resolved elsewhere."""

import psycopg2
import pytest
from conftest import INVALID, UNAVAILABLE
from harness.fixtures import carriers, refuses
from harness.immuta_api import CURRENT_USER, ImmutaApi
from harness.world import query


@pytest.fixture
def session(world, api, settings, connect):
    """Makes connections that may impersonate for the session."""
    settings(allow_session_impersonation="on")

    def make(**extra):
        connection = connect(**extra)
        connection.autocommit = True
        return connection

    return make


def present(connection, token):
    query(connection, "SET bodata.impersonation_token = %s", (token,))


def test_the_provider_is_asked_when_its_answer_is_old(api, token, session, settings):
    """Once for many transactions; then again in the first one that comes later."""
    settings(token_revalidate_interval="1s")
    connection = session()
    present(connection, token())
    asked = api.requests[CURRENT_USER]
    for _ in range(5):
        assert carriers(connection) == ["UA"]
    assert api.requests[CURRENT_USER] == asked
    query(connection, "SELECT pg_sleep(1.1)")
    assert carriers(connection) == ["UA"]
    assert api.requests[CURRENT_USER] == asked + 1


def test_a_token_that_the_provider_refuses_ends_it(api, token, session, settings):
    settings(token_revalidate_interval="0", negative_cache_ttl="0")
    connection = session()
    secret = token()
    present(connection, secret)
    assert carriers(connection) == ["UA"]
    api.revoke(secret)
    for statement in ("SELECT count(*) FROM app.flights", "SELECT 1", "SET search_path = app"):
        with refuses(*INVALID):
            query(connection, statement)
    query(connection, "RESET bodata.impersonation_token")
    assert query(connection, "SELECT current_user") == [("svc",)]
    present(connection, token("bob"))
    assert carriers(connection) == ["AA"]


def test_while_the_provider_is_down(world, session, settings):
    """Every statement fails, but those that end it; the connection stays usable."""
    with ImmutaApi() as api:
        api.add_user("alice")
        settings(token_revalidate_interval="0", api_url=api.url)
        connection = session()
        world.tokens.append(api.issue("alice"))
        present(connection, world.tokens[-1])
        assert carriers(connection) == ["UA"]
    for _ in range(2):
        with refuses(*UNAVAILABLE):
            carriers(connection)
    query(connection, "RESET immuta.immuta_user")
    assert query(connection, "SELECT current_user") == [("svc",)]


def test_connections_of_a_user(world, api, token, session):
    """The token is resolved before the first statement, and again whenever the connection comes back to its user."""
    secret = token()
    connection = session(options=f"-c bodata.impersonation_token={secret}")
    for end in ("SELECT 1", "RESET bodata.impersonation_token", "DISCARD ALL"):
        query(connection, end)
        assert carriers(connection) == ["UA"]
    present(connection, token("bob"))
    assert carriers(connection) == ["AA"]
    query(connection, "RESET bodata.impersonation_token")
    assert carriers(connection) == ["UA"]
    with pytest.raises(psycopg2.OperationalError, match="IMPERSONATION_TOKEN_INVALID"):
        session(options="-c bodata.impersonation_token=unknown")
    api.revoke(secret)
    world.sql("SELECT immuta.flush_token_cache()")
    with pytest.raises(psycopg2.OperationalError, match="IMPERSONATION_TOKEN_INVALID"):
        session(options=f"-c bodata.impersonation_token={secret}")


def test_a_connection_while_the_provider_is_down(token, session, settings):
    settings(api_url="http://127.0.0.1:9", api_timeout="500ms")
    with pytest.raises(psycopg2.OperationalError, match="IMPERSONATION_PROVIDER_UNAVAILABLE"):
        session(options=f"-c bodata.impersonation_token={token()}")
    connection = session()
    assert query(connection, "SELECT current_user") == [("svc",)]


def test_by_name_the_provider_is_not_asked(world, api, session):
    """The login vouches for the name; a user whom no row maps has the role of their name, if it is marked."""
    world.sql("CREATE ROLE namer LOGIN PASSWORD 'namer' IN ROLE immuta_impersonation; CREATE ROLE dora IN ROLE immuta_mappable")
    try:
        connection = session(user="namer", password="namer")
        asked = api.requests.copy()
        query(connection, "SET immuta.immuta_user = 'dora'")
        assert query(connection, "SELECT current_user, provider FROM immuta.whoami()") == [("dora", "name")]
        assert api.requests == asked
    finally:
        connection.close()
        world.sql("DROP ROLE namer, dora")
