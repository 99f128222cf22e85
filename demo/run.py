"""The demo: one pooled login, three users, three answers to the same query. Exits 1 if anything is not as told.

    demo/run.py [VERSION]      default: 15
"""

import os
import secrets
import sys
import textwrap
import time
from contextlib import contextmanager

import psycopg2
from psycopg2.pool import SimpleConnectionPool

import cluster
import terminal
from flights import TABLE, Flights
from immuta import ImmutaAct
from masking import MaskingAct
from subscriptions import SubscriptionsAct
from tokens import TokensAct
from harness.server import BUILD, ROOT

DATABASE, SERVICE = "immuta", "flights_app"
SCRIPT = "sql/create-impersonation-user.sql"

ROLES = """
CREATE ROLE air_owner NOLOGIN;
CREATE ROLE ursula NOLOGIN;
CREATE ROLE ann NOLOGIN IN ROLE immuta_mappable;
CREATE ROLE analysts NOLOGIN IN ROLE immuta_mappable;
CREATE SCHEMA air AUTHORIZATION air_owner;
SET ROLE air_owner"""

RIGHTS = """
ALTER TABLE air.flights ENABLE ROW LEVEL SECURITY;
CREATE POLICY united ON air.flights FOR SELECT TO ursula USING (carrier = 'UA');
CREATE POLICY american ON air.flights FOR SELECT TO ann USING (carrier = 'AA');
CREATE POLICY everything ON air.flights FOR SELECT TO analysts USING (true);
GRANT USAGE ON SCHEMA air TO PUBLIC;
GRANT SELECT ON air.flights TO ursula, ann;
GRANT SELECT (year, month, day, dep_time, dep_delay, carrier, flight, origin, dest) ON air.flights TO analysts;
RESET ROLE"""

QUERY = "SELECT count(*), round(avg(dep_delay), 1)::float, count(DISTINCT carrier) FROM air.flights"
PLANES = "SELECT count(DISTINCT tailnum) FROM air.flights"


class NotAsTold(Exception):
    pass


