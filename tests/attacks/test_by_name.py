"""Impersonation by name. The login itself is the credential: whoever sends SQL in its session needs no secret to name
another user.

Threats: 1, 20, 37 (docs/threats.md).
"""

import pytest
import test_identity
import test_nobody
import test_residue
from harness.fixtures import VERSION
from scene import (ACTIVE, ALONE, DENIED, MODES, NOT_ALLOWED, NOT_MAPPED, REQUIRED, UNSUPPORTED, Closed, NameSession,
                   Session, settings, token_of)
from test_identity import NO_EFFECT, attack_id, do

NAMES = ("immuta.impersonation_userid", "immuta.immuta_user", 'immuta.impersonate."user"')
INVALID_NAME = ("22023", "IMPERSONATION_NOT_SUPPORTED")


@pytest.fixture(scope="module")
def names_pool(world):
    sessions = {}
    yield sessions
    for session in sessions.values():
        session.close()


@pytest.fixture(params=MODES)
def session(request, world, names_pool):
    """A connection of a login that names its users, by each of the two sub-protocols, after its first user."""
    mode = request.param
    if mode not in names_pool:
        names_pool[mode] = NameSession(world, mode)
        names_pool[mode].begin()
        names_pool[mode].ok("COMMIT")
    yield names_pool[mode]
    if request.node.has_failed:
        names_pool.pop(mode).close()
    else:
        names_pool[mode].ok("DISCARD ALL")


@pytest.fixture
def name(world):
    """Makes connections of logins that name their users, closed after the test."""
    made = []

    def make(mode="simple", kind=NameSession, **kwargs):
        made.append(kind(world, mode, **kwargs))
        return made[-1]

    yield make
    for session in made:
        session.close()


# Row of threats.md, statement, SQLSTATE and code in DETAIL: what only concerns names.
ATTACKS = [
    *[(37, f"{verb} {name} = '{user}'", *ACTIVE) for verb in ("SET", "SET LOCAL", "SET SESSION") for name in NAMES
      for user in ("bob", "alice", "")],
    *[(37, f"RESET {name}", *ACTIVE) for name in NAMES],
    *[(37, f"{verb} {name} FROM CURRENT", *ACTIVE) for verb in ("SET", "SET LOCAL") for name in NAMES],
    *[(37, f"SET LOCAL {name} TO DEFAULT", *ACTIVE) for name in NAMES],
    *[(37, do(f"SET LOCAL {name} = 'bob';"), *ACTIVE) for name in NAMES],
    *[(37, f"SELECT set_config('{name}', '{user}', {is_local})", *DENIED)
      for name in ("immuta.impersonation_userid", "immuta.immuta_user", "IMMUTA.impersonate.user")
      for user in ("bob", "") for is_local in ("true", "false")],
    (37, "SELECT app.alias_set_config('immuta.immuta_user', 'bob', true)", *DENIED),
    (37, "SELECT alice.runs('SET LOCAL immuta.immuta_user = ''bob''')", *ACTIVE),
    (37, "CALL immuta_procedures.impersonate_user('bob')", *ACTIVE),
    (37, "CALL immuta_procedures.impersonate_user('alice')", *ACTIVE),
    (37, "CALL immuta_procedures.impersonate_user(NULL)", *ACTIVE),
    (37, do("CALL immuta_procedures.impersonate_user('bob');"), *ACTIVE),
    (37, do("CALL immuta_procedures.impersonate_user(NULL);"), *ACTIVE),
    (7, "UPDATE pg_settings SET setting = 'bob' WHERE name = 'immuta.immuta_user'", *DENIED),
    (12, "CREATE FUNCTION alice.f() RETURNS int LANGUAGE sql SET immuta.immuta_user = 'bob' AS 'SELECT 1'", *DENIED),
    (12, "ALTER ROLE alice SET immuta.immuta_user = 'bob'", *DENIED),
    (12, "ALTER ROLE namer SET bodata.single_impersonation_user = off", *DENIED),
    (12, "SET bodata.single_impersonation_user = off", *DENIED),
    (12, "SET bodata.allow_session_impersonation = on", *DENIED),
    (12, "SELECT set_config('bodata.allow_session_impersonation', 'on', false)", *DENIED),
    (12, "SET immuta.no_such_setting = 1", *(("42602", None) if int(VERSION) >= 15 else NO_EFFECT)),
    (18, "SELECT * FROM immuta.impersonators", *DENIED),
    (18, "SELECT * FROM immuta_internal.list_impersonators()", *DENIED),
    (18, "SELECT * FROM immuta.test_access('bob', 'SELECT 1')", *DENIED),
    (18, "SELECT * FROM immuta_internal.explained('bob', 'bim', 'SELECT 1', 'app')", *DENIED),
    (18, "SELECT immuta_internal.may_impersonate(10, true)", *DENIED),
    (18, "CREATE PROCEDURE immuta_procedures.mine() LANGUAGE sql AS 'SELECT 1'", *DENIED),
    (18, "CREATE OR REPLACE PROCEDURE immuta_procedures.impersonate_user(user_id text) LANGUAGE sql AS 'SELECT 1'",
     *DENIED),
    # Settings of how a name is understood are undone with the transaction.
    (37, "SET immuta.impersonation_iamid = 'okta'", *NO_EFFECT),
    (37, "SET immuta.impersonation_userid_template = '{userid}b'", *NO_EFFECT),
    (37, "SELECT set_config('immuta.impersonation_iamid', 'okta', false)", *NO_EFFECT),
    (6, "RESET ALL", *NO_EFFECT),
]


