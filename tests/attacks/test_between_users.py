"""G4: a user who has ended their transaction is, to the server, the application between two users. What they may set then
the next one meets.

Threats: 21, 35 (docs/threats.md).
"""

import pytest
from harness.fixtures import VERSION
from scene import MODES, REQUIRED, LastingSession, NameSession

# 19 knows no other strings.
OTHER_STRINGS = [("standard_conforming_strings", value) for value in ("off", "no", "false", "0", "f")] if int(VERSION) < 19 else []
# What could hurt the next user: SQL that is read otherwise than it was quoted, statements that end at once.
HARMFUL = OTHER_STRINGS + \
    [("client_encoding", value) for value in ("SJIS", "BIG5", "gbk", "UHC", "GB18030", "johab", "SHIFT_JIS_2004")] + \
    [("statement_timeout", "1"), ("lock_timeout", "1"), ("idle_in_transaction_session_timeout", "1"),
     ("bytea_output", "escape")]

# What drivers and poolers set between transactions: PgBouncer whatever its clients connected with.
SHARED = [("client_encoding", "UTF8"), ("client_encoding", "LATIN1"), ("DateStyle", "ISO, DMY"),
          ("IntervalStyle", "iso_8601"), ("TimeZone", "Asia/Tokyo"), ("standard_conforming_strings", "on"),
          ("application_name", "another"), ("extra_float_digits", "3"), ("default_transaction_read_only", "on"),
          ("default_transaction_isolation", "serializable")]

# Ways to set one, and whether those that are not allowed are refused or undone.
WAYS = {"SET {name} = '{value}'": True, "SET LOCAL {name} = '{value}'": True, "SET SESSION {name} TO '{value}'": True,
        "SELECT set_config('{name}', '{value}', false)": False,
        "SELECT app.runs('SELECT set_config(''{name}'', ''{value}'', false)')": False,
        "SELECT app.runs('SET {name} = ''{value}''')": True,
        "EXPLAIN ANALYZE SELECT set_config('{name}', '{value}', false)": False,
        "UPDATE pg_settings SET setting = '{value}' WHERE name = '{name}'": False}


def show(session, name):
    return session.value("SELECT setting FROM pg_settings WHERE name = $1", name)


@pytest.fixture(params=MODES)
def session(request, connect):
    """A connection of its own for each test: the first user makes the difference."""
    return connect(request.param)


def impersonates(session, end="COMMIT"):
    session.begin()
    session.is_alice()
    session.ok(end)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name, value", HARMFUL)
def test_what_could_hurt_the_next_user(session, name, value, way):
    before = show(session, name)
    impersonates(session)
    statement = way.format(name=name, value=value)
    for prelude in ([], ["BEGIN"], ["BEGIN", "SAVEPOINT s"]):
        for word in prelude:
            session.ok(word)
        if WAYS[way]:
            session.refused(statement, *REQUIRED)
        else:
            session.ok(statement)
        session.ok("ROLLBACK" if WAYS[way] else "COMMIT")
        assert show(session, name) == before
    session.leaves_nothing()


@pytest.mark.parametrize("end", ["ROLLBACK", "COMMIT AND CHAIN", "DISCARD ALL", "RESET ALL", "error"])
def test_there_is_no_way_back_to_a_session_without_users(session, end):
    session.begin()
    if end == "error":
        session.refused("SELECT 1/0", "22012")
        end = "ROLLBACK"
    if end in ("DISCARD ALL", "RESET ALL"):
        session.ok("COMMIT")
    session.ok(end)
    session.refused("SET standard_conforming_strings = off", *REQUIRED)
    session.leaves_nothing()


# The timeouts are long enough for the test.
BY_THE_APPLICATION = [*SHARED, *OTHER_STRINGS[:1], ("bytea_output", "escape"),
                      *((f"{name}_timeout", "54321") for name in ("statement", "lock", "idle_in_transaction_session"))]


