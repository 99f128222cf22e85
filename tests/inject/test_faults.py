"""An ERROR, a cancel and a panic at every point of every hook and callback (src/pg/sys/inject.rs), before and after each effect:
afterwards the session is as a new one, or closed, and the next user of it sees what is theirs.

Threats: 53, 54 (docs/threats.md).
"""

import json
import re
import time
from collections import Counter

import pytest
from harness.wire import Closed, Wire

TOKEN = "SET LOCAL bodata.impersonation_token = '{alice}'"
LOOK = "SELECT current_user, carrier FROM app.flights WHERE id < 30"

# What a client sends, message by message, whatever the answers are.
SCENARIOS = {
    "simple": ("svc", ["BEGIN", TOKEN, LOOK, "COMMIT"]),
    "set_config": ("svc", ["BEGIN", "SELECT set_config('bodata.impersonation_token', '{alice}', true), "
                                    "set_config('work_mem', '5MB', true)", LOOK, "COMMIT"]),
    "message": ("svc", [f"{TOKEN}; {LOOK}"]),
    "extended": ("svc", ["extended: BEGIN", f"extended: {TOKEN}", f"extended: {LOOK}", "extended: COMMIT"]),
    "savepoint": ("svc", ["BEGIN", TOKEN, "SAVEPOINT a", "UPDATE app.flights SET delay = 1 WHERE id = 3", "RELEASE a",
                          "SAVEPOINT b", "SELECT 1/0", "ROLLBACK TO b", "SELECT app.catches()", LOOK, "COMMIT"]),
    "inside a savepoint": ("svc", ["BEGIN", "SET LOCAL timezone = 'UTC'", "SAVEPOINT a", TOKEN, "SAVEPOINT b", LOOK, "RELEASE b", "RELEASE a",
                                   LOOK, "COMMIT"]),
    "rolled back to a savepoint": ("svc", ["BEGIN", "SAVEPOINT a", TOKEN, LOOK, "ROLLBACK TO a", TOKEN, LOOK, "COMMIT"]),
    "cursor": ("svc", ["BEGIN", TOKEN, "SET LOCAL search_path = app", "CREATE TEMP TABLE t AS SELECT 1 AS a",
                       f"DECLARE c CURSOR FOR {LOOK}", "FETCH 2 FROM c", "CREATE TABLE alice.made (id serial)",
                       "SELECT nextval('alice.made_id_seq'), setseed(0.5)", "DROP TABLE alice.made", "COMMIT"]),
    "masks": ("svc", ["BEGIN", TOKEN, "SELECT app.forgets_masks()", "SELECT name, ssn, p FROM app.people p WHERE ssn <> 'x'",
                      "COPY app.people TO STDOUT", LOOK, "COMMIT"]),
    "masks, refused": ("svc", ["BEGIN", TOKEN, "SAVEPOINT a", "UPDATE app.people SET id = 2 WHERE name = 'CANARY'", "ROLLBACK TO a",
                               "SELECT name FROM app.people", LOOK, "COMMIT"]),
    "failure": ("svc", ["BEGIN", TOKEN, "SELECT 1/0", LOOK, "ROLLBACK"]),
    "read only": ("svc", ["BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", TOKEN, LOOK, "ROLLBACK AND CHAIN", LOOK, "COMMIT"]),
    "session": ("svc", ["SET bodata.impersonation_token = '{alice}'", LOOK, "BEGIN", LOOK, "SAVEPOINT a", "SELECT 1/0", "ROLLBACK",
                        "SET work_mem = '9MB'", LOOK, "DISCARD ALL"]),
    "name": ("names", ["BEGIN", "SET LOCAL immuta.impersonation_userid = 'alice'", LOOK, "COMMIT"]),
    "nobody": ("svc", ["SELECT 1", "SET client_min_messages = 'warning'", "SET statement_timeout = 0",
                       "DECLARE h CURSOR WITH HOLD FOR SELECT 1", LOOK]),
    "login": ("svc", ["SELECT immuta.authenticate('bob', 'of bob') IS NULL"]),
    "dry run": ("boss", ["SELECT allowed FROM immuta.test_access('alice', 'SELECT 1 FROM app.flights')"]),
    "system": ("boss", ["BEGIN", "SELECT immuta.register_data_source('app.orders')",
                        "SELECT immuta.subscribe('ann', 'app.orders')", "ROLLBACK"]),
    "access": ("boss", ["SELECT immuta.disable_user('ann')", "SELECT immuta.disable_user('ann', disabled => false)"]),
}
KINDS = ("error", "cancel", "panic")
SETTINGS = "SELECT name, setting FROM pg_settings WHERE source = 'session' ORDER BY 1"


