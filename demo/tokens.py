"""An act with the tokens that applications have already: JSON Web Tokens, verified by the keys of their issuer, which is a stand-in of
the tests."""

from harness.issuer import Issuer


class TokensAct:
    def __init__(self, demo, configure):
        self.demo = demo
        self.configure = configure

    def play(self, heading, table):
        heading("9. The same, with access tokens of any OAuth server: nobody is asked about them")
        with Issuer() as issuer:
            settings = {"api_allow_http": "on", "jwt_audience": "db", "token_provider": "jwt"}
            try:
                self.configure(settings)
                print(f"  SELECT immuta.map_issuer('{issuer.url}', 'bim');\n")
                with self.demo.admin.cursor() as cursor:
                    cursor.execute("SELECT immuta.map_issuer(%s, 'bim')", (issuer.url,))
                self.ask(issuer, table)
                self.refuse(issuer)
                self.demo.expect("requests to the issuer", issuer.requests.total(), 2)
            finally:
                self.configure(dict.fromkeys(settings))

    def ask(self, issuer, table):
        rows = []
        for user, agent in (("ursula", None), ("ann", None), ("ann", "assistant")):
            wanted = self.demo.flights.summary({"ursula": "UA", "ann": "AA"}[user])
            token = issuer.token(user, **({"act": {"sub": agent}} if agent else {}))
            with self.demo.transaction(token) as cursor:
                cursor.execute("SELECT userid, provider, client_id, actor FROM immuta.whoami()")
                who = cursor.fetchone()
                cursor.execute("SELECT count(*) FROM air.flights")
                flights = cursor.fetchone()[0]
            self.demo.expect(f"who {user} is", who, (user, "jwt", "app", agent))
            self.demo.expect(f"what {user} sees", flights, wanted.flights)
            rows.append((user, who[2], agent or "", f"{flights:,}"))
        table(("user", "client", "on behalf, by", "flights"), rows, right=(3,))

    def refuse(self, issuer):
        count = "SELECT count(*) FROM air.flights"
        invalid = ("28000", "IMPERSONATION_TOKEN_INVALID")
        print()
        self.demo.show_refused([
            ("for another service", issuer.token("ursula", aud="mail"), count, *invalid),
            ("signed by somebody else", issuer.forged(sign=lambda _: bytes(256)), count, *invalid),
            ("of another issuer", issuer.token("ursula", iss="https://id.example.com"), count, "42501", "IMPERSONATION_NOT_ALLOWED"),
        ])
