"""sqlsmith writes random SQL, which an impersonated user sends to PostgreSQL's regression database: nothing crashes,
and what the user may not read appears in no answer.

    tests/fuzz/run.py [--minutes 10] [--seed N] [VERSION]      default: 18
"""

import argparse
import secrets
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import readers  # noqa: E402
import smith  # noqa: E402
from harness.server import BUILD  # noqa: E402
from proxy import Proxy  # noqa: E402

sys.path.insert(0, str(ROOT / "tests" / "core"))
import run as core  # noqa: E402

# Which tables sqlsmith is told of, turn by turn: all of the regression database, ours, those of ours that alice may
# read (a query that names another is an error).
TURNS = 2 * (b"", b"table_schema = 'app'",
             b"table_schema = 'app' AND table_name IN ('rows', 'barrier', 'everyone', 'part_open')")

# What alice may not read is in a table, a column, rows, a partition, a large object, and behind functions.
SQL = """
CREATE ROLE svc LOGIN PASSWORD 'service-password' IN ROLE bodata_impersonate_user;
CREATE ROLE alice NOLOGIN; CREATE ROLE owner NOLOGIN;
SELECT immuta.create_user('alice', postgres_role => 'alice');
CREATE SCHEMA app AUTHORIZATION owner; CREATE SCHEMA alice AUTHORIZATION alice;
GRANT USAGE ON SCHEMA app, public TO alice;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO alice;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO alice;
SET ROLE owner;
CREATE TABLE app.closed (id int PRIMARY KEY, body text);
INSERT INTO app.closed SELECT i, '{canary}' FROM generate_series(1, 20) i;
CREATE TABLE app.columns (id int PRIMARY KEY, body text, hidden text);
INSERT INTO app.columns SELECT i, '{granted}', '{canary}' FROM generate_series(1, 20) i;
GRANT SELECT (id, body), INSERT (id, body), UPDATE (body) ON app.columns TO alice;
CREATE TABLE app.rows (id int PRIMARY KEY, carrier text, body text);
INSERT INTO app.rows SELECT i, CASE WHEN i <= 10 THEN 'UA' ELSE 'AA' END,
    CASE WHEN i <= 10 THEN '{granted}' ELSE '{canary}' END FROM generate_series(1, 20) i;
ALTER TABLE app.rows ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON app.rows TO alice USING (carrier = 'UA');
GRANT SELECT, INSERT, UPDATE, DELETE ON app.rows TO alice;
CREATE TABLE app.parts (id int, body text) PARTITION BY RANGE (id);
CREATE TABLE app.part_open PARTITION OF app.parts FOR VALUES FROM (0) TO (10);
CREATE TABLE app.part_closed PARTITION OF app.parts FOR VALUES FROM (10) TO (20);
INSERT INTO app.parts SELECT i, CASE WHEN i < 10 THEN '{granted}' ELSE '{canary}' END FROM generate_series(0, 19) i;
GRANT SELECT ON app.part_open TO alice;
CREATE VIEW app.barrier WITH (security_barrier) AS SELECT id, body FROM app.rows WHERE id <= 10;
GRANT SELECT ON app.barrier TO alice;
CREATE MATERIALIZED VIEW app.stored AS SELECT * FROM app.closed;
CREATE FUNCTION app.reads() RETURNS SETOF app.closed LANGUAGE sql STABLE AS 'SELECT * FROM app.closed';
CREATE FUNCTION app.reads_plpgsql(int) RETURNS text LANGUAGE plpgsql STABLE
AS 'BEGIN RETURN (SELECT body FROM app.closed WHERE id = $1); END';
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA app TO PUBLIC;
CREATE TABLE app.everyone (body text); GRANT ALL ON app.everyone TO PUBLIC;
INSERT INTO app.everyone SELECT '{granted}' FROM generate_series(1, 20);
RESET ROLE;
SELECT lo_from_bytea(0, '{canary}');
ANALYZE;
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    parser.add_argument("version", nargs="?", default="18")
    given = parser.parse_args()
    source = core.prepare(given.version, True)
    suite = next(iter(core.suites(source, True)))
    with core.Run(given.version, source, suite, (core.OURS,)) as run:
        server = run.server
        print(f"[fuzz] PostgreSQL {given.version}: the regression database", flush=True)
        run.go()
        canary, granted = f"canary{secrets.token_hex(12)}", f"granted{secrets.token_hex(12)}"
        server.psql(input=SQL.format(canary=canary, granted=granted), dbname="regression")
        token = server.psql("-At", "-c", "SELECT immuta.issue_token('alice')", dbname="regression").stdout.strip()
        proxy = Proxy(server, "regression", ("svc", "service-password"), token, [canary], granted, given.seed, readers)
        print(f"[fuzz] {given.minutes:g} minutes of sqlsmith, seed {given.seed}", flush=True)
        log, begun = BUILD / "logs" / "sqlsmith.log", len(server.log())
        smith.go(proxy, TURNS, given.minutes, given.seed, log)
        proxy.close()
        crashes = [line for line in server.log()[begun:].splitlines() if smith.CRASH.search(line[:1000])]
    is_well = smith.report(proxy, crashes)
    if not (proxy.rows > 1000 and proxy.seen > 100 and proxy.as_nobody > 100):
        print("[fuzz] hardly anything was tried: see", log)
        return 1
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
