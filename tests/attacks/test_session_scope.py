"""Impersonation for the session, by token and by name: it outlasts the transactions, and nothing of it outlasts it.

Threats: 1, 6 (docs/threats.md).
"""

import pytest
import test_identity
import test_nobody
import test_residue
from harness.world import digest
from scene import (ACTIVE, ALICE_ROWS, ALONE, COUNT, DENIED, INVALID, MODES, NOT_ALLOWED, NOT_MAPPED, REQUIRED,
                   UNSUPPORTED, Closed, LastingSession, NameSession, Session, settings, token_of)
from test_identity import attack_id, do

KINDS = ("token", "name")


@pytest.fixture(scope="module")
def lasting_pool(world):
    sessions = {}
    yield sessions
    for session in sessions.values():
        session.close()


@pytest.fixture(params=[(mode, kind) for mode in MODES for kind in KINDS], ids="-".join)
def session(request, world, lasting_pool):
    """A connection that may impersonate for the session, by each way to present a user and each sub-protocol."""
    if request.param not in lasting_pool:
        session = lasting_pool[request.param] = LastingSession(world, *request.param)
        session.begin()
        session.end()
    yield lasting_pool[request.param]
    if request.node.has_failed:
        lasting_pool.pop(request.param).close()
    else:
        lasting_pool[request.param].ok("DISCARD ALL")


@pytest.fixture
def lasting(world):
    """Makes further ones, closed after the test."""
    made = []

    def make(mode="simple", kind="token", cls=LastingSession, **kwargs):
        made.append(cls(world, mode, kind, **kwargs))
        return made[-1]

    yield make
    for session in made:
        session.close()


def changes_the_user(statement):
    """Statements that may end the impersonation of a session; they have tests of their own."""
    text = statement.upper()
    return text.startswith(("DISCARD ALL", "RESET ALL", "RESET BODATA", "SET BODATA.IMP"))


ATTACKS = [attack for attack in test_identity.ATTACKS if not changes_the_user(attack[1])]


@pytest.mark.parametrize("attack", ATTACKS, ids=attack_id)
def test_the_user_stays_who_he_is(world, session, attack):
    """In a block and in autocommit, where each statement is the first that the lock meets in its transaction."""
    _, statement, sqlstate, code = attack
    statement = test_identity.with_tokens(world, statement)
    before = settings(session)
    session.begin()
    session.ok("BEGIN")
    test_identity.attack_in_savepoint(session, statement, sqlstate, code)
    session.ok("ROLLBACK")
    session.is_alice()

    answer = session.run(statement)
    if sqlstate in (None, "25001"):
        assert "escaped" not in str(answer.rows)
    elif sqlstate != "3B001":
        # Some statements need a block.
        assert answer.error and answer.error["C"] in (sqlstate, "25P01"), answer
        assert not code or answer.error["D"] == code
    session.is_alice()
    session.ok("DROP INDEX IF EXISTS alice.t_id_idx")
    session.end()
    assert settings(session) == before
    session.leaves_nothing()


CHANGING = ["RESET {}", "SET {} = ''", "SET {} TO DEFAULT", "SET SESSION {} = ''", "CALL immuta_procedures.impersonate_user(NULL)",
            "DISCARD ALL", "RESET ALL", "SET {} = '{bob}'"]