@pytest.mark.parametrize("attack", [*ATTACKS, *test_identity.ATTACKS], ids=attack_id)
def test_the_user_stays_who_he_is(world, session, attack):
    """All that is tried against the user of a token, and more."""
    test_identity.test_the_user_stays_who_he_is(world, session, attack)


def for_names(statement):
    return statement.replace("svc", "namer").replace("bodata_impersonate_user", "immuta_impersonation")


@pytest.mark.parametrize("attack", test_nobody.ATTACKS, ids=attack_id)
def test_nothing_after_the_user_has_ended_the_transaction(world, session, attack):
    """From the first name on, the session has no rights of its own, whoever sent the COMMIT."""
    statement, sqlstate, code = test_nobody.expected(world, attack)
    before = settings(session)
    for end in ("COMMIT", "ROLLBACK AND CHAIN"):
        session.begin()
        session.ok(end)
        if sqlstate:
            session.refused(for_names(statement), sqlstate, code)
        else:
            session.ok(for_names(statement))
            assert session.value("SELECT current_user") == "namer"
            assert session.value("SHOW search_path") == '"$user", public'
        if session.run("SELECT 1").status != "I":
            session.ok("COMMIT")
    assert settings(session) == before
    session.leaves_nothing()


@pytest.mark.parametrize("attack", test_residue.SETTINGS, ids=lambda attack: "; ".join(attack[1])[:90])
def test_settings_do_not_outlive_the_transaction(session, attack):
    before, told = settings(session), dict(session.wire.parameters)
    for end in ("COMMIT", "ROLLBACK"):
        session.begin()
        for statement in attack[1]:
            session.ok(statement)
        assert session.value("SELECT current_user") == "alice"
        session.ok(end)
        assert settings(session) == before
        assert session.wire.parameters == told
    session.leaves_nothing()


OTHERS = [
    *[[f"SET LOCAL {name} = 'bob'"] for name in NAMES],
    ["SELECT set_config('immuta.impersonation_userid', 'bob', true)"],
    ["CALL immuta_procedures.impersonate_user('bob')"],
    ["SET LOCAL immuta.impersonation_userid_template = 'bo{userid}'", "SET LOCAL immuta.immuta_user = 'b'"],
    ["SELECT set_config('immuta.impersonation_userid_template', 'bo{userid}', false)",
     "SET LOCAL immuta.immuta_user = 'b'"],
    ["SET LOCAL immuta.impersonation_iamid = 'okta'", "SET LOCAL immuta.immuta_user = 'alice'"],
]


@pytest.mark.parametrize("others", OTHERS, ids="; ".join)
def test_no_other_user_in_this_session(world, session, others):
    """Row 37: after the end of the transaction, after DISCARD ALL, and in every way to name one."""
    world.sql("SELECT immuta.create_user('alice', 'okta', 'bob')")
    try:
        for prelude in ([], ["DISCARD ALL"], ["RESET ALL"], ["RESET immuta.immuta_user"]):
            for statement in prelude:
                session.ok(statement)
            session.ok("BEGIN")
            for statement in others[:-1]:
                session.ok(statement)
            session.refused(others[-1], *NOT_ALLOWED)
            session.ok("ROLLBACK")
        session.ok("RESET ALL")
        session.leaves_nothing()
    finally:
        world.sql("SELECT immuta.drop_user('alice', 'okta')")