class Client:
    """A session, and what a new one is like."""

    def __init__(self, world, user):
        self.world, self.user = world, user
        passwords = {"svc": "service-password", "names": "names", "boss": "boss"}
        self.wire = Wire("127.0.0.1", world.server.port, user, passwords[user], world.dbname)
        self.pid = self.rows("SELECT pg_backend_pid()")[0][0]
        # Afterwards it has had a user.
        self.as_next()
        self.fresh, self.settings = self.state(), self.as_next()

    def send(self, message):
        message = message.format(**self.world.shared)
        if message.startswith("extended: "):
            return self.wire.query_extended(message.removeprefix("extended: "))
        return self.wire.query(message)

    def rows(self, message):
        answer = self.send(message)
        assert answer.error is None, (message, answer.error)
        return answer.rows

    def shown(self):
        return json.loads(self.rows("SHOW bodata.inject")[0][0])

    def state(self):
        return self.shown()["state"]

    def arm(self, point, kind, times):
        self.rows(f"SELECT app.arm('{point} {kind} {times}')")

    def disarm(self):
        """What was not passed this time fails here at the latest."""
        self.send("SELECT app.arm('UtilityBegins nothing 0')")
        self.arm("UtilityBegins", "nothing", 0)

    def run(self, messages):
        """Sends all of them; what came that may not come."""
        wrong = []
        for message in messages:
            for row in self.send(message).rows:
                if LOOK in message and row != ("alice", "UA") or "CANARY" in str(row):
                    wrong.append((message, row))
        return wrong

    def end(self):
        """The client gives the connection back, and tries twice."""
        for message in ("ROLLBACK", "ROLLBACK", "DISCARD ALL"):
            self.send(message)

    def as_next(self):
        """The next user sees their own rows, under their own settings, which are returned."""
        if self.user == "boss":
            return self.rows(SETTINGS)
        name, present, carrier = (("bob", "SET LOCAL bodata.impersonation_token = '{bob}'", "AA") if self.user == "svc" else
                                  ("alice", "SET LOCAL immuta.impersonation_userid = 'alice'", "UA"))
        self.rows("BEGIN")
        self.rows(present)
        assert set(self.rows(LOOK)) == {(name, carrier)}
        settings = self.rows(SETTINGS)
        assert self.world.sql("SELECT userid FROM immuta.impersonations WHERE pid = %s", (self.pid,)) == [(name,)]
        self.rows("COMMIT")
        refusal = self.send("SELECT body FROM app.everyone").error
        assert refusal and (refusal["C"], refusal["D"]) == ("42501", "IMPERSONATION_REQUIRED"), refusal
        return settings

    def left_over(self):
        """How the session differs from a new one."""
        found = []
        for when in ("at once", "after the next user"):
            # A cancel that came too late meets the next message, as ever.
            state = self.state()
            if state != self.fresh:
                found.append(f"{when}: {difference(state, self.fresh)}")
            settings = self.as_next()
            if settings != self.settings:
                found.append(f"{when}: {set(settings) ^ set(self.settings)}")
        return found + seen_of(self.world, self.pid)


def difference(state, fresh):
    return [pair for pair in zip(state.split("; "), fresh.split("; ")) if pair[0] != pair[1]]


def seen_of(world, pid):
    """What others see of a session that should hold nothing."""
    return world.sql(
        "SELECT 'lock', mode, locktype FROM pg_locks WHERE pid = %s AND locktype <> 'virtualxid' "
        "UNION ALL SELECT 'impersonates', userid, '' FROM immuta.impersonations WHERE pid = %s", (pid, pid))


def passes(world, name):
    """How often a scenario passes each point."""
    user, messages = SCENARIOS[name]
    client = Client(world, user)
    client.arm("UtilityBegins", "nothing", 0)
    assert client.run(messages) == []
    client.end()
    passed = client.shown()["passed"]
    assert client.left_over() == []
    client.wire.close()
    return passed


@pytest.fixture(scope="module")
def passed(world):
    """Cached look-ups make a session pass others than at its first time."""
    return {name: passes(world, name) for name in SCENARIOS}


def test_every_point_is_passed(passed):
    """Whatever is on the list of points is where some session of these tests comes by."""
    points = next(iter(passed.values()))
    assert len(points) > 80
    missed = [point for point in points if not any(counts[point] for counts in passed.values())]
    # Of logins, which are another test's.
    assert [point for point in missed if not point.startswith("Oauth")] == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fault_leaves_nothing_behind(world, passed, name, kind):
    user, messages = SCENARIOS[name]
    cases = [(point, times) for point, count in passed[name].items() for times in {1, count} if count]
    assert cases
    client, faults, closed = Client(world, user), [], 0
    for point, times in cases:
        client.arm(point, kind, times)
        try:
            wrong = client.run(messages)
            client.end()
            client.disarm()
            wrong += client.left_over()
        except (Closed, OSError) as ended:
            closed += 1
            wrong = [] if is_clean(ended, point, world, client.pid) else [f"closed: {ended!r}"]
            client = Client(world, user)
        except AssertionError as error:
            wrong = [str(error)]
        faults += [(point, times, fault) for fault in wrong]
        if wrong:
            client.wire.close()
            client = Client(world, user)
    client.wire.close()
    assert faults == [], "\n".join(map(str, faults))
    # Sessions end where nothing else is left, and only there.
    assert closed <= len(cases) / 3