@pytest.mark.parametrize("statement", CHANGING)
def test_not_in_the_middle_of_anything(world, session, statement):
    """In a savepoint, in a transaction in which the user has done something, in DO or a function: the user stays. What
    they left in the transaction (cursors, triggers that wait for COMMIT) would meet the next."""
    parameter = "bodata.impersonation_token" if session.kind == "token" else "immuta.immuta_user"
    bob = token_of(world, "bob") if session.kind == "token" else "bob"
    statement = statement.replace("{bob}", bob).replace("{}", parameter)
    session.begin()
    for prelude in (["BEGIN", "SAVEPOINT s"], ["BEGIN", "SELECT 1"], ["BEGIN", "SET search_path = app"],
                    ["BEGIN", "DECLARE c CURSOR FOR SELECT 1"], ["BEGIN", "SELECT 1", "SAVEPOINT s"]):
        for text in prelude:
            session.ok(text)
        session.refused(statement, *UNSUPPORTED)
        session.ok("ROLLBACK")
        session.is_alice()
    if not statement.startswith(("RESET ALL", "CALL")):
        answer = session.run(do(f"{statement};"))
        assert answer.error["C"] == "42501", answer
        session.is_alice()
    session.leaves_nothing()


@pytest.mark.parametrize("statement", [
    "SET LOCAL bodata.impersonation_token = '{bob}'", "SET LOCAL immuta.immuta_user = 'bob'",
    "SET LOCAL immuta.immuta_user = ''", "SET LOCAL bodata.impersonation_token TO DEFAULT",
    do("RESET immuta.immuta_user;"), do("SET immuta.immuta_user = 'bob';"),
    do("CALL immuta_procedures.impersonate_user(NULL);")])
def test_the_user_is_not_changed_for_a_transaction(world, session, statement):
    session.begin()
    for prelude in ([], ["BEGIN"]):
        for text in prelude:
            session.ok(text)
        session.refused(statement.replace("{bob}", token_of(world, "bob")), *ACTIVE)
        session.ok("ROLLBACK")
        session.is_alice()
    session.leaves_nothing()


ENDS = ["RESET immuta.immuta_user", "RESET immuta.impersonation_userid", "RESET bodata.impersonation_token",
        'RESET immuta.impersonate."user"', "CALL immuta_procedures.impersonate_user(NULL)", "DISCARD ALL", "RESET ALL",
        "SET {} = ''", "SET {} TO DEFAULT"]


@pytest.mark.parametrize("end", ENDS)
def test_ways_to_end(session, end):
    """Alone, and at the start of a transaction that commits or rolls back."""
    parameter = "bodata.impersonation_token" if session.kind == "token" else "immuta.immuta_user"
    end = end.replace("{}", parameter)
    session.begin()
    session.is_alice()
    session.ok(end)
    session.is_nobody()
    if end != "DISCARD ALL":
        for last, is_alice in (("ROLLBACK", True), ("COMMIT", False)):
            session.begin()
            session.ok("BEGIN ISOLATION LEVEL SERIALIZABLE")
            session.ok(end)
            assert session.value("SELECT current_user") == session.user
            session.ok(last)
            session.is_alice() if is_alice else session.is_nobody()
    session.leaves_nothing()


@pytest.mark.parametrize("end, is_alice", [("COMMIT", True), ("ROLLBACK", False), ("COMMIT AND CHAIN", True),
                                           ("ROLLBACK AND CHAIN", False), ("error", False)])
def test_beginning_in_a_transaction(session, end, is_alice):
    session.ok("BEGIN")
    session.begin()
    session.is_alice()
    if end == "error":
        session.refused("SELECT 1/0", "22012")
        end = "ROLLBACK"
    session.ok(end)
    if is_alice:
        session.is_alice()
        session.ok("ROLLBACK")
        session.is_alice()
        session.end()
    session.ok("ROLLBACK")
    session.is_nobody()
    session.leaves_nothing()


def test_a_user_who_cannot_be_presented_leaves_the_one_before(world, session):
    session.begin()
    for wrong in ("SET bodata.impersonation_token = 'wrong'", "SET immuta.immuta_user = 'nobody'",
                  "CALL immuta_procedures.impersonate_user('nobody')"):
        answer = session.run(wrong)
        assert answer.error["C"] in ("28000", "42704", "25000", "42501"), answer
        session.is_alice()
    session.leaves_nothing()


