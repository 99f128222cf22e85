"""A server that does one thing wrong, on demand. What it does, and what a client has to make of it, is a table:

    @pytest.mark.parametrize("name, fault", faults_for(USER).items())
    def test_fault(name, fault):
        with FaultServer(fault, answer=USER) as server:
            ... server.url ... fault.kind ... server.requests
"""

import functools
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate

from .listener import Listener

# What the client must conclude.
HANG = "hang"       # no answer, at its time limit and not earlier
BROKEN = "broken"   # no answer, at once
GOOD = "good"       # an answer

GIB = 2**30
# More than any client may want, and still small enough that nobody takes it for too long an answer as such.
DEEP = 100_000
LONG = 1_000_000

# The fields that decide who the user is, and which values they cannot have. The answers of all providers are here:
# what an answer does not hold is not tried.
WRONG = {
    "userid": (7, ["alice"], {"name": "alice"}, True),
    "iamid": (7, ["bim"], {"name": "bim"}, True),
    "disabled": ("false", 0, []),
    "profile": ("alice", 7, ["alice"]),
    "profile.externalUserIds": ("alice", 7, ["alice"]),
    "active": ("true", 1, [True]),
    "username": (7, ["alice"], {"name": "alice"}, True),
    "iss": (7, ["https://id.example.com"], True),
    "exp": ("tomorrow", [1], True),
}


@dataclass(frozen=True)
class Fault:
    """`play` is called for each request with a Talk. A fault of the `connection` is called once, before any request is
    read. A server whose connections hang before that (`listens` is False) plays nothing at all. With `tls`, the fault is
    one of TLS and the URL says so, whether there is a context or not. `seconds` is what a client spends that waits as
    long as it is told to."""

    name: str
    kind: str
    play: Callable
    connection: bool = False
    tls: bool = False
    seconds: int = 0
    listens: bool = True

    def __str__(self):
        return self.name


FAULTS = {}


def fault(name, kind, **how):
    def add(play):
        FAULTS[name] = Fault(name, kind, play, **how)
        return play
    return add


def answers(name, kind, make, **how):
    """A fault that is an answer: `make` gives it for a FaultServer."""
    @fault(name, kind, **how)
    def play(talk):
        talk.send(talk.server.once(make))


class Talk:
    """One connection as the faults see it."""

    def __init__(self, server, connection):
        self.server = server
        self.send = connection.send
        self.wait = connection.wait
        self.reset = connection.reset
        self.finish = connection.finish
        self.number = 0
        self.closed = False

    @property
    def good(self):
        return self.server.once(ok)

    def close(self, *last):
        """Sends this and ends the connection after it."""
        for data in last:
            self.send(data)
        self.closed = True

    def trickle(self, data, seconds=1):
        for byte in data:
            self.send(bytes([byte]))
            time.sleep(seconds)
        self.closed = True

    def flood(self, data):
        """Until the client has had enough."""
        while True:
            self.send(data)


class FaultServer:
    """Plays one fault, given as a Fault or by its name. `answer` is the JSON body of a good answer, which most faults
    spoil. `requests` counts the requests that were read to their end, `redirected` the connections of clients that
    followed a redirect, and `last` is the last request."""

    def __init__(self, fault, answer=b'{"active": true, "username": "alice"}', context=None):
        self.fault = FAULTS[fault] if isinstance(fault, str) else fault
        self.answer = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.requests = 0
        self.last = None
        self._lock = threading.Lock()
        self._listener = Listener(self._serve, None if self.fault.connection else context,
                                  backlog=1024 if self.fault.listens else 0)
        self._elsewhere = Listener(self._serve_good, context)
        self._fill = []
        self._scheme = "https" if context or self.fault.tls else "http"
        self.port = self._listener.port
        self.url = f"{self._scheme}://127.0.0.1:{self.port}"
        # Another port and another name: another host.
        self.other_url = f"{self._scheme}://localhost:{self._elsewhere.port}"
        self.once = functools.cache(lambda make: make(self))

    def __enter__(self):
        if self.fault.listens:
            self._listener.start()
        else:
            self._fill = fill_backlog(self.port)
        self._elsewhere.start()
        return self

    def __exit__(self, *_):
        for stream in self._fill:
            stream.close()
        self._listener.stop()
        self._elsewhere.stop()

    @property
    def connections(self):
        return self._listener.connections

    @property
    def redirected(self):
        return self._elsewhere.connections

    def _serve(self, connection):
        talk = Talk(self, connection)
        if self.fault.connection:
            self.fault.play(talk)
            return
        while not talk.closed and (request := connection.request()):
            with self._lock:
                self.requests += 1
                talk.number = self.requests
                self.last = request
            self.fault.play(talk)
            if request.headers.get("connection", "").lower() == "close":
                return

    def _serve_good(self, connection):
        while connection.request():
            connection.send(self.once(ok))


