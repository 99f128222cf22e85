"""Tokens that are not what they seem. Each row is an attack: what is presented, and with which code it must be refused. A row
that is accepted is one that an honest client needs.

Threats: 59 (docs/threats.md).
"""

import hashlib
import hmac
import json
import os
import sys
import zlib
from pathlib import Path

import pytest
from conftest import INVALID, NOT_ALLOWED, outcome
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from harness.issuer import Issuer, b64, jwk, private_key, unb64
from harness.listener import Listener
from harness.world import query

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fuzz"))

import tokens  # noqa: E402

R, N, GOOD = INVALID[1], NOT_ALLOWED[1], "alice"


@pytest.fixture(scope="module")
def known():
    """One issuer for all rows: its keys are fetched once."""
    with Issuer() as issuer:
        for number, alg in enumerate(["PS256", "ES256", "ES384", "EdDSA"], 2):
            issuer.add_key(f"k{number}", alg)
        issuer.add_key("enc", "RS256", use="enc")
        issuer.add_key("ops", "RS256", use=None, key_ops=["encrypt"])
        issuer.add_key("p521", "ES512")
        issuer.add_key("koblitz", "ES256K")
        # What an issuer should never publish.
        small = private_key("RSA1024", "small")
        issuer.keys["small"] = ("RS256", small, jwk(small, kid="small", alg="RS256"))
        one = private_key("RSA", "one")
        issuer.keys["one"] = ("RS256", one, {**jwk(one, kid="one", alg="RS256"), "e": "AQ"})
        issuer.keys["oct"] = ("RS256", one, {"kty": "oct", "kid": "oct", "k": b64(b"secret" * 6), "alg": "HS256"})
        issuer.keys["odd"] = ("RS256", one, ["no key"])
        yield issuer


@pytest.fixture(scope="module")
def present(world, known):
    """What comes of a token, in a session of its own: failures cost the session time."""
    for name, value in (("token_provider", "jwt"), ("jwt_audience", "db"), ("jwt_keys_cooldown", "3600")):
        world.sql(f"ALTER DATABASE immuta SET bodata.{name} = '{value}'")
    world.sql("SELECT immuta.map_issuer(%s, 'bim')", (known.url,))

    def run(token):
        if len(token) > 100 and "ey" in token:
            world.tokens.append(token)
        connection = world.connect()
        try:
            return outcome(connection, token)
        finally:
            connection.close()

    assert run(known.token()) == GOOD
    yield run
    assert run(known.token()) == GOOD
    world.sql("SELECT immuta.unmap_issuer(%s)", (known.url,))
    for name in ("token_provider", "jwt_audience", "jwt_keys_cooldown"):
        world.sql(f"ALTER DATABASE immuta RESET bodata.{name}")


def head(**header):
    every = {"alg": "RS256", "typ": "at+jwt", "kid": "k1", **header}
    return {name: value for name, value in every.items() if value is not None}


def with_header(**header):
    return lambda issuer: issuer.forged(head(**header))


def with_text(text):
    return lambda issuer: issuer.forged(header=text)


def with_claims(**claims):
    return lambda issuer: issuer.token(**claims)


def with_payload(change):
    return lambda issuer: issuer.forged(payload=change(json.dumps(issuer.claims())))


def mac(secret):
    def make(issuer):
        key = secret(issuer) if callable(secret) else secret
        return issuer.forged(head(alg="HS256"), sign=lambda message: hmac.digest(key, message, "sha256"))
    return make


def public(encoding, form):
    return lambda issuer: issuer.keys["k1"][1].public_key().public_bytes(encoding, form)


def spelled(change):
    return lambda issuer: change(issuer.token())


