"""A token inside savepoints, where drivers put it: whatever is released or rolled back, the session is the user's or
nobody's. Honest use first, then the attacks.

Threats: 8 (docs/threats.md).
"""

import random

import pytest
from scene import ACTIVE, ALICE_ROWS, COUNT, REQUIRED, UNSUPPORTED, LastingSession, expect, settings, token_of

OWN = "SELECT count(*), min(carrier), max(carrier) FROM app.orders"
WHO = "SELECT current_user, session_user, current_setting('role'), (SELECT userid FROM immuta.whoami())"


def is_nobody(session):
    """Within the transaction, which goes on."""
    assert session.rows(WHO) == [("svc", "svc", "none", None)]
    session.ok("SAVEPOINT probe")
    for statement in (COUNT, OWN, "INSERT INTO app.orders VALUES (1000, 'UA')", "CREATE TEMP TABLE t (a int)",
                      "SELECT set_config('role', 'alice', true)", "DECLARE c CURSOR FOR SELECT 1"):
        answer = session.run(statement)
        assert answer.error and answer.error["C"] == "42501", (statement, answer.error)
        session.ok("ROLLBACK TO probe")
    session.ok("RELEASE probe")


def is_user(session, user="alice"):
    assert session.rows(WHO) == [(user, "svc", user, user)]
    session.ok("SAVEPOINT probe")
    for statement in ("RESET ROLE", "SET ROLE svc", "SELECT set_config('role', 'none', false)",
                      "SET SESSION AUTHORIZATION DEFAULT"):
        answer = session.run(statement)
        assert answer.error and answer.error["C"] == "42501", (statement, answer.error)
        session.ok("ROLLBACK TO probe")
    session.ok("RELEASE probe")
    session.is_alice(user)


# ---- what drivers do

def test_psql_puts_a_savepoint_around_each_statement(session):
    """ON_ERROR_ROLLBACK; psqlODBC does the same."""
    session.ok("BEGIN")
    for statement in (f"SET LOCAL bodata.impersonation_token = '{token_of(session.world, 'alice')}'", COUNT, "SELECT 1/0", COUNT):
        session.ok("SAVEPOINT pg_psql_temporary_savepoint")
        answer = session.run(statement)
        session.ok(f"{'ROLLBACK TO' if answer.error else 'RELEASE'} pg_psql_temporary_savepoint")
    assert session.rows(COUNT) == ALICE_ROWS
    is_user(session)
    session.ok("COMMIT")
    session.leaves_nothing()


def test_pgjdbc_releases_none(session):
    """autosave=always: the same name again and again."""
    session.ok("BEGIN")
    for statement in (f"SET LOCAL bodata.impersonation_token = '{token_of(session.world, 'alice')}'", COUNT, "SELECT 1/0", COUNT):
        session.ok("SAVEPOINT PGJDBC_AUTOSAVE")
        if session.run(statement).error:
            session.ok("ROLLBACK TO SAVEPOINT PGJDBC_AUTOSAVE")
    is_user(session)
    session.ok("COMMIT")
    session.leaves_nothing()


def test_a_user_per_nested_transaction(session):
    """Rolled back, the next one takes their place; released, they stay."""
    session.ok("BEGIN")
    for user in ("alice", "bob"):
        session.ok("SAVEPOINT nested")
        session.present(user)
        is_user(session, user)
        session.ok("ROLLBACK TO nested")
        is_nobody(session)
    session.present("alice")
    session.ok("RELEASE nested")
    is_user(session)
    session.ok("SAVEPOINT nested")
    session.refused(f"SET LOCAL bodata.impersonation_token = '{token_of(session.world, 'bob')}'", *ACTIVE)
    session.ok("ROLLBACK TO nested")
    is_user(session)
    session.ok("COMMIT")
    session.leaves_nothing()


