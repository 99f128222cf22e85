"""G8: one record for each statement. A few thousand generated statements of every kind, successful and failing, by both
protocols, in transactions that commit, roll back and fail, are matched with the records, one to one and in order.

Threats: 52 (docs/threats.md).
"""

import random

import pytest
from conftest import MODES
from harness.wire import Wire
from harness.world import SERVICE, impersonate, query

STATEMENTS = 1500

# Statement and whether it succeeds; {n} is another number each time.
KINDS = [
    ("SELECT {n} AS n", True), ("SELECT id FROM app.flights WHERE id > {n} LIMIT 5", True),
    ("SELECT count(*) FROM app.flights f JOIN app.seen s USING (id) WHERE {n} > 0", True),
    ("WITH w AS (SELECT {n} AS a) SELECT * FROM w", True), ("VALUES ({n}), (2)", True), ("TABLE app.seen", True),
    ("UPDATE app.flights SET delay = {n} WHERE id = 3", True), ("DELETE FROM app.flights WHERE id = -{n}", True),
    ("INSERT INTO app.flights (id, carrier) VALUES (10000{n}, 'UA')", True),
    ("INSERT INTO app.ruled VALUES ({n})", True), ("DELETE FROM app.ruled WHERE id = {n}", True),
    ("WITH d AS (UPDATE app.flights SET delay = {n} WHERE id = 3 RETURNING id) SELECT * FROM d", True),
    ("CREATE TABLE alice.t{n} (a int)", True), ("CREATE TEMP TABLE t{n} AS SELECT {n} AS a", True),
    ("CREATE VIEW alice.v{n} AS SELECT {n} AS a", True), ("DROP TABLE IF EXISTS alice.none{n}", True),
    ("COMMENT ON TABLE alice.kept IS '{n}'", True), ("ANALYZE alice.kept /* {n} */", True),
    ("SET LOCAL work_mem = '{n}MB'", True), ("SHOW work_mem /* {n} */", True), ("RESET work_mem /* {n} */", True),
    ("DO $$ BEGIN PERFORM {n} FROM app.flights; END $$", True), ("CALL app.works() /* {n} */", True),
    ("SELECT app.busy(3) + {n}", True), ("SELECT app.catches() || {n}", True),
    ("EXPLAIN SELECT {n} FROM app.flights", True), ("EXPLAIN ANALYZE SELECT {n} FROM app.flights", True),
    ("COPY (SELECT {n}) TO STDOUT", True), ("LOCK TABLE alice.kept IN SHARE MODE /* {n} */", True),
    ("NOTIFY channel, '{n}'", True), ("SET CONSTRAINTS ALL DEFERRED /* {n} */", True), ("DEALLOCATE ALL /* {n} */", True),
    ("SELECT {n}/0", False), ("SELECT {n}/(delay - delay) FROM app.flights", False), ("SELECT * FROM nowhere{n}", False),
    ("SELEC {n}", False), ("SELECT body, {n} FROM private.nothing", False), ("INSERT INTO app.flights (id, carrier) VALUES (3, 'UA') /* {n} */", False),
    ("INSERT INTO app.flights (id, carrier) VALUES (20000{n}, 'AA')", False), ("UPDATE app.everyone SET nothing = {n}", False),
    ("CREATE TABLE alice.kept (a{n} int)", False), ("RESET ROLE /* {n} */", False), ("LISTEN channel{n}", False),
    ("SET ROLE bob /* {n} */", False), ("DISCARD ALL /* {n} */", False), ("VACUUM /* {n} */", False), ("FETCH 1 FROM none{n}", False),
    ("DO $$ BEGIN RAISE EXCEPTION '{n}'; END $$", False), ("SELECT set_config('role', 'none', {n} > 0)", False),
    ("SELECT app.busy({n}) / 0", False), ("DEALLOCATE none{n}", False), ("SELECT * FROM immuta.token WHERE id = {n}", False),
    ("PREPARE p{n} AS SELECT 1", False), ("DECLARE c{n} CURSOR WITH HOLD FOR SELECT 1", False),
]


@pytest.fixture(scope="module", autouse=True)
def kept(world):
    world.sql("CREATE TABLE IF NOT EXISTS alice.kept (a int); ALTER TABLE alice.kept OWNER TO alice")


