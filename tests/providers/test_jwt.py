"""Access tokens that are JSON Web Tokens, verified by the keys that their issuer publishes."""

import datetime
import json
import time

import jsonschema
import psycopg
import psycopg2
import pytest
from conftest import INVALID, NOT_ALLOWED, NOT_MAPPED, UNAVAILABLE, outcome, transaction, who
from harness.fixtures import carriers, refuses
from harness.issuer import METADATA, Issuer, b64, unb64
from harness.server import ROOT
from harness.world import SERVICE, impersonate, query


@pytest.fixture
def issuer(world, settings):
    """An issuer of its own, which is our identity manager `bim`."""
    with Issuer() as issuer:
        settings(token_provider="jwt", jwt_audience="db", jwt_keys_cooldown=1)
        world.sql("SELECT immuta.map_issuer(%s, 'bim')", (issuer.url,))
        yield issuer
        world.sql("SELECT immuta.unmap_issuer(issuer) FROM immuta.issuers()")


@pytest.fixture
def token(world, issuer):
    def issue(sub="alice", **how):
        world.tokens.append(issuer.token(sub, **how))
        return world.tokens[-1]

    return issue


@pytest.fixture
def mapped(world, issuer):
    """Maps the issuer with what else counts for it."""
    def change(**how):
        names = "".join(f", {name} => %s" for name in how)
        values = [json.dumps(value) if isinstance(value, dict) else value for value in how.values()]
        world.sql(f"SELECT immuta.map_issuer(%s, 'bim'{names})", (issuer.url, *values))

    return change


def test_a_token(issuer, token, connect):
    connection, alices = connect(), token()
    assert who(connection, alices) == ("bim", "alice", "alice")
    with transaction(connection, alices):
        assert carriers(connection) == ["UA"]
        [row] = query(connection, "SELECT provider, client_id, actor, actor_chain, token_id IS NOT NULL, expires_at - now() "
                                  "FROM immuta.whoami()")
        assert row[:5] == ("jwt", "app", None, None, True)
        assert datetime.timedelta(seconds=620) < row[5] <= datetime.timedelta(seconds=630), "with the skew"
        assert query(connection, "SELECT immuta.client_id(), immuta.actor(), immuta.token_claim('aud')") == [("app", None, "db")]
    assert query(connection, "SELECT immuta.client_id(), immuta.token_claim('aud')") == [(None, None)]
    connection.rollback()
    assert who(connection, token("bob")) == ("bim", "bob", "bob")
    assert issuer.requests == {METADATA: 1, "/jwks": 1}
    assert who(connect(), alices)[1] == "alice"
    assert issuer.requests == {METADATA: 1, "/jwks": 1}, "other sessions have the same keys"


