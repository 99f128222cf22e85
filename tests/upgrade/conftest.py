"""Upgrades between the versions that `UPGRADES` names (`14:18,17:18`): both have the library. With `RELEASES`, also from each
release to this version of the extension, and from this one to the next."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg2
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.releases import CURRENT, releases, trees_of  # noqa: E402
from harness.server import Server, server_environment  # noqa: E402
from harness.world import World, impersonate, prepare, query  # noqa: E402

PAIRS = [tuple(pair.split(":")) for pair in os.environ.get("UPGRADES", "17:18").split(",")]
# None is the version of this tree, to which one that the tests make is the next. A release is built from its tag, which takes minutes.
OLDER = [None, *(release for release in releases() if release != CURRENT)] if os.environ.get("RELEASES") else []
USERS = ("ann", "ben", "cleo", "dora", "alice", "bob")
SYSTEM = ("immuta_system", "system-password")
# A schema for each tenant. pg_upgrade gives schemas new OIDs from the lowest that is free, by their names: that of sales,
# made among the first objects of the cluster, is a tenant's afterwards.
TENANTS = [f"tenant{n:02}" for n in range(1, 61)]
SCHEMAS = ";".join(f"CREATE SCHEMA {name}" for name in [*TENANTS[:45], "sales", *TENANTS[45:]])

ROLES = """
CREATE ROLE immuta_system LOGIN PASSWORD 'system-password' CREATEROLE IN ROLE immuta_admin;
CREATE ROLE data_owner; GRANT data_owner TO immuta_system;
"""
# What is in use where something is upgraded.
ACCESS = """
ALTER SCHEMA sales OWNER TO data_owner;
SET ROLE data_owner;
CREATE TABLE sales.orders (id serial PRIMARY KEY, region text, amount int);
INSERT INTO sales.orders (region, amount) VALUES ('EU', 1), ('US', 2), ('EU', 3);
CREATE TABLE sales.customers (id int PRIMARY KEY, name text, ssn text);
INSERT INTO sales.customers VALUES (1, 'a', '123');
CREATE VIEW sales.totals AS SELECT region, sum(amount) AS amount FROM sales.orders GROUP BY region;
CREATE TABLE sales.parted (day int, a int) PARTITION BY LIST (day);
CREATE TABLE sales.part1 PARTITION OF sales.parted FOR VALUES IN (1);
RESET ROLE;
CREATE ROLE cleo IN ROLE immuta_mappable;
SELECT immuta.set_system_account('immuta_system');
SELECT immuta.create_user('ann'), immuta.create_user('ben'), immuta.create_user('cleo'), immuta.create_user('dora');
SELECT immuta.register_schema('sales');
SELECT immuta.register_data_source('sales.customers', exclude_columns => '{ssn}');
SELECT immuta.create_subscription_policy('clerks', schemas => '{sales}', groups => '{clerks}', access => 'WRITE');
SELECT immuta.create_subscription_policy('readers', data_sources => '{sales.customers}', groups => '{readers}');
SELECT immuta.set_user_groups('ann', '{clerks}'), immuta.set_user_groups('dora', '{readers}');
SELECT immuta.subscribe('ben', 'sales.orders'), immuta.subscribe('cleo', 'sales.parted', 'WRITE');
SELECT immuta.set_user_attribute('ben', 'region', '{US}'), immuta.set_user_attribute('ann', 'region', '{EU}');
SELECT immuta.create_row_policy('region', 'sales.orders', 'region = (SELECT immuta.user_attribute(''region''))');
SELECT immuta.register_data_source('sales.totals');
SELECT immuta.create_masking_policy('names', 'hash', columns => '{sales.customers.name}', except_groups => '{clerks}');
SELECT immuta.create_project('p'), immuta.add_project_data_source('p', 'app.everyone'),
       immuta.add_project_member('p', 'alice'), immuta.set_current_project('p', 'alice');
