"""A server to sqlsmith, a client to PostgreSQL: what it is sent, an impersonated user sends; what comes back is
searched for what that user must not see."""

import random
import re
import socket
import struct
import threading

import readers
from harness.wire import Closed, Wire

# Tags of statements after which there would be nothing left to see, or too much.
CHANGES = re.compile(rb"C\0\0..(?:INSERT|DELETE|UPDATE|MERGE|DROP|ALTER)", re.DOTALL)


class Proxy:
    """Listens on a port of its own. The first connection is the administrator's, so that sqlsmith learns of every
    table and function; all others are the impersonated user's."""

    def __init__(self, server, dbname, service, token, secret, granted, seed):
        self.server, self.dbname, self.service, self.token = server, dbname, service, token
        # What the user must not see, and what they may, but nobody without a token.
        self.secret, self.granted = secret, granted
        self.random = random.Random(seed)
        self.leaks, self.faults = [], []
        self.statements = self.rows = self.errors = self.refused = self.as_nobody = self.lost = self.seen = 0
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
                Conversation(self, client, is_administrator).hold()
        except (OSError, EOFError):
            pass
        except Closed:
            # The server ended the connection: terminated by itself is fine, a crash is in the log.
            self.lost += 1
        except Exception as fault:  # noqa: BLE001: a proxy that stopped would look like a quiet run
            self.faults.append(repr(fault))


class Conversation:
    """One connection of sqlsmith's."""

    def __init__(self, proxy, client, is_administrator):
        self.proxy, self.client, self.is_administrator = proxy, client, is_administrator
        self.input = client.makefile("rb")
        server = proxy.server
        if is_administrator:
            self.wire = Wire("127.0.0.1", server.port, "postgres", server.superuser_password, proxy.dbname)
        else:
            self.wire = Wire("127.0.0.1", server.port, *proxy.service, proxy.dbname,
                             options="-c statement_timeout=1000")
            # A statement of sqlsmith's may take the rest of the second, and then the cancel.
            self.wire.socket.settimeout(60)

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
            self._answer(body)

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
        proxy = self.proxy
        if self.is_administrator:
            # The one query by which sqlsmith learns of tables has no WHERE of its own.
            if proxy.focus and b"from information_schema.tables" in body:
                body = body.rstrip(b" ;\0") + b" WHERE " + proxy.focus + b"\0"
            self.client.sendall(self._ask(body)[0])
            return
        if proxy.random.random() < 0.3:
            text, ends = readers.statement(proxy.random)
            self._try(text.encode() + b"\0", True, ends)
        # Some as whoever ended their transaction.
        answer = self._try(body, proxy.random.random() < 0.85, False)
        if proxy.statements % 50 == 0:
            self._check_nobody()
        self.client.sendall(answer[:-1] + b"I")

    def _try(self, body, impersonates, ends):
        """One message of a user, who is nobody any more when it reads something if the user `ends` their transaction in it."""
        proxy = self.proxy
        proxy.statements += 1
        if impersonates:
            self._quietly(b"BEGIN\0")
            self._quietly(b"SET LOCAL bodata.impersonation_token = '" + proxy.token.encode() + b"'\0")
        answer, status = self._ask(body)
        proxy.as_nobody += not impersonates or ends
        self._search(body, answer, impersonates and not ends)
        end = b"COMMIT\0" if not CHANGES.search(answer) and proxy.random.random() < 0.5 else b"ROLLBACK\0"
        for _ in range(10):
            if status == b"I":
                return answer
            # Its time can be over before it begins: then the failed transaction is still there.
            last, status = self._ask(end)
            self._search(body, last, impersonates and not ends)
        raise ValueError(f"a transaction that does not end: {last[:300]!r}")

    def _ask(self, body):
        """The raw messages up to ReadyForQuery, and the status in that."""
        self.wire.socket.sendall(message(b"Q", body))
        answer = bytearray()
        while True:
            kind, content = self.wire._message()
            answer += message(kind.encode(), content)
            if kind == "D":
                self.proxy.rows += 1
            elif kind == "E":
                self.proxy.errors += 1
                if b"DIMPERSONATION_" in content:
                    self.proxy.refused += 1
            elif kind == "G":
                self.wire.socket.sendall(message(b"f", b"no data here\0"))
            elif kind == "Z":
                return bytes(answer), content

    def _quietly(self, body):
        answer, _ = self._ask(body)
        if answer[:1] == b"E":
            raise ValueError(f"{body[:20]!r}: {answer[:300]!r}")

    def _search(self, body, answer, impersonates):
        proxy = self.proxy
        proxy.seen += impersonates and proxy.granted in answer
        hidden = [proxy.secret, proxy.token.encode()] + [proxy.granted] * (not impersonates)
        proxy.leaks += [(word, body.decode(errors="replace"), answer[:2000]) for word in hidden if word in answer]

    def _check_nobody(self):
        answer, status = self._ask(b"SELECT current_user, session_user, (SELECT userid FROM immuta.whoami())\0")
        service = self.proxy.service[0].encode()
        row = struct.pack("!hi", 3, len(service)) + service + struct.pack("!i", len(service)) + service + b"\xff" * 4
        if message(b"D", row) not in answer or status != b"I":
            self.proxy.faults.append(f"not the service login's session: {answer!r}")


def message(kind, body):
    return kind + struct.pack("!i", len(body) + 4) + body