def test_what_the_application_has_set_stays(session):
    """Before the savepoint, in it and with the token; what the user sets goes."""
    session.ok("BEGIN")
    session.ok("SET application_name = 'outside'")
    session.ok("SAVEPOINT s")
    session.ok("SET TIME ZONE 'Europe/Berlin'")
    session.ok("SET LOCAL DateStyle = German")
    session.ok("SELECT set_config('bodata.impersonation_token', $1, true), set_config('app.tenant', 'x', true)",
               token_of(session.world, "alice"))
    session.ok("SET extra_float_digits = 0")
    session.ok("RELEASE s")
    session.ok("SET IntervalStyle = iso_8601")
    shown = "SELECT " + ", ".join(f"current_setting('{name}', true)" for name in (
        "application_name", "TimeZone", "DateStyle", "app.tenant", "extra_float_digits", "IntervalStyle"))
    assert session.rows(shown) == [("outside", "Europe/Berlin", "German, DMY", "x", "0", "iso_8601")]
    session.ok("COMMIT")
    assert session.rows(shown) == [("outside", "Europe/Berlin", "ISO, MDY", "", "1", "postgres")]
    session.leaves_nothing()


# ---- attacks

# What alice sends in the savepoint in which she was presented; {} is what the attack ends with.
WORK = [
    ["DECLARE c CURSOR FOR SELECT * FROM app.flights", "FETCH 1 FROM c"],
    ["CREATE TEMP TABLE left_behind AS SELECT 1 AS a"], ["INSERT INTO alice.seen_at_commit VALUES (1)"],
    ["INSERT INTO alice.settings_at_commit VALUES (1)"], ["SET search_path = alice"], ["SET work_mem = '123MB'"],
    ["SET LOCAL TimeZone = 'Asia/Tokyo'"], ["SELECT setseed(0.5)"], ["SELECT nextval('alice.numbers')"],
    ["RESET ALL"], ["SELECT alice.reset_role_caught()"], ["SELECT alice.sets_path_caught()"],
    ["DO $$ BEGIN BEGIN PERFORM 1/0; EXCEPTION WHEN OTHERS THEN NULL; END; END $$"],
    ["SAVEPOINT inner1", "SET search_path = alice", "RELEASE inner1"],
    ["SAVEPOINT inner1", "SAVEPOINT inner2", "RELEASE inner1"], ["SAVEPOINT s"],
    ["SET TRANSACTION READ ONLY"], ["SELECT pg_advisory_xact_lock(1)"], ["SELECT lo_from_bytea(0, 'x')"],
    ["SELECT pg_advisory_xact_lock(2)", "NOTIFY n"], ["CREATE FUNCTION alice.made() RETURNS int LANGUAGE sql AS 'SELECT 1'"],
]


@pytest.mark.parametrize("work", WORK, ids=lambda work: "; ".join(work)[:80])
@pytest.mark.parametrize("end", ["ROLLBACK TO s", "ROLLBACK TO around", "error", "RELEASE s, ROLLBACK TO around"])
def test_rolling_back_past_the_token_ends_in_nobody(session, work, end):
    session.ok("SET application_name = 'the application'")
    before, told = settings(session), dict(session.wire.parameters)
    session.ok("BEGIN")
    session.ok("SAVEPOINT around")
    session.ok("SAVEPOINT s")
    session.present()
    for statement in work:
        session.ok(statement)
    if work == ["SAVEPOINT s"]:
        is_user(session)
        session.ok("ROLLBACK TO s")
        is_user(session)
        session.ok("RELEASE s")
    for statement in end.split(", "):
        if statement == "error":
            session.refused("SELECT 1/0", "22012")
            # A savepoint of hers in which it happened leaves her impersonated; that of the token does not.
            session.ok("ROLLBACK TO s")
        else:
            session.ok(statement)
    is_nobody(session)
    for left in ("FETCH 1 FROM c", "SELECT * FROM left_behind", "SELECT lastval()"):
        session.ok("SAVEPOINT look")
        assert session.run(left).error, left
        session.ok("ROLLBACK TO look")
    session.ok("RELEASE look")
    assert settings(session) == before
    # The next user of the same transaction meets nothing of her either.
    session.present("bob")
    is_user(session, "bob")
    session.ok("COMMIT")
    assert settings(session) == before and session.wire.parameters == told
    assert session.world.value("SELECT count(*) FROM alice.seen WHERE who LIKE '%%at commit%%'") == 0
    session.leaves_nothing()


