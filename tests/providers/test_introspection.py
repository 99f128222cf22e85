"""Token introspection (RFC 7662), against an OAuth server that this project did not write, over TLS with a private
certificate authority."""

import datetime
import os
import time

import pytest
from conftest import INVALID, NOT_ALLOWED, NOT_MAPPED, UNAVAILABLE, outcome, transaction, who
from harness.fault_server import FaultServer
from harness.fixtures import VERSION, carriers, refuses
from harness.oidc import OidcServer
from harness.server import BUILD
from harness.world import impersonate, query


@pytest.fixture(scope="module")
def oidc(authority):
    with OidcServer(authority, BUILD / "run" / f"providers-ca-{VERSION}") as oidc:
        yield oidc


def secret_file(server, secret, mode=0o600):
    file = server.home / f"secret-{abs(hash(secret))}"
    file.write_text(secret)
    file.chmod(mode)
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
    return file


@pytest.fixture
def provider(world, oidc, authority, settings):
    """Sessions ask the OAuth server, whose issuer is our identity manager `bim`."""
    settings(token_provider="introspection", introspection_url=oidc.introspection_url, api_allow_http="off",
             introspection_client_id=oidc.client_id, api_ca_file=authority.ca_file,
             introspection_client_secret_file=secret_file(world.server, oidc.client_secret + "\n"))
    world.sql("SELECT immuta.map_issuer(%s, 'bim')", (oidc.issuer,))
    yield oidc
    world.sql("SELECT immuta.unmap_issuer(issuer) FROM immuta.issuers()")


@pytest.fixture
def token(world, provider):
    def issue(user="alice", **how):
        world.tokens.append(provider.token(user, **how))
        return world.tokens[-1]

    return issue


@pytest.fixture
def stand_in(world, connect, settings):
    """What comes of a token if this is said of it by a server of ours, whose answers have no issuer."""
    world.sql("SELECT immuta.map_issuer('', 'bim')")
    settings(token_provider="introspection", introspection_client_id="db",
             introspection_client_secret_file=secret_file(world.server, "s3cret"))

    def play(answer):
        with FaultServer("good", answer=answer) as server:
            settings(introspection_url=server.url)
            return outcome(connect(), "any-token")

    yield play
    world.sql("SELECT immuta.unmap_issuer('')")


def test_an_active_token(token, connect):
    connection, alices = connect(), token()
    assert who(connection, alices) == ("bim", "alice", "alice")
    with transaction(connection, alices):
        assert carriers(connection) == ["UA"]
        assert query(connection, "SELECT provider FROM immuta.whoami()") == [("introspection",)]
    assert who(connection, token("bob")) == ("bim", "bob", "bob")


def test_a_revoked_token(provider, token, connect, settings):
    settings(token_revalidate_interval=0)
    connection, alices = connect(), token()
    assert outcome(connection, alices) == "alice"
    provider.revoke(alices)
    assert outcome(connection, alices) == INVALID[1]
    assert outcome(connect(), alices) == INVALID[1]


def test_an_expired_token(token, connect):
    """Also in a session that knows it, in which it need not be asked about again, and within a transaction."""
    connection, alices = connect(), token(seconds=2)
    assert outcome(connection, alices) == "alice"
    impersonate(connection, alices)
    expires = query(connection, "SELECT expires_at - now() FROM immuta.whoami()")[0][0]
    assert expires < datetime.timedelta(seconds=2)
    time.sleep(2.1)
    with refuses(*INVALID):
        carriers(connection)
    connection.rollback()
    assert outcome(connection, alices) == INVALID[1]
    assert outcome(connect(), alices) == INVALID[1]


@pytest.mark.parametrize("unknown", ["x", "a.b.c", "x" * 10_000])
def test_an_unknown_token(provider, connect, unknown):
    assert outcome(connect(), unknown) == INVALID[1]


def test_the_token_of_a_client(world, provider, connect):
    """Active, but nobody's: refused like any other, and the administrator is told once."""
    world.tokens.append(provider.client_token())
    connection, before = connect(), world.server.logged()
    assert [outcome(connection, world.tokens[-1]) for _ in range(2)] == [INVALID[1]] * 2
    assert world.server.log(before).count("the introspection response names no user") == 1


@pytest.mark.parametrize("what", ["secret", "client"])
def test_wrong_client_credentials(world, provider, token, connect, settings, what):
    if what == "secret":
        settings(introspection_client_secret_file=secret_file(world.server, "wrong"))
    else:
        settings(introspection_client_id="somebody else")
    with refuses(*UNAVAILABLE) as seen:
        impersonate(connect(), token())
    assert "refuses the client credentials" in seen.message


def test_the_secret_can_be_changed_in_its_file(world, provider, token, connect, settings):
    file = secret_file(world.server, "changes")
    settings(introspection_client_secret_file=file)
    connection, alices = connect(), token()
    assert outcome(connection, alices) == UNAVAILABLE[1]
    file.write_text(provider.client_secret)
    assert outcome(connection, alices) == "alice"
    file.chmod(0o644)
    with refuses(*UNAVAILABLE) as seen:
        impersonate(connection, token("bob"))
    assert "may be read by others" in seen.message and provider.client_secret not in seen.message