def fill_backlog(port):
    """Connects until the port drops the next SYN, after which nobody gets in: Linux answers a full backlog so."""
    streams = []
    for _ in range(16):
        stream = socket.socket()
        streams.append(stream)
        stream.settimeout(0.3)
        try:
            stream.connect(("127.0.0.1", port))
        except TimeoutError:
            return streams
    raise RuntimeError("the backlog of a port takes more connections than it should")


def response(body, status="200 OK", *headers, length=True):
    if isinstance(body, str):
        body = body.encode()
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json"]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def ok(server):
    return response(server.answer)


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


# -- hangs and trickles ------------------------------------------------------------------------------------------


@fault("hangs at connect", HANG, listens=False)
def hangs_at_connect(talk):
    raise AssertionError("a connection to a port that answers none")


@fault("hangs in the TLS handshake", HANG, connection=True, tls=True)
def hangs_in_handshake(talk):
    talk.wait()


@fault("hangs before the headers", HANG)
def hangs_before_headers(talk):
    talk.wait()


@fault("hangs inside the headers", HANG)
def hangs_inside_headers(talk):
    talk.send(talk.good[:talk.good.index(b"\r\n\r\n") - 5])
    talk.wait()


@fault("hangs inside the body", HANG)
def hangs_inside_body(talk):
    talk.send(talk.good[:-5])
    talk.wait()


@fault("hangs before the last chunk", HANG)
def hangs_before_last_chunk(talk):
    talk.send(response(chunk(talk.server.answer), "200 OK", "Transfer-Encoding: chunked", length=False))
    talk.wait()


@fault("one byte a second, headers", HANG)
def trickles_headers(talk):
    talk.trickle(talk.good)


@fault("one byte a second, body", HANG)
def trickles_body(talk):
    talk.send(talk.good[:-len(talk.server.answer)])
    talk.trickle(talk.server.answer)


@fault("many small packets", GOOD)
def trickles_fast(talk):
    for byte in talk.good:
        talk.send(bytes([byte]))


# -- ends of the connection --------------------------------------------------------------------------------------


@fault("reset before an answer", BROKEN)
def resets(talk):
    talk.reset()
    talk.close()


@fault("reset once, then good", GOOD)
def resets_once(talk):
    if talk.number == 1:
        resets(talk)
    else:
        talk.send(talk.good)


@fault("closed before an answer", BROKEN)
def closes(talk):
    talk.close()


@fault("closed inside the status line", BROKEN)
def closes_inside_status_line(talk):
    talk.close(b"HTTP/1.1 2")


@fault("closed inside the headers", BROKEN)
def closes_inside_headers(talk):
    talk.close(talk.good[:talk.good.index(b"\r\n\r\n") - 5])


@fault("closed inside the body", BROKEN)
def closes_inside_body(talk):
    talk.close(talk.good[:-5])


@fault("reset inside the body", BROKEN)
def resets_inside_body(talk):
    talk.send(talk.good[:-5])
    # The reset may overtake what was sent.
    time.sleep(0.05)
    resets(talk)


@fault("closed between the chunks", BROKEN)
def closes_between_chunks(talk):
    talk.close(response(chunk(talk.server.answer), "200 OK", "Transfer-Encoding: chunked", length=False))


@fault("closed after each answer, unannounced", GOOD)
def closes_unannounced(talk):
    talk.close(talk.good)


# -- too much ----------------------------------------------------------------------------------------------------


@fault("body of 10 GiB", BROKEN)
def huge_body(talk):
    talk.send(response(b"", "200 OK", f"Content-Length: {10 * GIB}", length=False))
    talk.flood(b" " * 65536)


@fault("endless chunked body", BROKEN)
def endless_body(talk):
    talk.send(response(b"", "200 OK", "Transfer-Encoding: chunked", length=False))
    talk.flood(chunk(b" " * 65536))


@fault("endless body without a length", BROKEN)
def endless_body_without_length(talk):
    talk.send(response(b"", "200 OK", "Connection: close", length=False))
    talk.flood(b" " * 65536)


