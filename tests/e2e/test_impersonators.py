"""Who may impersonate whom, and what somebody would see: what administrators ask."""

import psycopg2
import pytest
from conftest import refuses
from harness.world import query


@pytest.fixture
def logins(world):
    world.sql("CREATE ROLE namer LOGIN PASSWORD 'namer' IN ROLE immuta_impersonation; "
              "CREATE ROLE group_of_holders IN ROLE bodata_impersonate_user; "
              "CREATE ROLE grouped LOGIN IN ROLE group_of_holders; "
              "CREATE ROLE auditor LOGIN PASSWORD 'auditor' IN ROLE immuta_admin")
    yield
    world.sql("DELETE FROM immuta.impersonation_rule")
    world.sql("DROP ROLE namer, grouped, group_of_holders, auditor")


def rows(world, *names):
    return world.sql("SELECT impersonator, means, userid, rule, client_addr FROM immuta.impersonators "
                     "WHERE impersonator = ANY (%s) ORDER BY 1, 2, 3, 4", (list(names),))


def test_without_rules_every_holder_may_impersonate_everybody(world, logins):
    users = ["alice", "bob", "carol"]
    assert rows(world, "namer", "grouped", "plain", "auditor") == [
        *[("grouped", "token", user, None, None) for user in users],
        *[("namer", "name", user, None, None) for user in users]]
    assert [row[:3] for row in rows(world, "postgres")] == [
        ("postgres", means, user) for means in ("name", "token") for user in users]


def test_by_which_rule(world, logins):
    """The same that decides when somebody impersonates; rules for some addresses only are listed with them."""
    deny = world.value("SELECT immuta.add_impersonation_rule('*', 'bo*', false)")
    near = world.value("SELECT immuta.add_impersonation_rule('name*', 'alice', client_addr => '{10.0.0.0/8}')")
    anywhere = world.value("SELECT immuta.add_impersonation_rule('*er', 'a*', iamid => 'bim')")
    world.sql("SELECT immuta.add_impersonation_rule('*', 'alice', iamid => 'okta')")
    assert deny < near
    assert rows(world, "namer", "grouped", "svc") == [
        ("namer", "name", "alice", near, ["10.0.0.0/8"]), ("namer", "name", "alice", anywhere, None)]


def test_only_users_who_can_be_impersonated(world, logins):
    world.sql("SELECT immuta.create_user('unmapped'), immuta.create_user('dave', 'okta', 'bob')")
    world.sql("SELECT immuta.disable_user('carol')")
    try:
        assert [row[2] for row in rows(world, "namer")] == ["alice", "bob", "dave"]
        world.sql("CREATE ROLE unmapped IN ROLE immuta_mappable")
        assert [row[2] for row in rows(world, "namer")] == ["alice", "bob", "dave", "unmapped"]
        world.sql("SET bodata.map_by_username_iamids = 'okta'")
        assert [row[2] for row in rows(world, "namer")] == ["alice", "bob", "dave"]
    finally:
        world.sql("RESET bodata.map_by_username_iamids")
        world.sql("SELECT immuta.drop_user('unmapped'), immuta.drop_user('dave', 'okta'), "
                  "immuta.disable_user('carol', disabled => false)")
        world.sql("DROP ROLE IF EXISTS unmapped")


def test_grants_are_seen_at_once(world, logins):
    world.sql("REVOKE immuta_impersonation FROM namer; GRANT bodata_impersonate_user TO namer")
    assert {row[1] for row in rows(world, "namer")} == {"token"}
    world.sql("REVOKE bodata_impersonate_user FROM namer")
    assert rows(world, "namer") == []


def test_for_administrators_only(world, logins):
    for user, password, may in (("auditor", "auditor", True), ("namer", "namer", False), ("svc", "service-password", False)):
        connection = world.connect(user, password)
        connection.autocommit = True
        for statement in ("SELECT count(*) FROM immuta.impersonators", "SELECT * FROM immuta.test_access('alice', 'SELECT 1')"):
            if may:
                query(connection, statement)
            else:
                with refuses("42501"):
                    query(connection, statement)
        connection.close()


def test_doctor_names_logins_that_hold_both_roles(world, logins):
    def doctor():
        return world.sql("SELECT ok, detail FROM immuta.doctor() WHERE \"check\" LIKE 'no login presents both%%'")

    assert doctor() == [(True, "none does")]
    world.sql("GRANT immuta_impersonation TO grouped")
    [(ok, detail)] = doctor()
    assert not ok and detail.endswith(": grouped") and "REVOKE" in detail