@pytest.mark.parametrize("name, value", BY_THE_APPLICATION)
def test_an_application_that_connects_may_set_them(session, name, value):
    """Nobody has been on this connection: what it sets stays for all of its users."""
    for statement in (f"SET {name} = '{value}'", f"SELECT set_config('{name}', '{value}', false)"):
        session.ok(statement)
        assert show(session, name) == value
        session.ok(f"RESET {name}")
    session.ok(f"SET {name} = '{value}'")
    impersonates(session)
    assert show(session, name) == value
    session.ok("RESET ALL")
    session.leaves_nothing()


@pytest.mark.parametrize("name, value", SHARED)
def test_what_drivers_and_poolers_set_between_users(session, name, value):
    impersonates(session)
    for statement in (f"SET {name} = '{value}'", f"SELECT set_config('{name}', '{value}', false)"):
        session.ok(statement)
        assert show(session, name) == value
        session.ok(f"RESET {name}")
    session.leaves_nothing()


def test_a_quote_of_the_applications_stays_a_quote(session):
    """The attack: what the application quotes for bob ends where alice wants it to."""
    impersonates(session)
    session.run("SET standard_conforming_strings = off")
    session.run("SET backslash_quote = on")
    session.begin("bob")
    quoted = "\\' UNION SELECT secret FROM app.flights --".replace("'", "''")
    assert session.rows(f"SELECT '{quoted}'") == [(quoted.replace("''", "'"),)]
    session.ok("COMMIT")


@pytest.mark.parametrize("shared, allowed, refused", [
    ("", [], ["TimeZone = 'Asia/Tokyo'", "application_name = 'x'", "statement_timeout = 1",
              "SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"]),
    ("statement_*", ["statement_timeout = '1h'"], ["TimeZone = 'Asia/Tokyo'", "lock_timeout = 1"]),
    ("*", ["statement_timeout = '1h'", "lock_timeout = 1", "TimeZone = 'UTC'", "standard_conforming_strings = on"],
     ["standard_conforming_strings = off", "client_encoding = 'SJIS'", "work_mem = '1MB'", "role = 'alice'"])])
def test_the_administrator_decides(world, connect, shared, allowed, refused):
    world.sql("ALTER ROLE svc SET bodata.shared_settings = %s", (shared,))
    try:
        session = connect()
        impersonates(session)
        for setting in allowed:
            session.ok(f"SET {setting}")
        for setting in refused:
            session.refused(f"SET {setting}", *REQUIRED)
        session.refused("SET bodata.shared_settings = '*'", *REQUIRED)
        session.refused("SELECT set_config('bodata.shared_settings', '*', false)", "42501")
        session.leaves_nothing()
    finally:
        world.sql("ALTER ROLE svc RESET bodata.shared_settings")


# What applications set when they connect, and what a user might make of it.
CONNECTING = [("search_path", "alice"), ("client_min_messages", "error"), ("synchronous_commit", "off"),
              ("idle_session_timeout", "54321")]
if int(VERSION) >= 17:
    CONNECTING.append(("transaction_timeout", "54321"))


def warnings(answer):
    return [notice["M"] for notice in answer.notices if notice["C"] == "01000"]


@pytest.mark.parametrize("name, value", CONNECTING)
def test_what_an_application_sets_when_it_connects(session, name, value):
    """By a SET of its own it stays for all users; and the same SET between two of them changes nothing."""
    before = show(session, name)
    for statement in ("BEGIN", f"SET LOCAL {name} = '{value}'", "COMMIT"):
        assert not warnings(session.ok(statement))
    assert show(session, name) == before
    assert not warnings(session.ok(f"SET {name} = '{value}'"))
    for user in ("alice", "bob"):
        session.begin(user)
        assert show(session, name) == value
        session.ok("COMMIT")
        assert not warnings(session.ok(f"SET {name} TO '{value}'"))
        assert show(session, name) == value
    session.ok("RESET ALL")
    session.leaves_nothing()


