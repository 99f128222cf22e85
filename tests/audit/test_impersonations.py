"""What is on record of the begin, refusal and end of an impersonation, by whatever way, and of dry runs."""

import psycopg2
import pytest
from conftest import events, wait_for
from harness.fixtures import VERSION
from harness.wire import Closed


@pytest.mark.parametrize("end", ["ROLLBACK TO s", "SELECT 1/0", "RELEASE s"])
def test_an_impersonation_goes_with_its_savepoint(session, trail, end):
    session.ok("BEGIN")
    session.ok("SAVEPOINT s")
    token = session.world.token("alice")
    session.ok(f"SET LOCAL bodata.impersonation_token = '{token}'")
    session.ok("SELECT 1")
    assert (session.run(end).error is not None) == (end == "SELECT 1/0")
    if end == "RELEASE s":
        assert [record["auditPayload"].get("event") for record in trail.new()] == ["STARTED", None, None]
        session.ok("COMMIT")
        assert [record["auditPayload"]["event"] for record in trail.new()] == ["ENDED"]
        return
    records = trail.new()
    assert [record["auditPayload"].get("event") for record in records] == ["STARTED", None, None, "ENDED"]
    assert records[2]["auditPayload"]["query"] == end
    assert records[2]["actionStatus"] == ("FAILURE" if end == "SELECT 1/0" else "SUCCESS")
    assert records[3]["auditPayload"]["transactionOutcome"] == "ROLLBACK"
    assert {record["actor"]["id"] for record in records} == {"alice"}
    session.ok("ROLLBACK TO s")
    session.ok("SELECT 1")
    assert trail.new() == [], "of nobody"
    session.ok(f"SET LOCAL bodata.impersonation_token = '{session.world.token('bob')}'")
    session.ok("COMMIT")
    assert [(record["actor"]["id"], record["auditPayload"]["event"]) for record in trail.new()] == [
        ("bob", "STARTED"), ("bob", "ENDED")]


def test_refusals(session, world, trail):
    for statement, sqlstate, code in (
            ("SET LOCAL bodata.impersonation_token = 'nonsense'", "28000", "IMPERSONATION_TOKEN_INVALID"),
            ("SELECT * FROM app.everyone", "42501", "IMPERSONATION_REQUIRED"),
            ("SET bodata.impersonation_token = 'nonsense'", "25000", "IMPERSONATION_NOT_SUPPORTED")):
        session.ok("BEGIN")
        assert session.run(statement).error["C"] == sqlstate
        session.ok("ROLLBACK")
        record, = trail.new()
        assert (record["action"], record["actionStatusReason"]) == ("IMPERSONATE", code)
        assert record["auditPayload"]["event"] == "REFUSED" and record["auditPayload"]["errorCode"] == sqlstate
        assert record["actor"]["impersonatedBy"] == "svc" and record["actor"]["id"] is None


def test_a_refusal_names_the_user_who_is_known(connect, world, trail):
    world.sql("SELECT immuta.create_user('mallory', 'Okta')")
    token = world.token("mallory", "Okta")
    trail.new_from_here()
    session = connect()
    session.ok("BEGIN")
    assert session.run(f"SET LOCAL bodata.impersonation_token = '{token}'").error["C"] == "42704"
    record, = trail.new()
    assert (record["actor"]["id"], record["actor"]["identityProvider"]) == ("mallory", "Okta")
    assert record["actionStatusReason"] == "IMPERSONATION_NOT_MAPPED"


def test_cancelled_and_terminated(connect, world, trail):
    session = connect()
    session.begin()
    pid = session.ok("SELECT pg_backend_pid()").rows[0][0]
    session.ok("SET LOCAL statement_timeout = '50ms'")
    assert session.run("SELECT pg_sleep(10)").error["C"] == "57014"
    session.ok("ROLLBACK")
    session.begin()
    world.sql(f"SELECT pg_terminate_backend({pid})")
    ended = wait_for(lambda: [r for r in trail.new() if r["auditPayload"].get("event") == "ENDED"
                              and r["auditPayload"]["errorCode"] == "57P01"])
    assert ended[0]["auditPayload"]["transactionOutcome"] == "ROLLBACK"


