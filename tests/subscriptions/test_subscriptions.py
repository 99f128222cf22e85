"""subscribe() and what follows from it: roles, mappings, grants, requests, expiry.

Threats: 68 (docs/threats.md).
"""

from contextlib import closing

import psycopg2
import pytest
from conftest import VERSION, reads, refuses
from harness.world import impersonate, query


def test_a_token_works_at_once(sales):
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders')")
    assert sales.role("ann") == "user_ann"
    assert reads(sales, "ann", "SELECT count(*) FROM sales.orders") == [(3,)]
    assert sales.access("ann", "sales.orders") == "READ"
    assert sales.access("ann", "sales.customers") is None
    assert sales.drift() == []


def test_the_role_is_what_it_should_be(sales):
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders')")
    assert sales.world.sql("SELECT rolcanlogin, rolsuper, rolcreaterole, rolinherit FROM pg_roles WHERE rolname = 'user_ann'") == [
        (False, False, False, True)]
    assert sales.world.sql("SELECT array_agg(roleid::regrole::text ORDER BY 1) FROM pg_auth_members WHERE member = 'user_ann'::regrole") == [
        (["immuta_mappable", "immuta_subscriber"],)]
    assert sales.world.sql("SELECT mapping, postgres_role::text FROM immuta.user_account WHERE userid = 'ann'") == [("explicit", "user_ann")]


def test_write_and_back(sales):
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders', 'write')")
    assert sales.access("ann", "sales.orders") == "WRITE"
    role = sales.role("ann")
    assert sales.world.value("SELECT has_sequence_privilege(%s, 'sales.orders_id_seq', 'USAGE')", (role,))
    service = sales.world.connect()
    impersonate(service, sales.world.token("ann"))
    query(service, "INSERT INTO sales.orders (region, amount) VALUES ('EU', 4)")
    query(service, "TRUNCATE sales.orders")
    service.rollback()
    service.close()
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders', 'READ')")
    assert sales.access("ann", "sales.orders") == "READ"
    assert not sales.world.value("SELECT has_sequence_privilege(%s, 'sales.orders_id_seq', 'USAGE')", (role,))
    assert sales.value("SELECT immuta.unsubscribe('ann', 'sales.orders')") is True
    assert sales.access("ann", "sales.orders") is None
    assert not sales.world.value("SELECT has_schema_privilege(%s, 'sales', 'USAGE')", (role,))
    assert sales.value("SELECT immuta.unsubscribe('ann', 'sales.orders')") is False
    assert sales.drift() == []


def test_schema_usage_stays_while_it_is_needed(sales):
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders'), immuta.subscribe('ann', 'sales.customers')")
    sales.sql("SELECT immuta.unsubscribe('ann', 'sales.orders')")
    assert sales.access("ann", "sales.customers") == "READ"
    sales.sql("SELECT immuta.unsubscribe('ann', 'sales.customers')")
    assert not sales.world.value("SELECT has_schema_privilege('user_ann', 'sales', 'USAGE')")


@pytest.mark.parametrize("kind, make, write", [
    ("table", "CREATE TABLE sales.x (a int)", "WRITE"),
    ("partitioned table", "CREATE TABLE sales.x (a int) PARTITION BY LIST (a)", "WRITE"),
    ("view", "CREATE VIEW sales.x AS SELECT id FROM sales.orders", "rawd"),
    ("materialized view", "CREATE MATERIALIZED VIEW sales.x AS SELECT 1 AS a", "READ"),
    ("foreign table", None, "WRITE"),
])
def test_kinds_take_the_grants_that_make_sense(sales, kind, make, write):
    if make:
        sales.ddl(make)
    else:
        sales.world.sql("CREATE EXTENSION IF NOT EXISTS file_fdw; CREATE SERVER IF NOT EXISTS files FOREIGN DATA WRAPPER file_fdw;"
                        "CREATE FOREIGN TABLE sales.x (a text) SERVER files OPTIONS (filename '/dev/null');"
                        "ALTER FOREIGN TABLE sales.x OWNER TO data_owner")
        sales.ddl("GRANT ALL ON sales.x TO immuta_system WITH GRANT OPTION")
    assert sales.sql("SELECT kind, state FROM immuta.data_sources WHERE table_name = 'x'") == [(kind, "ok")]
    sales.sql("SELECT immuta.subscribe('ann', 'sales.x')")
    assert sales.access("ann", "sales.x") == "READ"
    sales.sql("SELECT immuta.subscribe('ann', 'sales.x', 'WRITE')")
    assert sales.access("ann", "sales.x") == write
    assert sales.drift() == []


