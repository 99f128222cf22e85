"""What may run under a token is on a list, kind by kind: every kind of statement and type of object that this major's
headers know has its row, and an honest user loses nothing by it.

Threats: 18, 23, 45, 46, 56 (docs/threats.md).
"""

import re

import psycopg2
import pytest
from harness.fixtures import VERSION
from harness.server import BUILD, ROOT
from harness.world import impersonate
from scene import ACTIVE
from test_identity import do

SOURCE = (ROOT / "src/core/guard/utility.rs").read_text()
STATEMENT = re.compile(r"^    (T_\w+): (yes|form|no) (yes|form|no) (yes|form|no) \"(.+)\";$", re.M)
OBJECT = re.compile(r"^    (OBJECT_\w+): (yes|no) \"(.+)\";$", re.M)

# Nodes whose names end in Stmt and that are never utility statements: queries, parts of them, and what holds them.
NO_UTILITY = {f"T_{name}Stmt" for name in ("Raw", "Planned", "Select", "Insert", "Update", "Delete", "Merge",
                                           "SetOperation", "Return", "PLAssign")}


def header(*names):
    folder = BUILD / "pg" / VERSION / "include/server/nodes"
    return next((folder / name).read_text() for name in names if (folder / name).exists())


def test_every_kind_of_statement_has_a_row():
    tags = set(re.findall(r"\bT_\w+Stmt\b", header("nodetags.h", "nodes.h"))) - NO_UTILITY
    assert len(tags) > 100
    assert tags - {row[0] for row in STATEMENT.findall(SOURCE)} == set()


def test_every_type_of_object_has_a_row():
    types = re.search(r"typedef enum ObjectType(.*?)} ObjectType;", header("parsenodes.h"), re.S)[1]
    types = set(re.findall(r"\bOBJECT_\w+", types))
    assert len(types) > 45
    assert types - {row[0] for row in OBJECT.findall(SOURCE)} == set()


# As alice's own: (statement, what has to be there before it).
TABLE = "CREATE TABLE alice.own (id int PRIMARY KEY, a text, b numeric DEFAULT 1)"
VIEW = TABLE + "; CREATE VIEW alice.shown AS SELECT * FROM alice.own"
FUNCTION = "CREATE FUNCTION alice.f(int) RETURNS int LANGUAGE sql AS 'SELECT $1'"
TYPE = "CREATE TYPE alice.composed AS (a int, b text)"
ENUM = "CREATE TYPE alice.colour AS ENUM ('red')"
DOMAIN = "CREATE DOMAIN alice.small AS int CONSTRAINT is_small CHECK (VALUE < 10)"
SEQUENCE = "CREATE SEQUENCE alice.counter"
TRIGGER = TABLE + "; CREATE TRIGGER trig BEFORE INSERT ON alice.own FOR EACH ROW EXECUTE FUNCTION alice.on_insert()"
RULE = TABLE + "; CREATE RULE ruled AS ON DELETE TO alice.own DO INSTEAD NOTHING"
POLICY = TABLE + "; CREATE POLICY p ON alice.own USING (true)"
MATERIALIZED = TABLE + "; CREATE MATERIALIZED VIEW alice.kept AS SELECT * FROM alice.own"
STATISTICS = TABLE + "; CREATE STATISTICS alice.stats ON id, a FROM alice.own"
OPERATOR = "CREATE OPERATOR alice.== (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int)"
COLLATION = 'CREATE COLLATION alice.plain FROM "C"'
DICTIONARY = "CREATE TEXT SEARCH DICTIONARY alice.words (TEMPLATE = simple)"
CONFIGURATION = "CREATE TEXT SEARCH CONFIGURATION alice.parsed (COPY = simple)"
CONVERSION = "CREATE CONVERSION alice.converted FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8"
SERVER = "CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw"
MAPPING = SERVER + "; CREATE USER MAPPING FOR CURRENT_USER SERVER elsewhere OPTIONS (user 'x', password 'y')"
PUBLICATION = TABLE + "; CREATE PUBLICATION published FOR TABLE alice.own"
EXTENSION = "CREATE EXTENSION pg_trgm SCHEMA alice"
PARTITIONED = "CREATE TABLE alice.parts (id int) PARTITION BY RANGE (id)"

