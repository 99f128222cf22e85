"""An OAuth server that this project did not write: the npm package oidc-provider, over TLS, with tokens in memory."""

import base64
import json
import os
import shutil
import subprocess
import urllib.parse
import urllib.request

from .server import BUILD, ROOT

INSTALLED = BUILD / "oidc"
RESOURCE = "urn:test:database"


class OidcServer:
    """Its client's secret has every character that needs encoding on the way."""

    client_id = "the:database"
    client_secret = "p%ss +w:rd&=/?#~"

    def __init__(self, authority, folder):
        self.authority = authority
        self.files = authority.server_files(folder, "localhost")
        self.issuer = self.process = None

    def __enter__(self):
        # Node finds packages beside the program.
        shutil.copy(ROOT / "tests" / "providers" / "oidc" / "server.mjs", INSTALLED)
        env = {**os.environ, "OIDC_CLIENT_ID": self.client_id, "OIDC_CLIENT_SECRET": self.client_secret}
        self.process = subprocess.Popen(["node", INSTALLED / "server.mjs", *self.files], env=env, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        while line := self.process.stdout.readline():
            if line.startswith("https://"):
                self.issuer = line.strip()
                return self
        raise RuntimeError("oidc-provider did not start")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)
        self.process.stdout.close()

    @property
    def introspection_url(self):
        return f"{self.issuer}/token/introspection"

    def token(self, user, seconds=3600):
        return self._ask("/token", grant_type="urn:test:user", user=user, seconds=seconds)["access_token"]

    def jwt(self, user, seconds=3600, **more):
        """An access token of RFC 9068."""
        return self._ask("/token", grant_type="urn:test:user", user=user, seconds=seconds, resource=RESOURCE, **more)["access_token"]

    def client_token(self, **more):
        """Stands for no user."""
        return self._ask("/token", grant_type="client_credentials", **more)["access_token"]

    def revoke(self, token):
        self._ask("/token/revocation", token=token)

    def introspect(self, token):
        return self._ask("/token/introspection", token=token)

    def _ask(self, path, **form):
        pair = ":".join(urllib.parse.quote_plus(part) for part in (self.client_id, self.client_secret))
        request = urllib.request.Request(
            self.issuer + path, urllib.parse.urlencode(form).encode(),
            {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(
            context=self.authority.client_context()))
        with opener.open(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")