def test_a_client_that_vanishes(connect, trail):
    session = connect()
    session.begin()
    session.ok("SELECT 1")
    session.wire.socket.close()
    session.wire.input.close()
    wait_for(lambda: any(r["auditPayload"].get("transactionOutcome") == "ROLLBACK" for r in trail.new()))


def test_ordinary_log_lines_name_the_user(world, connect):
    world.sql("ALTER ROLE svc SET bodata.application_name_template = '{application_name} as {userid}@{iamid}'")
    try:
        session = connect(application_name="reports")
        session.begin()
        assert session.ok("SHOW application_name").rows == [("reports as alice@bim",)]
        for statement in ("SET application_name = 'bob'", "SET LOCAL application_name = 'bob'",
                          "SELECT set_config('application_name', 'bob', true)", "RESET application_name",
                          "UPDATE pg_settings SET setting = 'bob' WHERE name = 'application_name'"):
            session.ok("SAVEPOINT s")
            assert session.run(statement).error["C"] == "42501", statement
            session.ok("ROLLBACK TO s")
        assert world.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'reports as alice@bim'") == 1
        session.ok("COMMIT")
        assert session.ok("SHOW application_name").rows == [("reports",)]
        session.ok("SET application_name = 'changed'")
        session.begin("bob")
        assert session.ok("SHOW application_name").rows == [("changed as bob@bim",)]
        session.run("SELECT 1/0")
        session.ok("ROLLBACK")
        assert session.ok("SHOW application_name").rows == [("changed",)]
        session.ok("SET application_name = 'once more'")
    finally:
        world.sql("ALTER ROLE svc RESET bodata.application_name_template")


def names(world):
    world.sql("DROP ROLE IF EXISTS namer; CREATE ROLE namer LOGIN PASSWORD 'namer' IN ROLE immuta_impersonation; "
              "ALTER ROLE namer SET bodata.allow_session_impersonation = on; "
              "ALTER ROLE namer SET bodata.single_impersonation_user = off")


def test_impersonation_by_name_for_a_session(connect, world, trail):
    names(world)
    session = connect(user="namer", password="namer")
    session.ok("SET immuta.immuta_user = 'alice'")
    session.ok("SELECT 1")
    session.ok("BEGIN")
    session.ok("UPDATE app.flights SET delay = 3 WHERE id = 3")
    session.ok("ROLLBACK")
    assert session.run("SELECT 1/0").error["C"] == "22012"
    assert session.run("INSERT INTO app.children VALUES (1, 99)").error["C"] == "23503"
    session.ok("RESET immuta.immuta_user")
    assert session.run("SELECT * FROM app.everyone").error
    records = trail.new()
    assert events(records) == [
        ("STARTED", "alice", None), ("SELECT 1", "alice", None), ("TRANSACTION_ENDED", "alice", "COMMIT"),
        ("BEGIN", "alice", None), ("UPDATE app.flights SET delay = 3 WHERE id = 3", "alice", None),
        ("TRANSACTION_ENDED", "alice", "ROLLBACK"),
        ("SELECT 1/0", "alice", None), ("TRANSACTION_ENDED", "alice", "ROLLBACK"),
        # What a foreign key asks of its table is no query since 19.
        ("INSERT INTO app.children VALUES (1, 99)", "alice", None), *([("COMMIT", "alice", None)] if int(VERSION) < 19 else []),
        ("TRANSACTION_ENDED", "alice", "ROLLBACK"),
        ("RESET immuta.immuta_user", "alice", None), ("ENDED", "alice", None), ("REFUSED", None, None)]
    assert {r["auditPayload"]["accessControls"]["scope"] for r in records[:-1]} == {"session"}
    assert {r["auditPayload"]["accessControls"]["tokenProvider"] for r in records[:-1]} == {"name"}
    assert {r["actor"]["impersonatedBy"] for r in records} == {"namer"}