def test_the_next_user_takes_the_place(world, session):
    """Directly, without RESET; by name only where that is allowed."""
    session.begin()
    session.ok("SET search_path = alice")
    session.ok("CREATE TEMP TABLE flights AS SELECT * FROM app.flights")
    if session.kind == "token":
        session.present("bob")
        session.is_alice("bob")
        assert session.value("SHOW search_path") == '"$user", public'
        session.refused("SELECT * FROM pg_temp.flights", "42P01")
    else:
        session.refused("SET immuta.impersonation_userid = 'bob'", *NOT_ALLOWED)
        session.is_alice()
        assert session.value("SELECT count(*) FROM pg_temp.flights") == "100"
    session.leaves_nothing()


def test_other_names_where_that_is_allowed(world, lasting):
    """`single_impersonation_user` off; the identity manager and the template are set before the name."""
    world.sql("SELECT immuta.create_user('bob@example.com', 'okta', 'bob')")
    world.sql("ALTER ROLE named_keeper SET bodata.single_impersonation_user = off")
    try:
        for mode in MODES:
            session = lasting(mode, "name")
            session.begin()
            session.ok("SET immuta.impersonation_iamid = 'okta'")
            session.ok("SET immuta.impersonation_userid_template = '{userid}@example.com'")
            session.is_alice()
            session.present("bob")
            assert session.rows("SELECT iamid, userid, current_user, current_setting('immuta.immuta_user') "
                                "FROM immuta.whoami()") == [("okta", "bob@example.com", "bob", "bob@example.com")]
            session.ok("RESET ALL")
            session.present("bob")
            session.is_alice("bob")
    finally:
        world.sql("ALTER ROLE named_keeper RESET bodata.single_impersonation_user")
        world.sql("SELECT immuta.drop_user('bob@example.com', 'okta')")


@pytest.mark.parametrize("attack", [a for a in test_nobody.ATTACKS if "set_config('session_auth" not in a[1]],
                         ids=attack_id)
def test_nothing_after_the_end(world, session, attack):
    """Row 35: the user themselves may end it. Then the session has no rights at all."""
    statement, sqlstate, code = test_nobody.expected(world, attack)
    for word in ("svc", "bodata_impersonate_user"):
        own = {"svc": session.user, "bodata_impersonate_user": "bodata_impersonate_user" if session.kind == "token"
               else "immuta_impersonation"}[word]
        statement = statement.replace(word, own)
    session.begin()
    session.end()
    before = settings(session)
    if sqlstate:
        session.refused(statement, sqlstate, code)
    else:
        session.ok(statement)
    assert settings(session) == before
    session.leaves_nothing()


@pytest.mark.parametrize("attack", test_residue.SETTINGS, ids=lambda attack: "; ".join(attack[1])[:90])
@pytest.mark.parametrize("end", ["RESET immuta.immuta_user", "DISCARD ALL", "RESET ALL"])
def test_settings_do_not_outlive_the_impersonation(session, attack, end):
    """They last as long as it does; then the application's own come back, and the client is told."""
    if end != "DISCARD ALL" and end != "RESET ALL":
        session.ok("SET application_name = 'the application'")
        session.ok("SET TIME ZONE 'Europe/Berlin'")
    before, told = settings(session), dict(session.wire.parameters)
    session.begin()
    for block in (True, False):
        if block:
            session.ok("BEGIN")
        for statement in (text for text in attack[1] if text != "RESET ALL"):
            answer = session.run(statement)
            assert not block or answer.error is None or "temp_buffers" in statement, answer.error
        session.ok("COMMIT")
        assert session.value("SELECT current_user") == "alice"
    session.ok(end)
    assert settings(session) == before
    assert session.wire.parameters == told
    session.leaves_nothing()


