"""Row policies: rules for rows that compare with attributes of the impersonated user.

Threats: 41, 42, 68 (docs/threats.md).
"""

from contextlib import closing

import psycopg2
import pytest
from conftest import VERSION, clean, reads, refuses
from harness.world import SERVICE, impersonate, query

BY_REGION = "region = (SELECT immuta.user_attribute('region'))"
COUNT = "SELECT count(*) FROM sales.orders"


@pytest.fixture
def ruled(sales):
    """The system account may act for the owner; ann is of the EU, ben of the US, both read the orders."""
    sales.world.sql("GRANT data_owner TO immuta_system")
    sales.sql("SELECT immuta.set_user_attribute('ann', 'region', '{EU}'), immuta.set_user_attribute('ben', 'region', '{US}')")
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders', 'WRITE'), immuta.subscribe('ben', 'sales.orders')")
    yield sales
    clean(sales.world)
    sales.world.sql("REVOKE data_owner FROM immuta_system")


def test_each_user_sees_his_rows(ruled):
    ruled.sql("SELECT immuta.create_row_policy('region', 'sales.orders', %s)", (BY_REGION,))
    assert reads(ruled, "ann", COUNT) == [(2,)] and reads(ruled, "ben", COUNT) == [(1,)]
    # A change of the attribute counts from the next transaction on.
    ruled.sql("SELECT immuta.set_user_attribute('ben', 'region', '{EU}')")
    assert reads(ruled, "ben", COUNT) == [(2,)]
    for values in ("{}", "{EU,US}"):
        ruled.sql("SELECT immuta.set_user_attribute('ben', 'region', %s)", (values,))
        assert reads(ruled, "ben", COUNT) == [(0,)]
    # Nor can they write what they would not see.
    service = ruled.world.connect()
    impersonate(service, ruled.world.token("ann"))
    with refuses("42501"):
        query(service, "INSERT INTO sales.orders (region) VALUES ('US')")
    service.rollback()
    service.close()
    assert ruled.value("SELECT immuta.drop_row_policy('region', 'sales.orders')") is True
    assert reads(ruled, "ben", COUNT) == [(3,)]
    assert ruled.world.sql("SELECT relrowsecurity, (SELECT count(*) FROM pg_policy WHERE polrelid = c.oid) FROM pg_class c "
                           "WHERE oid = 'sales.orders'::regclass") == [(False, 0)]
    assert ruled.value("SELECT immuta.drop_row_policy('region', 'sales.orders')") is False
    assert ruled.drift() == []


def test_policies_combine(ruled):
    ruled.sql("SELECT immuta.create_row_policy('region', 'sales.orders', %s)",
              ("region = ANY ((SELECT immuta.user_attribute_values('region'))::text[])",))
    ruled.sql("SELECT immuta.create_row_policy('small', 'sales.orders', 'amount < 3 OR (SELECT immuta.user_in_group(''boss''))')")
    ruled.sql("SELECT immuta.set_user_attribute('ann', 'region', '{EU,US}')")
    assert reads(ruled, "ann", COUNT) == [(2,)]
    ruled.sql("SELECT immuta.add_user_to_group('ann', 'boss')")
    assert reads(ruled, "ann", COUNT) == [(3,)]
    assert ruled.sql("SELECT name, table_name FROM immuta.row_policies") == [("region", "orders"), ("small", "orders")]
    ruled.sql("SELECT immuta.create_row_policy('small', 'sales.orders', 'false', replace => true)")
    assert reads(ruled, "ann", COUNT) == [(0,)]
    ruled.sql("SELECT immuta.drop_row_policy('small', 'sales.orders')")
    assert reads(ruled, "ann", COUNT) == [(3,)]
    with refuses("42710"):
        ruled.sql("SELECT immuta.create_row_policy('region', 'sales.orders', 'true')")


def test_who_reads_by_a_policy_is_restricted_too(ruled):
    ruled.sql("SELECT immuta.create_subscription_policy('p', schemas => '{sales}', expression => 'true')")
    ruled.sql("SELECT immuta.unsubscribe('ben', 'sales.orders')")
    ruled.sql("SELECT immuta.create_row_policy('region', 'sales.orders', %s)", (BY_REGION,))
    assert reads(ruled, "ben", COUNT) == [(1,)]


