"""What impersonation costs: instructions of the backend per transaction, counted by callgrind.

    tests/bench/run.py [--largest N] [--quick] [--masks] [VERSION…]      default: 15 18

A transaction is BEGIN, what says who the user is, an indexed SELECT and END, each a message of its own. Two users take turns,
and no query is like the one before. Each script runs twice in a new session, once short and once long; the difference divided by
the difference in length is the cost of one transaction, without connecting and warm-up. The numbers repeat to a few in a
thousand and do not depend on what else the machine does.

What masks cost is in masking.py, how costs grow in growth.py, what an outside token provider costs in providers.py, the audit
table under load in audit.py. With `--quick` there is nothing but the transactions, and masks; with `--masks` nothing but those.
Draws docs/performance-ratios.svg and docs/performance-growth.svg.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "tests" / "bench"))

import psycopg  # noqa: E402
from harness import companions, debian  # noqa: E402
from harness.server import BUILD, NOBODY, Server  # noqa: E402

TREES = BUILD / "bench" / "pg"
DOCS = ROOT / "docs"
SHORT, LONG = 40, 160
ACCOUNTS = 100_000

SETUP = f"""
CREATE ROLE alice; CREATE ROLE bob;
CREATE ROLE app LOGIN PASSWORD 'app' IN ROLE alice, bob;
CREATE SCHEMA app;
CREATE TABLE app.accounts AS SELECT i AS aid, 0 AS abalance FROM generate_series(1, {ACCOUNTS}) i;
ALTER TABLE app.accounts ADD PRIMARY KEY (aid);
GRANT USAGE ON SCHEMA app TO app, alice, bob;
GRANT SELECT ON app.accounts TO app, alice, bob;
VACUUM ANALYZE app.accounts;
CREATE EXTENSION pg_prewarm;
"""
SETUP_EXTENSION = """
CREATE EXTENSION immuta_ext;
CREATE ROLE svc LOGIN PASSWORD 'svc' IN ROLE bodata_impersonate_user;
SELECT immuta.create_user('alice', postgres_role => 'alice'), immuta.create_user('bob', postgres_role => 'bob');
"""


class CountedServer(Server):
    """A server whose processes run under callgrind, once it is told to count."""

    def __init__(self, version, name):
        # No use of a token is written down while others are counted: that is done once in some minutes, however many there are.
        super().__init__(version, name, trees=TREES, options=[
            "autovacuum=off", "jit=off", "max_worker_processes=4", "bodata.token_idle_ttl=30d"])
        self.counts = self.home / "counts"
        self.plain = self.as_user

    def prepare(self):
        """Makes the cluster and its data, without counting; tokens of both users."""
        self.create()
        self.counts.mkdir()
        if os.geteuid() == 0:
            os.chown(self.counts, NOBODY, NOBODY)
        self.start()
        self.psql(input=SETUP + SETUP_EXTENSION)
        tokens = [self.psql("-At", "-c", f"SELECT immuta.issue_token('{u}')").stdout.strip() for u in ("alice", "bob")]
        self.count(True)
        return tokens

    def count(self, counts, preload="immuta_ext"):
        """Starts again, and counts from now on, or does not."""
        self.stop()
        self.as_user = self.plain
        self.options = [o for o in self.options if not o.startswith(("shared_preload_libraries=", "dynamic_library_path="))]
        self.options += [f"shared_preload_libraries={preload}", f"dynamic_library_path=$libdir:{companions.folder(self.version)}"]
        if counts:
            # Of a session only: what its process took over from the postmaster, when it was forked, is no part of it.
            self.as_user = [*self.plain, "valgrind", "-q", "--tool=callgrind", "--trace-children=yes", "--toggle-collect=PostgresMain",
                            f"--callgrind-out-file={self.counts}/%p"]
        self.start()
        if counts:
            # No page is read from disk later, and the first session after a start builds what all others find.
            self.psql("-c", "SELECT pg_prewarm('app.accounts'), pg_prewarm('app.accounts_pkey')")
            self.instructions("app", transaction(lambda i: (), QUERIES["literal"]), SHORT)

    def instructions(self, user, script, length):
        """Runs `script(connection, i)` in one session; instructions of its backend."""
        with psycopg.connect(**self.dsn(user, user), autocommit=True, prepare_threshold=None) as connection:
            pid = connection.info.backend_pid
            for i in range(length):
                script(connection.pgconn, i)
        counted = self.counts / str(pid)
        for _ in range(1200):
            if counted.exists() and (found := re.search(r"^(?:totals|summary): (\d+)", counted.read_text(), re.M)):
                return int(found[1])
            time.sleep(0.05)
        raise RuntimeError(f"no count of backend {pid}")

    def cost(self, user, script, short=SHORT, long=LONG):
        # Whoever comes first finds less than others do.
        self.instructions(user, script, 2)
        return (self.instructions(user, script, long) - self.instructions(user, script, short)) / (long - short)


def send(pgconn, message):
    """A simple message, or a statement with bound parameters."""
    result = pgconn.exec_params(*message) if isinstance(message, tuple) else pgconn.exec_(message)
    assert result.status in (psycopg.pq.ExecStatus.COMMAND_OK, psycopg.pq.ExecStatus.TUPLES_OK), result.error_message
    return result


def account(i):
    return b"%d" % (1 + i * 7919 % ACCOUNTS)


def prepared(pgconn, i):
    if i == 0:
        pgconn.prepare(b"q", b"SELECT abalance FROM app.accounts WHERE aid = $1")
    return pgconn.exec_prepared(b"q", [account(i)])


QUERIES = {
    "literal": lambda pgconn, i: send(pgconn, b"SELECT abalance FROM app.accounts WHERE aid = " + account(i)),
    "bound": lambda pgconn, i: send(pgconn, (b"SELECT abalance FROM app.accounts WHERE aid = $1", [account(i)])),
    "prepared": prepared,
}


def transaction(first, query):
    """`first`: the messages with which the i-th transaction begins."""
    def run(pgconn, i):
        send(pgconn, b"BEGIN")
        for message in first(i):
            send(pgconn, message)
        result = query(pgconn, i)
        assert result.ntuples == 1, result.error_message
        send(pgconn, b"END")

    return run


def between(first, query, last):
    """A transaction within messages of a session: `set_user()` is none of a transaction's."""
    def run(pgconn, i):
        for message in first(i):
            send(pgconn, message)
        transaction(lambda i: (), query)(pgconn, i)
        send(pgconn, last)

    return run


