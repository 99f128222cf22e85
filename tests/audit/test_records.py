"""What a record says of each kind of statement.

Threats: 30, 51 (docs/threats.md).
"""

import pytest
from conftest import Trail, audited_server, events, world_of
from harness.fixtures import VERSION
from harness.world import query

# Statement, command, rows, objects with what is done to which columns.
STATEMENTS = [
    ("SELECT id, carrier FROM app.flights WHERE delay > 1 LIMIT 3", "SELECT", 3,
     [("app.flights", "TABLE", ["SELECT"], {"id", "carrier", "delay"})]),
    ("SELECT count(*) FROM app.flights", "SELECT", 1, [("app.flights", "TABLE", ["SELECT"], set())]),
    ("SELECT f FROM app.flights f LIMIT 1", "SELECT", 1, [("app.flights", "TABLE", ["SELECT"], {"*"})]),
    ("SELECT 1", "SELECT", 1, []),
    ("UPDATE app.flights SET delay = delay + 1 WHERE id = 3", "UPDATE", 1,
     [("app.flights", "TABLE", ["SELECT", "UPDATE"], {"id", "delay"})]),
    ("INSERT INTO app.flights (id, carrier) VALUES (1000, 'UA'), (1001, 'UA')", "INSERT", 2,
     [("app.flights", "TABLE", ["INSERT"], {"id", "carrier"})]),
    ("DELETE FROM app.flights WHERE id >= 1000", "DELETE", 0,
     [("app.flights", "TABLE", ["SELECT", "DELETE"], {"id"})]),
    ("WITH d AS (UPDATE app.flights SET delay = 0 WHERE id = 3 RETURNING id) SELECT * FROM d", "SELECT", 1,
     [("app.flights", "TABLE", ["SELECT", "UPDATE"], {"id", "delay"})]),
    ("SELECT carrier FROM app.seen LIMIT 1", "SELECT", 1,
     [("app.seen", "VIEW", ["SELECT"], {"carrier"}), ("app.flights", "TABLE", ["SELECT"], {"id", "carrier"})]),
    ("COPY app.flights (id) TO STDOUT", "COPY", 100,
     [("app.flights", "TABLE", ["SELECT"], {"id", "carrier"}), ]),
    ("COPY (SELECT id FROM app.flights) TO STDOUT", "COPY", 100, [("app.flights", "TABLE", ["SELECT"], None)]),
    ("CREATE TABLE alice.made AS SELECT id FROM app.flights", "CREATE TABLE AS", 100,
     [("app.flights", "TABLE", ["SELECT"], None), ("alice.made", "TABLE", None, None)]),
    ("CREATE TABLE alice.t (a int)", "CREATE TABLE", 0, [("alice.t", "TABLE", ["CREATE"], set())]),
    ("CREATE FUNCTION alice.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "CREATE FUNCTION", 0,
     [("alice.f()", "FUNCTION", ["CREATE"], set())]),
    ("SELECT app.busy(5)", "SELECT", 1,
     [("app.busy", "FUNCTION", ["EXECUTE"], set()), ("app.flights", "TABLE", ["SELECT"], {"id"})]),
    ("SELECT app.catches()", "SELECT", 1,
     [("app.catches", "FUNCTION", ["EXECUTE"], set()), ("app.flights", "TABLE", ["SELECT"], {"id"})]),
    ("CALL app.works()", "CALL", 0,
     [("app.works", "FUNCTION", ["EXECUTE"], set()), ("app.flights", "TABLE", ["SELECT", "UPDATE"], {"id", "delay"})]),
    ("DO $$ BEGIN PERFORM 1 FROM app.flights; END $$", "DO", 0, [("app.flights", "TABLE", ["SELECT"], set())]),
    ("EXPLAIN ANALYZE SELECT id FROM app.flights", "EXPLAIN", None, [("app.flights", "TABLE", ["SELECT"], {"id"})]),
    ("SET LOCAL work_mem = '5MB'", "SET", 0, []), ("SHOW work_mem", "SHOW", None, []), ("SAVEPOINT s", "SAVEPOINT", 0, []),
    ("INSERT INTO app.ruled VALUES (1)", "INSERT", None,
     [("app.ruled", "TABLE", None, {"id"}), ("app.ruled_log", "TABLE", ["INSERT"], {"id"})]),
    ("DELETE FROM app.ruled", "DELETE", None,
     [("app.ruled", "TABLE", ["SELECT", "DELETE"], {"id"}), ("app.ruled_log", "TABLE", ["INSERT"], {"id"})]),
]