def ecdsa(change):
    """An ES256 token with another signature than its own."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

    def make(issuer):
        signed, _, own = issuer.token(kid="k3").rpartition(".")
        raw = unb64(own)
        r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        return f"{signed}.{b64(change(r, s, order))}"
    return make


def pair(r, s):
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def der(issuer):
    key = issuer.keys["k3"][1]
    return issuer.forged(head(alg="ES256", kid="k3"), sign=lambda message: key.sign(message, ec.ECDSA(hashes.SHA256())))


def short_salt(issuer):
    key = issuer.keys["k2"][1]
    how = padding.PSS(padding.MGF1(hashes.SHA256()), 20)
    return issuer.forged(head(alg="PS256", kid="k2"), sign=lambda message: key.sign(message, how, hashes.SHA256()))


def garbage_in_padding(issuer):
    """PKCS#1 with bytes after the digest, as verifiers once accepted."""
    numbers = issuer.keys["k1"][1].private_numbers()

    def sign(message):
        info = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(message).digest()
        block = b"\0\1" + b"\xff" * 8 + b"\0" + info
        block += b"x" * (256 - len(block))
        value = pow(int.from_bytes(block, "big"), numbers.d, numbers.public_numbers.n)
        return value.to_bytes(256, "big")
    return issuer.forged(sign=sign)


def own_key(**members):
    """A key of the attacker's, brought along."""
    def make(issuer):
        key = private_key("RSA", "attacker's")
        return issuer.forged(head(kid=None, **members, jwk=jwk(key)), key=key)
    return make


def act(depth):
    """As deep as a token can hold."""
    return '{"sub":"a","act":' * depth + '{"sub":"a"}' + "}" * depth


