"""G1: without a token, before one was presented or after the end user ended the transaction themselves, a service
session has no authority at all.

Threats: 9, 35, 36, 39 (docs/threats.md).
"""

import threading

import pytest
from harness.fixtures import VERSION
from scene import COUNT, DENIED, MODES, REQUIRED, expect, settings, token_of

# Of functions that alice left behind, and of the same functions made by a superuser.
SCHEMAS = ("alice", "app")

# One row, one attack: row of threats.md, statement, SQLSTATE and code in DETAIL.
ATTACKS = [
    # Reading, also what is granted to PUBLIC, through every kind of statement.
    *[(9, statement, *REQUIRED) for statement in (
        COUNT, "SELECT * FROM app.everyone", "TABLE app.everyone", "SELECT 1 FROM app.orders",
        "SELECT * FROM app.all_flights",
        "SELECT (SELECT body FROM app.everyone LIMIT 1)", "SELECT 1 WHERE EXISTS (SELECT FROM app.everyone)",
        "WITH x AS (SELECT * FROM app.everyone) SELECT * FROM x", "SELECT * FROM pg_class, app.everyone",
        "SELECT tableoid FROM app.everyone", "SELECT count(*) FROM app.numbers", "SELECT * FROM alice.seen",
        "COPY app.everyone TO STDOUT", "COPY (SELECT * FROM app.everyone) TO STDOUT",
        "COPY app.everyone FROM STDIN",
        "EXPLAIN SELECT * FROM app.everyone", "EXPLAIN ANALYZE SELECT * FROM app.everyone",
        "EXPLAIN ANALYZE CREATE TEMP TABLE x AS SELECT 1", "DECLARE c CURSOR FOR SELECT 1", "FETCH c", "MOVE c",
        "SELECT * FROM app.everyone FOR UPDATE", "LOCK TABLE app.everyone",
        "SELECT query_to_xml('SELECT * FROM app.everyone', false, false, '')",
        "SELECT table_to_xml('app.everyone', false, false, '')", "SELECT schema_to_xml('app', false, false, '')",
        "SELECT query_to_xmlschema('SELECT * FROM app.everyone', false, false, '')",
        "SELECT ts_stat('SELECT body::tsvector FROM app.everyone')",
        "SELECT ts_rewrite('a'::tsquery, 'SELECT body::tsquery, body::tsquery FROM app.everyone')",
        "SELECT * FROM pg_stats", "SELECT most_common_vals FROM pg_catalog.pg_stats",
        "SELECT * FROM pg_stats_ext", "SELECT * FROM pg_stats_ext_exprs",
        "SELECT alice.invoker_reads()", "SELECT alice.invoker_reads_immutable()",
        "SELECT * FROM generate_series(1, 2) g WHERE g = alice.invoker_reads_stable(1)",
        "SELECT alice.definer_reads()", "SELECT alice.definer_reads_plpgsql()", "SELECT app.owners_count()",
        "SELECT app.notes_in_atomic()", "SELECT * FROM app.notes_inlined()")],

    # Writing.
    *[(35, statement, *REQUIRED) for statement in (
        "INSERT INTO app.everyone VALUES ('x')", "INSERT INTO app.everyone DEFAULT VALUES",
        "UPDATE app.everyone SET body = 'x'", "DELETE FROM app.everyone", "TRUNCATE app.everyone",
        "WITH x AS (INSERT INTO app.everyone VALUES ('x') RETURNING 1) SELECT 1",
        "WITH x AS (DELETE FROM app.everyone RETURNING 1) SELECT count(*) FROM x",
        "EXPLAIN ANALYZE DELETE FROM app.everyone",
        "SELECT 1 AS a INTO TEMP x", "CREATE TABLE public.x (a int)", "CREATE TABLE public.x AS SELECT 1",
        "CREATE TEMP TABLE x (a int)", "CREATE TEMP TABLE x AS SELECT 1", "CREATE TEMP VIEW v AS SELECT 1",
        "CREATE VIEW public.v AS SELECT 1", "CREATE SCHEMA s", "CREATE TEMP SEQUENCE s",
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TYPE pg_temp.t AS (a int)", "CREATE DOMAIN public.d AS int", "CREATE EXTENSION hstore",
        "CREATE ROLE mallory", "CREATE DATABASE mallory", "CREATE EVENT TRIGGER e ON ddl_command_start "
        "EXECUTE FUNCTION f()", "ALTER ROLE svc PASSWORD 'x'", "ALTER ROLE CURRENT_USER PASSWORD 'x'",
        "ALTER USER svc SET search_path = alice", "ALTER ROLE svc SET bodata.require_token = off",
        "ALTER ROLE ALL SET search_path = alice", "ALTER DATABASE immuta SET search_path = alice",
        "ALTER SYSTEM SET search_path = alice", "ALTER TABLE app.orders RENAME TO x", "DROP TABLE app.orders",
        "DROP OWNED BY svc", "REASSIGN OWNED BY svc TO alice", "GRANT svc TO alice",
        "REVOKE ALL ON app.orders FROM svc",
        "COMMENT ON ROLE svc IS 'x'", "SECURITY LABEL ON ROLE svc IS 'x'", "ANALYZE", "ANALYZE app.orders",
        "VACUUM", "VACUUM app.orders", "REINDEX TABLE app.orders", "CLUSTER", "CHECKPOINT",
        "REFRESH MATERIALIZED VIEW app.all_flights", "CALL alice.commits()", "DO 'BEGIN NULL; END'",
        "DO $$ BEGIN COMMIT; END $$", "NOTIFY c", "LISTEN c", "LOAD 'plpgsql'", "PREPARE s AS SELECT 1",
        "EXECUTE s", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "PREPARE TRANSACTION 'x'", "COMMIT PREPARED 'x'",
        "ROLLBACK PREPARED 'x'", "SET CONSTRAINTS ALL DEFERRED", "IMPORT FOREIGN SCHEMA x FROM SERVER y INTO z",
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO alice", "CREATE INDEX CONCURRENTLY ON app.orders (id)")],

    # Settings.
    *[(35, statement, *REQUIRED) for statement in (
        "SET app.tenant = 'alice'",
        "SET ROLE bodata_impersonate_user", "SET ROLE NONE", "SET SESSION AUTHORIZATION svc",
        "SET row_security = off",
        "SET bodata.require_token = off", "SET bodata.session_settings = 'search_path'", "SET work_mem = '1GB'",
        "SET session_replication_role = replica", "SET SESSION ROLE alice", "SET XML OPTION DOCUMENT",
        "SET SEED TO 0.5", "SET check_function_bodies = off")],

    # Functions that act past the executor.
    *[(35, f"SELECT {call}", *REQUIRED) for call in (
        "nextval('app.numbers')", "setval('app.numbers', 7)", "currval('app.numbers')", "lastval()",
        "lo_creat(-1)", "lo_create(0)", "lo_from_bytea(0, 'x')", "lo_get(1)", "lo_put(1, 0, 'x')", "lo_unlink(1)",
        "lo_open(1, 131072)", "loread(0, 1)", "lowrite(0, 'x')",
        "pg_advisory_lock(1)", "pg_try_advisory_lock(1)", "pg_advisory_lock_shared(1, 1)",
        "pg_terminate_backend(pg_backend_pid())", "pg_cancel_backend(pg_backend_pid())", "pg_notify('c', 'x')",
        "pg_export_snapshot()", "pg_logical_emit_message(true, 'a', 'b')", "pg_stat_get_backend_activity(1)",
        "currtid2('app.everyone', '(0,1)')", "pg_stat_get_backend_idset()", "pg_stat_get_activity(NULL)",
        "dblink('dbname=immuta', 'SELECT 1')",
        "dblink_connect('dbname=immuta')", "app.alias_set_config('search_path', 'alice', false)",
        "app.alias_set_config('application_name', 'alice', false)",
        # Not PostgreSQL's own, although it stands among its functions.
        "connects_elsewhere('c', 'dbname=immuta')")],

    # Functions of JSON look for casts of whoever made the type.
    *[(36, f"SELECT {call}", *REQUIRED) for call in (
        "to_json('sad'::alice.mood)", "to_jsonb(ARRAY['sad'::alice.mood])", "json_build_array('sad'::alice.mood)",
        "json_agg(m) FROM unnest('{sad}'::alice.mood[]) m", "row_to_json(x) FROM (SELECT 'sad'::alice.mood AS m) x",
        "to_json(x) FROM json_to_record('{\"m\": \"sad\"}') AS x(m alice.mood)",
        "row_to_json(x) FROM json_populate_record(NULL::alice.pair, '{}') x",
        "jsonb_build_object('a', CAST('sad' AS alice.mood))")],
    *[(35, f"SELECT * FROM {view}", *REQUIRED) for view in (
        "pg_stat_activity", "pg_prepared_statements", "pg_cursors", "pg_sequences",
        "pg_stat_replication", "pg_stat_ssl, pg_stat_gssapi", "pg_stat_ssl, pg_stat_get_activity(NULL)",
        "pg_stat_ssl LEFT JOIN pg_stat_get_activity(NULL) a ON false", "pg_stat_ssl JOIN pg_stat_activity USING (pid)",
        "pg_stat_get_activity(NULL) WHERE EXISTS (SELECT FROM pg_stat_ssl WHERE false)",
        "(SELECT a.query FROM pg_stat_get_activity(NULL) a UNION ALL SELECT version FROM pg_stat_ssl WHERE false) x",
        # Passwords with which the login goes elsewhere.
        "pg_user_mappings", "information_schema.user_mapping_options")],
    (9, "SELECT private.answer()", *DENIED),
    (35, "SELECT lo_import('/etc/hostname')", *DENIED),
    (35, "SELECT count(*) FROM pg_largeobject", *DENIED),
    (35, "SELECT set_config('bodata.require_token', 'off', false)", *DENIED),
    (35, "SELECT set_config('bodata.session_settings', 'search_path', false)", *DENIED),
    (35, "SELECT set_config('session_authorization', 'postgres', false)", *DENIED),
    (35, "UPDATE pg_settings SET setting = 'off' WHERE name = 'bodata.require_token'", *DENIED),
    (35, "SELECT immuta.issue_token('bob')", *DENIED),
    (35, "SELECT immuta.map_user('bob', 'alice')", *DENIED),
    (35, "SELECT immuta_internal.cached_tokens()", *DENIED),

    # The same from inside functions, when they run and when they are planned.
    *[(36, f"SELECT {schema}.runs('{command}')", *REQUIRED) for schema in SCHEMAS for command in (
        "SELECT 1 FROM app.everyone", "CREATE TEMP TABLE x (a int)", "ALTER ROLE svc PASSWORD ''x''",
        "SET search_path = alice", "SET LOCAL search_path = alice", "LISTEN c", "SET ROLE bodata_impersonate_user",
        "SELECT nextval(''app.numbers'')", "SELECT pg_advisory_lock(1)", "DO ''BEGIN NULL; END''",
        "PREPARE s AS SELECT 1", "SELECT * FROM pg_stat_activity", "SELECT alice.invoker_reads()")],
    *[(36, f"SELECT {schema}.runs_immutable('{command}')", *REQUIRED) for schema in SCHEMAS for command in (
        "SELECT 1 FROM app.everyone", "SELECT pg_advisory_lock(1)", "SELECT * FROM pg_stat_activity",
        "SELECT nextval(''app.numbers'')", "SELECT alice.definer_reads()")],
    (36, "SELECT app.runs_immutable('CREATE TEMP TABLE x (a int)')", "0A000", None),
    (36, "SELECT OPERATOR(alice.!) 'SELECT 1 FROM app.everyone'", *REQUIRED),
    (36, "SELECT 'SELECT 1 FROM app.everyone'::alice.loud", *REQUIRED),
    (36, "SELECT alice.runs_all(c) FROM (VALUES ('SELECT 1 FROM app.everyone')) v (c)", *REQUIRED),
    (36, "SELECT alice.runs_all(c) OVER () FROM (VALUES ('SELECT 1 FROM app.everyone')) v (c)", *REQUIRED),
    (36, "SELECT alice.runs_all(c) FROM (VALUES ('SELECT pg_advisory_lock(1)')) v (c)", *REQUIRED),
    # Every place of a query where a function can stand.
    *[(36, statement.replace("{f}", "alice.invoker_reads()"), *REQUIRED) for statement in (
        "SELECT * FROM ROWS FROM ({f}, generate_series(1, 2))", "SELECT 1 LIMIT {f}", "SELECT 1 OFFSET {f}",
        "SELECT DISTINCT ON ({f}) 1", "SELECT count(*) FROM pg_class GROUP BY {f}", "SELECT 1 ORDER BY {f}",
        "SELECT count(*) FROM pg_class HAVING {f} = 1", "SELECT count(*) FILTER (WHERE {f} = 1) FROM pg_class",
        "SELECT sum(1) OVER (ROWS {f} PRECEDING)", "SELECT sum(1) OVER (PARTITION BY {f})",
        "SELECT * FROM pg_class TABLESAMPLE bernoulli ({f})", "SELECT ARRAY[{f}]", "SELECT ROW({f})",
        "SELECT coalesce({f}, 1)", "SELECT {f} + 1", "SELECT 1 = ANY (ARRAY[{f}])", "SELECT (SELECT {f})",
        "SELECT CASE WHEN {f} = 1 THEN 1 END", "SELECT greatest({f}, 1)", "SELECT {f} IS DISTINCT FROM 1",
        "WITH x AS (SELECT {f}) SELECT * FROM x", "SELECT 1 UNION SELECT {f}", "VALUES ({f})",
        "SELECT * FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND {f} = 1",
        "SELECT * FROM pg_class, LATERAL (SELECT {f}) x", "SELECT jsonb_build_object('a', {f})",
        "EXPLAIN SELECT {f}", "EXPLAIN ANALYZE SELECT {f}",
        "COPY (SELECT {f}) TO STDOUT", "SELECT ({f})::text::alice.loud")],
    # And where none stands.
    *[(36, statement, *REQUIRED) for statement in (
        "SELECT 'sad'::alice.mood::text", "SELECT length('sad'::alice.mood)", "SELECT alice.by_default()",
        "SELECT 'a' OPERATOR(alice.~~~) 'b'", "SELECT 'a' OPERATOR(alice.~~~) ANY (ARRAY['b'])",
        "SELECT 1 FROM pg_class WHERE relname::text OPERATOR(alice.~~~) 'b'", "SELECT alice.resets('a')",
        "SELECT alice.locks(1)", "SELECT alice.locks(1) OVER ()", "SELECT ARRAY['SELECT 1']::alice.loud[]",
        "SELECT json_populate_record(NULL::alice.pair, '{\"a\": \"SELECT 1 FROM app.everyone\"}')",
        "SELECT ('(\"SELECT 1 FROM app.everyone\",1)'::alice.pair).a",
        "SELECT * FROM json_to_record('{\"a\": \"SELECT 1 FROM app.everyone\"}') AS x (a alice.loud)")],
    (36, "SELECT alice.clause_role_definer()", *REQUIRED),
    # The same in a parallel worker, which a function can ask for by its SET clause.
    *[(36, f"SELECT {schema}.in_worker('{command}')", *REQUIRED) for schema in SCHEMAS for command in (
        "SELECT count(*) FROM app.everyone", "SELECT count(*) FROM app.orders", "SELECT alice.definer_reads()",
        "SELECT alice.invoker_reads()", "SELECT app.owners_count()", "SELECT count(query) FROM pg_stat_activity",
        "SELECT pg_terminate_backend(0)", "SELECT pg_advisory_lock(1)", "SELECT count(*) FROM pg_stats",
        "SELECT query_to_xml(''SELECT * FROM app.everyone'', false, false, '''')")],
    (36, "SELECT alice.sets_path_at_start(1)", *REQUIRED),
    (36, "SELECT alice.sets_path_at_start(1) OVER ()", *REQUIRED),

    # set_config() cannot be refused as such, as it carries tokens: what else it sets is undone.
    *[(35, statement, None, None) for statement in (
        "SELECT set_config('search_path', 'alice', false)", "SELECT set_config('search_path', 'alice', true)",
        "SELECT set_config('app.tenant', 'alice', false)",
        "SELECT set_config('role', 'bodata_impersonate_user', false)",
        "WITH x AS (SELECT set_config('search_path', 'alice', false)) SELECT * FROM x",
        "SELECT count(set_config('work_mem', '1GB', false)) FROM generate_series(1, 3)",
        "EXPLAIN SELECT app.sets_path_immutable()", "SELECT app.sets_path_immutable()",
        "SELECT 1 WHERE app.sets_path_immutable() IS NULL",
        "SELECT app.runs_immutable('SELECT set_config(''search_path'', ''alice'', false)')",
        "SELECT app.sets_path()", "SELECT app.sets_path_caught()",
        "SELECT app.runs('SELECT set_config(''search_path'', ''alice'', false)')",
        "UPDATE pg_settings SET setting = 'alice' WHERE name = 'search_path'",
        "UPDATE pg_settings SET setting = 'off' WHERE name = 'enable_seqscan'",
        "EXPLAIN ANALYZE SELECT set_config('search_path', 'alice', false)",
        "EXPLAIN ANALYZE UPDATE pg_settings SET setting = 'alice' WHERE name = 'search_path'",
        "SELECT set_config('session_authorization', 'svc', false)",
        "SELECT set_config('lo_compat_privileges', 'off', false) WHERE false")],
]
if int(VERSION) >= 16:
    ATTACKS += [(36, "SELECT pg_input_is_valid('SELECT 1 FROM app.everyone', 'alice.loud')", *REQUIRED)]
if int(VERSION) >= 15:
    ATTACKS += [
        (9, "SELECT * FROM app.invokers_view", *REQUIRED),
        (35, "MERGE INTO app.everyone e USING (VALUES ('x')) v (b) ON e.body = v.b WHEN MATCHED THEN DELETE",
         *REQUIRED),
    ]
if int(VERSION) >= 19:
    ATTACKS += [(35, statement, *REQUIRED) for statement in (
        "REPACK", "REPACK app.orders", "WAIT FOR LSN '0/1'", "COPY app.everyone TO STDOUT (FORMAT json)",
        "INSERT INTO app.everyone VALUES ('x') ON CONFLICT DO NOTHING RETURNING body", "SELECT lag(body) IGNORE NULLS OVER () FROM app.everyone",
        "SELECT * FROM pg_dsm_registry_allocations",
        "SELECT pg_restore_extended_stats('schemaname', 'app')")]


def attack_id(attack):
    return f"{attack[0]}: {attack[1][:90]}"


def expected(world, attack):
    """The build with assertions is one without libxml, where these functions do nothing."""
    _, statement, sqlstate, code = attack
    if "table_to_xml" in statement or "schema_to_xml" in statement:
        if "--with-libxml" not in world.value("SELECT setting FROM pg_config WHERE name = 'CONFIGURE'"):
            return statement, "0A000", None
    return statement, sqlstate, code


@pytest.mark.parametrize("attack", ATTACKS, ids=attack_id)
def test_nothing_without_a_token(world, session, attack):
    """In autocommit, in a block, and in the session of a user who has just ended their transaction."""
    statement, sqlstate, code = expected(world, attack)
    before = settings(session)
    for prelude in ([], ["BEGIN"], ["alice", "COMMIT"], ["alice", "ROLLBACK AND CHAIN"]):
        for word in prelude:
            session.begin() if word == "alice" else session.ok(word)
        if sqlstate:
            session.refused(statement, sqlstate, code)
        else:
            session.ok(statement)
            assert session.value("SELECT current_user") == "svc"
            assert session.value("SHOW search_path") == '"$user", public'
            assert session.value("SELECT current_setting('app.tenant', true)") in (None, "")
        if session.run("SELECT 1").status != "I":
            session.ok("COMMIT")
    assert settings(session) == before
    session.leaves_nothing()


IN_WORKER = ["SELECT count(*) FROM app.everyone", "SELECT count(*) FROM app.orders",
             "SELECT alice.definer_reads()",
             "SELECT count(query) FROM pg_stat_activity"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("command", IN_WORKER)
def test_a_parallel_plan_from_the_users_time(connect, mode, command):
    """Row 36: PL/pgSQL keeps the plan that was made while the user impersonated, workers included. The search path
    is the same for both, or else PostgreSQL itself would make the plan again."""
    session = connect(mode, options="-c plan_cache_mode=force_generic_plan -c search_path=pg_catalog")
    session.begin()
    for _ in range(7):
        assert session.value("SELECT app.in_worker('SELECT current_user')") == "alice"
    session.ok("COMMIT")
    for prelude in ([], ["BEGIN"]):
        for statement in prelude:
            session.ok(statement)
        session.refused(f"SELECT app.in_worker('{command}')", *REQUIRED)
        session.ok("ROLLBACK")
    session.leaves_nothing()


def test_settings_while_the_executor_starts(world, session):
    """Row 36: the check of a domain is planned, and what it calls evaluated, when the domain is loaded. Another
    session of alice's has it loaded again after the planner, while the executor starts: before anything would be
    undone."""
    from_elsewhere = threading.Timer(0.15, world.sql, ["CREATE DOMAIN alice.reload AS int CHECK (VALUE > 0)"])
    from_elsewhere.start()
    try:
        session.ok("SELECT 'x'::text::app.lurking, app.waits()")
    finally:
        from_elsewhere.join()
        world.sql("DROP DOMAIN alice.reload")
    assert session.value("SHOW search_path") == '"$user", public'
    session.leaves_nothing()


ENDS = ["COMMIT", "END", "ROLLBACK", "ABORT", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "COMMIT AND NO CHAIN"]


@pytest.mark.parametrize("end", ENDS)
def test_the_impersonation_ends_with_the_transaction(session, end):
    """Row 9 and 39: however it ends, also into the next transaction of a chain, and also after an error."""
    for fails in (False, True):
        session.begin()
        if fails:
            session.refused("SELECT 1/0", "22012")
        else:
            session.is_alice()
        session.ok(end)
        for statement in (COUNT, "SELECT * FROM app.everyone", "CREATE TEMP TABLE x (a int)",
                          "SET work_mem = '1GB'", "SELECT * FROM pg_stat_activity", "LISTEN c", "SELECT nextval('app.numbers')"):
            session.refused(statement, *REQUIRED)
            session.ok("ROLLBACK")
        assert session.value("SELECT current_setting('bodata.impersonation_token')") == ""
        session.leaves_nothing()


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_chained_transaction_takes_a_token_of_its_own(session, end):
    session.begin("alice")
    session.is_alice()
    session.ok(f"{end} AND CHAIN")
    assert session.value("SELECT current_user") == "svc"
    session.present("bob")
    session.is_alice("bob")
    session.ok(f"{end} AND CHAIN")
    session.ok("COMMIT")
    session.leaves_nothing()


def test_several_transactions_in_one_message(world, session):
    """An application that puts the user's text into one simple message: what follows a COMMIT in it is
    nobody's."""
    wire = session.wire
    token = token_of(world, "alice")
    start = f"BEGIN; SET LOCAL bodata.impersonation_token = '{token}'; SELECT current_user; "
    for attack in ("COMMIT; SELECT * FROM app.everyone", "ROLLBACK; SELECT * FROM app.everyone",
                   "COMMIT; BEGIN; SELECT * FROM app.everyone", "END; SET work_mem = '1GB'",
                   "COMMIT AND CHAIN; SELECT * FROM app.everyone", "COMMIT; CREATE TEMP TABLE x (a int)",
                   "ABORT; SELECT alice.definer_reads()"):
        answer = wire.query(start + attack)
        assert answer.results[2].rows == [("alice",)]
        assert (answer.error["C"], answer.error["D"]) == REQUIRED
        wire.query("ROLLBACK")
    session.leaves_nothing()


@pytest.mark.parametrize("rest",
                         ["SELECT current_user; COMMIT; SELECT current_user", "COMMIT; SELECT current_user"])
def test_a_message_may_go_on_after_commit(world, session, rest):
    token = token_of(world, "alice")
    answer = session.wire.query(f"BEGIN; SET LOCAL bodata.impersonation_token = '{token}'; {rest}")
    assert answer.error is None
    assert answer.results[-1].rows == [("svc",)]
    session.leaves_nothing()


def test_planted_definer_after_revocation(world, session):
    """Row 36: what alice planted gives nobody anything, neither after COMMIT nor when she is gone; it works for
    those who impersonate."""
    world.sql("CREATE ROLE eve; GRANT USAGE, CREATE ON SCHEMA app TO eve; GRANT SELECT ON app.flights TO eve")
    world.sql("CREATE POLICY eve_sees ON app.flights TO eve USING (carrier = 'DL')")
    world.sql("SELECT immuta.create_user('eve', postgres_role => 'eve')")
    try:
        session.ok("BEGIN")
        session.ok(f"SET LOCAL bodata.impersonation_token = '{world.token('eve')}'")
        session.ok("CREATE FUNCTION app.eves() RETURNS bigint LANGUAGE sql SECURITY DEFINER "
                   "AS 'SELECT count(*) FROM app.flights'")
        assert session.value("SELECT app.eves()") == "100"
        session.ok("COMMIT")
        session.refused("SELECT app.eves()", *REQUIRED)
        world.sql("SELECT immuta.drop_user('eve')")
        session.refused("SELECT app.eves()", *REQUIRED)
        session.begin("bob")
        assert session.value("SELECT app.eves()") == "100"
        session.is_alice("bob")
        session.ok("COMMIT")
        world.sql("ALTER FUNCTION app.eves() OWNER TO postgres")
        assert session.value("SELECT app.eves()") == "300"
    finally:
        world.sql("DROP FUNCTION IF EXISTS app.eves()")
        world.sql("DROP POLICY eve_sees ON app.flights; DROP OWNED BY eve; DROP ROLE eve")
    session.leaves_nothing()


def test_a_trusted_definer_is_a_mapped_role_never(world, session):
    """Row 36: superusers' functions work without a token, and inside them what the function does; nothing
    stays."""
    assert session.value("SELECT app.superusers_count()") == "300"
    assert session.value("SELECT current_user") == "svc"
    world.sql("CREATE FUNCTION app.superusers_runs(text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER "
              "SET search_path = pg_catalog, pg_temp AS 'BEGIN EXECUTE $1; END'")
    try:
        session.ok("SELECT app.superusers_runs('INSERT INTO app.everyone VALUES (''by definer'')')")
        session.refused("SELECT app.superusers_runs('SET ROLE NONE')", "42501")
        session.refused("SELECT app.superusers_runs('SELECT set_config(''role'', ''none'', false)')", "42501")
        session.ok("SELECT app.superusers_runs('SET search_path = alice')")
        assert session.value("SHOW search_path") == '"$user", public'
    finally:
        world.sql("DROP FUNCTION app.superusers_runs(text)")
        world.sql("DELETE FROM app.everyone WHERE body = 'by definer'")
    session.leaves_nothing()


def test_a_role_of_the_logins_own(world, connect):
    """A service login that is a member of a data owner has that role's rights no more than its own, whether it
    asks for the role or has it from the start."""
    world.sql("GRANT owner TO svc; ALTER ROLE svc SET role = 'owner'")
    try:
        for mode in ("simple", "extended"):
            session = connect(mode)
            assert session.value("SELECT current_user") == "owner"
            for statement in (COUNT, "SELECT * FROM private.notes", "DROP TABLE app.orders", "SET ROLE svc",
                              "SELECT app.owners_count()", "SELECT alice.definer_reads()",
                              "CREATE TABLE app.x (a int)"):
                session.refused(statement, *REQUIRED)
            session.refused("SELECT count(*), set_config('role', 'owner', false) FROM app.flights", *REQUIRED)
            session.begin()
            session.is_alice()
            session.ok("SAVEPOINT s")
            session.refused("SELECT set_config('role', 'owner', false)", "42501")
            session.ok("ROLLBACK TO s")
            session.ok("COMMIT")
            assert session.value("SELECT current_user") == "owner"
            session.refused(COUNT, *REQUIRED)
            session.ok("RESET ROLE")
            session.refused(COUNT, *REQUIRED)
    finally:
        world.sql("ALTER ROLE svc RESET role; REVOKE owner FROM svc")


def test_a_superuser_who_becomes_the_service_login(world, connect):
    """The session user counts, not who logged in; and the way back stays open."""
    session = connect("simple", "postgres", world.server.superuser_password)
    session.ok("SET SESSION AUTHORIZATION svc")
    session.refused(COUNT, *REQUIRED)
    session.refused("CREATE TEMP TABLE x (a int)", *REQUIRED)
    session.ok("BEGIN")
    session.present()
    assert session.value("SELECT current_user") == "alice"
    session.ok("SAVEPOINT s")
    session.refused("RESET SESSION AUTHORIZATION", "42501", "IMPERSONATION_ACTIVE")
    session.ok("ROLLBACK TO s")
    session.ok("COMMIT")
    session.refused(COUNT, *REQUIRED)
    session.ok("RESET SESSION AUTHORIZATION")
    assert session.value("SELECT count(*) FROM app.flights") == "300"


def test_the_view_of_encryption_opens_nothing_else(world, session):
    """A view that the planner leaves out is no way in for what was planned in the user's time; nor is one that a
    function reads."""
    wire = session.wire
    session.begin()
    wire.query_extended("SELECT query FROM pg_stat_get_activity(NULL)")
    session.ok("COMMIT")
    session.ok("SELECT 1 FROM pg_stat_ssl WHERE false")
    session.refused("SELECT query FROM pg_stat_get_activity(NULL)", *REQUIRED)
    # Planned under a token, with the view in it, and started after a query that was planned and failed before its start.
    session.begin()
    leak = "SELECT a.query FROM pg_stat_get_activity(NULL) a LEFT JOIN pg_stat_ssl s ON false"
    assert not wire.parse(leak, name="leak").bind(name="leak").execute().sync().send().read().error
    session.ok("COMMIT")
    for prelude in ("SELECT 1/0 FROM pg_stat_ssl", "EXPLAIN SELECT * FROM pg_stat_ssl", "SELECT 1 FROM pg_stat_ssl"):
        session.run(prelude)
        expect(wire.bind(name="leak").execute().sync().send().read(), *REQUIRED)
    session.ok("BEGIN")
    session.ok("SAVEPOINT s")
    session.run("SELECT 1/0 FROM pg_stat_ssl")
    session.ok("ROLLBACK TO s")
    expect(wire.bind(name="leak").execute().sync().send().read(), *REQUIRED)
    session.ok("ROLLBACK")
    session.ok("DEALLOCATE ALL")
    for schema in SCHEMAS:
        session.refused(f"SELECT {schema}.runs('SELECT count(*) FROM pg_stat_get_activity(NULL)'), ssl "
                        "FROM pg_stat_ssl", *REQUIRED)
    session.leaves_nothing()


HONEST = [
    "SELECT 1", "SELECT version()", "SELECT current_database(), current_schema(), now()",
    "SHOW transaction_isolation",
    "SELECT oid, typname FROM pg_type WHERE typname IN ('json', 'hstore')", "SELECT pg_backend_pid()",
    "SELECT * FROM pg_catalog.pg_class LIMIT 1", "SELECT * FROM information_schema.columns LIMIT 1",
    "SELECT has_table_privilege('app.orders', 'SELECT')", "SELECT 'app.orders'::regclass",
    "SELECT * FROM immuta.whoami()", "SELECT immuta.check_token('x')", "SELECT immuta.authenticate('nobody', 'x')",
    "SET application_name = 'app'", "SET TIME ZONE 'UTC'", "SET DateStyle = ISO", "SET extra_float_digits = 3",
    "SET client_encoding = 'UTF8'", "SET NAMES 'UTF8'", "SET standard_conforming_strings = on",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SELECT set_config('TimeZone', 'UTC', false)", "RESET ALL", "DISCARD ALL", "DEALLOCATE ALL", "CLOSE ALL",
    "UNLISTEN *",
    "RESET SESSION AUTHORIZATION", "RESET ROLE", "SET SESSION AUTHORIZATION DEFAULT", "DISCARD TEMP",
    "DISCARD SEQUENCES", "DISCARD PLANS", "SELECT pg_advisory_unlock_all()",
    "SELECT pg_advisory_xact_lock(1)", "EXPLAIN SELECT 1", "SELECT pg_is_in_recovery()", "SELECT txid_current()",
    "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
    "SELECT gss_authenticated, encrypted FROM pg_catalog.pg_stat_gssapi WHERE pid = pg_backend_pid()",
    "WITH x AS (SELECT * FROM pg_stat_ssl) SELECT count(*) FROM x WHERE pid = pg_backend_pid()",
    "SELECT 1 FROM pg_stat_ssl WHERE false",
    "VALUES (1)", "SELECT generate_series(1, 3)", "SELECT jsonb_build_object('a', 1)", "",
]


@pytest.mark.parametrize("statement", HONEST)
def test_what_drivers_and_poolers_send_works(session, statement):
    """`pg_advisory_unlock_all` is part of the reset that asyncpg's and Npgsql's pools send."""
    session.ok(statement)
    session.leaves_nothing()