def objects(record):
    return {o["name"]: (o["objectType"], o["accessType"], {c["name"] for c in o["columns"]})
            for o in record["auditPayload"]["objectsAccessed"]}


@pytest.mark.parametrize("statement,command,rows,accessed", STATEMENTS, ids=lambda value: str(value)[:60])
def test_a_statement_that_succeeds(session, trail, statement, command, rows, accessed):
    session.begin()
    session.ok(statement)
    session.ok("ROLLBACK")
    started, record, ended = trail.new()
    assert (started["auditPayload"]["event"], ended["auditPayload"]["event"]) == ("STARTED", "ENDED")
    assert ended["auditPayload"]["transactionOutcome"] == "ROLLBACK", "kept although nothing came of it"
    assert ended["auditPayload"]["statements"] == 1
    payload, context = record["auditPayload"], record["auditPayload"]["technologyContext"]
    assert (record["action"], record["actionStatus"], payload["errorCode"]) == ("QUERY", "SUCCESS", None)
    assert (payload["query"], context["command"], context["nestingDepth"]) == (statement, command, 0)
    if rows is not None:
        assert payload["rows"] == rows
    seen = objects(record)
    for name, kind, access, columns in accessed:
        assert name in seen, seen
        assert seen[name][0] == kind
        assert access is None or seen[name][1] == access, seen
        if columns is not None and command != "COPY":
            assert seen[name][2] == columns, seen
    if not accessed:
        assert seen == {}
    assert payload["startTime"] <= payload["endTime"] <= record["eventTimestamp"]
    for one in (started, record, ended):
        assert one["actor"] == {"type": "USER_ACTOR", "id": "alice", "name": "alice", "identityProvider": "bim",
                                "impersonatedBy": "svc"}
        assert one["auditPayload"]["accessControls"] == {"mappedRole": "alice", "tokenProvider": "local",
                                                         "scope": "transaction"}
        about = one["auditPayload"]["technologyContext"]
        assert (about["database"], about["clientAddress"]) == ("immuta", "127.0.0.1")
    assert len({one["sessionId"] for one in (started, record, ended)}) == 1
    assert len({one["id"] for one in (started, record, ended)}) == 3
    targets = {t["name"] for t in record["targets"]}
    assert targets == {name for name, (kind, *_) in seen.items() if kind in ("TABLE", "VIEW")}


# Statement, SQLSTATE, command, status, objects.
FAILURES = [
    ("SELEC 1", "42601", "", "FAILURE", ()), ("SELECT * FROM nowhere", "42P01", "", "FAILURE", ()),
    ("SELECT * FROM private.nowhere", "42P01", "", "FAILURE", ()), ("SELECT 1/0", "22012", None, "FAILURE", ()),
    ("SELECT 1/(delay - delay) FROM app.flights", "22012", "SELECT", "FAILURE", ("app.flights",)),
    ("SELECT * FROM app.parents, app.ruled_log, immuta.token", "42501", None, "UNAUTHORIZED", ()),
    ("SELECT body FROM app.hidden", "42501", "SELECT", "UNAUTHORIZED", ("app.hidden",)),
    ("INSERT INTO app.flights (id, carrier) VALUES (3, 'UA')", "23505", "INSERT", "FAILURE", ("app.flights",)),
    ("INSERT INTO app.flights (id, carrier) VALUES (3000, 'AA')", "42501", "INSERT", "UNAUTHORIZED", ("app.flights",)),
    ("RESET ROLE", "42501", "RESET", "UNAUTHORIZED", ()),
    ("SELECT set_config('role', 'none', true)", "42501", "SELECT", "UNAUTHORIZED", ()),
    ("LISTEN x", "42501", "LISTEN", "UNAUTHORIZED", ()),
    ("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'ABCDE'; END $$", "ABCDE", "DO", "FAILURE", ()),
    ("SELECT app.busy(5), 1/(id - id) FROM app.flights", "22012", "SELECT", "FAILURE", ("app.flights",)),
    ("COPY app.flights FROM STDIN", "42501", None, None, ()),
    ("CREATE TABLE alice.t (a nosuchtype)", "42704", "CREATE TABLE", "FAILURE", ()),
    ("FETCH 1 FROM nowhere", "34000", "FETCH", "FAILURE", ()),
]