def test_excluded_columns(sales):
    sales.sql("SELECT immuta.register_data_source('sales.customers', exclude_columns => '{ssn}')")
    sales.sql("SELECT immuta.subscribe('ann', 'sales.customers', 'WRITE')")
    assert reads(sales, "ann", "SELECT id, name FROM sales.customers") == []
    with refuses("42501"):
        reads(sales, "ann", "SELECT ssn FROM sales.customers")
    column = "SELECT has_column_privilege('user_ann', 'sales.customers', %s, %s)"
    assert sales.world.value(column, ("name", "UPDATE")) and not sales.world.value(column, ("ssn", "UPDATE"))
    assert sales.may("ann", "sales.customers", "DELETE")
    # The exclusion follows the column, new columns are not excluded.
    sales.ddl("ALTER TABLE sales.customers RENAME ssn TO social")
    sales.ddl("ALTER TABLE sales.customers ADD COLUMN city text")
    assert not sales.world.value(column, ("social", "SELECT")) and sales.world.value(column, ("city", "SELECT"))
    assert sales.sql("SELECT excluded_columns FROM immuta.data_sources WHERE table_name = 'customers'") == [(["social", "ssn"],)]
    assert sales.drift() == []
    # And back to the whole table.
    sales.sql("SELECT immuta.register_data_source('sales.customers', exclude_columns => '{}')")
    assert sales.may("ann", "sales.customers") and sales.world.value(column, ("social", "SELECT"))
    sales.sql("SELECT immuta.register_data_source('sales.customers', exclude_columns => '{name}')")
    assert not sales.world.value(column, ("name", "SELECT")) and sales.world.value(column, ("social", "SELECT"))
    sales.ddl("ALTER TABLE sales.customers DROP COLUMN name")
    assert sales.world.value(column, ("social", "SELECT")) and sales.drift() == []
    with refuses("42703"):
        sales.sql("SELECT immuta.register_data_source('sales.customers', exclude_columns => '{nothing}')")


# Through a view of one's own, whose owner PostgreSQL asks for UPDATE and DELETE only.
INSERTS = "USING (VALUES (1)) v (i) ON true WHEN NOT MATCHED THEN INSERT (id, name) VALUES (9, '1')"
CHANGES = {
    "UPDATE": "UPDATE pg_temp.seen SET name = 'x'", "DELETE": "DELETE FROM pg_temp.seen", "by a CTE": "WITH u AS (DELETE FROM pg_temp.seen) SELECT 1",
    "in a function": "DO $$ BEGIN UPDATE pg_temp.seen SET name = 'x'; END $$", "of a view": "DELETE FROM pg_temp.more",
    "with a barrier": "UPDATE pg_temp.barrier SET name = 'x'", "with a subquery": "DELETE FROM pg_temp.correlated", "shown": "EXPLAIN ANALYZE DELETE FROM pg_temp.seen",
    "MERGE": "MERGE INTO pg_temp.seen USING (VALUES (1)) v (i) ON true WHEN MATCHED THEN DELETE",
    "INSERT by MERGE": f"MERGE INTO pg_temp.seen {INSERTS}", "INSERT by MERGE, of a view": f"MERGE INTO pg_temp.more {INSERTS}",
    "INSERT by MERGE, of an invoker's view": f"MERGE INTO pg_temp.invoker {INSERTS}",
    "INSERT by MERGE, in a CTE": f"WITH m AS (MERGE INTO pg_temp.seen {INSERTS} RETURNING 1) SELECT 1",
    "INSERT by MERGE, in a body": f"CREATE FUNCTION pg_temp.body() RETURNS void BEGIN ATOMIC MERGE INTO pg_temp.seen {INSERTS}; END; SELECT pg_temp.body()",
    "MERGE that does nothing": "MERGE INTO pg_temp.seen USING (VALUES (1)) v (i) ON true WHEN MATCHED THEN DO NOTHING",
    "INSERT that is checked": "INSERT INTO pg_temp.checked VALUES (9, '1')",
}


