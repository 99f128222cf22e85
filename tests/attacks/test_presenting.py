"""How a token is presented, and what happens where it cannot be.

Threats: 8, 11, 12, 14, 17, 19, 20, 31, 38, 40 (docs/threats.md).
"""

import itertools
import time

import pytest
from harness.fixtures import VERSION
from harness.world import digest
from scene import (COUNT, DENIED, INVALID, REQUIRED, UNSUPPORTED, Closed, LastingSession, Session, expect, settings,
                   token_of)
from test_identity import with_tokens

ALONE = ("25P01", "IMPERSONATION_NOT_SUPPORTED")
NOT_ALLOWED = ("42501", "IMPERSONATION_NOT_ALLOWED")
NOT_MAPPED = ("42704", "IMPERSONATION_NOT_MAPPED")
SET_LOCAL = "SET LOCAL bodata.impersonation_token = '{alice}'"
SET_CONFIG = "SELECT set_config('bodata.impersonation_token', '{alice}', true)"

# Row of threats.md, statement, the error in autocommit, the error in a block.
WAYS = [
    (11, SET_LOCAL, ALONE, None),
    (38, SET_CONFIG, ALONE, None),
    (38, "WITH x AS (SELECT set_config('bodata.impersonation_token', '{alice}', true)) SELECT * FROM x", ALONE,
     None),
    (38, "SELECT app.runs('SELECT set_config(''bodata.impersonation_token'', ''{alice}'', true)')", ALONE, None),
    (38, "SELECT app.runs('SET LOCAL bodata.impersonation_token = ''{alice}''')", ALONE, None),
    (38, "EXPLAIN ANALYZE " + SET_CONFIG, ALONE, None),
    (38, "EXPLAIN " + SET_CONFIG, None, "no effect"),
    (38, SET_CONFIG + " WHERE false", None, "no effect"),
    (38, "SELECT 1 FROM (VALUES (1), (2)) v (n) "
     "WHERE n = 1 OR set_config('bodata.impersonation_token', '{alice}', true) = ''",
     ALONE, None),
    (11, "SET bodata.impersonation_token = '{alice}'", UNSUPPORTED, UNSUPPORTED),
    (11, "SET SESSION bodata.impersonation_token = '{alice}'", UNSUPPORTED, UNSUPPORTED),
    (11, "SELECT set_config('bodata.impersonation_token', '{alice}', false)", UNSUPPORTED, UNSUPPORTED),
    (11, "SELECT app.runs('SET bodata.impersonation_token = ''{alice}''')", UNSUPPORTED, UNSUPPORTED),
    (11, "SET LOCAL bodata.impersonation_token = '{alice}', '{bob}'", ("22023", None), ("22023", None)),
    (31, "SET LOCAL bodata.impersonation_token = 'unknown'", INVALID, INVALID),
    (31, "SELECT set_config('bodata.impersonation_token', 'unknown', true)", INVALID, INVALID),
    # When the statement is planned, it has been parsed for the service user already.
    (2, "SELECT count("
        "alice.runs_immutable('SELECT set_config(''bodata.impersonation_token'', ''{alice}'', true)')) "
        "FROM app.orders", REQUIRED, REQUIRED),
    (2, "SELECT 1 FROM app.orders "
        "WHERE alice.runs_immutable('SELECT set_config(''bodata.impersonation_token'', ''{alice}'', true)') = 1",
     REQUIRED, REQUIRED),
    (2, "SELECT app.runs_immutable('SELECT set_config(''bodata.impersonation_token'', ''{alice}'', true)')",
     UNSUPPORTED, UNSUPPORTED),
    # Together with reading: the rows would be the service user's.
    (14, "SELECT set_config('bodata.impersonation_token', '{alice}', true), count(*) FROM app.orders",
     REQUIRED, REQUIRED),
    (14, "SELECT set_config('bodata.impersonation_token', '{alice}', true), alice.invoker_reads()",
     REQUIRED, REQUIRED),
    (12, "UPDATE pg_settings SET setting = '{alice}' WHERE name = 'bodata.impersonation_token'", None,
     "no effect"),
    (12, "SELECT app.alias_set_config('bodata.impersonation_token', '{alice}', true)", REQUIRED, REQUIRED),
    (12, "DO $$ BEGIN SET LOCAL bodata.impersonation_token = '{alice}'; END $$", REQUIRED, REQUIRED),
    (12, "CALL alice.commits()", REQUIRED, REQUIRED),
    (12, "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SET bodata.impersonation_token = '{alice}' "
     "AS 'SELECT 1'",
     REQUIRED, REQUIRED),
    (12, "ALTER ROLE svc SET bodata.impersonation_token = '{alice}'", REQUIRED, REQUIRED),
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}: {way[1][:90]}")
def test_ways_to_present_a_token(world, session, way):
    """Alone, in a block, and with what follows: it takes effect for all of the rest, or it is an error."""
    _, statement, alone, in_block = way
    statement = with_tokens(world, statement)
    if alone:
        session.refused(statement, *alone)
    else:
        session.ok(statement)
    session.is_nobody()
    session.ok("BEGIN")
    if in_block == "no effect":
        session.ok(statement)
        session.is_nobody()
        session.ok("ROLLBACK")
    elif in_block:
        session.refused(statement, *in_block)
        session.ok("ROLLBACK")
    else:
        session.ok(statement)
        session.is_alice()
        session.ok("COMMIT")
    session.leaves_nothing()


