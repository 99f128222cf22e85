"""The second act: the same login and the same queries, with tokens of the Immuta API. Immuta itself is not free to run;
what answers here is the stand-in of the tests, over TLS with a certificate authority of its own."""

import json
import secrets
import time
import urllib.request

from harness.certificates import Authority
from harness.immuta_api import ImmutaApi

USERS = {"ursula": "ursula", "ann": "ann", "ida": "analysts"}


class ImmutaAct:
    def __init__(self, demo):
        self.demo = demo
        self.authority = Authority(demo.server.home / "ca")
        self.passwords = {user: secrets.token_urlsafe(9) for user in USERS}

    def play(self, heading, table):
        heading("8. The same, with users and tokens of the Immuta API")
        with ImmutaApi(context=self.authority.server_context("127.0.0.1")) as api:
            for user, password in self.passwords.items():
                api.add_user(user, password=password,
                             external_ids={"postgresqlUser": "analysts"} if user == "ida" else None)
            settings = {"api_url": api.url, "api_ca_file": str(self.authority.ca_file), "token_provider": "immuta",
                        "token_revalidate_interval": "0"}
            try:
                self.configure(settings)
                tokens = {user: self.authenticate(api, user) for user in USERS}
                self.ask(tokens, table)
                self.refuse(api, tokens)
            finally:
                self.configure(dict.fromkeys(settings))
        print("\n  The provider is the embedded one again: a change needs a reload, and no restart.")

    def configure(self, settings):
        """As an administrator does; what is None goes back to its default."""
        for name, value in settings.items():
            change = f"RESET bodata.{name}" if value is None else f"SET bodata.{name} = '{value}'"
            print(f"  ALTER SYSTEM {change};")
            with self.demo.admin.cursor() as cursor:
                cursor.execute(f"ALTER SYSTEM {change}")
        provider = settings["token_provider"] or "local"
        with self.demo.admin.cursor() as cursor:
            cursor.execute("SELECT pg_reload_conf()")
        for _ in range(100):
            if self.demo.one_value("SHOW bodata.token_provider") == provider:
                return
            time.sleep(0.05)
        raise TimeoutError("the new settings did not arrive")

    def authenticate(self, api, user):
        """What the application does, outside the database."""
        request = urllib.request.Request(
            f"{api.url}/bim/iam/bim/user/authenticate",
            json.dumps({"username": user, "password": self.passwords[user]}).encode(),
            {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self.authority.client_context()))
        with opener.open(request, timeout=10) as answer:
            return json.load(answer)["token"]

    def ask(self, tokens, table):
        print("\n  ida has no row in this database: her role is named by her profile.externalUserIds in Immuta.\n")
        rows = []
        for user, role in USERS.items():
            wanted = self.demo.flights.summary({"ursula": "UA", "ann": "AA"}.get(user))
            with self.demo.transaction(tokens[user]) as cursor:
                cursor.execute("SELECT userid, current_user, provider FROM immuta.whoami()")
                who = cursor.fetchone()
                cursor.execute("SELECT count(*) FROM air.flights")
                flights = cursor.fetchone()[0]
            self.demo.expect(f"who {user} is", who, (user, role, "immuta"))
            self.demo.expect(f"what {user} sees", flights, wanted.flights)
            rows.append((user, role, who[2], f"{flights:,}"))
        table(("user", "current_user", "provider", "flights"), rows, right=(3,))

    def refuse(self, api, tokens):
        count = "SELECT count(*) FROM air.flights"
        api.expire(tokens["ursula"])
        api.revoke(tokens["ann"])
        print()
        self.demo.show_refused([
            ("idle for an hour", tokens["ursula"], count, "28000", "IMPERSONATION_TOKEN_INVALID"),
            ("revoked in Immuta", tokens["ann"], count, "28000", "IMPERSONATION_TOKEN_INVALID"),
        ])
        # Nobody answers any more.
        api.__exit__()
        print()
        self.demo.show_refused([
            ("Immuta is down", tokens["ida"], count, "58030", "IMPERSONATION_PROVIDER_UNAVAILABLE")])
