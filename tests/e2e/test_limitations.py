"""docs/limitations.md, line by line, as far as no other test proves it; and that the tests which it names exist."""

import re

import psycopg
import psycopg2
import pytest
from harness.fixtures import VERSION, refuses
from harness.pooler import PgBouncer
from harness.server import ROOT
from harness.world import SERVICE, impersonate, query

PAGES = ("docs/limitations.md", "docs/security-model.md")


@pytest.mark.parametrize("page", PAGES)
def test_the_tests_that_a_page_names_exist(page):
    text = (ROOT / page).read_text()
    named = re.findall(r"`((?:attacks|core|drivers|e2e|providers|bench|fuzz|masking)/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 5
    missing = [f"{file}::{test}" for file, test in named
               if not (ROOT / "tests" / file).exists()
               or test and f"def {test}(" not in (ROOT / "tests" / file).read_text()]
    assert missing == []


def test_every_line_of_the_limitations_names_its_test():
    text = (ROOT / "docs/limitations.md").read_text()
    lines = re.findall(r"^\* \*\*.*?(?=^\* |^$|\Z)", text, re.M | re.S)
    assert len(lines) > 25
    unproved = [line[:70] for line in lines if not re.search(r"`\w+/\w+\.py::\w+`", line)]
    assert unproved == []


# -- before the token ---------------------------------------------------------------------------------------------

def test_a_schema_that_the_login_may_not_use(service):
    with refuses("42501") as seen:
        query(service, "SELECT * FROM private.notes")
    assert seen.detail is None and "permission denied for schema private" in seen.message


def plan(connection):
    return "\n".join(row[0] for row in query(connection, "EXPLAIN SELECT count(*) FROM pg_class"))


def test_no_parallel_workers_without_a_token(world):
    always = "force_parallel_mode" if int(VERSION) < 16 else "debug_parallel_query"
    with world.connect(options=f"-c {always}=on") as service:
        assert "Gather" not in plan(service)
        service.rollback()
        impersonate(service, world.token("alice"))
        assert "Gather" in plan(service)
    with world.connect("plain", "plain-password", options=f"-c {always}=on") as plain:
        assert "Gather" in plan(plain)


@pytest.fixture(params=["public.django_migrations", "public.alembic_version", "public.spatial_ref_sys"])
def read_at_start(request, world):
    """A table that a framework reads when it starts, and a superuser's definer function that reads it."""
    world.sql(f"CREATE TABLE {request.param} (id int); GRANT SELECT ON {request.param} TO PUBLIC")
    world.sql(f"CREATE FUNCTION public.at_start() RETURNS SETOF {request.param} LANGUAGE sql SECURITY DEFINER "
              f"SET search_path = pg_catalog, pg_temp AS 'SELECT * FROM {request.param}'")
    yield request.param
    world.sql(f"DROP FUNCTION public.at_start(); DROP TABLE {request.param}")


def test_what_frameworks_read_before_the_token(world, read_at_start, service):
    """Refused; under a token, or through that function, it works."""
    with refuses("42501", "IMPERSONATION_REQUIRED"):
        query(service, f"SELECT * FROM {read_at_start}")
    service.rollback()
    impersonate(service, world.token("bob"))
    assert query(service, f"SELECT * FROM {read_at_start}") == []
    service.rollback()
    assert query(service, "SELECT * FROM public.at_start()") == []


def test_migrations_by_a_login_of_their_own(world):
    """One that is no service login, and a service login with bodata.require_token off: both may do what they have
    rights to, and what needs no transaction."""
    world.sql("CREATE ROLE deploy LOGIN PASSWORD 'deploy-password'; GRANT CREATE, USAGE ON SCHEMA public TO deploy; "
              "CREATE ROLE dual LOGIN PASSWORD 'dual-password' IN ROLE bodata_impersonate_user; "
              "ALTER ROLE dual SET bodata.require_token = off; GRANT CREATE, USAGE ON SCHEMA public TO dual")
    try:
        for login in ("deploy", "dual"):
            connection = world.connect(login, f"{login}-password")
            connection.autocommit = True
            for statement in ("CREATE TABLE public.migrated (id int)",
                              "CREATE INDEX CONCURRENTLY ON public.migrated (id)", "VACUUM public.migrated", "DO 'BEGIN COMMIT; END'", "DROP TABLE public.migrated"):
                query(connection, statement)
            connection.close()
    finally:
        world.sql("DROP OWNED BY deploy, dual; DROP ROLE deploy, dual")


@pytest.mark.parametrize("statement", ["SET LOCAL bodata.impersonation_token = ''",
                                       "SELECT set_config('bodata.impersonation_token', '', true)",
                                       "SET LOCAL bodata.impersonation_token TO DEFAULT"])
def test_an_empty_token_is_none(service, statement):
    query(service, statement)
    assert query(service, "SELECT current_user, userid FROM immuta.whoami()") == [("svc", None)]
    with refuses("42501", "IMPERSONATION_REQUIRED"):
        query(service, "SELECT * FROM app.everyone")


def test_a_token_cannot_come_through_a_cursor(world, service):
    """What a driver makes of a query with a cursor on the server."""
    with refuses("42501", "IMPERSONATION_REQUIRED"):
        with service.cursor("named") as cursor:
            cursor.execute("SELECT set_config('bodata.impersonation_token', %s, true)", (world.token("alice"),))


# -- under a token ------------------------------------------------------------------------------------------------

def test_settings_before_and_after_the_token(world, service):
    """Before it: the application's. After it: the user's, and gone with the transaction, whatever the words."""
    query(service, "SET LOCAL lock_timeout = '11s'")
    query(service, "SET statement_timeout = '12s'")
    impersonate(service, world.token("alice"))
    assert query(service, "SHOW lock_timeout") == [("11s",)]
    query(service, "SET lock_timeout = '21s'")
    query(service, "SET SESSION statement_timeout = '22s'")
    query(service, "SELECT set_config('work_mem', '23MB', false)")
    service.commit()
    shown = "SELECT current_setting('lock_timeout'), current_setting('statement_timeout'), current_setting('work_mem')"
    assert query(service, shown) == [("0", "12s", "4MB")]


def test_a_setting_of_ones_own_is_empty_afterwards(world, service):
    """PostgreSQL does not forget that there was one."""
    assert query(service, "SELECT current_setting('limits.mine', true)") == [(None,)]
    service.rollback()
    impersonate(service, world.token("alice"))
    query(service, "SET limits.mine = 'alices'")
    service.commit()
    assert query(service, "SELECT current_setting('limits.mine', true)") == [("",)]


@pytest.mark.parametrize("statement, sqlstate", [
    ("VACUUM alice.vacuumed", "25001"), ("CREATE INDEX CONCURRENTLY ON alice.vacuumed (id)", "25001"),
    ("REINDEX TABLE CONCURRENTLY alice.vacuumed", "25001"), ("DO 'BEGIN COMMIT; END'", "2D000"),
    ("CALL alice.commits_here()", "2D000"), ("PREPARE TRANSACTION 'x'", "25000")])
def test_what_has_a_transaction_of_its_own(world, service, statement, sqlstate):
    world.sql("CREATE TABLE alice.vacuumed (id int); ALTER TABLE alice.vacuumed OWNER TO alice; "
              "CREATE PROCEDURE alice.commits_here() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'; "
              "GRANT EXECUTE ON PROCEDURE alice.commits_here() TO PUBLIC")
    try:
        impersonate(service, world.token("alice"))
        with refuses(sqlstate):
            query(service, statement)
        service.rollback()
    finally:
        world.sql("DROP TABLE alice.vacuumed; DROP PROCEDURE alice.commits_here()")


def test_the_words_of_postgresql_for_set_config(world, alice):
    with refuses("42501") as seen:
        query(alice, "SELECT set_config('role', 'none', true)")
    assert "within security-definer function" in seen.message and seen.detail is None


def test_event_triggers_run_as_the_user(world, service):
    """On DDL: with the rights of the mapped role, if the function is not a definer; session_user is the login."""
    world.sql("CREATE TABLE public.ddl (tag text, cur text, ses text); "
              "CREATE FUNCTION public.on_ddl() RETURNS event_trigger LANGUAGE plpgsql "
              "AS $$ BEGIN INSERT INTO public.ddl VALUES (tg_tag, current_user, session_user); END $$; "
              "CREATE EVENT TRIGGER limits ON ddl_command_end EXECUTE FUNCTION public.on_ddl()")
    try:
        impersonate(service, world.token("alice"))
        with refuses("42501") as seen:
            query(service, "CREATE TABLE alice.made (a int)")
        assert "permission denied for table ddl" in seen.message
        service.rollback()
        world.sql("GRANT INSERT ON public.ddl TO alice")
        impersonate(service, world.token("alice"))
        query(service, "CREATE TEMP TABLE made (a int)")
        service.commit()
        assert ("CREATE TABLE", "alice", "svc") in world.sql("SELECT * FROM public.ddl")
    finally:
        world.sql("DROP EVENT TRIGGER limits; DROP FUNCTION public.on_ddl(); DROP TABLE public.ddl")


LOGIN_TRIGGER = """
CREATE FUNCTION public.on_login() RETURNS event_trigger LANGUAGE plpgsql {} SET search_path = pg_catalog, pg_temp
AS $$ BEGIN PERFORM * FROM app.everyone; END $$;
CREATE EVENT TRIGGER at_login ON login EXECUTE FUNCTION public.on_login();
"""


def test_login_event_triggers(world):
    """They run before any token: one that reads a table keeps service logins out, unless it is a superuser's
    definer. Before PostgreSQL 17 there are none."""
    if int(VERSION) < 17:
        with pytest.raises(psycopg2.errors.SyntaxError, match="unrecognized event name"):
            world.sql("CREATE FUNCTION public.on_login() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; "
                      "CREATE EVENT TRIGGER at_login ON login EXECUTE FUNCTION public.on_login()")
        return
    for kind, works in (("SECURITY INVOKER", False), ("SECURITY DEFINER", True)):
        world.sql(LOGIN_TRIGGER.format(kind))
        try:
            if works:
                world.connect().close()
            else:
                with pytest.raises(psycopg2.OperationalError, match="requires an impersonation token"):
                    world.connect()
        finally:
            world.sql("DROP EVENT TRIGGER at_login; DROP FUNCTION public.on_login()")


# -- prepared statements, poolers, what is shared -----------------------------------------------------------------

@pytest.fixture
def generic(world):
    """A connection that keeps one plan for all users: the search path is the same for them."""
    options = "-c plan_cache_mode=force_generic_plan -c search_path=pg_catalog"
    with psycopg.connect(**world.server.dsn(*SERVICE, world.dbname, options=options), autocommit=True) as connection:
        connection.prepare_threshold = 0
        yield connection


def run_as(world, connection, user, statement):
    with connection.transaction():
        connection.execute("SELECT set_config('bodata.impersonation_token', %s, true)", (world.token(user),))
        return connection.execute(statement).fetchall()


def test_schemas_of_functions_are_not_checked_again(world, generic):
    """bob could not have named the function, but may execute it; it runs with the rights of bob."""
    world.sql("CREATE FUNCTION private.who() RETURNS text LANGUAGE plpgsql STABLE AS 'BEGIN RETURN current_user; END'")
    try:
        assert run_as(world, generic, "alice", "SELECT private.who()") == [("alice",)]
        assert run_as(world, generic, "bob", "SELECT private.who()") == [("bob",)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="schema private"):
            run_as(world, generic, "bob", "SELECT private.who() AS newly_named")
    finally:
        world.sql("DROP FUNCTION private.who()")


@pytest.mark.parametrize("language, body, is_inlined", [("sql", "SELECT current_user::text", True),
                                                       ("plpgsql", "BEGIN RETURN current_user; END", False)])
def test_execute_is_not_checked_of_inlined_functions(world, generic, language, body, is_inlined):
    """Of functions in SQL whose body has become a part of the plan. What is in it bob could have written, too."""
    world.sql(f"CREATE FUNCTION app.who() RETURNS text LANGUAGE {language} STABLE AS '{body}'; "
              "REVOKE ALL ON FUNCTION app.who() FROM PUBLIC; GRANT EXECUTE ON FUNCTION app.who() TO alice")
    try:
        assert run_as(world, generic, "alice", "SELECT app.who()") == [("alice",)]
        if is_inlined:
            assert run_as(world, generic, "bob", "SELECT app.who()") == [("bob",)]
        else:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                run_as(world, generic, "bob", "SELECT app.who()")
    finally:
        world.sql("DROP FUNCTION app.who()")


def test_what_an_inlined_function_reads_is_checked_again(world, generic):
    world.sql("CREATE FUNCTION app.notes() RETURNS SETOF text LANGUAGE sql STABLE "
              "AS 'SELECT carrier FROM app.flights UNION SELECT body FROM private.notes'; "
              "REVOKE ALL ON FUNCTION app.notes() FROM PUBLIC; GRANT EXECUTE ON FUNCTION app.notes() TO alice")
    try:
        assert run_as(world, generic, "alice", "SELECT count(*) FROM app.notes()") == [(2,)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run_as(world, generic, "bob", "SELECT count(*) FROM app.notes()")
    finally:
        world.sql("DROP FUNCTION app.notes()")


def test_pgbouncer_in_statement_mode(world, server):
    """It lets no transaction begin."""
    with PgBouncer(server, *SERVICE, world.dbname, settings=["pool_mode = statement"]) as pooler:
        with psycopg.connect(host="127.0.0.1", port=pooler.port, user=SERVICE[0], password=SERVICE[1],
                             dbname=world.dbname, autocommit=True) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            with pytest.raises(psycopg.OperationalError):
                connection.execute("BEGIN")


@pytest.mark.parametrize("statement, inside", [("DEALLOCATE ALL", True), ("DEALLOCATE ALL", False),
                                               ("DISCARD ALL", False)])
def test_prepared_statements_can_be_dropped(world, statement, inside):
    """The next use of one is an error; drivers prepare it again."""
    with psycopg.connect(**world.server.dsn(*SERVICE, world.dbname), autocommit=True) as connection:
        connection.pgconn.prepare(b"mine", b"SELECT 1")
        with connection.transaction():
            connection.execute("SELECT set_config('bodata.impersonation_token', %s, true)", (world.token("alice"),))
            if inside:
                connection.execute(statement)
        if not inside:
            connection.execute(statement)
        result = connection.pgconn.exec_prepared(b"mine", [])
        assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"26000"


def test_a_user_can_reset_what_the_application_has_set(world):
    """RESET is left to everybody: poolers need it."""
    service = world.connect()
    service.autocommit = True
    query(service, "SET TIME ZONE 'Asia/Tokyo'")
    query(service, "BEGIN")
    impersonate(service, world.token("alice"))
    query(service, "COMMIT")
    query(service, "RESET TimeZone")
    assert query(service, "SHOW TimeZone") != [("Asia/Tokyo",)]
    service.close()