# Statement, user, allowed, SQLSTATE, object, part of the plan or message.
DRY_RUNS = [
    ("SELECT * FROM app.flights", "alice", True, None, None, "carrier = 'UA'"),
    ("SELECT * FROM app.flights", "bob", True, None, None, "carrier = 'AA'"),
    ("SELECT secret FROM app.flights", "carol", False, "42501", "table flights", "permission denied"),
    ("SELECT id FROM app.flights", "carol", True, None, None, "Seq Scan"),
    ("DELETE FROM app.flights", "alice", True, None, None, "Delete on flights"),
    ("UPDATE app.flights SET delay = 1", "bob", False, "42501", "table flights", "permission denied"),
    ("INSERT INTO app.flights VALUES (9999, 'AA')", "bob", False, "42501", "table flights", "permission denied"),
    ("SELECT * FROM private.notes", "bob", False, "42501", "schema private", "permission denied"),
    ("WITH d AS (DELETE FROM app.flights RETURNING 1) SELECT * FROM d", "bob", False, "42501", "table flights", "denied"),
    ("SELECT pg_read_file('PG_VERSION')", "alice", False, "42501", "function pg_read_file", "denied"),
    ("SELECT * FROM immuta.user_account", "alice", False, "42501", "table user_account", "denied"),
    ("SELECT current_user", "alice", True, None, None, "Result"),
    ("SELECT 1 -- a comment", "alice", True, None, None, "Result"),
    ("SELECT 1;", "alice", True, None, None, "Result"),
    ("VALUES (1)", "alice", True, None, None, "Result"),
    ("SELECT * FROM nowhere", "alice", None, "42P01", None, "does not exist"),
    ("SELECT 1/0", "alice", None, "22012", None, "division by zero"),
    ("SELECT $1", "alice", None, "42P02", None, "parameter"),
    *[(statement, "alice", None, "0A000", None, "single queries") for statement in (
        "", ";", "DROP TABLE app.flights", "SELECT 1; DELETE FROM app.flights", "COPY app.flights TO STDOUT",
        "CREATE TABLE alice.x AS SELECT 1", "SELECT 1 INTO alice.x", "EXPLAIN ANALYZE DELETE FROM app.flights", "COMMIT",
        "ROLLBACK", "SET ROLE NONE", "ALTER ROLE alice SUPERUSER", "DO 'BEGIN END'", "CALL immuta_procedures.impersonate_user('bob')",
        "EXECUTE p", "RESET ALL", "SAVEPOINT s", "REFRESH MATERIALIZED VIEW x")],
    *[(statement, "alice", None, "42601", None, "syntax error") for statement in (
        "ANALYZE SELECT 1", "(ANALYZE) DELETE FROM app.flights", ") SELECT 1", "no sql", "SELECT 'unfinished")],
]


@pytest.mark.parametrize("statement, user, allowed, sqlstate, what, text", DRY_RUNS, ids=lambda value: str(value)[:60])
def test_dry_runs(world, statement, user, allowed, sqlstate, what, text):
    before = world.sql("SELECT current_user, count(*), sum(delay) FROM app.flights")
    [row] = world.sql("SELECT allowed, sqlstate, object, message, plan FROM immuta.test_access(%s, %s)", (user, statement))
    if sqlstate == "42601" and row[1] == "42601":
        assert row[0] is None and row[4] is None
    else:
        assert row[:3] == (allowed, sqlstate, what)
        assert text in (row[4] if allowed else row[3])
    assert world.sql("SELECT current_user, count(*), sum(delay) FROM app.flights") == before


def test_a_dry_run_writes_nothing(world):
    """Not even by functions that the planner calls, which say that they are immutable."""
    world.sql("CREATE TABLE app.written (a int); GRANT ALL ON app.written TO PUBLIC; "
              "CREATE FUNCTION app.writes() RETURNS int LANGUAGE plpgsql IMMUTABLE AS "
              "$$ BEGIN EXECUTE 'INSERT INTO app.written VALUES (1)'; RETURN 1; END $$; "
              "CREATE FUNCTION app.escapes() RETURNS text LANGUAGE plpgsql IMMUTABLE AS "
              "$$ BEGIN PERFORM set_config('role', 'none', false); RETURN current_user; END $$")
    try:
        [(allowed, sqlstate)] = world.sql("SELECT allowed, sqlstate FROM immuta.test_access('alice', 'SELECT app.writes()')")
        assert allowed is None and sqlstate in ("25006", "0A000")
        [(allowed, sqlstate)] = world.sql("SELECT allowed, sqlstate FROM immuta.test_access('alice', 'SELECT app.escapes()')")
        assert (allowed, sqlstate) == (False, "42501")
        assert world.value("SELECT count(*) FROM app.written") == 0
        assert world.sql("SELECT current_user, current_setting('role'), current_setting('transaction_read_only')") == [
            ("postgres", "none", "off")]
    finally:
        world.sql("DROP TABLE app.written; DROP FUNCTION app.writes(), app.escapes()")


