"""A server to sqlsmith, a client to PostgreSQL: what it is sent, an impersonated user sends; what comes back is
searched for what that user must not see."""

import random
import re
import socket
import struct
import threading

from harness.wire import Closed, Wire

# Tags of statements after which there would be nothing left to see, or too much.
CHANGES = re.compile(rb"C\0\0..(?:INSERT|DELETE|UPDATE|MERGE|DROP|ALTER)", re.DOTALL)


class Watch:
    """Who sends statements, what came of them, and what of it should not have come."""

    def __init__(self, server, dbname, service, token, hidden, granted, seed, readers):
        self.server, self.dbname, self.service, self.token = server, dbname, service, token
        # Words (in small letters) that the user must not see; one that they may, but nobody without a token.
        self.hidden, self.granted = [word.encode() for word in (*hidden, token)], granted.encode()
        self.random, self.readers = random.Random(seed), readers
        # Of internal errors, the statement and the message.
        self.leaks, self.faults, self.internal = [], [], []
        self.statements = self.rows = self.errors = self.refused = self.as_nobody = self.lost = self.seen = 0
        # Statements of sqlsmith's and of ours that name what `readers.MASKED` names, and those of them that ran.
        self.named, self.ran = [0, 0], [0, 0]


class Session:
    """One connection of the service login."""

    def __init__(self, watch):
        self.watch = watch
        self.wire = Wire("127.0.0.1", watch.server.port, *watch.service, watch.dbname, options="-c statement_timeout=1000")
        # A statement may take the rest of the second, and then the cancel.
        self.wire.socket.settimeout(60)

    def try_one(self):
        """A short statement that tries to read something."""
        text, ends = self.watch.readers.statement(self.watch.random)
        return self.try_out(text.encode() + b"\0", ends=ends, is_ours=True)

    def try_out(self, body, impersonates=True, ends=False, is_ours=False):
        """One message of a user, who is nobody any more when it reads something if the user `ends` their transaction in it."""
        watch = self.watch
        watch.statements += 1
        if impersonates:
            self._quietly(b"BEGIN\0")
            self._quietly(b"SET LOCAL bodata.impersonation_token = '" + watch.token.encode() + b"'\0")
        errors = watch.errors
        answer, status = self.ask(body)
        if watch.readers.MASKED.search(body):
            watch.named[is_ours] += 1
            watch.ran[is_ours] += watch.errors == errors
        watch.as_nobody += not impersonates or ends
        self._search(body, answer, impersonates and not ends)
        end = b"COMMIT\0" if not CHANGES.search(answer) and watch.random.random() < 0.5 else b"ROLLBACK\0"
        for _ in range(10):
            if status == b"I":
                return answer
            # Its time can be over before it begins: then the failed transaction is still there.
            last, status = self.ask(end)
            self._search(body, last, impersonates and not ends)
        raise ValueError(f"a transaction that does not end: {last[:300]!r}")

    def ask(self, body):
        """The raw messages up to ReadyForQuery, and the status in that."""
        answer, status = ask(self.wire, body)
        for kind, content in answer:
            self.watch.rows += kind == b"D"
            self.watch.errors += kind == b"E"
            self.watch.refused += kind == b"E" and b"DIMPERSONATION_" in content
            if kind == b"E" and b"\0CXX" in content:
                self.watch.internal.append((body, re.search(rb"\0M([^\0]*)", content)[1].decode(errors="replace")))
        return b"".join(message(*one) for one in answer), status

    def _quietly(self, body):
        answer, _ = self.ask(body)
        if answer[:1] == b"E":
            raise ValueError(f"{body[:20]!r}: {answer[:300]!r}")

    def _search(self, body, answer, impersonates):
        watch = self.watch
        watch.seen += impersonates and watch.granted in answer
        # However it is written.
        small = answer.lower()
        found = next((word for word in watch.hidden + [watch.granted] * (not impersonates) if word in small), None)
        if found:
            watch.leaks.append((found, body.decode(errors="replace"), answer[max(small.find(found) - 1000, 0):][:2000]))

    def check_nobody(self):
        answer, status = self.ask(b"SELECT current_user, session_user, (SELECT userid FROM immuta.whoami())\0")
        service = self.watch.service[0].encode()
        row = struct.pack("!hi", 3, len(service)) + service + struct.pack("!i", len(service)) + service + b"\xff" * 4
        if message(b"D", row) not in answer or status != b"I":
            self.watch.faults.append(f"not the service login's session: {answer!r}")