SETTINGS = ["SET search_path = alice", "SELECT set_config('app.tenant', 'alice', false)", "SET work_mem = '123MB'",
            "SET TIME ZONE 'Asia/Tokyo'", "RESET ALL", "SET LOCAL search_path = alice", "SELECT alice.sets_path()",
            "INSERT INTO alice.settings_at_commit VALUES (1)", "SET standard_conforming_strings = off"]


@pytest.mark.parametrize("statement", SETTINGS)
@pytest.mark.parametrize("way", ["in s", "after RELEASE s", "in a savepoint after that", "in an inner one, released"])
def test_settings_do_not_outlive_the_transaction(session, statement, way):
    session.ok("SET application_name = 'the application'")
    before, told = settings(session), dict(session.wire.parameters)
    for end in ("COMMIT", "ROLLBACK", "COMMIT AND CHAIN"):
        session.ok("BEGIN")
        session.ok("SAVEPOINT s")
        session.present()
        if way.startswith("after") or way.startswith("in a"):
            session.ok("RELEASE s")
        if way.startswith("in a"):
            session.ok("SAVEPOINT inner1")
        session.ok(statement)
        if way.endswith("released"):
            session.ok("RELEASE inner1")
        session.ok(end)
        if "CHAIN" in end:
            session.ok("ROLLBACK")
        assert settings(session) == before and session.wire.parameters == told
        assert session.value("SELECT current_setting('app.tenant', true)") in (None, "")
    session.leaves_nothing()


def test_a_cursor_from_before_the_token(session):
    """The service login's own, of a catalog: closed to her, and its own again after her."""
    session.ok("BEGIN")
    if session.mode == "extended":
        session.wire.parse("SELECT oid FROM pg_class").bind(portal="p").execute("p", 1).sync().send().read()
    session.ok("SAVEPOINT s")
    session.present()
    session.ok("SAVEPOINT t")
    if session.mode == "extended":
        assert session.wire.execute("p", 1).sync().send().read().error["D"] == ACTIVE[1]
        session.ok("ROLLBACK TO t")
    is_user(session)
    session.ok("ROLLBACK TO s")
    is_nobody(session)
    session.ok("ROLLBACK")
    session.leaves_nothing()


def test_one_message(world, connect):
    """Several statements at once, and all of them parsed before the first one runs."""
    token = token_of(world, "alice")
    present = f"SET LOCAL bodata.impersonation_token = '{token}'"
    session = connect("simple")
    answer = session.run(f"BEGIN; SAVEPOINT s; {present}; {COUNT}; ROLLBACK TO s; {WHO}; {OWN}")
    assert [r.rows for r in answer.results if r.rows] == [ALICE_ROWS, [("svc", "svc", "none", None)]]
    expect(answer, *REQUIRED)
    session.ok("ROLLBACK")
    answer = session.run(f"SAVEPOINT s; {present}; {COUNT}")
    expect(answer, "25P01")
    session = connect("extended")
    wire = session.wire
    session.ok("BEGIN")
    for statement in (present, COUNT, OWN):
        wire.statement("SAVEPOINT s")
        wire.statement(statement)
    answer = wire.sync().send().read()
    assert answer.error is None and answer.results[-1].rows == ALICE_ROWS
    # Bound under her, executed when she is gone.
    wire.parse(OWN, "own").bind(name="own", portal="p").statement("ROLLBACK TO s").execute("p")
    assert wire.sync().send().read().error is not None
    session.ok("ROLLBACK")
    session.ok("BEGIN")
    session.ok("SAVEPOINT s")
    session.present()
    wire.bind(name="own", portal="p").execute("p").statement("ROLLBACK TO s").bind(name="own", portal="q").execute("q")
    answer = wire.sync().send().read()
    assert answer.results[0].rows == ALICE_ROWS
    expect(answer, *REQUIRED)
    session.ok("ROLLBACK")
    session.leaves_nothing()