@pytest.mark.parametrize("statement,sqlstate,command,status,names", FAILURES, ids=lambda value: str(value)[:60])
def test_a_statement_that_fails(session, trail, statement, sqlstate, command, status, names):
    session.begin()
    error = session.run(statement).error
    assert error is not None
    if status:
        assert error["C"] == sqlstate
    session.ok("ROLLBACK")
    _, record, ended = trail.new()
    payload = record["auditPayload"]
    assert payload["query"] == statement
    assert payload["errorCode"] == error["C"]
    if status:
        assert record["actionStatus"] == status
    if command is not None:
        assert payload["technologyContext"]["command"] == command
    assert set(names) <= set(objects(record))
    if error.get("D", "").startswith("IMPERSONATION_"):
        assert record["actionStatusReason"] == error["D"]
    assert ended["auditPayload"]["transactionOutcome"] == "ROLLBACK"


def test_failures_in_savepoints(session, trail):
    session.begin()
    sent = ["SAVEPOINT s", "SELECT 1/0", "SELECT 'refused'", "ROLLBACK TO s", "SELECT app.catches()", "SELECT 2"]
    for statement in sent:
        session.run(statement)
    session.ok("COMMIT")
    records = trail.queries()
    assert [r["auditPayload"]["query"] for r in records] == sent
    assert [r["auditPayload"]["errorCode"] for r in records] == [None, "22012", "25P02", None, None, None]


def test_a_cursor_and_its_fetches_are_one(session, trail):
    session.begin()
    session.ok("DECLARE c CURSOR FOR SELECT id FROM app.flights")
    session.ok("DECLARE d CURSOR FOR SELECT carrier FROM app.flights")
    for statement in ("FETCH 5 FROM c", "FETCH 2 FROM d", "MOVE 3 FROM c", "FETCH 7 FROM c", "CLOSE c", "SELECT 1"):
        session.ok(statement)
    session.ok("COMMIT")
    seen = [(r["auditPayload"]["query"], r["auditPayload"]["rows"]) for r in trail.queries()]
    assert seen == [("DECLARE c CURSOR FOR SELECT id FROM app.flights", 15), ("SELECT 1", 1),
                    ("DECLARE d CURSOR FOR SELECT carrier FROM app.flights", 2)]


def test_a_cursor_that_fails_in_a_fetch(session, trail):
    session.begin()
    session.ok("DECLARE c CURSOR FOR SELECT 1/(id - 9) FROM app.flights ORDER BY id")
    session.ok("FETCH 2 FROM c")
    assert session.run("FETCH 5 FROM c").error["C"] == "22012"
    session.ok("ROLLBACK")
    record, = trail.queries()
    assert (record["auditPayload"]["errorCode"], record["actionStatus"]) == ("22012", "FAILURE")


