"""What drivers can send and SQL cannot: function calls, portals, named statements, several messages before a Sync.

Threats: 9, 13, 15-17, 38, 39 (docs/threats.md).
"""

import pytest
from harness.fixtures import VERSION
from scene import ACTIVE, ALICE_ROWS, BOB_ROWS, COUNT, REQUIRED, UNSUPPORTED, expect, token_of

SET_LOCAL = "SET LOCAL bodata.impersonation_token = '{}'"
SET_CONFIG = "SELECT set_config('bodata.impersonation_token', $1, true)"
ORDERS = "SELECT count(*), min(carrier), max(carrier) FROM app.orders"
NOT_UA = "SELECT count(*) FROM app.orders WHERE carrier <> 'UA'"


@pytest.fixture
def token(world):
    return token_of(world, "alice")


@pytest.fixture
def session(connect):
    return connect()


@pytest.fixture
def migrator(connect):
    """A service login that needs no token, and sees every row of app.orders without one."""
    return connect("simple", "migrator", "migrator-password")


def call(session, function, *values):
    """By the fast path (message F)."""
    oid = int(session.world.value("SELECT %s::regprocedure::oid", (function,)))
    return session.wire.call(oid, *values).send().read()


# -- row 13 -------------------------------------------------------------------------------------------------------

SETTING = "set_config(text, text, boolean)"
CALLS_BY_NOBODY = [
    (SETTING, ("bodata.impersonation_token", "{alice}", "t"), REQUIRED),
    (SETTING, ("bodata.impersonation_token", "{alice}", "f"), REQUIRED),
    (SETTING, ("search_path", "alice", "f"), REQUIRED),
    (SETTING, ("application_name", "alice", "f"), REQUIRED),
    (SETTING, ("role", "bodata_impersonate_user", "f"), REQUIRED),
    ("app.alias_set_config(text, text, boolean)", ("search_path", "alice", "f"), REQUIRED),
    ("lo_creat(integer)", ("-1",), REQUIRED),
    ("lo_open(oid, integer)", ("1", "131072"), REQUIRED),
    ("nextval(regclass)", ("app.numbers",), REQUIRED),
    ("pg_advisory_lock(bigint)", ("1",), REQUIRED),
    ("pg_notify(text, text)", ("c", "x"), REQUIRED),
    ("alice.definer_reads()", (), REQUIRED),
    ("alice.invoker_reads()", (), REQUIRED),
    ("app.owners_count()", (), REQUIRED),
    ("alice.runs(text)", ("SET search_path = alice",), REQUIRED),
    ("alice.runs(text)", ("SELECT set_config('bodata.impersonation_token', '{alice}', true)",), REQUIRED),
    ("alice.sets_path()", (), REQUIRED),
    ("alice.sets_path_caught()", (), REQUIRED),
    ("alice.runs(text)", ("SELECT set_config('search_path', 'alice', false)",), REQUIRED),
    ("pg_backend_pid()", (), None),
    ("app.superusers_count()", (), None),
]


@pytest.mark.parametrize("attack", CALLS_BY_NOBODY, ids=lambda attack: f"{attack[0]} {attack[1]}"[:90])
def test_calls_by_nobody(session, token, attack):
    function, values, error = attack
    values = [value.replace("{alice}", token) for value in values]
    for block in (False, True):
        if block:
            session.ok("BEGIN")
        answer = call(session, function, *values)
        if error:
            expect(answer, *error)
        else:
            assert answer.error is None
        session.ok("COMMIT")
        assert session.value("SHOW search_path") == '"$user", public'
        assert session.value("SHOW application_name") == ""
        session.is_nobody()
    session.leaves_nothing()