def test_the_users_own_policies_are_not_widened(ruled):
    """Where the table had row level security, ours takes away and adds nothing."""
    ruled.ddl("ALTER TABLE sales.orders ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON sales.orders TO user_ann USING (amount > 1)")
    ruled.sql("SELECT immuta.create_row_policy('region', 'sales.orders', %s)", (BY_REGION,))
    assert reads(ruled, "ann", "SELECT amount FROM sales.orders") == [(3,)]
    assert reads(ruled, "ben", COUNT) == [(0,)]
    ruled.sql("SELECT immuta.drop_row_policy('region', 'sales.orders')")
    assert reads(ruled, "ann", COUNT) == [(2,)]
    assert ruled.world.sql("SELECT relrowsecurity FROM pg_class WHERE oid = 'sales.orders'::regclass") == [(True,)]


def test_who_leaves_another_database_stays_restricted(ruled):
    """The marker of subscribers is a role of the whole cluster; the other database knows nothing of this one."""
    ruled.sql("SELECT immuta.unsubscribe('ben', 'sales.orders')")
    ruled.world.sql("CREATE ROLE carl NOLOGIN")
    ruled.sql("SELECT immuta.create_user('carl', postgres_role => 'carl')")
    ruled.sql("SELECT immuta.subscribe('carl', 'sales.orders')")
    ruled.sql("SELECT immuta.drop_user('carl')")
    assert ruled.world.sql("SELECT pg_has_role('carl', 'immuta_subscriber', 'MEMBER')") == [(True,)]
    ruled.world.sql("DROP ROLE carl")


@pytest.mark.parametrize("loss", ["REVOKE immuta_subscriber FROM user_ann"] + (
    ["GRANT immuta_subscriber TO user_ann WITH INHERIT FALSE"] if int(VERSION) > 15 else []))
def test_a_lost_marker_is_drift_and_comes_back(ruled, loss):
    """Where the table had row level security of its own, the row policies would not hold."""
    ruled.ddl("DROP VIEW sales.totals; ALTER TABLE sales.orders ENABLE ROW LEVEL SECURITY;"
              "CREATE POLICY everything ON sales.orders USING (true)")
    ruled.sql("SELECT immuta.create_row_policy('region', 'sales.orders', %s)", (BY_REGION,))
    ruled.world.sql(loss)
    assert reads(ruled, "ann", COUNT) == [(3,)]
    assert ruled.drift() == [("membership missing", "ROLE immuta_subscriber", "of user_ann")]
    assert ruled.sql("SELECT * FROM immuta.sync()") == [("granted", "ROLE immuta_subscriber", "to user_ann")]
    assert reads(ruled, "ann", COUNT) == [(2,)] and ruled.drift() == []


def test_nobody_truncates_what_he_cannot_see(ruled):
    truncates = "SELECT has_table_privilege('user_ann', 'sales.orders', 'TRUNCATE')"
    assert ruled.world.sql(truncates) == [(True,)]
    ruled.sql("SELECT immuta.create_row_policy('region', 'sales.orders', %s)", (BY_REGION,))
    assert ruled.world.sql(truncates) == [(False,)]
    ruled.sql("SELECT immuta.register_data_source('sales.totals')")
    assert ruled.sql("SELECT * FROM immuta.drift()") == []
    ruled.sql("SELECT immuta.drop_row_policy('region', 'sales.orders')")
    assert ruled.world.sql(truncates) == [(True,)]


def test_a_project_is_no_way_around_row_policies(ruled):
    ruled.ddl("ALTER TABLE sales.orders ENABLE ROW LEVEL SECURITY; CREATE POLICY everything ON sales.orders USING (true)")
    ruled.sql("SELECT immuta.create_row_policy('region', 'sales.orders', %s)", (BY_REGION,))
    ruled.world.sql("SELECT immuta.create_project('p')")
    try:
        ruled.world.sql("SELECT immuta.add_project_member('p', 'ann')")
        ruled.world.sql("SELECT immuta.add_project_data_source('p', 'sales.orders')")
        ruled.world.sql("SELECT immuta.set_current_project('p', 'ann')")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            reads(ruled, "ann", COUNT)
    finally:
        ruled.world.sql("SELECT immuta.drop_project('p')")