def test_before_the_first_name_the_login_is_an_ordinary_one(name):
    """What it may do itself it does; the guard comes with the first user."""
    session = name()
    assert session.value("SELECT count(*) FROM app.everyone") == "1"
    session.begin()
    session.ok("COMMIT")
    session.refused("SELECT count(*) FROM app.everyone", *REQUIRED)
    session.leaves_nothing()


def test_an_exception_for_a_login(world, name):
    """`require_token` off gives a login its own rights back between two users."""
    world.sql("ALTER ROLE namer SET bodata.require_token = off")
    try:
        session = name()
        session.begin()
        session.ok("COMMIT")
        assert session.value("SELECT count(*) FROM app.everyone") == "1"
    finally:
        world.sql("ALTER ROLE namer RESET bodata.require_token")


# Row of threats.md, statements of which the last is the one that counts, its error alone and in a block.
WAYS = [
    *[(11, [f"SET LOCAL {name} = 'alice'"], ALONE, None) for name in NAMES],
    (38, ["SELECT set_config('immuta.impersonation_userid', 'alice', true)"], ALONE, None),
    (38, ["SELECT set_config('immuta.impersonate.user', 'alice', true)"], ALONE, None),
    (38, ["WITH x AS (SELECT set_config('immuta.immuta_user', 'alice', true)) SELECT * FROM x"], ALONE, None),
    (38, ["CALL immuta_procedures.impersonate_user('alice')"], ALONE, None),
    (38, ["CALL immuta_procedures.impersonate_user(user_id => 'alice')"], ALONE, None),
    (38, ["DO $$ BEGIN CALL immuta_procedures.impersonate_user('alice'); END $$"], ALONE, None),
    (38, ["DO $$ BEGIN SET LOCAL immuta.immuta_user = 'alice'; END $$"], ALONE, None),
    (38, ["CALL immuta_procedures.impersonate_user(NULL)"], None, "no effect"),
    (38, ["CALL immuta_procedures.impersonate_user('')"], None, "no effect"),
    (38, ["SET immuta.immuta_user = ''"], None, "no effect"),
    (38, ["EXPLAIN SELECT set_config('immuta.immuta_user', 'alice', true)"], None, "no effect"),
    *[(11, [f"{verb} {name} = 'alice'"], UNSUPPORTED, UNSUPPORTED) for verb in ("SET", "SET SESSION") for name in NAMES],
    (11, ["SELECT set_config('immuta.immuta_user', 'alice', false)"], UNSUPPORTED, UNSUPPORTED),
    (12, ["SELECT set_config('immuta.immuta_user', 'alice', true), "
          "set_config('immuta.impersonation_userid', 'alice', true)"], UNSUPPORTED, UNSUPPORTED),
    (12, ["SELECT set_config('immuta.immuta_user', 'alice', true), "
          "set_config('bodata.impersonation_token', '{alice}', true)"], UNSUPPORTED, UNSUPPORTED),
    (14, ["SELECT set_config('immuta.immuta_user', 'alice', true), count(*) FROM app.orders"], DENIED, DENIED),
    # When the planner calls it, the statement has been parsed for the login already.
    (2, ["SELECT alice.runs_immutable('SELECT set_config(''immuta.immuta_user'', ''alice'', true)')"], UNSUPPORTED,
     UNSUPPORTED),
    *[(20, [f"SET LOCAL immuta.immuta_user = '{user}'"], error, error) for user, error in (
        ("nobody", NOT_MAPPED), ("Alice", NOT_MAPPED), ("alice ", NOT_MAPPED), (" alice", NOT_MAPPED),
        ("аlice", NOT_MAPPED), ("ali%", NOT_MAPPED), ("alice''--", NOT_MAPPED), ("postgres", NOT_MAPPED),
        ("none", NOT_MAPPED), ("public", NOT_MAPPED), ("namer", NOT_MAPPED), ("immuta_admin", NOT_MAPPED),
        ("NULL", INVALID_NAME), ("null", INVALID_NAME), ("a\tb", INVALID_NAME), ("x" * 256, INVALID_NAME),
        ("x" * 1_000_000, INVALID_NAME))],
    (20, ["CALL immuta_procedures.impersonate_user('NULL')"], INVALID_NAME, INVALID_NAME),
    (20, ["SET immuta.impersonation_iamid = 'okta'", "SET LOCAL immuta.immuta_user = 'alice'"], NOT_MAPPED, NOT_MAPPED),
    (20, ["SET immuta.impersonation_iamid = 'BIM'", "SET LOCAL immuta.immuta_user = 'alice'"], NOT_MAPPED, NOT_MAPPED),
    (20, ["SET immuta.impersonation_userid_template = 'al{userid}'", "SET LOCAL immuta.immuta_user = 'ice'"], ALONE, None),
    (20, ["SELECT set_config('immuta.impersonation_userid_template', 'al{userid}', false)",
          "SELECT set_config('immuta.impersonation_userid', 'ice', true)"], ALONE, None),
    *[(20, [f"SET immuta.impersonation_userid_template = '{bad}'"], ("22023", None), ("22023", None))
      for bad in ("jdoe", "{userid}{userid}", "{user}", "{userid}\t")],
    *[(20, [f"SET immuta.impersonation_iamid = '{bad}'"], ("22023", None), ("22023", None))
      for bad in ("", "x" * 256, "a\tb")],
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}: {'; '.join(way[1])[:90]}")
def test_ways_to_name_a_user(world, name, mode, way):
    _, statements, alone, in_block = way
    *before, statement = (text.replace("{alice}", token_of(world, "alice")) for text in statements)
    for in_a_block, error in ((False, alone), (True, in_block)):
        session = name(mode)
        if in_a_block:
            session.ok("BEGIN")
        for text in before:
            session.ok(text)
        if error == "no effect" or error is None and not in_a_block:
            session.ok(statement)
            assert session.value("SELECT current_user") == "namer"
        elif error:
            session.refused(statement, *error)
            session.ok("ROLLBACK")
            assert session.value("SELECT current_user") == "namer"
        else:
            session.ok(statement)
            session.is_alice()
            assert session.value("SHOW immuta.immuta_user") == "alice"
            session.ok("COMMIT")
            session.is_nobody()


