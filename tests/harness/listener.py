"""The part of an HTTP server that the stand-ins share: sockets on 127.0.0.1, a thread for each connection, TLS, and an
end that does not wait for anybody. Python's http.server is too polite for faults and too slow for load."""

import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass

READ = 65536


@dataclass
class Request:
    method: str
    path: str
    headers: dict
    body: bytes
    head: bytes


class Connection:
    """One accepted connection, in its own thread. Everything raises OSError as soon as the client or stop() ends it."""

    def __init__(self, stream):
        self.stream = stream
        self._rest = b""

    def request(self):
        """The next request, or None if the client has left. What is no HTTP gets the answer of an ordinary server."""
        data = self._rest
        while (end := data.find(b"\r\n\r\n")) < 0:
            if data and not data[:1].isupper():
                self.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return None
            more = self.stream.recv(READ)
            if not more:
                return None
            data += more
        head, data = data[:end], data[end + 4:]
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", 0))
        while len(data) < length:
            more = self.stream.recv(READ)
            if not more:
                return None
            data += more
        self._rest = data[length:]
        return Request(method, path, headers, data[:length], head)

    def send(self, data):
        self.stream.sendall(data)

    def wait(self):
        """Does nothing until the client has left."""
        while self.stream.recv(READ):
            pass

    def reset(self):
        """Makes the end of the connection a TCP RST."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def finish(self):
        """Says the end of TLS, without which an answer that ends with the connection is a truncated one."""
        if isinstance(self.stream, ssl.SSLSocket):
            self.stream.settimeout(1)
            self.stream.unwrap()


class Listener:
    """Accepts on a free port and gives each connection to serve(). Counts what it accepted."""

    def __init__(self, serve, context=None, backlog=1024):
        self.connections = 0
        self._serve = serve
        self._context = context
        self._open = set()
        self._stopped = False
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def start(self):
        self._thread.start()

    def stop(self):
        """Ends the port and every connection, also those that wait for something."""
        with self._lock:
            self._stopped = True
            # shutdown() wakes a thread that is in accept() or recv(); close() would not.
            _shut(self._socket)
            for stream in self._open:
                _shut(stream)
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()

    def _accept(self):
        while True:
            try:
                stream, _ = self._socket.accept()
            except OSError:
                if self._stopped:
                    return
                # Out of files, or the client has already left.
                time.sleep(0.01)
                continue
            self.connections += 1
            threading.Thread(target=self._run, args=(stream,), daemon=True).start()

    def _run(self, stream):
        try:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context:
                stream = self._context.wrap_socket(stream, server_side=True, do_handshake_on_connect=False)
            with self._lock:
                if self._stopped:
                    return
                self._open.add(stream)
            if self._context:
                stream.do_handshake()
            self._serve(Connection(stream))
        except OSError:
            pass
        finally:
            with self._lock:
                self._open.discard(stream)
                stream.close()


def _shut(stream):
    try:
        # Not SSLSocket.shutdown(), which takes the TLS layer away from the thread that is using it.
        socket.socket.shutdown(stream, socket.SHUT_RDWR)
    except OSError:
        pass