HONEST = [
    # Tables and what belongs to them.
    (TABLE, ""), ("CREATE TEMP TABLE t (id int)", ""), ("CREATE UNLOGGED TABLE alice.u (id int)", ""),
    ("CREATE TABLE alice.copy (LIKE alice.own INCLUDING ALL)", TABLE), ("CREATE TABLE alice.x AS SELECT 1 AS id", ""),
    ("SELECT 1 AS id INTO alice.x", ""), (PARTITIONED, ""),
    ("CREATE TABLE alice.part PARTITION OF alice.parts FOR VALUES FROM (1) TO (2)", PARTITIONED),
    ("CREATE TABLE alice.typed OF alice.composed", TYPE), ("CREATE TABLE alice.child () INHERITS (alice.own)", TABLE),
    *[(f"ALTER TABLE alice.own {action}", TABLE) for action in (
        "ADD COLUMN c int", "DROP COLUMN a", "ALTER COLUMN a TYPE varchar(10)", "ALTER COLUMN a SET NOT NULL",
        "ALTER COLUMN b DROP DEFAULT", "ALTER COLUMN a SET STATISTICS 10", "ALTER COLUMN a SET STORAGE PLAIN",
        "ADD CONSTRAINT short CHECK (length(a) < 5)", "ADD UNIQUE (a)", "SET (fillfactor = 50)", "SET UNLOGGED",
        "ENABLE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY", "REPLICA IDENTITY FULL", "CLUSTER ON own_pkey",
        "RENAME TO renamed", "RENAME COLUMN a TO z", "OWNER TO alice")],
    ("ALTER TABLE alice.own RENAME CONSTRAINT own_pkey TO own_key", TABLE), ("DROP TABLE alice.own", TABLE),
    ("TRUNCATE alice.own", TABLE), ("LOCK TABLE alice.own IN EXCLUSIVE MODE", TABLE), ("ANALYZE alice.own", TABLE),
    ("CLUSTER alice.own USING own_pkey", TABLE), ("REINDEX TABLE alice.own", TABLE), ("LOCK TABLE alice.shown", VIEW),
    ("CREATE INDEX ON alice.own (a)", TABLE), ("ALTER INDEX alice.own_pkey RENAME TO i", TABLE),
    ("ALTER INDEX alice.own_pkey SET (fillfactor = 50)", TABLE), ("REINDEX INDEX alice.own_pkey", TABLE),
    ("DROP INDEX alice.i", TABLE + "; CREATE INDEX i ON alice.own (a)"),
    (STATISTICS, ""), ("ALTER STATISTICS alice.stats SET STATISTICS 10", STATISTICS),
    ("DROP STATISTICS alice.stats", STATISTICS), (TRIGGER, ""),
    ("ALTER TRIGGER trig ON alice.own RENAME TO t2", TRIGGER), ("ALTER TABLE alice.own DISABLE TRIGGER trig", TRIGGER),
    ("DROP TRIGGER trig ON alice.own", TRIGGER), (RULE, ""), ("ALTER RULE ruled ON alice.own RENAME TO r2", RULE),
    ("DROP RULE ruled ON alice.own", RULE), (POLICY, ""), ("ALTER POLICY p ON alice.own USING (false)", POLICY),
    ("DROP POLICY p ON alice.own", POLICY), ("GRANT SELECT ON alice.own TO bob", TABLE),
    ("GRANT SELECT (a) ON alice.own TO bob", TABLE), ("REVOKE ALL ON alice.own FROM bob", TABLE),
    ("COMMENT ON TABLE alice.own IS 'mine'", TABLE), ("COMMENT ON COLUMN alice.own.a IS 'mine'", TABLE),
    ("COPY alice.own FROM PROGRAM 'true'", None), ("SET CONSTRAINTS ALL DEFERRED", ""),
    # Views.
    (VIEW, ""), ("CREATE TEMP VIEW v AS SELECT 1 AS one", ""), ("CREATE OR REPLACE VIEW alice.shown AS TABLE alice.own", VIEW),
    ("ALTER VIEW alice.shown SET (security_barrier)", VIEW), ("ALTER VIEW alice.shown RENAME TO s2", VIEW),
    ("DROP VIEW alice.shown", VIEW), (MATERIALIZED, ""), ("REFRESH MATERIALIZED VIEW alice.kept", MATERIALIZED),
    ("ALTER MATERIALIZED VIEW alice.kept RENAME TO k2", MATERIALIZED),
    ("DROP MATERIALIZED VIEW alice.kept", MATERIALIZED),
    # Functions.
    (FUNCTION, ""), ("ALTER FUNCTION alice.f(int) IMMUTABLE", FUNCTION),
    ("ALTER FUNCTION alice.f(int) SET work_mem = '1MB'", FUNCTION), ("ALTER FUNCTION alice.f(int) RENAME TO g", FUNCTION),
    ("DROP FUNCTION alice.f(int)", FUNCTION), ("GRANT EXECUTE ON FUNCTION alice.f(int) TO bob", FUNCTION),
    ("CREATE PROCEDURE alice.p() LANGUAGE sql AS 'SELECT 1'", ""), ("CALL alice.q()", "CREATE PROCEDURE alice.q() "
     "LANGUAGE sql AS 'SELECT 1'"), ("DO 'BEGIN END'", ""),
    ("CREATE AGGREGATE alice.total(int) (SFUNC = int4pl, STYPE = int)", ""),
    ("DROP AGGREGATE alice.total(int)", "CREATE AGGREGATE alice.total(int) (SFUNC = int4pl, STYPE = int)"),
    (OPERATOR, ""), ("ALTER OPERATOR alice.== (int, int) SET (RESTRICT = eqsel)", OPERATOR),
    ("DROP OPERATOR alice.== (int, int)", OPERATOR),
    ("CREATE CAST (alice.composed AS text) WITH INOUT", TYPE),
    ("DROP CAST (alice.composed AS text)", TYPE + "; CREATE CAST (alice.composed AS text) WITH INOUT"),
    # Types.
    (TYPE, ""), ("ALTER TYPE alice.composed ADD ATTRIBUTE c int", TYPE), ("ALTER TYPE alice.composed RENAME TO t2", TYPE),
    ("DROP TYPE alice.composed", TYPE), (ENUM, ""), ("ALTER TYPE alice.colour ADD VALUE 'blue'", ENUM),
    ("CREATE TYPE alice.between AS RANGE (SUBTYPE = int)", ""), (DOMAIN, ""),
    ("ALTER DOMAIN alice.small DROP CONSTRAINT is_small", DOMAIN), ("DROP DOMAIN alice.small", DOMAIN),
    # Other objects of the database.
    (SEQUENCE, ""), ("ALTER SEQUENCE alice.counter INCREMENT 5", SEQUENCE), ("DROP SEQUENCE alice.counter", SEQUENCE),
    (COLLATION, ""), ("ALTER COLLATION alice.plain RENAME TO c2", COLLATION), ("DROP COLLATION alice.plain", COLLATION),
    (CONVERSION, ""), ("DROP CONVERSION alice.converted", CONVERSION), (DICTIONARY, ""),
    ("ALTER TEXT SEARCH DICTIONARY alice.words (stopwords)", DICTIONARY), (CONFIGURATION, ""),
    ("ALTER TEXT SEARCH CONFIGURATION alice.parsed DROP MAPPING IF EXISTS FOR word", CONFIGURATION),
    ("DROP TEXT SEARCH CONFIGURATION alice.parsed", CONFIGURATION),
    ("CREATE SCHEMA more CREATE TABLE t (id int) CREATE VIEW v AS SELECT * FROM t", ""),
    ("ALTER SCHEMA more RENAME TO less", "CREATE SCHEMA more"), ("DROP SCHEMA more", "CREATE SCHEMA more"),
    ("ALTER TABLE alice.own SET SCHEMA more", TABLE + "; CREATE SCHEMA more"), (EXTENSION, ""),
    ("COMMENT ON EXTENSION pg_trgm IS 'mine'", EXTENSION), ("DROP EXTENSION pg_trgm", EXTENSION), (PUBLICATION, ""),
    ("ALTER PUBLICATION published SET (publish = 'insert')", PUBLICATION), ("DROP PUBLICATION published", PUBLICATION),
    (SERVER, ""), ("ALTER SERVER elsewhere OPTIONS (host 'h')", SERVER), ("DROP SERVER elsewhere", SERVER), (MAPPING, ""),
    ("ALTER USER MAPPING FOR CURRENT_USER SERVER elsewhere OPTIONS (SET user 'z')", MAPPING),
    ("DROP USER MAPPING FOR CURRENT_USER SERVER elsewhere", MAPPING),
    ("CREATE FOREIGN TABLE alice.far (id int) SERVER elsewhere", SERVER),
    ("ALTER FOREIGN TABLE alice.far ADD COLUMN a int", SERVER + "; CREATE FOREIGN TABLE alice.far (id int) SERVER elsewhere"),
    ("ALTER DEFAULT PRIVILEGES IN SCHEMA alice GRANT SELECT ON TABLES TO bob", ""),
    ("SELECT lo_create(0)", ""), ("COMMENT ON LARGE OBJECT 4711 IS 'mine'", "SELECT lo_create(4711)"),
    ("GRANT SELECT ON LARGE OBJECT 4711 TO bob", "SELECT lo_create(4711)"), ("NOTIFY channel, 'hello'", ""),
    ("DECLARE c CURSOR FOR SELECT 1", ""), ("FETCH c", "DECLARE c CURSOR FOR SELECT 1"),
    ("CLOSE c", "DECLARE c CURSOR FOR SELECT 1"), ("EXPLAIN CREATE TABLE alice.x AS SELECT 1", ""),
    ("DROP OWNED BY bob", None), ("DROP OWNED BY alice CASCADE", ""), ("REASSIGN OWNED BY alice TO alice", ""), ("SET LOCAL work_mem = '1MB'", ""),
    ("SHOW work_mem", ""), ("ALTER TABLE ALL IN TABLESPACE pg_default OWNED BY alice SET TABLESPACE pg_default", ""),
] + ([
    ("REPACK alice.own", TABLE), ("REPACK alice.own USING INDEX own_pkey", TABLE), ("REPACK (CONCURRENTLY) alice.own", None),
    ("REPACK", None), ("WAIT FOR LSN '0/1'", None), ("COPY alice.own TO STDOUT (FORMAT json)", None),
] if int(VERSION) >= 19 else [])