def test_a_portal_with_row_limits_is_one_statement(connect, trail):
    session = connect("extended")
    session.begin()
    session.wire.parse("SELECT id FROM app.flights").bind(portal="p").execute("p", 10).sync().send().read()
    assert trail.queries() == [], "suspended"
    session.wire.execute("p", 20).sync().send().read()
    session.wire.close_portal("p").sync().send().read()
    record, = trail.queries()
    assert record["auditPayload"]["rows"] == 30
    session.wire.parse("SELECT id FROM app.flights").bind(portal="q").execute("q", 10).sync().send().read()
    session.ok("COMMIT")
    record, = trail.queries()
    assert (record["auditPayload"]["rows"], record["actionStatus"]) == (10, "SUCCESS")


def test_a_record_stands_before_its_statement_is_answered(connect, trail):
    """Extended protocol: the portal lives on, the record does not wait for it."""
    session = connect("extended")
    session.begin()
    session.ok("SELECT count(*) FROM app.flights")
    assert len(trail.queries()) == 1
    session.ok("UPDATE app.flights SET delay = 1 WHERE id = 3")
    assert len(trail.queries()) == 1
    session.ok("ROLLBACK")


def test_several_statements_in_one_message(connect, trail):
    session = connect()
    session.begin()
    assert session.run("SELECT 1; SELECT 2; SELECT 1/0; SELECT 3").error["C"] == "22012"
    session.ok("ROLLBACK")
    texts = [(r["auditPayload"]["query"], r["actionStatus"]) for r in trail.queries()]
    assert texts[:2] == [("SELECT 1", "SUCCESS"), ("SELECT 2", "SUCCESS")]
    assert len(texts) == 3 and texts[2][1] == "FAILURE" and "1/0" in texts[2][0]


def test_an_implicit_transaction(connect, world, trail):
    session = connect()
    token = world.token("alice")
    session.ok(f"SET LOCAL bodata.impersonation_token = '{token}'; SELECT 1; SELECT 2")
    started, one, two, ended = trail.new()
    assert ended["auditPayload"]["transactionOutcome"] == "COMMIT"
    assert [one["auditPayload"]["query"], two["auditPayload"]["query"]] == ["SELECT 1", "SELECT 2"]


def test_function_call_messages_are_statements(connect, world, trail):
    session = connect("extended")
    oid = int(world.value("SELECT 'app.busy(int)'::regprocedure::oid"))
    session.begin()
    assert session.wire.call(oid, "3").send().read().error is None
    session.ok("SELECT 1")
    session.ok("DECLARE idle CURSOR FOR SELECT 2")
    assert session.wire.call(oid, "3").send().read().error is None
    assert session.wire.call(oid, "4").send().read().error is None
    session.ok("CLOSE idle")
    session.ok("COMMIT")
    called, selected, second, third, _ = trail.queries()
    for record in (called, second, third):
        assert record["auditPayload"]["technologyContext"]["command"] == "FUNCTION CALL"
        assert "app.busy" in objects(record)
    assert selected["auditPayload"]["query"] == "SELECT 1"


def test_a_commit_that_fails(session, trail):
    session.begin()
    session.ok("INSERT INTO app.children VALUES (1, 99)")
    assert session.run("COMMIT").error["C"] == "23503"
    started, inserted, *committed, ended = trail.new()
    # What a foreign key asks of its table is no query since 19.
    assert len(committed) == (int(VERSION) < 19)
    assert all(r["actionStatus"] == "FAILURE" and "parents" in str(r["auditPayload"]["objectsAccessed"]) for r in committed)
    assert inserted["actionStatus"] == "SUCCESS"
    payload = ended["auditPayload"]
    assert (ended["actionStatus"], payload["transactionOutcome"], payload["errorCode"]) == ("FAILURE", "ROLLBACK", "23503")


def test_secrets_are_not_on_record(session, world, trail):
    token = world.token("bob")
    session.begin()
    for statement in (f"SELECT set_config('bodata.impersonation_token', '{token}', true)",
                      f"SELECT '{token}', current_setting('bodata.impersonation_token')",
                      f"SELECT '{token}' FROM nowhere WHERE 'bodata.impersonation_token' = ''"):
        session.ok("SAVEPOINT s")
        session.run(statement)
        session.ok("ROLLBACK TO s")
    session.ok("COMMIT")
    assert token not in str(trail.new())


