"""An issuer of access tokens: publishes its keys as OAuth servers do, and signs whatever a test wants. Good tokens are made by
joserfc, which this project did not write.

    with Issuer() as issuer:
        token = issuer.token("alice", groups=["staff"])
        ... issuer.url ... issuer.requests["/jwks"] ...
"""

import base64
import functools
import json
import secrets
import threading
import time
from collections import Counter

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jws
from joserfc.jwk import import_key

from .listener import Listener

METADATA = "/.well-known/openid-configuration"
RFC8414 = "/.well-known/oauth-authorization-server"
AUDIENCE = "db"


def b64(data):
    data = data if isinstance(data, bytes) else data.encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@functools.cache
def private_key(kind, name):
    """One for each name, made once in a run."""
    if kind == "RSA1024":
        return rsa.generate_private_key(65537, 1024)
    if kind == "RSA":
        return rsa.generate_private_key(65537, 2048)
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key({"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1,
                                    "secp256k1": ec.SECP256K1}[kind]())


KINDS = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "ES256K": "secp256k1", "EdDSA": "Ed25519", "Ed25519": "Ed25519"}


def kind_of(alg):
    return KINDS.get(alg, "RSA")


@functools.cache
def imported(key, kind):
    """For joserfc, once for each: checking an RSA key takes many times as long as signing with it."""
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return import_key(pem, {"RSA": "RSA", "Ed25519": "OKP"}.get(kind, "EC"))


def number(value, size=None):
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def jwk(key, **more):
    """The public half."""
    public = key.public_key()
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = public.public_numbers()
        return {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e), **more}
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return {"kty": "OKP", "crv": "Ed25519", "x": b64(public.public_bytes_raw()), **more}
    numbers, size = public.public_numbers(), (key.curve.key_size + 7) // 8
    curve = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}.get(key.curve.name, key.curve.name)
    return {"kty": "EC", "crv": curve, "x": number(numbers.x, size), "y": number(numbers.y, size), **more}


def signature(alg, key, message):
    """By cryptography, whatever the header says."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    digest = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}[alg.rstrip("K")[-3:]]()
    if isinstance(key, rsa.RSAPrivateKey):
        how = padding.PKCS1v15() if alg.startswith("RS") else padding.PSS(padding.MGF1(digest), digest.digest_size)
        return key.sign(message, how, digest)
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(digest)))
    size = (key.curve.key_size + 7) // 8
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


class Issuer:
    """`answers` may hold `(status, headers, body)` for a path below that of the issuer, or a function that plays it."""

    def __init__(self, context=None, path=None, authority="127.0.0.1"):
        self.requests, self.answers, self.keys = Counter(), {}, {}
        self.cache_control = None
        self._lock = threading.Lock()
        self._listener = Listener(self._serve, context)
        self.base = f"{'https' if context else 'http'}://{authority}:{self._listener.port}"
        # Ports come again, and with them the copies of keys that a server keeps.
        self.path = f"/{secrets.token_hex(4)}" if path is None else path
        self.url = self.base + self.path
        self.add_key("k1", "RS256")

    def __enter__(self):
        self._listener.start()
        return self

    def __exit__(self, *_):
        self._listener.stop()

    def stop(self):
        self._listener.stop()

    @property
    def connections(self):
        return self._listener.connections

    # -- keys ----------------------------------------------------------------------------------------------------

    def add_key(self, key_id, algorithm, published=True, name=None, **members):
        """`members` are those of the published JWK, None to leave one out."""
        key = private_key(kind_of(algorithm), name or key_id)
        members = {"kid": key_id, "alg": algorithm, "use": "sig", **members}
        public = jwk(key, **{name: value for name, value in members.items() if value is not None})
        self.keys[key_id] = (algorithm, key, public if published else None)
        return key

    def withdraw(self, kid):
        del self.keys[kid]

    def jwks(self):
        return {"keys": [public for _, _, public in self.keys.values() if public]}

    # -- tokens --------------------------------------------------------------------------------------------------

    def claims(self, sub="alice", seconds=600, **claims):
        """None leaves one out."""
        now = int(time.time())
        every = {"iss": self.url, "sub": sub, "aud": AUDIENCE, "iat": now, "exp": now + seconds,
                 "client_id": "app", "jti": b64(str(time.perf_counter_ns())), **claims}
        return {name: value for name, value in every.items() if value is not None}

    def token(self, sub="alice", kid="k1", header=None, **claims):
        """A good one, but for what is said."""
        alg, key, _ = self.keys[kid]
        head = {"alg": alg, "typ": "at+jwt", "kid": kid, **(header or {})}
        head = {name: value for name, value in head.items() if value is not None}
        registry = jws.JWSRegistry(algorithms=[alg], strict_check_header=False)
        return jws.serialize_compact(head, json.dumps(self.claims(sub, **claims)), imported(key, kind_of(alg)), registry=registry)

    def forged(self, header=None, payload=None, key=None, alg=None, sign=None):
        """Header and payload as they are given: dicts, or texts that are no good JSON."""
        known, own, _ = self.keys["k1"]
        header = {"alg": known, "typ": "at+jwt", "kid": "k1"} if header is None else header
        payload = self.claims() if payload is None else payload
        parts = [b64(part if isinstance(part, (str, bytes)) else json.dumps(part)) for part in (header, payload)]
        message = ".".join(parts).encode()
        sign = sign or (lambda message: signature(alg or known, key or own, message))
        return f"{message.decode()}.{b64(sign(message))}"

    # -- the server ----------------------------------------------------------------------------------------------

    def _serve(self, connection):
        while request := connection.request():
            path = request.path.removeprefix(self.path)
            with self._lock:
                self.requests[path] += 1
            answer = self.answers.get(path) or self._answer(path)
            if callable(answer):
                answer = answer(connection)
                if answer is None:
                    return
            status, headers, body = answer
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
            connection.send("\r\n".join([*lines, "", ""]).encode() + body)

    def _answer(self, path):
        if path == METADATA:
            return "200 OK", [], {"issuer": self.url, "jwks_uri": f"{self.base}/jwks"}
        if path == "/jwks":
            return "200 OK", [f"Cache-Control: {self.cache_control}"] if self.cache_control else [], self.jwks()
        return "404 Not Found", [], {}