def test_settings_last_as_long_as_the_impersonation(session):
    """As users of a session expect."""
    session.begin()
    session.ok("SET search_path = app")
    session.ok("SET work_mem = '5MB'")
    session.ok("BEGIN")
    session.ok("SET LOCAL work_mem = '6MB'")
    session.ok("COMMIT")
    assert session.rows("SELECT current_setting('search_path'), current_setting('work_mem'), count(*) FROM flights") == [
        ("app", "5MB", "100")]
    session.ok("CREATE TEMP TABLE mine (a int)")
    session.ok("INSERT INTO mine VALUES (1)")
    assert session.value("SELECT count(*) FROM mine") == "1"
    session.ok("SELECT nextval('app.numbers')")
    session.ok("SELECT lastval()")
    session.ok("SELECT setseed(0.5)")
    foreseen = session.value("SELECT random()")
    session.end()
    session.present("bob" if session.kind == "token" else "alice")
    session.refused("SELECT lastval()", "55000")
    session.refused("SELECT * FROM pg_temp.mine", "42P01")
    assert session.value("SELECT random()") != foreseen
    session.leaves_nothing()


@pytest.mark.parametrize("statement", test_residue.OBJECTS)
def test_temporary_objects_do_not_outlive_the_impersonation(session, statement):
    left = "SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()), " \
           "(SELECT count(*) FROM pg_proc WHERE pronamespace = pg_my_temp_schema()), " \
           "(SELECT count(*) FROM pg_type WHERE typnamespace = pg_my_temp_schema())"
    for end in ("RESET immuta.immuta_user", "DISCARD ALL"):
        session.begin()
        session.ok(statement)
        session.ok(end)
        assert session.rows(left) == [("0", "0", "0")]
    session.leaves_nothing()


def test_statements_with_transactions_of_their_own(session):
    """Row 39: they work, the user stays, and the lock is on again afterwards."""
    session.begin()
    for statement in ("VACUUM alice.t", "VACUUM FULL alice.t", "ANALYZE alice.t", "CREATE INDEX CONCURRENTLY own ON alice.t (id)",
                      "REINDEX TABLE CONCURRENTLY alice.t", "DROP INDEX CONCURRENTLY alice.own",
                      "CREATE INDEX CONCURRENTLY own ON alice.t ((alice.reset_role_immutable() || id::text))",
                      "DROP INDEX IF EXISTS alice.own"):
        answer = session.run(statement)
        assert not answer.error or "reset_role" in statement, answer.error
        session.is_alice()
        session.refused("SELECT set_config('role', 'none', false)", *DENIED)
    for statement in ("DO $$ BEGIN COMMIT; END $$", "CALL alice.commits()", "CALL alice.rolls_back()"):
        session.refused(statement, "2D000")
        session.is_alice()
    session.leaves_nothing()


@pytest.mark.parametrize("options", ["ISOLATION LEVEL SERIALIZABLE", "ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE",
                                     "READ ONLY", "ISOLATION LEVEL REPEATABLE READ"])
def test_transactions_of_every_kind(session, options):
    """Row 40: the impersonation begins, goes on and ends in them."""
    for begins in (True, False):
        session.ok(f"BEGIN {options}")
        if begins:
            session.begin()
        session.is_alice()
        session.ok("COMMIT")
    session.ok(f"SET SESSION CHARACTERISTICS AS TRANSACTION {options}")
    session.is_alice()
    session.ok(f"BEGIN {options}")
    session.end()
    session.ok("COMMIT")
    session.is_nobody()
    session.leaves_nothing()


@pytest.mark.parametrize("statement", ["INSERT INTO alice.deferred VALUES (1)", "INSERT INTO alice.t VALUES (1)"])
def test_triggers_run_as_the_user(world, session, statement):
    session.begin()
    session.refused(statement, "42501")
    session.is_alice()
    world.sql("TRUNCATE alice.seen")
    session.ok("INSERT INTO alice.seen_at_commit VALUES (1)")
    assert world.sql('SELECT who, "user" FROM alice.seen ORDER BY 1') == [
        ("at commit", "alice"), ("at commit, later", "alice"), ("rows at commit", "100")]
    session.leaves_nothing()


