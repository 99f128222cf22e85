"""Random JSON Web Tokens, claims and sets of keys: nothing crashes, no refusal is of another kind than those that are meant, and what
is accepted would be so by a library that this project did not write, and names that user.

    tests/fuzz/tokens.py [--minutes 1] [--seed N] [VERSION]      default: 18
"""

import argparse
import base64
import copy
import json
import random
import secrets
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import psycopg2  # noqa: E402
from cryptography.hazmat.primitives import hashes  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import padding  # noqa: E402
from harness.issuer import METADATA, Issuer, b64, unb64  # noqa: E402

# A refusal says one of these, and nothing else.
REFUSALS = {("28000", "IMPERSONATION_TOKEN_INVALID"), ("42501", "IMPERSONATION_NOT_ALLOWED"), ("42704", "IMPERSONATION_NOT_MAPPED"),
            ("58030", "IMPERSONATION_PROVIDER_UNAVAILABLE"),
            # What can be no text of a statement, or no value of the parameter.
            ("22021", None), ("22P05", None)}
SCALARS = [None, True, False, 0, -1, 1.5, 1e300, -1e300, 2**53, 2**64, 10**400, "", "a", "alice", "bob", "db", "at+jwt", "RS256", "none", "HS256",
           "\u0000", "\ud800", "é", "x" * 300, "/", "~0", [], {}, [[]], [None], ["db"], {"sub": "bob"}, [["db"]], {"": {}}]
NAMES = ["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "client_id", "act", "cnf", "nonce", "events", "scope", "scp", "groups", "typ", "alg", "kid",
         "crit", "b64", "jwk", "jku", "x5c", "x5u", "zip", "cty", "token_use", "_claim_names", "hasgroups", "", "\u0000", "x" * 2000]
KEY_NAMES = ["kty", "kid", "alg", "use", "key_ops", "n", "e", "crv", "x", "y", "d", "k", "x5c"]


class Source:
    """Random, and what it makes of what an issuer would say."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def value(self, depth=0):
        pick = self.random.random()
        if pick < 0.7 or depth > 3:
            return copy.deepcopy(self.random.choice(SCALARS))
        if pick < 0.85:
            return [self.value(depth + 1) for _ in range(self.random.randrange(4))]
        return {self.random.choice(NAMES): self.value(depth + 1) for _ in range(self.random.randrange(4))}

    def changed(self, members, names):
        """An object with some of its members changed, dropped, added."""
        members = copy.deepcopy(members)
        for _ in range(self.random.choice((0, 1, 1, 1, 2, 4))):
            name = self.random.choice([*members, *names])
            if self.random.random() < 0.3:
                members.pop(name, None)
            else:
                members[name] = self.value()
        return members

    def text(self, value):
        """As JSON; sometimes of a kind that Python does not write, or none."""
        text = json.dumps(value, ensure_ascii=self.random.random() < 0.5).encode("utf-8", "surrogatepass")
        match self.random.randrange(20):
            case 0:
                return self.bytes(text)
            case 1 if isinstance(value, dict) and value:
                name = json.dumps(self.random.choice(list(value))).encode("utf-8", "surrogatepass")
                return text[:-1] + b"," + name + b":" + json.dumps(self.value()).encode() + b"}"
            case 2:
                return text + self.random.choice((b" ", b"\0", b"x", b"{}"))
            case 3:
                return b"[" * self.random.choice((10, 200, 20_000)) + text
        return text

    def bytes(self, text):
        """With some bytes changed, dropped, doubled."""
        text = bytearray(text)
        for _ in range(self.random.randint(1, 4)):
            at = self.random.randrange(len(text) + 1)
            match self.random.randrange(4):
                case 0 if at < len(text):
                    text[at] = self.random.randrange(256)
                case 1:
                    del text[at:at + self.random.randint(1, 8)]
                case 2:
                    text[at:at] = bytes(self.random.choices(range(256), k=self.random.randint(1, 4)))
                case 3:
                    text[at:at] = text[:self.random.randrange(64)]
        return bytes(text)

    def token(self, issuer):
        """Mostly signed by its issuer, whatever it says."""
        claims = issuer.claims(self.random.choice(("alice", "bob", "carol", "zoe")))
        header = {"alg": "RS256", "typ": "at+jwt", "kid": "k1"}
        claims = self.changed(claims, NAMES)
        if self.random.random() < 0.4:
            header = self.changed(header, NAMES)
        token = issuer.forged(self.text(header), self.text(claims),
                              sign=None if self.random.random() < 0.9 else lambda _: self.random.randbytes(self.random.choice((0, 32, 256))))
        if self.random.random() < 0.15:
            token = self.bytes(token.encode()).decode("latin-1")
        return token

    def keys(self, issuer):
        """What the issuer publishes instead of its keys."""
        keys = issuer.jwks()
        every = [self.changed(key, KEY_NAMES) for key in keys["keys"]] + [self.value() for _ in range(self.random.randrange(3))]
        self.random.shuffle(every)
        return self.text(self.changed({**keys, "keys": every}, ["keys", "x"]) if self.random.random() < 0.7 else self.value())


def once(pairs):
    assert len(dict(pairs)) == len(pairs), "a name twice"
    return dict(pairs)


def judged(token, issuer):
    """The user that a token names, if another library takes its signature for the issuer's, and what it says is what we want."""
    parts = token.split(".")
    header, payload, signature = (base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True) for part in parts)
    _, key, _ = issuer.keys["k1"]
    key.public_key().verify(signature, ".".join(parts[:2]).encode(), padding.PKCS1v15(), hashes.SHA256())
    header, claims = (json.loads(part, object_pairs_hook=once) for part in (header, payload))
    # What is null is not there.
    header, claims = ({name: value for name, value in part.items() if value is not None} for part in (header, claims))
    audience, now = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]], time.time()
    assert claims["iss"] == issuer.url and "db" in audience and claims["exp"] > now - 40 and not {"cnf", "nonce", "events"} & claims.keys()
    assert header["typ"].lower().removeprefix("application/") == "at+jwt" and header["alg"] == "RS256" and not {"crit", "b64"} & header.keys()
    return claims["sub"]


