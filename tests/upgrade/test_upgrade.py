"""docs/operations.md, "Upgrading PostgreSQL", step by step: the same people have the same access, and it can be taken
away.

Threats: 57 (docs/threats.md).
"""

import re
from pathlib import Path

import pytest
from conftest import SYSTEM, TENANTS, pg_upgrade, readable, restore, sees, unwell
from harness.world import World, impersonate, query

MANUAL = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()


def manual(section):
    """The SQL of a section of the manual."""
    text = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", MANUAL, re.M | re.S).group(1)
    return re.findall(r"^ *```sql\n(.*?)^ *```", text, re.M | re.S)


def check(world, pair, before, records, token, adopted=False):
    """What an upgraded database owes: first as it is, then once it is adopted, then when everything is taken away."""
    assert sees(world) == before
    if not adopted:
        # From 16 on those of 14 and 15 have to be made revocable.
        assert (world.value("SELECT count(*) FROM immuta_internal.foreign_memberships()") > 0) == (int(pair[0]) < 16 <= int(pair[1]))
        assert unwell(world) == ([("all that was brought here is adopted",)], [("not adopted", "DATABASE immuta")])
    system = world.connect(*SYSTEM)
    system.autocommit = True
    _, afterwards = manual("Upgrading PostgreSQL")
    changes = query(system, afterwards)
    assert changes == []
    assert unwell(world) == ([], [])
    assert sees(world) == before
    assert world.sql("SELECT tableoid::regclass::text, id, record FROM immuta.audit_log WHERE event_time > '2031-01-01'") == records
    service = world.connect()
    impersonate(service, token)
    assert query(service, "SELECT region FROM sales.orders") == [("US",)]
    service.close()
    # DDL is followed, and nobody gets another tenant's schema.
    world.sql("SET ROLE data_owner; CREATE TABLE sales.new (id int); RESET ROLE")
    assert readable(sees(world)) - readable(before) == {("ann", "sales.new")}
    # All of it can be taken away.
    query(system, "SELECT immuta.set_user_groups('ann', '{}'), immuta.set_user_groups('dora', '{}'), immuta.set_user_groups('cleo', '{}'),"
                  " immuta.unsubscribe('ben', 'sales.orders'), immuta.unsubscribe('cleo', 'sales.parted')")
    assert {user for user, table in readable(sees(world)) if table.startswith("sales.")} == set()
    assert world.sql("SELECT count(*) FROM pg_class c, aclexplode(c.relacl) a JOIN immuta.subscriber b ON b.role = a.grantee") == [(0,)]
    query(system, "SELECT immuta.drop_subscription_policy('clerks'), immuta.drop_subscription_policy('readers'),"
                  " immuta.drop_user('ann'), immuta.drop_user('ben'), immuta.drop_user('cleo'), immuta.drop_user('dora')")
    assert world.sql("SELECT rolname FROM pg_roles WHERE rolname ~ '^immuta_access|^user_'") == []
    assert unwell(world) == ([], [])
    system.close()


def prepared(old):
    """Before the upgrade, by the manual."""
    before = sees(old)
    assert unwell(old) == ([], [])
    assert readable(before) >= {("ann", "sales.orders"), ("ben", "sales.orders"), ("cleo", "sales.parted"), ("dora", "sales.customers")}
    assert not {table for user, table in readable(before)} & {f"{tenant}.secret" for tenant in TENANTS}
    first, _ = manual("Upgrading PostgreSQL")
    old.sql(first)
    records = old.sql("SELECT tableoid::regclass::text, id, record FROM immuta.audit_log WHERE event_time > '2031-01-01'")
    assert len(records) == 1
    namespace = old.value("SELECT namespace FROM immuta.registered_schema")
    token = old.token("ben")
    return before, records, token, namespace


@pytest.mark.parametrize("mode", ["copy", "link"])
def test_pg_upgrade(pair, old, new, mode):
    before, records, token, namespace = prepared(old)
    old.admin.close()
    old.server.stop()
    pg_upgrade(old.server, new, *(["--link"] if mode == "link" else []))
    new.start()
    world = World(new)
    # It is another one's by now.
    assert world.value("SELECT nspname FROM pg_namespace WHERE oid = %s", (namespace,)) in TENANTS
    check(world, pair, before, records, token)


def test_dump_and_restore(pair, old, new, tmp_path):
    before, records, token, _ = prepared(old)
    new.start()
    check(restore(old.server, new, tmp_path), pair, before, records, token)