CALLS_BY_ALICE = [
    (SETTING, ("role", "none", "f"), ("42501",)),
    (SETTING, ("role", "bob", "t"), ("42501",)),
    (SETTING, ("session_authorization", "postgres", "f"), ("42501",)),
    (SETTING, ("bodata.impersonation_token", "{bob}", "t"), ("42501",)),
    (SETTING, ("bodata.impersonation_token", "", "t"), ("42501",)),
    ("pg_advisory_lock(bigint)", ("1",), ACTIVE),
    ("pg_advisory_unlock_all()", (), ACTIVE),
    ("alice.reset_role()", (), ("42501",)),
    ("alice.definer_reset()", (), ACTIVE),
    ("alice.clause_role()", (), ("42501",)),
    ("alice.commits()", (), ("0A000",)),
    ("immuta.flush_token_cache()", (), ("42501",)),
    ("alice.reset_role_caught()", (), None),
    (SETTING, ("search_path", "alice", "f"), None),
    (SETTING, ("app.tenant", "alice", "f"), None),
    ("setseed(double precision)", ("0",), None),
    ("alice.runs(text)", ("CREATE TEMP TABLE flights (a int)",), None),
]


@pytest.mark.parametrize("attack", CALLS_BY_ALICE, ids=lambda attack: f"{attack[0]} {attack[1]}"[:90])
def test_calls_by_alice(world, session, attack):
    function, values, error = attack
    session.begin()
    session.ok("SAVEPOINT s")
    answer = call(session, function, *[value.replace("{bob}", token_of(world, "bob")) for value in values])
    if error:
        expect(answer, *error)
        session.ok("ROLLBACK TO s")
    else:
        assert answer.error is None
        assert call(session, "app.flights_in_plpgsql()").rows == [("100",)]
    session.is_alice()
    session.ok("COMMIT")
    assert session.value("SHOW search_path") == '"$user", public'
    assert session.value("SELECT current_setting('app.tenant', true)") in (None, "")
    session.leaves_nothing()


def test_a_call_that_presents_a_token(migrator, token):
    """Row 38: by a login that may call set_config() so: never a silent no-op."""
    values = ("bodata.impersonation_token", token, "t")
    expect(call(migrator, SETTING, *values), *UNSUPPORTED)
    assert migrator.rows(ORDERS) == [("300", "AA", "UA")]
    for statement in (ORDERS, "SHOW role", "COMMIT", "SET LOCAL search_path = app"):
        migrator.ok("BEGIN")
        assert call(migrator, SETTING, *values).error is None
        migrator.refused(statement, *UNSUPPORTED)
        migrator.ok("ROLLBACK")
        assert migrator.rows(ORDERS) == [("300", "AA", "UA")]


def test_rollback_after_a_call_that_presents_a_token(migrator, token):
    """The one statement that must always work."""
    migrator.ok("BEGIN")
    call(migrator, SETTING, "bodata.impersonation_token", token, "t")
    migrator.ok("ROLLBACK")
    assert migrator.rows(ORDERS) == [("300", "AA", "UA")]


# -- row 15: portals and cursors from before the token ------------------------------------------------------------

@pytest.mark.parametrize("max_rows", [0, 10])
def test_a_portal_that_began_before_the_token(migrator, max_rows):
    migrator.ok("BEGIN")
    wire = migrator.wire
    wire.parse("SELECT carrier FROM app.orders ORDER BY carrier").bind(portal="p").describe("p")
    if max_rows:
        wire.execute("p", max_rows)
    wire.sync().send().read()
    migrator.present()
    expect(wire.execute("p", max_rows).sync().send().read(), *ACTIVE)
    migrator.ok("ROLLBACK")
    assert migrator.rows(ORDERS) == [("300", "AA", "UA")]


FETCHES = ["FETCH c", "FETCH ALL FROM c", "FETCH FORWARD 0 FROM c", "MOVE 5 IN c", "FETCH BACKWARD 1 FROM c",
           "DO $$ DECLARE c refcursor := 'c'; r record; BEGIN FETCH c INTO r; END $$",
           "SELECT * FROM cursor_to_xml('c', 1, false, false, '')",
           "UPDATE app.orders SET carrier = 'UA' WHERE CURRENT OF c"]


@pytest.mark.parametrize("fetch", FETCHES)
@pytest.mark.parametrize("declare", [
    "DECLARE c SCROLL CURSOR FOR SELECT * FROM app.orders WHERE carrier <> 'UA'",
    "DO $$ DECLARE c refcursor := 'c'; BEGIN OPEN c FOR SELECT * FROM app.orders WHERE carrier <> 'UA'; END $$"])