def test_only_the_impersonated_user_counts(ruled):
    """Not what a session says of itself, nor who else shares the connection."""
    ruled.sql("SELECT immuta.create_row_policy('region', 'sales.orders', %s)", (BY_REGION,))
    service = ruled.world.connect()
    impersonate(service, ruled.world.token("ann"))
    query(service, "SET LOCAL user_attribute.region = 'US'; SET LOCAL search_path = pg_temp, public")
    query(service, "CREATE FUNCTION pg_temp.user_attribute(text) RETURNS text LANGUAGE sql AS $$ SELECT 'US' $$")
    query(service, "CREATE FUNCTION pg_temp.session_state() RETURNS text LANGUAGE sql AS $$ SELECT 'ben' $$")
    assert query(service, "SELECT sum(amount) FROM sales.orders") == [(4,)]
    assert query(service, "SELECT immuta.user_attribute('region'), immuta.user_attribute('none')") == [("EU", None)]
    service.rollback()
    impersonate(service, ruled.world.token("ben"))
    assert query(service, "SELECT sum(amount) FROM sales.orders") == [(2,)]
    service.rollback()
    # Without a token there is no user.
    assert query(service, "SELECT immuta.user_attribute('region'), immuta.user_attribute_values('region'), immuta.user_in_group('x')") == [
        (None, None, False)]
    service.close()


def test_prepared_statements_are_each_users_own(ruled):
    ruled.sql("SELECT immuta.create_row_policy('region', 'sales.orders', %s)", (BY_REGION,))
    import psycopg
    with psycopg.connect(**ruled.world.server.dsn("svc", "service-password", "immuta"), prepare_threshold=0) as service:
        for _ in range(8):
            for user, seen in (("ann", 4), ("ben", 2)):
                service.execute("SELECT set_config('bodata.impersonation_token', %s, true)", (ruled.world.token(user),))
                assert service.execute("SELECT sum(amount) FROM sales.orders").fetchone() == (seen,)
                service.commit()


def test_the_attribute_is_looked_up_once_in_a_query(ruled):
    ruled.sql("SELECT immuta.create_row_policy('region', 'sales.orders', %s)", (BY_REGION,))
    ruled.ddl("INSERT INTO sales.orders (region, amount) SELECT 'EU', i FROM generate_series(1, 2000) i; ANALYZE sales.orders")
    ruled.world.sql("ALTER DATABASE immuta SET track_functions = 'all'")
    try:
        calls = "SELECT coalesce(sum(calls), 0)::int FROM pg_stat_user_functions WHERE funcname = 'user_attribute'"
        before = ruled.world.value(calls)
        assert reads(ruled, "ann", COUNT) == [(2002,)]
        for _ in range(100):
            query(ruled.system, "SELECT pg_sleep(0.05)")
            if ruled.world.value(calls) > before:
                break
        assert ruled.world.value(calls) == before + 1
    finally:
        ruled.world.sql("ALTER DATABASE immuta RESET track_functions")
    service = ruled.world.connect()
    impersonate(service, ruled.world.token("ann"))
    plan = "\n".join(line for line, in query(service, "EXPLAIN SELECT * FROM sales.orders"))
    service.close()
    assert "InitPlan" in plan, plan


def test_a_function_for_each_row_is_warned_of(ruled):
    ruled.system.notices.clear()
    ruled.sql("SELECT immuta.create_row_policy('slow', 'sales.orders', %s)", ("region = immuta.user_attribute('region')",))
    assert any("calls a function for each row" in n for n in ruled.system.notices)
    assert reads(ruled, "ann", COUNT) == [(2,)]


def test_ownership_that_was_taken_away_again_is_told(ruled):
    """What was granted in the owner's name only the owner can take back: never silently."""
    ruled.ddl("CREATE TABLE sales.owned (amount int, hidden int); INSERT INTO sales.owned VALUES (1), (2); CREATE TABLE sales.partly (a int, b int); REVOKE ALL ON sales.partly FROM immuta_system; REVOKE ALL ON sales.owned FROM immuta_system")
    ruled.sql("SELECT immuta.subscribe('ann', 'sales.owned'), immuta.subscribe('ben', 'sales.owned', 'WRITE')")
    ruled.sql("SELECT immuta.create_row_policy('one', 'sales.owned', 'amount = 1')")
    ruled.sql("SELECT immuta.register_data_source('sales.partly', exclude_columns => '{b}'), immuta.subscribe('ben', 'sales.partly')")
    assert ruled.drift() == []
    ruled.world.sql("REVOKE data_owner FROM immuta_system")
    with refuses("42501") as seen:
        ruled.sql("SELECT immuta.unsubscribe('ben', 'sales.partly')")
    assert "SELECT (a)" in seen.message
    with refuses("42501") as seen:
        ruled.sql("SELECT immuta.unsubscribe('ben', 'sales.owned')")
    assert "not revoked" in seen.message and "owner" in seen.hint
    ruled.system.notices.clear()
    ruled.sql("SELECT immuta.unregister_schema('sales')")
    assert any("row policies" in n for n in ruled.system.notices) and any("not revoked" in n for n in ruled.system.notices)
    # Row security goes on hiding what it hid. The grant is left, as the warning said.
    ruled.ddl("GRANT USAGE ON SCHEMA sales TO user_ann")
    assert reads(ruled, "ann", "SELECT amount FROM sales.owned") == [(1,)]
    ruled.world.sql("GRANT data_owner TO immuta_system")


