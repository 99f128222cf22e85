"""G3: inside the transaction nothing that the end user sends changes who they are.

Threats: 1-8, 10, 12, 18, 39, 41 (docs/threats.md).
"""

import pytest
from harness.fixtures import VERSION
from scene import ACTIVE, ALICE_ROWS, COUNT, DENIED, UNSUPPORTED, token_of

NO_EFFECT = (None, None)
TERMINATION = ("2D000", None)
IN_BLOCK = ("25001", None)


def do(body):
    return f"DO $$ BEGIN {body} END $$"


def caught(body):
    return f"DO $$ BEGIN {body} RAISE EXCEPTION 'escaped'; EXCEPTION WHEN insufficient_privilege THEN NULL; END $$"


# One row, one attack: row of threats.md, statement, SQLSTATE and code in DETAIL.
ATTACKS = [
    # The SET family, which our own clearer error answers.
    *[(1, statement, *ACTIVE) for statement in (
        "RESET ROLE", "SET ROLE NONE", "SET ROLE 'none'", "SET ROLE bob", "SET ROLE alice", "SET ROLE svc",
        "SET ROLE postgres", "SET LOCAL ROLE NONE", "SET SESSION ROLE NONE", "SET role TO DEFAULT", "RESET role",
        'SET "role" = none', 'SET "Role" = none', "SET LOCAL rOLE TO 'svc'", 'RESET "ROLE"', "SET role = ''",
        "SET role FROM CURRENT", "SET LOCAL role FROM CURRENT")],
    *[(5, statement, *ACTIVE) for statement in (
        "SET SESSION AUTHORIZATION svc", "SET SESSION AUTHORIZATION postgres", "SET SESSION AUTHORIZATION DEFAULT",
        "SET LOCAL SESSION AUTHORIZATION DEFAULT", "RESET SESSION AUTHORIZATION", "RESET session_authorization",
        "SET session_authorization FROM CURRENT", "SET session_authorization = 'postgres'",
        'SET "Session_Authorization" TO DEFAULT')],

    # set_config() passes the executor; PostgreSQL's own lock answers.
    *[(2, f"SELECT set_config('{name}', '{value}', {is_local})", *DENIED)
      for name, value in (("role", "none"), ("role", "postgres"), ("role", "bob"), ("ROLE", "svc"), ("role", ""),
                          ("session_authorization", "svc"), ("session_authorization", "postgres"))
      for is_local in ("false", "true")],
    (2, "WITH x AS (SELECT set_config('role', 'none', false)) SELECT * FROM x", *DENIED),
    (2, "WITH x AS MATERIALIZED (SELECT set_config('role', 'none', false)) "
        "SELECT count(*) FROM app.flights, x", *DENIED),
    (2, "SELECT x FROM pg_stat_get_activity(NULL) a, LATERAL set_config('role', 'none', a.pid IS NULL) x",
     *DENIED),
    (2, "SELECT * FROM app.flights WHERE set_config('role', 'none', false) = 'none'", *DENIED),
    (2, "SELECT carrier FROM app.flights ORDER BY set_config('role', 'none', false)", *DENIED),
    (2, "SELECT CASE WHEN set_config('role', 'none', false) = 'none' THEN (SELECT count(*) FROM app.flights) END",
        *DENIED),
    (2, "INSERT INTO alice.ruled VALUES (1)", *DENIED),
    (2, "INSERT INTO app.flights VALUES (2000, 'UA') RETURNING set_config('role', 'none', false)", *DENIED),
    (2, "COPY (SELECT set_config('role', 'none', false)) TO STDOUT", *DENIED),
    (2, "CREATE TABLE alice.made AS SELECT set_config('role', 'none', false)", *DENIED),
    (2, "EXPLAIN ANALYZE SELECT set_config('role', 'none', false)", *DENIED),
    (2, "EXPLAIN SELECT alice.reset_role_immutable()", *DENIED),
    (2, "CREATE INDEX ON alice.t ((alice.reset_role_immutable()))", *DENIED),
    (2, "CREATE MATERIALIZED VIEW alice.m AS SELECT alice.reset_role()", *DENIED),
    (2, "VALUES (set_config('role', 'none', false))", *DENIED),
    (2, "DECLARE c CURSOR FOR SELECT alice.reset_role_immutable()", *DENIED),
    (2, "SELECT * FROM alice.resetting", *DENIED),
    (2, "SELECT alice.reset_role()", *DENIED),
    (2, "SELECT alice.reset_role_immutable()", *DENIED),
    (2, "SELECT 1 WHERE alice.reset_role_immutable() IS NULL", *DENIED),
    (2, "SELECT alice.reset_role_sql()", *DENIED),
    (2, "SELECT alice.reset_role_simple()", *DENIED),
    (2, "SELECT alice.reset_role_caught()", *NO_EFFECT),
    (2, "SELECT alice.definer_reset()", *ACTIVE),
    (2, "SELECT app.owners_reset()", *DENIED),
    (2, "SELECT app.alias_set_config('role', 'none', false)", *DENIED),
    (2, "SELECT app.alias_set_config('session_authorization', 'postgres', true)", *DENIED),
    # Every place of a query where a function can stand.
    *[(2, statement.replace("{f}", "set_config('role', 'none', false)"), *DENIED) for statement in (
        "SELECT * FROM ROWS FROM ({f}, generate_series(1, 2))", "SELECT 1 LIMIT length({f})",
        "SELECT 1 FROM app.flights OFFSET length({f})", "SELECT DISTINCT ON ({f}) 1",
        "SELECT count(*) FROM app.flights GROUP BY {f}", "SELECT count(*) FROM app.flights HAVING {f} = 'none'",
        "SELECT count(*) FILTER (WHERE {f} = 'none') FROM app.flights", "SELECT string_agg({f}, '') FROM app.flights",
        "SELECT sum(id) OVER (ROWS length({f}) PRECEDING) FROM app.flights",
        "SELECT * FROM app.flights TABLESAMPLE bernoulli (length({f}))", "SELECT ARRAY[{f}]", "SELECT ROW({f})",
        "SELECT coalesce({f}, '')", "SELECT {f} || ''", "SELECT 'none' = ANY (ARRAY[{f}])",
        "SELECT jsonb_build_object({f}, 1)", "SELECT * FROM app.flights a JOIN app.flights b ON {f} = 'none'",
        "SELECT (WITH RECURSIVE r AS (SELECT {f} AS a UNION SELECT a FROM r) SELECT count(*) FROM r)",
        "SELECT 1 UNION SELECT length({f})", "VALUES (1), (length({f}))", "UPDATE app.flights SET delay = length({f})",
        "DELETE FROM app.flights WHERE {f} = 'none'", "INSERT INTO app.flights VALUES (length({f}), 'UA')",
        "INSERT INTO app.flights VALUES (1, 'UA') ON CONFLICT (id) DO UPDATE SET secret = {f}",
        "EXPLAIN (ANALYZE, TIMING OFF) SELECT {f}",
        "SELECT * FROM json_populate_record(NULL::alice.t, to_json({f}))")],
    # And where none stands.
    (2, "SELECT 'sad'::alice.mood::text", *DENIED),
    (2, "SELECT length('sad'::alice.mood)", *DENIED),
    (2, "SELECT alice.by_default()", *DENIED),
    (2, "SELECT 'a' OPERATOR(alice.~~~) 'b'", *DENIED),
    (2, "SELECT 'a' OPERATOR(alice.~~~) ANY (ARRAY['b'])", *DENIED),
    (2, "SELECT alice.resets('a')", *DENIED),
    (2, "SELECT alice.resets('a') OVER ()", *DENIED),
    (2, do("CREATE TABLE alice.d (a text DEFAULT set_config('role', 'none', false)); "
           "INSERT INTO alice.d DEFAULT VALUES;"), *DENIED),
    (2, do("CREATE TABLE alice.d (a text CHECK (set_config('role', 'none', false) IS NULL)); "
           "INSERT INTO alice.d VALUES ('');"), *DENIED),
    (2, do("CREATE TABLE alice.d (a text) PARTITION BY LIST (a); "
           "CREATE TABLE alice.e PARTITION OF alice.d FOR VALUES IN (set_config('role', 'none', false));"), *DENIED),
    (2, do("CREATE TABLE alice.d (a text); ALTER TABLE alice.d ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; "
           "CREATE POLICY p ON alice.d USING (set_config('role', 'none', false) IS NULL); "
           "INSERT INTO alice.d VALUES ('');"), *DENIED),
    (2, do("CREATE TABLE alice.d (a int); CREATE TRIGGER t BEFORE INSERT ON alice.d FOR EACH ROW "
           "WHEN (set_config('role', 'none', false) IS NULL) EXECUTE FUNCTION alice.on_insert(); "
           "INSERT INTO alice.d VALUES (1);"), *DENIED),
    (2, do("CREATE TABLE alice.d (a int); INSERT INTO alice.d VALUES (1); "
           "ALTER TABLE alice.d ALTER a TYPE text USING set_config('role', 'none', false);"), *DENIED),
    (2, do("CREATE TABLE alice.d (a alice.span); CREATE INDEX ON alice.d USING gist (a); INSERT INTO alice.d "
           "SELECT alice.span(i, i + 1) FROM generate_series(1, 2000) i;"), *DENIED),
    (2, "SELECT query_to_xml('SELECT set_config(''role'', ''none'', false)', false, false, '')", *DENIED),
    (2, "SELECT ts_stat('SELECT set_config(''role'', ''none'', false)::tsvector')", *DENIED),

    # SET clauses of functions.
    (3, "CREATE FUNCTION alice.f() RETURNS int LANGUAGE sql SET role = none AS 'SELECT 1'", *DENIED),
    (3, "CREATE FUNCTION alice.f() RETURNS int LANGUAGE sql SET session_authorization = postgres AS 'SELECT 1'",
     *DENIED),
    (3, "CREATE PROCEDURE alice.p() LANGUAGE sql SET role = svc AS 'SELECT 1'", *DENIED),
    (3, "CREATE FUNCTION alice.f() RETURNS int LANGUAGE sql SET role FROM CURRENT AS 'SELECT 1'", *DENIED),
    (3, "ALTER FUNCTION alice.reset_role() SET role TO none", *DENIED),
    (3, "ALTER ROUTINE alice.reset_role() SET session_authorization TO svc", *DENIED),
    (3, "SELECT alice.clause_role()", *DENIED),
    (3, "SELECT alice.clause_role_definer()", *DENIED),
    (3, "SELECT alice.clause_session()", *DENIED),
    (3, "CALL alice.clause_role_proc()", *DENIED),
    (3, do("CALL alice.clause_role_proc();"), *DENIED),

    # Through PL/pgSQL and triggers.
    (4, do("SET ROLE NONE;"), *ACTIVE),
    (4, do("RESET ROLE;"), *ACTIVE),
    (4, do("EXECUTE 'RESET ROLE';"), *ACTIVE),
    (4, do("EXECUTE 'SET SESSION AUTHORIZATION DEFAULT';"), *ACTIVE),
    (4, do("PERFORM set_config('role', 'none', true);"), *DENIED),
    (4, "DO $$ DECLARE x text; BEGIN x := set_config('role', 'none', false); END $$", *DENIED),
    (4, "DO $$ DECLARE x text := set_config('role', 'none', false); BEGIN END $$", *DENIED),
    (4, caught("PERFORM set_config('role', 'none', false);"), *NO_EFFECT),
    (4, caught("RESET ROLE;"), *NO_EFFECT),
    (4, caught("EXECUTE 'DISCARD ALL';"), *NO_EFFECT),
    (4, caught("PERFORM alice.reset_role_simple();"), *NO_EFFECT),
    (4, do("BEGIN PERFORM 1/0; EXCEPTION WHEN division_by_zero THEN RESET ROLE; END;"), *ACTIVE),
    (4, do("BEGIN PERFORM 1/0; "
           "EXCEPTION WHEN division_by_zero THEN PERFORM set_config('role', 'none', false); END;"),
        *DENIED),
    (4, "INSERT INTO alice.t VALUES (1)", *DENIED),
    (4, do("INSERT INTO alice.deferred VALUES (1); SET CONSTRAINTS ALL IMMEDIATE;"), *DENIED),

    # Everything at once.
    (6, "DISCARD ALL", *ACTIVE),
    (6, "DISCARD TEMP", *ACTIVE),
    (6, "DISCARD PLANS", *ACTIVE),
    (6, "DISCARD SEQUENCES", *ACTIVE),
    (6, do("DISCARD ALL;"), *ACTIVE),
    (6, "RESET ALL", *NO_EFFECT),
    (6, do("RESET ALL;"), *NO_EFFECT),
    (7, "UPDATE pg_settings SET setting = 'none' WHERE name = 'role'", *NO_EFFECT),
    (7, "UPDATE pg_settings SET setting = 'svc' WHERE name = 'session_authorization'", *NO_EFFECT),
    (7, "UPDATE pg_settings SET setting = 'x' WHERE name = 'bodata.impersonation_token'", *NO_EFFECT),
    (7, "UPDATE pg_settings SET setting = 'off' WHERE name = 'bodata.require_token'", *DENIED),

    # Savepoints cannot be used to go back before the token.
    (8, "ROLLBACK TO SAVEPOINT before_the_token", "3B001", None),
    (8, "RELEASE SAVEPOINT before_the_token", "3B001", None),

    # Commits inside one statement.
    (10, do("COMMIT;"), *TERMINATION),
    (10, do("ROLLBACK;"), *TERMINATION),
    (10, do("COMMIT AND CHAIN;"), *TERMINATION),
    (10, do("EXECUTE 'COMMIT';"), "0A000", None),
    (10, do("BEGIN COMMIT; EXCEPTION WHEN OTHERS THEN NULL; END;"), *NO_EFFECT),
    (10, "CALL alice.commits()", *TERMINATION),
    (10, "CALL alice.rolls_back()", *TERMINATION),
    (10, "CALL alice.commits_caught()", *NO_EFFECT),
    (10, do("CALL alice.commits();"), *TERMINATION),
    (10, do("EXECUTE 'CALL alice.rolls_back()';"), *TERMINATION),

    # Another user, or none.
    (12, "SET LOCAL bodata.impersonation_token = '{bob}'", *ACTIVE),
    (12, "SET bodata.impersonation_token = '{bob}'", *ACTIVE),
    (12, "SET LOCAL bodata.impersonation_token = '{alice}'", *ACTIVE),
    (12, "SET LOCAL BODATA.Impersonation_Token = '{bob}'", *ACTIVE),
    (12, "SET LOCAL bodata.impersonation_token = ''", *ACTIVE),
    (12, "SET LOCAL bodata.impersonation_token TO DEFAULT", *ACTIVE),
    (12, "RESET bodata.impersonation_token", *ACTIVE),
    (12, do("RESET bodata.impersonation_token;"), *ACTIVE),
    (12, do("SET LOCAL bodata.impersonation_token = '{bob}';"), *ACTIVE),
    (12, "SELECT set_config('bodata.impersonation_token', '{bob}', true)", *DENIED),
    (12, "SELECT set_config('bodata.impersonation_token', '', true)", *DENIED),
    (12, "SELECT set_config('bodata.impersonation_token', NULL, false)", *DENIED),
    (12, "SELECT app.alias_set_config('bodata.impersonation_token', '{bob}', true)", *DENIED),
    (12, "CREATE FUNCTION alice.f() RETURNS int LANGUAGE sql SET bodata.impersonation_token = '{bob}' "
         "AS 'SELECT 1'",
        *DENIED),
    (12, "CREATE FUNCTION alice.f() RETURNS int LANGUAGE sql SET bodata.impersonation_token FROM CURRENT "
         "AS 'SELECT 1'", *DENIED),
    (12, "ALTER FUNCTION alice.reset_role() SET bodata.impersonation_token = '{bob}'", *DENIED),
    (12, "ALTER ROLE alice SET bodata.impersonation_token = '{bob}'", *DENIED),
    (12, "ALTER ROLE alice SET role = 'postgres'", *DENIED),
    (12, "ALTER DATABASE immuta SET bodata.impersonation_token = '{bob}'", *DENIED),
    *[(12, f"SET bodata.{name} = {value}", *DENIED) for name, value in (
        ("require_token", "off"), ("session_settings", "'search_path'"), ("trusted_definers", "'alice'"),
        ("map_by_username_iamids", "'okta'"), ("token_idle_ttl", "'30d'"), ("token_revalidate_interval", "'1d'"))],
    (12, "SELECT set_config('bodata.trusted_definers', 'alice', false)", *DENIED),

    # More than the role allows.
    (18, "TRUNCATE app.flights", *DENIED),
    (18, "ALTER TABLE app.flights DISABLE ROW LEVEL SECURITY", *DENIED),
    (18, "CREATE POLICY p ON app.flights TO alice USING (true)", *DENIED),
    (18, "DROP POLICY alice_sees ON app.flights", *DENIED),
    (18, "INSERT INTO app.flights VALUES (2000, 'AA') RETURNING *", *DENIED),
    (18, "UPDATE app.flights SET carrier = 'AA' RETURNING *", *DENIED),
    (18, "WITH d AS (DELETE FROM app.flights RETURNING carrier) "
         "SELECT 1 / (count(*) - 100) FROM d", "22012", None),
    (18, "LOCK TABLE private.notes IN ACCESS EXCLUSIVE MODE", *DENIED),
    (18, "COPY app.flights TO '/tmp/x'", *DENIED),
    (18, "COPY app.flights TO PROGRAM 'id'", *DENIED),
    (18, "COPY app.flights FROM PROGRAM 'id'", *DENIED),
    (18, "SELECT pg_read_file('PG_VERSION')", *DENIED),
    (18, "SELECT pg_ls_dir('.')", *DENIED),
    (18, "SELECT lo_import('/etc/hostname')", *DENIED),
    (18, "SELECT lo_export(1, '/tmp/x')", *DENIED),
    (18, "SELECT * FROM dblink('dbname=immuta', 'SELECT 1') AS t(a int)", "2F003", None),
    (18, "SELECT dblink_connect_u('dbname=immuta')", *DENIED),
    (18, "CREATE SERVER loop FOREIGN DATA WRAPPER postgres_fdw OPTIONS (dbname 'immuta')", *DENIED),
    (18, "SELECT * FROM pg_authid", *DENIED),
    (18, "ALTER ROLE alice BYPASSRLS", *DENIED),
    (18, "ALTER ROLE alice CREATEROLE", *DENIED),
    (18, "ALTER ROLE svc PASSWORD 'alices'", *DENIED),
    (18, "ALTER ROLE svc SET search_path = alice", *DENIED),
    (18, "GRANT svc TO alice", *DENIED),
    (18, "GRANT owner TO alice", *DENIED),
    *[(18, statement, *DENIED) for statement in (
        "CREATE FUNCTION alice.f() RETURNS text LANGUAGE internal AS 'set_config_by_name'",
        "CREATE FUNCTION alice.f() RETURNS int LANGUAGE c AS '$libdir/dblink', 'dblink_connect'",
        "ALTER FUNCTION alice.reset_role() LEAKPROOF", "ALTER FUNCTION alice.reset_role() OWNER TO svc",
        "ALTER TABLE alice.t OWNER TO postgres", "CREATE EXTENSION file_fdw", "CREATE FOREIGN DATA WRAPPER w",
        "CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION alice.on_insert()",
        "CREATE ACCESS METHOD m TYPE INDEX HANDLER bthandler", "CREATE SCHEMA s AUTHORIZATION svc",
        "CREATE ROLE mallory", "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p WITH (connect = false)",
        "ALTER ROLE ALL SET search_path = alice", "ALTER ROLE alice SUPERUSER", "REASSIGN OWNED BY svc TO alice",
        "DROP OWNED BY svc", "CREATE TABLE immuta.x (a int)", "CREATE TABLE pg_catalog.x (a int)",
        "CREATE OR REPLACE FUNCTION immuta.whoami() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER ROLE alice SET bodata.require_token = off", "ALTER DATABASE immuta SET bodata.require_token = off",
        "ALTER ROLE alice SET session_replication_role = replica", "SET session_replication_role = replica")],
    (18, "ALTER SYSTEM SET bodata.require_token = off", *ACTIVE),
    (18, "DROP EXTENSION immuta_ext", *DENIED),
    (18, "SELECT immuta.issue_token('bob')", *DENIED),
    (18, "SELECT immuta.check_token('{bob}')", *DENIED),
    (18, "SELECT immuta.authenticate('bob', 'x')", *DENIED),
    (18, "SELECT immuta.map_user('alice', 'postgres')", *DENIED),
    (18, "SELECT immuta_internal.new_token(1)", *DENIED),
    (18, "SELECT immuta_internal.perform('{}')", *DENIED),
    (18, "SELECT immuta_internal.cached_tokens()", *DENIED),
    (18, "SELECT immuta.flush_token_cache()", *DENIED),
    (18, "SELECT * FROM immuta.token", *DENIED),
    (18, "SELECT * FROM immuta.user_account", *DENIED),
    (18, "UPDATE immuta.user_account SET postgres_role = 'postgres'::regrole", *DENIED),
    (18, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'", *DENIED),

    # What would outlive the transaction, and can only be refused.
    (9, "PREPARE TRANSACTION 'alice'", *UNSUPPORTED),
    (9, "COMMIT PREPARED 'alice'", *UNSUPPORTED),
    (9, "ROLLBACK PREPARED 'alice'", *UNSUPPORTED),
    (23, "PREPARE s AS SELECT 1", *ACTIVE),
    (23, do("PREPARE s AS SELECT 1;"), *ACTIVE),
    # What a driver prepared for the user before, literals and all; whatever wraps it.
    *[(23, statement, *ACTIVE) for statement in (
        "EXECUTE s", "EXPLAIN (VERBOSE) EXECUTE s", "CREATE TABLE alice.x AS EXECUTE s",
        "EXPLAIN CREATE TABLE alice.x AS EXECUTE s", do("EXECUTE 'EXECUTE s';"), do("EXECUTE 'EXPLAIN EXECUTE s';"))],
    # What would make a token a password, or last longer than it.
    *[(35, statement, *ACTIVE) for statement in (
        "ALTER USER CURRENT_USER PASSWORD 'x'", "ALTER ROLE alice PASSWORD NULL", "ALTER ROLE alice SET work_mem = '1MB'",
        "ALTER ROLE CURRENT_USER RESET ALL", do("ALTER USER CURRENT_USER PASSWORD 'x';"))],
    (24, "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM app.flights", *ACTIVE),
    (24, do("EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT * FROM app.flights';"), *ACTIVE),
    (25, "LISTEN c", *ACTIVE),
    (25, "UNLISTEN *", *ACTIVE),
    (25, do("LISTEN c;"), *ACTIVE),
    (25, do("EXECUTE 'LISTEN c';"), *ACTIVE),
    (25, "LOAD 'plpgsql'", *ACTIVE),
    (25, do("LOAD 'plpgsql';"), *ACTIVE),
    *[(25, f"SELECT {function}", *ACTIVE) for function in (
        "pg_advisory_lock(1)", "pg_advisory_lock(1, 2)", "pg_advisory_lock_shared(1)", "pg_try_advisory_lock(1)",
        "pg_try_advisory_lock_shared(1, 2)", "pg_advisory_unlock(1)", "pg_advisory_unlock_shared(1)",
        "pg_advisory_unlock_all()")],
    (25, "SELECT alice.locks(1)", *ACTIVE),
    (25, "SELECT alice.locks(1) OVER ()", *ACTIVE),
    (25, "SELECT dblink_connect('dbname=immuta')", *ACTIVE),
    (25, "SELECT dblink_connect('c', 'dbname=immuta')", *ACTIVE),
    (25, "SELECT app.alias_connect('c', 'dbname=immuta')", *ACTIVE),
    (25, do("PERFORM dblink_connect('c', 'dbname=immuta');"), *ACTIVE),
    (25, do("PERFORM pg_advisory_lock(1);"), *ACTIVE),
    (25, "DO $$ DECLARE x text; BEGIN x := pg_advisory_lock(1); END $$", *ACTIVE),
    (25, "SELECT count(*) FROM app.flights WHERE pg_try_advisory_lock(id)", *ACTIVE),

    # Statements with transactions of their own.
    (39, "VACUUM alice.t", *IN_BLOCK),
    (39, "CREATE INDEX CONCURRENTLY ON alice.t (id)", *IN_BLOCK),
    (39, "REINDEX TABLE CONCURRENTLY alice.t", *IN_BLOCK),
    (39, "DROP INDEX CONCURRENTLY alice.x", *IN_BLOCK),
]
if int(VERSION) >= 15:
    ATTACKS += [
        (12, "GRANT SET ON PARAMETER bodata.require_token TO alice", *DENIED),
        (2, "MERGE INTO app.flights f USING (VALUES (1)) v (a) ON f.carrier = 'UA' "
            "WHEN MATCHED AND set_config('role', 'none', false) = 'none' THEN DELETE", *DENIED),
        (18, "MERGE INTO app.flights f USING (VALUES (1)) v (id) ON f.id = 2000 "
             "WHEN NOT MATCHED THEN INSERT VALUES (2000, 'AA')", *DENIED),
    ]


def attack_id(attack):
    row, statement, *_ = attack
    return f"{row}: {statement[:90]}".encode("ascii", "replace").decode()


def with_tokens(world, statement):
    return statement.replace("{alice}", token_of(world, "alice")).replace("{bob}", token_of(world, "bob"))


def attack_in_savepoint(session, statement, sqlstate, code):
    session.ok("SAVEPOINT s")
    if sqlstate:
        session.refused(statement, sqlstate, code)
        assert session.run("SELECT 1").error["C"] == "25P02"
        session.ok("ROLLBACK TO s")
    else:
        assert "escaped" not in str(session.ok(statement).rows)
    session.is_alice()


@pytest.mark.parametrize("attack", ATTACKS, ids=attack_id)
def test_the_user_stays_who_he_is(world, session, attack):
    _, statement, sqlstate, code = attack
    statement = with_tokens(world, statement)

    # In a savepoint, so that the transaction goes on afterwards.
    session.begin()
    attack_in_savepoint(session, statement, sqlstate, code)
    session.ok("ROLLBACK TO s")
    session.is_alice()
    session.ok("RELEASE s")
    session.is_alice()
    session.ok("COMMIT")
    session.leaves_nothing()

    # Without one: the error ends the transaction, and the impersonation with it.
    session.begin()
    if sqlstate:
        session.refused(statement, sqlstate, code)
        session.refused("SELECT current_user", "25P02")
        session.ok("COMMIT")
    else:
        session.ok(statement)
        session.is_alice()
        session.ok("ROLLBACK")
    session.leaves_nothing()


def test_row_security_cannot_be_switched_off(session):
    session.begin()
    session.ok("SET LOCAL row_security = off")
    session.refused(COUNT, "42501")
    session.ok("ROLLBACK")
    session.leaves_nothing()
    session.begin()
    session.ok("SET row_security = off")
    session.ok("COMMIT")
    session.leaves_nothing()


def test_savepoints_keep_the_user(session):
    """Row 8, and what ORMs do with nested transactions."""
    session.begin()
    session.ok("SAVEPOINT a")
    session.ok("INSERT INTO app.flights VALUES (2001, 'UA')")
    session.ok("SAVEPOINT b")
    session.refused("SELECT 1/0", "22012")
    session.ok("ROLLBACK TO b")
    session.ok("RELEASE a")
    session.ok("DELETE FROM app.flights WHERE id = 2001")
    session.is_alice()
    session.ok("SAVEPOINT a")
    session.ok("SAVEPOINT b")
    session.ok("ROLLBACK TO a")
    session.is_alice()
    session.ok("COMMIT")
    session.leaves_nothing()


def test_definers_and_views_of_others_give_what_their_owners_give(session):
    """Row 18: they run with their owner's rights, as everywhere, and the user is the user again afterwards."""
    session.begin()
    assert session.value("SELECT app.owners_count()") == "300"
    assert session.value("SELECT app.superusers_count()") == "300"
    assert session.value("SELECT count(*) FROM app.all_flights") == "300"
    session.is_alice()
    session.ok("SAVEPOINT s")
    session.refused("SELECT app.owners_reset()", "42501")
    session.ok("ROLLBACK TO s")
    session.is_alice()
    session.ok("COMMIT")
    session.leaves_nothing()


def test_deferred_triggers_run_as_the_user(world, session):
    """Row 4: at COMMIT, when the last statement is over, the role is still the user's and locked."""
    world.sql("TRUNCATE alice.seen")
    session.begin()
    session.ok("INSERT INTO alice.seen_at_commit VALUES (1)")
    session.ok("COMMIT")
    assert world.sql('SELECT who, "user" FROM alice.seen ORDER BY 1') == [
        ("at commit", "alice"), ("at commit, later", "alice"), ("rows at commit", "100")]
    session.leaves_nothing()


@pytest.mark.parametrize("end", ["COMMIT", "COMMIT AND CHAIN"])
def test_a_deferred_trigger_that_attacks_ends_the_transaction(world, session, end):
    session.begin()
    session.ok("INSERT INTO alice.deferred VALUES (7)")
    session.refused(end, "42501")
    assert world.value("SELECT count(*) FROM alice.deferred WHERE id = 7") == 0
    session.leaves_nothing()


def test_rows_of_the_first_statement(session):
    """Row 14: whatever comes first is parsed and planned as the user."""
    first = [
        (COUNT, ALICE_ROWS), ("TABLE alice.t", []), ("SELECT current_user", [("alice",)]),
        ("SELECT app.flights_in_plpgsql()", [("100",)]),
        ("UPDATE app.flights SET delay = delay WHERE carrier <> 'UA' RETURNING 1", []),
        ("EXPLAIN (COSTS OFF) SELECT carrier FROM app.flights",
         [("Seq Scan on flights",), ("  Filter: (carrier = 'UA'::text)",)]),
    ]
    for statement, rows in first:
        session.begin()
        assert session.rows(statement) == rows
        session.ok("ROLLBACK")
    for statement in ("COPY app.flights (carrier) TO STDOUT", "COPY (SELECT carrier FROM app.flights) TO STDOUT"):
        session.begin()
        assert set(session.rows(statement)) == {("UA\n",)}
        session.ok("ROLLBACK")
    for statement in ("CREATE TABLE alice.first AS SELECT carrier FROM app.flights",
                      "CREATE TEMP TABLE first AS SELECT carrier FROM app.flights",
                      "SELECT carrier INTO alice.first FROM app.flights",
                      "CREATE MATERIALIZED VIEW alice.first AS SELECT carrier FROM app.flights",
                      "DECLARE first CURSOR FOR SELECT carrier FROM app.flights"):
        session.begin()
        session.ok(statement)
        seen = "FETCH ALL FROM first" if "CURSOR" in statement else \
            f"SELECT * FROM {'pg_temp' if 'TEMP' in statement else 'alice'}.first"
        assert session.rows(seen) == [("UA",)] * 100
        session.ok("ROLLBACK")
    session.leaves_nothing()


@pytest.mark.parametrize("statement", [
    "SELECT * FROM private.notes", "COPY private.notes TO STDOUT",
    "CREATE TEMP TABLE x AS SELECT * FROM private.notes",
    "EXPLAIN SELECT * FROM private.notes", "DECLARE c CURSOR FOR SELECT * FROM private.notes",
    "SELECT app.notes_in_plpgsql()", "SELECT private.answer()", "DO 'BEGIN PERFORM private.answer(); END'"])
def test_schema_usage_of_the_first_statement(session, statement):
    session.begin("bob")
    session.refused(statement, "42501")
    session.leaves_nothing()