def test_a_session_that_changes_its_user(connect, world, trail):
    names(world)
    session = connect(user="namer", password="namer")
    session.ok("SET immuta.immuta_user = 'alice'")
    session.ok("SET immuta.immuta_user = 'bob'")
    session.ok("BEGIN")
    session.ok("SET immuta.immuta_user = 'alice'")
    session.ok("ROLLBACK")
    session.ok("SELECT 2")
    session.ok("DISCARD ALL")
    seen = [(what, who) for what, who, _ in events(trail.new()) if not what.startswith("TRANSACTION")]
    assert seen == [("STARTED", "alice"), ("SET immuta.immuta_user = 'bob'", "alice"), ("ENDED", "alice"),
                    ("STARTED", "bob"), ("BEGIN", "bob"), ("SET immuta.immuta_user = 'alice'", "bob"), ("ENDED", "bob"),
                    ("STARTED", "alice"), ("ENDED", "alice"), ("STARTED", "bob"), ("SELECT 2", "bob"),
                    ("DISCARD ALL", "bob"), ("ENDED", "bob")]
    assert world.sql("SELECT * FROM immuta.impersonations") == []


def test_a_connection_of_a_user(connect, world, trail):
    names(world)
    session = connect(user="namer", password="namer", options="-c immuta.immuta_user=alice")
    session.ok("SELECT 1")
    session.wire.close()
    seen = []
    wait_for(lambda: seen.extend(events(trail.new())) or seen[-1:] == [("ENDED", "alice", None)])
    assert seen == [("STARTED", "alice", None), ("SELECT 1", "alice", None), ("TRANSACTION_ENDED", "alice", "COMMIT"),
                    ("ENDED", "alice", None)]


def test_a_connection_that_is_refused(connect, world, trail):
    names(world)
    with pytest.raises(Closed):
        connect(user="namer", password="namer", options="-c immuta.immuta_user=nobody")
    record, = trail.new()
    assert (record["auditPayload"]["event"], record["actor"]["id"]) == ("REFUSED", "nobody")
    assert record["actionStatusReason"] == "IMPERSONATION_NOT_MAPPED"


def test_a_successor_who_is_refused(connect, world, trail):
    names(world)
    session = connect(user="namer", password="namer")
    session.ok("SET immuta.immuta_user = 'alice'")
    assert session.run("SET immuta.immuta_user = 'nobody'").error["C"] == "42704"
    session.ok("SELECT 4")
    seen = [(what, who) for what, who, _ in events(trail.new()) if not what.startswith("TRANSACTION")]
    assert seen == [("STARTED", "alice"), ("SET immuta.immuta_user = 'nobody'", "alice"), ("ENDED", "alice"),
                    ("REFUSED", "nobody"), ("STARTED", "alice"), ("SELECT 4", "alice")]


def test_dry_runs(world, trail):
    world.sql("SET bodata.audit_sink = 'file'")
    world.sql("SELECT * FROM immuta.test_access('alice', 'SELECT id FROM app.flights')")
    world.sql("SELECT * FROM immuta.test_access('alice', 'SELECT * FROM app.hidden')")
    world.sql("SELECT * FROM immuta.test_access('alice', 'SELECT pg_advisory_lock(1)')")
    # A function that the planner calls cannot keep the dry run off the record, whatever it raises.
    codes = ("P0001", "P0004", "57014", "57P01", "XX000")
    for code in codes:
        world.sql(f"""CREATE FUNCTION app.evades() RETURNS int IMMUTABLE LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{code}', DETAIL = 'IMPERSONATION_X'; END $$""")
        try:
            assert world.sql("SELECT sqlstate FROM immuta.test_access('alice', 'SELECT app.evades()')") == [(code,)]
        except psycopg2.errors.QueryCanceled:
            assert code == "57014"
        world.sql("DROP FUNCTION app.evades()")
    allowed, denied, refused, *evaded = trail.new()
    assert [record["auditPayload"]["errorCode"] for record in evaded] == list(codes)
    for record in (allowed, denied, refused, *evaded):
        assert (record["actor"]["id"], record["actor"]["impersonatedBy"]) == ("alice", "postgres")
        assert record["auditPayload"]["accessControls"]["scope"] == "dry run"
    assert (allowed["actionStatus"], denied["actionStatus"]) == ("SUCCESS", "UNAUTHORIZED")
    assert denied["auditPayload"]["query"] == "SELECT * FROM app.hidden"
