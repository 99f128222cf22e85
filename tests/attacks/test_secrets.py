"""G5: nobody learns a token, or anything of use, from inside the database.

Threats: 27, 29, 30, 37, 46 (docs/threats.md).
"""

import contextlib
import time

import psycopg2
import pytest
from scene import ACTIVE, COUNT, DENIED, INVALID, REQUIRED, check_error, token_of

MASKED = [
    "SHOW bodata.impersonation_token", "SELECT current_setting('bodata.impersonation_token')",
    "SELECT current_setting('BODATA.IMPERSONATION_TOKEN', true)",
    "SELECT * FROM alice.shown()",
]
UNLISTED = [
    "SHOW ALL", "SELECT * FROM pg_settings", "SELECT * FROM pg_show_all_settings()",
    "SELECT boot_val, reset_val, sourcefile FROM pg_settings WHERE name ~ 'bodata'",
    "SELECT * FROM pg_db_role_setting", "SELECT * FROM pg_settings WHERE name = 'bodata.impersonation_token'",
    "EXPLAIN (SETTINGS) SELECT 1", "SELECT proconfig FROM pg_proc WHERE proconfig IS NOT NULL",
    "SELECT * FROM immuta.whoami()",
    "SELECT wait_event, query FROM pg_stat_activity", "SELECT pg_stat_get_backend_activity(s) "
    "FROM pg_stat_get_backend_idset() s", "SELECT * FROM pg_stat_get_activity(pg_backend_pid())",
]


@pytest.fixture(scope="module", autouse=True)
def functions(world):
    world.sql("CREATE FUNCTION alice.shown() RETURNS text LANGUAGE plpgsql AS $$ "
              "DECLARE r text; BEGIN EXECUTE 'SHOW bodata.impersonation_token' INTO r; RETURN r; END $$")
    yield
    world.sql("DROP FUNCTION alice.shown()")


@pytest.mark.parametrize("present", [
    "SET LOCAL bodata.impersonation_token = '{}'", "SELECT set_config('bodata.impersonation_token', '{}', true)",
    "WITH x AS (SELECT set_config('bodata.impersonation_token', '{}', true) AS t) "
    "SELECT t, current_setting('bodata.impersonation_token') FROM x"])
def test_the_token_is_shown_nowhere(world, session, present):
    """Row 27: neither while it is in force nor afterwards, nor by what set it."""
    token = world.token("alice")
    session.ok("BEGIN")
    answer = session.ok(present.format(token))
    assert token not in str(answer) and (not answer.rows or set(answer.rows[0]) == {"********"})
    for statement in MASKED:
        assert session.rows(statement) == [("********",)], statement
    for statement in UNLISTED:
        answer = session.ok(statement)
        assert token not in str(answer) and "********" not in str(answer.rows), statement
    session.ok("RESET ALL")
    for statement in MASKED:
        assert token not in str(session.ok(statement))
    session.ok("SAVEPOINT s")
    answer = session.run("DO $$ BEGIN RAISE EXCEPTION '%', current_setting('bodata.impersonation_token'); END $$")
    assert answer.error["C"] == "P0001" and token not in str(answer)
    session.ok("ROLLBACK TO s")
    session.ok("COMMIT")
    for statement in MASKED[:3]:
        assert session.rows(statement) == [("",)], statement
    for statement in UNLISTED:
        assert token not in str(session.run(statement)), statement
    session.leaves_nothing()


def test_errors_do_not_show_the_token(world, session):
    """Row 30: the check hook, and errors that follow in the same message or name a statement that failed."""
    token = world.token("alice")
    for statement in (f"SET bodata.impersonation_token = '{token}'",
                      f"SELECT set_config('bodata.impersonation_token', '{token}', false)",
                      f"SELECT set_config('bodata.impersonation_token', '{token}', true)",
                      f"SET LOCAL bodata.impersonation_token = '{token}'",
                      f"UPDATE pg_settings SET setting = '{token}' WHERE name = 'bodata.impersonation_token'",
                      f"SELECT set_config('bodata.impersonation_token', '{token}', true), 1/0",
                      f"SELECT set_config('bodata.impersonation_token', 'x{token}', true)",
                      f"SELECT set_config('bodata.impersonation_token', '{token} ', true)"):
        answer = session.run(statement)
        assert token not in str(answer), statement
    session.begin()
    for statement in (f"SELECT set_config('bodata.impersonation_token', '{token}', true)",
                      f"SET LOCAL bodata.impersonation_token = '{token}'"):
        session.ok("SAVEPOINT s")
        answer = session.run(statement)
        assert answer.error["C"] == "42501" and token not in str(answer)
        session.ok("ROLLBACK TO s")
    session.ok("ROLLBACK")
    session.leaves_nothing()


