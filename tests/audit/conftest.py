"""A server of its own whose audit records go to a file, and what reads them: every record is validated against its
schema."""

import json
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jsonschema  # noqa: E402
from harness.fixtures import *  # noqa: E402,F401,F403
from harness.fixtures import TALKATIVE, VERSION, logs_no_secret  # noqa: E402
from harness.server import ROOT, Server  # noqa: E402
from harness.wire import Wire  # noqa: E402
from harness.world import SERVICE, World, prepare  # noqa: E402

MODES = ("simple", "extended")
PLANTED = """
CREATE FUNCTION app.busy(n int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE seen int;
BEGIN
    FOR i IN 1..n LOOP SELECT count(*) INTO seen FROM app.flights WHERE id < i; END LOOP;
    RETURN seen;
END $$;
CREATE FUNCTION app.catches() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    BEGIN PERFORM 1/(id - id) FROM app.flights; EXCEPTION WHEN division_by_zero THEN RETURN 'caught'; END;
END $$;
CREATE PROCEDURE app.works() LANGUAGE plpgsql AS $$ BEGIN UPDATE app.flights SET delay = 1 WHERE id = 3; END $$;
CREATE TABLE app.ruled (id int); GRANT SELECT, INSERT, DELETE ON app.ruled TO alice;
CREATE TABLE app.ruled_log (id int); GRANT SELECT, INSERT ON app.ruled_log TO alice;
CREATE RULE also AS ON INSERT TO app.ruled DO ALSO INSERT INTO app.ruled_log VALUES (NEW.id);
CREATE RULE before AS ON DELETE TO app.ruled DO ALSO INSERT INTO app.ruled_log VALUES (-OLD.id);
CREATE TABLE app.parents (id int PRIMARY KEY);
CREATE TABLE app.children (id int, parent int REFERENCES app.parents DEFERRABLE INITIALLY DEFERRED);
GRANT SELECT, INSERT ON app.parents, app.children TO alice;
CREATE VIEW app.seen AS SELECT id, carrier FROM app.flights; GRANT SELECT ON app.seen TO alice;
ALTER FUNCTION app.busy(int) OWNER TO alice; ALTER FUNCTION app.catches() OWNER TO alice;
"""


def schema(name):
    loaded = json.loads((ROOT / "docs" / f"audit-{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(loaded)
    return jsonschema.Draft202012Validator(loaded)


class Trail:
    """The audit file of a server."""

    def __init__(self, server, name="uam", file="immuta_audit.jsonl"):
        self.path, self.schema, self.read_so_far = server.data / file, schema(name), 0

    def new(self):
        """Records that were added since the last look, each validated."""
        text = self.path.read_text() if self.path.exists() else ""
        lines, self.read_so_far = text[self.read_so_far:].splitlines(), len(text)
        records = [json.loads(line) for line in lines]
        for record in records:
            self.schema.validate(record)
        return records

    def new_from_here(self):
        self.read_so_far = len(self.path.read_text())

    def queries(self):
        return [record for record in self.new() if record["action"] == "QUERY"]


class Session:
    """A connection of the service login that sends each statement as one message."""

    def __init__(self, world, mode="simple", user=SERVICE[0], password=SERVICE[1], **settings):
        self.world, self.mode = world, mode
        self.wire = Wire("127.0.0.1", world.server.port, user, password, world.dbname, **settings)

    def run(self, sql, *values):
        if self.mode == "simple" and not values:
            return self.wire.query(sql)
        return self.wire.query_extended(sql, *values)

    def ok(self, sql, *values):
        answer = self.run(sql, *values)
        assert answer.error is None, f"{sql}: {answer.error}"
        return answer

    def begin(self, user="alice"):
        self.ok("BEGIN")
        token = self.world.shared.setdefault(user, None) or self.world.token(user)
        self.world.shared[user] = token
        self.ok(f"SET LOCAL bodata.impersonation_token = '{token}'")


def audited_server(name, *options, sink="file", **more):
    """With `sink` None that setting can be changed while the server runs."""
    sinks = [] if sink is None else [f"bodata.audit_sink={sink}"]
    return Server(VERSION, name, options=[*TALKATIVE, *sinks, *options], **more)


def world_of(server):
    # Preparations are not what is looked at: users are made in them.
    prepare(server, before="ALTER DATABASE immuta SET bodata.audit_sink = ''")
    server.psql(input=PLANTED, dbname="immuta")
    server.psql("-c", "ALTER DATABASE immuta RESET bodata.audit_sink", dbname="immuta")
    world = World(server)
    world.shared = {}
    return world


def events(records):
    """What happened, to whom, and how the transaction ended."""
    return [(r["auditPayload"].get("event") or r["auditPayload"]["query"], r["actor"]["id"],
             r["auditPayload"].get("transactionOutcome")) for r in records]


@pytest.fixture(scope="session")
def world():
    with audited_server("audit") as server:
        world = world_of(server)
        yield world
        logs_no_secret(world)
        text = Trail(server).path.read_text()
        assert [token for token in world.tokens if token in text] == []


@pytest.fixture
def trail(world):
    """What is recorded from now on."""
    trail = Trail(world.server)
    if trail.path.exists():
        trail.new_from_here()
    return trail


@pytest.fixture
def connect(world):
    made = []

    def make(mode="simple", **more):
        made.append(Session(world, mode, **more))
        return made[-1]

    yield make
    for session in made:
        session.wire.close()


@pytest.fixture(params=MODES)
def session(request, connect):
    return connect(request.param)


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not (seen := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return seen