@pytest.mark.parametrize("change", [change for change in CHANGES if "MERGE" not in change or int(VERSION) >= 17])
def test_an_excluded_column_is_not_read_by_changing(sales, change):
    """What a view has in its WHERE is evaluated, whoever may read it."""
    sales.ddl("INSERT INTO sales.customers VALUES (1, 'Ann', '123'), (2, 'Bo', '456')")
    sales.sql("SELECT immuta.register_data_source('sales.customers', exclude_columns => '{ssn}')")
    sales.sql("SELECT immuta.subscribe('ann', 'sales.customers', 'WRITE')")
    views = ("CREATE TEMP VIEW seen AS SELECT id, name FROM sales.customers WHERE {0} LIKE '1%'; CREATE TEMP VIEW more AS SELECT * FROM seen;"
             "CREATE TEMP VIEW barrier WITH (security_barrier) AS SELECT id, name FROM sales.customers WHERE {0} LIKE '1%';"
             "CREATE TEMP VIEW correlated AS SELECT id, name FROM sales.customers c WHERE EXISTS (SELECT WHERE c.{0} LIKE '1%');"
             "CREATE TEMP VIEW checked AS SELECT id, name FROM sales.customers WHERE {0} LIKE '1%' WITH CHECK OPTION;")
    if int(VERSION) >= 15:
        views += "CREATE TEMP VIEW invoker WITH (security_invoker) AS SELECT id, name FROM sales.customers WHERE {0} LIKE '1%';"
    sales.world.sql("ALTER ROLE %s LOGIN PASSWORD 'own-password'" % sales.role("ann"))
    for run in (lambda statements: reads(sales, "ann", statements), lambda statements: query(sales.login(sales.role("ann"), "own-password"), statements)):
        with refuses("42501"):
            run(views.format("ssn") + CHANGES[change])
        run(views.format("name") + CHANGES[change])


@pytest.mark.skipif(int(VERSION) < 15, reason="no views of invokers")
def test_a_plan_of_changes_is_not_for_another_role(sales):
    """What is asked of a subscriber was not asked of whoever it was planned for."""
    sales.ddl("INSERT INTO sales.customers VALUES (1, 'Ann', '123')")
    sales.sql("SELECT immuta.register_data_source('sales.customers', exclude_columns => '{ssn}')")
    sales.sql("SELECT immuta.subscribe('ann', 'sales.customers', 'WRITE')")
    sales.ddl("CREATE VIEW other.seen WITH (security_invoker) AS SELECT id, name FROM sales.customers WHERE ssn LIKE '1%'; "
              "GRANT USAGE ON SCHEMA sales, other TO PUBLIC; GRANT ALL ON other.seen TO PUBLIC; GRANT ALL ON sales.customers TO carol;"
              "CREATE FUNCTION other.renames() RETURNS void LANGUAGE plpgsql AS $$BEGIN UPDATE other.seen SET name = 'x'; END$$")
    with closing(sales.world.connect()) as service:
        for user in ("carol", "ann"):
            impersonate(service, sales.world.token(user))
            query(service, "SET LOCAL search_path = pg_catalog")
            if user == "carol":
                query(service, "SELECT other.renames()")
                service.commit()
        with refuses("42501"):
            query(service, "SELECT other.renames()")


@pytest.mark.parametrize("ddl, excluded", [
    ("DROP COLUMN ssn; ALTER TABLE sales.customers ADD COLUMN ssn int", ["ssn"]),
    ("DROP COLUMN ssn, ADD COLUMN ssn int", ["ssn"]),
    # What replaces it, and what it was.
    ("RENAME ssn TO old; ALTER TABLE sales.customers ADD COLUMN ssn int", ["old", "ssn"]),
    ("DROP COLUMN ssn; ALTER TABLE sales.customers RENAME name TO ssn", ["ssn"]),
])
@pytest.mark.parametrize("watched", [True, False])
def test_a_column_under_an_excluded_name_is_excluded(sales, ddl, excluded, watched):
    """Also while the event triggers are off."""
    sales.sql("SELECT immuta.register_data_source('sales.customers', exclude_columns => '{ssn}')")
    sales.sql("SELECT immuta.subscribe('ann', 'sales.customers')")
    ddl = "ALTER TABLE sales.customers " + ddl
    if watched:
        sales.ddl(ddl)
        assert sales.drift() == []
    else:
        sales.world.sql(f"SET session_replication_role = replica; {ddl}; RESET session_replication_role")
    sales.sql("SELECT immuta.subscribe('ann', 'sales.customers', 'WRITE')")
    if not watched:
        sales.sql("SELECT * FROM immuta.sync()")
    for column in excluded:
        assert not sales.world.value("SELECT has_column_privilege('user_ann', 'sales.customers', %s, 'SELECT')", (column,))
    assert sales.world.value("SELECT has_column_privilege('user_ann', 'sales.customers', 'id', 'SELECT')")
    assert sales.sql("SELECT excluded_columns FROM immuta.data_sources WHERE table_name = 'customers'") == [(excluded,)]
    assert sales.drift() == []