def test_other_sessions_do_not_see_it(world, session, connect):
    """Row 29: another session of the same login sees nothing without a token, and nothing of the others' with
    one."""
    token, other = world.token("bob"), connect()
    other.ok("BEGIN")
    other.ok(f"SET LOCAL bodata.impersonation_token = '{token}'")
    pid = other.value("SELECT pg_backend_pid()")
    other.ok("SAVEPOINT s")
    # The statement that shows is the one that presents the token.
    other.refused(f"SET LOCAL bodata.impersonation_token = '{token}'", "42501")
    activity = [f"SELECT query FROM pg_stat_activity WHERE pid = {pid}",
                "SELECT pg_stat_get_backend_activity(s) FROM pg_stat_get_backend_idset() s",
                f"SELECT query FROM pg_stat_get_activity({pid})"]
    for statement in activity:
        session.refused(statement, *REQUIRED)
    session.begin()
    for statement in activity:
        answer = session.ok(statement)
        assert answer.rows and token not in str(answer)
    session.ok("COMMIT")
    session.leaves_nothing()
    other.ok("ROLLBACK")
    other.leaves_nothing()


@pytest.mark.parametrize("statement", [
    "SELECT * FROM pg_prepared_statements", "SELECT * FROM pg_prepared_statement()",
    "SELECT statement FROM pg_prepared_statements WHERE name = 's1'"])
def test_prepared_statements_do_not_tell_the_next_user(world, session, statement):
    """Row 29: pgjdbc keeps a SET LOCAL that is sent often as a named statement, with the token in its text."""
    token, wire = world.token("bob"), session.wire
    set_local = f"SET LOCAL bodata.impersonation_token = '{token}'"
    session.ok("BEGIN")
    wire.statement(set_local, name="s1").sync().send().read()
    session.is_alice("bob")
    wire.statement("SELECT 'bobs own' FROM app.flights WHERE id = 4711", name="s2").sync().send().read()
    session.ok("COMMIT")
    for attack in (statement, "EXECUTE s1", "SELECT alice.runs('EXECUTE s1')",
                   "DO 'BEGIN EXECUTE ''EXECUTE s1''; END'"):
        session.refused(attack, *REQUIRED)
    session.begin("alice")
    session.ok("SAVEPOINT s")
    session.refused("EXECUTE s1", "42501", "IMPERSONATION_ACTIVE")
    session.ok("ROLLBACK TO s")
    answer = session.run(statement)
    assert token not in str(answer), "alice reads bob's token"
    session.ok("ROLLBACK")
    session.leaves_nothing()


def test_open_portals_do_not_tell_the_token(world, session):
    """Row 29: the portal of the statement that presented the token is still open."""
    token, wire = world.token("alice"), session.wire
    session.ok("BEGIN")
    answer = wire.statement(f"SET LOCAL bodata.impersonation_token = '{token}'", portal="p").sync().send().read()
    assert answer.error is None
    answer = session.run("SELECT * FROM pg_cursors")
    assert token not in str(answer)
    session.ok("COMMIT")
    session.leaves_nothing()


VARCHAR = 1043