@pytest.mark.parametrize("mode", MODES)
def test_every_statement_is_on_record_once(world, trail, mode):
    choose = random.Random(f"{mode} 5")
    token = world.token("alice")
    wire = Wire("127.0.0.1", world.server.port, *SERVICE, world.dbname)
    send = wire.query if mode == "simple" else wire.query_extended
    expected, number, ends = [], 0, []
    while len(expected) < STATEMENTS:
        assert send("BEGIN").error is None
        assert send(f"SET LOCAL bodata.impersonation_token = '{token}'").error is None
        has_failed = False
        for _ in range(choose.randint(0, 12)):
            number += 1
            pattern, succeeds = choose.choice(KINDS)
            statement = pattern.replace("{n}", str(number % 900 + 64))
            in_savepoint = not succeeds and choose.random() < 0.8
            if in_savepoint:
                assert send("SAVEPOINT s").error is None
                expected.append(("SAVEPOINT s", None))
            error = send(statement).error
            expected.append((statement, error and error["C"]))
            # A statement may fail for what the ones before it did.
            if not succeeds:
                assert error is not None, statement
            if error and in_savepoint:
                assert send("ROLLBACK TO s").error is None
                expected.append(("ROLLBACK TO s", None))
            elif error:
                has_failed = True
                break
        end = "ROLLBACK" if has_failed else choose.choice(["COMMIT", "ROLLBACK"])
        assert send(end).error is None
        ends.append(end)
    wire.close()
    world.sql("DELETE FROM app.flights WHERE id > 300")
    records = trail.new()
    seen = [(r["auditPayload"].get("query"), r["auditPayload"]["errorCode"]) for r in records if r["action"] == "QUERY"]
    for at, (one, other) in enumerate(zip(seen, expected)):
        assert one == other, (at, seen[max(at - 2, 0):at + 3], expected[max(at - 2, 0):at + 3])
    assert len(seen) == len(expected)
    assert len({r["id"] for r in records}) == len(records)
    outcomes = [r["auditPayload"]["transactionOutcome"] for r in records
                if r["action"] == "IMPERSONATE" and r["auditPayload"]["event"] == "ENDED"]
    assert outcomes == ends
    assert len({error for _, error in expected}) >= 12, "every kind of error"


CHANGES = [
    "CREATE TABLE alice.root (a int, b int) PARTITION BY RANGE (a)",
    "CREATE TABLE alice.leaf PARTITION OF alice.root FOR VALUES FROM (0) TO (9)",
    "ALTER TABLE alice.root DETACH PARTITION alice.leaf",
    "ALTER TABLE alice.root ATTACH PARTITION alice.leaf FOR VALUES FROM (0) TO (9)",
    "CREATE TABLE alice.base (a int PRIMARY KEY)", "CREATE TABLE alice.heir () INHERITS (alice.base)",
    "ALTER TABLE alice.heir NO INHERIT alice.base", "ALTER TABLE alice.base CLUSTER ON base_pkey",
    "ALTER TABLE alice.base SET WITHOUT CLUSTER",
    "CREATE TEXT SEARCH CONFIGURATION alice.words (COPY = pg_catalog.english)",
    "ALTER TEXT SEARCH CONFIGURATION alice.words ALTER MAPPING FOR word WITH simple",
    "CREATE FOREIGN TABLE alice.far (a int) SERVER far OPTIONS (table_name 'x')",
    "ALTER FOREIGN TABLE alice.far OPTIONS (SET table_name 'y')", "SELECT lo_create(4711)",
    "ALTER LARGE OBJECT 4711 OWNER TO alice", "ALTER DEFAULT PRIVILEGES IN SCHEMA alice GRANT SELECT ON TABLES TO bob",
    "CREATE USER MAPPING FOR alice SERVER far",
]