def test_who_has_rights_without_a_token_gets_none_back(world, connect):
    """ROLLBACK TO would give them back in the middle: refused from the first transaction on, with the option's name."""
    token = token_of(world, "alice")
    for user, password in (("migrator", "migrator-password"), ("postgres", world.server.superuser_password)):
        session = connect("simple", user, password)
        for _ in range(3):
            session.ok("BEGIN")
            session.ok("SAVEPOINT s")
            answer = session.run(f"SET LOCAL bodata.impersonation_token = '{token}'")
            expect(answer, *UNSUPPORTED)
            assert "autosave" in answer.error["H"] and "ON_ERROR_ROLLBACK" in answer.error["H"]
            session.ok("ROLLBACK TO s")
            session.ok("RELEASE s")
            session.ok(f"SET LOCAL bodata.impersonation_token = '{token}'")
            session.is_alice()
            session.ok("SAVEPOINT s")
            session.ok("ROLLBACK TO s")
            session.is_alice()
            session.ok("ROLLBACK")


def test_a_session_impersonates_outside_of_savepoints_only(world):
    for kind in ("token", "name"):
        session = LastingSession(world, kind=kind)
        for _ in range(2):
            session.ok("BEGIN")
            session.ok("SAVEPOINT s")
            text = (f"SET bodata.impersonation_token = '{token_of(world, 'alice')}'" if kind == "token"
                    else "SET immuta.impersonation_userid = 'alice'")
            session.refused(text, *UNSUPPORTED)
            session.ok("ROLLBACK")
        session.present()
        session.ok("BEGIN")
        session.ok("SAVEPOINT s")
        session.refused("SELECT 1/0", "22012")
        session.ok("ROLLBACK TO s")
        session.is_alice()
        session.ok("COMMIT")
        session.end()
        session.close()


def test_what_was_revoked_meanwhile(world, connect):
    """Rolled back, the login is nobody; presenting again is looked at again."""
    token = world.token("alice")
    session = connect()
    session.ok("BEGIN")
    session.ok("SAVEPOINT s")
    session.ok(f"SET LOCAL bodata.impersonation_token = '{token}'")
    world.sql("SELECT immuta.revoke_token(%s)", (token,))
    session.ok("ROLLBACK TO s")
    session.refused(f"SET LOCAL bodata.impersonation_token = '{token}'", "28000")
    session.ok("ROLLBACK TO s")
    is_nobody(session)
    session.ok("ROLLBACK")


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence(world, session, seed):
    """Savepoints, tokens, errors and settings in any order, against a model of who is impersonated."""
    choose = random.Random(seed)
    before = settings(session)
    for _ in range(12):
        session.ok("BEGIN")
        user, stack = None, []
        for _ in range(choose.randrange(4, 25)):
            step = choose.choice(["savepoint", "savepoint", "token", "back", "release", "error", "set", "check"])
            if step == "savepoint":
                session.ok(f"SAVEPOINT s{len(stack)}")
                stack.append(user)
            elif step == "token" and (user is None or stack):
                other = choose.choice(["alice", "bob"])
                answer = session.run(f"SET LOCAL bodata.impersonation_token = '{token_of(world, other)}'")
                assert (answer.error is None) == (user is None), answer.error
                if user is None:
                    user = other
                else:
                    expect(answer, *ACTIVE)
                    step = "back"
            elif step == "error" and stack:
                session.refused("SELECT 1/0", "22012")
                step = "back"
            elif step == "set" and user:
                session.ok(choose.choice(SETTINGS[:3] + SETTINGS[4:6]))
            if step == "back" and stack:
                at = choose.randrange(len(stack))
                session.ok(f"ROLLBACK TO s{at}")
                user, stack = stack[at], stack[:at + 1]
            elif step == "release" and stack:
                at = choose.randrange(len(stack))
                session.ok(f"RELEASE s{at}")
                stack = stack[:at]
            assert session.rows(WHO) == [(user or "svc", "svc", user or "none", user)]
            if step == "check":
                is_user(session, user) if user else is_nobody(session)
        session.ok(choose.choice(["COMMIT", "ROLLBACK"]))
        assert settings(session) == before
        session.is_nobody()