def test_not_in_a_savepoint(name):
    session = name()
    session.ok("BEGIN")
    session.ok("SAVEPOINT s")
    session.refused("SET LOCAL immuta.immuta_user = 'alice'", *UNSUPPORTED)
    session.ok("ROLLBACK TO s")
    session.refused("CALL immuta_procedures.impersonate_user('alice')", *UNSUPPORTED)
    session.ok("ROLLBACK")
    session.begin()
    session.is_alice()
    session.ok("COMMIT")
    session.leaves_nothing()


@pytest.mark.parametrize("login", ["svc", "plain", "keeper"])
@pytest.mark.parametrize("way", ["SET LOCAL immuta.impersonation_userid = 'alice'", "SET LOCAL immuta.immuta_user = 'nobody'",
                                 "CALL immuta_procedures.impersonate_user('alice')",
                                 "SELECT set_config('immuta.impersonate.user', 'alice', true)"])
def test_only_holders_name_users(world, connect, login, way):
    """At once, and not at the first query; whether there is such a user they do not learn."""
    passwords = {"svc": "service-password", "plain": "plain-password", "keeper": "keeper-password"}
    session = connect("simple", login, passwords[login])
    session.ok("BEGIN")
    session.refused(way, *NOT_ALLOWED)
    session.ok("ROLLBACK")


@pytest.mark.parametrize("statement", [
    "ALTER ROLE namer SET {} = 'alice'", "ALTER DATABASE immuta SET {} = 'alice'", "ALTER ROLE ALL SET {} = 'alice'",
    "ALTER SYSTEM SET {} = 'alice'", "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SET {} = 'alice' AS 'SELECT 1'"])
@pytest.mark.parametrize("parameter", NAMES)
def test_a_name_cannot_be_stored(world, connect, statement, parameter):
    session = connect("simple", "postgres", world.server.superuser_password)
    answer = session.run(statement.format(parameter))
    assert answer.error is not None and answer.error["C"] in ("25000", "55P02", "42602"), answer


