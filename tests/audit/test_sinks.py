"""Where records go: nothing is lost, whatever happens to a sink, a session, the writer or the server.

Threats: 53 (docs/threats.md).
"""

import json
import os
import re
import signal
import stat
import subprocess
import threading
import time
from collections import Counter
from datetime import datetime

import psycopg2
import pytest
from conftest import Session, Trail, audited_server, schema, wait_for, world_of
from harness.fixtures import VERSION
from harness.world import SERVICE, query


@pytest.fixture(scope="module")
def all_three():
    with audited_server("audit-sinks", sink="log,file,table") as server:
        yield world_of(server)


@pytest.fixture
def session(all_three):
    session = Session(all_three)
    yield session
    session.wire.close()


def stored(world):
    assert world.value("SELECT immuta.flush_audit('30 s')")
    return [row[0] for row in world.sql("SELECT record FROM immuta.audit_log ORDER BY event_time, id")]


def logged(server):
    return [json.loads(line.split("AUDIT: ", 1)[1]) for line in server.log().splitlines() if "LOG:  " in line and "AUDIT: {" in line]


def work(session, user="alice", statements=("SELECT id FROM app.flights",)):
    session.begin(user)
    for statement in statements:
        session.run(statement)
    session.ok("COMMIT" if session.run("SELECT 1").error is None else "ROLLBACK")


def test_every_sink_gets_every_record(all_three, session):
    work(session, statements=("SELECT id FROM app.flights", "SELECT 'José 💾'", "SAVEPOINT s", "SELECT 1/0", "ROLLBACK TO s"))
    in_file, in_log = Trail(all_three.server).new(), logged(all_three.server)
    in_table = stored(all_three)
    assert len(in_file) == 8
    assert in_file == in_log
    key = lambda record: record["id"]  # noqa: E731
    assert sorted(in_table, key=key) == sorted(in_file, key=key)


def test_a_cancel_leaves_a_record_in_all_sinks_or_in_none(all_three, session):
    """Whenever it comes; and what it interrupts works as ever afterwards."""
    in_log, in_file = len(logged(all_three.server)), Trail(all_three.server)
    in_file.new()
    before = {record["id"] for record in stored(all_three)}
    session.begin()
    session.ok("SET LOCAL statement_timeout = 1")
    cancelled, end = 0, time.monotonic() + 5
    while time.monotonic() < end:
        for rows in range(1000, 30_000, 1500):
            session.run("SAVEPOINT s")
            cancelled += session.run(f"SELECT count(*) FROM generate_series(1, {rows})").error is not None
            session.run("ROLLBACK TO s")
    session.run("ROLLBACK")
    assert cancelled > 20
    work(session, statements=("SELECT 1/0",))
    records = in_file.new()
    assert [r["actionStatus"] for r in records if r["auditPayload"].get("query") == "SELECT 1/0"] == ["FAILURE"]
    ids = [record["id"] for record in records]
    assert len(set(ids)) == len(ids)
    assert [record["id"] for record in logged(all_three.server)[in_log:]] == ids
    assert {record["id"] for record in stored(all_three)} - before == set(ids)
    session.run("BEGIN")
    begin = all_three.server.logged()
    session.run("SELECT set_config('bodata.impersonation_token', 's3cret-of-mine', true)")
    session.run("ROLLBACK")
    assert "s3cret-of-mine" not in all_three.server.log(begin)


def test_the_table_has_columns_partitions_and_a_report(all_three, session):
    work(session, statements=("UPDATE app.flights SET delay = 2 WHERE id = 3", "SELECT 1/0"))
    stored(all_three)
    row = all_three.sql("SELECT action, status, impersonator, iamid, userid, mapped_role, command, error_code, rows, "
                        "objects, duration >= '0' FROM immuta.audit_log WHERE query LIKE 'UPDATE%%'")[0]
    assert row == ("QUERY", "SUCCESS", "svc", "bim", "alice", "alice", "UPDATE", None, 1, ["app.flights"], True)
    assert all_three.value("SELECT tableoid::regclass::text = 'immuta.audit_log_' || to_char(event_time AT TIME ZONE "
                           "'UTC', 'YYYYMMDD') FROM immuta.audit_log LIMIT 1")
    report = {(user, source): (count, failed) for user, _, source, count, _, failed, *_ in all_three.sql(
        "SELECT * FROM immuta.audit_report(now() - interval '1 hour', now() + interval '1 hour')")}
    assert report["alice", "app.flights"][0] >= 1
    assert report["alice", None][1] >= 1
    assert all_three.sql("SELECT * FROM immuta.audit_report('-infinity', now() - interval '1 hour')") == []


