"""What one user plants and the next one, or the session without a token, must not step on.

Threats: 26 (docs/threats.md).
"""

import pytest
from conftest import refuses
from harness.world import impersonate, query


@pytest.fixture
def planted(world, service):
    """A connection on which alice has planted objects and sent COMMIT; cleans up her schema."""
    token = world.token("alice")

    def plant(*statements):
        impersonate(service, token)
        for statement in statements:
            query(service, statement)
        service.commit()

    yield plant
    service.rollback()
    world.sql("DROP SCHEMA alice CASCADE; CREATE SCHEMA alice AUTHORIZATION alice")


def as_bob(world, connection, statement):
    impersonate(connection, world.token("bob"))
    rows = query(connection, statement)
    connection.commit()
    return rows


def test_a_temporary_object_made_under_the_schemas_real_name(world, service, planted):
    """Types in pg_temp are found before those of pg_catalog: 'x'::text would run alice's check as bob."""
    planted("CREATE TEMP TABLE x (a int)")
    impersonate(service, world.token("alice"))
    schema = query(service, "SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()")[0][0]
    service.commit()
    planted("CREATE FUNCTION alice.steal(v anyelement) RETURNS boolean LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'runs as %', current_user; END $$",
            f"CREATE DOMAIN {schema}.text AS pg_catalog.text CHECK (alice.steal(VALUE))")
    assert as_bob(world, service, "SELECT 'x'::text") == [("x",)]
    assert query(service, "SELECT 'x'::text") == [("x",)], "without a token, too"


def test_settings_of_a_function_that_the_planner_runs(world, service):
    """Even of one that may be called without a token."""
    world.sql("CREATE FUNCTION app.f(x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ DECLARE y text; BEGIN "
              "y := set_config('search_path', 'alice', false); RETURN 1; END $$")
    before = query(service, "SHOW search_path")
    service.commit()
    query(service, "SELECT app.f(x) FROM generate_series(1, 1) x")
    query(service, "SELECT app.f(1)")
    assert query(service, "SHOW search_path") == before
    service.commit()
    assert query(service, "SHOW search_path") == before
    service.commit()
    world.sql("DROP FUNCTION app.f(int)")


def test_planted_functions_are_refused_whatever_they_do(world, service, planted):
    planted("CREATE FUNCTION alice.harmless() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE FUNCTION alice.is_fine(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS "
            "'BEGIN RETURN true; END'",
            "CREATE DOMAIN alice.checked AS text CHECK (alice.is_fine(VALUE))",
            "CREATE OPERATOR alice.# (RIGHTARG = text, FUNCTION = alice.is_fine)",
            "GRANT USAGE ON SCHEMA alice TO PUBLIC")
    for statement in ("SELECT alice.harmless()", "SELECT * FROM alice.harmless()", "SELECT 'x'::alice.checked",
                      "SELECT OPERATOR(alice.#) 'x'"):
        with refuses("42501", "IMPERSONATION_REQUIRED"):
            query(service, statement)
        service.rollback()
        assert as_bob(world, service, statement)


def test_an_operator_that_the_planner_tries_on_statistics(world, service, planted):
    """Selectivity is estimated by calling the operator on common values, before any permission is checked."""
    world.sql("ANALYZE app.everyone")
    planted("CREATE FUNCTION alice.peek(text, text) RETURNS boolean LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE NOTICE 'saw %', $1; RETURN false; END $$",
            "CREATE OPERATOR alice.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = alice.peek, RESTRICT = eqsel)",
            "GRANT USAGE ON SCHEMA alice TO PUBLIC")
    for statement in ("SELECT * FROM app.everyone WHERE body OPERATOR(alice.===) 'x'",
                      "EXPLAIN SELECT * FROM (SELECT body FROM app.everyone) s WHERE body OPERATOR(alice.===) 'x'",
                      "WITH w AS (SELECT body FROM app.everyone) SELECT 1 FROM w WHERE body OPERATOR(alice.===) 'x'",
                      "SELECT 1 WHERE EXISTS (SELECT FROM app.everyone WHERE body OPERATOR(alice.===) 'x')"):
        del service.notices[:]
        with refuses("42501", "IMPERSONATION_REQUIRED"):
            query(service, statement)
        assert service.notices == []
        service.rollback()