def test_statements_of_the_protocol_are_checked_again(world, session):
    """Row 16: prepared as alice, run as another, or as nobody."""
    wire = session.wire
    session.begin()
    wire.parse("SELECT count(*) FROM app.flights", "s1").sync().send().read()
    wire.parse("SELECT * FROM private.notes", "s2").sync().send().read()

    def execute(name):
        return wire.bind(name=name).describe().execute().sync().send().read()

    assert execute("s1").rows == [("100",)]
    assert execute("s2").rows == [("note",)]
    session.end()
    assert execute("s1").error["C"] == "42501"
    assert execute("s2").error["C"] == "42501"
    if session.kind == "token":
        session.present("bob")
        assert execute("s1").rows == [("100",)]
        assert session.rows(COUNT) == [("100", "AA", "AA")]
        assert execute("s2").error["C"] == "42501"
    for name in ("s1", "s2"):
        wire.close_statement(name)
    wire.sync().send().read()
    session.leaves_nothing()


def test_first_messages_of_a_transaction(session):
    """Row 13 and 17: whatever the first message is, the lock is on: Bind with a domain whose check attacks, a function
    call, a batch."""
    wire = session.wire
    session.begin()
    answer = wire.parse("SELECT $1::alice.direct", "d").sync().send().read()
    assert answer.error is None, answer.error
    answer = wire.call(2078, "role", "none", "f").send().read()
    assert answer.error["C"] == "42501"
    session.is_alice()
    answer = wire.bind("none", name="d").execute().sync().send().read()
    session.is_alice()
    answer = wire.query("SELECT set_config('role', 'none', false)")
    assert answer.error["C"] == "42501"
    answer = wire.query("SELECT 'none'::alice.direct; SELECT set_config('role', 'none', false)")
    assert answer.error["C"] == "42501"
    wire.close_statement("d").sync().send().read()
    session.is_alice()
    session.leaves_nothing()


def test_several_statements_in_one_message(world, session):
    wire = session.wire
    start = f"SET bodata.impersonation_token = '{token_of(world, 'alice')}'" if session.kind == "token" else \
        "SET immuta.immuta_user = 'alice'"
    answer = wire.query(f"{start}; SELECT current_user; SELECT count(*) FROM app.flights")
    assert [r.rows for r in answer.results] == [[], [("alice",)], [("100",)]]
    session.is_alice()
    # In one transaction with what the user did, nobody takes their place.
    answer = wire.query("SELECT 1; RESET immuta.immuta_user; SELECT current_user")
    assert (answer.error["C"], answer.error["D"]) == UNSUPPORTED
    session.is_alice()
    answer = wire.query("RESET immuta.immuta_user; SELECT current_user")
    assert answer.rows == [(session.user,)]
    session.is_nobody()
    answer = wire.query(f"{start}; SELECT 1/0")
    assert answer.error["C"] == "22012"
    session.is_nobody()
    wire.statement(start).statement("SELECT current_user").sync().send()
    assert wire.read().rows == [("alice",)]
    session.leaves_nothing()


CHANGES = [
    ("SELECT immuta.disable_user('alice')", "SELECT immuta.disable_user('alice', disabled => false)"),
    ("SELECT immuta.unmap_user('alice')", "SELECT immuta.map_user('alice', 'alice')"),
    ("SELECT immuta.map_user('alice', 'bob')", "SELECT immuta.map_user('alice', 'alice')"),
    ("SELECT immuta.add_impersonation_rule('*', 'alice', false)", "DELETE FROM immuta.impersonation_rule"),
    ("REVOKE bodata_impersonate_user FROM keeper; REVOKE immuta_impersonation FROM named_keeper",
     "GRANT bodata_impersonate_user TO keeper; GRANT immuta_impersonation TO named_keeper"),
    ("ALTER ROLE alice CREATEROLE", "ALTER ROLE alice NOCREATEROLE"),
]