def test_they_go_with_the_schema(ruled):
    """At once, and once: what is DDL itself is not followed by the same again."""
    ruled.sql("SELECT immuta.create_row_policy('region', 'sales.orders', %s), immuta.create_row_policy('none', 'sales.customers', 'false')",
              (BY_REGION,))
    ruled.system.notices.clear()
    ruled.sql("SELECT immuta.unregister_schema('sales')")
    assert ruled.system.notices == [] and ruled.world.sql("SELECT * FROM immuta.pending_sync") == []
    assert ruled.world.sql("SELECT polname FROM pg_policy p JOIN pg_class c ON c.oid = polrelid WHERE relnamespace = 'sales'::regnamespace") == []
    assert ruled.world.sql("SELECT relname FROM pg_class WHERE relnamespace = 'sales'::regnamespace AND relrowsecurity") == []


def test_who_else_has_rights_is_told(ruled):
    ruled.ddl("GRANT SELECT ON sales.orders TO plain")
    ruled.system.notices.clear()
    ruled.sql("SELECT immuta.create_row_policy('region', 'sales.orders', %s)", (BY_REGION,))
    assert any("no longer has rows for plain" in n for n in ruled.system.notices), ruled.system.notices


def test_without_ownership_it_is_refused(sales):
    with refuses("42501") as seen:
        sales.sql("SELECT immuta.create_row_policy('region', 'sales.orders', 'true')")
    assert "GRANT data_owner TO" in seen.hint
    assert sales.sql("SELECT * FROM immuta.row_policies") == []


@pytest.mark.parametrize("expression", [
    "true); ALTER ROLE plain CREATEROLE; --", "true) WITH CHECK (true", "true; DROP TABLE sales.orders", "true) AND (false",
    "true FROM sales.orders", "true WHERE true", "true, false", "true AS x", "true x", "DISTINCT true", "true LIMIT 1", "true FOR UPDATE",
    "true /*", "", " ", "'", "SELECT true", "$$", "true ORDER BY 1", "true\n); SELECT 1; --", "true UNION SELECT true",
    "1", "nothing = 1", "(", ")", "E'\\'; DROP TABLE x; --'"])
def test_nothing_but_one_expression(ruled, expression):
    with pytest.raises(Exception) as raised:
        ruled.sql("SELECT immuta.create_row_policy('x', 'sales.orders', %s)", (expression,))
    assert raised.value.pgcode in ("42601", "42804", "42703", "42P01", "22P02"), raised.value
    assert ruled.sql("SELECT * FROM immuta.row_policies") == []
    assert ruled.world.sql("SELECT rolcreaterole FROM pg_roles WHERE rolname = 'plain'") == [(False,)]
    assert reads(ruled, "ann", COUNT) == [(3,)]


@pytest.mark.parametrize("expression", [
    "true -- a comment", "true /* ) */", "(amount > 1) AND (region <> ';')", "region = '''; --'", "EXISTS (SELECT 1 WHERE amount > 1)",
    "amount IN (1, 3)"])
def test_expressions_of_all_kinds(ruled, expression):
    ruled.sql("SELECT immuta.create_row_policy('x', 'sales.orders', %s)", (expression,))
    assert ruled.world.value("SELECT count(*) FROM pg_policy WHERE polrelid = 'sales.orders'::regclass") == 2


def test_settings_of_the_session_do_not_change_what_is_parsed(ruled):
    """With standard_conforming_strings off the same text could end elsewhere."""
    ruled.sql("SET standard_conforming_strings = off")
    try:
        with pytest.raises(Exception):
            ruled.sql("SELECT immuta.create_row_policy('x', 'sales.orders', convert_from(decode(%s, 'hex'), 'UTF8'))",
                      (r"region = '\'); ALTER ROLE plain CREATEROLE; --'".encode().hex(),))
        ruled.sql("SELECT immuta.create_row_policy('x', 'sales.orders', convert_from(decode(%s, 'hex'), 'UTF8'))",
                  (r"region <> '\'".encode().hex(),))
    finally:
        ruled.sql("RESET standard_conforming_strings")
    assert reads(ruled, "ann", COUNT) == [(3,)]