ATTACKS = {
    # The algorithm.
    **{f"alg {alg!r}, no signature": (lambda issuer, alg=alg: issuer.forged(head(alg=alg), sign=lambda _: b""), R)
       for alg in ("none", "None", "NONE", "nOnE", "")},
    **{f"alg {alg!r}, the old signature": (with_header(alg=alg), R) for alg in ("none", "", "rs256", None, 7, ["RS256"])},
    "HS256 by the PEM": (mac(public(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)), R),
    "HS256 by the DER": (mac(public(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)), R),
    "HS256 by PKCS#1": (mac(public(Encoding.DER, PublicFormat.PKCS1)), R),
    "HS256 by n": (mac(lambda issuer: unb64(issuer.keys["k1"][2]["n"])), R),
    "HS256 by the JWK": (mac(lambda issuer: json.dumps(issuer.keys["k1"][2]).encode()), R),
    "HS256 by nothing": (mac(b""), R),
    "HS256 by a published secret": (lambda issuer: issuer.forged(
        head(alg="HS256", kid="oct"), sign=lambda message: hmac.digest(b"secret" * 6, message, "sha256")), R),
    "RS384 by a key for RS256": (lambda issuer: issuer.forged(head(alg="RS384"), alg="RS384"), R),
    "PS256 by a key for RS256": (lambda issuer: issuer.forged(head(alg="PS256"), alg="PS256"), R),
    "ES256 by a P-384 key": (lambda issuer: issuer.forged(head(alg="ES256", kid="k4"), key=issuer.keys["k4"][1], alg="ES256"), R),
    "ES512": (lambda issuer: issuer.forged(head(alg="ES512", kid="p521"), key=issuer.keys["p521"][1], alg="ES512"), R),
    "ES256K": (lambda issuer: issuer.forged(head(alg="ES256K", kid="koblitz"), key=issuer.keys["koblitz"][1], alg="ES256"), R),
    "Ed448": (with_header(alg="Ed448"), R),
    # The key.
    "jwk along": (own_key(), R),
    "jwk along, with a known kid": (lambda issuer: issuer.forged(head(jwk=jwk(private_key("RSA", "attacker's"))),
                                                               key=private_key("RSA", "attacker's")), R),
    "x5c along": (own_key(x5c=["MIIB"]), R),
    **{f"kid {kid!r:.30}": (with_header(kid=kid), R) for kid in (
        "../../../../dev/null", "k1' OR 1=1 --", "k1\0", "K1", "k1 ", "", 7, ["k1"], {"k1": 1}, "x" * 9000, "k2", "k3")},
    "a key for encryption": (with_claims(kid="enc"), R),
    "a key that encrypts only": (with_claims(kid="ops"), R),
    "1024 bits": (lambda issuer: issuer.forged(head(kid="small"), key=issuer.keys["small"][1]), R),
    "e = 1": (lambda issuer: issuer.forged(head(kid="one"), sign=lambda message: b"\0\1" + b"\xff" * 202 + b"\0" + bytes.fromhex(
        "3031300d060960864801650304020105000420") + hashlib.sha256(message).digest()), R),
    # The header.
    **{f"crit {crit!r}": (with_header(crit=crit), R) for crit in (["x"], [], ["b64"], ["exp"], "exp", {})},
    "crit null": (with_text('{"alg":"RS256","typ":"at+jwt","kid":"k1","crit":null}'), R),
    "b64 false": (with_header(b64=False), R),
    "zip": (lambda issuer: issuer.forged(head(zip="DEF"), payload=zlib.compress(json.dumps(issuer.claims()).encode())), R),
    "cty JWT": (with_header(cty="JWT"), R),
    "enc": (with_header(enc="A256GCM"), R),
    "alg twice": (with_text('{"alg":"none","alg":"RS256","typ":"at+jwt","kid":"k1"}'), R),
    "kid twice": (with_text('{"alg":"RS256","typ":"at+jwt","kid":"k2","kid":"k1"}'), R),
    "alg twice, escaped": (with_text('{"alg":"none","a\\u006cg":"RS256","typ":"at+jwt","kid":"k1"}'), R),
    **{f"header {text!r:.20}": (with_text(text), R) for text in (
        "[]", '"RS256"', "", "null", "{", '{"alg":"RS256","typ":"at+jwt","kid":"k1"}x',
        '\ufeff{"alg":"RS256","typ":"at+jwt","kid":"k1"}', '{"alg":"RS256","typ":"at+jwt","kid":"k1"}'.encode("utf-16"),
        '{"alg":"RS256","typ":"at+jwt","kid":"k1","x":"\0"}', '{"alg":"RS256","typ":"at+jwt","kid":"k1","x":1e400}',
        "[" * 9000)},
    **{f"typ {typ!r}": (with_header(typ=typ), R) for typ in (
        None, "JWT", "logout+jwt", "secevent+jwt", "dpop+jwt", "id+jwt", "at", "at+jwt ", 7)},
    "typ application/at+jwt": (with_header(typ="application/at+jwt"), GOOD),
    "typ AT+JWT": (with_header(typ="AT+JWT"), GOOD),
    # The signature.
    "no signature": (spelled(lambda token: token.rpartition(".")[0] + "."), R),
    "another token's signature": (lambda issuer: issuer.token().rpartition(".")[0] + "." + issuer.token("bob").rpartition(".")[2], R),
    "another payload": (lambda issuer: (lambda parts: f"{parts[0]}.{b64(json.dumps(issuer.claims('bob')))}.{parts[2]}")(
        issuer.token().split(".")), R),
    "ECDSA, DER": (der, R),
    "ECDSA, r = s = 0": (ecdsa(lambda r, s, n: bytes(64)), R),
    "ECDSA, r = 0": (ecdsa(lambda r, s, n: pair(0, s)), R),
    "ECDSA, s = 0": (ecdsa(lambda r, s, n: pair(r, 0)), R),
    "ECDSA, r = s = n": (ecdsa(lambda r, s, n: pair(n, n)), R),
    "ECDSA, r = s = 1": (ecdsa(lambda r, s, n: pair(1, 1)), R),
    "ECDSA, r + n": (ecdsa(lambda r, s, n: (r + n).to_bytes(33, "big") + s.to_bytes(32, "big")), R),
    "ECDSA, 63 bytes": (ecdsa(lambda r, s, n: pair(r, s)[:63]), R),
    "ECDSA, 65 bytes": (ecdsa(lambda r, s, n: pair(r, s) + b"\0"), R),
    "ECDSA, s negated": (ecdsa(lambda r, s, n: pair(r, n - s)), GOOD),
    "PSS with a short salt": (short_salt, R),
    "PKCS#1 with garbage": (garbage_in_padding, R),
    # The form.
    "padding": (spelled(lambda token: token + "=="), R),
    "the other alphabet": (lambda issuer: issuer.token(x="???>>>" * 20).replace("_", "/").replace("-", "+"), R),
    "bits that say nothing": (spelled(lambda token: token[:-1] + chr(ord(token[-1]) + 1)), R),
    "two parts": (spelled(lambda token: token.rpartition(".")[0]), R),
    "four parts": (spelled(lambda token: token + ".x"), R),
    "five parts, as encrypted ones have": (spelled(lambda token: token + "..x"), R),
    "an empty part": (spelled(lambda token: "." + token), R),
    "dots": (lambda _: "." * 16_000, R),
    "JSON serialization": (spelled(lambda token: (lambda h, p, s: json.dumps(
        {"protected": h, "payload": p, "signature": s}, separators=(",", ":")))(*token.split("."))), R),
    "a token in a token": (lambda issuer: issuer.forged(payload=issuer.token()), R),
    "16 KiB": (lambda issuer: issuer.token(x="x" * 11_000), GOOD),
    "more than 16 KiB": (lambda issuer: issuer.token(x="x" * 13_000), R),
    # The payload.
    **{f"{name} twice": (with_payload(lambda text, name=name, value=value: f'{{"{name}":{value},{text[1:]}'), R)
       for name, value in (("sub", '"bob"'), ("iss", '"x"'), ("exp", "1"), ("s\\u0075b", '"bob"'), ("aud", '"x"'))},
    "act twice": (with_payload(lambda text: '{"act":{"sub":"a"},"act":{"sub":"b"},' + text[1:]), R),
    "a number too large": (with_payload(lambda text: '{"x":1e400,' + text[1:]), R),
    "many digits": (with_payload(lambda text: '{"x":' + "9" * 9000 + "," + text[1:]), R),
    "deep": (with_payload(lambda text: '{"x":' + "[" * 3000 + "]" * 3000 + "," + text[1:]), R),
    "no UTF-8": (lambda issuer: issuer.forged(payload=json.dumps(issuer.claims()).encode()[:-1] + b',"x":"\xff"}'), R),
    "half a surrogate": (with_payload(lambda text: '{"x":"\\ud800",' + text[1:]), R),
    **{f"payload {text!r:.20}": (lambda issuer, text=text: issuer.forged(payload=text), R) for text in ("[]", "null", "7", "{}x", '""')},
    # The issuer.
    **{f"iss {iss!r}": (with_claims(iss=iss), R) for iss in (None, 7, [], {}, True)},
    "iss in a list": (lambda issuer: issuer.token(iss=[issuer.url, "https://evil"]), R),
    "iss with a slash": (lambda issuer: issuer.token(iss=issuer.url + "/"), N),
    "iss in other case": (lambda issuer: issuer.token(iss=issuer.url.upper()), N),
    "iss as it looks": (lambda issuer: issuer.token(iss=issuer.url.replace("p", "\u0440")), N),
    "iss nobody knows": (with_claims(iss="https://evil.example.com"), N),
    "iss empty": (with_claims(iss=""), N),
    # The audience.
    **{f"aud {aud!r:.20}": (with_claims(aud=aud), R) for aud in (
        None, [], 7, {"db": 1}, ["x"], "db2", "DB", "d", "", ["db", 7], "db ", "x db", True)},
    "aud null": (with_payload(lambda text: text.replace('"aud": "db"', '"aud": null')), R),
    "aud among a thousand": (with_claims(aud=["x"] * 1000 + ["db"]), GOOD),
    # The times.
    **{f"exp {exp!r}": (with_claims(exp=exp), R) for exp in (None, "1e12", -1, 0, 1e300, "NaN", [9e9], True)},
    "expired within the skew": (with_claims(seconds=-25), GOOD),
    "expired beyond the skew": (with_claims(seconds=-31), R),
    "nbf in the future": (with_claims(nbf=9e9), R),
    "nbf a text": (with_claims(nbf="0"), R),
    "iat in the future": (with_claims(iat=9e9), R),
    "iat missing": (with_claims(iat=None), R),
    "a long life": (with_claims(seconds=90_000), R),
    # The kind.
    "an ID token": (with_claims(nonce="n"), R),
    "an ID token with a hash": (with_claims(at_hash="x"), R),
    "a logout token": (with_claims(events={"http://schemas.openid.net/event/backchannel-logout": {}}), R),
    "Cognito's ID token": (with_claims(token_use="id"), R),
    "Keycloak's refresh token": (with_claims(**{"typ": "Refresh"}), R),
    "bound by DPoP": (with_claims(cnf={"jkt": "x"}), R),
    "bound by TLS": (with_claims(cnf={"x5t#S256": "x"}), R),
    # The user.
    **{f"sub {sub!r:.20}": (with_claims(sub=sub), R) for sub in (
        None, "", 7, ["alice"], {"alice": 1}, "a\0b", "a\nb", "x" * 256, True)},
    "a client whose id is a user's": (with_claims(client_id="alice"), R),
    "a client by azp": (with_claims(client_id=None, azp="alice"), R),
    "a client by idtyp": (with_claims(idtyp="app"), R),
    **{f"{name!r} is another user": (with_claims(sub=name), "IMPERSONATION_NOT_MAPPED")
       for name in ("Alice", "alice ", " alice", "alic\u00e9", "alice\u0301", "ALICE", "postgres", "pg_monitor", "none", "svc", "owner")},
    # On behalf of.
    **{f"act {value!r:.20}": (with_claims(act=value), R) for value in ("agent", [], 7, {}, {"sub": ""}, {"sub": 7}, {"sub": "a\nb"},
                                                                     {"sub": "a", "act": "b"})},
    "a long chain": (with_payload(lambda text: f'{{"act":{act(500)},{text[1:]}'), R),
    "a chain of nine": (with_payload(lambda text: f'{{"act":{act(8)},{text[1:]}'), R),
    "a chain of eight": (with_payload(lambda text: f'{{"act":{act(7)},{text[1:]}'), GOOD),
    "jti a number": (with_claims(jti=7), R),
    "client_id a list": (with_claims(client_id=["app"]), R),
    "scope a number, which nobody asks for": (with_claims(scope=7), R),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(known, present, name):
    make, expected = ATTACKS[name]
    assert present(make(known)) == expected


def test_urls_in_tokens_are_not_followed(known, present):
    """jku and x5u to a listener, which sees no connection."""
    key = private_key("RSA", "attacker's")
    listener = Listener(lambda connection: None)
    listener.start()
    try:
        url = f"http://127.0.0.1:{listener.port}/keys"
        for member in ("jku", "x5u"):
            assert present(known.forged(head(kid="own", **{member: url}), key=key)) == R
        assert present(known.token(iss=url)) == N
        assert listener.connections == 0
    finally:
        listener.stop()


def test_garbage_asks_for_nothing(known, present):
    """Made-up key ids, forms, algorithms: the keys were fetched once, whatever comes."""
    before = known.requests.total()
    for number in range(30):
        assert present(known.forged(head(kid=f"made-up-{number}"))) == R
    assert known.requests.total() == before


def test_only_what_looks_otherwise_is_introspected(known, present, world):
    """By shape, and never after a failed verification."""
    asked = []

    def serve(connection):
        while request := connection.request():
            asked.append(request.path)
            body = b'{"active": true, "username": "alice"}'
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    listener = Listener(serve)
    listener.start()
    secret = world.server.home / "jwt-secret"
    secret.write_text("s3cret")
    secret.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(secret, 65534, 65534)
    settings = {"jwt_opaque": "introspection", "introspection_url": f"http://127.0.0.1:{listener.port}/i",
                "introspection_client_id": "db", "introspection_client_secret_file": str(secret)}
    for name, value in settings.items():
        world.sql(f"ALTER DATABASE immuta SET bodata.{name} = %s", (value,))
    world.sql("SELECT immuta.map_issuer('', 'bim')")
    try:
        for bad in (known.forged(sign=lambda _: b"x"), "a.b.c", ".."):
            assert present(bad) == R
        assert asked == []
        assert present("an-opaque-token") == "alice" and len(asked) == 1
    finally:
        listener.stop()
        world.sql("SELECT immuta.unmap_issuer('')")
        for name in settings:
            world.sql(f"ALTER DATABASE immuta RESET bodata.{name}")


def test_sessions_survive(known, present, world):
    """One session, many bad tokens: it costs time, and then goes on."""
    connection = world.connect()
    try:
        for bad in ("a.b.c", known.forged(header="[]"), known.token(exp=0)):
            assert outcome(connection, bad) == R
        assert outcome(connection, known.token()) == "alice"
        assert query(connection, "SELECT userid FROM immuta.whoami()") == [(None,)]
    finally:
        connection.close()


def test_random_tokens(known, present, world, settings, connect):
    """As `make fuzz` makes them for minutes: what is accepted, another library accepts."""
    source = tokens.Source(20)
    count, accepted = tokens.run(connect, known, source, lambda count: count < 400)
    assert count > 400 and 20 < accepted < count / 2
    settings(api_timeout=2000)
    tokens.run_keys(world.sql, connect, source, 10)