def in_turn(*messages):
    """One of two users' messages: `{}` stands for the user's role, or the token."""
    return lambda users: lambda i: [tuple([one[0], [users[i % 2].encode()]]) if isinstance(one, tuple)
                                    else one.replace(b"{}", users[i % 2].encode()) for one in messages]


ROLE = in_turn(b"SET LOCAL ROLE {}")
CLAIM, CLAIM_BOUND = b"SELECT set_config('app.claims', '{}', true)", (b"SELECT set_config('app.claims', $1, true)",)
TOKEN = in_turn(b"SET LOCAL bodata.impersonation_token = '{}'")
SET_USER = in_turn(b"SELECT set_user('{}')")
BY_FUNCTION = in_turn(b"SELECT set_config('bodata.impersonation_token', '{}', true)")
BOUND = in_turn((b"SELECT set_config('bodata.impersonation_token', $1, true)",))


def claims(tokens, claim):
    """What PostgREST does: who the user is in a setting, and the role."""
    roles = ROLE(("alice", "bob"))
    return lambda i: [*in_turn(claim)(tokens)(i), *roles(i)]


def rows(tokens):
    """What is measured with the library: name, login, `bodata.audit_sink` (None: as shipped), how a transaction begins."""
    yield "loaded, not used", "app", None, lambda i: ()
    yield "SET LOCAL ROLE", "app", None, ROLE(("alice", "bob"))
    yield "set_config + SET LOCAL ROLE", "app", None, claims(tokens, CLAIM)
    yield "set_config bound + SET LOCAL ROLE", "app", None, claims(tokens, CLAIM_BOUND)
    for how, first in (("SET LOCAL", TOKEN), ("set_config", BY_FUNCTION), ("set_config bound", BOUND)):
        yield f"token by {how}, no audit", "svc", "", first(tokens)
        yield f"token by {how}, as shipped", "svc", None, first(tokens)
    yield "token by SET LOCAL, audit to a file", "svc", "file", TOKEN(tokens)
    yield "token by SET LOCAL, audit to the table", "svc", "table", TOKEN(tokens)