def test_a_planted_set_config_learns_no_token(world, connect):
    """Rows 26 and 29: pgjdbc sends text as varchar. Where everybody may create functions in a schema of the
    service's search path (`public`, up to 14), a planted set_config(text, varchar, boolean) fits better than
    PostgreSQL's own, and keeps the token in a setting that sessions may set without one."""
    session, token = connect(), world.token("bob")
    session.begin("alice")
    session.ok("CREATE FUNCTION public.set_config(n text, v varchar, l boolean) RETURNS text LANGUAGE plpgsql "
               "AS $$ BEGIN PERFORM pg_catalog.set_config('application_name', v::text, false); "
               "RETURN pg_catalog.set_config(n, v::text, l); END $$")
    session.ok("COMMIT")
    try:
        session.ok("BEGIN")
        wire = session.wire.parse("SELECT set_config('bodata.impersonation_token', $1, true)", types=[VARCHAR])
        wire.bind(token).execute().sync().send().read()
        session.ok("COMMIT")
        session.begin("alice")
        assert session.value("SHOW application_name") != token, "alice reads bob's token"
        session.ok("COMMIT")
    finally:
        world.sql("DROP FUNCTION public.set_config(text, varchar, boolean)")
    session.ok("RESET ALL")
    session.leaves_nothing()


def test_tables_and_functions_are_closed(world):
    """Whatever is not meant for everybody is not executable, readable or writable by PUBLIC."""
    relations = "SELECT relname FROM pg_class WHERE relnamespace = 'immuta'::regnamespace AND CASE "
    # Plans of users call what masks call; it answers nobody else.
    everybody = {"mask_hash", "mask_regex", "actor", "client_id", "current_project", "my_subscriptions", "request_my_subscription", "set_current_project",
                 "token_claim", "user_attribute", "user_attribute_values", "user_in_group", "whoami"}
    assert world.sql(f"{relations} WHEN relkind IN ('r', 'v') THEN "
                     "has_table_privilege('plain', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE') END") == []
    assert world.sql(f"{relations} relkind WHEN 'S' THEN "
                     "has_sequence_privilege('plain', oid, 'SELECT, USAGE, UPDATE') END") == []
    assert world.sql("SELECT has_schema_privilege('plain', 'immuta', 'CREATE')") == [(False,)]
    for login, allowed in (("plain", everybody),
                           ("svc", everybody | {"authenticate", "authenticate_api_key", "check_token"})):
        assert {row[0] for row in world.sql(
            f"SELECT proname FROM pg_proc WHERE pronamespace = 'immuta'::regnamespace "
            f"AND has_function_privilege('{login}', oid, 'EXECUTE')")} == allowed


def test_what_is_internal_is_closed(world):
    """As a whole: nobody can name anything in it, and who may use every schema may execute nothing of it. What views and
    whoami() call needs EXECUTE all the same."""
    inside = "FROM pg_proc WHERE pronamespace = 'immuta_internal'::regnamespace"
    assert world.sql("SELECT rolname FROM pg_roles WHERE NOT rolsuper AND has_schema_privilege(oid, 'immuta_internal', "
                     "'USAGE, CREATE') AND rolname !~ '^pg_(read|write)_all_data$'") == []
    markers = {f"is_{role}" for role in ("bodata_impersonate_user", "immuta_impersonation", "immuta_admin", "immuta_mappable")}
    executable = {name for (name,) in world.sql(
        f"SELECT DISTINCT proname {inside} AND EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) a "
        "WHERE a.grantee <> proowner)")}
    assert executable == markers | {"session_state", "token_state", "data_source_state", "list_impersonators", "list_projects", "list_masked_columns", "counters",
                                    "impersonating_sessions", "sees_all_sessions", "login_lines", "state_of", "request_lapses_at"}
    assert world.value(f"SELECT count(*) {inside}") > 150
    assert world.sql("SELECT oid::regprocedure FROM pg_proc WHERE pronamespace::regnamespace::text ~ '^immuta' AND prosecdef "
                     "AND coalesce(proconfig::text, '') NOT LIKE '%search_path=pg_catalog, pg_temp%'") == []
    # What anybody but the owner runs as themselves calls nothing that is closed, unless it was parsed when it was made.
    assert world.sql("SELECT proname FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang AND l.lanname <> 'c' "
                     "WHERE pronamespace IN ('immuta'::regnamespace, 'immuta_procedures'::regnamespace) AND NOT prosecdef "
                     "AND prosqlbody IS NULL") == [("impersonate_user",)]


TABLES = ("user_account", "token", "api_key", "token_issuer", "token_revocation", "impersonation_rule", "mask_parameters")