def test_only_administrators_read_the_table(all_three, session):
    all_three.sql("DROP ROLE IF EXISTS greedy; CREATE ROLE greedy IN ROLE pg_read_all_data, pg_write_all_data; "
                  "SELECT immuta.create_user('greedy', postgres_role => 'greedy')")
    stored(all_three)
    partition = all_three.value("SELECT inhrelid::regclass::text FROM pg_inherits "
                                "WHERE inhparent = 'immuta.audit_log'::regclass")
    for relation in ("immuta.audit_log", partition):
        for statement in (f"SELECT * FROM {relation}", f"DELETE FROM {relation}", f"TRUNCATE {relation}",
                          f"INSERT INTO {relation} (event_time, id, action, status, record) "
                          "VALUES (now(), '00000000-0000-0000-0000-000000000000', '', '', '{}')"):
            session.begin("greedy")
            assert session.run(statement).error["C"] == "42501", statement
            session.ok("ROLLBACK")
    for statement in ("SELECT * FROM immuta.audit_report()", "SELECT immuta.flush_audit()",
                      "SELECT immuta.expire_audit()"):
        session.begin("greedy")
        assert session.run(statement).error["C"] == "42501", statement
        session.ok("ROLLBACK")


def test_old_partitions_go(all_three):
    all_three.sql("SELECT immuta_internal.make_audit_partition(current_date - 100), immuta_internal.make_audit_partition(current_date - 10)")
    names = "SELECT count(*) FROM pg_class WHERE relname = 'audit_log_' || to_char(current_date - %s, 'YYYYMMDD')"
    all_three.sql("SET bodata.audit_retention = 0; SELECT immuta.expire_audit()")
    assert all_three.value(names, (100,)) == 1
    all_three.sql("SET bodata.audit_retention = 90; SELECT immuta.expire_audit()")
    assert (all_three.value(names, (100,)), all_three.value(names, (10,))) == (0, 1)
    all_three.sql("RESET bodata.audit_retention")


def test_damaged_records_do_not_stop_the_others(all_three, session):
    work(session)
    stored(all_three)
    before = all_three.value("SELECT count(*) FROM immuta.audit_log")
    folder = next((all_three.server.data / "immuta_audit_queue").iterdir())
    good = Trail(all_three.server).new()[-1]
    good["id"] = "00000000-0000-0000-0000-0000000000ff"
    taken = folder / "00000000000000000001.taken"
    taken.write_text(f"{{\"half a rec\nnonsense\n{json.dumps(good)}\n")
    os.chown(taken, folder.stat().st_uid, folder.stat().st_gid)
    assert all_three.value("SELECT immuta.flush_audit('30 s')")
    assert all_three.value("SELECT count(*) FROM immuta.audit_log") == before + 1
    assert "damaged audit records" in all_three.server.log()


def test_nothing_is_lost_or_doubled_when_the_writer_and_the_server_crash(all_three):
    """SIGKILL of the writer makes PostgreSQL restart all sessions: clients connect again and go on. What was
    acknowledged is in the table once; what was not, at most once."""
    acknowledged, stop, tried = Counter(), threading.Event(), Counter()

    def client(number):
        sent = 0
        while not stop.is_set():
            try:
                session = Session(all_three)
            except Exception:
                time.sleep(0.05)
                continue
            try:
                while not stop.is_set():
                    session.begin()
                    for _ in range(5):
                        statement = f"SELECT {number} AS client, {sent} AS statement"
                        sent += 1
                        tried[statement] += 1
                        session.ok(statement)
                        acknowledged[statement] += 1
                    session.ok("COMMIT")
            except Exception:
                pass
            finally:
                session.wire.close()

    all_three.token("alice") if "alice" not in all_three.shared else None
    clients = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in clients:
        thread.start()
    killed = 0
    for _ in range(3):
        time.sleep(0.7)
        pid = wait_for(lambda: writer_pid(all_three), 30)
        os.kill(pid, signal.SIGKILL)
        killed += 1
        time.sleep(0.3)
        wait_for(lambda: answers(all_three), 30)
    time.sleep(0.5)
    stop.set()
    for thread in clients:
        thread.join()
    assert killed == 3 and len(acknowledged) > 50
    assert all_three.value("SELECT immuta.flush_audit('60 s')")
    seen = Counter(row[0] for row in all_three.sql(
        "SELECT query FROM immuta.audit_log WHERE query LIKE '%AS client%' AND status = 'SUCCESS'"))
    assert [s for s in acknowledged if seen[s] != 1] == []
    assert [s for s, count in seen.items() if count > 1 or s not in tried] == []


