"""JSON Web Tokens of a second OAuth server that this project did not write (glewlwyd), over TLS with a private authority. Its subjects
are random, its audience is the scope, and a client's own token has the client for its subject."""

import pytest
from conftest import INVALID, outcome, transaction, who
from harness.fixtures import VERSION
from harness.glewlwyd import CLIENT, Glewlwyd
from harness.server import BUILD
from harness.world import query


@pytest.fixture(scope="module")
def glewlwyd(authority):
    with Glewlwyd(authority, BUILD / "run" / f"providers-ca-glewlwyd-{VERSION}") as glewlwyd:
        yield glewlwyd


@pytest.fixture
def provider(world, glewlwyd, authority, settings):
    settings(token_provider="jwt", jwt_audience="db:read, https://db.example", jwt_user_claim="uid", api_ca_file=authority.ca_file,
             api_allow_http="off", jwt_required_scope="db:read")
    world.sql("SELECT immuta.map_issuer(%s, 'bim')", (glewlwyd.issuer,))
    yield glewlwyd
    world.sql("SELECT immuta.unmap_issuer(issuer) FROM immuta.issuers()")


@pytest.fixture
def token(world, provider):
    def issue(user=None):
        world.tokens.append(provider.token(user))
        return world.tokens[-1]

    return issue


def test_its_tokens(token, connect):
    connection, alices = connect(), token("alice")
    assert who(connection, alices) == ("bim", "alice", "alice")
    with transaction(connection, alices):
        assert query(connection, "SELECT client_id, token_id IS NOT NULL, immuta.token_claim('sub') <> '\"alice\"' FROM immuta.whoami()") == [
            (CLIENT, True, True)]
    assert outcome(connection, token("bob")) == "bob"


def test_what_stands_for_no_user(world, token, connect, settings):
    """A client's own token, whoever is called like the client; and a user's whose subject nobody knows."""
    clients = token()
    assert outcome(connect(), clients) == INVALID[1]
    settings(jwt_user_claim="sub")
    world.sql("SELECT immuta.create_user(%s, 'bim', 'alice')", (CLIENT,))
    try:
        assert outcome(connect(), clients) == INVALID[1]
    finally:
        world.sql("SELECT immuta.drop_user(%s)", (CLIENT,))
    assert outcome(connect(), token("alice")) == "IMPERSONATION_NOT_MAPPED"


def test_its_keys(world, provider, token, connect):
    """By the keys that it published, and by them only."""
    alices = token("alice")
    assert outcome(connect(), alices) == "alice"
    header, payload, signature = alices.split(".")
    _, others, _ = token("bob").split(".")
    assert outcome(connect(), f"{header}.{others}.{signature}") == INVALID[1]
    world.sql("SELECT immuta.revoke_token(%s)", (alices,))
    assert outcome(connect(), alices) == INVALID[1]
    assert outcome(connect(), token("alice")) == "alice"