def outcome(connection, statement, before):
    """SQLSTATE of a statement in an open transaction, None for success; what it needs must work."""
    with connection.cursor() as cursor:
        if before:
            cursor.execute(before)
        try:
            cursor.execute(statement)
        except psycopg2.Error as error:
            return error.pgcode
        return None


@pytest.fixture(scope="module")
def maker(world):
    """alice with what makes more kinds of objects possible, taken back afterwards."""
    world.sql("GRANT CREATE ON DATABASE immuta TO alice")
    world.sql("GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO alice")
    yield
    world.sql("REVOKE CREATE ON DATABASE immuta FROM alice")
    world.sql("REVOKE USAGE ON FOREIGN DATA WRAPPER postgres_fdw FROM alice")


def test_what_a_login_can_do_its_token_can(world, maker):
    """Each statement once as a session of the role and once under its token, both rolled back: the same outcome."""
    assert len(HONEST) > 120
    login, service = psycopg2.connect(**world.server.dsn(dbname="immuta")), world.connect()
    differences = []
    # Not every tree of PostgreSQL has the extension that is made here.
    is_there = world.sql("SELECT FROM pg_available_extensions WHERE name = 'pg_trgm'")
    honest = [row for row in HONEST if is_there or "pg_trgm" not in f"{row}"]
    try:
        for statement, before in honest:
            with login.cursor() as cursor:
                cursor.execute("SET LOCAL SESSION AUTHORIZATION alice")
            as_login = outcome(login, statement, before)
            assert before is None or as_login is None, statement
            login.rollback()
            impersonate(service, world.token("alice"))
            under_token = outcome(service, statement, before)
            service.rollback()
            if as_login != under_token:
                differences.append((statement, as_login, under_token))
    finally:
        login.close()
        service.close()
    assert differences == []


