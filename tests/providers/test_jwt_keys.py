"""The keys of issuers: when they are fetched, by how many, and what happens when they cannot be.

Threats: 60 (docs/threats.md).
"""

import json
import os
import threading
import time

import psycopg2
import pytest
from conftest import INVALID, UNAVAILABLE, outcome
from harness.fault_server import GIB
from harness.fixtures import refuses
from harness.issuer import METADATA, RFC8414, Issuer
from harness.listener import Listener
from harness.world import impersonate, query

ONCE = {METADATA: 1, "/jwks": 1}


@pytest.fixture
def issuer(world, settings):
    with Issuer() as issuer:
        settings(token_provider="jwt", jwt_audience="db")
        world.sql("SELECT immuta.map_issuer(%s, 'bim')", (issuer.url,))
        yield issuer
        world.sql("SELECT immuta.unmap_issuer(issuer) FROM immuta.issuers()")


@pytest.fixture
def token(world, issuer):
    def issue(sub="alice", **how):
        world.tokens.append(issuer.token(sub, **how))
        return world.tokens[-1]

    return issue


def copies(server):
    return [*(server.data / "immuta_jwt_keys").glob("*.json")]


def test_two_hundred_sessions_at_once(world, issuer, token, settings):
    """They start with nothing, and make one request for the metadata and one for the keys."""
    # The issuer shares this process with two hundred threads: it may take its time without being given up.
    settings(api_timeout=60_000)
    issuer.answers["/jwks"] = lambda connection: time.sleep(0.3) or issuer._answer("/jwks")
    alices, outcomes, gate = token(), [], threading.Barrier(200)

    def session():
        connection = world.connect()
        try:
            gate.wait(60)
            outcomes.append(outcome(connection, alices))
        finally:
            connection.close()

    threads = [threading.Thread(target=session) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["alice"] * 200
    assert issuer.requests == ONCE


def test_keys_can_change(issuer, token, connect, settings):
    """A new one is used at once, an old one as long as it is published."""
    settings(jwt_keys_cooldown=1, token_revalidate_interval=0)
    connection, old = connect(), token()
    assert outcome(connection, old) == "alice"
    issuer.add_key("k2", "ES256")
    time.sleep(1.1)
    assert outcome(connection, token(kid="k2")) == "alice"
    assert issuer.requests == {METADATA: 2, "/jwks": 2}
    assert outcome(connection, old) == "alice"
    issuer.withdraw("k1")
    issuer.add_key("k3", "ES256")
    time.sleep(1.1)
    assert outcome(connect(), token(kid="k3")) == "alice"
    assert outcome(connection, old) == INVALID[1]


@pytest.mark.parametrize("answer", [("200 OK", [], {"keys": []}), ("500 Oops", [], {}), "reset", ("200 OK", [], b"x"),
                                    ("200 OK", [], {"keys": [{"kty": "oct", "k": "x"}]})], ids=str)
def test_garbage_makes_no_requests(issuer, token, connect, settings, answer):
    """Made-up key ids, in many sessions, while the issuer is not itself: one more attempt, and nothing is lost."""
    settings(jwt_keys_cooldown=1)
    assert outcome(connect(), token()) == "alice"
    settings(jwt_keys_cooldown=3600)
    time.sleep(0.1)
    issuer.answers["/jwks"] = (lambda connection: connection.reset()) if answer == "reset" else answer
    for number in range(4):
        assert outcome(connect(), token(header={"kid": f"x{number}"})) == INVALID[1]
    assert issuer.requests == ONCE
    settings(jwt_keys_cooldown=1)
    time.sleep(1)
    assert outcome(connect(), token(header={"kid": "y"})) == UNAVAILABLE[1], "an honest client tries again"
    settings(jwt_keys_cooldown=3600)
    for number in range(4):
        assert outcome(connect(), token(header={"kid": f"z{number}"})) == UNAVAILABLE[1]
    assert issuer.requests[METADATA] == 2
    assert outcome(connect(), token()) == "alice"


def faults():
    evil = Issuer()
    yield "another issuer", {METADATA: ("200 OK", [], {"issuer": "https://evil", "jwks_uri": evil.base + "/jwks"})}, "another issuer"
    for bad in ("file:///etc/passwd", "ftp://x/y", "", 7, "http://user:pw@127.0.0.1/", "//127.0.0.1/"):
        yield f"jwks_uri {bad!r}", (METADATA, bad), "its answer"
    yield "no jwks_uri", (METADATA, None), "its answer"
    yield "no JSON", {METADATA: ("200 OK", [], b"<html>")}, "its answer"
    yield "a redirect", {METADATA: ("302 Found", ["Location: http://169.254.169.254/latest"], {})}, "status 302"
    yield "a redirect of the keys", {"/jwks": ("307 Temporary", ["Location: http://169.254.169.254/latest"], {})}, "status 307"
    yield "a long document", {"/jwks": ("200 OK", [], b" " * 300_000)}, "too large"
    yield "an endless one", {"/jwks": endless}, "too large"
    yield "no keys", {"/jwks": ("200 OK", [], {"keys": []})}, "no key"
    yield "keys twice", {"/jwks": ("200 OK", [], b'{"keys":[],"keys":[]}')}, "no key"
    yield "packed", {"/jwks": ("200 OK", ["Content-Encoding: gzip"], b"\x1f\x8b" + b"x" * 100)}, "no key"


def endless(connection):
    connection.send(f"HTTP/1.1 200 OK\r\nContent-Length: {10 * GIB}\r\n\r\n".encode())
    while True:
        connection.send(b" " * 65536)


FAULTS = [*faults()]


@pytest.mark.parametrize("name, answers, word", FAULTS, ids=[name for name, *_ in FAULTS])
def test_answers_that_are_no_keys(issuer, token, connect, name, answers, word):
    if isinstance(answers, tuple):
        path, uri = answers
        answers = {path: ("200 OK", [], {"issuer": issuer.url, **({} if uri is None else {"jwks_uri": uri})})}
    issuer.answers.update(answers)
    with refuses(*UNAVAILABLE) as seen:
        impersonate(connect(), token())
    assert word in seen.message, seen.message


def test_only_https_unless_it_is_allowed(issuer, token, connect, settings):
    settings(api_allow_http="off")
    with refuses(*UNAVAILABLE) as seen:
        impersonate(connect(), token())
    assert "no https URL" in seen.message and issuer.connections == 0


def test_an_issuer_that_hangs(issuer, token, connect, settings):
    """Cancelled and killed sessions leave; another takes over once the time of the first is over."""
    settings(api_timeout=700, jwt_keys_cooldown=1)
    issuer.answers["/jwks"] = lambda connection: connection.wait()
    first, second = connect(), connect()
    query(first, "SET statement_timeout = 100")
    with pytest.raises(psycopg2.errors.QueryCanceled):
        impersonate(first, token())
    first.rollback()
    ended = []

    def present():
        # Where the first attempt is known to have failed before its time was over, the cool-down comes first.
        deadline = time.monotonic() + 10
        while (ended[-1:] or [""])[0] != "alice" and time.monotonic() < deadline:
            ended.append(outcome(second, token()))

    thread = threading.Thread(target=present)
    thread.start()
    time.sleep(0.2)
    del issuer.answers["/jwks"]
    thread.join()
    assert ended[-1] == "alice" and set(ended[:-1]) <= {"IMPERSONATION_PROVIDER_UNAVAILABLE"}
    assert issuer.requests["/jwks"] == 2


def test_a_bad_key_does_not_spoil_the_others(issuer, token, connect):
    good = issuer.jwks()["keys"]
    private = {**good[0], "kid": "p", "d": "AQAB"}
    issuer.answers["/jwks"] = ("200 OK", [], {"keys": [
        7, {}, {"kty": "RSA"}, private, {**good[0], "n": "%%"}, {"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ"},
        {"kty": "RSA", "kid": "k1", "n": good[0]["n"], "e": "AQ", "x5t": "?"}, *good, *good]})
    assert outcome(connect(), token()) == "alice"


def test_many_keys(issuer, token, connect):
    good = issuer.jwks()["keys"][0]
    many = [{**good, "kid": f"x{number}"} for number in range(100)]
    issuer.answers["/jwks"] = ("200 OK", [], {"keys": [good, *many]})
    assert outcome(connect(), token()) == "alice"
    assert outcome(connect(), token(header={"kid": "x10"})) == "alice"
    assert outcome(connect(), token(header={"kid": "x99"})) == INVALID[1], "64 are enough"


def test_metadata_of_other_servers(world, settings, token, connect, issuer):
    """RFC 8414 has another place for them where the issuer has a path."""
    with Issuer(path="/tenant") as tenant:
        world.sql("SELECT immuta.map_issuer(%s, 'bim')", (tenant.url,))
        assert outcome(connect(), tenant.token()) == "alice"
    with Issuer(path="/tenant") as tenant:
        tenant.answers[METADATA] = ("404 Not Found", [], {})
        tenant.answers[RFC8414 + "/tenant"] = ("200 OK", [], {"issuer": tenant.url, "jwks_uri": f"{tenant.base}/jwks"})
        world.sql("SELECT immuta.map_issuer(%s, 'bim')", (tenant.url,))
        assert outcome(connect(), tenant.token()) == "alice"


@pytest.mark.parametrize("said, seconds", [(None, 900), ("no-store", 900), ("max-age=0", 300), ("max-age=3600", 3600),
                                           ("max-age=99999999999", 86400), ("max-age=x", 900)])
def test_how_long_keys_count(world, issuer, token, connect, said, seconds):
    issuer.cache_control = said
    assert outcome(connect(), token()) == "alice"
    assert world.value("SELECT extract(epoch FROM fresh_until - fetched_at)::int FROM immuta.issuer_keys()") == seconds


# -- without requests -------------------------------------------------------------------------------------------------


def test_pinned_keys(world, issuer, token, connect):
    world.sql("SELECT immuta.map_issuer(%s, 'bim', jwks => %s)", (issuer.url, json.dumps(issuer.jwks())))
    assert outcome(connect(), token()) == "alice"
    assert world.sql("SELECT kid, source, fetched_at FROM immuta.issuer_keys()") == [("k1", "pinned", None)]
    assert issuer.connections == 0


def test_keys_from_a_url(world, issuer, token, connect):
    world.sql("SELECT immuta.map_issuer(%s, 'bim', jwks_url => %s)", (issuer.url, issuer.base + "/jwks?p=x"))
    issuer.answers["/jwks?p=x"] = issuer._answer("/jwks")
    assert outcome(connect(), token()) == "alice"
    assert issuer.requests == {"/jwks?p=x": 1}


def test_keys_in_a_file(world, issuer, token, connect, settings):
    """Read again at each reload; then nobody is asked."""
    file = world.server.home / "keys.json"

    def write(keys, mode=0o644):
        file.write_text(json.dumps({issuer.url: keys}))
        file.chmod(mode)
        if os.geteuid() == 0:
            os.chown(file, 65534, 65534)

    write(issuer.jwks())
    settings(jwt_keys_file=file)
    connection = connect()
    assert outcome(connection, token()) == "alice"
    issuer.add_key("k2", "ES256")
    write(issuer.jwks())
    assert outcome(connection, token(kid="k2")) == INVALID[1]
    world.sql("SELECT pg_reload_conf()")
    time.sleep(0.2)
    assert outcome(connection, token(kid="k2")) == "alice"
    write(issuer.jwks(), 0o666)
    world.sql("SELECT pg_reload_conf()")
    time.sleep(0.2)
    with refuses(*UNAVAILABLE) as seen:
        impersonate(connection, token())
    assert "may be changed by others" in seen.message
    assert issuer.connections == 0


def restart(world):
    world.admin.close()
    world.server.restart()


def test_a_restart_while_the_issuer_is_down(world, issuer, token, connect, settings):
    """A copy of the last good keys serves, for its time and the grace; without it there is nothing."""
    before = set(copies(world.server))
    alices = token()
    assert outcome(connect(), alices) == "alice"
    [copy] = set(copies(world.server)) - before
    assert copy.stat().st_mode & 0o077 == 0
    issuer.stop()
    restart(world)
    assert outcome(connect(), alices) == "alice"
    kept = json.loads(copy.read_text())
    old = {**kept, "fetched": kept["fetched"] - 10**9, "fresh_until": kept["fetched"] - 10**6}
    for content, grace, expected in [(old, 3600, "alice"), (old, 0, UNAVAILABLE[1]), ({**kept, "jwks": {"keys": []}}, 3600, UNAVAILABLE[1]),
                                     ({**kept, "fetched": kept["fetched"] + 10**10, "fresh_until": kept["fetched"] + 10**11}, 3600,
                                      UNAVAILABLE[1]), ({**kept, "fresh_until": 10**18}, 3600, UNAVAILABLE[1]), (None, 3600, UNAVAILABLE[1])]:
        copy.write_text("no JSON" if content is None else json.dumps(content))
        settings(jwt_keys_grace=grace)
        restart(world)
        assert outcome(connect(), alices) == expected, content


def test_keys_that_are_old_serve_while_the_issuer_is_down(world, issuer, token, connect, settings):
    """The second time they are asked for, one session finds out, and the others go on."""
    before = set(copies(world.server))
    assert outcome(connect(), token()) == "alice"
    [copy] = set(copies(world.server)) - before
    kept = json.loads(copy.read_text())
    copy.write_text(json.dumps({**kept, "fetched": kept["fetched"] - 10**9, "fresh_until": kept["fetched"] - 10**6}))
    issuer.answers["/jwks"] = ("503 Down", [], {})
    restart(world)
    settings(jwt_keys_cooldown=3600)
    assert [outcome(connect(), token()) for _ in range(3)] == ["alice"] * 3
    assert issuer.requests["/jwks"] == 2
    assert world.value("SELECT last_error FROM immuta.issuer_keys()") == "it answered with status 503"


def test_more_issuers_than_places(world, settings, connect):
    """Beyond sixteen each session keeps its own."""
    settings(token_provider="jwt", jwt_audience="db")
    issuers = [Issuer() for _ in range(18)]
    try:
        for issuer in issuers:
            issuer.__enter__()
            world.sql("SELECT immuta.map_issuer(%s, 'bim')", (issuer.url,))
        connection = connect()
        for _ in range(2):
            assert [outcome(connection, issuer.token()) for issuer in issuers] == ["alice"] * 18
        assert all(issuer.requests == ONCE for issuer in issuers)
    finally:
        world.sql("SELECT immuta.unmap_issuer(issuer) FROM immuta.issuers()")
        for issuer in issuers:
            issuer.stop()


def test_the_wrong_certificate(world, authority, settings, connect, tmp_path):
    """TLS as for every provider: only what bodata.api_ca_file names, if it does."""
    context = authority.server_context()
    with Issuer(context) as issuer:
        settings(token_provider="jwt", jwt_audience="db", api_ca_file=authority.ca_file)
        world.sql("SELECT immuta.map_issuer(%s, 'bim')", (issuer.url,))
        assert outcome(connect(), issuer.token()) == "alice"
        settings(api_ca_file="")
        with refuses(*UNAVAILABLE) as seen:
            impersonate(connect(), issuer.token())
        assert "no trusted TLS connection" in seen.message
        world.sql("SELECT immuta.unmap_issuer(issuer) FROM immuta.issuers()")


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
@pytest.mark.parametrize("path", [METADATA, "/jwks"])
def test_no_redirect_leads_to_plain_http(world, authority, settings, connect, path, status):
    """Whoever sits between could answer there: the same keys by http are no keys, and nobody asks for them."""
    with Issuer(authority.server_context()) as issuer, Issuer(path=issuer.path) as plain:
        plain.url, plain.keys = issuer.url, issuer.keys
        settings(token_provider="jwt", jwt_audience="db", api_ca_file=authority.ca_file, api_allow_http="off")
        world.sql("SELECT immuta.map_issuer(%s, 'bim')", (issuer.url,))
        try:
            issuer.answers[path] = (status, [f"Location: {plain.base}{plain.path if path == METADATA else ''}{path}"], {})
            with refuses(*UNAVAILABLE):
                impersonate(connect(), issuer.token())
            assert plain.connections == 0
        finally:
            world.sql("SELECT immuta.unmap_issuer(issuer) FROM immuta.issuers()")