@pytest.mark.parametrize("relation, sqlstate", [("sales.totals", "42809"), ("pg_class", "42704")])
def test_not_every_relation_has_rows_to_rule(ruled, relation, sqlstate):
    with refuses(sqlstate) as seen:
        ruled.sql("SELECT immuta.create_row_policy('x', %s, 'true')", (relation,))
    assert sqlstate != "42809" or "security invoker" in seen.hint


def test_they_go_with_the_table(ruled):
    ruled.sql("SELECT immuta.create_row_policy('region', 'sales.orders', %s)", (BY_REGION,))
    ruled.ddl("ALTER TABLE sales.orders RENAME TO sold")
    assert reads(ruled, "ben", "SELECT count(*) FROM sales.sold") == [(1,)]
    ruled.ddl("ALTER TABLE sales.sold SET SCHEMA other")
    assert ruled.sql("SELECT * FROM immuta.row_policies") == []
    assert ruled.world.sql("SELECT relrowsecurity FROM pg_class WHERE oid = 'other.sold'::regclass") == [(False,)]


def test_a_lost_row_policy_is_drift_and_comes_back(ruled):
    ruled.sql("SELECT immuta.create_row_policy('region', 'sales.orders', %s)", (BY_REGION,))
    ruled.sql("SELECT immuta.register_data_source('sales.totals')")
    name = ruled.value("SELECT policy_name FROM immuta.row_policies")
    ruled.ddl(f"DROP POLICY {name} ON sales.orders")
    assert ruled.drift() == [("row policy missing", "sales.orders", "region")]
    assert ruled.sql("SELECT * FROM immuta.sync()") == [("row policy created", "sales.orders", "region")]
    assert reads(ruled, "ben", COUNT) == [(1,)] and ruled.drift() == []


@pytest.fixture
def admin(ruled):
    """A member of immuta_admin with a schema of their own, in which they plant what should run for others."""
    ruled.world.sql("CREATE ROLE adm LOGIN PASSWORD 'adm' IN ROLE immuta_admin; CREATE SCHEMA adm AUTHORIZATION adm;"
                    "GRANT USAGE ON SCHEMA adm TO PUBLIC; GRANT USAGE ON SCHEMA sales TO adm; CREATE TABLE adm.seen (who text);"
                    "GRANT INSERT, SELECT ON adm.seen TO PUBLIC")
    session = ruled.login("adm", "adm")
    yield session
    session.close()
    ruled.world.sql("SET client_min_messages = error; DROP OWNED BY adm CASCADE; DROP ROLE adm;"
                    "RESET client_min_messages")


TRAP = ("CREATE FUNCTION adm.trap() RETURNS boolean LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO adm.seen VALUES (current_user); RETURN true; END $$")


@pytest.mark.parametrize("planted, expression", [
    (TRAP + "; CREATE DOMAIN adm.d AS int CHECK (VALUE > 0 AND adm.trap())", "'{1}'::adm.d[] IS NOT NULL"),
    (TRAP + "; CREATE DOMAIN adm.d AS int CHECK (adm.trap()); CREATE TYPE adm.c AS (a adm.d)", "'(1)'::adm.c IS NOT NULL"),
    (TRAP + "; CREATE DOMAIN adm.d AS int CHECK (adm.trap()); CREATE FUNCTION adm.f(adm.d[]) RETURNS bool LANGUAGE sql "
     "SET search_path = pg_catalog, pg_temp RETURN true", "adm.f('{1}')"),
    # What came with PostgreSQL can run statements as well.
    ("CREATE DOMAIN adm.d AS text CHECK (query_to_xml('SELECT 1', true, true, '') IS NOT NULL)", "'{x}'::adm.d[] IS NOT NULL"),
    # A cast that to_json() finds by itself.
    (TRAP + "; CREATE TYPE adm.t AS (a int); CREATE FUNCTION adm.j(adm.t) RETURNS json IMMUTABLE LANGUAGE plpgsql AS "
     "$$ BEGIN INSERT INTO adm.seen VALUES (current_user); RETURN '1'; END $$; CREATE CAST (adm.t AS json) WITH FUNCTION adm.j(adm.t);"
     "CREATE DOMAIN adm.d AS int CHECK (to_json(ROW(VALUE)::adm.t) IS NOT NULL)", "'{1}'::adm.d[] IS NOT NULL")])
