"""What impersonation costs: instructions of the backend per transaction, counted by callgrind.

    tests/bench/run.py [VERSION…]      default: 15 18

Each script runs twice in a new session, once short and once long; the difference divided by the difference in length
is the cost of one transaction, without connecting, planning caches and warm-up. The numbers repeat to about one in a
thousand and do not depend on what else the machine does. What an outside token provider costs is in providers.py, the
audit table under load in audit.py.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import audit  # noqa: E402
import masking  # noqa: E402
import providers  # noqa: E402
import psycopg  # noqa: E402
from harness.server import BUILD, NOBODY, Server  # noqa: E402

TREES = BUILD / "bench" / "pg"
SHORT, LONG = 300, 1300
QUERY = "SELECT abalance FROM app.accounts WHERE aid = 4711"

SETUP = """
CREATE ROLE alice; CREATE ROLE bob;
CREATE ROLE app LOGIN PASSWORD 'app' IN ROLE alice, bob;
CREATE SCHEMA app;
CREATE TABLE app.accounts AS SELECT i AS aid, 0 AS abalance FROM generate_series(1, 100000) i;
ALTER TABLE app.accounts ADD PRIMARY KEY (aid);
GRANT USAGE ON SCHEMA app TO app, alice, bob;
GRANT SELECT ON app.accounts TO app, alice, bob;
VACUUM ANALYZE app.accounts;
"""
SETUP_EXTENSION = """
CREATE EXTENSION immuta_ext;
CREATE ROLE svc LOGIN PASSWORD 'svc' IN ROLE bodata_impersonate_user;
SELECT immuta.create_user('alice', postgres_role => 'alice'), immuta.create_user('bob', postgres_role => 'bob');
"""


class CountedServer(Server):
    """A server whose processes all run under callgrind."""

    def __init__(self, version, name):
        super().__init__(version, name, trees=TREES,
                         options=["autovacuum=off", "jit=off", "max_worker_processes=4"])
        self.counts = self.home / "counts"
        self._command = ["valgrind", "-q", "--tool=callgrind", "--trace-children=yes",
                         f"--callgrind-out-file={self.counts}/%p"]

    def prepare(self):
        """Without callgrind: making the cluster and its data."""
        self.create()
        self.start()
        self.psql(input=SETUP + SETUP_EXTENSION)
        tokens = [self.psql("-At", "-c", f"SELECT immuta.issue_token('{u}')").stdout.strip() for u in ("alice", "bob")]
        self.stop()
        self.counts.mkdir()
        if os.geteuid() == 0:
            os.chown(self.counts, NOBODY, NOBODY)
        self.as_user = [*self.as_user, *self._command]
        self.start()
        self.warm_up()
        return tokens

    def warm_up(self):
        """The first session after a start builds what all others find."""
        self.instructions("app", transaction(), SHORT)

    def instructions(self, user, script, length):
        """Runs `script(connection, i)` in one session; instructions of its backend."""
        with psycopg.connect(**self.dsn(user, user), autocommit=True, prepare_threshold=None) as connection:
            pid = connection.info.backend_pid
            for i in range(length):
                script(connection, i)
        counted = self.counts / str(pid)
        for _ in range(600):
            if counted.exists() and (found := re.search(r"^(?:totals|summary): (\d+)", counted.read_text(), re.M)):
                return int(found[1])
            time.sleep(0.05)
        raise RuntimeError(f"no count of backend {pid}")

    def cost(self, user, script):
        return (self.instructions(user, script, LONG) - self.instructions(user, script, SHORT)) / (LONG - SHORT)


def simple(*statements):
    """The statements as simple query messages, one each."""
    messages = [s.encode() for s in statements]

    def run(connection, _):
        for message in messages:
            connection.pgconn.exec_(message)

    return run


def transaction(*first):
    return simple("BEGIN", *first, QUERY, "END")


def alternating(first):
    """Two users in turn, the query as one named prepared statement of the protocol."""
    messages = [f.encode() for f in first]

    def run(connection, i):
        connection.pgconn.exec_(b"BEGIN")
        connection.pgconn.exec_(messages[i % 2])
        if i == 0:
            connection.pgconn.prepare(b"q", b"SELECT abalance FROM app.accounts WHERE aid = $1")
        result = connection.pgconn.exec_prepared(b"q", [b"4711"])
        assert result.ntuples == 1, result.error_message
        connection.pgconn.exec_(b"END")

    return run


def release_tree(version):
    """A copy of the PostgreSQL tree with a release build of the extension, beside the one that tests use."""
    tree = TREES / version
    if not tree.exists():
        shutil.copytree(BUILD / "pg" / version, tree, symlinks=True)
    print(f"[bench] release build for PostgreSQL {version} …", flush=True)
    subprocess.run([ROOT / "tools" / "install", "--release", version], check=True,
                   env=dict(os.environ, IMMUTA_PG_TREES=str(TREES)))


def measure(version):
    release_tree(version)
    costs = {}
    server = CountedServer(version, "bench")
    try:
        alice, bob = server.prepare()
        set_token = "SET LOCAL bodata.impersonation_token = '{}'".format
        # The same cluster, once with the library and once without.
        costs["not loaded"] = None
        costs["loaded"] = server.cost("app", transaction())
        costs["role"] = server.cost("app", transaction("SET LOCAL ROLE alice"))
        costs["config+role"] = server.cost("app", transaction(
            f"SELECT set_config('app.token', '{alice}', true)", "SET LOCAL ROLE alice"))
        for name, sink in (("token", ""), ("token, log", "log"), ("token, file", "file"), ("token, table", "table")):
            server.psql("-c", f"ALTER ROLE svc SET bodata.audit_sink = '{sink}'")
            costs[name] = server.cost("svc", transaction(set_token(alice)))
        server.psql("-c", "ALTER ROLE svc SET bodata.audit_sink = ''")
        costs["token, set_config"] = server.cost("svc", transaction(
            f"SELECT set_config('bodata.impersonation_token', '{alice}', true)"))
        costs["role, set_config"] = server.cost("app", transaction("SELECT set_config('role', 'alice', true)"))
        costs["SELECT 1"] = server.cost("app", simple("SELECT 1"))
        costs["SELECT 1, service"] = server.cost("svc", simple("SELECT 1"))
        costs["role, alternating"] = server.cost("app", alternating(["SET LOCAL ROLE alice", "SET LOCAL ROLE bob"]))
        costs["token, alternating"] = server.cost("svc", alternating([set_token(alice), set_token(bob)]))
        masks_are_cheap = masking.measure(server)
        server.preload = None
        server.restart()
        server.warm_up()
        costs["not loaded"] = server.cost("app", transaction())
    finally:
        server.destroy()
    return costs, masks_are_cheap


GOALS = (
    ("library loaded, no token", "loaded", "not loaded", "not loaded", 1.01),
    ("token, warm cache", "token", "SET LOCAL ROLE", "role", 1.15),
    ("token, warm cache", "token", "set_config + SET LOCAL ROLE", "config+role", 1.00),
    ("token by set_config", "token, set_config", "set_config of the role", "role, set_config", 1.25),
    ("statement without a token", "SELECT 1, service", "that of another login", "SELECT 1", 1.50),
    ("audit to the log", "token, log", "without audit", "token", 1.15),
    ("audit to a file", "token, file", "without audit", "token", 1.15),
    ("audit to the table", "token, table", "without audit", "token", 1.10),
)


def main():
    if not shutil.which("valgrind"):
        sys.exit("[bench] needs valgrind: install the Debian package valgrind")
    reached = True
    for version in sys.argv[1:] or ("15", "18"):
        costs, cheap = measure(version)
        reached &= cheap
        print(f"\nPostgreSQL {version}: server instructions per transaction (BEGIN, indexed SELECT, END)\n")
        for name, cost in costs.items():
            print(f"  {name:<22}{cost:>10,.0f}")
        print()
        for what, a, against, b, goal in GOALS:
            ratio = costs[a] / costs[b]
            reached &= ratio <= goal
            print(f"  {what:<26}{ratio:.3f} x {against:<30} goal {goal:.2f}  {'ok' if ratio <= goal else 'MISSED'}")
        ratio = costs["token, alternating"] / costs["role, alternating"]
        print(f"  {'token, users alternating':<26}{ratio:.3f} x the same with SET LOCAL ROLE")
        reached &= providers.measure(version, TREES)
        reached &= audit.measure(version, TREES)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