def test_a_cursor_that_was_declared_before_the_token(world, migrator, declare, fetch):
    migrator.ok("BEGIN")
    migrator.ok(declare)
    assert len(migrator.rows("FETCH 3 FROM c")) == 3
    migrator.present()
    answer = migrator.run(fetch)
    assert answer.error is not None or answer.rows in ([], [("<row/>",)]) and "UPDATE 1" not in answer.tags, answer
    migrator.ok("COMMIT")
    assert world.value(NOT_UA) == 200


HELD = ("DECLARE c CURSOR WITH HOLD FOR SELECT carrier FROM app.orders",
        "DECLARE \"C d\" SCROLL CURSOR WITH HOLD FOR TABLE app.orders")


@pytest.mark.parametrize("declare", HELD)
def test_a_cursor_that_outlived_its_transaction(migrator, declare):
    """Its rows are the login's, and no hook sees them being fetched: there is no impersonation beside it."""
    migrator.ok(declare)
    migrator.ok("BEGIN")
    token = token_of(migrator.world, "alice")
    migrator.refused(f"SET LOCAL bodata.impersonation_token = '{token}'", "25000", "IMPERSONATION_NOT_SUPPORTED")
    migrator.ok("ROLLBACK")
    migrator.ok("CLOSE ALL")
    migrator.ok("BEGIN")
    migrator.ok(declare)
    migrator.refused(f"SET LOCAL bodata.impersonation_token = '{token}'", "25000", "IMPERSONATION_NOT_SUPPORTED")
    migrator.ok("ROLLBACK")
    migrator.begin()
    assert migrator.run("FETCH 1 FROM c").error["C"] == "34000"
    migrator.ok("ROLLBACK")


BOUND = [
    "SELECT carrier FROM app.orders", "TABLE app.orders", "SELECT carrier FROM app.orders FOR UPDATE",
    "DELETE FROM app.orders", "DELETE FROM app.orders RETURNING carrier",
    "UPDATE app.orders SET carrier = 'ZZ' WHERE carrier = 'AA'",
    "UPDATE app.orders SET id = id RETURNING carrier", "INSERT INTO app.orders VALUES (9001, 'AA')",
    "INSERT INTO app.orders VALUES (9001, 'AA') RETURNING carrier",
    "INSERT INTO app.orders VALUES (2, 'AA') ON CONFLICT (id) DO UPDATE SET carrier = 'ZZ'",
    "WITH d AS (DELETE FROM app.orders WHERE false RETURNING 1) SELECT carrier FROM app.orders",
    "WITH d AS (DELETE FROM app.orders RETURNING carrier) SELECT carrier FROM d",
    "INSERT INTO alice.seen SELECT carrier, carrier FROM app.orders",
    "CREATE TABLE alice.stolen AS SELECT carrier FROM app.orders",
    "CREATE TEMP TABLE s AS SELECT carrier FROM app.orders",
    "COPY app.orders (carrier) TO STDOUT", "COPY (SELECT carrier FROM app.orders) TO STDOUT",
    "COPY (DELETE FROM app.orders RETURNING carrier) TO STDOUT", "EXPLAIN ANALYZE DELETE FROM app.orders",
    "DECLARE c CURSOR FOR SELECT carrier FROM app.orders", "EXECUTE before",
    "SELECT carrier INTO alice.stolen FROM app.orders",
    "DO 'BEGIN DELETE FROM app.orders; END'", "SELECT current_user", "VALUES (current_user)",
    "SELECT set_config('role', 'none', false)", "SET ROLE NONE", "RESET ROLE", "COMMIT", "DISCARD ALL",
]
if int(VERSION) >= 15:
    BOUND += ["MERGE INTO app.orders o USING (VALUES (2)) v (id) ON true WHEN MATCHED THEN DELETE"]