def test_what_was_granted_by_hand_stays(sales):
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders')")
    sales.ddl("GRANT SELECT ON sales.customers TO user_ann")
    sales.sql("GRANT INSERT ON sales.orders TO user_ann")
    assert sales.drift() == [("granted by hand", "INSERT on sales.orders", "to user_ann by immuta_system"),
                             ("granted by hand", "SELECT on sales.customers", "to user_ann by data_owner")]
    sales.sql("SELECT immuta.subscribe('ann', 'sales.customers', 'WRITE'), immuta.subscribe('ann', 'sales.orders', 'WRITE')")
    sales.sql("SELECT immuta.unsubscribe('ann', 'sales.customers'), immuta.unsubscribe('ann', 'sales.orders')")
    assert sales.sql("SELECT * FROM immuta.sync()") == []
    assert (sales.world.value("SELECT has_table_privilege('user_ann', 'sales.orders', 'INSERT')"),
            sales.world.value("SELECT has_table_privilege('user_ann', 'sales.customers', 'SELECT')"),
            sales.world.value("SELECT has_table_privilege('user_ann', 'sales.customers', 'DELETE')")) == (True, True, False)


def test_what_was_revoked_by_hand_is_drift_and_comes_back(sales):
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders')")
    sales.sql("REVOKE SELECT ON sales.orders FROM user_ann")
    assert sales.drift() == [("revoked by hand", "SELECT on sales.orders", "from user_ann")]
    assert sales.sql("SELECT * FROM immuta.sync()") == [("granted", "TABLE sales.orders", "SELECT to user_ann")]
    assert sales.access("ann", "sales.orders") == "READ"
    assert sales.sql("SELECT * FROM immuta.sync()") == [] and sales.drift() == []


def test_a_table_without_grant_option_is_reported(sales):
    sales.ddl("REVOKE GRANT OPTION FOR INSERT, DELETE ON sales.orders FROM immuta_system")
    assert sales.sql("SELECT state FROM immuta.data_sources WHERE table_name = 'orders'") == [
        ("read only: no grant option for DELETE, INSERT",)]
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders')")
    with refuses("42501") as seen:
        sales.sql("SELECT immuta.subscribe('ann', 'sales.orders', 'WRITE')")
    assert "DELETE, INSERT" in seen.message and "GRANT OPTION" in seen.hint
    assert sales.access("ann", "sales.orders") == "READ"
    # A policy gives what it can, warns, and tells.
    sales.sql("SELECT immuta.set_user_groups('ben', '{clerks}')")
    sales.system.notices.clear()
    sales.sql("SELECT immuta.create_subscription_policy('p', schemas => '{sales}', groups => '{clerks}', access => 'WRITE')")
    assert any("not granted: DELETE, INSERT" in n for n in sales.system.notices), sales.system.notices
    assert sales.access("ben", "sales.orders") == "rwD"
    assert [d[:2] for d in sales.drift()] == [("not granted", "DELETE on sales.orders"), ("not granted", "INSERT on sales.orders")]
    # Once the owner allows it, sync() makes up for it.
    sales.ddl("GRANT INSERT, DELETE ON sales.orders TO immuta_system WITH GRANT OPTION")
    sales.sql("SELECT * FROM immuta.sync()")
    assert sales.access("ben", "sales.orders") == "WRITE" and sales.drift() == []


def test_ownership_is_a_grant_option(sales):
    sales.ddl("CREATE TABLE sales.mine (a int)")
    sales.world.sql("ALTER TABLE sales.mine OWNER TO immuta_system")
    sales.sql("SELECT immuta.subscribe('ann', 'sales.mine', 'WRITE')")
    assert sales.access("ann", "sales.mine") == "WRITE" and sales.drift() == []
    sales.sql("SELECT immuta.unsubscribe('ann', 'sales.mine')")
    assert sales.access("ann", "sales.mine") is None and sales.drift() == []


# -- roles ------------------------------------------------------------------------------------------------------------

def test_an_explicit_role_carries_the_subscriptions(sales):
    sales.world.sql("CREATE ROLE someone")
    sales.sql("SELECT immuta.map_user('ann', 'someone'), immuta.subscribe('ann', 'sales.orders')")
    assert sales.role("ann") == "someone" and sales.access("ann", "sales.orders") == "READ"
    sales.sql("SELECT immuta.unmap_user('ann')")
    assert not sales.world.value("SELECT has_table_privilege('someone', 'sales.orders', 'SELECT')")
    assert sales.role("ann") is None
    with refuses("42704", "IMPERSONATION_NOT_MAPPED"):
        sales.sql("SELECT immuta.subscribe('ann', 'sales.customers')")
    # The subscription stands, and goes with the user to another role.
    sales.world.sql("CREATE ROLE someone_else")
    sales.sql("SELECT immuta.map_user('ann', 'someone_else')")
    assert sales.role("ann") == "someone_else" and sales.access("ann", "sales.orders") == "READ"
    sales.sql("SELECT immuta.drop_user('ann')")
    assert sales.world.value("SELECT count(*) FROM pg_class c, aclexplode(relacl) a WHERE grantee = 'someone_else'::regrole") == 0
    sales.world.sql("DROP ROLE someone, someone_else")


