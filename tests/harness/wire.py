"""The wire protocol, version 3, as far as tests need what drivers hide: several messages in one packet, portals,
row limits, function calls, every field of an error."""

import base64
import hashlib
import hmac
import secrets
import socket
import struct
from dataclasses import dataclass, field


class Closed(Exception):
    """The server ended the connection; the last error it sent, if any."""


@dataclass
class Result:
    """What one statement answered. Values are text; `error` holds the fields of an error by their letter."""

    columns: list = field(default_factory=list)
    rows: list = field(default_factory=list)
    tag: str | None = None
    error: dict | None = None
    suspended: bool = False


@dataclass
class Answer:
    """Everything up to ReadyForQuery."""

    results: list = field(default_factory=list)
    notices: list = field(default_factory=list)
    parameters: dict = field(default_factory=dict)
    status: str = ""

    @property
    def error(self):
        return next((r.error for r in self.results if r.error), None)

    @property
    def rows(self):
        """Those of the last statement that returned any."""
        return next((r.rows for r in reversed(self.results) if r.columns or r.rows), [])

    @property
    def tags(self):
        return [r.tag for r in self.results if r.tag is not None]


class Wire:
    """One connection. Methods that queue return the connection, so that calls can be chained up to send()."""

    def __init__(self, host, port, user, password, dbname, **settings):
        self.parameters = {}
        self.queue = bytearray()
        self.extended = False
        self.last_error = self.challenge = None
        self.socket = socket.create_connection((host, port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input = self.socket.makefile("rb")
        words = {"user": user, "database": dbname, **settings}
        body = b"".join(_text(k) + _text(v) for k, v in words.items()) + b"\0"
        self.socket.sendall(struct.pack("!ii", len(body) + 8, 196608) + body)
        try:
            self._authenticate(password)
            answer = self.read()
            if answer.error:
                raise Closed(answer.error)
        except BaseException:
            self.close()
            raise

    def close(self):
        try:
            self.socket.sendall(b"X\0\0\0\4")
        except OSError:
            pass
        self.input.close()
        self.socket.close()

    # -- what can be queued --------------------------------------------------------------------------------------

    def simple(self, sql):
        self.extended = False
        return self._queue(b"Q", _text(sql))

    def parse(self, sql, name="", types=()):
        return self._queue(b"P", _text(name) + _text(sql) + struct.pack(f"!h{len(types)}I", len(types), *types))

    def bind(self, *values, portal="", name=""):
        body = _text(portal) + _text(name) + struct.pack("!hh", 0, len(values))
        return self._queue(b"B", body + b"".join(map(_value, values)) + struct.pack("!h", 0))

    def describe(self, portal=""):
        return self._queue(b"D", b"P" + _text(portal))

    def execute(self, portal="", max_rows=0):
        self.extended = True
        return self._queue(b"E", _text(portal) + struct.pack("!i", max_rows))

    def close_portal(self, portal=""):
        return self._queue(b"C", b"P" + _text(portal))

    def close_statement(self, name=""):
        return self._queue(b"C", b"S" + _text(name))

    def sync(self):
        return self._queue(b"S", b"")

    def flush(self):
        return self._queue(b"H", b"")

    def call(self, function, *values):
        """A function by its OID, on the fast path."""
        body = struct.pack("!Ihh", function, 0, len(values)) + b"".join(map(_value, values))
        return self._queue(b"F", body + struct.pack("!h", 0))

    def statement(self, sql, *values, name="", portal=""):
        """Parse, Bind, Describe and Execute."""
        self.parse(sql, name).bind(*values, name=name, portal=portal)
        return self.describe(portal).execute(portal)

    # -- send and receive ----------------------------------------------------------------------------------------

    def send(self):
        self.socket.sendall(self.queue)
        self.queue.clear()
        return self

    def query(self, sql):
        return self.simple(sql).send().read()

    def query_extended(self, sql, *values):
        return self.statement(sql, *values).sync().send().read()

    def read(self, until="Z"):
        """Reads up to a message of one of these kinds, which is ReadyForQuery if not told otherwise."""
        answer, current = Answer(), Result()
        while True:
            kind, body = self._message()
            if kind == "T":
                current.columns = _columns(body)
            elif kind == "D":
                current.rows.append(_row(body))
            elif kind in "CIs":
                current.tag = body[:-1].decode() if kind == "C" else None
                current.suspended = kind == "s"
                answer.results.append(current)
                current = Result()
            elif kind == "E":
                current.error = _fields(body)
                answer.results.append(current)
                current = Result()
            elif kind == "V":
                length = struct.unpack("!i", body[:4])[0]
                value = None if length < 0 else body[4:].decode(errors="replace")
                answer.results.append(Result(columns=["call"], rows=[(value,)]))
            elif kind == "N":
                answer.notices.append(_fields(body))
            elif kind == "S":
                name, value = body[:-1].decode(errors="replace").split("\0")
                answer.parameters[name] = self.parameters[name] = value
            elif kind == "H":
                current.columns = ["copy"]
            elif kind == "d":
                current.rows.append((body.decode(errors="replace"),))
            elif kind == "G":
                # A Sync that was sent with a COPY has been read as a part of it.
                self._queue(b"f", _text("no data here"))
                (self.sync() if self.extended else self).send()
            elif kind == "Z":
                answer.status = body.decode()
            if kind in until:
                return answer

    def _queue(self, kind, body):
        self.queue += kind + struct.pack("!i", len(body) + 4) + body
        return self

    def _message(self):
        head = self.input.read(5)
        if len(head) < 5:
            raise Closed(self.last_error)
        kind, length = chr(head[0]), struct.unpack("!i", head[1:])[0]
        body = self.input.read(length - 4)
        if kind == "E":
            self.last_error = _fields(body)
        return kind, body

    # -- authentication: SCRAM-SHA-256 (RFC 5802, RFC 7677) -------------------------------------------------------

    def _authenticate(self, password):
        nonce = secrets.token_urlsafe(18)
        first = f"n=,r={nonce}"
        while True:
            kind, body = self._message()
            if kind == "E":
                raise Closed(_fields(body))
            step, rest = struct.unpack("!i", body[:4])[0], body[4:]
            if step == 0:
                return
            if step == 10 and b"OAUTHBEARER\0" in rest:
                # The password is the token (RFC 7628).
                message = f"n,,\1auth=Bearer {password}\1\1".encode()
                self._queue(b"p", b"OAUTHBEARER\0" + struct.pack("!i", len(message)) + message).send()
            elif step == 11 and rest.startswith(b"{"):
                self.challenge = rest.decode()
                self._queue(b"p", b"\1").send()
            elif step == 10:
                message = f"n,,{first}".encode()
                self._queue(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(message)) + message).send()
            elif step == 11:
                self._queue(b"p", _scram_proof(password, nonce, first, rest.decode())).send()
            elif step != 12:
                raise Closed(f"authentication method {step}")


def _scram_proof(password, nonce, client_first, server_first):
    given = dict(part.split("=", 1) for part in server_first.split(","))
    if not given["r"].startswith(nonce):
        raise Closed("the server did not use our nonce")
    without_proof = f"c=biws,r={given['r']}"
    message = ",".join((client_first, server_first, without_proof)).encode()
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(given["s"]), int(given["i"]))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature))
    return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()


def _text(value):
    return (value if isinstance(value, bytes) else str(value).encode()) + b"\0"


def _value(value):
    if value is None:
        return struct.pack("!i", -1)
    raw = value if isinstance(value, bytes) else str(value).encode()
    return struct.pack("!i", len(raw)) + raw


def _columns(body):
    names, at = [], 2
    for _ in range(struct.unpack("!h", body[:2])[0]):
        end = body.index(b"\0", at)
        names.append(body[at:end].decode(errors="replace"))
        at = end + 19
    return names


def _row(body):
    values, at = [], 2
    for _ in range(struct.unpack("!h", body[:2])[0]):
        length = struct.unpack("!i", body[at:at + 4])[0]
        at += 4
        values.append(None if length < 0 else body[at:at + length].decode(errors="replace"))
        at += max(length, 0)
    return tuple(values)


def _fields(body):
    return {part[:1].decode(): part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