@pytest.mark.parametrize("who", ["svc", "migrator"])
@pytest.mark.parametrize("statement", BOUND)
def test_a_portal_that_was_bound_before_the_token(world, session, migrator, who, statement):
    """Its plan, with the row policies of the service login, must not run on behalf of alice: refused, or as if
    bound after the token. app.orders shows the service login every row."""
    session = migrator if who == "migrator" else session
    wire = session.wire
    world.sql("TRUNCATE alice.seen")
    session.ok("BEGIN")
    if who == "migrator":
        session.ok("PREPARE before AS SELECT carrier FROM app.orders")
    session.ok("SAVEPOINT s")
    bound = wire.parse(statement, "s1").bind(portal="p", name="s1").sync().send().read()
    if bound.error:
        session.ok("ROLLBACK")
        return
    session.ok("RELEASE s")
    session.present()
    answer = wire.execute("p").sync().send().read()
    assert {row[0].strip() for r in answer.results for row in r.rows if row[0]} <= {"UA", "alice"} or \
        "EXPLAIN" in statement, answer
    if not answer.error and "DECLARE" in statement:
        assert set(session.rows("FETCH ALL FROM c")) == {("UA",)}
    if not answer.error and "stolen" in statement:
        assert session.rows("SELECT DISTINCT carrier FROM alice.stolen") == [("UA",)]
    if not answer.error and "TEMP" in statement:
        assert session.rows("SELECT DISTINCT carrier FROM pg_temp.s") == [("UA",)]
    if statement != "COMMIT":
        assert session.run("COMMIT").error is None
    try:
        assert world.value(NOT_UA) == 200, "alice changed rows that she cannot see"
        assert world.value("SELECT count(*) FROM alice.seen WHERE who <> 'UA'") == 0
    finally:
        world.sql("TRUNCATE app.orders; DROP TABLE IF EXISTS alice.stolen; TRUNCATE alice.seen")
        world.sql("INSERT INTO app.orders "
                  "SELECT i, (ARRAY['UA', 'AA', 'DL'])[1 + i % 3] FROM generate_series(1, 300) i")
    if who == "svc":
        session.leaves_nothing()


def test_a_portal_across_the_switch(session, token):
    """Row 15: the query that presents the token is suspended by a row limit, and then asked for more."""
    wire = session.wire
    session.ok("BEGIN")
    statement = f"SELECT set_config('bodata.impersonation_token', '{token}', true) FROM generate_series(1, 3)"
    answer = wire.parse(statement).bind(portal="p").execute("p", 1).sync().send().read()
    assert answer.error is None and answer.results[-1].suspended
    session.is_alice()
    expect(wire.execute("p", 1).sync().send().read(), *ACTIVE)
    session.ok("ROLLBACK")
    session.leaves_nothing()


def test_portals_of_the_user_go_on_and_end_with_the_transaction(session):
    """The honest twin: row limits, other statements and savepoints in between."""
    wire = session.wire
    session.begin()
    answer = wire.parse("SELECT carrier FROM app.flights").bind(portal="p").execute("p", 30).sync().send().read()
    assert answer.results[0].rows == [("UA",)] * 30 and answer.results[0].suspended
    session.is_alice()
    session.ok("SAVEPOINT s")
    assert len(wire.execute("p", 30).sync().send().read().rows) == 30
    session.refused("SELECT 1/0", "22012")
    session.ok("ROLLBACK TO s")
    session.is_alice()
    rest = wire.execute("p").sync().send().read()
    assert (len(rest.rows), rest.tags) == (40, ["SELECT 40"])
    wire.parse("SELECT carrier FROM app.flights").bind(portal="q").execute("q", 30).sync().send().read()
    session.ok("COMMIT")
    expect(wire.execute("q", 30).sync().send().read(), "34000")
    session.begin("bob")
    expect(wire.execute("q", 30).sync().send().read(), "34000")
    session.ok("ROLLBACK")
    session.leaves_nothing()


# -- row 16: statements prepared in another's time ----------------------------------------------------------------