def test_iamid_and_template_can_be_given_to_a_login(world, name):
    world.sql("SELECT immuta.create_user('alice@example.com', 'okta', 'alice')")
    world.sql("ALTER ROLE namer SET immuta.impersonation_iamid = 'okta'; "
              "ALTER ROLE namer SET immuta.impersonation_userid_template = '{userid}@example.com'")
    try:
        session = name()
        session.begin()
        assert session.rows("SELECT iamid, userid, current_user, current_setting('immuta.immuta_user') "
                            "FROM immuta.whoami()") == [("okta", "alice@example.com", "alice", "alice@example.com")]
        session.ok("COMMIT")
    finally:
        world.sql("ALTER ROLE namer RESET ALL; SELECT immuta.drop_user('alice@example.com', 'okta')")


CHANGES = [
    ("REVOKE immuta_impersonation FROM namer", "GRANT immuta_impersonation TO namer", NOT_ALLOWED),
    ("SELECT immuta.disable_user('alice')", "SELECT immuta.disable_user('alice', disabled => false)", NOT_ALLOWED),
    ("SELECT immuta.unmap_user('alice')", "SELECT immuta.map_user('alice', 'alice')", NOT_MAPPED),
    ("SELECT immuta.add_impersonation_rule('namer', 'alice', false)", "DELETE FROM immuta.impersonation_rule",
     NOT_ALLOWED),
    ("SELECT immuta.add_impersonation_rule('others', '*')", "DELETE FROM immuta.impersonation_rule", NOT_ALLOWED),
    ("SELECT immuta.add_impersonation_rule('*', '*', client_addr => '{10.0.0.0/8}')",
     "DELETE FROM immuta.impersonation_rule", NOT_ALLOWED),
    ("ALTER ROLE alice CREATEROLE", "ALTER ROLE alice NOCREATEROLE", NOT_ALLOWED),
    ("GRANT namer TO alice", "REVOKE namer FROM alice", NOT_ALLOWED),
    ("GRANT immuta_impersonation TO alice", "REVOKE immuta_impersonation FROM alice", NOT_ALLOWED),
]


@pytest.mark.parametrize("change, back, error", CHANGES)
def test_changes_take_effect_at_the_next_transaction(world, name, change, back, error):
    session = name()
    session.begin()
    session.is_alice()
    world.sql(change)
    try:
        session.is_alice()
        session.ok("COMMIT")
        session.ok("BEGIN")
        session.refused("SET LOCAL immuta.immuta_user = 'alice'", *error)
        session.ok("ROLLBACK")
    finally:
        world.sql(back)
    session.begin()
    session.is_alice()
    session.ok("COMMIT")


def test_a_superuser_loses_his_rights_and_gets_them_back(world, connect):
    for mode in MODES:
        session = connect(mode, "postgres", world.server.superuser_password)
        for end in ("COMMIT", "ROLLBACK"):
            session.ok("BEGIN")
            session.ok("SET LOCAL immuta.impersonation_userid = 'alice'")
            session.is_alice()
            session.ok("SAVEPOINT s")
            for statement in ("SET ROLE postgres", "RESET ROLE", "SET SESSION AUTHORIZATION DEFAULT"):
                session.refused(statement, *ACTIVE)
                session.ok("ROLLBACK TO s")
            session.refused("SELECT pg_read_file('PG_VERSION')", *DENIED)
            session.ok("ROLLBACK TO s")
            session.refused("SET bodata.require_token = off", *DENIED)
            session.ok("ROLLBACK TO s")
            session.ok(end)
            assert session.rows("SELECT current_user, current_setting('is_superuser'), count(*) FROM app.flights") == [
                ("postgres", "on", "300")]


SINGLE = [
    # Setting, what is presented one after the other, whether the last is refused.
    ("names", ["name alice", "name alice"], False), ("names", ["name alice", "name bob"], True),
    ("names", ["token alice", "name bob"], True), ("names", ["token alice", "name alice"], False),
    ("names", ["token alice", "token bob", "name alice"], True), ("names", ["token alice", "token bob", "name bob"], True),
    ("names", ["name alice", "token bob"], False), ("names", ["name alice", "token bob", "name alice"], True),
    ("on", ["name alice", "token bob"], True), ("on", ["token alice", "name alice"], False),
    ("off", ["name alice", "name bob"], False), ("off", ["token alice", "token bob", "name alice"], False),
]