def test_changes_of_what_has_no_name(world, service, trail):
    """An inheritance, a default privilege: PostgreSQL announces them like objects, but cannot describe them."""
    world.sql("CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw; "
              "GRANT USAGE ON FOREIGN SERVER far TO alice")
    try:
        impersonate(service, world.token("alice"))
        for statement in CHANGES:
            query(service, statement)
        service.rollback()
        records = {r["auditPayload"]["query"]: r for r in trail.new() if r["auditPayload"].get("query")}
        assert [q for q, r in records.items() if r["actionStatus"] == "SUCCESS" and q in CHANGES] == CHANGES
        for statement, kind in (("ALTER LARGE OBJECT", "LARGE_OBJECT"), ("ALTER DEFAULT", "DEFAULT_ACL"),
                                ("CREATE USER", "USER_MAPPING")):
            [record] = [r for q, r in records.items() if q.startswith(statement)]
            assert record["auditPayload"]["objectsAccessed"][0]["objectType"] == kind
    finally:
        world.sql("DROP EXTENSION postgres_fdw CASCADE")


TRUSTED = ("btree_gin", "btree_gist", "citext", "cube", "dict_int", "fuzzystrmatch", "hstore", "intarray", "isn", "lo",
           "ltree", "pg_trgm", "pgcrypto", "seg", "tablefunc", "tcn", "tsm_system_rows", "tsm_system_time", "unaccent")
# What consists of one another, in one DROP ... CASCADE.
ENTANGLED = ("CREATE TYPE alice.pair AS (a int, b int)",
             "CREATE DOMAIN alice.pairs AS alice.pair[]",
             "CREATE FUNCTION alice.adds(alice.pair, alice.pair[]) RETURNS alice.pair LANGUAGE sql AS 'SELECT $1'",
             "CREATE FUNCTION alice.of_text(text) RETURNS alice.pair LANGUAGE sql IMMUTABLE AS 'SELECT NULL::alice.pair'",
             "CREATE AGGREGATE alice.sums(alice.pair[]) (SFUNC = alice.adds, STYPE = alice.pair)",
             "CREATE OPERATOR alice.+ (FUNCTION = alice.adds, LEFTARG = alice.pair, RIGHTARG = alice.pair[])",
             "CREATE CAST (text AS alice.pair) WITH FUNCTION alice.of_text(text)",
             "CREATE TABLE alice.with_pair (a alice.pair, b alice.pairs, c alice.pair DEFAULT alice.of_text('x'))",
             "CREATE VIEW alice.shows_pair AS SELECT a, alice.of_text('x') FROM alice.with_pair",
             "CREATE POLICY sees ON alice.with_pair USING (a IS NOT NULL)",
             "CREATE RULE rewrites AS ON INSERT TO alice.with_pair DO ALSO NOTHING")


@pytest.mark.parametrize("extension", TRUSTED)
def test_extensions_can_be_dropped(world, service, trail, extension):
    if world.value("SELECT count(*) FROM pg_available_extensions WHERE name = %s", (extension,)) == 0:
        pytest.skip(f"{extension} is not there")
    world.sql(f'GRANT CREATE ON DATABASE "{world.dbname}" TO alice')
    try:
        impersonate(service, world.token("alice"))
        query(service, f'CREATE EXTENSION "{extension}" SCHEMA alice')
        query(service, f'DROP EXTENSION "{extension}"')
        service.rollback()
    finally:
        world.sql(f'REVOKE CREATE ON DATABASE "{world.dbname}" FROM alice')
    [dropped] = [r for r in trail.queries() if r["auditPayload"]["query"].startswith("DROP")]
    payload = dropped["auditPayload"]
    kinds = {(o["objectType"], *o["accessType"]) for o in payload["objectsAccessed"]}
    assert ("EXTENSION", "DROP") in kinds or payload["objectsTruncated"]


@pytest.mark.parametrize("drop", ["DROP TYPE alice.pair CASCADE", "DROP FUNCTION alice.of_text(text) CASCADE",
                                  "DROP OWNED BY alice CASCADE", "DROP SCHEMA alice CASCADE",
                                  "DROP TABLE alice.with_pair CASCADE"])
def test_whatever_hangs_together_can_be_dropped(world, service, trail, drop):
    world.sql("GRANT USAGE ON LANGUAGE sql TO alice")
    impersonate(service, world.token("alice"))
    for statement in (*ENTANGLED, drop):
        query(service, statement)
    service.rollback()
    [dropped] = [r for r in trail.queries() if r["auditPayload"]["query"] == drop]
    names = {o["name"] for o in dropped["auditPayload"]["objectsAccessed"]}
    assert "alice.shows_pair" in names or "TABLE" in drop, names