def is_clean(ended, point, world, pid):
    """The session ended with a word, and nothing of it is left."""
    deadline = time.monotonic() + 5
    while world.value("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", (pid,)) and time.monotonic() < deadline:
        time.sleep(0.01)
    # PostgreSQL itself ends a session that cannot begin a subtransaction of a function's; and what it says may be lost
    # when the client is writing.
    error = ended.args[0] if isinstance(ended, Closed) else {"C": "57P01"}
    is_told = error is not None and (error["C"] == "57P01" or point.startswith("SubtransactionStart"))
    return is_told and seen_of(world, pid) == []


def ids(world, begun):
    """Of the records in the log, the file and the table since then."""
    world.sql("SELECT immuta.flush_audit('1 min')")
    log = world.server.log_file.read_bytes()[begun[0]:].decode(errors="replace")
    file = (world.server.data / "immuta_audit.jsonl").read_bytes()[begun[1]:].decode()
    logged = [json.loads(line[line.index("{"):]) for line in re.findall(r"AUDIT: \{.*", log)]
    stored = {str(id) for (id,) in world.sql("SELECT id FROM immuta.audit_log")}
    return {record["id"] for record in logged}, {json.loads(line)["id"] for line in file.splitlines()}, stored


def test_a_cancel_leaves_a_record_in_all_sinks_or_in_none(world, passed):
    user, messages = SCENARIOS["savepoint"]
    begun = world.server.log_file.stat().st_size, (world.server.data / "immuta_audit.jsonl").stat().st_size
    client = Client(world, user)
    for point in ("RecordCounted", "RecordLogged", "RecordFiled", "RecordQueued", "StatementClosed", "LogBegins", "LogEnds"):
        for times in range(1, passed["savepoint"][point] + 1):
            client.arm(point, "cancel", times)
            client.run(messages)
            client.end()
            client.disarm()
    client.wire.close()
    logged, filed, stored = ids(world, begun)
    assert len(logged) > 100
    assert logged == filed and filed - stored == set()


@pytest.mark.parametrize("mode", ["", "extended: "], ids=["simple", "extended"])
@pytest.mark.parametrize("statement", ["SELECT 4711", "UPDATE app.flights SET delay = 2 WHERE id = 3", "SET LOCAL work_mem = '4MB'",
                                       "FETCH 1 FROM c", "SELECT 4711 / 0", "SELECT nowhere", "SELECT 4711; -- the end"])
def test_a_statement_has_one_record_whatever_cancels_it(world, mode, statement):
    client = Client(world, "svc")
    file = world.server.data / "immuta_audit.jsonl"
    begun = file.stat().st_size

    def transaction(point, kind, times):
        """What is fetched is on the record of the cursor's declaration."""
        label = f"/* {point} {times} */ "
        declare = [f"{label}DECLARE c CURSOR FOR {LOOK}"] if "FETCH" in statement else []
        for message in ["BEGIN", TOKEN, *declare]:
            client.rows(message)
        client.arm(point, kind, times)
        client.send(mode + (label.replace("/*", "/* fetch") if declare else label) + statement)
        client.end()
        return label

    labels = [transaction("UtilityBegins", "nothing", 0)]
    for point, count in client.shown()["passed"].items():
        # PostgreSQL forgets what it runs where logging itself fails.
        for times in range(1, count + 1 if not point.startswith("Log") else 1):
            labels.append(transaction(point, "cancel", times))
            client.disarm()
    client.wire.close()
    assert len(labels) > 20
    records = [json.loads(line) for line in file.read_bytes()[begun:].splitlines()]
    counts = Counter(label for record in records for label in labels if label in record["auditPayload"].get("query", ""))
    assert {label: counts[label] for label in labels if counts[label] != 1} == {}
    # One that did not come as far as its cursor is a statement of its own.
    fetches = [re.search(r"/\* fetch (\w+)", record["auditPayload"].get("query", "")) for record in records]
    assert {fetch[1] for fetch in fetches if fetch} <= {
        "AnalysisBegins", "NamesRemembered", "AnalysisEnds", "UtilityBegins", "StatementOpened", "RunBegins"}


# Not the state of a savepoint that PostgreSQL had not yet begun.
LEFT = re.compile(r"WARNING: .*(leak|not closed|still active|own a lock|while in (?!DEFAULT)|missed cleanup)")


def test_nothing_leaked(world):
    """What PostgreSQL says when a resource outlives its owner."""
    assert [line for line in world.server.log().splitlines() if LEFT.search(line)] == []