RESIDUE = {
    "lock": "PERFORM pg_try_advisory_lock(4711)",
    "lock at last": "BEGIN PERFORM pg_try_advisory_lock(4711); EXCEPTION WHEN OTHERS THEN NULL; END; "
                    "EXECUTE 'SELECT pg_advisory_lock_shared(4711)'",
    "unlock": "PERFORM pg_advisory_unlock_all()",
    "setting": "PERFORM set_config('work_mem', '77MB', false)",
    "identity": "PERFORM set_config('immuta.impersonation_userid', 'bob', true)",
    "seed": "PERFORM setseed(0.5)",
    "channel": "EXECUTE 'LISTEN c'",
    "notification": "PERFORM pg_notify('c', 'x')",
    "temporary table": "CREATE TEMP TABLE left_behind (a int)",
    "prepared statement": "EXECUTE 'PREPARE left_behind AS SELECT 1'",
    "cursor": "EXECUTE 'DECLARE left_behind CURSOR WITH HOLD FOR SELECT 1'",
    "library": "EXECUTE 'LOAD ''$libdir/plugins/no_such_library'' '",
    "number": "PERFORM nextval('app.numbers')",
    "number set": "PERFORM setval('app.numbers', 77)",
    "connection": "PERFORM app.connects('left_behind', 'dbname=nowhere')",
    "other statements": "PERFORM count(*) FROM pg_prepared_statements",
    "the extension's tables": "PERFORM count(*) FROM immuta.user_account",
}
UNDONE = ("setting", "seed", "notification")


@pytest.mark.parametrize("what, body", RESIDUE.items(), ids=RESIDUE.keys())
def test_a_dry_run_leaves_nothing_behind(world, what, body):
    """What an impersonated user could not leave, the planner cannot leave for them in an administrator's session."""
    world.sql("CREATE SEQUENCE app.numbers; GRANT ALL ON app.numbers TO PUBLIC; "
              "GRANT SELECT ON immuta.user_account TO bob; GRANT USAGE ON SCHEMA immuta TO bob; "
              "CREATE FUNCTION app.connects(text, text) RETURNS text STRICT LANGUAGE c "
              "AS '$libdir/dblink', 'dblink_connect'; "
              f"CREATE FUNCTION app.does() RETURNS int LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN 1; END $$; "
              "CREATE FUNCTION app.leaves() RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN app.does(); END'")
    session = """SELECT array(SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
        current_setting('work_mem'), current_setting('immuta.impersonation_userid'),
        array(SELECT pg_listening_channels()), to_regclass('pg_temp.left_behind'),
        array(SELECT name FROM pg_prepared_statements), array(SELECT name FROM pg_cursors WHERE is_holdable),
        (SELECT last_value FROM app.numbers), current_user, current_setting('transaction_read_only')"""
    connection = psycopg2.connect(**world.server.dsn(dbname=world.dbname))
    connection.autocommit = True
    try:
        query(connection, "SELECT pg_advisory_lock(11)")
        before = query(connection, session)
        [row] = query(connection, "SELECT allowed, sqlstate FROM immuta.test_access('bob', 'SELECT app.leaves()')")
        assert query(connection, session) == before
        assert row == (True, None) if what in UNDONE else row in ((False, "42501"), (None, "25006"))
        random = query(connection, "SELECT random()")
        query(connection, "SELECT setseed(0.5)")
        assert query(connection, "SELECT random()") != random
        # It is over, however it ended.
        with pytest.raises(psycopg2.errors.DivisionByZero):
            query(connection, "SELECT immuta_internal.explained('bob', 'bim', 'SELECT 1/0', 'public')")
        query(connection, "SELECT pg_advisory_lock(12), pg_advisory_unlock(12)")
    finally:
        connection.close()
        world.sql("DROP FUNCTION app.leaves(), app.does(), app.connects(text, text); DROP SEQUENCE app.numbers; "
                  "REVOKE SELECT ON immuta.user_account FROM bob; REVOKE USAGE ON SCHEMA immuta FROM bob")


@pytest.mark.parametrize("statement", [
    "SELECT pg_try_advisory_lock(4711)", "SELECT * FROM pg_cursors", "SELECT pg_advisory_unlock_all()"])
def test_a_dry_run_refuses_what_an_impersonation_refuses(world, statement):
    [(allowed, sqlstate, message)] = world.sql(
        "SELECT allowed, sqlstate, message FROM immuta.test_access('alice', %s)", (statement,))
    assert (allowed, sqlstate) == (False, "42501") and "not allowed while impersonating" in message
    assert world.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