@pytest.mark.parametrize("change, back", CHANGES)
def test_changes_take_effect_at_the_next_transaction(world, session, change, back):
    """Nothing runs as the user any more, until the change is taken back or the session ends it."""
    session.begin()
    session.ok("BEGIN")
    session.is_alice()
    world.sql(change)
    try:
        session.is_alice()
        session.ok("COMMIT")
        for statement in (COUNT, "SELECT 1", "CREATE TEMP TABLE x (a int)", "SELECT alice.invoker_reads_immutable()", "DO 'BEGIN END'",
                          "COPY app.flights TO STDOUT", "SET search_path = alice"):
            answer = session.run(statement)
            assert answer.error and answer.error["C"] in ("28000", "42501", "42704"), (statement, answer)
            assert answer.error["D"].startswith("IMPERSONATION_"), answer.error
        session.ok("BEGIN")
        assert session.run(COUNT).error["C"] in ("28000", "42501", "42704")
        session.ok("ROLLBACK")
        if "bob" not in change:
            world.sql(back)
            session.is_alice()
            world.sql(change)
        session.end()
        if "REVOKE" not in change or session.kind == "name":
            session.is_nobody()
    finally:
        world.sql(back)
    session.begin()
    session.is_alice()
    session.leaves_nothing()


def test_a_revoked_token_ends_it(world, lasting):
    session = lasting()
    token = world.token()
    session.ok(f"SET bodata.impersonation_token = '{token}'")
    session.is_alice()
    world.sql("DELETE FROM immuta.token WHERE digest = %s", (digest(token),))
    session.refused(COUNT, *INVALID)
    session.refused("SELECT 1", *INVALID)
    session.end()
    session.leaves_nothing()


@pytest.mark.parametrize("kind", KINDS)
def test_the_idle_time_to_live(world, lasting, kind):
    import time
    world.sql("ALTER ROLE keeper SET bodata.token_idle_ttl = '1s'; ALTER ROLE named_keeper SET bodata.token_idle_ttl = '1s'")
    try:
        session = lasting("simple", kind)
        if kind == "token":
            session.ok(f"SET bodata.impersonation_token = '{world.token()}'")
        else:
            session.present()
        for _ in range(4):
            time.sleep(0.4)
            assert session.rows(COUNT) == ALICE_ROWS
        time.sleep(1.3)
        session.refused(COUNT, *INVALID)
        session.refused("SELECT 1", *INVALID)
        session.end()
        session.is_nobody()
    finally:
        world.sql("ALTER ROLE keeper RESET bodata.token_idle_ttl; ALTER ROLE named_keeper RESET bodata.token_idle_ttl")


def test_a_role_that_is_gone(world, lasting):
    world.sql("CREATE ROLE ghost; SELECT immuta.create_user('ghost', postgres_role => 'ghost')")
    try:
        session = lasting("simple", "name")
        session.present("ghost")
        assert session.value("SELECT current_user") == "ghost"
        world.sql("DROP ROLE ghost")
        assert session.run("SELECT 1").error["C"] in ("42704", "42501")
        world.sql("CREATE ROLE ghost SUPERUSER")
        assert session.run("SELECT 1").error["C"] in ("42704", "42501")
        session.end()
        session.is_nobody()
    finally:
        world.sql("SELECT immuta.drop_user('ghost'); DROP ROLE IF EXISTS ghost")


