"""G4: what one user leaves on a pooled connection neither influences the next nor can be read by them. Rows
21-26.

Threats: 21-26 (docs/threats.md).
"""

import time

import pytest
from harness.fixtures import VERSION
from scene import COUNT, DENIED, settings

# Row of threats.md, what alice sends in her transaction.
SETTINGS = [(21, statements) for statements in (
    ["SET search_path = alice, pg_catalog"], ["SET SESSION search_path = alice"],
    ["SET LOCAL search_path = alice"],
    ["SELECT set_config('search_path', 'alice', false)"], ["SET SCHEMA 'alice'"],
    ["UPDATE pg_settings SET setting = 'alice' WHERE name = 'search_path'"],
    ["UPDATE pg_settings SET setting = 'off' WHERE name LIKE 'enable\\_%'"],
    ["SET app.tenant = 'alice'"], ["SELECT set_config('app.tenant', 'alice', false)"],
    ["SET statement_timeout = 1234567"], ["SET lock_timeout = 1234567"], ["SET work_mem = '123MB'"],
    ["SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"],
    ["SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, DEFERRABLE"],
    ["SET default_transaction_read_only = on"], ["SET TIME ZONE 'Asia/Tokyo'"], ["SET DateStyle = German"],
    ["SET client_encoding = 'LATIN1'"], ["SET NAMES 'LATIN1'"], ["SET application_name = 'alice'"],
    ["SET row_security = off"], ["SET XML OPTION DOCUMENT"], ["SET default_tablespace = pg_default"],
    *([["SET standard_conforming_strings = off"]] if int(VERSION) < 19 else []), ["SET plan_cache_mode = force_generic_plan"],
    ["SET client_min_messages = error"], ["SET default_table_access_method = heap"], ["SET temp_buffers = 123"],
    ["SAVEPOINT s", "SET search_path = alice", "RELEASE s"],
    ["SET search_path = alice", "SAVEPOINT s", "SET search_path = app", "ROLLBACK TO s"],
    ["SAVEPOINT s", "SET search_path = alice", "SAVEPOINT t", "SET app.tenant = 'alice'"],
    ["DO $$ BEGIN PERFORM set_config('search_path', 'alice', false); SET app.tenant = 'alice'; END $$"],
    ["DO $$ BEGIN BEGIN SET search_path = alice; PERFORM 1/0; "
     "EXCEPTION WHEN OTHERS THEN SET search_path = app; END; END $$"],
    ["SELECT alice.sets_path()"], ["SELECT alice.sets_path_caught()"], ["SELECT alice.sets_path_immutable()"],
    ["SELECT app.alias_set_config('search_path', 'alice', false)"],
    ["INSERT INTO alice.settings_at_commit VALUES (1)"], ["RESET ALL"], ["RESET ALL", "SET search_path = alice"],
    ["DO $$ BEGIN RESET ALL; END $$"], ["SET TRANSACTION READ ONLY"], ["RESET application_name", "RESET TimeZone"],
    ["SET search_path = alice", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"],
    ["SET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE", "SET app.tenant = 'alice'", COUNT],
)]
ENDS = ("COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "error")


@pytest.mark.parametrize("attack", SETTINGS, ids=lambda attack: "; ".join(attack[1])[:90])
def test_settings_do_not_outlive_the_transaction(session, attack):
    """The application has settings of its own, which come back; the client is told."""
    session.ok("SET application_name = 'the application'")
    session.ok("SET TIME ZONE 'Europe/Berlin'")
    before, told = settings(session), dict(session.wire.parameters)
    for end in ENDS:
        session.begin()
        for statement in attack[1]:
            session.ok(statement)
        assert session.value("SELECT current_user") == "alice"
        if end == "error":
            session.refused("SELECT 1/0", "22012")
            end = "ROLLBACK"
        session.ok(end)
        if "CHAIN" in end:
            session.ok("ROLLBACK")
        assert settings(session) == before
        assert session.wire.parameters == told
        assert session.value("SELECT current_setting('app.tenant', true)") in (None, "")
    session.leaves_nothing()


OBJECTS = [
    "CREATE TEMP TABLE flights (carrier text)", "CREATE TEMP TABLE flights AS SELECT * FROM app.flights",
    "CREATE TEMP TABLE flights (id serial PRIMARY KEY, t text UNIQUE) ON COMMIT PRESERVE ROWS",
    "CREATE TEMP TABLE flights (a int) ON COMMIT DELETE ROWS", "CREATE TEMP TABLE flights (a int) ON COMMIT DROP",
    "CREATE TEMP VIEW flights AS SELECT 1 AS a", "CREATE TEMP SEQUENCE flights", "SELECT 1 AS a INTO TEMP flights",
    "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "CREATE TYPE pg_temp.t AS (a int)",
    "CREATE DOMAIN pg_temp.d AS int CHECK (VALUE > 0)", "CREATE TABLE pg_temp.flights (a int)",
    "DO $$ BEGIN CREATE TEMP TABLE flights (a int); INSERT INTO flights VALUES (1); END $$",
    "CREATE TEMP TABLE parents (id int PRIMARY KEY) PARTITION BY RANGE (id)",
    "CREATE TYPE pg_temp.e AS ENUM ('a')", "CREATE AGGREGATE pg_temp.a (int) (SFUNC = int4pl, STYPE = int)",
    "CREATE OPERATOR pg_temp.### (FUNCTION = pg_catalog.int4pl, LEFTARG = int, RIGHTARG = int)",
    "CREATE COLLATION pg_temp.c (LOCALE = 'C')",
    "CREATE TEXT SEARCH CONFIGURATION pg_temp.c (COPY = pg_catalog.simple)",
    "CREATE TEXT SEARCH DICTIONARY pg_temp.d (TEMPLATE = simple)", "CREATE PROCEDURE pg_temp.p() LANGUAGE sql AS ''",
    "INSERT INTO alice.settings_at_commit VALUES (1)",
]


@pytest.mark.parametrize("statement", OBJECTS)
def test_temporary_objects_do_not_outlive_the_transaction(session, statement):
    left = "SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()), " \
           "(SELECT count(*) FROM pg_proc WHERE pronamespace = pg_my_temp_schema()), " \
           "(SELECT count(*) FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass " \
           "AND refobjid = pg_my_temp_schema())"
    for end in ENDS:
        session.begin()
        session.ok(statement)
        session.ok("SAVEPOINT s")
        session.ok("CREATE TEMP TABLE more (a int)")
        session.ok("DECLARE open_cursor CURSOR FOR SELECT * FROM more")
        session.ok("RELEASE s")
        if end == "error":
            session.refused("SELECT 1/0", "22012")
            end = "ROLLBACK"
        session.ok(end)
        session.ok("ROLLBACK")
        assert session.rows(left) == [("0", "0", "0")]
        session.begin("bob")
        assert session.rows(left) == [("0", "0", "0")]
        session.refused("SELECT * FROM pg_temp.flights", "42P01")
        session.ok("ROLLBACK")
        session.begin("bob")
        session.ok("CREATE TEMP TABLE flights (a int)")
        session.ok("COMMIT")
    session.leaves_nothing()


def test_bob_does_not_get_alices_rows_by_a_shadowing_table(session):
    session.begin()
    session.ok("SET search_path = app, public")
    session.ok("CREATE TEMP TABLE flights AS SELECT * FROM app.flights")
    assert session.rows("SELECT DISTINCT carrier FROM flights") == [("UA",)]
    session.ok("COMMIT")
    session.begin("bob")
    session.ok("SET LOCAL search_path = app, public")
    assert session.rows("SELECT DISTINCT carrier FROM flights") == [("AA",)]
    session.ok("COMMIT")
    session.leaves_nothing()


def test_cursors_end_with_the_transaction(session):
    """Row 24: also one that was declared in a savepoint, or belongs to a PL/pgSQL variable."""
    session.begin()
    session.ok("DECLARE c CURSOR FOR SELECT * FROM app.flights")
    session.ok("SAVEPOINT s")
    session.ok("DECLARE d SCROLL CURSOR FOR SELECT * FROM app.flights")
    session.ok("RELEASE s")
    session.ok("DO $$ DECLARE c refcursor := 'e'; BEGIN OPEN c FOR SELECT * FROM app.flights; END $$")
    assert len(session.rows("FETCH 3 FROM e")) == 3
    session.ok("COMMIT")
    for name in ("c", "d", "e"):
        session.begin("bob")
        session.refused(f"FETCH {name}", "34000")
        session.ok("ROLLBACK")
    session.leaves_nothing()


def test_sequences_do_not_tell_the_next_user(session):
    """Row 25: values of currval() and lastval() are alice's, although bob may use the sequence."""
    session.begin()
    session.ok("SELECT nextval('app.numbers')")
    session.ok("COMMIT")
    for call in ("lastval()", "currval('app.numbers')"):
        session.begin("bob")
        session.refused(f"SELECT {call}", "55000")
        session.ok("ROLLBACK")
    session.begin("bob")
    value = session.value("SELECT nextval('app.numbers')")
    assert session.value("SELECT lastval()") == value
    session.ok("COMMIT")
    session.leaves_nothing()


SEEDS = ["SELECT setseed(0.5)", "SET SEED TO 0.5", "SELECT set_config('seed', '0.5', false)",
         "DO 'BEGIN SET SEED TO 0.5; END'", "SELECT app.alias_set_config('seed', '0.5', false)",
         "UPDATE pg_settings SET setting = '0.5' WHERE name = 'seed'"]
if int(VERSION) <= 15:
    SEEDS += ["SELECT alice.seeds()"]


@pytest.mark.parametrize("user", ["alice", None])
@pytest.mark.parametrize("seed", SEEDS)
def test_random_numbers_are_not_chosen_by_the_one_before(session, user, seed):
    """Whether as alice or after she has ended her transaction."""
    session.begin()
    session.ok("SELECT setseed(0.5)")
    foreseen = session.value("SELECT random()")
    session.ok("COMMIT")
    if user:
        session.begin(user)
    session.run(seed)
    session.ok("COMMIT")
    session.begin("bob")
    assert session.value("SELECT random()") != foreseen
    session.ok("COMMIT")
    session.leaves_nothing()


def test_locks_and_channels_end_with_the_transaction(world, session):
    session.begin()
    session.ok("SELECT pg_advisory_xact_lock(4711)")
    session.ok("LOCK TABLE alice.t")
    session.ok("NOTIFY somebody, 'something'")
    session.ok("COMMIT")
    pid = session.value("SELECT pg_backend_pid()")
    assert world.sql("SELECT locktype FROM pg_locks WHERE pid = %s AND locktype <> 'virtualxid'", (pid,)) == []
    assert session.rows("SELECT pg_listening_channels()") == []
    session.leaves_nothing()


def test_the_applications_prepared_statements_stay(session):
    """Row 23: alice cannot replace them. Drivers drop their own, by DEALLOCATE, as anybody could after COMMIT."""
    wire = session.wire
    wire.parse("SELECT 'the application''s' WHERE $1 = 1", "s1").sync().send().read()
    for attack in ("DISCARD ALL", "DISCARD PLANS", "PREPARE s1 AS SELECT 2"):
        session.begin()
        session.refused(attack, "42501", "IMPERSONATION_ACTIVE")
        session.ok("ROLLBACK")
    session.begin("bob")
    assert wire.bind("1", name="s1").describe().execute().sync().send().read().rows == [("the application's",)]
    session.ok("COMMIT")
    session.leaves_nothing()


def test_planted_names_do_not_reach_the_service(world, session):
    """Row 26: functions and operators in a schema that everybody may write to, on the paths of ours."""
    session.begin()
    try:
        for statement in (
                "CREATE FUNCTION public.convert_from(bytea, text) RETURNS text LANGUAGE sql "
                "AS $$SELECT 'planted'$$",
                "CREATE FUNCTION public.planted_eq(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
                "CREATE OPERATOR public.= (FUNCTION = public.planted_eq, LEFTARG = text, RIGHTARG = text)",
                "CREATE FUNCTION public.octet_length(text) RETURNS int LANGUAGE sql AS 'SELECT 1'",
                "CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql "
                "AS $$SELECT 'epoch'::timestamptz$$"):
            session.ok(statement)
        session.ok("COMMIT")
        for user in ("alice", "bob"):
            session.begin(user)
            session.ok("SET LOCAL search_path = public, pg_catalog")
            assert session.value("SELECT userid FROM immuta.whoami()") == user
            session.ok("COMMIT")
        assert session.value("SELECT immuta.check_token('x')->>'active'") == "false"
        assert session.value("SELECT immuta.authenticate('alice', 'x')->>'authenticated'") == "false"
        session.leaves_nothing()
    finally:
        world.sql("DROP OPERATOR IF EXISTS public.= (text, text)")
        world.sql("DROP FUNCTION IF EXISTS public.convert_from(bytea, text), public.planted_eq(text, text), "
                  "public.octet_length(text), public.now()")


@pytest.mark.parametrize("path", ['"$user", public', "app"])
@pytest.mark.parametrize("plan", ["auto", "force_generic_plan"])
def test_plans_kept_in_functions_are_checked_again(connect, plan, path):
    """PL/pgSQL keeps plans across transactions, hence across users. Where the search path is the same for all,
    PostgreSQL does not parse again by itself."""
    session = connect(options=f"-c plan_cache_mode={plan} -c search_path={path}".replace(", ", ","))
    for _ in range(7):
        for user in ("alice", "bob"):
            session.begin(user)
            assert session.value("SELECT app.flights_in_plpgsql()") == "100"
            session.ok("COMMIT")
    session.begin()
    assert session.value("SELECT app.notes_in_plpgsql()") == "1"
    session.ok("COMMIT")
    session.begin("bob")
    session.refused("SELECT app.notes_in_plpgsql()", *DENIED)
    session.ok("ROLLBACK")
    session.refused("SELECT app.notes_in_plpgsql()", "42501")
    session.leaves_nothing()


NEED_NO_USAGE = ["SELECT id FROM app.by_list", "SELECT app.notes_in_atomic()",
                 "SELECT count(*) FROM app.notes_inlined()"]
if int(VERSION) >= 15:
    NEED_NO_USAGE += ["SELECT count(*) FROM app.invokers_notes", "SELECT count(*) FROM app.invokers_view"]


@pytest.mark.parametrize("statement", NEED_NO_USAGE)
def test_policies_and_parsed_bodies_need_no_usage(world, session, statement):
    """PostgreSQL looked the names in policies, views and parsed function bodies up when those were made: whoever
    uses them needs rights on the tables, not on the schema. The superuser's SET ROLE shows what is right."""
    world.sql("SET ROLE bob")
    try:
        expected = [tuple(map(str, row)) for row in world.sql(statement)]
    finally:
        world.sql("RESET ROLE")
    for _ in range(2):
        session.begin("bob")
        assert session.rows(statement) == expected
        session.ok("COMMIT")
    session.leaves_nothing()


def test_names_that_a_user_leaves_behind_cost_the_next_nothing(connect):
    """Settings that were made up stay in PostgreSQL's table for good: DISCARD ALL only resets them. Statements without a token
    do not go through all of them. A thousandth of the time that would take is enough for the difference to be seen."""
    names = 30_000 if int(VERSION) >= 16 else 3_000
    session = connect()

    def took(statement, times=50):
        begun = time.monotonic()
        for _ in range(times):
            session.ok(statement)
        return time.monotonic() - begun

    session.begin("alice")
    session.ok("COMMIT")
    before = min(took("SELECT 1") for _ in range(3))
    session.begin("alice")
    session.ok(f"SELECT count(set_config('left' || i || '.behind', 'x', true)) FROM generate_series(1, {names}) i")
    session.ok("COMMIT")
    session.ok("DISCARD ALL")
    after = min(took("SELECT 1") for _ in range(3))
    assert after < 10 * before + 0.05, (before, after)
