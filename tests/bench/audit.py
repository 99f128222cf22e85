"""The audit table under load: 8 clients for a minute, every statement on record exactly once; once in peace with pgbench,
once with the writer killed every 5 seconds, which makes PostgreSQL restart all sessions."""

import os
import re
import signal
import threading
import time
from collections import Counter

import psycopg
from harness.server import Server
from harness.world import DBNAME, SERVICE, World, prepare

CLIENTS, SECONDS, KILL_EVERY = 8, 60, 5
STATEMENTS = 3

SCRIPT = """
\\set n random(1, 300)
BEGIN;
SET LOCAL bodata.impersonation_token = '{token}';
SELECT id, carrier FROM app.flights WHERE id = :n;
SELECT count(*) FROM app.flights WHERE id < :n;
UPDATE app.flights SET delay = :n WHERE id = 3 AND delay = -1;
END;
"""


def quiet(server):
    return server.run_client("psql", "-XAtq", "-c", "SELECT 1", check=False, dbname=DBNAME).stdout.strip() == "1"


def count(server, where="true"):
    sql = f"SELECT count(*), count(DISTINCT id) FROM immuta.audit_log WHERE action = 'QUERY' AND {where}"
    return [int(n) for n in server.psql("-At", "-c", sql, dbname=DBNAME).stdout.strip().split("|")]


def flush(server):
    stored = server.psql("-At", "-c", "SELECT immuta.flush_audit('10 min')", dbname=DBNAME).stdout.strip()
    assert stored == "t", "the queue was not stored in ten minutes"


def in_peace(server, token):
    """Statements that pgbench says it ran, and that are on record."""
    script = server.home / "script.sql"
    script.write_text(SCRIPT.format(token=token))
    done = server.run_client("pgbench", "-n", "-c", CLIENTS, "-j", 2, "-T", SECONDS, "-f", script,
                             user=SERVICE[0], password=SERVICE[1], dbname=DBNAME)
    transactions = int(re.search(r"actually processed: (\d+)", done.stdout)[1])
    begun = time.monotonic()
    flush(server)
    print(f"  pgbench, {CLIENTS} clients, {SECONDS} s: {transactions * STATEMENTS:,} statements; the last was stored "
          f"{time.monotonic() - begun:.1f} s after the end")
    return transactions * STATEMENTS, *count(server)


def under_fire(server, token):
    """Statements that were acknowledged, and how many of them are not on record exactly once."""
    acknowledged, tried, stop = Counter(), Counter(), threading.Event()

    def client(number):
        sent = 0
        while not stop.is_set():
            try:
                with psycopg.connect(**server.dsn(*SERVICE, DBNAME), autocommit=True) as connection:
                    while not stop.is_set():
                        connection.execute("BEGIN")
                        connection.execute(f"SET LOCAL bodata.impersonation_token = '{token}'")
                        for _ in range(STATEMENTS):
                            statement, sent = f"SELECT {number} AS client, {sent} AS statement", sent + 1
                            tried[statement] += 1
                            connection.execute(statement)
                            acknowledged[statement] += 1
                        connection.execute("END")
            except psycopg.Error:
                time.sleep(0.05)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in clients:
        thread.start()
    killed, end = 0, time.monotonic() + SECONDS
    while time.monotonic() < end:
        time.sleep(KILL_EVERY)
        pid = server.run_client("psql", "-XAtq", "-c", "SELECT pid FROM pg_stat_activity WHERE backend_type = "
                                "'immuta_ext audit writer'", check=False, dbname=DBNAME).stdout.strip()
        if pid:
            os.kill(int(pid), signal.SIGKILL)
            killed += 1
    stop.set()
    for thread in clients:
        thread.join()
    while not quiet(server):
        time.sleep(0.2)
    flush(server)
    sql = "SELECT query FROM immuta.audit_log WHERE query LIKE '%AS client%' AND status = 'SUCCESS'"
    seen = Counter(server.psql("-At", "-c", sql, dbname=DBNAME).stdout.splitlines())
    lost = sum(1 for statement in acknowledged if not seen[statement])
    doubled = sum(1 for number in seen.values() if number > 1)
    unknown = sum(1 for statement in seen if statement not in tried)
    print(f"  {CLIENTS} clients, {SECONDS} s, writer killed {killed} times: {len(acknowledged):,} statements acknowledged")
    return killed, lost, doubled, unknown


def measure(version, trees):
    """Prints the figures; whether they are as they should be."""
    print(f"\nPostgreSQL {version}: the audit table under load\n")
    with Server(version, "bench-audit", trees=trees, options=["bodata.audit_sink=table"]) as server:
        prepare(server)
        world = World(server)
        token = world.token("alice")
        world.admin.close()
        ran, recorded, different = in_peace(server, token)
        peaceful = ran == recorded == different
        print(f"  on record: {recorded:,}, with {different:,} ids{'' if peaceful else '  MISSED'}")
        killed, *faults = under_fire(server, token)
        held = killed > 0 and not any(faults)
        fallen = sum("AUDIT: {" in line for line in server.log().splitlines())
        print(f"  sent to the log instead: {fallen}")
        print("  lost {}, doubled {}, unknown {}{}".format(*faults, "" if held else "  MISSED"))
    return peaceful and held