@pytest.mark.parametrize("table", TABLES)
def test_tables_are_closed_in_parallel_workers_too(world, session, table):
    """Row 18: to a role that may read everything, whoever asks there on its behalf. Superusers' definers may."""
    count = f"SELECT count(*) FROM immuta.{table}"
    world.sql("GRANT pg_read_all_data TO alice")
    world.sql("CREATE FUNCTION app.counts(text) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER PARALLEL SAFE "
              "SET search_path = pg_catalog, pg_temp AS 'DECLARE n bigint; BEGIN EXECUTE $1 INTO n; RETURN n; END'")
    try:
        for reads in (count, f"SELECT app.in_worker('{count}')", f"SELECT alice.in_worker('{count}')",
                      f"SELECT alice.in_worker('SELECT alice.worker(''{count}'', NULL)')"):
            session.begin()
            session.refused(reads, *ACTIVE)
            session.leaves_nothing()
        session.begin()
        assert int(session.value(f"SELECT app.in_worker('SELECT app.counts(''{count}'')')")) >= 0
        session.ok("COMMIT")
    finally:
        world.sql("DROP FUNCTION app.counts(text); REVOKE pg_read_all_data FROM alice")
    session.leaves_nothing()


THROUGH = ["CREATE TEMP VIEW through AS SELECT * FROM immuta.{table}",
           "CREATE VIEW alice.through AS SELECT * FROM immuta.{table}",
           "CREATE VIEW alice.through AS WITH x AS (SELECT * FROM immuta.{table}) SELECT * FROM x",
           "CREATE VIEW alice.below AS SELECT * FROM immuta.{table}; "
           "CREATE VIEW alice.through AS SELECT * FROM alice.below"]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("create", THROUGH)
def test_tables_are_closed_through_ones_own_views(world, session, table, create):
    """Row 18: PostgreSQL checks what a view reads for its owner, who may read and write everything."""
    world.sql("GRANT pg_read_all_data, pg_write_all_data TO alice")
    view = "pg_temp.through" if "TEMP" in create else "alice.through"
    key = world.value("SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum = 1",
                      (f"immuta.{table}",))
    try:
        for use in (f"SELECT count(*) FROM {view}", f"DELETE FROM {view}", f"INSERT INTO {view} DEFAULT VALUES",
                    f'UPDATE {view} SET "{key}" = NULL', f"COPY (SELECT * FROM {view}) TO STDOUT",
                    f"CREATE TABLE alice.copied AS SELECT * FROM {view}"):
            if "WITH x" in create and use.split()[0] in ("DELETE", "INSERT", "UPDATE"):
                continue
            session.begin()
            for statement in create.format(table=table).split("; "):
                session.ok(statement)
            session.refused(use, *ACTIVE)
            session.leaves_nothing()
    finally:
        world.sql("REVOKE pg_read_all_data, pg_write_all_data FROM alice")


@pytest.mark.parametrize("kind", ["DO ALSO SELECT count(*) FROM immuta.token",
                                  "DO ALSO DELETE FROM immuta.token",
                                  "DO INSTEAD UPDATE immuta.user_account SET postgres_role = NULL"])
def test_tables_are_closed_through_ones_own_rules(world, session, kind):
    world.sql("GRANT pg_read_all_data, pg_write_all_data TO alice")
    try:
        session.begin()
        session.ok("CREATE TABLE alice.with_rule (a int)")
        session.ok(f"CREATE RULE r AS ON INSERT TO alice.with_rule {kind}")
        session.refused("INSERT INTO alice.with_rule VALUES (1)", *ACTIVE)
        session.leaves_nothing()
    finally:
        world.sql("REVOKE pg_read_all_data, pg_write_all_data FROM alice")


def test_a_superusers_view_of_the_tables_is_the_administrators(world, session):
    world.sql("CREATE VIEW app.users AS SELECT userid FROM immuta.user_account; GRANT SELECT ON app.users TO alice")
    try:
        session.begin()
        assert int(session.value("SELECT count(*) FROM app.users")) >= 3
        session.ok("COMMIT")
        session.refused("SELECT count(*) FROM app.users", *REQUIRED)
    finally:
        world.sql("DROP VIEW app.users")
    session.leaves_nothing()