def test_nothing_planted_runs_for_the_system_account(ruled, admin, planted, expression):
    query(admin, planted)
    with refuses("42501"):
        query(admin, "SELECT immuta.create_row_policy('x', 'sales.orders', %s)", (expression,))
    with refuses("42501"):
        ruled.sql("SELECT immuta.create_row_policy('x', 'sales.orders', %s)", (expression,))
    assert ruled.world.sql("SELECT * FROM adm.seen") == []
    # The restriction ended with the error.
    if "trap" in planted:
        ruled.sql("SELECT adm.trap()")


def test_who_writes_a_row_policy_may_name_what_he_may_see(ruled, admin):
    ruled.world.sql("CREATE SCHEMA closed; CREATE FUNCTION closed.f() RETURNS bool LANGUAGE sql SET search_path = pg_catalog, pg_temp "
                    "RETURN true; GRANT USAGE ON SCHEMA closed TO immuta_system")
    try:
        with refuses("42501"):
            query(admin, "SELECT immuta.create_row_policy('x', 'sales.orders', 'closed.f()')")
        ruled.sql("SELECT immuta.create_row_policy('x', 'sales.orders', 'closed.f()')")
    finally:
        ruled.sql("SELECT immuta.drop_row_policy('x', 'sales.orders')")
        ruled.world.sql("SET client_min_messages = error; DROP SCHEMA closed CASCADE; RESET client_min_messages")


def test_the_owner_of_a_table_plants_nothing_for_sync(ruled):
    """They change a column and drop the policy; an honest administrator repairs it."""
    ruled.ddl("CREATE TABLE sales.t (a text); CREATE TABLE sales.seen (who text); GRANT ALL ON sales.seen TO PUBLIC")
    ruled.sql("SELECT immuta.create_row_policy('a', 'sales.t', $$a = '{x}'$$)")
    name = ruled.value("SELECT policy_name FROM immuta.row_policies")
    ruled.ddl(f"DROP POLICY {name} ON sales.t; CREATE FUNCTION sales.trap() RETURNS boolean LANGUAGE plpgsql AS "
              "$$ BEGIN INSERT INTO sales.seen VALUES (current_user); RETURN true; END $$;"
              "CREATE DOMAIN sales.d AS text CHECK (sales.trap()); ALTER TABLE sales.t ALTER a TYPE sales.d[] USING NULL")
    with refuses("42501") as seen:
        ruled.sql("SELECT * FROM immuta.sync()")
    assert "sales.trap" in seen.message
    assert ruled.world.sql("SELECT * FROM sales.seen") == []


def test_domains_with_harmless_constraints_are_fine(ruled):
    ruled.ddl("CREATE DOMAIN sales.positive AS int CHECK (VALUE > 0)")
    ruled.sql("SELECT immuta.create_row_policy('x', 'sales.orders', $$amount = ANY ('{1,2}'::sales.positive[])$$)")
    assert reads(ruled, "ann", COUNT) == [(2,)]


PLAIN = "CREATE FUNCTION sales.mine(r text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN length(r) = 2; END $$;"


@pytest.mark.parametrize("made, expression", [
    (PLAIN, "sales.mine(region)"),
    (PLAIN + "CREATE FUNCTION sales.outer(r text) RETURNS boolean LANGUAGE sql BEGIN ATOMIC SELECT sales.mine(r); END", "sales.outer(region)"),
    (PLAIN + "CREATE FUNCTION sales.eq(a text, b int) RETURNS boolean LANGUAGE sql AS 'SELECT length(a) = b';"
     "CREATE OPERATOR sales.=== (LEFTARG = text, RIGHTARG = int, FUNCTION = sales.eq)", "region OPERATOR(sales.===) 2"),
    (PLAIN + "CREATE DOMAIN sales.two AS text CHECK (sales.mine(VALUE))", "(region || '')::sales.two IS NOT NULL"),
    (PLAIN + "CREATE VIEW sales.v AS SELECT id FROM sales.customers WHERE sales.mine(name)", "id IN (SELECT id FROM sales.v)"),
    (PLAIN + "ALTER FUNCTION sales.mine SET search_path = \"$user\", pg_catalog, pg_temp", "sales.mine(region)"),
    *((PLAIN + "ALTER FUNCTION sales.mine SET search_path = " + path, "sales.mine(region)") for path in (
        "''", "pg_catalog", "sales, pg_catalog", "pg_temp, pg_catalog", "pg_temp, pg_catalog, pg_temp", "pg_temp_3, pg_temp",
        "'a, pg_temp'", '"x, pg_temp"', '"x"", pg_temp"'))])