def test_a_dry_run_does_not_meet_the_callers_cursors(world):
    """Their rows are the administrator's, and no rollback would move them back: better such a cursor fails."""
    world.sql("CREATE FUNCTION app.fetches() RETURNS text LANGUAGE plpgsql AS "
              "$$ DECLARE c refcursor := 'c'; seen text; BEGIN FETCH c INTO seen; RETURN seen; END $$; "
              "CREATE FUNCTION app.reads() RETURNS text LANGUAGE plpgsql IMMUTABLE "
              "AS 'BEGIN RETURN app.fetches(); END'; "
              "CREATE FUNCTION app.loops() RETURNS text LANGUAGE plpgsql IMMUTABLE AS "
              "$$ DECLARE r record; BEGIN FOR r IN SELECT 1 LOOP RETURN r; END LOOP; END $$")
    connection = psycopg2.connect(**world.server.dsn(dbname=world.dbname))
    reads, loops = (f"SELECT sqlstate FROM immuta.test_access('alice', 'SELECT app.{f}()')" for f in ("reads", "loops"))
    try:
        query(connection, "DECLARE c CURSOR FOR SELECT i FROM generate_series(1, 3) i")
        assert query(connection, loops) == [(None,)] and query(connection, reads) == [("42501",)]
        with refuses("55000"):
            query(connection, "FETCH c")
        connection.rollback()
        query(connection, "DECLARE c CURSOR WITH HOLD FOR SELECT i FROM generate_series(1, 3) i")
        connection.commit()
        assert query(connection, loops) == query(connection, reads) == [("25000",)]
        assert query(connection, "FETCH c") == [(1,)]
        query(connection, "CLOSE c")
        assert query(connection, reads) == [("34000",)]
    finally:
        connection.close()
        world.sql("DROP FUNCTION app.fetches(), app.reads(), app.loops()")


def test_a_dry_run_uses_the_callers_search_path_and_transaction(world):
    connection = psycopg2.connect(**world.server.dsn(dbname=world.dbname))
    query(connection, "SET search_path = app")
    query(connection, "CREATE TABLE app.fresh (a int)")
    query(connection, "GRANT SELECT ON app.fresh TO alice")
    assert query(connection, "SELECT allowed FROM immuta.test_access('alice', 'SELECT * FROM fresh, flights')") == [(True,)]
    assert query(connection, "SELECT allowed FROM immuta.test_access('bob', 'SELECT * FROM fresh')") == [(False,)]
    query(connection, "SELECT count(*) FROM fresh")
    connection.rollback()
    connection.close()


@pytest.mark.parametrize("user, iamid, error", [
    ("nobody", "bim", ("42704", "IMPERSONATION_NOT_MAPPED")), ("alice", "okta", ("42704", "IMPERSONATION_NOT_MAPPED"))])
def test_a_dry_run_needs_a_user(world, user, iamid, error):
    with refuses(*error):
        world.sql("SELECT * FROM immuta.test_access(%s, 'SELECT 1', %s)", (user, iamid))


@pytest.mark.parametrize("arguments", [
    (None, "SELECT 1", "bim", "app"), ("alice", None, "bim", "app"), ("alice", "SELECT 1", None, "app"),
    ("alice", "SELECT 1", "bim", None)])
def test_a_dry_run_needs_all_of_it(world, arguments):
    with pytest.raises(psycopg2.errors.NullValueNotAllowed):
        world.sql("SELECT * FROM immuta.test_access(%s, %s, %s, %s)", arguments)


def test_a_dry_run_of_a_disabled_user(world):
    world.sql("SELECT immuta.disable_user('bob')")
    try:
        with refuses("42501", "IMPERSONATION_NOT_ALLOWED"):
            world.sql("SELECT * FROM immuta.test_access('bob', 'SELECT 1')")
    finally:
        world.sql("SELECT immuta.disable_user('bob', disabled => false)")


def test_a_dry_run_can_be_cancelled(world):
    world.sql("CREATE FUNCTION app.slow() RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM pg_sleep(30); RETURN 1; END'")
    connection = psycopg2.connect(**world.server.dsn(dbname=world.dbname))
    connection.autocommit = True
    try:
        query(connection, "SET statement_timeout = '100ms'")
        with refuses("57014"):
            query(connection, "SELECT * FROM immuta.test_access('alice', 'SELECT app.slow()')")
        assert query(connection, "SELECT current_user") == [("postgres",)]
    finally:
        connection.close()
        world.sql("DROP FUNCTION app.slow()")