@pytest.mark.parametrize("setting, presented, is_refused", SINGLE)
def test_one_user_per_session(world, connect, setting, presented, is_refused):
    """A login with both roles: what it impersonated by token counts for names, too."""
    world.sql(f"ALTER ROLE two_ways SET bodata.single_impersonation_user = {setting}")
    try:
        session = connect("simple", "two_ways", "two_ways-password")
        for at, what in enumerate(presented):
            kind, user = what.split()
            session.ok("BEGIN")
            statement = f"SET LOCAL immuta.immuta_user = '{user}'" if kind == "name" else \
                f"SET LOCAL bodata.impersonation_token = '{token_of(world, user)}'"
            if is_refused and at == len(presented) - 1:
                session.refused(statement, *NOT_ALLOWED)
            else:
                session.ok(statement)
                assert session.value("SELECT current_user") == user
            session.ok("COMMIT")
    finally:
        world.sql("ALTER ROLE two_ways RESET bodata.single_impersonation_user")


@pytest.mark.parametrize("second", ["SET LOCAL immuta.immuta_user = 'alice'", "SET immuta.immuta_user = 'alice'",
                                    "CALL immuta_procedures.impersonate_user('alice')", "RESET immuta.immuta_user"])
def test_a_token_and_a_name(world, connect, second):
    session = connect("simple", "two_ways", "two_ways-password")
    session.begin()
    session.refused(second, *ACTIVE)
    session.ok("ROLLBACK")
    session.ok("BEGIN")
    session.ok("SET LOCAL immuta.immuta_user = 'alice'")
    session.refused(f"SET LOCAL bodata.impersonation_token = '{token_of(world, 'alice')}'", *ACTIVE)
    session.ok("ROLLBACK")


def test_parallel_workers_know_the_user(world, session):
    """Row policies may go by the setting."""
    always = "force_parallel_mode" if int(VERSION) < 16 else "debug_parallel_query"
    session.begin()
    session.ok(f"SET LOCAL {always} = on")
    assert session.rows("SELECT current_setting('immuta.immuta_user'), current_user, "
                        "(SELECT count(*) FROM app.flights WHERE current_setting('immuta.immuta_user') = 'alice')") == [
        ("alice", "alice", "100")]
    session.ok("COMMIT")
    session.leaves_nothing()


def test_a_name_in_one_batch_with_what_follows(session):
    """Row 17: several messages with one Sync, and several statements in one message."""
    wire = session.wire
    wire.statement("SET LOCAL immuta.immuta_user = 'alice'").statement("SELECT current_user").sync().send()
    answer = wire.read()
    assert answer.error is None and answer.rows == [("alice",)]
    answer = wire.query("SET LOCAL immuta.immuta_user = 'alice'; SELECT current_user; "
                        "COMMIT; SET LOCAL immuta.immuta_user = 'bob'; SELECT 1")
    assert answer.results[1].rows == [("alice",)]
    assert (answer.error["C"], answer.error["D"]) == NOT_ALLOWED
    answer = wire.query("BEGIN; SET LOCAL immuta.immuta_user = 'alice'; COMMIT; SELECT * FROM app.everyone")
    assert (answer.error["C"], answer.error["D"]) == REQUIRED
    session.leaves_nothing()


def test_function_call_messages_name_nobody(session):
    """Row 13: set_config() on the fast path."""
    session.ok("BEGIN")
    answer = session.wire.call(2078, "immuta.immuta_user", "alice", "t").send().read()
    assert answer.error is not None
    session.ok("ROLLBACK")
    session.begin()
    answer = session.wire.call(2078, "immuta.immuta_user", "bob", "t").send().read()
    assert answer.error["C"] == "42501"
    session.ok("ROLLBACK")
    session.leaves_nothing()


def test_where_the_extension_is_not(world, connect):
    world.sql("CREATE DATABASE without")
    try:
        session = connect("simple", "postgres", world.server.superuser_password, dbname="without")
        session.ok("BEGIN")
        session.refused("SET LOCAL immuta.immuta_user = 'alice'", "55000", "IMPERSONATION_NOT_SUPPORTED")
        session.close()
        with pytest.raises(Closed) as refused:
            Session(world, "simple", "named_keeper", "named_keeper-password", dbname="without",
                    options="-c immuta.immuta_user=alice")
        assert refused.value.args[0]["C"] == "55000"
    finally:
        world.sql("DROP DATABASE without WITH (FORCE)")


