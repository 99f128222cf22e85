"""The small world that end-to-end tests play in: three users with different rights on one table."""

import base64
import hashlib
import hmac
import os

import psycopg2
import psycopg2.extensions

SERVICE = ("svc", "service-password")
DBNAME = "immuta"

SQL = """
CREATE ROLE svc LOGIN PASSWORD 'service-password' IN ROLE bodata_impersonate_user;
CREATE ROLE owner NOLOGIN;
CREATE ROLE plain LOGIN PASSWORD 'plain-password';
CREATE ROLE alice NOLOGIN; CREATE ROLE bob NOLOGIN; CREATE ROLE carol NOLOGIN;
CREATE SCHEMA app AUTHORIZATION owner;
CREATE SCHEMA private AUTHORIZATION owner;
SET ROLE owner;
CREATE TABLE app.flights (id int PRIMARY KEY, carrier text NOT NULL, delay int, secret text);
INSERT INTO app.flights
SELECT i, (ARRAY['UA', 'AA', 'DL'])[1 + i % 3], i % 60, 'secret ' || i FROM generate_series(1, 300) i;
ALTER TABLE app.flights ENABLE ROW LEVEL SECURITY;
CREATE POLICY alice_sees ON app.flights FOR ALL TO alice USING (carrier = 'UA');
CREATE POLICY bob_sees ON app.flights TO bob USING (carrier = 'AA');
CREATE POLICY carol_sees ON app.flights TO carol USING (true);
GRANT USAGE ON SCHEMA app TO alice, bob, carol;
GRANT SELECT, INSERT, UPDATE, DELETE ON app.flights TO alice;
GRANT SELECT ON app.flights TO bob;
GRANT SELECT (id, carrier, delay) ON app.flights TO carol;
GRANT USAGE ON SCHEMA private TO alice;
CREATE TABLE private.notes (body text);
INSERT INTO private.notes VALUES ('note');
GRANT SELECT ON private.notes TO alice, bob;
CREATE TABLE app.everyone (body text);
INSERT INTO app.everyone VALUES ('granted to public');
GRANT ALL ON app.everyone TO PUBLIC;
GRANT USAGE ON SCHEMA app TO PUBLIC;
RESET ROLE;
CREATE SCHEMA alice AUTHORIZATION alice;
SELECT immuta.create_user('alice', postgres_role => 'alice');
SELECT immuta.create_user('bob', postgres_role => 'bob');
SELECT immuta.create_user('carol', postgres_role => 'carol');
"""


def kept_password(password):
    """What a server keeps of a password, after one round of SCRAM instead of 4,096: those are a quarter of what a connection costs."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    client, server = (hmac.digest(salted, key, "sha256") for key in (b"Client Key", b"Server Key"))
    salt, stored, server = (base64.b64encode(part).decode() for part in (salt, hashlib.sha256(client).digest(), server))
    return f"SCRAM-SHA-256$1:{salt}${stored}:{server}"


def prepare(server, dbname=DBNAME, before="SELECT", quick=True):
    """`quick` are logins of which clients other than libpq may think that their passwords are not kept well enough."""
    server.psql("-c", f"CREATE DATABASE {dbname}")
    server.psql("-c", before, dbname=dbname)
    if server.preload == "session":
        server.psql("-c", f"ALTER DATABASE {dbname} SET session_preload_libraries = 'immuta_ext'")
    server.psql("-c", "CREATE EXTENSION immuta_ext", dbname=dbname)
    passwords = (SERVICE, ("plain", "plain-password"), ("postgres", server.superuser_password)) if quick else ()
    server.psql(input=SQL + "".join(f"ALTER ROLE {name} PASSWORD '{kept_password(password)}';\n" for name, password in passwords),
                dbname=dbname)


class World:
    """Connections and tokens on one prepared server."""

    def __init__(self, server, dbname=DBNAME):
        self.server = server
        self.dbname = dbname
        self.tokens = []
        self._admin = None

    def connect(self, user=SERVICE[0], password=SERVICE[1], dbname=None, **extra):
        return psycopg2.connect(**self.server.dsn(user, password, dbname or self.dbname, **extra))

    @property
    def admin(self):
        """A superuser's autocommit connection."""
        if self._admin is None or self._admin.closed:
            # Waiting for a lock of one's own test would be for ever.
            self._admin = psycopg2.connect(**self.server.dsn(dbname=self.dbname, options="-c lock_timeout=5s"))
            self._admin.autocommit = True
        return self._admin

    def sql(self, statement, args=None):
        """Runs as superuser; rows, if there are any."""
        with self.admin.cursor() as cursor:
            cursor.execute(statement, args)
            return cursor.fetchall() if cursor.description else None

    def value(self, statement, args=None):
        return self.sql(statement, args)[0][0]

    def token(self, userid="alice", iamid="bim"):
        token = self.value("SELECT immuta.issue_token(%s, %s)", (userid, iamid))
        self.tokens.append(token)
        return token


def digest(token):
    """What is stored of a token. Statements with the token itself would put it into the log."""
    return hashlib.sha256(token.encode()).digest()


def query(connection, statement, args=None):
    with connection.cursor() as cursor:
        cursor.execute(statement, args)
        return cursor.fetchall() if cursor.description else None


def impersonate(connection, token):
    """First statement of a transaction (psycopg2 sends BEGIN before it)."""
    query(connection, "SET LOCAL bodata.impersonation_token = %s", (token,))