# What belongs to the server, whatever statement is about it.
SHARED = [
    "CREATE ROLE x", "CREATE USER x", "CREATE GROUP x", "DROP ROLE bob", "ALTER ROLE alice RENAME TO x", "GRANT alice TO bob",
    "REVOKE alice FROM bob", "GRANT pg_read_all_data TO alice", "COMMENT ON ROLE alice IS 'x'", "ALTER GROUP alice ADD USER bob",
    "ALTER DATABASE immuta SET work_mem = '1MB'", "ALTER DATABASE immuta RENAME TO x", "ALTER DATABASE immuta OWNER TO alice",
    "ALTER DATABASE immuta CONNECTION LIMIT 1", "GRANT CONNECT ON DATABASE immuta TO bob", "COMMENT ON DATABASE immuta IS 'x'",
    "REVOKE CONNECT ON DATABASE immuta FROM PUBLIC", "SECURITY LABEL ON DATABASE immuta IS 'x'", "CREATE DATABASE x",
    "DROP DATABASE postgres", "CREATE TABLESPACE x LOCATION '/x'", "DROP TABLESPACE pg_default",
    "ALTER TABLESPACE pg_default SET (seq_page_cost = 1)", "ALTER TABLESPACE pg_default RENAME TO x",
    "GRANT CREATE ON TABLESPACE pg_default TO bob", "COMMENT ON TABLESPACE pg_default IS 'x'",
    "ALTER SYSTEM SET work_mem = '1MB'", "ALTER SYSTEM RESET ALL",
    "CREATE SUBSCRIPTION x CONNECTION '' PUBLICATION x WITH (connect = false)", "DROP SUBSCRIPTION IF EXISTS x",
    "ALTER SUBSCRIPTION x DISABLE", "ALTER SUBSCRIPTION x OWNER TO alice", "COMMENT ON SUBSCRIPTION x IS 'x'",
    "CREATE EVENT TRIGGER x ON ddl_command_start EXECUTE FUNCTION alice.on_insert()", "ALTER EVENT TRIGGER x DISABLE",
    "DROP EVENT TRIGGER IF EXISTS x", "COMMENT ON EVENT TRIGGER x IS 'x'",
    # In the name of roles that many are members of.
    "DROP OWNED BY alice, immuta_subscriber", "DROP OWNED BY immuta_mappable", "REASSIGN OWNED BY alice TO immuta_subscriber",
    "CREATE SCHEMA AUTHORIZATION immuta_mappable", "ALTER SCHEMA alice OWNER TO immuta_subscriber",
    "ALTER DEFAULT PRIVILEGES FOR ROLE immuta_subscriber GRANT SELECT ON TABLES TO PUBLIC",
] + (["ALTER DATABASE immuta REFRESH COLLATION VERSION", "GRANT SET ON PARAMETER work_mem TO bob"]
     if int(VERSION) >= 15 else [])