@pytest.mark.parametrize("plan", ["auto", "force_generic_plan", "force_custom_plan"])
@pytest.mark.parametrize("how", ["parse", "prepare"])
def test_one_statement_for_several_users(connect, plan, how):
    """Drivers and poolers keep named statements across transactions, hence across users: each sees their own
    rows. Those prepared by name are the login's alone."""
    for first in ("migrator", "alice", "bob"):
        session = connect("simple", "migrator", "migrator-password", options=f"-c plan_cache_mode={plan}")
        wire = session.wire
        rows = {"alice": ("100", "UA", "UA"), "bob": ("100", "AA", "AA"), "migrator": ("300", "AA", "UA")}
        statement = f"{ORDERS} WHERE id > $1"
        session.ok("BEGIN")
        if how == "prepare":
            # SQL-level PREPARE is for the login alone.
            session.ok(f"PREPARE s1 (int) AS {statement}")
        if first != "migrator":
            session.present(first)
        if how == "parse":
            wire.parse(statement, "s1", [23]).sync().send().read()
        session.ok("COMMIT")
        for user in ("alice", "bob", "migrator") * 4:
            session.ok("BEGIN")
            if user != "migrator":
                session.present(user)
            if how == "parse":
                answer = wire.bind("0", name="s1").describe().execute().sync().send().read()
            elif user != "migrator":
                # By name it would be shown by EXPLAIN, and run, for whoever comes next.
                expect(session.run("EXECUTE s1 (0)"), *ACTIVE)
                session.ok("ROLLBACK")
                continue
            else:
                answer = session.run("EXECUTE s1 (0)")
            assert answer.error is None and answer.rows == [rows[user]]
            session.ok("COMMIT")


def test_a_statement_of_the_user_is_nobodys_afterwards(session):
    wire = session.wire
    session.begin()
    wire.parse(COUNT, "s1").sync().send().read()
    assert wire.bind(name="s1").describe().execute().sync().send().read().rows == ALICE_ROWS
    session.ok("COMMIT")
    expect(wire.bind(name="s1").execute().sync().send().read(), *REQUIRED)
    session.ok("BEGIN")
    expect(wire.bind(name="s1").execute().sync().send().read(), *REQUIRED)
    session.ok("ROLLBACK")
    session.begin("bob")
    assert wire.bind(name="s1").describe().execute().sync().send().read().rows == BOB_ROWS
    session.ok("COMMIT")
    session.leaves_nothing()


# Without row policies on what they read: PostgreSQL itself parses those again for another role.
PREPARED_BY_ALICE = [
    "SELECT * FROM private.notes", "SELECT count(*) FROM app.everyone, private.notes",
    "SELECT count(*) FROM app.flights, private.notes", "SELECT (SELECT count(*) FROM private.notes)",
    "WITH x AS (SELECT * FROM private.notes) SELECT * FROM x",
    "SELECT 1 FROM app.everyone WHERE EXISTS (SELECT FROM private.notes) LIMIT 1",
    "SELECT body FROM private.notes UNION ALL SELECT body FROM app.everyone",
    "SELECT * FROM app.all_flights, private.notes", "INSERT INTO app.everyone SELECT body FROM private.notes",
    "EXPLAIN SELECT * FROM private.notes", "COPY (SELECT * FROM private.notes) TO STDOUT",
    "COPY private.notes TO STDOUT", "CREATE TEMP TABLE x AS SELECT * FROM private.notes",
    "DECLARE c CURSOR FOR SELECT * FROM private.notes",
]
if int(VERSION) >= 15:
    PREPARED_BY_ALICE += ["SELECT * FROM private.notes, app.invokers_everyone LIMIT 1"]


@pytest.mark.parametrize("plan", ["force_generic_plan", "force_custom_plan"])
@pytest.mark.parametrize("statement", PREPARED_BY_ALICE)
def test_schema_usage_is_checked_for_who_executes(connect, plan, statement):
    """bob has rights on the objects, and none on the schema: bob could not have prepared the statement. The search
    path is the same for both, or else PostgreSQL itself would parse the statement again."""
    session = connect(options=f"-c plan_cache_mode={plan} -c search_path=app")
    wire = session.wire
    session.begin()
    wire.parse(statement, "s1").sync().send().read()
    for _ in range(2):
        answer = wire.bind(name="s1").describe().execute().sync().send().read()
        assert answer.error is None, answer.error
        if "TEMP" in statement or "CURSOR" in statement:
            break
    session.ok("ROLLBACK")
    session.begin("bob")
    expect(wire.bind(name="s1").describe().execute().sync().send().read(), "42501")
    session.ok("ROLLBACK")
    session.leaves_nothing()