class Proxy(Watch):
    """Listens on a port of its own. The first connection is the administrator's, so that sqlsmith learns of every
    table and function; all others are the impersonated user's."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.connections, self.focus = 0, b""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            is_administrator = self.connections == 1
            threading.Thread(target=self._serve, args=(client, is_administrator), daemon=True).start()

    def _serve(self, client, is_administrator):
        try:
            with client:
                (Administration if is_administrator else Conversation)(self, client).hold()
        except (OSError, EOFError):
            pass
        except Closed:
            # The server ended the connection: terminated by itself is fine, a crash is in the log.
            self.lost += 1
        except Exception as fault:  # noqa: BLE001: a proxy that stopped would look like a quiet run
            self.faults.append(repr(fault))


class Conversation:
    """One connection of sqlsmith's."""

    def __init__(self, proxy, client):
        self.proxy, self.client = proxy, client
        self.input = client.makefile("rb")
        self.wire = self._connect()

    def _connect(self):
        self.session = Session(self.proxy)
        return self.session.wire

    def hold(self):
        self._greet()
        while True:
            kind = self.input.read(1)
            if len(kind) < 1 or kind == b"X":
                self.wire.close()
                return
            (length,) = struct.unpack("!i", self._exactly(4))
            body = self._exactly(length - 4)
            if kind != b"Q":
                raise ValueError(f"a message of kind {kind!r}")
            self.client.sendall(self._answer(body))

    def _exactly(self, length):
        body = self.input.read(length)
        if len(body) < length:
            raise EOFError
        return body

    def _greet(self):
        while True:
            (length,) = struct.unpack("!i", self._exactly(4))
            (version,) = struct.unpack("!i", self._exactly(length - 4)[:4])
            if version == 196608:
                break
            self.client.sendall(b"N")
        greeting = message(b"R", struct.pack("!i", 0))
        for name, value in self.wire.parameters.items():
            greeting += message(b"S", f"{name}\0{value}\0".encode())
        self.client.sendall(greeting + message(b"K", struct.pack("!ii", 0, 0)) + message(b"Z", b"I"))

    def _answer(self, body):
        if self.proxy.random.random() < 0.3:
            self.session.try_one()
        # Some as whoever ended their transaction.
        answer = self.session.try_out(body, self.proxy.random.random() < 0.85)
        if self.proxy.statements % 50 == 0:
            self.session.check_nobody()
        return answer[:-1] + b"I"


class Administration(Conversation):
    """That by which it learns what there is."""

    def _connect(self):
        server = self.proxy.server
        return Wire("127.0.0.1", server.port, "postgres", server.superuser_password, self.proxy.dbname)

    def _answer(self, body):
        # The one query by which sqlsmith learns of tables has no WHERE of its own.
        if self.proxy.focus and b"from information_schema.tables" in body:
            body = body.rstrip(b" ;\0") + b" WHERE " + self.proxy.focus + b"\0"
        return b"".join(message(*one) for one in ask(self.wire, body)[0])


def ask(wire, body):
    """What a message is answered with, up to ReadyForQuery, and the status in that."""
    wire.socket.sendall(message(b"Q", body))
    answer = []
    while True:
        kind, content = wire._message()
        answer.append((kind.encode(), content))
        if kind == "G":
            wire.socket.sendall(message(b"f", b"no data here\0"))
        elif kind == "Z":
            return answer, content


def message(kind, body):
    return kind + struct.pack("!i", len(body) + 4) + body