@pytest.mark.parametrize("function, types", [
    ("pg_try_advisory_lock", "LEFTARG = int, RIGHTARG = int"), ("pg_catalog.pg_terminate_backend", "LEFTARG = int, "
     "RIGHTARG = bigint"), ("pg_advisory_lock", "RIGHTARG = bigint")])
def test_an_operator_cannot_work_by_a_function_that_is_refused(alice, function, types):
    with refuses("42501", "IMPERSONATION_ACTIVE"):
        query(alice, f"CREATE OPERATOR alice.=== ({types}, FUNCTION = {function})")


def test_a_definer_in_a_parallel_worker(world, service, planted):
    """Workers run without the guard: a session without a token gets none."""
    setting = "force_parallel_mode" if int(world.server.version) < 16 else "debug_parallel_query"
    planted("CREATE FUNCTION alice.definer() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER PARALLEL SAFE AS "
            "$$ BEGIN RETURN (SELECT count(*) FROM app.flights); END $$",
            "CREATE FUNCTION alice.wrap() RETURNS bigint LANGUAGE plpgsql PARALLEL SAFE AS "
            "$$ BEGIN RETURN alice.definer(); END $$",
            "CREATE FUNCTION alice.go() RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE r bigint; BEGIN "
            f"PERFORM set_config('{setting}', 'on', true); EXECUTE 'SELECT alice.wrap()' INTO r; RETURN r; END $$",
            "GRANT USAGE ON SCHEMA alice TO PUBLIC")
    with refuses("42501", "IMPERSONATION_REQUIRED"):
        query(service, "SELECT alice.go()")


@pytest.mark.parametrize("statement", [
    "SELECT count(*) FROM immuta.token", "SELECT password_hash FROM immuta.user_account",
    "INSERT INTO immuta.token (digest, user_id) SELECT sha256('known'), 2", "DELETE FROM immuta.api_key",
    "COPY immuta.user_account TO STDOUT"])
def test_the_extensions_tables_are_closed_whatever_the_rights(world, alice, statement):
    world.sql("GRANT pg_read_all_data, pg_write_all_data TO alice")
    try:
        with refuses("42501", "IMPERSONATION_ACTIVE"):
            if statement.startswith("COPY"):
                with alice.cursor() as cursor:
                    cursor.copy_expert(statement, open("/dev/null", "w"))
            else:
                query(alice, statement)
    finally:
        alice.rollback()
        world.sql("REVOKE pg_read_all_data, pg_write_all_data FROM alice")


def test_seed_and_sequences_tell_the_next_user_nothing(world, service, planted):
    world.sql("CREATE SEQUENCE IF NOT EXISTS app.ids; GRANT ALL ON app.ids TO alice, bob")
    impersonate(service, world.token("alice"))
    query(service, "SELECT setseed(0.5), nextval('app.ids')")
    first = query(service, "SELECT random()")
    query(service, "SELECT setseed(0.5)")
    service.commit()
    assert as_bob(world, service, "SELECT random()") != first
    for statement in ("SELECT lastval()", "SELECT currval('app.ids')"):
        impersonate(service, world.token("bob"))
        with refuses("55000"):
            query(service, statement)
        service.rollback()


def test_the_statement_that_held_the_token_is_hidden_in_pg_stat_activity(world, service):
    token = world.token("alice")
    for statement in ("SET LOCAL bodata.impersonation_token = %s",
                      "SELECT set_config('bodata.impersonation_token', %s, true)"):
        query(service, statement, (token,))
        shown = world.sql("SELECT query FROM pg_stat_activity WHERE usename = 'svc' AND query ~ 'impersonation_token'")
        assert shown and all(token not in text for (text,) in shown)
        service.rollback()