def test_a_text_that_was_masked_says_so(session, trail):
    session.begin()
    session.ok("SELECT 'open'")
    session.ok("SELECT 'masked' /* impersonation_token */")
    session.ok("COMMIT")
    open_, masked = trail.queries()
    assert "queryMasked" not in open_["auditPayload"] and open_["auditPayload"]["query"] == "SELECT 'open'"
    assert masked["auditPayload"]["queryMasked"] is True and "masked" not in masked["auditPayload"]["query"]


def test_objects_are_limited_and_say_so(session, trail):
    session.begin()
    session.ok("SELECT " + " + ".join(["(SELECT count(*) FROM app.flights)"] * 3))
    session.ok("DO $$ BEGIN FOR i IN 1..300 LOOP"
               " EXECUTE format('CREATE FUNCTION pg_temp.f%s() RETURNS int LANGUAGE sql RETURN 1', i);"
               " EXECUTE format('SELECT pg_temp.f%s()', i); END LOOP; END $$")
    session.ok("COMMIT")
    few, many = trail.queries()
    assert "objectsTruncated" not in few["auditPayload"]
    assert many["auditPayload"]["objectsTruncated"] is True
    assert len(many["auditPayload"]["objectsAccessed"]) == 256


def test_other_sessions_leave_no_records(world, trail):
    with world.connect("plain", "plain-password") as connection:
        query(connection, "SELECT 1")
    world.sql("SELECT count(*) FROM app.flights")
    assert trail.new() == []


def test_texts_of_all_kinds(session, trail):
    session.begin()
    for statement in ("SELECT 'José 💾', $$\n\t\"quoted\\\" $$", "SELECT '" + "x" * 200_000 + "'", "  SELECT 1  "):
        session.ok(statement)
    session.ok("COMMIT")
    first, long, padded = trail.queries()
    assert first["auditPayload"]["query"] == "SELECT 'José 💾', $$\n\t\"quoted\\\" $$"
    assert long["auditPayload"]["queryTruncated"] and len(long["auditPayload"]["query"]) == 65536
    assert padded["auditPayload"]["query"] == "SELECT 1"


@pytest.mark.parametrize("setting,shown", [("normalized", "SELECT '********' AS a"), ("none", None)])
def test_texts_can_be_left_out(connect, world, trail, setting, shown):
    world.sql(f"ALTER ROLE svc SET bodata.audit_query_text = {setting}")
    try:
        session = connect()
        session.begin()
        session.ok("SELECT 'private' AS a")
        assert session.run("SELECT 'private' FROM nowhere").error
        session.ok("ROLLBACK")
    finally:
        world.sql("ALTER ROLE svc RESET bodata.audit_query_text")
    good, bad = trail.queries()
    assert good["auditPayload"].get("query") == shown and "queryMasked" not in good["auditPayload"]
    assert "private" not in str([good, bad])


def test_nested_statements_have_records_where_that_is_set(connect, world, trail):
    world.sql("ALTER ROLE svc SET bodata.audit_nested = on")
    try:
        session = connect()
        session.begin()
        session.ok("SELECT app.busy(3)")
        session.ok("SELECT app.catches()")
        session.ok("COMMIT")
    finally:
        world.sql("ALTER ROLE svc RESET bodata.audit_nested")
    seen = [(r["auditPayload"]["technologyContext"]["nestingDepth"], r["actionStatus"]) for r in trail.queries()]
    assert [depth for depth, _ in seen].count(0) == 2
    assert len([1 for depth, status in seen if depth > 0 and status == "SUCCESS"]) == 3
    assert len([1 for depth, status in seen if depth > 0 and status == "FAILURE"]) == 1


LEAK = """CREATE FUNCTION pg_temp.leak() RETURNS text IMMUTABLE LANGUAGE plpgsql AS
    $$ BEGIN PERFORM * FROM app.flights; RETURN 'x'; END $$"""