def statement(pgconn, i):
    send(pgconn, b"SELECT %d" % i)


def release_tree(version):
    """A copy of the PostgreSQL tree with a release build of the extension, beside the one that tests use."""
    tree = TREES / version
    if not tree.exists():
        shutil.copytree(BUILD / "pg" / version, tree, symlinks=True)
    print(f"[bench] release build for PostgreSQL {version} …", flush=True)
    subprocess.run([ROOT / "tools" / "install", "--release", version], check=True,
                   env=dict(os.environ, IMMUTA_PG_TREES=str(TREES)))


def connecting(server, user, script=None):
    """Instructions of a session that does this once, or nothing."""
    return min(server.instructions(user, script, 1 if script else 0) for _ in range(3))


def messages(server, tokens):
    """Cost of each statement where so many come in one message."""
    def script(count):
        def run(pgconn, i):
            send(pgconn, b"BEGIN")
            send(pgconn, TOKEN(tokens)(i)[0])
            send(pgconn, b";".join(b"SELECT abalance FROM app.accounts WHERE aid = " + account(n) for n in range(count)))
            send(pgconn, b"END")

        return run

    return {count: server.cost("svc", script(count), 3, 8) / count for count in (10, 100, 1000)}


def measure(server, tokens):
    """{row: {kind of query: cost}}, and single figures."""
    costs, single = {}, {}
    print(f"\nPostgreSQL {server.version}: server instructions per transaction (BEGIN, indexed SELECT, END)\n\n"
          f"  {'':<42}" + "".join(f"{form:>10}" for form in QUERIES))

    def take(name, user, first, shape=transaction):
        costs[name] = {form: server.cost(user, shape(first, query)) for form, query in QUERIES.items()}
        print(f"  {name:<42}" + "".join(f"{cost:>10,.0f}" for cost in costs[name].values()), flush=True)

    for name, user, sink, first in rows(tokens):
        if user == "svc":
            change = "RESET bodata.audit_sink" if sink is None else f"SET bodata.audit_sink = '{sink}'"
            server.psql("-c", f"ALTER ROLE svc {change}")
        take(name, user, first)
    server.psql("-c", "ALTER ROLE svc RESET bodata.audit_sink")
    single["messages"] = messages(server, tokens)
    for name, user in (("loaded", "app"), ("service login", "svc")):
        single[f"statement, {name}"] = server.cost(user, statement)
        single[f"connecting, {name}"] = connecting(server, user)
    single["connecting and a query, loaded"] = connecting(server, "app", QUERIES["literal"])
    single["connecting and a transaction, SET LOCAL ROLE"] = connecting(server, "app", transaction(ROLE(("alice", "bob")), QUERIES["literal"]))
    single["connecting and a transaction, token"] = connecting(server, "svc", transaction(TOKEN(tokens), QUERIES["literal"]))
    try:
        companions.pgaudit(server.version)
        for what in ("read", "all"):
            server.psql("-c", f"ALTER ROLE app SET pgaudit.log = '{what}'")
            server.count(True, "pgaudit")
            take(f"SET LOCAL ROLE, pgAudit {what}", "app", ROLE(("alice", "bob")))
        server.psql("-c", "ALTER ROLE app RESET pgaudit.log")
    except debian.Unavailable as fault:
        print(f"  pgAudit is not to be had: {fault}")
    try:
        functions = companions.set_user(server.version)
        server.count(True, "set_user")
        server.psql(input=f"{functions} GRANT EXECUTE ON FUNCTION set_user(text) TO app;")
        take("set_user, reset_user", "app", SET_USER(("alice", "bob")), lambda first, query: between(first, query, b"SELECT reset_user()"))
    except debian.Unavailable as fault:
        print(f"  set_user is not to be had: {fault}")
    server.count(True, "")
    take("nothing loaded", "app", lambda i: ())
    take("nothing loaded, SET LOCAL ROLE", "app", ROLE(("alice", "bob")))
    single["statement, nothing loaded"] = server.cost("app", statement)
    single["connecting, nothing loaded"] = connecting(server, "app")
    single["connecting and a query, nothing loaded"] = connecting(server, "app", QUERIES["literal"])
    return costs, single