@pytest.mark.parametrize("name, value", CONNECTING)
@pytest.mark.parametrize("has_had_a_user", [False, True])
def test_functions_do_not_set_it(session, name, value, has_had_a_user):
    before = show(session, name)
    if has_had_a_user:
        impersonates(session)
    session.refused(f"SELECT app.runs('SET {name} = ''{value}''')", *REQUIRED)
    for call in (f"set_config('{name}', '{value}', false)", f"set_config('{name}', '{value}', true)",
                 f"app.runs('SELECT set_config(''{name}'', ''{value}'', false)')"):
        session.ok(f"SELECT {call}")
        assert show(session, name) == before
    session.leaves_nothing()


@pytest.mark.parametrize("name, value", CONNECTING)
@pytest.mark.parametrize("way", ["SET {name} = '{value}'", "SET SESSION {name} TO '{value}'",
                                 "SET LOCAL {name} = '{value}'"])
@pytest.mark.parametrize("prelude", [[], ["BEGIN"], ["BEGIN", "SAVEPOINT s"],
                                     ["BEGIN", "SAVEPOINT s", "RELEASE s"]])
def test_the_next_user_does_not_meet_it(session, name, value, way, prelude):
    """Also where alice leaves a transaction open, in which the application goes on."""
    before = show(session, name)
    impersonates(session)
    for statement in prelude:
        session.ok(statement)
    answer = session.ok(way.format(name=name, value=value))
    assert any(f'"{name}"' in warning for warning in warnings(answer)), answer
    assert show(session, name) == before
    if "SAVEPOINT s" in prelude and "RELEASE s" not in prelude:
        session.ok("RELEASE s")
    session.begin("bob")
    assert show(session, name) == before
    session.is_alice("bob")
    session.ok("COMMIT")
    assert show(session, name) == before
    session.leaves_nothing()


def test_other_spellings_of_the_search_path(session):
    impersonates(session)
    for statement in ("SET SCHEMA 'alice'", "SET search_path TO alice, public", 'SET "Search_Path" = alice'):
        assert warnings(session.ok(statement)), statement
        assert show(session, "search_path") == '"$user", public'
    session.refused("SET client_min_messages = 'unheard of'", "22023")
    assert not warnings(session.ok('SET search_path = "$user", public'))
    session.leaves_nothing()


def test_a_set_to_the_value_in_force_is_no_change(session):
    """What a pool sets at each checkout; a timeout in another unit is the same."""
    session.ok("SET statement_timeout = '30s'")
    impersonates(session)
    for statement in ("SET statement_timeout = 30000", "SET LOCAL statement_timeout = '0.5min'",
                      "SET lock_timeout = 0", "SET bytea_output = 'hex'"):
        assert not warnings(session.ok(statement))
    session.refused("SET statement_timeout = 0", *REQUIRED)
    assert show(session, "statement_timeout") == "30000"
    session.leaves_nothing()


@pytest.mark.parametrize("statement, named", [
    ("SET work_mem = '1GB'", ["work_mem", "bodata.session_settings"]),
    ("SET myapp.tenant = 'x'", ["myapp.tenant", "bodata.session_settings"]),
    ("SET lock_timeout = 1", ["lock_timeout", "bodata.shared_settings"])])
def test_a_refusal_says_which_setting_and_what_to_do(session, statement, named):
    impersonates(session)
    error = session.run(statement).error
    assert error["D"] == "IMPERSONATION_REQUIRED"
    for name in named:
        assert name in error["M"] + error["H"]
    session.leaves_nothing()


def test_the_administrator_may_leave_it_to_everybody(world, connect):
    for which in ("session", "shared"):
        world.sql(f"ALTER ROLE svc SET bodata.{which}_settings = 'client_min_messages'")
    try:
        session = connect()
        impersonates(session)
        assert not warnings(session.ok("SET client_min_messages = 'error'"))
        assert show(session, "client_min_messages") == "error"
        session.leaves_nothing()
    finally:
        world.sql("ALTER ROLE svc RESET bodata.session_settings; ALTER ROLE svc RESET bodata.shared_settings")


