"""docs/operations.md, "Fail-over" and "Logical replication": the same people have the same access after the one, and the
other gives nobody any."""

import pytest
from conftest import PAIRS, SCENE, SCHEMAS, SYSTEM, sees, unwell
from harness.fixtures import wait_until
from harness.server import Server
from harness.standby import Standby
from harness.world import World, impersonate, prepare, query

VERSION = PAIRS[0][1]


@pytest.fixture
def primary():
    with Server(VERSION, "failing", options=["wal_level=logical"]) as server:
        prepare(server, before=SCHEMAS)
        server.psql(input=SCENE, dbname="immuta")
        yield World(server)


def test_a_standby_takes_over(primary):
    standby = Standby(VERSION, "taking-over")
    try:
        promoted = World(standby.follow(primary.server))
        before, token = sees(primary), primary.token("ben")
        position = primary.value("SELECT pg_current_wal_insert_lsn()")
        assert wait_until(lambda: promoted.value("SELECT pg_last_wal_replay_lsn() >= %s", (position,)), 30), "the standby does not follow"
        primary.server.stop()
        assert promoted.value("SELECT pg_promote()") is True
        # Nothing has to be adopted: it is the same cluster.
        assert unwell(promoted) == ([], [])
        assert sees(promoted) == before
        with promoted.connect() as service:
            impersonate(service, token)
            assert query(service, "SELECT region FROM sales.orders") == [("US",)]
        system = promoted.connect(*SYSTEM)
        system.autocommit = True
        assert query(system, "SELECT * FROM immuta.sync()") == []
        query(system, "SELECT immuta.unsubscribe('ben', 'sales.orders'), immuta.set_user_groups('ann', '{}')")
        query(system, "SELECT immuta.set_current_project(NULL, 'alice'), immuta.revoke_token(%s)", (token,))
        system.close()
        after = sees(promoted)
        for user in ("ann", "ben"):
            assert (before[user, "SELECT count(*) FROM sales.orders"], after[user, "SELECT count(*) FROM sales.orders"]) == (
                [(2 if user == "ann" else 1,)], "42501")
        assert unwell(promoted) == ([], [])
    finally:
        standby.destroy()


def test_logical_replication_gives_nobody_anything(primary):
    """The rows carry OIDs of another cluster. Those of tables beside them arrive."""
    with Server(VERSION, "subscribing") as server:
        prepare(server)
        other = World(server)
        other.sql("DELETE FROM immuta.user_account; CREATE TABLE app.numbers (a int PRIMARY KEY)")
        primary.sql("CREATE TABLE app.numbers (a int PRIMARY KEY); INSERT INTO app.numbers VALUES (1); "
                    "CREATE PUBLICATION access FOR TABLE immuta.user_account, immuta.project, immuta.token; "
                    "CREATE PUBLICATION data FOR TABLE app.numbers")
        for name in ("access", "data"):
            slot = primary.value("SELECT slot_name FROM pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
            other.sql(f"CREATE SUBSCRIPTION {name} CONNECTION '{Standby.connection_to(primary.server)} dbname=immuta' "
                      f"PUBLICATION {name} WITH (create_slot = false, slot_name = {slot})")
        try:
            primary.sql("INSERT INTO app.numbers VALUES (2); UPDATE immuta.user_account SET updated_at = now()")
            assert wait_until(lambda: other.sql("SELECT count(*) FROM app.numbers") == [(2,)], 30), "nothing is replicated"
            assert wait_until(lambda: 'table "immuta.user_account" cannot be replicated' in server.log_file.read_text(), 30), "nothing is refused"
            assert other.sql("SELECT count(*) FROM immuta.user_account") == [(0,)]
            assert other.sql("SELECT count(*) FROM immuta.project") == [(0,)]
        finally:
            for name in ("access", "data"):
                other.sql(f"ALTER SUBSCRIPTION {name} DISABLE")
                other.sql(f"ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")
                other.sql(f"DROP SUBSCRIPTION {name}")