class Demo:
    def __init__(self, version):
        self.version = version
        self.began = time.monotonic()
        self.checks = 0
        self.passwords = {who: secrets.token_urlsafe(9) for who in (SERVICE, "ursula", "ann")}
        self.flights = Flights(BUILD / "cache")
        self.server = cluster.fresh(version)
        self.pool = self.admin = None

    # -- the story -----------------------------------------------------------------------------------------------

    def tell(self):
        print(f"One login, three users: immuta_ext on PostgreSQL {self.version}")
        self.create_database()
        self.create_service_user()
        self.create_users()
        tokens = self.authenticate()
        self.ask_the_same(tokens)
        self.ask_without_a_valid_token()
        self.try_to_escape(tokens["ursula"])
        immuta = ImmutaAct(self)
        immuta.play(heading, table)
        TokensAct(self, immuta.configure).play(heading, table)
        SubscriptionsAct(self).play(heading, table)
        MaskingAct(self).play(heading, table)
        self.tell_how_to_go_on()

    def create_database(self):
        heading("1. A database with the extension, and a table that an owner role shares out")
        self.server.psql("-c", f"CREATE DATABASE {DATABASE}")
        self.server.psql("-c", "CREATE EXTENSION immuta_ext", dbname=DATABASE)
        self.server.psql("-c", f"ALTER DATABASE {DATABASE} SET bodata.audit_sink = 'log, table'")
        self.admin = psycopg2.connect(**self.server.dsn(dbname=DATABASE))
        self.admin.autocommit = True
        with self.admin.cursor() as cursor:
            cursor.execute(ROLES)
            cursor.execute(TABLE)
            cursor.copy_expert("COPY air.flights FROM STDIN (FORMAT csv, HEADER, NULL 'NA')", self.flights.file())
            loaded = cursor.rowcount
            cursor.execute(RIGHTS)
        self.expect("flights loaded", loaded, self.flights.summary().flights)
        self.expect("flights known to be in the data", loaded, 336_776)
        carriers = self.flights.summary().carriers
        print(f"  air.flights, owned by air_owner: {loaded:,} flights of {carriers} carriers")

    def create_service_user(self):
        heading(f"2. The service user, as an administrator creates it: psql -d {DATABASE} -f {SCRIPT}")
        password = self.passwords[SERVICE]
        words = [str(self.server.program("psql")), "-X", "-q", "-f", str(ROOT / SCRIPT)]
        answers = [("name of the service user: ", SERVICE), ("Enter new password", password),
                   ("Enter it again", password)]
        shown, exit_code = terminal.converse(words, self.server.client_environment(dbname=DATABASE), answers)
        for line in shown.strip().splitlines():
            print(f"  | {line.rstrip()}".rstrip())
        self.expect(f"exit code of {SCRIPT}", exit_code, 0)
        self.expect("a password on the screen", password in shown, False)
        self.pool = SimpleConnectionPool(1, 1, **self.server.dsn(SERVICE, password, DATABASE))

    def create_users(self):
        heading("3. Three users, mapped to roles in three ways")
        with self.admin.cursor() as cursor:
            cursor.execute("SELECT immuta.create_user('ursula', postgres_role => 'ursula')")
            cursor.execute("SELECT immuta.create_user('ann')")
            cursor.execute("SELECT immuta.create_user('dora', postgres_role => 'analysts')")
            for user in ("ursula", "ann"):
                cursor.execute("SELECT immuta.set_password(%s, %s)", (user, self.passwords[user]))
            cursor.execute("SELECT immuta.create_api_key('dora')")
            self.api_key = cursor.fetchone()[0]
        table(("user", "authenticates with", "role", "mapped", "may see"), [
            ("ursula", "password", "ursula", "explicitly", "flights of UA"),
            ("ann", "password", "ann", "by name (immuta_mappable)", "flights of AA"),
            ("dora", "API key", "analysts", "explicitly, role shared", "all flights, but not which plane"),
        ])

    def authenticate(self):
        heading("4. The application authenticates them, on its one pooled connection")
        answers = {user: self.ask_for_token(user) for user in ("ursula", "ann")}
        answers["dora"] = self.one_value("SELECT immuta.authenticate_api_key(%s)", (self.api_key,))
        answers["ann, wrong password"] = self.one_value("SELECT immuta.authenticate('ann', 'guess')")
        rows = []
        for user, answer in answers.items():
            self.expect(f"authenticated: {user}", answer["authenticated"], "wrong" not in user)
            token = answer.get("token", "")
            self.expect(f"length of the token of {user}", len(token), 43 if token else 0)
            rows.append((user, str(answer["authenticated"]).lower(), token[:4] + "..." if token else "",
                         answer.get("tokenExpiration", "")))
        table(("user", "authenticated", "token", "tokenExpiration"), rows)
        return {user: answer.get("token") for user, answer in answers.items()}

    def ask_the_same(self, tokens):
        heading("5. The same connection, the same queries, each in a transaction of its user")
        print("  BEGIN; SET LOCAL bodata.impersonation_token = '...';")
        print(f"  {QUERY};")
        print(f"  {PLANES};  COMMIT;\n")
        rows, backends = [], set()
        for user, role, carrier in (("ursula", "ursula", "UA"), ("ann", "ann", "AA"), ("dora", "analysts", None)):
            with self.transaction(tokens[user]) as cursor:
                cursor.execute("SELECT userid, current_user, session_user, pg_backend_pid() FROM immuta.whoami()")
                *who, backend = cursor.fetchone()
                cursor.execute(QUERY)
                seen = cursor.fetchone()
            backends.add(backend)
            wanted = self.flights.summary(carrier)
            self.expect(f"who {user} is", who, [user, role, SERVICE])
            self.expect(f"what {user} sees", seen, (wanted.flights, wanted.mean_delay, wanted.carriers))
            planes = self.planes(tokens[user])
            self.expect(f"planes that {user} sees", planes, wanted.planes if carrier else "refused (42501)")
            rows.append((user, role, f"{seen[0]:,}", f"{seen[1]} min", str(seen[2]), str(planes)))
        self.expect("backends used", len(backends), 1)
        table(("user", "current_user", "flights", "mean delay", "carriers", "planes"), rows, right=(2, 3, 4, 5))

    def ask_without_a_valid_token(self):
        heading("6. Without a valid token: nothing")
        expired = self.ask_for_token("ursula")["token"]
        with self.admin.cursor() as cursor:
            cursor.execute("UPDATE immuta.token SET last_used_at = now() - interval '2 hours' "
                           "WHERE digest = sha256(%s)", (expired.encode(),))
            self.expect("tokens set back two hours", cursor.rowcount, 1)
        self.show_refused([
            ("no token", None, QUERY, "42501", "IMPERSONATION_REQUIRED"),
            ("a wrong token", secrets.token_urlsafe(32), QUERY, "28000", "IMPERSONATION_TOKEN_INVALID"),
            ("idle for two hours", expired, QUERY, "28000", "IMPERSONATION_TOKEN_INVALID"),
        ])

    def try_to_escape(self, token):
        heading("7. Ursula's SQL is assumed hostile: the ways out of her role are closed")
        set_config = "WITH way_out AS (SELECT set_config('role', 'ann', true)) SELECT * FROM way_out"
        self.show_refused([
            ("RESET ROLE", token, "RESET ROLE", "42501", "IMPERSONATION_ACTIVE"),
            ("SET ROLE ann", token, "SET ROLE ann", "42501", "IMPERSONATION_ACTIVE"),
            ("set_config('role', ...)", token, set_config, "42501", None),
            ("COMMIT, then read on", token, f"COMMIT; {QUERY}", "42501", "IMPERSONATION_REQUIRED"),
        ])
        with self.transaction(token) as cursor:
            cursor.execute(QUERY)
            self.expect("what ursula sees after that", cursor.fetchone()[0], self.flights.summary("UA").flights)

    def tell_how_to_go_on(self):
        took = time.monotonic() - self.began
        heading(f"All as it should be: {self.checks} checks in {took:.1f} seconds. The server is still running.")
        program = os.path.relpath(self.server.program("psql"))
        print("  Look around as the application:\n")
        print(f"    PGPASSWORD={self.passwords[SERVICE]} {program} -h 127.0.0.1 -p {self.server.port} "
              f"-U {SERVICE} {DATABASE}")
        password = self.passwords["ursula"]
        print(f"    SELECT immuta.authenticate('ursula', '{password}') ->> 'token' AS token \\gset")
        print("    BEGIN; SET LOCAL bodata.impersonation_token = :'token';")
        print("    SELECT * FROM air.flights LIMIT 3; COMMIT;\n")
        print("  Stop the server and remove its data:    make demo-down")

    # -- what an application does --------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, token=None):
        """A transaction on the pooled connection, as the user of the token."""
        connection = self.pool.getconn()
        try:
            with connection, connection.cursor() as cursor:
                if token:
                    cursor.execute("SET LOCAL bodata.impersonation_token = %s", (token,))
                yield cursor
        finally:
            self.pool.putconn(connection)

    def one_value(self, statement, args=None, token=None):
        with self.transaction(token) as cursor:
            cursor.execute(statement, args)
            return cursor.fetchone()[0]

    def ask_for_token(self, user):
        return self.one_value("SELECT immuta.authenticate(%s, %s)", (user, self.passwords[user]))

    def planes(self, token):
        try:
            return self.one_value(PLANES, token=token)
        except psycopg2.Error as error:
            return f"refused ({error.pgcode})"

    def attempt(self, count, token):
        """What a query that counts answers under the token."""
        try:
            return f"{self.one_value(count, token=token)} rows"
        except psycopg2.Error as error:
            return f"refused ({error.pgcode})"

    # -- what an administrator does ------------------------------------------------------------------------------

    def run(self, statement):
        with self.admin.cursor() as cursor:
            cursor.execute(statement)

    def rows(self, statement):
        with self.admin.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()

    def value(self, statement):
        return self.rows(statement)[0][0]

    # -- telling and checking ------------------------------------------------------------------------------------

    def show_refused(self, attempts):
        rows = []
        for what, token, statement, sqlstate, code in attempts:
            try:
                self.one_value(statement, token=token)
                raise NotAsTold(f"not refused: {what}")
            except psycopg2.Error as error:
                self.expect(f"SQLSTATE of: {what}", error.pgcode, sqlstate)
                self.expect(f"DETAIL of: {what}", error.diag.message_detail, code)
                message = textwrap.shorten(error.diag.message_primary, 54, placeholder=" ...")
                rows.append((what, sqlstate, code or "(PostgreSQL's own)", message))
            self.expect(f"current_user after: {what}", self.one_value("SELECT current_user"), SERVICE)
        table(("attempt", "SQLSTATE", "DETAIL", "message"), rows)

    def expect(self, what, seen, wanted):
        self.checks += 1
        if seen != wanted:
            raise NotAsTold(f"{what}: {seen!r}, expected {wanted!r}")


def heading(text):
    print(f"\n{text}\n{'-' * len(text)}")


def table(head, rows, right=()):
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        cells = (cell.rjust(width) if column in right else cell.ljust(width)
                 for column, (cell, width) in enumerate(zip(row, widths)))
        print(f"  {'  '.join(cells)}".rstrip())


def main(version="15"):
    try:
        demo = Demo(version)
    except FileNotFoundError as error:
        print(f"{error.filename} is missing: run make setup first.", file=sys.stderr)
        return 1
    try:
        demo.tell()
    except (NotAsTold, psycopg2.Error, RuntimeError, TimeoutError) as error:
        print(f"\nFAILED: {error}\nThe server is still running; its log: {os.path.relpath(demo.server.log_file)}",
              file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