def test_a_refused_end_of_the_transaction_ends_no_record(session, trail):
    session.begin()
    session.ok("SAVEPOINT s")
    session.run("PREPARE TRANSACTION 'x'")
    session.ok("ROLLBACK TO s")
    session.run("SELECT * FROM app.hidden")
    session.ok("ROLLBACK TO s")
    session.run("SELECT nothing")
    session.ok("ROLLBACK TO s")
    session.ok("COMMIT")
    seen = events(trail.new())
    assert [what for what, _, _ in seen] == [
        "STARTED", "SAVEPOINT s", "PREPARE TRANSACTION 'x'", "ROLLBACK TO s", "SELECT * FROM app.hidden",
        "ROLLBACK TO s", "SELECT nothing", "ROLLBACK TO s", "ENDED"]


def test_what_the_planner_reads_is_on_record(session, trail):
    session.begin()
    session.ok(LEAK)
    trail.new()
    session.ok("SELECT pg_temp.leak()")
    record, = trail.queries()
    assert any("flights" in str(o) for o in record["auditPayload"]["objectsAccessed"]), record
    session.ok("COMMIT")


def test_a_cursor_whose_query_calls_functions_while_it_is_planned(session, trail):
    session.begin()
    session.ok(LEAK)
    trail.new()
    session.ok("DECLARE c CURSOR FOR SELECT pg_temp.leak(), carrier FROM app.flights")
    session.ok("FETCH 5 FROM c")
    session.ok("MOVE 2 FROM c")
    session.ok("COMMIT")
    record, = trail.queries()
    payload = record["auditPayload"]
    assert (payload["query"][:7], payload["rows"]) == ("DECLARE", 7)
    assert "carrier" in str(payload["objectsAccessed"])


def test_what_was_read_for_a_statement_that_is_never_executed_is_on_record(connect, trail):
    session = connect("extended")
    session.begin()
    session.ok(LEAK)
    trail.new()
    session.wire.parse("SELECT pg_temp.leak()").bind().sync().send().read()
    session.ok("SELECT 2")
    bound, executed = trail.queries()
    assert bound["auditPayload"]["query"] == "SELECT pg_temp.leak()" and executed["auditPayload"]["query"] == "SELECT 2"
    assert "flights" in str(bound["auditPayload"]["objectsAccessed"])
    session.ok("COMMIT")


def test_what_a_deferred_trigger_reads_is_on_record(session, trail):
    session.begin()
    session.ok("CREATE TEMP TABLE t (a int)")
    session.ok("CREATE FUNCTION pg_temp.late() RETURNS trigger LANGUAGE plpgsql AS "
               "$$ BEGIN PERFORM * FROM app.flights; RETURN NULL; END $$")
    session.ok("CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
               "EXECUTE FUNCTION pg_temp.late()")
    session.ok("INSERT INTO t VALUES (1)")
    trail.new()
    session.ok("COMMIT")
    assert "flights" in str(trail.new())


def test_the_older_format():
    with audited_server("audit-legacy", "bodata.audit_format=legacy", "bodata.audit_file=older.jsonl") as server:
        world = world_of(server)
        trail = Trail(server, "legacy", "older.jsonl")
        with world.connect() as connection:
            query(connection, "SET LOCAL bodata.impersonation_token = %s", (world.token("alice"),))
            query(connection, "SELECT id FROM app.flights")
        started, record, ended = trail.new()
        assert (record["userId"], record["extra"]["impersonationUser"]) == ("alice", "svc")
        assert (record["dataSourceName"], record["count"], record["success"]) == ("app.flights", 1, True)
        assert [r["extra"]["event"] for r in (started, record, ended)] == [
            "impersonationStarted", "query", "impersonationCommitted"]