def writer_pid(world):
    try:
        rows = world.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'immuta_ext audit writer'")
        return rows[0][0] if rows else None
    except psycopg2.Error:
        world._admin = None
        return None


def answers(world):
    try:
        return world.value("SELECT true")
    except psycopg2.Error:
        world._admin = None
        return False


# -- the file -----------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh():
    """A server of its own, for tests that change its settings."""
    made = []

    def make(name, *options, **more):
        server = audited_server(f"audit-{name}", *options, **more)
        made.append(server)
        server.create().start()
        return world_of(server)

    yield make
    for server in made:
        server.destroy()


def set_for_service(world, setting, value):
    world.sql(f"ALTER ROLE svc SET bodata.{setting} = {value}")


def test_the_file_is_the_servers_own_and_rotates(fresh):
    world = fresh("rotation", "bodata.audit_file_max_size=2kB")
    sessions = [Session(world) for _ in range(3)]
    for round_ in range(10):
        for session in sessions:
            work(session, statements=(f"SELECT {round_}",))
    files = sorted(world.server.data.glob("immuta_audit.jsonl*"))
    assert len(files) > 5
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert all(file.stat().st_size <= 2048 for file in files)
    records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert len(records) == len({r["id"] for r in records}) == 3 * 10 * 4
    for session in sessions:
        session.wire.close()


def test_a_file_that_was_moved_away_is_made_anew(fresh):
    world = fresh("moved")
    session, path = Session(world), world.server.data / "immuta_audit.jsonl"
    work(session)
    path.rename(path.with_name("away"))
    work(session)
    assert len(path.read_text().splitlines()) == len(path.with_name("away").read_text().splitlines()) == 4
    session.wire.close()


LARGE = 4 * 1024 * 1024


def limit_files(world, pid, size):
    """As a full disk would: the process can make no file larger than this. The log stays smaller."""
    subprocess.run([*world.server.as_user, "prlimit", "--pid", str(pid), f"--fsize={size}:unlimited"], check=True)


def test_a_full_disk_sends_records_to_the_log(fresh):
    world = fresh("full")
    session, trail = Session(world), Trail(world.server)
    pid = int(session.ok("SELECT pg_backend_pid()").rows[0][0])
    work(session)
    os.truncate(trail.path, LARGE)
    trail.new_from_here()
    limit_files(world, pid, LARGE + 10)
    work(session, statements=("SELECT 'on a full disk'",))
    assert trail.new() == [], "no half record"
    in_log = logged(world.server)
    assert [r["auditPayload"].get("query") for r in in_log if r["action"] == "QUERY"] == ["SELECT 'on a full disk'", "SELECT 1"]
    assert len(in_log) == 4
    assert "audit records go to the server log, because the audit file does not take them" in world.server.log()
    limit_files(world, pid, "unlimited")
    work(session)
    assert len(trail.new()) == 4
    session.wire.close()


def test_where_the_audit_is_required_a_full_disk_stops_the_work(fresh):
    world = fresh("required", "bodata.audit_required=on")
    session, trail = Session(world), Trail(world.server)
    pid = int(session.ok("SELECT pg_backend_pid()").rows[0][0])
    session.begin()
    os.truncate(trail.path, LARGE)
    trail.new_from_here()
    limit_files(world, pid, LARGE + 10)
    refused = lambda answer: (answer.error["C"], answer.error["D"])  # noqa: E731
    unavailable = ("58030", "IMPERSONATION_AUDIT_UNAVAILABLE")
    assert refused(session.run("SELECT 'unrecorded'")) == unavailable
    session.ok("ROLLBACK")
    session.ok("BEGIN")
    token = world.shared["alice"]
    assert refused(session.run(f"SET LOCAL bodata.impersonation_token = '{token}'")) == unavailable
    session.ok("ROLLBACK")
    assert session.ok("SELECT current_user").rows == [("svc",)]
    limit_files(world, pid, "unlimited")
    session.begin()
    session.ok("SAVEPOINT s")
    limit_files(world, pid, LARGE + 10)
    assert refused(session.run("SELECT 'unrecorded'")) == unavailable
    assert refused(session.run("ROLLBACK TO s")) == unavailable, "a statement as any other"
    session.ok("ROLLBACK")
    assert session.ok("SELECT current_user").rows == [("svc",)]
    limit_files(world, pid, "unlimited")
    work(session, statements=("SELECT 'recorded again'",))
    texts = [r["auditPayload"].get("query") for r in trail.new()]
    assert "SELECT 'recorded again'" in texts
    assert "SELECT 'unrecorded'" in [r["auditPayload"].get("query") for r in logged(world.server)]
    session.wire.close()


