"""JSON Web Tokens of an OAuth server that this project did not write (npm oidc-provider), over TLS with a private authority."""

import pytest
from conftest import INVALID, NOT_ALLOWED, outcome, transaction, who
from harness.oidc import RESOURCE, OidcServer
from harness.fixtures import VERSION
from harness.server import BUILD
from harness.world import query


@pytest.fixture(scope="module")
def oidc(authority):
    with OidcServer(authority, BUILD / "run" / f"providers-ca-jwt-{VERSION}") as oidc:
        yield oidc


@pytest.fixture
def provider(world, oidc, authority, settings):
    settings(token_provider="jwt", jwt_audience="db", jwt_user_claim="username, sub", api_ca_file=authority.ca_file,
             api_allow_http="off", jwt_required_scope="db:read")
    world.sql("SELECT immuta.map_issuer(%s, 'bim')", (oidc.issuer,))
    yield oidc
    world.sql("SELECT immuta.unmap_issuer(issuer) FROM immuta.issuers()")


def test_its_tokens(world, provider, connect):
    alices = provider.jwt("alice")
    world.tokens.append(alices)
    connection = connect()
    assert who(connection, alices) == ("bim", "alice", "alice")
    with transaction(connection, alices):
        assert query(connection, "SELECT client_id, actor, token_id IS NOT NULL FROM immuta.whoami()") == [
            (provider.client_id, None, True)]
    assert outcome(connection, provider.jwt("bob")) == "bob"


def test_an_agent(world, provider, connect):
    with transaction(connect(), provider.jwt("alice", agent="helper")) as connection:
        assert query(connection, "SELECT userid, actor FROM immuta.whoami()") == [("alice", "helper")]


def test_its_other_tokens(world, provider, connect):
    """An opaque one, and one that a client got for itself, whose subject is the client."""
    assert outcome(connect(), provider.token("alice")) == INVALID[1]
    world.sql("SELECT immuta.create_user(%s, 'bim', 'alice')", (provider.client_id,))
    try:
        clients = provider.client_token(resource=RESOURCE, scope="db:read")
        assert clients.count(".") == 2
        assert outcome(connect(), clients) == INVALID[1]
    finally:
        world.sql("SELECT immuta.drop_user(%s)", (provider.client_id,))


def test_a_scope_that_it_lacks(provider, connect, settings):
    settings(jwt_required_scope="db:write")
    assert outcome(connect(), provider.jwt("alice")) == NOT_ALLOWED[1]