def test_what_a_query_makes_is_on_record(session, trail):
    """By functions that it calls; large objects by their OID."""
    session.begin()
    session.ok("CREATE FUNCTION alice.makes() RETURNS int LANGUAGE plpgsql AS "
               "$$ BEGIN CREATE TABLE alice.within (a int); RETURN 1; END $$")
    for statement in ("SELECT alice.makes()", "SELECT lo_create(4711)", "SELECT lo_unlink(4711)", "ROLLBACK"):
        session.ok(statement)
    _, _, table, made, gone, _ = trail.new()
    assert objects(table)["alice.within"] == ("TABLE", ["CREATE"], set())
    assert objects(made) == {"4711": ("LARGE_OBJECT", ["CREATE"], set())}
    assert objects(gone) == {"4711": ("LARGE_OBJECT", ["DROP"], set())}


@pytest.mark.parametrize("is_prepared", [False, True], ids=["", "cached"])
@pytest.mark.parametrize("reads", ["app.reads_too(carrier)", "(carrier::app.reading)::text"], ids=["function", "domain"])
def test_what_is_read_where_workers_were_planned(world, session, trail, reads, is_prepared):
    """In a parallel worker no hook would see it."""
    forced = "debug_parallel_query" if int(VERSION) >= 16 else "force_parallel_mode"
    world.sql("CREATE TABLE app.read_within (id int); GRANT SELECT ON app.read_within TO alice;"
              "CREATE FUNCTION app.reads_too(text) RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$ "
              "BEGIN EXECUTE 'SELECT count(*) FROM app.read_within'; RETURN $1; END $$;"
              "CREATE DOMAIN app.reading AS text CHECK (app.reads_too(VALUE) = VALUE)")
    try:
        session.begin()
        session.ok(f"SET LOCAL {forced} = on")
        if is_prepared:
            session.wire.parse(f"SELECT {reads} FROM app.flights WHERE id < 9", name="s9").sync().send().read()
        for _ in range(2 if is_prepared else 1):
            if is_prepared:
                assert session.wire.bind(name="s9").execute().sync().send().read().error is None
            else:
                session.ok(f"SELECT {reads} FROM app.flights WHERE id < 9")
        session.ok("COMMIT")
        records = [r for r in trail.queries() if "app.flights" in r["auditPayload"]["query"]]
        assert records
        for record in records:
            assert "app.read_within" in str(record), record
    finally:
        world.sql("DROP DOMAIN app.reading; DROP FUNCTION app.reads_too; DROP TABLE app.read_within")


def test_comments_before_a_statement_are_on_record(session, trail):
    """Hints for planners, and whence a query comes."""
    texts = ["/* trace=1 */ SELECT 1", "-- trace=2\n /*+ SeqScan(f) */ SELECT count(*) FROM app.flights f"]
    session.begin()
    for text in texts:
        session.ok(text)
    session.ok("COMMIT")
    assert [record["auditPayload"]["query"] for record in trail.queries()] == texts


def test_passwords_of_roles_are_not_on_record(session, trail):
    """Also where the statement is refused: it is on record all the same."""
    for statement in ("CREATE ROLE made_here LOGIN PASSWORD '{}'", "ALTER USER alice PASSWORD '{}'",
                      "CREATE USER MAPPING FOR alice SERVER nowhere OPTIONS (password '{}')"):
        session.begin()
        assert session.run(statement.format("s3cret")).error
        session.ok("ROLLBACK")
        record, = trail.queries()
        assert record["auditPayload"]["query"] == statement.format("********") and record["auditPayload"]["queryMasked"]