def test_what_decides_does_not_depend_on_the_readers_path(ruled, made, expression):
    ruled.ddl(made)
    with refuses("42501") as seen:
        ruled.sql("SELECT immuta.create_row_policy('x', 'sales.orders', %s)", (expression,))
    assert "SET search_path" in seen.hint and "sales." in seen.hint
    assert ruled.sql("SELECT * FROM immuta.row_policies") == []
    assert reads(ruled, "ann", COUNT) == [(3,)]


@pytest.mark.parametrize("made", [
    PLAIN + "ALTER FUNCTION sales.mine SET search_path = pg_catalog, pg_temp",
    PLAIN + "ALTER FUNCTION sales.mine SET search_path = 'A \"b', pg_catalog, \"pg_temp\"",
    "CREATE FUNCTION sales.mine(r text) RETURNS boolean LANGUAGE sql BEGIN ATOMIC SELECT length(r) = 2; END"])
def test_a_path_that_is_set_is_not_the_readers(ruled, made):
    ruled.ddl(made + "; GRANT USAGE ON SCHEMA sales TO PUBLIC")
    ruled.sql("SELECT immuta.create_row_policy('x', 'sales.orders', $$sales.mine(region) AND region = 'EU'$$)")
    service = ruled.world.connect()
    ruled.world.sql("CREATE SCHEMA own AUTHORIZATION user_ann; SET ROLE user_ann;"
                    "CREATE FUNCTION own.length(text) RETURNS int LANGUAGE sql AS 'SELECT 1'; RESET ROLE")
    try:
        impersonate(service, ruled.world.token("ann"))
        query(service, "SET LOCAL search_path = own, pg_catalog")
        assert query(service, COUNT) == [(2,)]
    finally:
        service.close()
        ruled.world.sql("SET client_min_messages = error; DROP SCHEMA own CASCADE; RESET client_min_messages")


@pytest.mark.parametrize("path", ["sales", "pg_catalog"])
def test_temporary_objects_do_not_take_the_place_of_what_decides(ruled, path):
    """Without pg_temp in the path a reader's temporary tables and types come before everything else."""
    ruled.ddl("CREATE TABLE sales.allowed (region text); INSERT INTO sales.allowed VALUES ('EU'); GRANT SELECT ON sales.allowed TO PUBLIC;"
              "CREATE FUNCTION sales.allows(r text) RETURNS boolean LANGUAGE plpgsql STABLE AS "
              "'BEGIN RETURN EXISTS (SELECT FROM allowed a WHERE a.region = r::text); END'; GRANT USAGE ON SCHEMA sales TO PUBLIC;"
              f"ALTER FUNCTION sales.allows SET search_path = {path}")
    with refuses("42501") as seen:
        ruled.sql("SELECT immuta.create_row_policy('x', 'sales.orders', 'sales.allows(region)')")
    assert seen.hint.startswith("ALTER FUNCTION sales.allows(text) SET search_path = pg_catalog, pg_temp")
    ruled.ddl("ALTER FUNCTION sales.allows SET search_path = sales, pg_temp")
    ruled.sql("SELECT immuta.create_row_policy('x', 'sales.orders', 'sales.allows(region)')")
    ruled.world.sql("GRANT TEMPORARY ON DATABASE immuta TO user_ann")
    service = ruled.world.connect()
    try:
        impersonate(service, ruled.world.token("ann"))
        assert query(service, COUNT) == [(2,)]
        query(service, "CREATE TEMP TABLE allowed AS SELECT 'US'::text AS region")
        assert query(service, COUNT) == [(2,)]
    finally:
        service.close()
        ruled.world.sql("REVOKE TEMPORARY ON DATABASE immuta FROM user_ann")