@pytest.fixture
def shared(world, connect):
    """A new connection, as a pooler in transaction mode may give it to a user who has ended their transaction."""
    world.sql("ALTER ROLE svc SET bodata.shared_connections = on")
    yield connect()
    world.sql("ALTER ROLE svc RESET bodata.shared_connections")


def test_the_first_on_a_shared_connection_may_be_a_user(shared):
    for name, value in HARMFUL:
        before = show(shared, name)
        for way in WAYS:
            if WAYS[way]:
                shared.refused(way.format(name=name, value=value), *REQUIRED)
            else:
                shared.ok(way.format(name=name, value=value))
            assert show(shared, name) == before
    for name, value in CONNECTING:
        before = show(shared, name)
        assert warnings(shared.ok(f"SET {name} = '{value}'"))
        shared.ok(f"SELECT set_config('{name}', '{value}', false)")
        assert show(shared, name) == before
    for name, value in SHARED:
        shared.ok(f"SET {name} = '{value}'")
        assert show(shared, name) == value
    shared.ok("RESET ALL")
    shared.refused("SET bodata.shared_connections = off", *REQUIRED)
    shared.ok("SELECT set_config('search_path', 'alice', false)")
    assert show(shared, "search_path") == '"$user", public'
    shared.leaves_nothing()


# What clients send when they connect, with their defaults.
CLIENTS = {
    "Sequelize": ["SET standard_conforming_strings=on;SET client_min_messages TO warning;"
                  "SET TIME ZONE INTERVAL '+00:00' HOUR TO MINUTE"],
    "Rails": ["SET client_min_messages TO 'warning'", "SET standard_conforming_strings = on",
              "SET intervalstyle = iso_8601", "SET SESSION timezone TO 'UTC'", 'SET search_path TO "$user", public'],
    "Knex": ["select version();", 'set search_path to "public"'],
    "Laravel": ["set names 'utf8'", "set time zone 'UTC'", 'set search_path to "public"', "set synchronous_commit to on",
                "set session characteristics as transaction isolation level read committed"],
    "Prisma": ['SET search_path = "public"', "SELECT version()"],
    "TypeORM": ["SELECT version()", "SELECT * FROM current_schema()", "SHOW server_version"],
    "Django": ["SELECT set_config('TimeZone', 'UTC', false)", "SET TIME ZONE 'UTC'"],
    "asyncpg": ["SELECT current_setting('jit') AS cur, set_config('jit', 'off', false) AS new"],
    "pgjdbc": ["SET extra_float_digits = 3", "SET application_name = 'PostgreSQL JDBC Driver'",
               "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE", "SET SESSION search_path TO 'public'"],
    "psqlODBC": ["SET DateStyle = 'ISO';SET extra_float_digits = 2;show transaction_isolation"],
    "pgAdmin": ["SET DateStyle=ISO; SET client_min_messages=notice; SELECT set_config('bytea_output','hex',false) "
                "FROM pg_show_all_settings() WHERE name = 'bytea_output'; SET client_encoding='UTF8';",
                "SELECT gss_authenticated, encrypted FROM pg_catalog.pg_stat_gssapi WHERE pid = pg_backend_pid()"],
}


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_connect_with_their_defaults(connect, client):
    """To a connection of their own, and to one that a pooler has used for others."""
    session = connect()
    for _ in range(2):
        for statement in CLIENTS[client]:
            session.ok(statement)
        session.leaves_nothing()


@pytest.mark.parametrize("make", [NameSession, LastingSession])
def test_sessions_of_other_kinds(world, make):
    """A user who was named, and one of the session whose impersonation has ended."""
    session = make(world)
    session.begin()
    session.ok("COMMIT" if make is NameSession else "RESET immuta.immuta_user")
    for name, value in CONNECTING:
        before = show(session, name)
        assert warnings(session.ok(f"SET {name} = '{value}'"))
        assert show(session, name) == before
    session.close()
