"""A second OAuth server that this project did not write: Debian's glewlwyd, in C, with a database of its own, over TLS. It signs its
access tokens with a key of its own (RFC 9068), and its subjects are random: who the user is stands in another claim."""

import base64
import gzip
import json
import os
import sqlite3
import subprocess
import time
import urllib.parse
import urllib.request

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from . import debian
from .issuer import private_key
from .server import free_port

CLIENT, SECRET, PASSWORD = "database", "of the database", "of the user"


class Glewlwyd:
    def __init__(self, authority, folder):
        self.authority, self.folder = authority, folder
        self.port = free_port()
        self.base = f"https://localhost:{self.port}/api"
        self.issuer = f"{self.base}/oidc"
        self.process, self._cookie = None, ""

    def __enter__(self):
        tree = debian.program("glewlwyd") / "usr"
        key, certificate = self.authority.server_files(self.folder, "localhost")[::-1]
        database = self.folder / "glewlwyd.db"
        database.unlink(missing_ok=True)
        with gzip.open(tree / "share/doc/glewlwyd/database/init.sqlite3.sql.gz", "rt") as script:
            sqlite3.connect(database).executescript(script.read()).connection.close()
        modules = tree / "lib" / "glewlwyd"
        configuration = self.folder / "glewlwyd.conf"
        configuration.write_text(f"""
port={self.port}
external_url="https://localhost:{self.port}"
login_url="login.html"
api_prefix="api"
log_mode="file"
log_level="WARNING"
log_file="{self.folder}/glewlwyd.log"
cookie_domain="localhost"
cookie_secure=1
session_key="SESSION"
session_expiration=3600
admin_scope="g_admin"
profile_scope="g_profile"
admin_session_authentication="cookie"
user_module_path="{modules}/user"
user_middleware_module_path="{modules}/user_middleware"
client_module_path="{modules}/client"
user_auth_scheme_module_path="{modules}/scheme"
plugin_module_path="{modules}/plugin"
use_secure_connection=true
secure_connection_key_file="{key}"
secure_connection_pem_file="{certificate}"
database = {{ type = "sqlite3" path = "{database}" }};
""")
        environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, (tree / "lib").glob("*-linux-gnu")))}
        self.process = subprocess.Popen([tree / "bin" / "glewlwyd", "-c", configuration], env=environment, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(
            context=self.authority.client_context()))
        deadline = time.monotonic() + 20
        while True:
            try:
                # Cookies of a domain without a dot are not for cookie jars.
                self._cookie = self._send("/auth/", username="admin", password="password")["Set-Cookie"].split(";")[0]
                break
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.05)
        self._set_up()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)

    def _set_up(self):
        self._send("/scope/", name="db:read", password_required=True, password_max_age=0, scheme={})
        for user in ("alice", "bob"):
            self._send("/user/", username=user, name=user, password=PASSWORD, scope=["db:read", "openid"], enabled=True)
        self._send("/client/", client_id=CLIENT, confidential=True, enabled=True, password=SECRET, client_secret=SECRET,
                   authorization_type=["password", "client_credentials", "refresh_token"], scope=["db:read"],
                   token_endpoint_auth_method=["client_secret_basic"], resource=["https://db.example"])
        key = private_key("RSA", "glewlwyd")
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        self._send("/mod/plugin/", module="oidc", name="oidc", enabled=True, parameters={
            "iss": self.issuer, "jwt-type": "rsa", "jwt-key-size": "256", "key": private, "cert": public,
            "access-token-duration": 600, "refresh-token-duration": 1200, "code-duration": 600, "refresh-token-rolling": True,
            "allow-non-oidc": True, "subject-type": "public", "jwks-show": True, "jwks-x5c": [],
            **{f"auth-type-{kind}-enabled": True for kind in ("code", "token", "id-token", "none", "password", "client", "refresh")},
            "auth-type-device-enabled": False, "scope": [], "claims": [], "name-claim": "no", "email-claim": "no",
            "additional-parameters": [{"user-parameter": "name", "token-parameter": "uid", "token-changed": True}],
            "resource-allowed": True, "resource-client-property": "resource", "resource-scope": {}, "resource-change-allowed": True,
            "introspection-revocation-allowed": True, "introspection-revocation-allow-target-client": True})

    def _send(self, path, **body):
        request = urllib.request.Request(self.base + path, json.dumps(body).encode(), {
            "Content-Type": "application/json", "Cookie": self._cookie})
        with self._opener.open(request, timeout=10) as answer:
            return answer.headers

    def token(self, user=None, **more):
        """Of a user; without one the client's own."""
        grant = {"grant_type": "client_credentials"} if user is None else {"grant_type": "password", "username": user, "password": PASSWORD}
        form = {**grant, "scope": "db:read", "resource": "https://db.example", **more}
        pair = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        request = urllib.request.Request(f"{self.issuer}/token", urllib.parse.urlencode(form).encode(), {"Authorization": f"Basic {pair}"})
        with self._opener.open(request, timeout=10) as answer:
            return json.loads(answer.read())["access_token"]
