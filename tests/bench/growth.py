"""How what impersonation costs grows: with users and tokens, roles, rules (instructions of a warm transaction, and of a session
that connects and uses a token for the first time), with sessions (time, against SET LOCAL ROLE in as many), and the memory of a
session with the tokens that it has seen."""

import re
import time
from pathlib import Path

import psycopg
from harness.server import Server
from run import QUERIES, ROLE, SETUP, SETUP_EXTENSION, TOKEN, TREES, CountedServer, transaction

STEPS = (1, 100, 10_000, 100_000, 1_000_000)
# Roles and rules are made one by one, and nobody has as many.
MOST = {"roles": 10_000, "rules": 10_000}
SESSIONS, SECONDS = (1, 10, 50, 200), 6
REMEMBERED = (1, 1_000, 10_000)

MORE = {
    "users and tokens": """
        INSERT INTO immuta.user_account (userid, postgres_role, postgres_role_name, mapping)
        SELECT 'u' || i, u.postgres_role, u.postgres_role_name, u.mapping FROM generate_series({0} + 1, {1}) i, immuta.user_account u WHERE u.userid = 'alice';
        INSERT INTO immuta.token (digest, user_id)
        SELECT sha256(convert_to('token-' || i, 'UTF8')), u.id FROM generate_series({0} + 1, {1}) i JOIN immuta.user_account u ON u.userid = 'u' || i;
        ANALYZE immuta.user_account, immuta.token;""",
    "roles": "DO $$ BEGIN FOR i IN {0} + 1 .. {1} LOOP EXECUTE format('CREATE ROLE r%s IN ROLE immuta_mappable', i); END LOOP; END $$;",
    # None of them is about this user: all of them are looked at.
    "rules": """
        DELETE FROM immuta.impersonation_rule WHERE impersonator = 'svc';
        INSERT INTO immuta.impersonation_rule (impersonator, users) SELECT 'nobody' || i, 'u' || i FROM generate_series({0} + 1, {1}) i;
        SELECT immuta.add_impersonation_rule('svc', '*');""",
}


def of_number(version, what, largest):
    """Points (number, instructions) of both kinds."""
    server = CountedServer(version, f"bench-{what.split()[0]}")
    warm, first, before = [], [], 0
    try:
        tokens = server.prepare()
        for number in (n for n in STEPS if n <= min(largest, MOST.get(what, largest))):
            server.count(False)
            server.psql(input=MORE[what].format(before, number))
            before = number
            server.count(True)
            script = transaction(TOKEN(tokens), QUERIES["literal"])
            warm.append((number, server.cost("svc", script)))
            first.append((number, min(server.instructions("svc", script, 1) for _ in range(2))))
            print(f"  {number:>9,} {what:<18}warm {warm[-1][1]:>9,.0f}   connecting and first use {first[-1][1]:>11,.0f}", flush=True)
    finally:
        server.destroy()
    return {"warm": warm, "first": first}


def plain_server(version):
    server = Server(version, "bench-growth", trees=TREES, options=["max_connections=250", "autovacuum=off", "jit=off"])
    server.create()
    server.start()
    server.psql(input=SETUP + SETUP_EXTENSION)
    return server


def of_sessions(version, server):
    """Time of a transaction against that with SET LOCAL ROLE, without audit, whose lines would measure the disk."""
    token = server.psql("-At", "-c", "SELECT immuta.issue_token('alice')").stdout.strip()
    server.psql("-c", "ALTER ROLE svc SET bodata.audit_sink = ''")
    points = []
    for number in SESSIONS:
        speed = {}
        for user, first in (("app", ROLE(("alice", "alice"))), ("svc", TOKEN((token, token)))):
            script = server.home / f"{user}.sql"
            script.write_text(f"\\set n random(1, 100000)\nBEGIN;\n{first(0)[0].decode()};\nSELECT abalance FROM app.accounts WHERE aid = :n;\nEND;\n")
            done = server.run_client("pgbench", "-n", "-c", number, "-j", 2, "-T", SECONDS, "-f", script, user=user, password=user)
            speed[user] = float(re.search(r"tps = ([\d.]+)", done.stdout)[1])
        points.append((number, speed["app"] / speed["svc"]))
        print(f"  {number:>9,} sessions          {speed['app']:>8,.0f} transactions a second with SET LOCAL ROLE, {speed['svc']:>8,.0f} with a token: "
              f"{points[-1][1]:.2f} x the time", flush=True)
    return {"time": points}


def of_memory(version, server):
    """Kilobytes of a session that has used so many tokens."""
    server.psql(input=MORE["users and tokens"].format(0, max(REMEMBERED)))
    server.psql("-c", f"ALTER SYSTEM SET bodata.token_cache_size = {max(REMEMBERED)}", "-c", "SELECT pg_reload_conf()")
    points, used = [], 0
    time.sleep(1)
    with psycopg.connect(**server.dsn("svc", "svc"), autocommit=True, prepare_threshold=None) as connection:
        for number in REMEMBERED:
            for i in range(used + 1, number + 1):
                transaction(TOKEN([f"token-{i}"] * 2), QUERIES["bound"])(connection.pgconn, i)
            used = number
            status = Path(f"/proc/{connection.info.backend_pid}/status").read_text()
            points.append((number, int(status.split("RssAnon:")[1].split()[0])))
            print(f"  {number:>9,} tokens remembered {points[-1][1]:>8,} kB", flush=True)
    return {"kB": points}


def measure(version, largest):
    """{what grows: {series: points}}"""
    print(f"\nPostgreSQL {version}: growth\n")
    grown = {what: of_number(version, what, largest) for what in MORE}
    server = plain_server(version)
    try:
        grown["sessions: time ÷ SET LOCAL ROLE in as many"] = of_sessions(version, server)
        grown["tokens remembered: memory of a session"] = of_memory(version, server)
    finally:
        server.destroy()
    return grown
