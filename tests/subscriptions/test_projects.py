"""Projects follow what their members have: in the transaction of the change, and only where it concerns them."""

import psycopg2
import pytest
from conftest import SYSTEM, refuses
from harness.world import query
from test_concurrency import run_together

READS = "SELECT has_any_column_privilege('project_p', 'sales.orders', 'SELECT')"


@pytest.fixture
def project(sales):
    """Two members who read sales.orders by a policy (a group) and by subscriptions of their own."""
    sales.sql("SELECT immuta.create_subscription_policy('p', data_sources => '{sales.customers}', groups => '{g}', "
              "attributes => '{\"a\": [\"1\"]}')")
    for user in ("ann", "ben"):
        sales.sql("SELECT immuta.subscribe(%s, 'sales.orders'), immuta.set_user_groups(%s, '{g}'), "
                  "immuta.set_user_attribute(%s, 'a', '{1}')", (user,) * 3)
    sales.sql("SELECT immuta.create_project('p')")
    for table in ("orders", "customers"):
        sales.sql("SELECT immuta.add_project_data_source('p', %s)", (f"sales.{table}",))
    for user in ("ann", "ben"):
        sales.sql("SELECT immuta.add_project_member('p', %s)", (user,))
    assert columns(sales) == (3, 3)
    yield sales
    sales.world.sql("SELECT immuta.drop_project('p')")


def columns(office):
    """How many columns of sales.orders and of sales.customers the project's role reads."""
    return tuple(office.world.value(
        "SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relname = %s AND a.attnum > 0 "
        "AND NOT a.attisdropped AND has_column_privilege('project_p', c.oid, a.attnum, 'SELECT') "
        "AND has_schema_privilege('project_p', c.relnamespace, 'USAGE')", (table,)) for table in ("orders", "customers"))


LOSSES = {
    "unsubscribed": ("SELECT immuta.unsubscribe('ann', 'sales.orders')", (0, 3), "SELECT immuta.subscribe('ann', 'sales.orders')"),
    "left the group": ("SELECT immuta.remove_user_from_group('ann', 'g')", (3, 0), "SELECT immuta.add_user_to_group('ann', 'g')"),
    "another attribute": ("SELECT immuta.set_user_attribute('ann', 'a', '{2}')", (3, 0),
                          "SELECT immuta.set_user_attribute('ann', 'a', '{1}')"),
    "another policy": ("SELECT immuta.create_subscription_policy('p', data_sources => '{sales.customers}', groups => '{h}', "
                       "replace => true)", (3, 0),
                       "SELECT immuta.create_subscription_policy('p', data_sources => '{sales.customers}', groups => '{g}', "
                       "replace => true)"),
    "no policy": ("SELECT immuta.drop_subscription_policy('p')", (3, 0),
                  "SELECT immuta.create_subscription_policy('q', data_sources => '{sales.customers}', groups => '{g}')"),
    "no column": ("SELECT immuta.register_data_source('sales.customers', exclude_columns => '{ssn}')", (3, 2),
                  "SELECT immuta.register_data_source('sales.customers', exclude_columns => '{}')"),
    "no role": ("SELECT immuta.unmap_user('ann')", (0, 0), "SELECT immuta.drop_user('ann')"),
    "no data source": ("SELECT immuta.unregister_schema('sales')", (0, 0),
                       "SELECT immuta.register_schema('sales'); SELECT immuta.subscribe('ann', 'sales.orders'), "
                       "immuta.subscribe('ben', 'sales.orders'), immuta.create_subscription_policy('q', schemas => '{sales}', "
                       "groups => '{g}')"),
}


@pytest.mark.parametrize("change, left, back", LOSSES.values(), ids=LOSSES.keys())
def test_what_a_member_loses_the_project_loses(project, change, left, back):
    project.sql(change)
    assert columns(project) == left
    project.sql(back)
    assert columns(project) == (3, 3)
    assert project.sql("SELECT * FROM immuta.sync()") == [] and project.value("SELECT immuta.equalise_projects()") == 0


def test_an_expiry_ends_it(project):
    project.sql("SELECT immuta.subscribe('ann', 'sales.orders', until => now() + '1 h')")
    assert columns(project) == (3, 3)
    project.world.sql("UPDATE immuta.subscription SET valid_until = now() - interval '1 s' WHERE valid_until IS NOT NULL")
    assert project.value("SELECT immuta.expire_subscriptions()") == 1
    assert columns(project) == (0, 3)


def test_a_user_who_is_dropped_takes_nothing_from_the_others(project):
    project.sql("SELECT immuta.unsubscribe('ann', 'sales.orders')")
    assert columns(project) == (0, 3)
    project.sql("SELECT immuta.drop_user('ann')")
    assert columns(project) == (3, 3)
    project.sql("SELECT immuta.drop_user('ben')")
    assert columns(project) == (0, 0)


def test_a_row_policy_closes_a_table_until_it_is_dropped(project):
    project.world.sql("GRANT data_owner TO immuta_system")
    try:
        project.sql("SELECT immuta.create_row_policy('r', 'sales.orders', 'amount > 1')")
        assert columns(project) == (0, 3)
        project.sql("SELECT immuta.drop_row_policy('r', 'sales.orders')")
        assert columns(project) == (3, 3)
    finally:
        project.world.sql("REVOKE data_owner FROM immuta_system")