def test_issuers(world, provider, token, connect, settings):
    connection, alices = connect(), token()
    assert world.sql("SELECT issuer, iamid FROM immuta.issuers()") == [(provider.issuer, "bim")]
    world.sql("SELECT immuta.map_issuer(%s, 'okta')", (provider.issuer,))
    assert outcome(connection, alices) == NOT_MAPPED[1], "alice of another identity manager is another user"
    world.sql("SELECT immuta.create_user('alice', 'okta', 'carol')")
    try:
        assert who(connection, alices) == ("okta", "alice", "carol")
    finally:
        world.sql("SELECT immuta.drop_user('alice', 'okta')")
    assert world.value("SELECT immuta.unmap_issuer(%s)", (provider.issuer,)) is True
    assert outcome(connection, alices) == NOT_ALLOWED[1]
    world.sql("SELECT immuta.map_issuer(%s, 'bim')", (provider.issuer + "/",))
    assert outcome(connection, alices) == NOT_ALLOWED[1], "compared byte by byte"
    world.sql("SELECT immuta.map_issuer(%s, 'bim')", (provider.issuer,))
    assert outcome(connection, alices) == "alice"
    for call in ("map_issuer(NULL, 'x')", "map_issuer('x', NULL)"):
        with refuses("22004"):
            world.sql(f"SELECT immuta.{call}")
    with refuses("22023"):
        world.sql("SELECT immuta.map_issuer('x', '')")
    for call in ("map_issuer('x', 'y')", "unmap_issuer('x')", "issuers()"):
        with refuses("42501"):
            query(connection, f"SELECT immuta.{call}")
        connection.rollback()


@pytest.mark.parametrize("issuer", ["\0", "https://id.example.com\0", "日本", "x" * 100_000])
def test_an_issuer_that_cannot_be_mapped(stand_in, issuer):
    assert stand_in({"active": True, "username": "alice", "iss": issuer}) == NOT_ALLOWED[1]


@pytest.mark.parametrize("claims, role", [("sub", NOT_MAPPED[1]), ("nothing, username", "alice"),
                                          ("nothing", INVALID[1])])
def test_the_claim_with_the_user_can_be_chosen(token, connect, settings, claims, role):
    settings(introspection_user_claim=claims)
    assert outcome(connect(), token()) == role


def test_no_claim_stands_in_for_another_unless_we_say_so(connect, settings, stand_in):
    """The `sub` of a client may be what somebody else's `username` is."""
    answer = {"active": True, "sub": "alice", "client_id": "alice"}
    assert stand_in(answer) == INVALID[1]
    settings(introspection_user_claim="username, sub")
    assert stand_in(answer) == "alice"
    assert stand_in({**answer, "username": "bob"}) == "bob"


@pytest.mark.parametrize("audience, claims, expected", [
    ("", {}, "alice"), ("", {"aud": "web"}, "alice"), ("", {"aud": 7}, "alice"),
    ("db", {"aud": "db"}, "alice"), ("db", {"aud": ["web", "db"]}, "alice"),
    ("db", {}, INVALID[1]), ("db", {"aud": "web"}, INVALID[1]), ("db", {"aud": ["web"]}, INVALID[1]),
    ("db", {"aud": []}, INVALID[1]), ("db", {"aud": None}, INVALID[1]), ("db", {"aud": "dbs"}, INVALID[1]),
    ("db", {"aud": {"db": "db"}}, UNAVAILABLE[1]), ("db", {"aud": ["db", 7]}, UNAVAILABLE[1])])
def test_the_audience(settings, stand_in, audience, claims, expected):
    settings(introspection_audience=audience)
    assert stand_in({"active": True, "username": "alice", **claims}) == expected


@pytest.mark.parametrize("claims, expected", [
    ({"token_type": "Bearer"}, "alice"), ({"token_type": "refresh_token"}, INVALID[1]),
    ({"token_type": "Refresh"}, INVALID[1]), ({"token_type": "Bearer", "token_use": "refresh_token"}, INVALID[1]),
    ({"typ": "Offline"}, INVALID[1]), ({"token_type": 7}, UNAVAILABLE[1]),
    ({"nbf": 1.5}, "alice"), ({"iat": 1e9, "nbf": 1, "exp": 4e9}, "alice"), ({"nbf": 4_000_000_000}, INVALID[1]),
    ({"nbf": 4e9}, INVALID[1]), ({"exp": 1.5}, INVALID[1]), ({"nbf": "1"}, UNAVAILABLE[1]),
    ({"iat": "1"}, UNAVAILABLE[1]), ({"iat": [1]}, UNAVAILABLE[1])], ids=str)
def test_kinds_and_times_of_tokens(stand_in, claims, expected):
    assert stand_in({"active": True, "username": "alice", **claims}) == expected


def test_the_administrator_is_told_why(world, settings, stand_in):
    settings(introspection_audience="db")
    before = world.server.logged()
    for claims in ({"aud": "web"}, {"aud": "web"}, {"nbf": 4e9}, {"token_type": "refresh_token"}):
        stand_in({"active": True, "username": "alice", **claims})
    log = world.server.log(before)
    assert log.count("the introspection response does not name bodata.introspection_audience") == 2, "per session"
    assert "the introspection response has an nbf in the future" in log
    assert "the introspection response is about no access token" in log


def test_it_is_only_used_over_tls_that_we_trust(provider, token, connect, settings):
    settings(api_ca_file="")
    with refuses(*UNAVAILABLE) as seen:
        impersonate(connect(), token())
    assert "no trusted TLS connection" in seen.message


@pytest.mark.parametrize("missing", ["introspection_url", "introspection_client_id",
                                     "introspection_client_secret_file"])
def test_what_is_missing_is_told(token, connect, settings, missing):
    settings(**{missing: ""})
    with refuses(*UNAVAILABLE) as seen:
        impersonate(connect(), token())
    assert f"bodata.{missing} is not set" in seen.message