def test_a_path_that_was_lost_is_drift(ruled):
    ruled.ddl(PLAIN + "ALTER FUNCTION sales.mine SET search_path = pg_catalog, pg_temp; DROP VIEW sales.totals")
    ruled.sql("SELECT immuta.create_row_policy('x', 'sales.orders', 'sales.mine(region)')")
    assert ruled.drift() == []
    for lost in ("SET search_path = pg_catalog", "RESET search_path"):
        ruled.ddl(f"ALTER FUNCTION sales.mine {lost}")
        assert ruled.drift() == [("row policy unsafe", "sales.orders", "x: no search_path that ends with pg_temp is set for sales.mine(text)")]
    ruled.system.notices.clear()
    assert ruled.sql("SELECT * FROM immuta.sync()") == []
    assert any("depends on the search_path" in n for n in ruled.system.notices)
    # Nor is it made again like that.
    name = ruled.value("SELECT policy_name FROM immuta.row_policies")
    ruled.ddl(f"DROP POLICY {name} ON sales.orders")
    with refuses("42501"):
        ruled.sql("SELECT * FROM immuta.sync()")


# What names no column of its target, which PostgreSQL gives no policy of SELECT then.
MERGES = {
    "INSERT": "MERGE INTO pg_temp.seen USING (VALUES (1)) v (i) ON true WHEN NOT MATCHED THEN INSERT (id) VALUES (9)",
    "DELETE": "MERGE INTO pg_temp.seen USING (VALUES (1)) v (i) ON true WHEN MATCHED AND false THEN DELETE",
    "UPDATE": "MERGE INTO pg_temp.seen USING (VALUES (1)) v (i) ON true WHEN MATCHED AND false THEN UPDATE SET region = 'x'",
    "in a CTE": "WITH m AS (MERGE INTO pg_temp.seen USING (VALUES (1)) v (i) ON true WHEN NOT MATCHED THEN INSERT (id) VALUES (9) RETURNING 1) SELECT 1",
    "in a body": "CREATE FUNCTION pg_temp.body() RETURNS void BEGIN ATOMIC MERGE INTO pg_temp.seen USING (VALUES (1)) v (i) ON true "
                 "WHEN NOT MATCHED THEN INSERT (id) VALUES (9); END; SELECT pg_temp.body()",
    "of the table": "MERGE INTO sales.orders USING (VALUES (1)) v (i) ON pg_temp.tell(NULL) WHEN NOT MATCHED THEN INSERT (id) VALUES (9)",
    "of a view": "MERGE INTO pg_temp.more USING (VALUES (1)) v (i) ON true WHEN NOT MATCHED THEN INSERT (id) VALUES (9)",
    "of an invoker's view": "MERGE INTO pg_temp.invoker USING (VALUES (1)) v (i) ON true WHEN NOT MATCHED THEN INSERT (id) VALUES (9)",
}


@pytest.mark.skipif(int(VERSION) < 15, reason="no MERGE")
@pytest.mark.parametrize("merge", [merge for merge in MERGES if int(VERSION) >= 17 or merge == "of the table"])
def test_merge_does_not_read_hidden_rows(ruled, merge):
    """It names a column, or is refused: also without a token."""
    ruled.sql("SELECT immuta.create_row_policy('region', 'sales.orders', $$region = 'EU'$$)")
    made = ("CREATE FUNCTION pg_temp.tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$BEGIN RAISE NOTICE 'told %', $1; RETURN true; END$$;"
            "CREATE TEMP VIEW seen AS SELECT id, region FROM sales.orders WHERE pg_temp.tell(region); CREATE TEMP VIEW more AS SELECT * FROM seen;"
            "CREATE TEMP VIEW invoker WITH (security_invoker) AS SELECT id, region FROM sales.orders WHERE pg_temp.tell(region)")
    ruled.world.sql("ALTER ROLE %s LOGIN PASSWORD 'own-password'" % ruled.role("ann"))
    own = ruled.role("ann"), "own-password"
    for login in (SERVICE, own):
        with closing(ruled.world.connect(*login)) as session:
            if login == SERVICE:
                impersonate(session, ruled.world.token("ann"))
            query(session, made + "; SAVEPOINT a")
            session.notices.clear()
            try:
                with refuses("42501", "MERGE_READS_NOTHING") as refused:
                    query(session, MERGES[merge])
                assert "ON" in refused.hint
            finally:
                assert "told" not in str(session.notices)
            query(session, "ROLLBACK TO a; " + MERGES[merge].replace("ON true", "ON id > 0").replace("ON pg_temp.tell(NULL)", "ON id > 0")
                  .replace("VALUES (9)", "VALUES (9, 'EU')").replace("INSERT (id)", "INSERT (id, region)"))
            assert "told US" not in str(session.notices) and ("told EU" in str(session.notices)) == (merge != "of the table")