def test_a_token_that_nothing_uses(session):
    """Row 38: in a block of its own it is harmless."""
    for end in ("COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "PREPARE TRANSACTION 'x'"):
        session.begin()
        if end.startswith("PREPARE"):
            session.refused(end, *UNSUPPORTED)
        else:
            session.ok(end)
        session.leaves_nothing()


def test_ways_around_the_transaction_are_refused_to_others_too(world, connect):
    """Row 38, by a login that needs no token (`bodata.require_token` off) and so may CALL and DO."""
    world.sql("CREATE PROCEDURE app.presents(token text, sql text) LANGUAGE plpgsql AS $$ BEGIN "
              "PERFORM set_config('bodata.impersonation_token', token, true); COMMIT; EXECUTE sql; END $$")
    token = token_of(world, "alice")
    try:
        for mode in ("simple", "extended"):
            session = connect(mode, "migrator", "migrator-password")
            assert session.value("SELECT count(*) FROM app.orders") == "300"
            session.refused(f"CALL app.presents('{token}', 'SELECT 1')", *UNSUPPORTED)
            session.refused(f"DO $$ BEGIN SET LOCAL bodata.impersonation_token = '{token}'; COMMIT; END $$",
                            *UNSUPPORTED)
            performs = f"DO $$ BEGIN PERFORM set_config('bodata.impersonation_token', '{token}', true); END $$"
            session.refused(performs, *ALONE)
            assert session.value("SELECT current_user") == "migrator"
            session.ok("BEGIN")
            session.ok(performs)
            session.is_alice()
            session.ok("COMMIT")
            session.ok("BEGIN")
            session.ok("SELECT count(*) FROM app.orders")
            session.present()
            assert session.rows("SELECT count(*), min(carrier) FROM app.orders") == [("100", "UA")]
            session.ok("ROLLBACK")
            assert session.value("SELECT count(*) FROM app.orders") == "300"
    finally:
        world.sql("DROP PROCEDURE app.presents(text, text)")


def test_plan_time_and_deferred_presentation_by_others(world, connect):
    """Row 2: a falsely IMMUTABLE function, or a deferred trigger, presents alice's token while the statement has
    been parsed, or is over, for a login that sees more than she does."""
    token = token_of(world, "alice")
    world.sql("CREATE FUNCTION app.presents_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
              f"PERFORM set_config('bodata.impersonation_token', '{token}', true); RETURN NEW; END $$; "
              "CREATE TABLE app.presenting (a int); GRANT ALL ON app.presenting TO PUBLIC; "
              "CREATE CONSTRAINT TRIGGER p AFTER INSERT ON app.presenting DEFERRABLE INITIALLY DEFERRED "
              "FOR EACH ROW EXECUTE FUNCTION app.presents_at_commit()")
    presents = f"alice.runs_immutable('SELECT set_config(''bodata.impersonation_token'', ''{token}'', true)')"
    try:
        for mode in ("simple", "extended"):
            session = connect(mode, "migrator", "migrator-password")
            for block in (False, True):
                for statement in (f"SELECT count(*) FROM app.orders WHERE {presents} = 1",
                                  f"DELETE FROM app.orders WHERE {presents} = 1"):
                    if block:
                        session.ok("BEGIN")
                    session.refused(statement, *UNSUPPORTED)
                    session.ok("ROLLBACK")
            session.refused("INSERT INTO app.presenting VALUES (1)", *UNSUPPORTED)
            session.ok("BEGIN")
            session.ok("INSERT INTO app.presenting VALUES (1)")
            session.refused("COMMIT", *UNSUPPORTED)
            assert session.value("SELECT count(*) FROM app.orders") == "300"
            assert session.value("SELECT count(*) FROM app.presenting") == "0"
    finally:
        world.sql("DROP TABLE app.presenting; DROP FUNCTION app.presents_at_commit()")


def test_a_token_from_the_connection_string(world):
    """Row 12: PGOPTIONS, a start-up parameter, and settings of role and database."""
    token = world.token()
    for extra in ({"options": f"-c bodata.impersonation_token={token}"}, {"bodata.impersonation_token": token}):
        with pytest.raises(Closed) as refused:
            Session(world, **extra)
        error = refused.value.args[0]
        assert (error["C"], error["D"]) == UNSUPPORTED
        assert token not in str(error)
    for extra in ({"options": "-c role=alice"}, {"role": "postgres"},
                  {"options": "-c session_authorization=postgres"}):
        with pytest.raises(Closed):
            Session(world, **extra)
    session = Session(world, options="-c bodata.impersonation_token=")
    session.leaves_nothing()
    session.close()


@pytest.mark.parametrize("statement", [
    "ALTER ROLE svc SET bodata.impersonation_token = '{}'",
    "ALTER DATABASE immuta SET bodata.impersonation_token = '{}'",
    "ALTER ROLE ALL SET bodata.impersonation_token = '{}'", "ALTER SYSTEM SET bodata.impersonation_token = '{}'",
    "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SET bodata.impersonation_token = '{}' AS 'SELECT 1'"])
def test_a_token_cannot_be_stored(world, connect, statement):
    """Row 12: not even by the superuser, who would leave it in a catalog or a file."""
    token = world.token()
    session = connect("simple", "postgres", world.server.superuser_password)
    answer = session.run(statement.format(token))
    assert answer.error is not None and answer.error["C"] in ("25000", "55P02"), answer
    assert token not in str({k: v for k, v in answer.error.items() if k != "q"})
    stored = "SELECT count(*) FROM pg_db_role_setting WHERE setconfig::text LIKE '%impersonation_token%'"
    assert world.value(stored) == 0
    fresh = connect()
    fresh.leaves_nothing()


def test_a_token_in_the_configuration_file(world, connect):
    token = world.token()
    configuration = world.server.data / "postgresql.conf"
    before = configuration.read_text()
    session = connect()
    try:
        configuration.write_text(f"{before}\nbodata.impersonation_token = '{token}'\n")
        loaded = world.value("SELECT pg_conf_load_time()")
        world.sql("SELECT pg_reload_conf()")
        end = time.monotonic() + 10
        while world.value("SELECT pg_conf_load_time()") == loaded and time.monotonic() < end:
            time.sleep(0.02)
        session.leaves_nothing()
        connect().leaves_nothing()
        assert session.value("SHOW bodata.impersonation_token") == ""
    finally:
        configuration.write_text(before)
        world.sql("SELECT pg_reload_conf()")


BAD = ["x", " ", "a b", "x" * 16384, "x" * 16385, "x" * 10_000_000, "a\r\nX-Admin: 1", "a\tb", "\u00e9", "\u200b",
       "''",
       "\\", "; DROP TABLE x; --", "%s%n", "\x7f", "-", "********"]


@pytest.mark.parametrize("token", BAD, ids=lambda token: ascii(token[:20]))
def test_guesses(session, token):
    """Rows 20 and 31: one answer for all of them, without the text, in both protocols; also as a parameter."""
    quoted = token.replace("'", "''")
    answers = []
    for statement, values in ((f"SET LOCAL bodata.impersonation_token = '{quoted}'", ()),
                              (f"SELECT set_config('bodata.impersonation_token', '{quoted}', true)", ()),
                              ("SELECT set_config('bodata.impersonation_token', $1, true)", (token,))):
        session.ok("BEGIN")
        answer = session.run(statement, *values)
        expect(answer, *INVALID)
        answers.append((answer.error["M"], answer.error["D"], answer.error["H"]))
        assert answer.error.get("W", "").replace("'********'", "") in ("", "unnamed portal with parameters: $1 = ")
        if len(token) > 4 and token != "********":
            assert token not in str(answer.error)
        session.ok("ROLLBACK")
    assert len(set(answers)) == 1
    session.leaves_nothing()


def test_a_token_with_a_nul(session):
    expect(session.wire.query_extended("SELECT set_config('bodata.impersonation_token', $1, true)", "a\0b"),
           "22021")
    session.leaves_nothing()


def test_unknown_expired_revoked_and_disabled_are_not_told_apart(world, session):
    """Row 31."""
    world.sql("CREATE ROLE frank; SELECT immuta.create_user('frank', postgres_role => 'frank')")
    try:
        tokens = {kind: world.token("frank") for kind in ("expired", "revoked", "disabled")}
        tokens["unknown"] = tokens["revoked"][::-1]
        world.sql("SELECT immuta.revoke_token(%s)", (tokens["revoked"],))
        world.sql("UPDATE immuta.token SET last_used_at = now() - interval '2 hours' "
                  "WHERE digest = %s", (digest(tokens["expired"]),))
        world.sql("SELECT immuta.disable_user('frank')")
        seen = set()
        for kind, token in tokens.items():
            session.ok("BEGIN")
            answer = session.run(f"SET LOCAL bodata.impersonation_token = '{token}'")
            expect(answer, *INVALID, kind)
            seen.add(str(sorted(answer.error.items())))
            session.ok("ROLLBACK")
            assert session.value("SELECT immuta.check_token($1)", token) == '{"active": false}', kind
        assert len(seen) == 1
    finally:
        world.sql("SELECT immuta.drop_user('frank'); DROP ROLE frank")
    session.leaves_nothing()


MAPPED = "UPDATE immuta.user_account SET postgres_role = '{}'::regrole WHERE userid = 'target'"
NAMED = "UPDATE pg_authid SET rolname = '{}' WHERE rolname = 'target'"
# What the role is made with, and what makes it privileged after the mapping was written.
TARGETS = {
    "the impersonating login": ("", MAPPED.format("svc")),
    "the other service login": ("", MAPPED.format("migrator")),
    "a predefined role": ("", MAPPED.format("pg_monitor")),
    **{attribute: (attribute, "") for attribute in ("SUPERUSER", "BYPASSRLS", "CREATEROLE", "REPLICATION")},
    **{f"made {attribute}": ("", f"ALTER ROLE target {attribute}") for attribute in (
        "SUPERUSER", "BYPASSRLS", "CREATEROLE", "REPLICATION")},
    **{name: ("", f"GRANT {name} TO target") for name in (
        "pg_read_server_files", "pg_write_server_files", "pg_execute_server_program", "pg_signal_backend",
        "pg_read_all_settings", "pg_stat_scan_tables", *(["pg_checkpoint"] if int(VERSION) > 14 else []),
        *(["pg_use_reserved_connections", "pg_create_subscription"] if int(VERSION) > 15 else []),
        *(["pg_maintain"] if int(VERSION) > 16 else []),
        "bodata_impersonate_user", "immuta_impersonation", "immuta_admin", "postgres", "svc")},
    "member through another": ("", "CREATE ROLE between; GRANT between TO target; "
                                   "GRANT pg_execute_server_program TO between"),
    **{f"named {name}": ("", NAMED.format(name)) for name in ("none", "public", "pg_x")},
}


@pytest.mark.parametrize("kind", TARGETS)
def test_privileged_targets(world, session, kind):
    """Row 19: whatever the mapping says, and also if it became so after the mapping was written."""
    attribute, make = TARGETS[kind]
    world.sql(f"CREATE ROLE target {attribute}")
    try:
        world.sql("INSERT INTO immuta.user_account (userid, mapping, postgres_role) "
                  "VALUES ('target', 'explicit', 'target'::regrole)")
        token = world.token("target")
        if make:
            world.sql(make)
        session.ok("BEGIN")
        session.refused(f"SET LOCAL bodata.impersonation_token = '{token}'", *NOT_ALLOWED)
        session.leaves_nothing()
    finally:
        world.sql("DELETE FROM immuta.user_account WHERE userid = 'target'")
        world.sql("UPDATE pg_authid SET rolname = 'target' WHERE rolname IN ('none', 'public', 'pg_x')")
        world.sql("DROP ROLE IF EXISTS target; DROP ROLE IF EXISTS between")


LOOK_ALIKES = ["Alice", "ALICE", "alice ", " alice", "alice\u200b", "\u0430lice", "ali\u0441e", "alice'",
               '"alice"', "al\u00eece", "alice\t", "x" * 255, "none", "public", "svc", "postgres"]


@pytest.mark.parametrize("userid", LOOK_ALIKES, ids=ascii)
def test_look_alikes_are_nobody(world, session, userid):
    """Row 20: mapped by name, and compared byte by byte; marked roles only."""
    world.sql("GRANT immuta_mappable TO alice")
    try:
        world.sql("SELECT immuta.create_user(%s)", (userid,))
        token = world.token(userid)
        session.ok("BEGIN")
        session.refused(f"SET LOCAL bodata.impersonation_token = '{token}'", *NOT_MAPPED)
        session.leaves_nothing()
    finally:
        world.sql("DELETE FROM immuta.user_account WHERE userid = %s", (userid,))
        world.sql("REVOKE immuta_mappable FROM alice")


def test_user_ids_that_cannot_be(world, connect):
    """Row 20: too long, empty, or with a NUL."""
    session = connect("extended", "postgres", world.server.superuser_password)
    for userid, sqlstate in (("", "22023"), ("x" * 256, "22023"), ("x" * 1_000_000, "22023"), ("a\0b", "22021"),
                             (None, "22004"), ("alice", "42710")):
        session.refused("SELECT immuta.create_user($1)", sqlstate, None, userid)
    session.refused("SELECT immuta.map_user('alice', 'none')", "42704")
    session.refused("SELECT immuta.map_user('alice', 'public')", "42704")
    session.refused("SELECT immuta.map_user('alice', 'svc')", *NOT_ALLOWED)
    session.refused("SELECT immuta.map_user('alice', 'postgres')", *NOT_ALLOWED)


def test_a_token_of_another_database(world, connect):
    """Row 34."""
    world.sql("CREATE DATABASE other")
    try:
        world.server.psql("-c", "CREATE EXTENSION immuta_ext", dbname="other")
        other = connect(dbname="other")
        other.ok("BEGIN")
        other.refused(f"SET LOCAL bodata.impersonation_token = '{token_of(world, 'alice')}'", *INVALID)
        other.close()
    finally:
        world.sql("DROP DATABASE other WITH (FORCE)")


MODES_OF_TRANSACTIONS = ["ISOLATION LEVEL SERIALIZABLE", "ISOLATION LEVEL REPEATABLE READ", "READ ONLY",
                         "ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE", "READ WRITE, NOT DEFERRABLE"]


@pytest.mark.parametrize("when, characteristics",
                         list(itertools.product(("before", "begin", "after"), MODES_OF_TRANSACTIONS)))
def test_characteristics_of_the_transaction(session, when, characteristics):
    """Row 40: chosen before or after the token; they hold up to a commit that undoes settings, and into a
    chain."""
    level = "serializable" if "SERIALIZABLE" in characteristics else \
        "repeatable read" if "REPEATABLE" in characteristics else "read committed"
    read_only = "on" if "READ ONLY" in characteristics else "off"
    shown = "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')"
    session.ok(f"BEGIN {characteristics}" if when == "begin" else "BEGIN")
    if when == "before":
        session.ok(f"SET TRANSACTION {characteristics}")
    session.present()
    if when == "after":
        session.ok(f"SET TRANSACTION {characteristics}")
    session.is_alice()
    assert session.rows(shown) == [(level, read_only)]
    session.ok("SET search_path = alice")
    session.ok("SAVEPOINT s")
    if read_only == "on":
        session.refused("INSERT INTO app.flights VALUES (3000, 'UA')", "25006")
    else:
        session.ok("INSERT INTO app.flights VALUES (3000, 'UA')")
    session.ok("ROLLBACK TO s")
    session.ok("COMMIT AND CHAIN")
    assert session.rows(shown) == [(level, read_only)]
    session.present("bob")
    session.is_alice("bob")
    session.ok("COMMIT")
    assert session.rows(shown) == [("read committed", "off")]
    session.leaves_nothing()


def test_serialization_failures_are_the_applications_business(world, connect):
    """Two serializable transactions of two users that would contradict each other: one fails with 40001, and its
    session goes on."""
    one, two = connect("simple"), connect("extended")
    for session in (one, two):
        session.begin("alice", "ISOLATION LEVEL SERIALIZABLE")
        session.ok("SELECT count(*) FROM app.flights WHERE delay = 59")
    one.ok("UPDATE app.flights SET delay = 58 WHERE id = 59 AND carrier = 'UA'")
    one.ok("INSERT INTO app.flights VALUES (3001, 'UA', 59)")
    two.ok("INSERT INTO app.flights VALUES (3002, 'UA', 59)")
    one.ok("COMMIT")
    two.refused("COMMIT", "40001")
    world.sql("DELETE FROM app.flights WHERE id > 3000")
    for session in (one, two):
        session.leaves_nothing()


def test_cancelled_statements(session):
    """A timeout inside the user's transaction."""
    session.begin()
    session.ok("SET LOCAL statement_timeout = '20ms'")
    session.refused("SELECT pg_sleep(5)", "57014")
    session.ok("ROLLBACK")
    session.leaves_nothing()
    session.begin()
    session.ok("SAVEPOINT s")
    session.ok("SET LOCAL statement_timeout = '20ms'")
    session.refused("DO $$ BEGIN PERFORM pg_sleep(5); END $$", "57014")
    session.ok("ROLLBACK TO s")
    session.is_alice()
    session.ok("COMMIT")
    session.leaves_nothing()


@pytest.mark.parametrize("scope", ["SET", "SET LOCAL"])
def test_a_role_that_was_set_before_the_token(world, connect, scope):
    """By a login that needs no token: the role is alice's while it lasts, and what it was afterwards."""
    world.sql("GRANT owner TO migrator")
    try:
        for mode in ("simple", "extended"):
            session = connect(mode, "migrator", "migrator-password")
            session.ok("BEGIN")
            session.ok(f"{scope} ROLE owner")
            session.present()
            session.is_alice()
            for statement in ("RESET ROLE", "SET ROLE owner", "SELECT set_config('role', 'owner', true)"):
                session.ok("SAVEPOINT s")
                session.refused(statement, "42501")
                session.ok("ROLLBACK TO s")
            session.is_alice()
            session.ok("COMMIT")
            assert session.value("SELECT current_user") == ("owner" if scope == "SET" else "migrator")
            session.ok("RESET ROLE")
            assert session.value("SELECT current_user") == "migrator"
    finally:
        world.sql("REVOKE owner FROM migrator")


def test_nobody_else_may_present(world, connect):
    session = connect("simple", "plain", "plain-password")
    session.ok("BEGIN")
    session.refused(f"SET LOCAL bodata.impersonation_token = '{token_of(world, 'alice')}'", *NOT_ALLOWED)
    session.ok("ROLLBACK")
    session.refused(COUNT, *DENIED)
    session.ok("SELECT * FROM app.everyone")


# What PostGraphile's pgSettings and PostgREST send: everything in one statement, the token anywhere in it.
ALONG = {"request.claims": '{"sub": "alice"}', "search_path": "alice, app", "statement_timeout": "54321",
         "work_mem": "5MB"}
TOKEN = "bodata.impersonation_token"


def one_by_one(names, is_local, is_bound, values):
    calls = (f"set_config('{name}', " + (f"${number}" if is_bound else quote(values[name])) + f", {is_local})"
             for number, name in enumerate(names, 1))
    return f"SELECT {', '.join(calls)}", [values[name] for name in names] if is_bound else []


def from_rows(names, is_local, is_bound, values):
    rows = (f"('{name}', " + (f"${number}" if is_bound else quote(values[name])) + "::text)"
            for number, name in enumerate(names, 1))
    call = f"set_config(name, value, name = '{TOKEN}' OR {is_local})"
    return f"WITH v (name, value) AS (VALUES {', '.join(rows)}) SELECT {call} FROM v", \
        [values[name] for name in names] if is_bound else []


def quote(text):
    return "'" + text.replace("'", "''") + "'"


@pytest.mark.parametrize("write", [one_by_one, from_rows])
@pytest.mark.parametrize("is_bound", [False, True])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_what_is_set_along_holds_for_the_transaction(world, session, write, is_bound, place):
    before = settings(session)
    names = list(ALONG)
    names.insert(place, TOKEN)
    for is_local in ("true", "false") if write is from_rows else ("true",):
        for user in ("alice", "bob"):
            session.ok("BEGIN")
            statement, values = write(names, is_local, is_bound, {**ALONG, TOKEN: token_of(world, user)})
            session.ok(statement, *values)
            for name, value in ALONG.items():
                assert session.value(f"SELECT current_setting('{name}')") == value.replace("54321", "54321ms")
            session.is_alice(user)
            session.ok("COMMIT")
            assert {**settings(session), "request.claims": None} == {**before, "request.claims": None}
            assert session.value("SELECT current_setting('request.claims', true)") in (None, "")
    session.leaves_nothing()


def test_what_a_function_sets_along(world, session):
    call = "app.runs('SELECT set_config(''search_path'', ''alice'', true)')"
    session.ok("BEGIN")
    session.ok(f"SELECT {call}, set_config('{TOKEN}', '{token_of(world, 'alice')}', true)")
    assert session.value("SHOW search_path") == "alice"
    session.ok("ROLLBACK")
    session.leaves_nothing()


def test_statements_that_overlap(world, session):
    """What is set along holds also where another statement starts before this one runs."""
    wire = session.wire
    token = token_of(world, "alice")
    session.ok("BEGIN")
    for name, sql in (("a", f"SELECT set_config('{TOKEN}', '{token}', true), set_config('request.claims', 'x', true)"),
                      ("b", "SELECT set_config('application_name', 'x', true)")):
        wire.parse(sql, name=name)
        wire.bind(portal=name, name=name)
    wire.execute("a")
    wire.sync()
    wire.send()
    answer = wire.read()
    assert answer.error is None, answer.error
    assert session.value("SELECT current_setting('request.claims')") == "x"
    session.ok("COMMIT")
    for name in "ab":
        session.ok(f"DEALLOCATE {name}")
    session.leaves_nothing()


@pytest.mark.parametrize("name, sqlstate", [
    ("role", "25000"), ("session_authorization", "25000"), ("bodata.require_token", "42501"),
    ("bodata.token_idle_ttl", "42501"), ("log_statement", "42501")])
@pytest.mark.parametrize("order", ["{token}, {other}", "{other}, {token}"])
def test_what_cannot_be_set_along_is_an_error(world, session, name, sqlstate, order):
    value = {"role": "bodata_impersonate_user", "session_authorization": "svc", "log_statement": "none"}.get(name, "1")
    calls = order.format(token=f"set_config('{TOKEN}', '{token_of(world, 'alice')}', true)",
                         other=f"set_config('{name}', '{value}', true)")
    session.ok("BEGIN")
    session.refused(f"SELECT {calls}", sqlstate)
    session.ok("ROLLBACK")
    session.is_nobody()
    session.leaves_nothing()


@pytest.mark.skipif(int(VERSION) < 15, reason="no privileges on parameters before 15")
def test_along_nobody_sets_what_the_user_could_not(world, session):
    """The login has a privilege that alice has not."""
    world.sql("GRANT SET ON PARAMETER log_statement TO svc")
    try:
        session.ok("BEGIN")
        session.refused(f"SELECT set_config('{TOKEN}', '{token_of(world, 'alice')}', true), "
                        "set_config('log_statement', 'none', true)", "42501")
        session.ok("ROLLBACK")
    finally:
        world.sql("REVOKE SET ON PARAMETER log_statement FROM svc")
    session.leaves_nothing()


def test_what_stays_anyway_may_be_set_along(world, connect):
    """The seed, the characteristics of the transaction, and a name that comes to name the user."""
    world.sql("ALTER ROLE svc SET bodata.application_name_template = '{application_name} for {userid}'")
    try:
        session = connect()
        for user in ("alice", "bob"):
            session.ok("BEGIN")
            session.ok(f"SELECT set_config('{TOKEN}', '{token_of(world, user)}', true), "
                       "set_config('seed', '0.5', true), set_config('transaction_read_only', 'on', true), "
                       "set_config('application_name', 'shop', true)")
            assert session.value("SHOW application_name") == f"shop for {user}"
            assert session.value("SHOW transaction_read_only") == "on"
            session.ok("COMMIT")
        session.leaves_nothing()
    finally:
        world.sql("ALTER ROLE svc RESET bodata.application_name_template")


def test_what_is_set_along_for_the_session(world):
    session = LastingSession(world)
    session.ok(f"SELECT set_config('{TOKEN}', '{token_of(world, 'alice')}', false), "
               "set_config('search_path', 'alice', false)")
    session.is_alice()
    assert session.value("SHOW search_path") == "alice"
    session.end()
    assert session.value("SHOW search_path") == '"$user", public'
    session.leaves_nothing()
    session.close()