def test_a_superuser_loses_his_rights_and_gets_them_back(world, connect):
    world.sql("ALTER ROLE postgres SET bodata.allow_session_impersonation = on")
    try:
        for mode in MODES:
            session = connect(mode, "postgres", world.server.superuser_password)
            session.ok("SET search_path = app")
            session.ok("CREATE TEMP TABLE mine (a int)")
            session.ok("SET immuta.immuta_user = 'alice'")
            session.is_alice()
            for statement in ("SET ROLE postgres", "SET SESSION AUTHORIZATION DEFAULT", "RESET SESSION AUTHORIZATION"):
                session.refused(statement, *ACTIVE)
            session.refused("SELECT pg_read_file('PG_VERSION')", *DENIED)
            session.refused("SET bodata.single_impersonation_user = off", *DENIED)
            session.ok("RESET immuta.immuta_user")
            assert session.rows("SELECT current_user, current_setting('is_superuser'), count(*) FROM flights") == [
                ("postgres", "on", "300")]
            session.ok("SET ROLE owner")
            session.ok("SET immuta.immuta_user = 'alice'")
            session.is_alice()
            session.ok("RESET immuta.immuta_user")
            assert session.value("SELECT current_user") == "owner"
            session.ok("RESET ROLE")
    finally:
        world.sql("ALTER ROLE postgres RESET bodata.allow_session_impersonation")


def test_the_roles_own_settings(world, lasting):
    world.sql("ALTER ROLE alice SET search_path = app; ALTER ROLE alice SET work_mem = '7MB'; "
              "ALTER ROLE keeper SET bodata.apply_role_settings = on")
    try:
        session = lasting()
        session.begin()
        for _ in range(2):
            assert session.rows("SELECT current_setting('search_path'), current_setting('work_mem')") == [("app", "7MB")]
        session.end()
        assert session.rows("SELECT current_setting('search_path'), current_setting('work_mem')") == [
            ('"$user", public', "4MB")]
    finally:
        world.sql("ALTER ROLE alice RESET ALL; ALTER ROLE keeper RESET bodata.apply_role_settings")


@pytest.mark.parametrize("user, options, error", [
    ("svc", "-c bodata.impersonation_token={alice}", UNSUPPORTED), ("namer", "-c immuta.immuta_user=alice", UNSUPPORTED),
    ("keeper", "-c bodata.impersonation_token=wrong", INVALID), ("keeper", "-c immuta.immuta_user=alice", NOT_ALLOWED),
    ("named_keeper", "-c bodata.impersonation_token={alice}", NOT_ALLOWED),
    ("named_keeper", "-c immuta.impersonation_userid=nobody", NOT_MAPPED),
    ("named_keeper", "-c immuta.impersonation_userid=NULL", ("22023", "IMPERSONATION_NOT_SUPPORTED")),
    ("plain", "-c immuta.impersonation_userid=alice", NOT_ALLOWED),
    ("two_ways", "-c immuta.impersonation_userid=alice -c bodata.impersonation_token={alice}", UNSUPPORTED),
    ("two_ways", "-c immuta.impersonation_userid=alice -c immuta.immuta_user=alice", UNSUPPORTED)])
def test_connections_that_are_refused(world, user, options, error):
    passwords = {"svc": "service-password"}
    token = token_of(world, "alice")
    with pytest.raises(Closed) as refused:
        Session(world, "simple", user, passwords.get(user, f"{user}-password"), options=options.replace("{alice}", token))
    seen = refused.value.args[0]
    assert (seen["S"], seen["C"], seen.get("D")) == ("FATAL", *error), seen
    assert token not in str(seen)


CONNECTIONS = [("keeper", {"options": "-c bodata.impersonation_token={alice}"}), ("keeper", {"bodata.impersonation_token": "{alice}"}),
               ("named_keeper", {"options": "-c immuta.impersonation_userid=alice"}),
               ("named_keeper", {"immuta.immuta_user": "alice"}), ("named_keeper", {"options": '-c immuta.impersonate.user=alice'}),
               ("named_keeper", {"options": "-c immuta.impersonation_userid_template=al{userid} -c immuta.immuta_user=ice"})]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("user, extra", CONNECTIONS)
