"""A stand-in for the Immuta HTTP API, which is not free to run: authentication, API keys, the current user, and tokens
that die some time after their last use. Where Immuta's documentation leaves an answer open, it is that of the hapi
framework: `{"statusCode", "error", "message"}`. A failed authentication is 401 with `"authenticated": false` beside it.

    with ImmutaApi() as api:
        api.add_user("alice", external_ids={"postgresqlUser": "alice"})
        token = api.issue("alice")
        ... api.url ... api.requests["/bim/rpc/user/current"] ...
"""

import http
import json
import re
import secrets
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from urllib.parse import unquote

from .listener import Listener

CURRENT_USER = "/bim/rpc/user/current"
APIKEY = "/bim/apikey/authenticate"
PASSWORD = re.compile(r"/bim/iam/([^/]+)/user/authenticate")
CREATED = "2024-01-15T09:30:00.000Z"


@dataclass
class User:
    """May be changed at any time; the next answer shows it."""

    id: int
    userid: str
    iamid: str
    password: str | None = None
    api_key: str | None = None
    external_ids: dict = field(default_factory=dict)
    disabled: bool = False
    forbidden: bool = False

    def as_json(self):
        """What `GET /bim/rpc/user/current` answers."""
        return {
            "id": self.id, "iamid": self.iamid, "userid": self.userid,
            "bimAuthorizations": {}, "iamAuthorizations": {"Department": ["Flights"]},
            "authorizations": {"Department": ["Flights"]},
            "permissions": [], "authentication": None, "systemGenerated": False,
            "profile": {
                "name": f"{self.userid} Doe", "email": f"{self.userid}@example.com",
                "externalUserIds": self.external_ids, "scim": {}, "id": self.id,
            },
            "lastLogin": CREATED, "lastExternalRefresh": CREATED, "disabled": self.disabled,
            "createdAt": CREATED, "updatedAt": CREATED,
        }


@dataclass
class Token:
    user: User
    active_at: float
    last_seen: float | None = None


class ImmutaApi:
    """`idle_ttl` is in seconds. `delay` is the time every answer takes, and may be changed at any time."""

    def __init__(self, context=None, idle_ttl=3600, delay=0):
        self.idle_ttl = idle_ttl
        self.delay = delay
        # What is true when a request comes is answered, however late.
        self.decides_first = False
        self.requests = Counter()
        self._users = {}
        self._tokens = {}
        self._lock = threading.Lock()
        self._listener = Listener(self._serve, context)
        self.port = self._listener.port
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self):
        self._listener.start()
        return self

    def __exit__(self, *_):
        self._listener.stop()

    @property
    def connections(self):
        """How many were accepted."""
        return self._listener.connections

    # -- users and tokens ----------------------------------------------------------------------------------------

    def add_user(self, userid, iamid="bim", password=None, api_key=None, external_ids=None, disabled=False,
                 forbidden=False):
        """A user, who may replace one of the same name. A `forbidden` one gets 403 for a good token."""
        with self._lock:
            user = User(len(self._users) + 1, userid, iamid, password, api_key, dict(external_ids or {}), disabled,
                        forbidden)
            self._users[iamid, userid] = user
            return user

    def issue(self, userid, iamid="bim", token=None):
        """A token without authentication."""
        return self._issue(self._users[iamid, userid], token or secrets.token_hex(32))

    def revoke(self, token):
        with self._lock:
            del self._tokens[token]

    def expire(self, token):
        """As if it had not been used for longer than `idle_ttl`."""
        with self._lock:
            self._tokens[token].active_at = float("-inf")

    def last_seen(self, token):
        """Time (of time.time()) of the last request that this token was accepted for, or None."""
        with self._lock:
            return self._tokens[token].last_seen

    def _issue(self, user, token):
        with self._lock:
            self._tokens[token] = Token(user, time.monotonic())
        return token

    # -- requests ------------------------------------------------------------------------------------------------

    def _serve(self, connection):
        while request := connection.request():
            with self._lock:
                self.requests[request.path] += 1
            decided = self._answer(request) if self.decides_first else None
            if self.delay:
                time.sleep(self.delay)
            status, answer = decided or self._answer(request)
            body = json.dumps(answer).encode()
            last = request.headers.get("connection", "").lower() == "close"
            connection.send(b"HTTP/1.1 %d %s\r\nContent-Type: application/json; charset=utf-8\r\n"
                            b"Cache-Control: no-cache\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n%s" % (
                                status, http.HTTPStatus(status).phrase.encode(), len(body),
                                b"close" if last else b"keep-alive", body))
            if last:
                return

    def _answer(self, request):
        if request.method == "GET" and request.path == CURRENT_USER:
            return self._current_user(request.headers.get("authorization", ""))
        by_password = PASSWORD.fullmatch(request.path)
        if request.method != "POST" or not (by_password or request.path == APIKEY):
            return _error(404, "Not Found")
        try:
            given = json.loads(request.body)
            name, secret = (given["username"], given["password"]) if by_password else (None, given["apikey"])
        except (ValueError, KeyError, TypeError):
            return _error(400, "Invalid request payload input")
        with self._lock:
            if by_password:
                found = [u for u in self._users.values() if (u.iamid, u.userid) == (unquote(by_password[1]), name)
                         and u.password is not None and u.password == secret]
            else:
                found = [u for u in self._users.values() if u.api_key is not None and u.api_key == secret]
        if not found or found[0].disabled:
            status, answer = _error(401, "Invalid credentials")
            return status, {**answer, "authenticated": False}
        expires = datetime.now(timezone.utc) + timedelta(seconds=self.idle_ttl)
        return 200, {"authenticated": True, "token": self._issue(found[0], secrets.token_hex(32)),
                     "tokenExpiration": expires.isoformat(timespec="milliseconds").replace("+00:00", "Z")}

    def _current_user(self, authorization):
        scheme, _, rest = authorization.partition(" ")
        token = rest if scheme.lower() == "bearer" else authorization
        with self._lock:
            found, now = self._tokens.get(token), time.monotonic()
            if found is None or now - found.active_at > self.idle_ttl:
                return _error(401, "Unauthorized")
            if found.user.forbidden:
                return _error(403, "Forbidden")
            found.active_at, found.last_seen = now, time.time()
            return 200, found.user.as_json()


def _error(status, message):
    return status, {"statusCode": status, "error": http.HTTPStatus(status).phrase, "message": message}