def test_a_queue_that_is_full_makes_statements_wait_then_sends_records_to_the_log(fresh):
    world = fresh("queue", "bodata.audit_queue_size=64kB", "bodata.audit_queue_wait=200ms", sink="table")
    session = Session(world)
    # The writer is kept from storing.
    blocker = world.connect("postgres", world.server.superuser_password)
    query(blocker, "LOCK TABLE immuta.audit_log IN ACCESS EXCLUSIVE MODE")
    text = "x" * 20_000
    for number in range(6):
        work(session, statements=(f"SELECT {number}, '{text}'",))
    fallen = [r for r in logged(world.server) if r["action"] == "QUERY" and "xxx" in r["auditPayload"]["query"]]
    assert 1 <= len(fallen) < 6
    assert "its queue is full" in world.server.log()
    assert world.value("SELECT value FROM immuta.impersonation_stats WHERE name = 'immuta_audit_fallbacks_total'") > 0
    blocker.rollback()
    assert world.value("SELECT immuta.flush_audit('30 s')")
    in_table = world.value("SELECT count(*) FROM immuta.audit_log WHERE query LIKE '%xxx%'")
    assert in_table + len(fallen) == 6
    session.wire.close()
    blocker.close()


def test_a_record_that_is_longer_than_the_queue_waits_until_that_is_empty(fresh):
    world = fresh("long", "bodata.audit_queue_size=64kB", "bodata.audit_queue_wait=10s", sink="table")
    session = Session(world)
    # The text is cut at 64 KiB, and each of its backslashes is two letters in JSON.
    work(session, statements=("SELECT '" + "\\" * 70_000 + "'",))
    assert world.value("SELECT immuta.flush_audit('30 s')")
    assert world.value("SELECT count(*) FROM immuta.audit_log WHERE length(record::text) > 65536") == 1
    assert logged(world.server) == []
    session.wire.close()


def test_a_sink_may_be_switched_on_and_off_while_a_session_impersonates(fresh):
    world = fresh("switched", sink=None)
    trail = Trail(world.server)

    def switch(sink):
        world.server.psql(input=f"ALTER SYSTEM SET bodata.audit_sink = '{sink}'; SELECT pg_reload_conf()")
        wait_for(lambda: world.value("SHOW bodata.audit_sink") == sink)

    switch("")
    world.sql("CREATE ROLE namer LOGIN PASSWORD 'namer' IN ROLE immuta_impersonation; "
              "ALTER ROLE namer SET bodata.allow_session_impersonation = on")
    session = Session(world, user="namer", password="namer")
    session.ok("SET immuta.immuta_user = 'alice'")
    session.ok("SELECT 'before'")
    switch("file")
    session.ok("SELECT 'during'")
    session.ok("BEGIN")
    session.ok("RESET immuta.immuta_user")
    session.ok("ROLLBACK")
    session.ok("SELECT 'still alice'")
    switch("")
    session.ok("SELECT 'the last'")
    session.ok("SELECT 'after'")
    records = trail.new()
    assert {(r["actor"]["impersonatedBy"], r["actor"]["id"], r["auditPayload"]["technologyContext"]["database"],
             r["auditPayload"]["accessControls"]["mappedRole"]) for r in records} == {
                 ("namer", "alice", world.dbname, "alice")}
    shown = [r["auditPayload"].get("event") or r["auditPayload"]["query"] for r in records]
    assert [s for s in shown if s != "TRANSACTION_ENDED"] == [
        "STARTED", "SELECT 'during'", "BEGIN", "RESET immuta.immuta_user", "ENDED", "STARTED", "SELECT 'still alice'"]
    session.wire.close()