def test_a_role_of_the_same_name_carries_them_if_it_is_marked(sales):
    sales.world.sql("CREATE ROLE ann IN ROLE immuta_mappable; CREATE ROLE ben")
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders'), immuta.subscribe('ben', 'sales.orders')")
    assert (sales.role("ann"), sales.role("ben")) == ("ann", "user_ben")
    assert reads(sales, "ann", "SELECT current_user::text, count(*) FROM sales.orders") == [("ann", 3)]
    assert sales.world.sql("SELECT mapping FROM immuta.user_account WHERE userid = 'ann'") == [("username",)]
    sales.sql("SELECT immuta.drop_user('ann')")
    sales.world.sql("DROP ROLE ann, ben")


def test_a_shared_role_carries_nothing(sales):
    sales.world.sql("CREATE ROLE shared")
    sales.sql("SELECT immuta.map_user('ann', 'shared'), immuta.map_user('ben', 'shared')")
    with refuses("42704", "IMPERSONATION_NOT_MAPPED"):
        sales.sql("SELECT immuta.subscribe('ann', 'sales.orders')")
    sales.sql("SELECT immuta.create_subscription_policy('p', schemas => '{sales}', expression => 'true')")
    assert [d for d in sales.drift() if d[1].startswith("ann")] == [
        ("user without a role", "ann (bim)", "role \"shared\" is also the role of user \"ben\"")]
    sales.sql("SELECT immuta.unmap_user('ben')")
    sales.sql("SELECT * FROM immuta.sync()")
    assert sales.access("ann", "sales.orders") == "READ"
    sales.sql("SELECT immuta.drop_user('ann')")
    sales.world.sql("DROP ROLE shared")


def test_a_role_with_subscriptions_is_nobody_elses(sales):
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders')")
    with refuses("42501", "IMPERSONATION_NOT_ALLOWED"):
        sales.sql("SELECT immuta.map_user('ben', 'user_ann')")
    with refuses("42501", "IMPERSONATION_NOT_ALLOWED"):
        sales.sql("SELECT immuta.create_user('eve', postgres_role => 'user_ann')")
    # Nor by its name, although it is marked for mapping by name.
    sales.sql("SELECT immuta.create_user('user_ann')")
    with refuses("42704", "IMPERSONATION_NOT_MAPPED"):
        reads(sales, "user_ann", "SELECT * FROM sales.orders")
    sales.sql("SELECT immuta.subscribe('user_ann', 'sales.customers')")
    assert sales.role("user_ann") == "user_user_ann"


def test_names_of_roles(sales):
    strange = ['a"b', "a'; DROP TABLE sales.orders; --", "é" * 100, "x" * 255, "new\nline", "$1 {iamid} {userid}", "pg_x", "public", "UPPER", " "]
    for userid in strange:
        sales.sql("SELECT immuta.create_user(%s), immuta.subscribe(%s, 'sales.orders')", (userid, userid))
        assert reads(sales, userid, "SELECT count(*) FROM sales.orders") == [(3,)], userid
    sales.sql("SELECT immuta.create_user('ann', 'Okta'), immuta.subscribe('ann', 'sales.orders', iamid => 'Okta')")
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders')")
    first, second = sales.role("ann", "Okta"), sales.role("ann")
    assert first == "user_ann" and second.startswith("user_ann_") and len(second) == len("user_ann_") + 8
    names = [n for n, in sales.world.sql("SELECT role_name FROM immuta.subscriber WHERE made")]
    assert len(set(names)) == len(names) == 12 and all(len(n.encode()) <= 63 for n in names)
    assert sales.drift() == []


@pytest.mark.parametrize("template, role", [("{userid}", '"Ann Lee"'), ("{iamid}/{userid}", '"bim/Ann Lee"')])
def test_the_template(sales, template, role):
    sales.world.sql("ALTER DATABASE immuta SET bodata.role_name_template = '%s'" % template)
    try:
        fresh = sales.login("immuta_system", "system-password")
        query(fresh, "SELECT immuta.create_user('Ann Lee'), immuta.subscribe('Ann Lee', 'sales.orders')")
        assert sales.role("Ann Lee") == role
        # Names that are reserved, or taken by something else.
        query(fresh, "SELECT immuta.create_user('postgres'), immuta.subscribe('postgres', 'sales.orders')")
        assert sales.role("postgres") != "postgres"
        query(fresh, "SELECT immuta.create_user('pg_monitor'), immuta.subscribe('pg_monitor', 'sales.orders')")
        assert sales.role("pg_monitor") != "pg_monitor"
    finally:
        sales.world.sql("ALTER DATABASE immuta RESET bodata.role_name_template")


