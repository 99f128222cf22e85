"""sqlsmith writes random SQL, which an impersonated user sends to PostgreSQL's regression database: nothing crashes,
and what the user may not read appears in no answer.

    tests/fuzz/run.py [--minutes 10] [--seed N] [VERSION]      default: 18
"""

import argparse
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import debian  # noqa: E402
from harness.server import BUILD  # noqa: E402
from proxy import Proxy  # noqa: E402

sys.path.insert(0, str(ROOT / "tests" / "core"))
import run as core  # noqa: E402

# Which tables sqlsmith is told of, turn by turn: all of the regression database, ours, those of ours that alice may
# read (a query that names another is an error).
TURNS = 2 * (b"", b"table_schema = 'app'",
             b"table_schema = 'app' AND table_name IN ('rows', 'barrier', 'everyone', 'part_open')")
CRASH = re.compile(r"terminated by signal|PANIC: |TRAP: |panicked at|could not restore the session user")

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


def smith():
    """The program and its environment. Debian's packages, unpacked."""
    home = debian.binary("sqlsmith", "libpqxx-6.4") / "usr"
    library = next(home.glob("lib/*/libpqxx-6.4.so")).parent
    return home / "bin" / "sqlsmith", str(library)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    parser.add_argument("version", nargs="?", default="18")
    given = parser.parse_args()
    program, library = smith()
    source = core.prepare(given.version, True)
    suite = next(iter(core.suites(source, True)))
    with core.Run(given.version, source, suite, (core.OURS,)) as run:
        server = run.server
        print(f"[fuzz] PostgreSQL {given.version}: the regression database", flush=True)
        run.go()
        canary, granted = f"canary{secrets.token_hex(12)}", f"granted{secrets.token_hex(12)}"
        server.psql(input=SQL.format(canary=canary, granted=granted), dbname="regression")
        token = server.psql("-At", "-c", "SELECT immuta.issue_token('alice')", dbname="regression").stdout.strip()
        proxy = Proxy(server, "regression", ("svc", "service-password"), token, canary.encode(), granted.encode(),
                      given.seed)
        print(f"[fuzz] {given.minutes:g} minutes of sqlsmith, seed {given.seed}", flush=True)
        log = BUILD / "logs" / "sqlsmith.log"
        log.parent.mkdir(exist_ok=True)
        begun = len(server.log())
        with open(log, "wb") as out:
            for turn, focus in enumerate(TURNS):
                ends, starts = time.monotonic() + given.minutes * 60 / len(TURNS), 0
                # It may crash; that is not what we look for.
                while time.monotonic() < ends and not proxy.leaks and starts < 20:
                    proxy.connections, proxy.focus = 0, focus
                    target = (f"host=127.0.0.1 port={proxy.port} dbname=regression user=smith sslmode=disable "
                              "gssencmode=disable")
                    process = subprocess.Popen(
                        [program, f"--target={target}", f"--seed={given.seed + 100 * turn + starts}"],
                        stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                        env=dict(os.environ, LD_LIBRARY_PATH=f"{library}:{server.tree / 'lib'}"))
                    starts += 1
                    while time.monotonic() < ends and process.poll() is None and not proxy.leaks:
                        time.sleep(0.5)
                    if process.poll() is None:
                        process.send_signal(signal.SIGTERM)
                    process.wait(30)
                if starts == 20:
                    proxy.faults.append(f"sqlsmith does not stay, {process.returncode}: see {log}")
        proxy.close()
        crashes = [line for line in server.log()[begun:].splitlines() if CRASH.search(line[:1000])]
    print(f"[fuzz] {proxy.statements} statements ({proxy.as_nobody} without a token), {proxy.rows} rows, "
          f"{proxy.seen} answers with what the user may see, "
          f"{proxy.errors} errors ({proxy.refused} of ours), {proxy.lost} connections lost", flush=True)
    for leak in proxy.leaks:
        print("[fuzz] LEAK:", *leak, sep="\n")
    for line in crashes[:20]:
        print("[fuzz] CRASH:", line[:500])
    for fault in proxy.faults[:20]:
        print("[fuzz] FAULT:", fault[:2000])
    if not (proxy.rows > 1000 and proxy.seen > 100 and proxy.as_nobody > 100):
        print("[fuzz] hardly anything was tried: see", log)
        return 1
    return 1 if proxy.leaks or crashes or proxy.faults else 0


if __name__ == "__main__":
    sys.exit(main())
