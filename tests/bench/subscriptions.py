"""How long changes of subscriptions take: 10,000 users, 1,000 tables, 20 policies.

    tests/bench/subscriptions.py [VERSION…] [--users N] [--tables N] [--changes N]      default: 15 18

Reports the median of a change of one user's attribute, and fails if that is more than 100 ms.
"""

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))

import psycopg2  # noqa: E402
from harness.server import Server  # noqa: E402

from run import TREES, release_tree  # noqa: E402

POLICIES, REGIONS, GROUPS = 20, 10, 20
GOAL = 0.100

SETUP = """
CREATE EXTENSION immuta_ext;
CREATE ROLE immuta_system LOGIN PASSWORD 'system' CREATEROLE IN ROLE immuta_admin;
CREATE SCHEMA data;
GRANT USAGE ON SCHEMA data TO immuta_system WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES IN SCHEMA data GRANT ALL ON TABLES TO immuta_system WITH GRANT OPTION;
"""


class Stage:
    """Says how long something took."""

    def __init__(self, what):
        self.what = what

    def __enter__(self):
        self.began = time.monotonic()
        return self

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self.began
        print(f"  {self.what:<70}{self.seconds:>9.2f} s", flush=True)


def measure(version, users, tables, changes):
    release_tree(version)
    print(f"\nPostgreSQL {version}: {users:,} users, {tables:,} tables, {POLICIES} policies\n")
    server = Server(version, "bench-subscriptions", trees=TREES, options=["autovacuum=off", "log_min_messages=error"])
    with server:
        server.psql(input=SETUP)
        server.psql("-c", f"DO $$ BEGIN FOR i IN 1..{tables} LOOP EXECUTE format('CREATE TABLE data.t%s (a int, b text)', i); END LOOP; END $$")
        server.psql("-c", "SELECT immuta.set_system_account('immuta_system')")
        connection = psycopg2.connect(**server.dsn("immuta_system", "system", "postgres"))
        connection.autocommit = True
        cursor = connection.cursor()

        with Stage(f"creating {users:,} users"):
            cursor.execute("SELECT immuta.create_user('u' || i) FROM generate_series(1, %s) i", (users,))
        with Stage("their attributes and groups"):
            cursor.execute("SELECT immuta.set_user_attribute('u' || i, 'region', ARRAY['r' || i %% %s]), "
                           "immuta.set_user_groups('u' || i, ARRAY['g' || i %% %s]) FROM generate_series(1, %s) i", (REGIONS, GROUPS, users))
        with Stage(f"registering {tables:,} tables"):
            cursor.execute("SELECT immuta.register_schema('data')")
        with Stage("tagging them"):
            cursor.execute("SELECT immuta.tag_data_source(format('data.t%%s', i)::regclass, 't' || i %% %s, 'even' || i %% 2) "
                           "FROM generate_series(1, %s) i", (POLICIES, tables))
        for i in range(POLICIES):
            # Half by attribute, some by an expression, some by group; two are required for half of the tables each.
            who = [dict(attributes=f'{{"region": ["r{i % REGIONS}", "r{(i + 1) % REGIONS}"]}}'),
                   dict(expression=f'$.attributes.region[*] == "r{i % REGIONS}" || $.groups[*] == "g{i % GROUPS}"'),
                   dict(groups=[f"g{i % GROUPS}", f"g{(i + 7) % GROUPS}"])][i % 3]
            on, combine = ([f"t{i}", f"t{(i + 1) % POLICIES}"], "any") if i < POLICIES - 2 else ([f"even{i % 2}"], "all")
            if combine == "all":
                who = dict(expression='!($.groups[*] == "g3")')
            given = dict(dict(name=f"p{i}", tags=on, combine=combine), **who)
            words = ", ".join(f"{key} => %({key})s" for key in given)
            if i in (0, 1, 2, POLICIES - 2, POLICIES - 1):
                with Stage(f"policy {i + 1}: {', '.join(who)}, {combine}"):
                    cursor.execute(f"SELECT immuta.create_subscription_policy({words})", given)
            else:
                cursor.execute(f"SELECT immuta.create_subscription_policy({words})", given)
        cursor.execute("SELECT (SELECT count(*) FROM immuta.data_sources), (SELECT count(*) FROM pg_roles), (SELECT count(*) FROM pg_auth_members)")
        print("  data sources {}, roles {}, memberships {}".format(*cursor.fetchone()))
        with Stage("everything once more: immuta.sync()"):
            cursor.execute("SELECT * FROM immuta.sync()")
        assert cursor.rowcount == 0, "there was nothing to change"

        rng, took = random.Random(7), []
        admin = psycopg2.connect(**server.dsn())
        admin.autocommit = True
        look = admin.cursor()
        touched = "SELECT member::regrole::text FROM pg_auth_members WHERE xmin::text::bigint >= %s::bigint"
        for _ in range(changes):
            user, region = f"u{rng.randrange(1, users + 1)}", f"r{rng.randrange(REGIONS)}"
            look.execute("SELECT txid_current()::text")
            before = look.fetchone()[0]
            began = time.monotonic()
            cursor.execute("SELECT immuta.set_user_attribute(%s, 'region', ARRAY[%s])", (user, region))
            took.append(time.monotonic() - began)
            look.execute(touched, (before,))
            others = {member for member, in look.fetchall()} - {f"user_{user}"}
            assert not others, f"memberships of others changed: {others}"
        took.sort()
        median = statistics.median(took)
        print(f"\n  change of one user's attribute, {changes} times: median {median * 1000:.1f} ms, "
              f"95 % {took[int(len(took) * 0.95)] * 1000:.1f} ms, longest {took[-1] * 1000:.1f} ms   "
              f"goal {GOAL * 1000:.0f} ms  {'ok' if median < GOAL else 'MISSED'}")
        return median < GOAL


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="*", default=["15", "18"])
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--tables", type=int, default=1_000)
    parser.add_argument("--changes", type=int, default=300)
    arguments = parser.parse_args()
    reached = [measure(v, arguments.users, arguments.tables, arguments.changes) for v in arguments.versions]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