# -- row 17: several messages before one Sync ---------------------------------------------------------------------

def pipeline(wire, *statements):
    for statement in statements:
        values = ()
        if isinstance(statement, tuple):
            statement, *values = statement
        wire.statement(statement, *values)
    return wire.sync().send().read()


PRESENTING = {"SET LOCAL": lambda token: SET_LOCAL.format(token), "set_config": lambda token: (SET_CONFIG, token)}


@pytest.mark.parametrize("present", PRESENTING)
def test_a_transaction_in_one_batch(session, token, present):
    """As pgjdbc and pipelining drivers send it."""
    first, wire = PRESENTING[present](token), session.wire
    answer = pipeline(wire, "BEGIN", first, COUNT, "SELECT current_user", "COMMIT")
    assert answer.error is None and answer.status == "I"
    assert [r.rows for r in answer.results[2:4]] == [ALICE_ROWS, [("alice",)]]
    session.is_nobody()
    # Without BEGIN the batch is one implicit transaction.
    answer = pipeline(wire, first, COUNT, "SELECT current_user")
    assert answer.error is None and [r.rows for r in answer.results[1:]] == [ALICE_ROWS, [("alice",)]]
    session.is_nobody()
    # BEGIN after the token makes that transaction a block.
    answer = pipeline(wire, first, "BEGIN", COUNT)
    assert answer.error is None and answer.status == "T" and answer.rows == ALICE_ROWS
    session.is_alice()
    session.ok("COMMIT")
    answer = pipeline(wire, "BEGIN", first)
    assert answer.error is None and answer.status == "T"
    session.is_alice()
    session.ok("COMMIT")
    session.leaves_nothing()


BATCHES = [
    (["{first}"], "25P01"),
    (["SELECT 1", "{first}"], "25P01"),
    (["{first}", "ROLLBACK", COUNT], "42501"),
    (["{first}", "SELECT 1", "COMMIT", COUNT], "42501"),
    (["{first}", "SELECT 1", "COMMIT", "SELECT * FROM app.everyone"], "42501"),
    (["BEGIN", "{first}", "COMMIT", COUNT], "42501"),
    (["BEGIN", "{first}", "COMMIT", "SELECT * FROM app.everyone"], "42501"),
    (["BEGIN", "{first}", "ROLLBACK AND CHAIN", "SELECT * FROM app.everyone"], "42501"),
    (["{first}", "VACUUM alice.t"], "25001"),
    (["{first}", "CREATE INDEX CONCURRENTLY ON alice.t (id)"], "25001"),
    (["{first}", "CALL alice.commits()"], "2D000"),
    (["{first}", "DO 'BEGIN COMMIT; END'"], "2D000"),
    (["{first}", "DISCARD ALL"], "42501"),
    (["{first}", "RESET ROLE"], "42501"),
    (["{first}", "SET LOCAL bodata.impersonation_token = '{bob}'"], "42501"),
    (["{first}", "{first}"], "42501"),
    (["{first}", "SELECT 1/0", COUNT], "22012"),
    (["{first}", "PREPARE TRANSACTION 'x'"], "25000"),
    (["SAVEPOINT s", "{first}", COUNT], "25P01"),
    (["BEGIN", "SAVEPOINT s", "{first}", "ROLLBACK TO s", COUNT], "42501"),
]


@pytest.mark.parametrize("present", PRESENTING)
@pytest.mark.parametrize("batch", BATCHES, ids=lambda batch: "; ".join(batch[0])[:90])
def test_batches_that_fail(world, session, token, batch, present):
    """With the error of the statement that is wrong, and nobody afterwards."""
    statements, sqlstate = batch
    bob, first = token_of(world, "bob"), PRESENTING[present](token)
    answer = pipeline(session.wire, *[first if s == "{first}" else s.replace("{bob}", bob) for s in statements])
    expect(answer, sqlstate)
    session.leaves_nothing()


@pytest.mark.parametrize("end", ["COMMIT", "END", "ROLLBACK"])
def test_a_batch_without_begin_that_ends_itself(session, token, end):
    """PostgreSQL warns that there is no block: a token that nothing used is an error then, or else without
    effect."""
    answer = pipeline(session.wire, SET_LOCAL.format(token), end)
    assert answer.error is None or answer.error["C"] == "25P01"
    session.leaves_nothing()