SELECT immuta_internal.store_audit(ARRAY['{"id": "6b3a2b9e-0000-4000-8000-000000000001", "eventTimestamp": "2031-01-01T12:00:00Z",
    "action": "QUERY", "actionStatus": "SUCCESS", "actor": {}, "targets": [], "auditPayload": {"query": "SELECT 1"}}']);
"""
SCENE = ROLES + "".join(f"CREATE TABLE {t}.secret (a int); INSERT INTO {t}.secret VALUES (1); "
                        f"ALTER SCHEMA {t} OWNER TO data_owner; ALTER TABLE {t}.secret OWNER TO data_owner;" for t in TENANTS) + ACCESS


def sees(world):
    """Each user times each table, by real impersonation: what a SELECT and an INSERT say."""
    tables = world.sql("SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                       "WHERE c.relkind IN ('r', 'p', 'v') AND n.nspname !~ '^pg_|^information_schema$|^immuta' ORDER BY 1")
    seen = {}
    service = world.connect()
    try:
        for user in USERS:
            token = world.token(user)
            for (table,) in tables:
                for statement in (f"SELECT count(*) FROM {table}", f"SELECT count(id) FROM {table}", f"SELECT max(name) FROM {table}",
                                  f"INSERT INTO {table} SELECT FROM pg_class WHERE false"):
                    try:
                        impersonate(service, token)
                        seen[user, statement] = query(service, statement)
                    except psycopg2.Error as error:
                        seen[user, statement] = error.pgcode
                    service.rollback()
    finally:
        service.close()
    return seen


def readable(seen):
    return {(user, statement.split()[-1]) for (user, statement), result in seen.items()
            if statement.startswith("SELECT count(*)") and isinstance(result, list)}


def unwell(world):
    """What doctor() says of subscriptions, mappings and projects, and drift()."""
    return (world.sql("SELECT \"check\" FROM immuta.doctor() WHERE NOT ok AND \"check\" ~ "
                      "'subscriptions|adopted|revoked|announced|mapped roles|projects|watched|system account|masked' ORDER BY 1"),
            world.sql("SELECT what, object FROM immuta.drift()"))


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0]}-to-{pair[1]}")
def pair(request):
    return request.param


@pytest.fixture(params=["shared", "session"])
def preload(request):
    return request.param


@pytest.fixture
def scene():
    return SCENE, SCHEMAS


@pytest.fixture
def release():
    """Whose library the old cluster has: that of the build."""
    return None


@pytest.fixture
def old(pair, preload, scene, release):
    server = Server(pair[0], f"old-{pair[1]}", preload=preload, trees=release and trees_of(release, pair[0]))
    server.create("--data-checksums")
    preload_by_file(server)
    try:
        server.start()
        prepare(server, before=scene[1])
        server.psql(input=scene[0], dbname="immuta")
        yield World(server)
    finally:
        server.destroy()


@pytest.fixture
def new(pair, preload, old):
    """A cluster of the new version that nobody has used, with the password of the old one."""
    server = Server(pair[1], f"new-{pair[0]}", preload=preload)
    server.create("--data-checksums", password=old.server.superuser_password)
    preload_by_file(server)
    try:
        yield server
    finally:
        server.destroy()


def preload_by_file(server):
    """As the manual says: what starts a server elsewhere has it as well."""
    if server.preload == "shared":
        with open(server.data / "postgresql.conf", "a") as conf:
            conf.write("shared_preload_libraries = 'immuta_ext'\n")


def pg_upgrade(old, new, *options, **environment):
    words = [*new.as_user, new.program("pg_upgrade"), "--old-bindir", old.tree / "bin", "--new-bindir", new.tree / "bin",
             "--old-datadir", old.data, "--new-datadir", new.data, "--username", "postgres", "--socketdir", new.home, *options]
    done = subprocess.run([str(word) for word in words], cwd=new.home, text=True, capture_output=True,
                          env=server_environment(new.tree, PGPASSWORD=new.superuser_password, **environment))
    assert done.returncode == 0, done.stdout + done.stderr


def restore(old, new, folder, *options):
    """With the new version's programs, as PostgreSQL's manual advises."""
    roles = client_of(new, old, "pg_dumpall", "--globals-only", "--database", "postgres")
    client_of(new, old, "pg_dump", "-Fc", "--create", *options, "-f", folder / "dump", "--dbname", "immuta")
    new.psql(input="\n".join(line for line in roles.splitlines() if not re.match(r"(CREATE|ALTER) ROLE postgres\b", line)), dbname="postgres")
    new.run_client("pg_restore", "--create", "-d", "postgres", "--exit-on-error", "--jobs", "4", folder / "dump")
    return World(new)


def client_of(new, old, program, *args):
    """A program of the new version with the old server."""
    done = subprocess.run([str(word) for word in (new.program(program), *args)], text=True, capture_output=True,
                          env=old.client_environment(dbname="postgres") | {"LD_LIBRARY_PATH": str(new.tree / "lib")})
    assert done.returncode == 0, done.stderr
    return done.stdout