@pytest.mark.parametrize("alg", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA", "Ed25519"])
def test_algorithms(issuer, token, connect, settings, alg):
    settings(jwt_algorithms="RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,EdDSA")
    issuer.add_key("k2", alg)
    assert outcome(connect(), token(kid="k2")) == "alice"


def test_a_key_that_does_not_say_what_for(issuer, token, connect):
    """It is for the first accepted algorithm of its type."""
    issuer.add_key("k2", "PS256", alg=None, use=None)
    issuer.add_key("k3", "RS256", alg=None, use=None)
    issuer.add_key("k4", "ES256", **{"kid": None})
    assert outcome(connect(), token(kid="k2")) == INVALID[1]
    assert outcome(connect(), token(kid="k3")) == "alice"
    assert outcome(connect(), token(kid="k4", header={"kid": None})) == "alice"


def test_who_the_user_is(issuer, token, connect, settings, mapped):
    settings(jwt_user_claim="/x/mail, sub")
    assert outcome(connect(), token("bob", x={"mail": "alice"})) == "alice"
    assert outcome(connect(), token("bob")) == "bob"
    mapped(user_claim=["https://x/id"], user_template="{userid}e")
    assert outcome(connect(), token(**{"https://x/id": "alic"})) == "alice"
    assert outcome(connect(), token("bob")) == INVALID[1]
    assert outcome(connect(), token(**{"https://x/id": "zoe"})) == NOT_MAPPED[1]


def test_what_is_required(issuer, token, connect, settings, mapped):
    settings(jwt_required_scope="db:read")
    assert outcome(connect(), token(scope="openid db:read")) == "alice"
    assert outcome(connect(), token(scp=["db:read"])) == "alice"
    with refuses(*NOT_ALLOWED) as seen:
        impersonate(connect(), token(scope="db:reader"))
    assert "scope" in seen.message and "bodata.jwt_required_scope" in seen.hint
    mapped(required_claims={"tid": "t", "roles": ["a", "b"]})
    good = {"scope": "db:read", "tid": "t", "roles": ["b", "x"]}
    assert outcome(connect(), token(**good)) == "alice"
    for bad in ({**good, "tid": "u"}, {**good, "roles": ["x"]}, {"scope": "db:read"}):
        assert outcome(connect(), token(**bad)) == NOT_ALLOWED[1]


def test_several_issuers(world, issuer, token, connect):
    """Each with its own keys and claims; a key id says nothing beyond its issuer."""
    with Issuer() as other:
        other.add_key("k1", "RS256", name="another k1")
        world.sql("SELECT immuta.map_issuer(%s, 'okta', user_claim => '{uid}', audiences => '{warehouse}')", (other.url,))
        world.sql("SELECT immuta.create_user('alice', 'okta', 'carol')")
        try:
            theirs = other.token("x", uid="alice", aud="warehouse")
            assert who(connect(), theirs) == ("okta", "alice", "carol")
            assert who(connect(), token()) == ("bim", "alice", "alice")
            assert outcome(connect(), other.token("x", uid="alice")) == INVALID[1], "meant for the other's audience"
            assert outcome(connect(), other.token(iss=issuer.url)) == INVALID[1]
            assert outcome(connect(), issuer.token(iss=other.url, uid="alice", aud="warehouse")) == INVALID[1]
        finally:
            world.sql("SELECT immuta.drop_user('alice', 'okta')")


def test_issuers_that_are_not_mapped(world, issuer, token, connect):
    before = issuer.requests.total()
    for iss in (issuer.url + "/", issuer.url.replace("http", "HTTP"), issuer.url.replace("//", "//%2f"), "https://evil"):
        assert outcome(connect(), token(iss=iss)) == NOT_ALLOWED[1], iss
    assert issuer.requests.total() == before, "nobody is asked"
    connection, alices = connect(), token()
    assert outcome(connection, alices) == "alice"
    world.sql("SELECT immuta.unmap_issuer(%s)", (issuer.url,))
    assert outcome(connection, alices) == NOT_ALLOWED[1]


def test_no_audience_is_no_configuration(issuer, token, connect, settings, mapped):
    settings(jwt_audience="")
    with refuses(*UNAVAILABLE) as seen:
        impersonate(connect(), token())
    assert "bodata.jwt_audience is not set" in seen.message
    mapped(audiences=["db"])
    assert outcome(connect(), token()) == "alice"


def test_times(issuer, token, connect):
    connection, alices = connect(), token(seconds=-27)
    impersonate(connection, alices)
    assert carriers(connection) == ["UA"]
    time.sleep(3.1)
    with refuses(*INVALID):
        carriers(connection)
    connection.rollback()
    assert outcome(connection, alices) == INVALID[1]


def test_a_long_pause_does_not_end_a_token(token, connect, settings):
    settings(token_idle_ttl=1)
    connection, alices = connect(), token()
    impersonate(connection, alices)
    carriers(connection)
    time.sleep(1.1)
    assert carriers(connection) == ["UA"]
    connection.rollback()
    assert outcome(connection, alices) == "alice"


def test_tokens_of_another_kind(token, connect, settings):
    assert outcome(connect(), token(header={"typ": "JWT"})) == INVALID[1]
    assert outcome(connect(), token(header={"typ": None})) == INVALID[1]
    settings(jwt_types="at+jwt, JWT")
    for typ in ("JWT", None, "application/at+jwt", "AT+JWT"):
        assert outcome(connect(), token(header={"typ": typ})) == "alice", typ
    for kind in ({"nonce": "n"}, {"at_hash": "x"}, {"events": {}}, {"token_use": "id"}, {"cnf": {"jkt": "x"}}):
        assert outcome(connect(), token(**kind)) == INVALID[1], kind


# -- what policies ask ---------------------------------------------------------------------------------------------

ASK = ("SELECT immuta.user_in_group('staff'), immuta.user_attribute('level'), immuta.user_attribute_values('region')")


def test_claims_feed_row_policies(world, token, connect, settings):
    """In their transaction, and nowhere else; also in prepared statements, whose plans are kept."""
    settings(jwt_groups_claim="/realm/groups", jwt_attributes_claim="attrs")
    connection = connect()
    low = token(realm={"groups": ["staff", 'a"b\\c']}, attrs={"level": "low", "region": ["eu", "us"]})
    high = token(realm={"groups": ["bosses"]}, attrs={"level": ["high"]})
    for bearer, expected in [(low, (True, "low", ["eu", "us"])), (high, (False, "high", [])), (low, (True, "low", ["eu", "us"]))] * 2:
        with transaction(connection, bearer):
            assert query(connection, ASK) == [expected]
            assert query(connection, "SELECT immuta.user_in_group($$a\"b\\c$$)") == [(expected[0],)]
    assert query(connection, "SELECT immuta.user_attribute_values('region')") == [(None,)]
    connection.rollback()
    with psycopg.connect(**world.server.dsn(*SERVICE, world.dbname)) as other:
        for bearer, expected in [(low, (True, "low", ["eu", "us"])), (high, (False, "high", []))] * 4:
            other.execute(f"SET LOCAL bodata.impersonation_token = '{bearer}'")
            assert other.execute(ASK, prepare=True).fetchall() == [expected]
            other.rollback()
    with transaction(connection, token()):
        assert query(connection, ASK) == [(False, None, [])]


def test_profiles_of_our_own_serve_where_no_claim_is_named(world, token, connect, settings):
    world.sql("INSERT INTO immuta.user_profile SELECT id, '{staff}', '{\"level\": [\"own\"]}' FROM immuta.user_account WHERE userid = 'alice'")
    try:
        with transaction(connect(), token(groups=["x"], attrs={"level": "token"})) as connection:
            assert query(connection, ASK) == [(True, "own", [])]
        settings(jwt_groups_claim="groups")
        with transaction(connect(), token(groups=["x"], attrs={"level": "token"})) as connection:
            assert query(connection, ASK) == [(False, "own", [])]
    finally:
        world.sql("DELETE FROM immuta.user_profile")


def test_single_attributes(token, connect, mapped):
    mapped(attribute_claims={"level": "/x/y~1z"})
    with transaction(connect(), token(x={"y/z": "high"})) as connection:
        assert query(connection, ASK) == [(False, "high", [])]


@pytest.mark.parametrize("sign", [{"hasgroups": True}, {"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {}}}])
def test_groups_that_were_left_out(token, connect, settings, sign):
    """A policy for everybody but a group must not open."""
    settings(jwt_groups_claim="groups")
    with refuses(*NOT_ALLOWED) as seen:
        impersonate(connect(), token(**sign))
    assert "leaves out the groups" in seen.message


def test_claims_cannot_be_changed(token, connect):
    with transaction(connect(), token()) as connection:
        for attempt in ("SET bodata.jwt_audience = 'x'", "SELECT set_config('bodata.jwt_groups_claim', 'x', true)",
                        "SELECT * FROM immuta.token_revocation", "SELECT immuta.map_issuer('x', 'bim')"):
            query(connection, "SAVEPOINT s")
            with refuses("42501"):
                query(connection, attempt)
            query(connection, "ROLLBACK TO s")
        assert query(connection, "SELECT immuta.token_claim('sub'), immuta.token_claim('/nowhere/0')") == [("alice", None)]


# -- on behalf of ----------------------------------------------------------------------------------------------------


def test_who_acts_for_the_user(world, token, connect, settings):
    agents = token(act={"sub": "agent-7", "iss": "https://id", "act": {"sub": "service"}})
    with transaction(connect(), agents) as connection:
        assert query(connection, "SELECT actor, actor_chain, userid, immuta.actor() FROM immuta.whoami()") == [
            ("agent-7", ["agent-7", "service"], "alice", "agent-7")]
    settings(jwt_actors="refuse")
    assert outcome(connect(), agents) == NOT_ALLOWED[1]
    assert outcome(connect(), token()) == "alice"


@pytest.mark.parametrize("form", ["uam", "legacy"])
def test_who_acts_is_on_record(world, token, connect, settings, form):
    settings(audit_format=form)
    before = world.server.logged()
    with transaction(connect(), token(act={"sub": "agent-7", "iss": "https://id", "act": {"sub": "service"}}, jti="j-1")) as connection:
        carriers(connection)
    lines = [line for line in world.server.log(before).splitlines() if '"actingParty"' in line]
    assert len(lines) == 3, "the beginning, the statement and the end"
    schema = json.loads((ROOT / f"docs/audit-{form}.schema.json").read_text())
    for line in lines:
        record = json.loads(line[line.index("{"):])
        jsonschema.validate(record, schema)
        part = record["actor"] if form == "uam" else record["extra"]
        assert part["actingParty"] == {"id": "agent-7", "issuer": "https://id", "chain": ["service"]}
        assert (part["clientId"], part["tokenId"]) == ("app", "j-1")


def test_rules_about_actors(world, token, connect):
    plain, agents, others = token(), token(act={"sub": "agent-7"}), token(act={"sub": "other", "act": {"sub": "agent-7"}})
    for actors, expected in [("", ["alice", NOT_ALLOWED[1], NOT_ALLOWED[1]]),
                             ("agent-*", [NOT_ALLOWED[1], "alice", NOT_ALLOWED[1]]), ("*", ["alice"] * 3)]:
        world.sql("SELECT immuta.add_impersonation_rule('*', '*', actors => %s)", (actors,))
        try:
            connection = connect()
            assert [outcome(connection, bearer) for bearer in (plain, agents, others)] == expected, actors
        finally:
            world.sql("DELETE FROM immuta.impersonation_rule")


# -- the end of tokens -------------------------------------------------------------------------------------------------


def test_a_revoked_token(world, issuer, token, connect):
    first, second, nameless = token(), token(), token(jti=None)
    connections = connect(), connect()
    assert [outcome(connection, first) for connection in connections] == ["alice"] * 2
    assert world.value("SELECT immuta.revoke_token(%s)", (first,)) is True
    assert [outcome(connection, first) for connection in connections] == [INVALID[1]] * 2
    assert outcome(connections[0], second) == outcome(connections[0], nameless) == "alice"
    assert world.value("SELECT immuta.revoke_token(%s)", (nameless,)) is True
    assert outcome(connections[0], nameless) == INVALID[1]
    assert world.value("SELECT immuta.revoke_token(%s)", (token(iss="https://evil"),)) is False
    check = "SELECT immuta.check_token(%s)"
    assert query(connect(), check, (first,)) == [({"active": False},)]
    assert query(connect(), check, (second,))[0][0]["userid"] == "alice"


@pytest.mark.parametrize("jti", ["1", None])
def test_a_revoked_token_has_no_other_signature(world, issuer, token, connect, jti):
    """With s negated an ECDSA signature is as good."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    issuer.add_key("k2", "ES256")

    def twin(bearer):
        signed, _, signature = bearer.rpartition(".")
        raw = unb64(signature)
        return f"{signed}.{b64(raw[:32] + (order - int.from_bytes(raw[32:], 'big')).to_bytes(32, 'big'))}"

    good, revoked = token(kid="k2", jti=jti and "2"), token(kid="k2", jti=jti)
    assert outcome(connect(), twin(good)) == "alice"
    world.sql("SELECT immuta.revoke_token(%s)", (revoked,))
    assert outcome(connect(), twin(revoked)) == INVALID[1]
    world.sql("DELETE FROM immuta.token_revocation")


def test_an_id_of_another_issuer_is_another_token(world, issuer, token, connect):
    with Issuer() as other:
        world.sql("SELECT immuta.map_issuer(%s, 'bim')", (other.url,))
        world.sql("SELECT immuta.revoke_token(%s)", (other.token(jti="same"),))
        assert outcome(connect(), other.token(jti="same")) == INVALID[1]
        assert outcome(connect(), token(jti="same")) == "alice"


def test_all_tokens_of_a_user(world, token, connect):
    """Those issued before; nobody needs a row in our tables."""
    now = int(time.time())
    old, fresh, timeless = token(iat=now - 5), token(iat=now + 5), token(iat=now - 5, jti="x")
    connection = connect()
    assert outcome(connection, old) == outcome(connection, fresh) == "alice"
    world.sql("SET bodata.token_provider = 'jwt'; SELECT immuta.revoke_user_tokens('alice'), immuta.revoke_user_tokens('zoe'); RESET bodata.token_provider")
    try:
        assert [outcome(connection, bearer) for bearer in (old, fresh, timeless)] == [INVALID[1], "alice", INVALID[1]]
        assert outcome(connection, token("bob")) == "bob"
    finally:
        world.sql("DELETE FROM immuta.token_revocation")


def test_changes_act_at_the_next_transaction(world, token, connect):
    connection, alices = connect(), token()
    assert outcome(connection, alices) == "alice"
    for change, undo, code in [
        ("SELECT immuta.disable_user('alice')", "SELECT immuta.disable_user('alice', disabled => false)", INVALID[1]),
        ("REVOKE bodata_impersonate_user FROM svc", "GRANT bodata_impersonate_user TO svc", NOT_ALLOWED[1]),
        ("SELECT immuta.add_impersonation_rule('*', 'bob')", "DELETE FROM immuta.impersonation_rule", NOT_ALLOWED[1]),
    ]:
        world.sql(change)
        try:
            assert outcome(connection, alices) == code, change
        finally:
            world.sql(undo)
    assert outcome(connection, alices) == "alice"


# -- for administrators --------------------------------------------------------------------------------------------


def explained(world, bearer):
    return {check: (ok, detail) for check, ok, detail in world.sql("SELECT * FROM immuta.explain_token(%s)", (bearer,))}


def test_explain_token(world, issuer, token, settings):
    world.sql("SET bodata.token_provider = 'jwt'; SET bodata.jwt_audience = 'db'")
    try:
        findings = explained(world, token())
        assert len(findings) == 15 and all(ok for ok, _ in findings.values()), findings
        for bearer, check, word in [
            (token(header={"typ": "JWT"}), "type", "bodata.jwt_types"),
            (token(aud="x"), "audience", "bodata.jwt_audience"),
            (token(seconds=-60), "times", "fresh"),
            (token(iss="https://evil"), "issuer", "map_issuer"),
            (issuer.forged(header={"alg": "ES512", "typ": "at+jwt", "kid": "k1"}), "algorithm", "bodata.jwt_algorithms"),
            (issuer.forged(sign=lambda _: b"x" * 256), "signature", "changed"),
            ("no token", "form", "no bytes"),
        ]:
            findings = explained(world, bearer)
            assert word in findings[check][1] and not findings[check][0], (check, findings)
    finally:
        world.sql("RESET bodata.token_provider; RESET bodata.jwt_audience")


def test_issuer_keys(world, issuer, token, connect):
    world.sql("SET bodata.token_provider = 'jwt'; SET bodata.jwt_audience = 'db'; SET bodata.api_allow_http = on")
    try:
        assert world.sql("SELECT issuer, kid, source, fetched_at FROM immuta.issuer_keys()") == [
            (issuer.url, None, "discovery", None)]
        assert world.value("SELECT immuta.refresh_issuer_keys(%s)", (issuer.url,)) is True
        [row] = world.sql("SELECT kid, kty, alg, source, fresh_until - fetched_at, last_error FROM immuta.issuer_keys()")
        assert row == ("k1", "RSA", "RS256", "discovery", datetime.timedelta(minutes=15), None)
        assert world.value("SELECT immuta.refresh_issuer_keys('https://evil')") is False
        checks = dict(world.sql("SELECT \"check\", ok FROM immuta.doctor() WHERE \"check\" IN "
                                "('token provider', 'keys of issuers are shared', 'keys of issuers travel safely')"))
        assert checks == {"token provider": True, "keys of issuers are shared": True, "keys of issuers travel safely": True}
        issuer.answers["/jwks"] = ("500 Oops", [], {})
        with refuses(*UNAVAILABLE) as seen:
            world.sql("SELECT immuta.refresh_issuer_keys(%s)", (issuer.url,))
        assert "status 500" in seen.message
        assert world.sql("SELECT kid, last_error FROM immuta.issuer_keys()") == [("k1", "it answered with status 500")]
    finally:
        world.sql("RESET bodata.token_provider; RESET bodata.jwt_audience; RESET bodata.api_allow_http")


@pytest.mark.parametrize("setting, value, word", [
    ("jwt_algorithms", "RS256, HS256", "HS256"), ("jwt_algorithms", "none", "none"), ("jwt_user_claim", "/a/~2", "JSON Pointer"),
    ("jwt_groups_claim", "/~", "JSON Pointer"), ("jwt_keys_file", "/nowhere", "cannot be read"), ("jwt_clock_skew", "301", "300"),
    ("jwt_audience", '""', "empty"), ("jwt_opaque", "yes", "introspection"), ("jwt_actors", "yes", "refuse"),
    ("jwt_keys_cooldown", "0", "1"),
])
def test_settings_are_checked(world, setting, value, word):
    with refuses("22023") as seen:
        world.sql(f"SET bodata.{setting} = %s", (value,))
    assert word in f"{seen.message} {seen.detail} {seen.hint}"


@pytest.mark.parametrize("how, word", [
    ("algorithms => '{HS256}'", "HS256"), ("jwks => '{\"keys\": []}'", "no key"), ("jwks_url => 'file:///etc/passwd'", "URL"),
    ("jwks_url => 'https://x', jwks => '{}'", "either"), ("user_template => 'x'", "{userid}"), ("user_claim => '{/~}'", "user_claim"),
    ("required_claims => '[]'", "required_claims"), ("attribute_claims => '{\"a\": 7}'", "attribute_claims"),
    ("audiences => '{}'", "audiences"),
])
def test_rows_are_checked(world, how, word):
    with refuses("22023") as seen:
        world.sql(f"SELECT immuta.map_issuer('https://x', 'bim', {how})".replace("%", "%%"))
    assert word in f"{seen.message} {seen.detail}"


@pytest.mark.parametrize("other", ["local", "introspection", "immuta"])
def test_another_provider_in_the_middle(world, connect, other):
    """Who is established stays until the transaction ends; then nobody is, by the same token, and the session goes on without."""
    def provider(name):
        world.sql(f"ALTER SYSTEM SET bodata.token_provider = '{name}'")
        world.sql("SELECT pg_reload_conf()")

    with Issuer() as issuer:
        world.sql("SELECT immuta.map_issuer(%s, 'bim')", (issuer.url,))
        world.sql("ALTER SYSTEM SET bodata.jwt_audience = 'db'")
        provider("jwt")
        time.sleep(0.2)
        try:
            alices = issuer.token()
            world.tokens.append(alices)
            world.sql("ALTER ROLE svc SET bodata.allow_session_impersonation = on")
            local, lasting = connect(), connect()
            lasting.autocommit = True
            query(lasting, "SET bodata.impersonation_token = %s", (alices,))
            impersonate(local, alices)
            query(lasting, "BEGIN")
            assert carriers(local) == carriers(lasting) == ["UA"]
            provider(other)
            time.sleep(0.2)
            for _ in range(2):
                assert carriers(local) == carriers(lasting) == ["UA"]
            local.commit()
            query(lasting, "COMMIT")
            for connection in (local, lasting):
                with pytest.raises(psycopg2.Error) as refused:
                    carriers(connection)
                assert refused.value.pgcode in ("42501", "28000", "58030"), refused.value
                connection.rollback()
            assert outcome(local, alices) in (INVALID[1], UNAVAILABLE[1])
            provider("jwt")
            time.sleep(0.2)
            assert outcome(local, alices) == "alice"
        finally:
            for name in ("token_provider", "jwt_audience"):
                world.sql(f"ALTER SYSTEM RESET bodata.{name}")
            world.sql("SELECT pg_reload_conf()")
            world.sql("ALTER ROLE svc RESET bodata.allow_session_impersonation")
            world.sql("SELECT immuta.unmap_issuer(issuer) FROM immuta.issuers()")
