"""Memory of one session over many transactions of users, with everything logged and every sink of the audit in use.

    tests/bench/memory.py [--transactions 1000000] [VERSION…]      default: 18

The session's own memory (RssAnon) is looked at after each tenth; from the first tenth on it is flat. Errors give back what
was left in PostgreSQL's memory for errors: a second session, of a tenth as many transactions, has them.
"""

import argparse
import secrets
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from harness.fixtures import TALKATIVE  # noqa: E402
from harness.server import Server  # noqa: E402
from harness.wire import Wire  # noqa: E402
from harness.world import SERVICE, World, prepare  # noqa: E402

OPTIONS = ("bodata.audit_sink=log,file,table", "bodata.audit_nested=on", "bodata.audit_file_max_size=10MB", "autovacuum=off",
           "log_parameter_max_length=-1", "bodata.application_name_template=%u")
# Caches find their size in the first tenth; a leak of one byte a message would be seen.
ALLOWED_KB = 512
QUERY = "SELECT carrier FROM app.flights WHERE id = 3"


FAITHFUL = ("simple", "extended", "set_config", "parameter", "cursor", "savepoint")
FAILING = (*FAITHFUL, "error", "error, extended", "caught error", "wrong token")


def transaction(wire, kind, token):
    send = wire.query_extended if "extended" in kind else wire.query
    send("BEGIN")
    if kind == "set_config":
        send(f"SELECT set_config('bodata.impersonation_token', '{token}', true)")
    else:
        send(f"SET LOCAL bodata.impersonation_token = '{token if kind != 'wrong token' else secrets.token_hex(16)}'")
    if kind == "parameter":
        wire.query_extended("SELECT carrier FROM app.flights WHERE id = $1", "3")
    else:
        for statement in {"error": ["SELECT 1/0"], "error, extended": ["SELECT nowhere"],
                          "savepoint": ["SAVEPOINT s", QUERY, "ROLLBACK TO s"],
                          "caught error": ["SAVEPOINT s", "SELECT nowhere", "ROLLBACK TO s", QUERY],
                          "cursor": [f"DECLARE c CURSOR FOR {QUERY}", "FETCH 1 FROM c"]}.get(kind, [QUERY]):
            send(statement)
    send("COMMIT")


def own_memory(pid):
    """Kilobytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0])


def tidy(world):
    """Records and log lines of a million transactions would fill the disk."""
    server = world.server
    world.sql("SELECT immuta.flush_audit('1 min')")
    world.sql("TRUNCATE immuta.audit_log")
    with open(server.log_file, "r+b") as log:
        log.truncate(0)
    for file in server.data.glob("immuta_audit.jsonl.*"):
        file.unlink()


def run(world, tokens, kinds, transactions):
    """What a session has after each tenth."""
    wire = Wire("127.0.0.1", world.server.port, *SERVICE, world.dbname)
    pid, seen = wire.query("SELECT pg_backend_pid()").rows[0][0], []
    for number in range(1, transactions + 1):
        transaction(wire, kinds[number % len(kinds)], tokens[number % 2])
        if number % (transactions // 10) == 0:
            seen.append(own_memory(pid))
        if number % 10_000 == 0:
            tidy(world)
    wire.close()
    return seen


def measure(version, transactions, trees=None):
    """Prints the figures; whether the memory is flat."""
    is_flat = True
    with Server(version, "bench-memory", trees=trees, options=[*TALKATIVE, *OPTIONS]) as server:
        prepare(server)
        world = World(server)
        tokens = [world.token("alice"), world.token("bob")]
        for name, kinds, count in (("without errors", FAITHFUL, transactions), ("with errors", FAILING, transactions // 10)):
            begun = time.monotonic()
            seen = run(world, tokens, kinds, count)
            grown = seen[-1] - seen[0]
            is_flat &= grown <= ALLOWED_KB
            print(f"PostgreSQL {version}, {name}: {count:,} transactions in {time.monotonic() - begun:,.0f} s; the session has "
                  f"{', '.join(f'{kb:,}' for kb in seen)} kB: grown by {grown:,} kB"
                  f"{'' if grown <= ALLOWED_KB else '  MISSED'}", flush=True)
    return is_flat


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transactions", type=int, default=1_000_000)
    parser.add_argument("versions", nargs="*", default=["18"])
    arguments = parser.parse_args()
    return 0 if all([measure(version, arguments.transactions) for version in arguments.versions]) else 1


if __name__ == "__main__":
    sys.exit(main())