def test_no_oracle(world, connect):
    """Row 37: who exists, and whose password it was, is not told; and none of it is for the user."""
    session = connect()
    world.sql("SELECT immuta.create_user('grace'); SELECT immuta.set_password('grace', 'right')")
    try:
        answers = {session.value("SELECT immuta.authenticate($1, $2, $3)", *login)
                   for login in (("nobody", "x", "bim"), ("alice", "", "bim"), ("grace", "right ", "bim"),
                                 ("grace", "right", "okta"), ("' OR true --", None, None))}
        assert answers == {'{"authenticated": false}'}
        answers = {session.value("SELECT immuta.authenticate_api_key($1)", key) for key in ("x", "")}
        assert answers == {'{"authenticated": false}'}
        assert session.value("SELECT immuta.authenticate('grace', 'right')->>'authenticated'") == "true"
        answers = {session.value("SELECT immuta.check_token($1)", token)
                   for token in ("x", "", "********", "x" * 100_000, "\u00e9")}
        assert answers == {'{"active": false}'}
    finally:
        world.sql("SELECT immuta.drop_user('grace')")
    session.begin()
    for call in ("immuta.authenticate('alice', 'x')", "immuta.authenticate_api_key('x')", "immuta.check_token('x')",
                 "immuta_internal.active_token('x')", "immuta_internal.hash_password('x')",
                 "immuta_internal.secret_digest('x')", "immuta_internal.user_id('bob', 'bim')"):
        session.ok("SAVEPOINT s")
        session.refused(f"SELECT {call}", *DENIED)
        session.ok("ROLLBACK TO s")
    session.ok("COMMIT")
    session.leaves_nothing()


def test_a_revoked_token_is_of_no_use_in_a_warm_session(world, session):
    """Row 34: it is in the cache, and in the middle of being used."""
    token = world.token("alice")
    present = f"SET LOCAL bodata.impersonation_token = '{token}'"
    session.ok("BEGIN")
    session.ok(present)
    session.is_alice()
    world.sql("SELECT immuta.revoke_token(%s)", (token,))
    session.is_alice()
    session.ok("COMMIT AND CHAIN")
    session.refused(present, *INVALID)
    session.ok("ROLLBACK")
    session.refused(COUNT, *REQUIRED)
    session.leaves_nothing()


def test_backtraces_stay_in_the_server(session):
    """The server runs with RUST_BACKTRACE set: DETAIL is the code alone, or what PostgreSQL put there."""
    for statement, detail in (("SELECT * FROM app.everyone", "IMPERSONATION_REQUIRED"), ("SELECT 1/0", None),
                              ("SELECT 'x'::int", None), ("SELECT nosuchcolumn", None), ("SELEC", None)):
        error = session.run(statement).error
        assert error.get("D") == detail
        check_error(error)
    session.begin()
    for statement, detail in (("RESET ROLE", "IMPERSONATION_ACTIVE"), ("SELECT 1/0", None),
                              ("SELECT set_config('role', 'none', true)", None)):
        session.ok("SAVEPOINT s")
        assert session.run(statement).error.get("D") == detail
        session.ok("ROLLBACK TO s")
    session.ok("COMMIT")
    assert token_of(session.world, "alice")
    session.leaves_nothing()


def test_statistics_show_no_secret(world):
    """pg_read_all_data sees pg_stats of tables that it must not read."""
    world.sql("SELECT immuta_internal.make_audit_partition(current_date - 50)")
    world.sql("INSERT INTO immuta.audit_log (event_time, id, action, status, query, command, objects, record) "
              "SELECT current_date - 50 + interval '12 hours', gen_random_uuid(), 'QUERY', 'SUCCESS', 'secret', 'c', '{o}', '{}' "
              "FROM generate_series(1, 50)")
    world.token("alice")
    world.sql("ANALYZE immuta.audit_log, immuta.user_account, immuta.token, immuta.api_key")
    assert world.sql("SELECT tablename, attname FROM pg_stats WHERE schemaname = 'immuta' AND "
                     "attname IN ('password_hash', 'profile', 'digest', 'query', 'command', 'objects', 'record')") == []
    assert world.value("SELECT count(*) FROM pg_stats WHERE schemaname = 'immuta' AND tablename LIKE 'audit_log%'") > 0
    world.sql("DELETE FROM immuta.audit_log WHERE query = 'secret'")