def test_templates_are_validated(connected):
    for bad in ("user", "{userid}{x}", "a\n{userid}", "{userid}" + "x" * 40):
        with refuses("22023"):
            connected.sql("SET bodata.role_name_template = %s", (bad,))
    with refuses("42501"):
        plain = connected.connect("plain", "plain-password")
        try:
            query(plain, "SET bodata.role_name_template = '{userid}'")
        finally:
            plain.close()


def test_a_user_goes_with_his_role(sales):
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders')")
    sales.sql("SELECT immuta.drop_user('ann')")
    assert sales.world.value("SELECT count(*) FROM pg_roles WHERE rolname = 'user_ann'") == 0
    # A role that owns something stays, but is not reached by its name.
    sales.sql("SELECT immuta.subscribe('ben', 'sales.orders')")
    sales.world.sql("CREATE SCHEMA left_over AUTHORIZATION user_ben")
    sales.sql("SELECT immuta.drop_user('ben')")
    assert sales.world.sql("SELECT roleid::regrole::text FROM pg_auth_members WHERE member = 'user_ben'::regrole") == [
        ("immuta_subscriber",)]
    assert sales.world.value("SELECT count(*) FROM pg_class c, aclexplode(relacl) a WHERE grantee = 'user_ben'::regrole") == 0
    sales.sql("SELECT immuta.create_user('ben'), immuta.subscribe('ben', 'sales.orders')")
    assert sales.role("ben") != "user_ben"
    sales.world.sql("DROP SCHEMA left_over; DROP ROLE user_ben")


def test_a_renamed_role_is_followed_and_a_dropped_one_replaced(sales):
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders'), immuta.subscribe('ben', 'sales.orders')")
    sales.world.sql("ALTER ROLE user_ann RENAME TO renamed; "
                    "SET ROLE immuta_system; REVOKE ALL ON sales.orders FROM user_ben; REVOKE ALL ON SCHEMA sales FROM user_ben; "
                    "RESET ROLE; DROP ROLE user_ben")
    changed = sales.sql("SELECT what, object FROM immuta.sync()")
    assert ("role of a user changed", "ROLE user_ben") in changed
    assert sales.role("ann") == "renamed" and sales.role("ben") == "user_ben"
    assert sales.access("ann", "sales.orders") == sales.access("ben", "sales.orders") == "READ"
    assert sales.drift() == [] and sales.sql("SELECT * FROM immuta.sync()") == []


def test_a_renamed_system_account_stays_the_one(sales):
    """By its OID; what then has its old name is another role."""
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders')")
    sales.world.sql("ALTER ROLE immuta_system RENAME TO renamed; CREATE ROLE immuta_system CREATEROLE")
    try:
        sales.sql("SELECT immuta.drop_user('ann'), immuta.subscribe('ben', 'sales.orders')")
        assert sales.world.value("SELECT count(*) FROM pg_roles WHERE rolname = 'user_ann'") == 0
        assert sales.access("ben", "sales.orders") == "READ" and sales.drift() == []
        # A dump finds it by its name.
        sales.sql("SELECT * FROM immuta.sync()")
        assert sales.world.value("SELECT role_name::text FROM immuta.system_account") == "renamed"
    finally:
        sales.world.sql("DROP ROLE immuta_system; ALTER ROLE renamed RENAME TO immuta_system")
        sales.world.sql("SELECT immuta.set_system_account('immuta_system')")


@pytest.mark.parametrize("lose, find", [
    ("ALTER ROLE immuta_system SUPERUSER", "ALTER ROLE immuta_system NOSUPERUSER"),
    ("UPDATE immuta.system_account SET role = 0", "SELECT immuta.set_system_account('immuta_system')")])
def test_without_the_system_account_who_has_a_role_is_not_dropped(sales, lose, find):
    """Their role would keep its grants, and nobody would know."""
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders')")
    sales.world.sql(lose)
    try:
        with refuses("55000") as seen:
            sales.world.sql("SELECT immuta.drop_user('ann')")
        assert "system account" in seen.message and seen.hint
        sales.world.sql("SELECT immuta.drop_user('ben')")
    finally:
        sales.world.sql(find)
    assert sales.role("ann") == "user_ann" and sales.access("ann", "sales.orders") == "READ"
    sales.sql("SELECT immuta.drop_user('ann')")
    assert sales.world.value("SELECT count(*) FROM pg_roles WHERE rolname = 'user_ann'") == 0 and sales.drift() == []


