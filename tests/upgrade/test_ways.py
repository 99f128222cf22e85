"""docs/operations.md, "Upgrading by logical replication" and "Upgrading by switch-over", and both ways of "Upgrading PostgreSQL" to where a
newer version of the extension is: the same people have the same access before and after.
"""

import re

import pytest
from conftest import ACCESS, OLDER, PAIRS, ROLES, pg_upgrade, preload_by_file, restore, sees, unwell
from harness.fixtures import refuses, wait_until
from harness.releases import CURRENT, NEXT, Tree, library_of_next
from harness.server import Server
from harness.standby import Standby
from harness.world import World, impersonate, prepare, query
from test_update import MORE, READ, reads_masked, scripts, waits_for_update, works
from test_upgrade import check, manual, prepared

VERSION = max(new for _, new in PAIRS)
SCENE = ROLES + ACCESS, "CREATE SCHEMA sales"
NEWEST = next(pair for pair in PAIRS if pair[1] == VERSION)
STEPS = pytest.mark.parametrize("release, pair, scene", [(older, pair, SCENE) for older in OLDER for pair in (PAIRS if older else [NEWEST])])


@pytest.mark.parametrize("preload, scene", [("shared", SCENE)], ids=["shared"])
def test_logical_replication(pair, old, new, tmp_path):
    publish, adopt, subscribe, sequences = manual("Upgrading by logical replication")
    old.sql("ALTER SYSTEM SET wal_level = 'logical'")
    old.admin.close()
    old.server.restart()
    _, _, token, _ = prepared(old)
    old.sql(old.value(publish.replace("\\gexec", "")))
    new.start()
    world = restore(old.server, new, tmp_path, *(f"--exclude-table-data={schema}.*" for schema in ("sales", "app", "private")))
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


@pytest.fixture
def newer(release, pair, preload, old):
    """A cluster that nobody has used, with a later version of the extension than the old one's."""
    tree = None
    if not release:
        tree = Tree(pair[1], "newer")
        tree.install(library_of_next(pair[1]))
        tree.offer(NEXT, scripts(tree))
    server = Server(pair[1], "newer", preload=preload, trees=tree and tree.root, environment={"IMMUTA_NEXT_VERSION": "1"})
    try:
        server.create("--data-checksums", password=old.server.superuser_password)
        preload_by_file(server)
        yield server
    finally:
        server.destroy()
        if tree:
            tree.remove()


def version(world):
    return world.value("SELECT extversion FROM pg_extension WHERE extname = 'immuta_ext'")


@STEPS
def test_pg_upgrade_to_a_newer_version_of_the_extension(release, pair, old, newer):
    """The SQL comes along as it was, and is older than the library that it meets."""
    old.sql("ALTER ROLE cleo LOGIN PASSWORD 'cleo-password'; SELECT immuta.set_user_groups('cleo', '{readers}')")
    before, records, token, _ = prepared(old)
    old.admin.close()
    old.server.stop()
    pg_upgrade(old.server, newer, **newer.environment)
    newer.start()
    world = World(newer)
    assert version(world) == (release or CURRENT)
    service, plain = world.connect(), world.connect("plain", "plain-password")
    plain.autocommit = True
    waits_for_update(world, service, plain, token)
    world.sql("ALTER EXTENSION immuta_ext UPDATE")
    assert version(world) == (CURRENT if release else NEXT)
    works(service, token)
    assert reads_masked(world)
    service.close()
    # DDL and recorded uses adopt; where there was none, this does.
    world.sql("SELECT * FROM immuta.sync()")
    check(world, pair, before, records, token, adopted=True)


@STEPS
@pytest.mark.parametrize("preload", ["shared"])
def test_dump_and_restore_to_a_newer_version_of_the_extension(release, pair, old, newer, tmp_path):
    """Which is new there, and takes what the older one kept."""
    before, records, token, _ = prepared(old)
    newer.start()
    world = restore(old.server, newer, tmp_path)
    assert version(world) == (CURRENT if release else NEXT)
    check(world, pair, before, records, token)


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