def test_tables_of_the_extension_are_not_on_record(session, world, trail):
    """Its event triggers read them whenever somebody changes a table."""
    triggers = ("immuta_before", "immuta_ddl", "immuta_drop")
    world.sql("; ".join(f"ALTER EVENT TRIGGER {name} ENABLE ALWAYS" for name in triggers))
    try:
        session.begin()
        for statement in ("CREATE TABLE alice.watched (a int)", "ALTER TABLE alice.watched ADD b int",
                          "ALTER TABLE alice.watched DROP a", "DROP TABLE alice.watched"):
            session.ok(statement)
        session.ok("COMMIT")
    finally:
        world.sql("; ".join(f"ALTER EVENT TRIGGER {name} DISABLE" for name in triggers))
    made, added, without, dropped = (objects(record) for record in trail.queries())
    assert [seen.get("alice.watched", (None, None))[1] for seen in (made, added, without, dropped)] == [
        ["CREATE"], ["ALTER"], ["ALTER"], ["DROP"]]
    tables = [(name, kind) for seen in (made, added, without, dropped)
              for name, (kind, *_) in seen.items() if name.startswith("immuta.") and kind not in ("FUNCTION", "VIEW")]
    assert tables == []


@pytest.mark.parametrize("statement", [
    "DO $$ BEGIN EXECUTE 'ALTER ROLE alice PASSWORD ''s3cret'''; EXCEPTION WHEN OTHERS THEN NULL; END $$",
    "DO $$ BEGIN EXECUTE format('ALTER ROLE %I PASSWORD %L', 'alice', 's3cret'); EXCEPTION WHEN OTHERS THEN NULL; END $$",
    "CREATE FUNCTION alice.sets() RETURNS void LANGUAGE sql AS $$ ALTER ROLE alice PASSWORD 's3cret' $$",
    "CREATE FUNCTION alice.sets() RETURNS void LANGUAGE plpgsql AS "
    "'BEGIN PERFORM dblink(''host=nowhere password=s3cret'', ''SELECT 1''); END'",
    "SELECT 'host=nowhere sslpassword=s3cret' AS connection",
    # The command alone tells.
    r"""CREATE USER MAPPING FOR alice SERVER nowhere OPTIONS (U&"p\0061ssword" 's3cret')""",
    "ALTER ROLE alice PASSWORD 's3cret' BY MISTAKE"], ids=lambda statement: statement[:40])
def test_no_text_that_sets_a_password_is_on_record(session, trail, statement):
    session.begin()
    session.run(statement)
    session.ok("ROLLBACK")
    records = trail.queries()
    assert records and "s3cret" not in str(records)
    assert all(record["auditPayload"]["queryMasked"] for record in records)


def masked(record):
    return {o["name"]: [c["name"] for c in o.get("maskedColumns", ())] for o in record["auditPayload"]["objectsAccessed"]}


@pytest.fixture
def mask(world):
    """carol may not see a column, and sees a mask in its place."""
    world.sql("GRANT immuta_subscriber TO carol; INSERT INTO immuta.masks VALUES ('app.flights'::regclass, 4, $$'***'::text$$);"
              "CREATE FUNCTION app.reads_secret() RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN (SELECT secret FROM app.flights WHERE id = 3); END$$;"
              "GRANT EXECUTE ON FUNCTION app.reads_secret() TO carol")
    yield
    world.sql("DELETE FROM immuta.masks; DROP FUNCTION app.reads_secret(); REVOKE immuta_subscriber FROM carol")


def test_masked_columns_are_named(mask, session, trail):
    """Although PostgreSQL checks no right on them any more; also where a plan is used again."""
    session.begin("carol")
    for statement in ("SELECT id, secret FROM app.flights WHERE id = 3", "SELECT f FROM app.flights f WHERE secret = '***'",
                      "COPY app.flights (id, secret) TO STDOUT", *["SELECT app.reads_secret()"] * 7):
        session.ok(statement)
        record = trail.queries()[-1]
        assert masked(record)["app.flights"] == ["secret"], statement
        assert "secret" in objects(record)["app.flights"][2]
    session.ok("SELECT id FROM app.flights")
    assert masked(trail.queries()[-1]) == {"app.flights": []}
    refused = session.run("UPDATE app.flights SET delay = 1 WHERE secret = 'x'")
    assert refused.error["C"] == "42501"
    record = trail.queries()[-1]
    assert (record["actionStatus"], record["actionStatusReason"]) == ("UNAUTHORIZED", "MASKED_COLUMN")
    session.ok("ROLLBACK")