# -- requests and expiry ----------------------------------------------------------------------------------------------

def test_requests(sales):
    state = "SELECT access, state, reason FROM immuta.subscriptions"
    sales.sql("SELECT immuta.request_subscription('ann', 'sales.orders', 'WRITE', reason => 'month end')")
    assert sales.sql(state) == [("WRITE", "requested", "month end")] and sales.role("ann") is None
    sales.sql("SELECT immuta.deny_subscription('ann', 'sales.orders', reason => 'not now')")
    assert sales.sql(state) == [("WRITE", "denied", "not now")] and sales.role("ann") is None
    sales.sql("SELECT immuta.approve_subscription('ann', 'sales.orders')")
    assert sales.sql(state) == [("WRITE", "approved", "not now")] and sales.access("ann", "sales.orders") == "WRITE"
    with refuses("42710"):
        sales.sql("SELECT immuta.request_subscription('ann', 'sales.orders')")
    for decide in ("deny", "approve"):
        with refuses("42704"):
            sales.sql(f"SELECT immuta.{decide}_subscription('ann', 'sales.orders')")
        with refuses("42704"):
            sales.sql(f"SELECT immuta.{decide}_subscription('ben', 'sales.orders')")


def test_a_subscription_ends(sales):
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders', until => clock_timestamp() + interval '1 second'),"
              " immuta.subscribe('ben', 'sales.orders', until => now() + interval '1 hour')")
    assert sales.access("ann", "sales.orders") == "READ"
    assert sales.value("SELECT immuta.expire_subscriptions()") == 0
    query(sales.system, "SELECT pg_sleep(1.1)")
    assert sales.value("SELECT immuta.expire_subscriptions()") == 1
    assert sales.sql("SELECT userid, state FROM immuta.subscriptions") == [("ann", "expired"), ("ben", "approved")]
    assert sales.access("ann", "sales.orders") is None and sales.access("ben", "sales.orders") == "READ"
    with refuses("22023"):
        sales.sql("SELECT immuta.subscribe('ann', 'sales.orders', until => now() - interval '1 hour')")


def test_an_ended_subscription_does_not_serve_once_more(sales):
    """It is revoked before the next transaction of the user, on whichever connection, with a cached token or a new one."""
    tokens = [sales.world.token("ann"), sales.world.token("ann")]
    sales.sql("SELECT immuta.subscribe('ann', 'sales.customers')")
    service = sales.world.connect()
    for turn in range(2):
        sales.sql("SELECT immuta.subscribe('ann', 'sales.orders', until => clock_timestamp() + interval '700 ms')")
        impersonate(service, tokens[0])
        assert query(service, "SELECT count(*) FROM sales.orders") == [(3,)]
        service.commit()
        query(sales.system, "SELECT pg_sleep(0.8)")
        assert sales.access("ann", "sales.orders") == "READ"
        impersonate(service, tokens[turn])
        with refuses("42501"):
            query(service, "SELECT count(*) FROM sales.orders")
        service.rollback()
        assert sales.access("ann", "sales.orders") is None
    impersonate(service, tokens[0])
    assert query(service, "SELECT count(*) FROM sales.customers") == [(0,)]
    service.close()


def test_while_it_cannot_be_revoked_there_is_no_impersonation(sales):
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders', until => clock_timestamp() + interval '100 ms')")
    query(sales.system, "SELECT pg_sleep(0.2)")
    service = sales.world.connect()
    token = sales.world.token("ann")
    # Somebody else holds the lock: it can be waited for, and the wait be cancelled.
    sales.world.sql("BEGIN; UPDATE immuta.connection_state SET version = version")
    try:
        query(service, "SET LOCAL statement_timeout = '300 ms'")
        with refuses("57014"):
            impersonate(service, token)
        service.rollback()
    finally:
        sales.world.sql("ROLLBACK")
    impersonate(service, token)
    with refuses("42501"):
        query(service, "SELECT count(*) FROM sales.orders")
    service.close()


