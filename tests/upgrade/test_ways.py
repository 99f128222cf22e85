"""docs/operations.md, "Upgrading by logical replication" and "Upgrading by switch-over": the same people have the same access before and
after.
"""

import re

import pytest
from conftest import ACCESS, PAIRS, ROLES, client_of, sees, unwell
from harness.fixtures import refuses, wait_until
from harness.releases import CURRENT, NEXT, Tree, library_of_next
from harness.server import Server
from harness.standby import Standby
from harness.world import World, impersonate, prepare, query
from test_update import MORE, READ, scripts
from test_upgrade import manual, prepared

VERSION = max(new for _, new in PAIRS)


def restored(old, new, tmp_path):
    """As in test_upgrade.py, without rows of tables that are published."""
    roles = client_of(new, old.server, "pg_dumpall", "--globals-only", "--database", "postgres")
    without = [f"--exclude-table-data={schema}.*" for schema in ("sales", "app", "private")]
    client_of(new, old.server, "pg_dump", "-Fc", "--create", *without, "-f", tmp_path / "dump", "--dbname", "immuta")
    new.psql(input="\n".join(line for line in roles.splitlines() if not re.match(r"(CREATE|ALTER) ROLE postgres\b", line)), dbname="postgres")
    new.run_client("pg_restore", "--create", "-d", "postgres", "--exit-on-error", "--jobs", "4", tmp_path / "dump")
    return World(new)


@pytest.mark.parametrize("preload, scene", [("shared", (ROLES + ACCESS, "CREATE SCHEMA sales"))], ids=["shared"])
def test_logical_replication(pair, old, new, tmp_path):
    publish, adopt, subscribe, sequences = manual("Upgrading by logical replication")
    old.sql("ALTER SYSTEM SET wal_level = 'logical'")
    old.admin.close()
    old.server.restart()
    _, _, token, _ = prepared(old)
    old.sql(old.value(publish.replace("\\gexec", "")))
    new.start()
    world = restored(old, new, tmp_path)
    world.sql(adopt)
    assert unwell(world) == ([], []) and world.sql("SELECT count(*) FROM sales.orders") == [(0,)]
    world.sql(subscribe.replace("host=old dbname=immuta user=replicator", f"{Standby.connection_to(old.server)} dbname=immuta"))
    assert wait_until(lambda: world.value("SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel"), 30), "the tables are not copied"
    # Work goes on in the old cluster.
    with old.connect() as service:
        impersonate(service, old.token("ann"))
        query(service, "INSERT INTO sales.orders (region, amount) VALUES ('EU', 4)")
    before = sees(old)
    written = old.value("SELECT pg_current_wal_lsn()")
    assert wait_until(lambda: world.value("SELECT latest_end_lsn >= %s FROM pg_stat_subscription WHERE relid IS NULL", (written,)), 30), "changes do not arrive"
    for (statement,) in old.sql(sequences):
        world.sql(statement)
    world.sql("DROP SUBSCRIPTION upgrade")
    old.admin.close()
    old.server.stop()
    assert sees(world) == before
    assert unwell(world) == ([], []) and world.sql(adopt) == []
    with world.connect() as service:
        impersonate(service, token)
        assert query(service, "SELECT region FROM sales.orders") == [("US",)]
        service.rollback()
        impersonate(service, world.token("ann"))
        assert query(service, "INSERT INTO sales.orders (region, amount) VALUES ('EU', 5) RETURNING id") == [(5,)]


def test_switch_over():
    trees = old_tree, new_tree = Tree(VERSION, "switching-old"), Tree(VERSION, "switching-new")
    new_tree.install(library_of_next(VERSION))
    new_tree.offer(NEXT, scripts(new_tree))
    environment = {"IMMUTA_NEXT_VERSION": "1"}
    primary = Server(VERSION, "switching", trees=old_tree.root, environment=environment)
    standby = Standby(VERSION, "switching-standby", trees=new_tree.root, environment=environment)
    try:
        with primary:
            prepare(primary, before="CREATE SCHEMA sales")
            primary.psql(input=ROLES + ACCESS, dbname="immuta")
            was, world = World(primary), World(standby.follow(primary))
            before, token = sees(was), was.token("ben")
            # Both work as they did, except who would be held by SQL that this library is too new for.
            assert world.sql(READ) == [(1,)]
            with world.connect() as service:
                for attempt in (lambda: query(service, READ), lambda: impersonate(service, token)):
                    with refuses("55000"):
                        attempt()
                    service.rollback()
            was.admin.close()
            primary.stop()
            assert world.value("SELECT pg_promote()") is True
            assert world.value("SELECT extversion FROM pg_extension WHERE extname = 'immuta_ext'") == CURRENT
            world.sql("ALTER EXTENSION immuta_ext UPDATE")
            assert sees(world) == before and unwell(world) == ([], [])
            # The old one follows.
            old_tree.install(library_of_next(VERSION))
            old_tree.offer(NEXT, scripts(old_tree, MORE))
            with open(primary.data / "postgresql.auto.conf", "a") as conf:
                conf.write(f"primary_conninfo = '{Standby.connection_to(standby)}'\n")
            (primary.data / "standby.signal").touch()
            Standby._as_owner(primary.data)
            primary.start()
            position = world.value("SELECT pg_current_wal_insert_lsn()")
            follower = World(primary)
            assert wait_until(lambda: follower.value("SELECT pg_last_wal_replay_lsn() >= %s", (position,)), 30), "the old primary does not follow"
            for place in (world, follower):
                with place.connect() as service:
                    impersonate(service, token)
                    assert query(service, "SELECT region FROM sales.orders") == [("US",)]
    finally:
        standby.destroy()
        for tree in trees:
            tree.remove()