def test_the_partition_of_a_new_day_waits_for_no_reader(all_three):
    with all_three.connect("postgres", all_three.server.superuser_password) as reader:
        query(reader, "SELECT count(*) FROM immuta.audit_log")
        all_three.sql("SET lock_timeout = '5s'; SELECT immuta_internal.make_audit_partition('2031-01-01')")
        parts = all_three.sql("SELECT pg_get_expr(c.relpartbound, c.oid), (SELECT count(*) FROM pg_index WHERE indrelid = c.oid),"
                              " has_table_privilege('alice', c.oid, 'SELECT') FROM pg_class c"
                              " WHERE c.oid = 'immuta.audit_log_20310101'::regclass")
        assert parts == [("FOR VALUES FROM ('2031-01-01 00:00:00+00') TO ('2031-01-02 00:00:00+00')", 2, False)]
        assert all_three.sql("SELECT pg_get_indexdef(indexrelid) ~ '\\((event_time, id|userid, event_time)\\)$' FROM pg_index"
                             " WHERE indrelid = 'immuta.audit_log_20310101'::regclass") == [(True,), (True,)]
        reader.rollback()


def test_settings_are_checked_when_they_are_set(all_three):
    for statement in ("SET bodata.audit_sink = 'nowhere'", "SET bodata.audit_format = 'xml'",
                      "SET bodata.audit_file = '/nonexistent/file'", "SET bodata.audit_file = '/dev/null'",
                      "SET bodata.audit_query_text = 'some'", "SET bodata.audit_retention = -1",
                      "SET bodata.application_name_template = E'a\\nb'"):
        with pytest.raises(psycopg2.Error) as error:
            all_three.sql(statement)
        assert error.value.pgcode == "22023", statement
    with all_three.connect("plain", "plain-password") as connection:
        for setting in ("audit_sink", "audit_required", "audit_nested", "audit_query_text", "audit_file"):
            with pytest.raises(psycopg2.Error) as error:
                query(connection, f"SET bodata.{setting} = 'log'")
            assert error.value.pgcode == "42501"
            connection.rollback()


def test_without_shared_memory_there_is_no_table_but_all_else(fresh):
    world = fresh("session", preload="session")
    with pytest.raises(psycopg2.Error) as error:
        world.sql("SET bodata.audit_sink = 'table'")
    assert error.value.pgcode == "22023" and "shared_preload_libraries" in error.value.diag.message_detail
    session, trail = Session(world), Trail(world.server)
    session.begin()
    session.ok("SELECT 1")
    session.ok("COMMIT")
    assert len(trail.new()) == 3
    session.wire.close()


def test_in_other_encodings(fresh):
    world = fresh("latin1", sink="log,file,table", encoding="LATIN1")
    session = Session(world, client_encoding="UTF8")
    work(session, statements=("SELECT 'José'", "SELECT 'José' FROM nowhere"))
    validator = schema("uam")
    for records in (Trail(world.server).new(), logged(world.server), stored(world)):
        for record in records:
            validator.validate(record)
        assert "SELECT 'José'" in [r["auditPayload"].get("query") for r in records]
    session.wire.close()



# -- the server's log ---------------------------------------------------------------------------------------------

PREFIXES = ("%m [%p] ", "%m [%p] %q%u@%d ", "%t [%p]: user=%u,db=%d,app=%a,client=%h ", "%n %c %v %x %e %% %r ", "",
            "%10p|%-6u|%i|%b ", "%s %p", "%5m ", "[%l-1] %u ", "é %p ")


def system_setting(world, name, value):
    world.server.psql(input=f"ALTER SYSTEM SET {name} = '{value}'; SELECT pg_reload_conf()")
    wait_for(lambda: world.value(f"SHOW {name}") == value)


def without_times(prefix):
    prefix = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{3})? ", "<time> ", prefix)
    return re.sub(r"\d{10}\.\d{3}|\[\d+-1\]", "<number>", prefix)