def goals(costs, single):
    """Name, what is measured, against what, the goal."""
    role, token = costs["SET LOCAL ROLE"], costs["token by SET LOCAL, no audit"]
    record = {form: (costs["token by SET LOCAL, as shipped"][form] - token[form]) / 3 for form in token}
    claimed, bound = costs["set_config + SET LOCAL ROLE"], costs["set_config bound + SET LOCAL ROLE"]
    for form in QUERIES:
        yield f"token by SET LOCAL ÷ SET LOCAL ROLE, {form}", token[form] / role[form], 1.06
        yield f"as shipped ÷ SET LOCAL ROLE, {form}", costs["token by SET LOCAL, as shipped"][form] / role[form], 1.25
        yield f"by set_config ÷ set_config + SET LOCAL ROLE, {form}", costs["token by set_config, no audit"][form] / claimed[form], 1.0
        yield f"the same bound, {form}", costs["token by set_config bound, no audit"][form] / bound[form], 1.0
        yield f"a record, {form}", record[form], 6000
        yield f"loaded ÷ nothing loaded, {form}", costs["loaded, not used"][form] / costs["nothing loaded"][form], 1.005
    yield "statement before a token ÷ another login's", single["statement, service login"] / single["statement, loaded"], 1.10
    yield "connecting, loaded ÷ nothing loaded", single["connecting, loaded"] / single["connecting, nothing loaded"], 1.03
    yield "connecting, service login ÷ nothing loaded", single["connecting, service login"] / single["connecting, nothing loaded"], 1.03
    yield "connecting and a query, loaded ÷ nothing loaded", single["connecting and a query, loaded"] / single["connecting and a query, nothing loaded"], 1.03
    many = single["messages"]
    yield "a statement in 1,000 ÷ in 100 of a message", many[1000] / many[100], 1.05


def draw():
    """Both drawings, of whatever versions were measured."""
    import charts
    found = {file.stem: json.loads(file.read_text()) for file in sorted((BUILD / "bench").glob("*.json"), key=lambda f: int(f.stem))}
    names = [name for name in next(iter(found.values()))["costs"] if name not in ("SET LOCAL ROLE", "nothing loaded, SET LOCAL ROLE")]

    def ratio(version, name):
        costs = found[version]["costs"]
        return costs[name]["literal"] / costs["SET LOCAL ROLE"]["literal"] if name in costs else None

    charts.bars(DOCS / "performance-ratios.svg", "Instructions of a transaction ÷ the same with SET LOCAL ROLE", [f"PostgreSQL {v}" for v in found],
                [(name, [ratio(version, name) for version in found]) for name in names])
    panels = {}
    for version, figures in found.items():
        for what, series in figures.get("growth", {}).items():
            for name, points in series.items():
                smallest = points[0][1]
                panels.setdefault(what, []).append((f"{version} {name}", [(count, cost / smallest) for count, cost in points]))
    if panels:
        charts.lines(DOCS / "performance-growth.svg", "Cost against that at the smallest number", list(panels.items()))


def main():
    if not shutil.which("valgrind"):
        sys.exit("[bench] needs valgrind: install the Debian package valgrind")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="*", default=["15", "18"])
    parser.add_argument("--largest", type=int, default=1_000_000, help="users, tokens, roles and rules to grow to")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--masks", action="store_true")
    arguments = parser.parse_args()
    import audit
    import growth
    import masking
    import providers
    reached = True
    for version in arguments.versions:
        release_tree(version)
        server = CountedServer(version, "bench")
        try:
            tokens = server.prepare()
            if not arguments.masks:
                costs, single = measure(server, tokens)
                server.count(True)
            reached &= masking.measure(server)
        finally:
            server.destroy()
        if arguments.masks:
            continue
        for name, cost in single.items():
            print(f"  {name:<42}{cost if isinstance(cost, dict) else f'{cost:>10,.0f}'}")
        print()
        for name, value, goal in goals(costs, single):
            reached &= value <= goal
            print(f"  {name:<62}{value:>9,.3f}  goal {goal:<7,} {'ok' if value <= goal else 'MISSED'}")
        figures = {"costs": costs, "single": single}
        if not arguments.quick:
            figures["growth"] = growth.measure(version, arguments.largest)
            reached &= providers.measure(version, TREES)
            reached &= audit.measure(version, TREES)
        (BUILD / "bench" / f"{version}.json").write_text(json.dumps(figures, indent=1))
        draw()
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