@fault("endless headers", BROKEN)
def endless_headers(talk):
    talk.send(b"HTTP/1.1 200 OK\r\n")
    talk.flood(b"X-Header: of no use\r\n" * 1000)


@fault("one endless header", BROKEN)
def one_endless_header(talk):
    talk.send(b"HTTP/1.1 200 OK\r\nX-Header: ")
    talk.flood(b"x" * 65536)


@fault("endless interim answers", BROKEN)
def endless_interim_answers(talk):
    talk.flood(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


# -- answers whose body is wrong ---------------------------------------------------------------------------------


def spoilt(name, spoil, kind=BROKEN):
    """An answer with a body that `spoil` makes of the good one, a dict."""
    answers(name, kind, lambda server: response(spoil(json.loads(server.answer))))


def user_field(answer):
    """The name of the field with the user, whoever answers."""
    return next(name for name in ("userid", "username", "sub") if name in answer)


def with_field(name, text):
    """The answer with this JSON text as the value of a field, whether it is there or not."""
    def spoil(answer):
        mark = "the place of the value"
        return json.dumps({**answer, name(answer): mark}).replace(json.dumps(mark), text)
    return spoil


def with_user(text):
    return with_field(user_field, text)


def twice(name, value):
    """The answer with a field that is there before, with another value."""
    return lambda answer: f'{{"{name(answer)}": {json.dumps(value)}, {json.dumps(answer)[1:]}'


def nested(depth):
    return "[" * depth + "]" * depth


spoilt("invalid JSON", lambda answer: json.dumps(answer)[:-1] + ",}")
spoilt("text after the JSON", lambda answer: json.dumps(answer) + "{}")
spoilt("empty body", lambda _: "")
spoilt("empty object", lambda _: "{}")
spoilt("null", lambda _: "null")
spoilt("a string", lambda _: '"alice"')
spoilt("array instead of object", lambda answer: json.dumps([answer]))
spoilt("deep JSON", lambda _: nested(DEEP))
spoilt("deep JSON, never closed", lambda _: "[" * (2 * DEEP))
spoilt("deep JSON in the place of the user", with_user(nested(DEEP)))
# What does not count is skipped, whatever it is.
spoilt("deep JSON in another field", with_field(lambda _: "authorizations", nested(DEEP)), GOOD)
spoilt("half a surrogate pair in another field", with_field(lambda _: "authorizations", r'{"\udc00": "\ud83d"}'), GOOD)
spoilt("a number too large in another field", with_field(lambda _: "authorizations", "1e400"), GOOD)
spoilt("another field twice", lambda answer: json.dumps(answer)[:-1] + ', "scim": {"a": 1, "a": 2}, "scim": 3}', GOOD)
spoilt("200 without a user", lambda answer: json.dumps(
    {name: value for name, value in answer.items() if name not in ("userid", "username", "sub", "active")}))
spoilt("null as the user", with_user("null"))
spoilt("empty user", with_user('""'))
spoilt("the user twice", twice(user_field, "bob"))
spoilt("NUL in the user", with_user(r'"ali\u0000ce"'))
spoilt("control characters in the user", with_user(r'"ali\n\u001b[31mce"'))
spoilt("raw control characters in the user", with_user('"ali\n\x1bce"'))
spoilt("half a surrogate pair in the user", with_user(r'"ali\ud83dce"'))
spoilt("user of 1 MB", with_user(json.dumps("a" * LONG)))
spoilt("invalid UTF-8", lambda answer: with_user('"ali@@ce"')(answer).encode().replace(b"@@", b"\xff\xfe"))
answers("HTML with 200", BROKEN, lambda _: response(
    b"<!DOCTYPE html><title>Sign in</title>", "200 OK").replace(b"application/json", b"text/html"))


# -- answers whose status or headers are wrong -------------------------------------------------------------------


@fault("302 to another host", BROKEN)
def redirects_302(talk):
    talk.send(response(b"", "302 Found", f"Location: {talk.server.other_url}/"))


@fault("307 to another host", BROKEN)
def redirects_307(talk):
    talk.send(response(b"", "307 Temporary Redirect", f"Location: {talk.server.other_url}/"))


answers("302 to itself", BROKEN, lambda server: response(b"", "302 Found", f"Location: {server.url}/"))
answers("204", BROKEN, lambda _: response(b"", "204 No Content", length=False))
answers("201 with a user", BROKEN, lambda server: response(server.answer, "201 Created"))
answers("404", BROKEN, lambda server: response(server.answer, "404 Not Found"))
answers("500", BROKEN, lambda server: response(server.answer, "500 Internal Server Error"))
answers("502", BROKEN, lambda _: response(b"<html>", "502 Bad Gateway"))
answers("429", BROKEN, lambda _: response(b"{}", "429 Too Many Requests"))
answers("429 with a Retry-After too long", BROKEN, lambda _: response(
    b"{}", "429 Too Many Requests", "Retry-After: 86400"))
answers("429 with a Retry-After that is none", BROKEN, lambda _: response(
    b"{}", "429 Too Many Requests", "Retry-After: soon"))
answers("503 with a Retry-After that never ends", BROKEN, lambda _: response(
    b"{}", "503 Service Unavailable", "Retry-After: 1"), seconds=1)


@fault("429 with Retry-After: 1, then good", GOOD, seconds=1)
def asks_to_wait(talk):
    talk.send(response(b"{}", "429 Too Many Requests", "Retry-After: 1") if talk.number == 1 else talk.good)


@fault("503 with Retry-After as a date, then good", GOOD, seconds=2)
def asks_to_wait_until(talk):
    # In whole seconds: between one and two from now.
    date = formatdate(time.time() + 2, usegmt=True)
    talk.send(response(b"{}", "503 Service Unavailable", f"Retry-After: {date}") if talk.number == 1 else talk.good)


answers("garbage instead of HTTP", BROKEN, lambda _: b"\x00\x01\x02 SSH-2.0-OpenSSH_9.2\r\n\r\n" * 4)
answers("HTTP/9.9", BROKEN, lambda server: ok(server).replace(b"HTTP/1.1", b"HTTP/9.9"))
answers("a status that is no number", BROKEN, lambda server: ok(server).replace(b"200 OK", b"OK OK"))
answers("gzip that nobody asked for", BROKEN, lambda server: response(
    gzip.compress(server.answer), "200 OK", "Content-Encoding: gzip"))
answers("two lengths that differ", BROKEN, lambda server: response(
    server.answer, "200 OK", f"Content-Length: {len(server.answer) + 5}"))
answers("a negative length", BROKEN, lambda server: response(
    server.answer, "200 OK", "Content-Length: -1", length=False))
answers("a chunk with a length that is none", BROKEN, lambda server: response(
    b"zz\r\n" + server.answer, "200 OK", "Transfer-Encoding: chunked", length=False))


# -- good answers that look odd ----------------------------------------------------------------------------------

answers("good", GOOD, ok)
answers("a status line without a reason", GOOD, lambda server: ok(server).replace(b"200 OK", b"200"))
answers("a status line with an empty reason", GOOD, lambda server: ok(server).replace(b"200 OK", b"200 "))
answers("chunked", GOOD, lambda server: response(
    chunk(server.answer[:7]) + chunk(server.answer[7:]) + b"0\r\n\r\n", "200 OK", "Transfer-Encoding: chunked",
    length=False))
answers("100-continue that nobody waits for", GOOD, lambda server: b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + ok(server))
answers("no content type", GOOD, lambda server: ok(server).replace(b"Content-Type: application/json\r\n", b""))


@fault("HTTP/1.0 without a length", GOOD)
def old_http(talk):
    talk.send(response(talk.server.answer, "200 OK", length=False).replace(b"HTTP/1.1", b"HTTP/1.0"))
    talk.finish()
    talk.close()


@fault("no length, and the end of the connection", GOOD)
def ends_with_the_connection(talk):
    talk.send(response(talk.server.answer, "200 OK", "Connection: close", length=False))
    talk.finish()
    talk.close()


# -- the table for one kind of answer ----------------------------------------------------------------------------


def faults_for(answer):
    """All faults by name, with the wrong types of those fields that this answer (a dict) has."""
    table = dict(FAULTS)
    for field, values in WRONG.items():
        *outer, last = field.split(".")
        holder = functools.reduce(lambda part, name: part.get(name, {}), outer, answer)
        if last in holder:
            table.update((made.name, made) for made in (_wrong(field, value) for value in values))
    for name, value in answer.get("profile", {}).get("externalUserIds", {}).items():
        made = _wrong(f"profile.externalUserIds.{name}", [value])
        table[made.name] = made
    return table


def _wrong(field, value):
    def spoil(server):
        answer = json.loads(server.answer)
        *outer, last = field.split(".")
        functools.reduce(lambda part, name: part[name], outer, answer)[last] = value
        return response(json.dumps(answer))
    return Fault(f"{field} is {json.dumps(value)}", BROKEN, lambda talk: talk.send(talk.server.once(spoil)))