def test_ddl_of_the_owner(project):
    """Tables that go, or leave the schema that is registered, end in the project as for its members."""
    project.owner.notices.clear()
    project.ddl("DROP TABLE sales.customers")
    assert columns(project) == (3, 0)
    project.ddl("ALTER TABLE sales.orders SET SCHEMA other")
    assert columns(project) == (0, 0) and project.owner.notices == []
    assert project.world.value("SELECT bool_and(ok) FROM immuta_internal.doctor_of_projects()")


def test_sync_makes_up_for_grants_by_hand(project):
    project.ddl("GRANT SELECT ON sales.totals TO user_ann, user_ben")
    project.sql("SELECT immuta.add_project_data_source('p', 'sales.totals')")
    project.ddl("REVOKE SELECT ON sales.totals FROM user_ann")
    assert project.sql("SELECT * FROM immuta.sync()") == [("projects equalised", "1 tables", None)]
    assert project.sql("SELECT * FROM immuta.sync()") == []


def test_other_projects_are_left_alone(project):
    """The role of one in which nobody is concerned keeps even what it should not have."""
    project.sql("SELECT immuta.create_user('cid')")
    project.sql("SELECT immuta.create_project('o')")
    try:
        project.sql("SELECT immuta.add_project_member('o', 'cid'), immuta.add_project_data_source('o', 'sales.orders')")
        project.ddl("GRANT SELECT ON sales.orders TO project_o")
        for change in LOSSES["unsubscribed"][::2] + LOSSES["left the group"][::2]:
            project.sql(change)
        assert project.world.value("SELECT has_table_privilege('project_o', 'sales.orders', 'SELECT')")
        project.sql("SELECT immuta.subscribe('cid', 'sales.customers')")
        assert not project.world.value("SELECT has_table_privilege('project_o', 'sales.orders', 'SELECT')")
    finally:
        project.world.sql("SELECT immuta.drop_project('o')")


def test_a_rollback_undoes_it(project):
    connection = project.login(*SYSTEM)
    connection.autocommit = False
    query(connection, "SELECT immuta.unsubscribe('ann', 'sales.orders')")
    assert query(connection, READS) == [(False,)]
    connection.rollback()
    assert columns(project) == (3, 3)


def two(office, level):
    """Two administrators, each in a transaction with a snapshot of its own."""
    pair = [office.login(*SYSTEM) for _ in range(2)]
    for connection in pair:
        connection.autocommit = False
        query(connection, f"SET TRANSACTION ISOLATION LEVEL {level}")
        query(connection, "SELECT count(*) FROM immuta.projects")
    return pair


PAIRS = [
    ("add_project_data_source('p', 'sales.totals')", "add_project_member('p', 'cid')"),
    ("add_project_member('p', 'cid')", "add_project_data_source('p', 'sales.totals')"),
    ("unmap_user('cid')", "add_project_member('p', 'cid')"), ("add_project_member('p', 'cid')", "unmap_user('cid')")]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("is_connected, one, other", [
    *[(is_connected, *pair) for is_connected in (True, False) for pair in PAIRS],
    (True, "unsubscribe('ann', 'sales.totals')", "add_project_data_source('p', 'sales.totals')")])
def test_two_administrators_give_nobody_more(project, one, other, level, is_connected):
    """Each sees a project in which all is well. Who comes second must look again; with and without a system account."""
    for user in ("ann", "ben"):
        project.sql("SELECT immuta.subscribe(%s, 'sales.totals')", (user,))
    project.sql("SELECT immuta.create_user('cid'); SELECT immuta.subscribe('cid', 'sales.orders'), "
                "immuta.subscribe('cid', 'sales.customers')")
    if not is_connected:
        project.world.sql("CREATE TABLE public.account AS SELECT * FROM immuta.system_account; DELETE FROM immuta.system_account")
    try:
        first, second = two(project, level)
        query(first, f"SELECT immuta.{one}")
        first.commit()
        with refuses("40001"):
            query(second, f"SELECT immuta.{other}")
        second.rollback()
    finally:
        if not is_connected:
            project.world.sql("INSERT INTO immuta.system_account SELECT * FROM public.account; DROP TABLE public.account")
    assert project.world.value("SELECT bool_and(ok) FROM immuta_internal.doctor_of_projects()")


def test_who_waits_sees_what_was_committed(project):
    """Under READ COMMITTED nobody has to try again."""
    project.sql("SELECT immuta.create_user('cid')")
    first, second = two(project, "READ COMMITTED")
    query(first, "SELECT immuta.unsubscribe('ann', 'sales.orders')")
    query(second, "SET lock_timeout = '100ms'; SAVEPOINT s")
    for change in ("remove_project_member('p', 'ann')", "add_project_member('p', 'cid')", "equalise_projects()",
                   "add_project_data_source('p', 'sales.totals')", "remove_project_data_source('p', 'sales.orders')"):
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            query(second, f"SELECT immuta.{change}")
        query(second, "ROLLBACK TO s")
    first.commit()
    query(second, "SELECT immuta.remove_project_member('p', 'ann')")
    second.commit()
    assert columns(project) == (3, 3)


def test_a_table_that_is_being_altered(project):
    """GRANT waits for ALTER TABLE of the same table, and then fails: it is tried again."""
    project.sql("SELECT immuta.create_user('cid')")
    project.owner.autocommit = False
    project.ddl("ALTER TABLE sales.orders ADD COLUMN more int")

    def alter():
        for _ in range(400):
            if project.world.value("SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'",
                                   (project.system.info.backend_pid,)):
                break
        project.owner.commit()

    assert run_together(lambda: project.sql("SELECT immuta.add_project_member('p', 'cid')"), alter) == []
    assert columns(project) == (0, 0)