def test_connections_of_a_user(world, user, extra, mode):
    """The first statement is theirs; no RESET leads out of it."""
    extra = {name: value.replace("{alice}", token_of(world, "alice")) for name, value in extra.items()}
    session = LastingSession(world, mode, "token", user, **extra)
    try:
        assert session.rows(COUNT) == ALICE_ROWS
        session.is_alice()
        assert session.value("SELECT scope FROM immuta.whoami()") == "session"
        before = settings(session)
        for end in ENDS[:7]:
            session.ok("SET search_path = alice")
            session.ok("CREATE TEMP TABLE x (a int)")
            session.ok(end)
            session.is_alice()
            assert settings(session) == before
            session.refused("SELECT * FROM pg_temp.x", "42P01")
            session.ok("BEGIN")
            session.ok("SELECT 1")
            session.ok("ROLLBACK")
            session.is_alice()
        for statement in ("SET ROLE NONE", "SET SESSION AUTHORIZATION DEFAULT"):
            session.refused(statement, *ACTIVE)
        session.refused("SELECT set_config('role', 'none', false)", *DENIED)
    finally:
        session.close()


def test_another_user_on_a_connection_of_one(world):
    """By name the first stays; a token of another may come, and with its end the connection's user is back."""
    session = LastingSession(world, "simple", "token", "two_ways", options="-c immuta.impersonation_userid=alice")
    try:
        session.refused("SET immuta.immuta_user = 'bob'", *NOT_ALLOWED)
        session.is_alice()
        session.refused(f"SET bodata.impersonation_token = '{token_of(world, 'bob')}'", *UNSUPPORTED)
        session.is_alice()
    finally:
        session.close()


def test_a_replication_connection_names_nobody(world):
    """It has no database to look anybody up in."""
    world.sql("ALTER ROLE named_keeper REPLICATION")
    try:
        with pytest.raises(Closed) as refused:
            Session(world, "simple", "named_keeper", "named_keeper-password", replication="true",
                    options="-c immuta.impersonation_userid=alice")
        assert refused.value.args[0]["C"] in ("55000", "28000"), refused.value.args[0]
    finally:
        world.sql("ALTER ROLE named_keeper NOREPLICATION")


def test_a_transaction_scope_is_still_there(world, lasting):
    """SET LOCAL ends with the transaction, also for those who may do more."""
    for kind, statement in (("token", f"SET LOCAL bodata.impersonation_token = '{token_of(world, 'alice')}'"),
                            ("name", "SET LOCAL immuta.impersonation_userid = 'alice'")):
        session = lasting("simple", kind)
        session.refused(statement, *ALONE)
        session.ok("BEGIN")
        session.ok(statement)
        session.is_alice()
        assert session.value("SELECT scope FROM immuta.whoami()") == "transaction"
        session.refused("RESET immuta.immuta_user", *ACTIVE)
        session.ok("COMMIT")
        session.is_nobody()
        session.leaves_nothing()


def test_not_without_permission(world, connect):
    """`allow_session_impersonation` is off by default."""
    session = connect()
    session.refused(f"SET bodata.impersonation_token = '{token_of(world, 'alice')}'", *UNSUPPORTED)
    session.refused("SET bodata.allow_session_impersonation = on", *REQUIRED)
    session.refused("SELECT set_config('bodata.allow_session_impersonation', 'on', false)", *DENIED)
    session = NameSession(world)
    session.refused("SET immuta.immuta_user = 'alice'", *UNSUPPORTED)
    session.refused("SET bodata.allow_session_impersonation = on", *DENIED)
    session.close()


def test_the_client_goes(world, lasting):
    """Row 33: the server process ends with its session; the next one is another."""
    session = lasting()
    session.begin()
    session.ok("BEGIN")
    session.ok("CREATE TABLE alice.unfinished (a int)")
    pid = session.value("SELECT pg_backend_pid()")
    world.sql("SELECT pg_terminate_backend(%s)", (int(pid),))
    with pytest.raises((Closed, OSError)):
        session.run("SELECT 1")
    session = lasting()
    session.is_nobody()