# How a message with a secret may arrive before anybody is impersonated. Its analysis waits for a lock, so that what
# PostgreSQL reported of it can be looked at.
BEFORE = {
    "first": [], "after a commit": ["BEGIN", "COMMIT"], "after a query": ["SELECT 1"], "in a transaction": ["BEGIN"],
    "in a transaction that did something": ["BEGIN", "SELECT 1", "SHOW work_mem"],
    "after an error": ["SELECT 1/0"], "after a syntax error": ["SELEC"], "after a refusal": ["TABLE app.everyone"],
    "after a user": ["BEGIN", "{token}", "SELECT 1", "COMMIT"], "after a user's rollback": ["BEGIN", "{token}", "ROLLBACK"],
    "after a user's error": ["BEGIN", "{token}", "SELECT 1/0", "ROLLBACK"],
    "after a savepoint": ["BEGIN", "SAVEPOINT s", "ROLLBACK TO s"],
    "after a procedure": ["BEGIN", "{token}", "DO 'BEGIN END'", "COMMIT"],
}


def shown_of(session):
    """The session's row of pg_stat_activity, which it cannot be asked for."""
    return f"pg_stat_activity WHERE client_port = {session.wire.socket.getsockname()[1]}"


@pytest.mark.parametrize("login", ["svc", "migrator", "two_ways"])
@pytest.mark.parametrize("before", BEFORE)
def test_no_text_is_reported_before_a_user_is_impersonated(world, connect, before, login):
    """Row 29: the same login in another database sees the texts of this one."""
    session = connect("simple", login, f"{'service' if login == 'svc' else login}-password")
    for statement in BEFORE[before]:
        session.run(statement.replace("{token}", f"SET LOCAL bodata.impersonation_token = '{token_of(world, 'alice')}'"))
    secret = "a-secret-that-is-no-token"
    activity = f"SELECT state, query, wait_event_type FROM {shown_of(session)}"
    with contextlib.closing(psycopg2.connect(**world.server.dsn(dbname="immuta"))) as holder:
        for send in (lambda text: session.wire.simple(text).send(),
                     lambda text: session.wire.parse(text).sync().send(),
                     lambda text: session.wire.statement(text).sync().send()):
            with holder.cursor() as cursor:
                cursor.execute("LOCK TABLE alice.seen IN ACCESS EXCLUSIVE MODE")
            send(f"SELECT '{secret}' FROM alice.seen")
            # What a session waits for is read later than the rest of its row.
            deadline = time.monotonic() + 10
            while (shown := world.sql(activity)[0])[::2] != ("active", "Lock") and time.monotonic() < deadline:
                time.sleep(0.01)
            assert shown == ("active", "", "Lock")
            holder.rollback()
            session.wire.read()
            session.run("ROLLBACK")
            if before.startswith("in "):
                session.run("BEGIN")


@pytest.mark.parametrize("kind", ["transaction", "session"])
def test_what_runs_under_a_token_is_shown(world, connect, kind):
    """Who watches sees what a user runs, and no secret among it."""
    session = connect("simple", *(["keeper", "keeper-password"] if kind == "session" else []))
    token = token_of(world, "alice")
    shown = f"SELECT query FROM {shown_of(session)}"
    if kind == "session":
        session.ok(f"SET bodata.impersonation_token = '{token}'")
    else:
        session.ok("BEGIN")
        session.ok(f"SET LOCAL bodata.impersonation_token = '{token}'")
    assert token not in world.value(shown)
    for statement in ("SELECT 'shown' AS one", "SELECT count(*) FROM app.flights", "SAVEPOINT s"):
        session.run(statement)
        if kind == "transaction" or "SAVEPOINT" not in statement:
            assert world.value(shown) == statement
    session.run(f"SET bodata.impersonation_token = '{token[:-1]}'")
    assert token[:-1] not in world.value(shown)