def test_subscriptions_end_with_other_changes(sales):
    """With the next change of anything, and with the next use of a token that is recorded."""
    soon = "until => clock_timestamp() + interval '200 ms'"
    sales.sql(f"SELECT immuta.subscribe('ann', 'sales.orders', {soon})")
    query(sales.system, "SELECT pg_sleep(0.3)")
    sales.sql("SELECT immuta.add_user_to_group('ben', 'x')")
    assert sales.access("ann", "sales.orders") is None
    sales.sql(f"SELECT immuta.subscribe('ann', 'sales.orders', {soon})")
    query(sales.system, "SELECT pg_sleep(0.3)")
    token = sales.world.token("alice")
    sales.world.sql("UPDATE immuta.token SET last_used_at = now() - interval '30 min'")
    service = sales.world.connect()
    impersonate(service, token)
    query(service, "SELECT 1")
    service.rollback()
    service.close()
    for _ in range(200):
        if sales.access("ann", "sales.orders") is None:
            break
        query(sales.system, "SELECT pg_sleep(0.05)")
    assert sales.access("ann", "sales.orders") is None


# -- wrong input ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("statement, sqlstate", [
    ("SELECT immuta.subscribe('nobody', 'sales.orders')", "42704"),
    ("SELECT immuta.subscribe(NULL, 'sales.orders')", "42704"),
    ("SELECT immuta.subscribe('ann', NULL)", "42704"),
    ("SELECT immuta.subscribe('ann', 'sales.orders', 'ALL')", "22023"),
    ("SELECT immuta.subscribe('ann', 'sales.orders', NULL)", "22023"),
    ("SELECT immuta.subscribe('ann', 'pg_catalog.pg_class')", "42704"),
    ("SELECT immuta.register_data_source('pg_catalog.pg_class')", "42809"),
    ("SELECT immuta.register_data_source('immuta.user_account')", "42809"),
    ("SELECT immuta.register_data_source('sales.orders_id_seq')", "42809"),
    ("SELECT immuta.register_data_source(NULL)", "22004"),
    ("SELECT immuta.register_data_source('sales.orders', tags => '{NULL}')", "22023"),
    ("SELECT immuta.register_schema('pg_catalog')", "22023"),
    ("SELECT immuta.register_schema('immuta')", "22023"),
    ("SELECT immuta.register_schema('nothing')", "3F000"),
    ("SELECT immuta.register_schema(NULL)", "3F000"),
    ("SELECT immuta.unregister_data_source('sales.orders')", "55000"),
])
def test_wrong_input(sales, statement, sqlstate):
    with refuses(sqlstate):
        sales.sql(statement)


def test_nothing_without_a_system_account(world, tmp_path):
    world.sql("CREATE DATABASE unset")
    connection = psycopg2.connect(**world.server.dsn(dbname="unset"))
    connection.autocommit = True
    query(connection, "CREATE EXTENSION immuta_ext; CREATE TABLE t ()")
    with refuses("55000") as seen:
        query(connection, "SELECT immuta.register_data_source('t')")
    assert "set_system_account" in seen.hint
    for refused, sqlstate in (("postgres", "22023"), ("plain", "22023"), ("nobody", "42704")):
        with refuses(sqlstate):
            query(connection, "SELECT immuta.set_system_account(%s)", (refused,))
    query(connection, "SELECT immuta.create_user('x')")
    query(connection, "SELECT immuta.drop_user('x')")
    connection.close()
    world.sql("DROP DATABASE unset WITH (FORCE)")


def test_only_administrators(sales):
    plain = sales.login("plain", "plain-password")
    for statement in ("SELECT immuta.subscribe('ann', 'pg_class')", "SELECT immuta.sync()", "SELECT * FROM immuta.data_sources",
                      "SELECT * FROM immuta.subscriber", "SELECT immuta_internal.run_as(10, 'SELECT 1')", "SELECT immuta_internal.as_system('SELECT 1')",
                      "SELECT immuta.set_user_groups('ann', '{x}')", "SELECT immuta_internal.catch_up()"):
        with refuses("42501"):
            query(plain, statement)
    # The system account is an administrator here, but no superuser: it cannot choose whose rights are used.
    for statement in ("SELECT immuta.set_system_account('postgres')", "SELECT immuta_internal.run_as(10, 'SELECT 1')",
                      "SELECT immuta_internal.as_system('SELECT 1')", "UPDATE immuta.system_account SET role_name = 'postgres'"):
        with refuses("42501"):
            sales.sql(statement)


def test_who_may_read_everything_does_not_read_the_views(sales):
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders')")
    sales.world.sql("GRANT pg_read_all_data TO user_ann")
    for relation in ("data_sources", "subscriptions", "subscription_policies", "row_policies", "user_profiles", "data_source_tree"):
        assert reads(sales, "ann", f"SELECT count(*) FROM immuta.{relation}") == [(0,)], relation
    for relation in ("subscriber", "user_profile", "grant_made", "connection_state", "data_source_id_seq"):
        with refuses("42501", "IMPERSONATION_ACTIVE"):
            reads(sales, "ann", f"SELECT count(*) FROM immuta.{relation}")