@pytest.fixture(scope="module")
def owner_of_much(world):
    """alice owns the database for once: the list refuses, and not only PostgreSQL."""
    world.sql("ALTER DATABASE immuta OWNER TO alice")
    yield
    world.sql("ALTER DATABASE immuta OWNER TO postgres")


@pytest.mark.parametrize("statement", SHARED)
def test_what_belongs_to_the_server_stays_as_it_is(session, owner_of_much, statement):
    # In functions, too: there statements come to PostgreSQL by another way.
    for form in (statement, do("EXECUTE $x$" + statement + "$x$;")):
        session.begin()
        session.refused(form, *ACTIVE)
        session.ok("ROLLBACK")
    session.leaves_nothing()


CLOSED = [
    "LOCK TABLE immuta.token IN SHARE MODE", "LOCK TABLE ONLY immuta.token", "LOCK TABLE immuta.token NOWAIT",
    "LOCK TABLE app.flights, immuta.token", "TRUNCATE immuta.token", "ANALYZE immuta.token", "ANALYZE immuta.token (digest)",
    "VACUUM immuta.token", "CLUSTER immuta.token USING token_pkey", "REINDEX TABLE immuta.token",
    "REINDEX INDEX immuta.token_pkey", "LOCK TABLE alice.tokens", "LOCK TABLE alice.tokens_of_tokens",
    "SET LOCAL search_path = immuta; LOCK TABLE token",
] + ([
    "REPACK immuta.token", "REPACK (ANALYZE) immuta.token", "REPACK immuta.token USING INDEX token_pkey",
] if int(VERSION) >= 19 else [])


@pytest.fixture(scope="module")
def writer_of_all(world):
    """alice writes all data, and has made views of what is closed to her."""
    world.sql("GRANT pg_read_all_data, pg_write_all_data TO alice")
    world.sql("SET ROLE alice; CREATE VIEW alice.tokens AS SELECT * FROM immuta.token; "
              "CREATE VIEW alice.tokens_of_tokens AS SELECT * FROM alice.tokens; RESET ROLE")
    yield
    world.sql("DROP VIEW alice.tokens_of_tokens, alice.tokens")
    world.sql("REVOKE pg_read_all_data, pg_write_all_data FROM alice")


@pytest.mark.parametrize("statement", CLOSED)
def test_closed_tables_are_not_locked_emptied_or_rebuilt(world, connect, writer_of_all, statement):
    session = connect("simple")
    for form in (statement, do(f"EXECUTE $x${statement}$x$;")):
        session.begin()
        session.refused(form, *ACTIVE)
        session.ok("ROLLBACK")
    session.leaves_nothing()
    assert world.value("SELECT count(*) FROM pg_locks WHERE relation = 'immuta.token'::regclass "
                       "AND mode <> 'AccessShareLock'") == 0


def test_toast_and_statistics_of_closed_tables_are_closed(world, connect, writer_of_all):
    session = connect("simple")
    toasts = world.value("SELECT array_agg('pg_toast.' || t.relname) FROM pg_class c JOIN pg_class t "
                         "ON t.oid = c.reltoastrelid WHERE c.relnamespace = 'immuta'::regnamespace")
    assert len(toasts) > 3
    for toast in toasts:
        session.begin()
        session.refused(f"SELECT count(*) FROM {toast}", *ACTIVE)
        session.ok("ROLLBACK")
    session.leaves_nothing()
