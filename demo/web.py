"""The demo as an application to look at: the demo once more, unseen, then a web server until it is interrupted.

    demo/web.py [VERSION]      default: 15
"""

import contextlib
import io
import os
import secrets
import subprocess
import sys
from pathlib import Path

import psycopg2

import run
from run import heading, table

APPLICATION = Path(__file__).with_name("web_app.py")


class WebDemo(run.Demo):
    def prepare(self):
        """Everybody signs in with a password; the administrator of the page has a login of their own."""
        self.passwords.update({who: secrets.token_urlsafe(9) for who in ("dora", "admin", "web_admin")})
        with self.admin.cursor() as cursor:
            cursor.execute("SELECT immuta.set_password('dora', %s)", (self.passwords["dora"],))
            cursor.execute("CREATE ROLE web_admin LOGIN PASSWORD %s IN ROLE immuta_admin, pg_monitor", (self.passwords["web_admin"],))

    def environment(self):
        service = self.server.dsn(run.SERVICE, self.passwords[run.SERVICE], run.DATABASE)
        administrator = self.server.dsn("web_admin", self.passwords["web_admin"], run.DATABASE)
        return {f"PG{name.upper()}" if name != "dbname" else "PGDATABASE": str(value) for name, value in service.items()} | {
            "ADMIN": psycopg2.extensions.make_dsn(**administrator), "ADMIN_PASSWORD": self.passwords["admin"]}

    def serve(self):
        port = os.environ.get("PORT", "8080")
        heading(f"http://127.0.0.1:{port}  (interrupt to end; make demo-down stops the server)")
        table(("sign in as", "password", "sees"), [
            ("ursula", self.passwords["ursula"], "flights of UA, of planes hashes"), ("ann", self.passwords["ann"], "flights of AA"),
            ("dora", self.passwords["dora"], "all flights, with their planes"), ("admin", self.passwords["admin"], "who is impersonated, the audit")])
        with contextlib.suppress(KeyboardInterrupt):
            subprocess.run([sys.executable, APPLICATION], env={**os.environ, **self.environment(), "PORT": port})


def main(version="15"):
    demo, told = WebDemo(version), io.StringIO()
    print(f"The demo runs unseen on PostgreSQL {version} ...", flush=True)
    try:
        with contextlib.redirect_stdout(told):
            demo.tell()
        demo.prepare()
    except (run.NotAsTold, psycopg2.Error, RuntimeError, TimeoutError) as error:
        print(f"{told.getvalue()}\nFAILED: {error}", file=sys.stderr)
        return 1
    demo.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