def test_parsed_before_executed_after(session, token):
    """Row 16: a driver that parses all, then binds and executes one after the other."""
    wire = session.wire
    wire.parse("BEGIN", "s0").parse(SET_LOCAL.format(token), "s1").parse(ORDERS, "s2")
    wire.parse("SELECT current_user", "s3")
    for name in ("s0", "s1", "s2", "s3"):
        wire.bind(name=name).describe().execute()
    answer = wire.sync().send().read()
    assert answer.error is None
    assert [r.rows for r in answer.results[2:]] == [[("100", "UA", "UA")], [("alice",)]]
    session.is_alice()
    session.ok("COMMIT")
    session.leaves_nothing()


def test_bound_before_executed_after_in_one_batch(session, token):
    """Row 15, where all portals are bound first."""
    wire = session.wire
    wire.parse(SET_LOCAL.format(token), "s1").parse("SELECT current_user", "s2")
    wire.bind(name="s1", portal="p1").bind(name="s2", portal="p2").execute("p1").execute("p2")
    expect(wire.sync().send().read(), *ACTIVE)
    session.leaves_nothing()


def test_flush_instead_of_sync(session, token):
    wire = session.wire
    wire.statement(SET_LOCAL.format(token)).flush().send().read(until="C")
    answer = wire.statement(COUNT).flush().send().read(until="CE")
    assert answer.error is None and answer.rows == ALICE_ROWS
    assert wire.sync().send().read().status == "I"
    session.leaves_nothing()


def test_a_call_behind_the_token_in_one_batch(session, token):
    """Row 13 and 17: the function call message ends the implicit transaction by itself."""
    oid = int(session.world.value("SELECT 'app.flights_in_plpgsql()'::regprocedure::oid"))
    answer = session.wire.statement(SET_LOCAL.format(token)).call(oid).send().read()
    assert answer.error is None and answer.rows == [("100",)] or answer.error["C"] == "25P01"
    session.leaves_nothing()
    session.begin()
    assert call(session, "app.flights_in_plpgsql()").rows == [("100",)]
    session.ok("COMMIT")
    session.leaves_nothing()


SIMPLE = [
    ("{t}; SELECT current_user", None, [("alice",)]), ("SELECT 1; {t}; SELECT current_user", None, [("alice",)]),
    ("{t}; BEGIN; SELECT current_user; COMMIT", None, [("alice",)]),
    ("BEGIN; {t}; SELECT current_user; COMMIT", None, [("alice",)]),
    ("{t}; SELECT current_user; COMMIT", None, [("alice",)]),
    ("BEGIN; {t}; COMMIT", None, []), ("{t}", "25P01", None), ("{t};;", "25P01", None),
    ("SELECT 1; {t}", "25P01", None),
    ("{t}; COMMIT; SELECT * FROM app.everyone", "42501", None), ("{t}; {t}", "42501", None),
    ("{t}; VACUUM alice.t", "25001", None), ("{t}; CALL alice.commits()", "2D000", None),
    ("{t}; SELECT 1; ROLLBACK; SELECT * FROM app.everyone", "42501", None),
    ("{t}; SAVEPOINT s", "25P01", None), ("BEGIN; SAVEPOINT s; {t}; ROLLBACK TO s; SELECT * FROM app.everyone", "42501", None),
    ("{t}; SELECT 1/0; SELECT current_user", "22012", None), ("{t}; DISCARD ALL", "42501", None),
    ("{t}; SELECT set_config('role', 'none', false)", "42501", None),
    ("{t}; DO 'BEGIN COMMIT; END'", "2D000", None),
]


@pytest.mark.parametrize("message", SIMPLE, ids=lambda message: message[0])
def test_messages_of_several_statements(session, token, message):
    text, sqlstate, rows = message
    answer = session.wire.query(text.replace("{t}", SET_LOCAL.format(token)))
    if sqlstate:
        expect(answer, sqlstate)
    else:
        assert answer.error is None and answer.rows == rows
    session.leaves_nothing()