def present(connection, token):
    """The user, or the refusal. A session that breaks is an error of ours."""
    with connection.cursor() as cursor:
        try:
            cursor.execute("SELECT set_config('bodata.impersonation_token', %s, true)", (token,))
            cursor.execute("SELECT userid FROM immuta.whoami()")
            return cursor.fetchone()[0]
        except ValueError:
            return ("22021", None)  # the driver sends no zero bytes
        except psycopg2.Error as error:
            assert error.pgcode, error
            return error.pgcode, error.diag.message_detail if error.pgcode not in ("22021", "22P05") else None
        finally:
            connection.rollback()


def check(connection, token, issuer):
    """Whether a token was accepted."""
    seen = present(connection, token)
    if isinstance(seen, tuple):
        assert seen in REFUSALS, (seen, token[:3000])
        return False
    try:
        assert judged(token, issuer) == seen
    except Exception as error:
        raise AssertionError(f"accepted as {seen}: {token[:3000]}") from error
    return True


def run(connect, issuer, source, until):
    """Tokens, then sets of keys, in sessions that are new now and then; how many, and how many were accepted."""
    count = accepted = 0
    while until(count):
        connection = connect()
        try:
            for _ in range(200):
                accepted += check(connection, source.token(issuer), issuer)
                count += 1
            # What only its form tells from a good one.
            good = issuer.token("alice")
            assert check(connection, good, issuer)
            header, payload, signature = good.split(".")
            for at in source.random.sample(range(len(unb64(signature))), 4):
                spoiled = bytearray(unb64(signature))
                spoiled[at] ^= 1 << source.random.randrange(8)
                assert not check(connection, f"{header}.{payload}.{b64(bytes(spoiled))}", issuer)
                count += 1
        finally:
            connection.close()
    return count, accepted


def run_keys(world_sql, connect, source, rounds):
    """Issuers that publish nonsense: their tokens are refused, or the key was among it after all."""
    for _ in range(rounds):
        with Issuer() as issuer:
            good, keys = issuer.token("alice"), source.keys(issuer)
            if source.random.random() < 0.5:
                issuer.answers["/jwks"] = ("200 OK", [], keys)
            else:
                issuer.answers[METADATA] = ("200 OK", [], source.text(source.changed({"issuer": issuer.url, "jwks_uri": issuer.base + "/jwks"}, ["issuer"])))
            world_sql("SELECT immuta.map_issuer(%s, 'bim')", (issuer.url,))
            connection = connect()
            try:
                check(connection, good, issuer)
            finally:
                connection.close()
                world_sql("SELECT immuta.unmap_issuer(%s)", (issuer.url,))


def main():
    from harness.server import Server
    from harness.world import World, prepare

    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given.add_argument("version", nargs="?", default="18")
    given.add_argument("--minutes", type=float, default=1)
    given.add_argument("--seed", type=int, default=secrets.randbits(32))
    given = given.parse_args()
    print(f"seed {given.seed}", flush=True)
    options = ["bodata.token_provider=jwt", "bodata.jwt_audience=db", "bodata.api_allow_http=on", "bodata.jwt_keys_cooldown=1",
               "bodata.api_timeout=2s", "log_min_messages=log"]
    with Server(given.version, "fuzz-tokens", options=options) as server, Issuer() as issuer:
        prepare(server)
        world, source = World(server), Source(given.seed)
        world.sql("SELECT immuta.map_issuer(%s, 'bim')", (issuer.url,))
        end = time.monotonic() + 60 * given.minutes
        rounds = tried = accepted = 0
        while time.monotonic() < end:
            more = run(world.connect, issuer, source, lambda count: count < 2000)
            run_keys(world.sql, world.connect, source, 20)
            rounds, tried, accepted = rounds + 20, tried + more[0], accepted + more[1]
        log = server.log()
        assert not [mark for mark in ("panicked", "terminated by signal", "TRAP:", "PANIC:") if mark in log], "see the log"
        world.admin.close()
    print(f"{tried} tokens, {accepted} of them accepted; {rounds} issuers")


if __name__ == "__main__":
    main()