def times_in(prefix):
    return [datetime.fromisoformat(time_) for time_ in re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", prefix)]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
def test_in_the_log_a_record_is_a_line_like_others(fresh, zone):
    world = fresh("prefix", f"log_timezone={zone}", "log_error_verbosity=default", sink="log")
    session = Session(world, application_name="app")
    for prefix in PREFIXES:
        system_setting(world, "log_line_prefix", prefix)
        session.ok("SELECT 1")
        begun = world.server.logged()
        work(session, statements=("SELECT 'the statement'",))
        lines = world.server.log(begun).splitlines()
        # PostgreSQL logs the duration of the same statement right after its record.
        number = next(n for n, line in enumerate(lines) if "AUDIT: {" in line and "the statement" in line)
        ours, ordinary = (re.split("LOG:  ", line)[0] for line in lines[number:number + 2])
        assert "duration" in lines[number + 1]
        assert without_times(ours) == without_times(ordinary), prefix
        for one, other in zip(times_in(ours), times_in(ordinary), strict=True):
            assert abs((one - other).total_seconds()) <= 2, prefix
    session.wire.close()


def test_records_reach_the_collector_and_other_formats(fresh):
    world = fresh("collector", "logging_collector=on", "log_directory=logs", "log_filename=server.log", sink="log")
    plain, table = (world.server.data / "logs" / name for name in ("server.log", "server.csv"))
    for destination in ("stderr", "csvlog", "stderr,csvlog"):
        system_setting(world, "log_destination", destination)
        session = Session(world)
        # More than the pipe takes in one piece.
        work(session, statements=(f"SELECT '{'é' * 20_000}' AS \"{destination}\"",))
        session.wire.close()

    def seen(file):
        found = re.findall(r'AUDIT: .*ééé\' AS \\?"+([a-z,]+)', file.read_text() if file.exists() else "")
        return sorted(found)

    wait_for(lambda: seen(plain) == ["stderr", "stderr,csvlog"] and seen(table) == ["csvlog", "stderr,csvlog"])
    wait_for(lambda: plain.read_text().count("AUDIT: {") == 2 * 4)
    for line in plain.read_text().splitlines():
        if "AUDIT: " in line:
            json.loads(line.split("AUDIT: ", 1)[1])


FORGED = "AUDIT: {\"id\": \"forged\"}"


@pytest.mark.parametrize("verbosity", ["default", "verbose"])
def test_no_text_of_a_user_can_be_taken_for_a_record(fresh, verbosity):
    """In no field of what is logged, in no format, on no line, and not within a record either."""
    world = fresh("forgery", "logging_collector=on", "log_directory=logs", "log_filename=server.log", "log_statement=all",
                  "log_line_prefix=%m [%p] %a ", "log_min_messages=notice", f"log_error_verbosity={verbosity}",
                  "log_destination=stderr,csvlog" + (",jsonlog" if int(VERSION) >= 15 else ""), sink="log,file")
    world.sql("GRANT CREATE ON SCHEMA app TO alice")
    trail = Trail(world.server)
    for login, user in ((SERVICE, "alice"), (("plain", "plain-password"), None)):
        session = Session(world, user=login[0], password=login[1], application_name=FORGED)
        if user:
            session.begin(user)
        for statement in (
                f"DO $$ BEGIN RAISE LOG '{FORGED}'; END $$", f"DO $$ BEGIN RAISE LOG E'a\\n{FORGED}\\n{FORGED}'; END $$",
                f"DO $$ BEGIN RAISE LOG 'x' USING DETAIL = '{FORGED}', HINT = '{FORGED}'; END $$",
                f"DO $$ BEGIN EXECUTE 'DO ''BEGIN RAISE EXCEPTION $x${FORGED}$x$; END'''; END $$",
                f"SELECT '{FORGED}'", f"SELECT 1/0 -- {FORGED}", f"SELEC \n{FORGED}", f'SELECT "{FORGED}"',
                f"SET application_name = '{FORGED}'", "SELECT 1"):
            session.run("SAVEPOINT s")
            session.run(statement)
            session.run("ROLLBACK TO s")
        session.run("COMMIT")
        session.wire.close()
    records = trail.new()
    assert any(FORGED in record["auditPayload"].get("query", "") for record in records)
    for name in ("server.log", "server.csv", "server.json")[:2 if VERSION == "14" else 3]:
        file = world.server.data / "logs" / name
        wait_for(lambda: file.read_text().count("AUDIT: {") >= len(records))
        text = file.read_text()
        assert text.count("AUDIT: {") == len(records) and "AUDIT; {" in text, name
        if name == "server.log":
            found = [json.loads(line.split("AUDIT: ", 1)[1]) for line in text.splitlines() if "AUDIT: {" in line]
            assert found == records


def test_pgaudits_label_stays(fresh):
    world = fresh("label", sink="log")
    world.sql("DO $$ BEGIN RAISE LOG 'AUDIT: SESSION,1,1,READ,SELECT,,,SELECT 1,<none>'; END $$")
    assert "LOG:  AUDIT: SESSION,1,1,READ" in re.sub(r"LOG:  \w{5}: ", "LOG:  ", world.server.log())


def test_without_level_log_no_record_is_there(fresh):
    world = fresh("level", "log_min_messages=fatal", sink="log")
    session = Session(world)
    work(session)
    assert "AUDIT: {" not in world.server.log()
    session.wire.close()
