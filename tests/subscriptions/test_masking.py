"""Masking policies: whom they except, what they become, and what follows when columns change.

Threats: 67 (docs/threats.md).
"""

import re

import psycopg
import psycopg2
import pytest
from conftest import SYSTEM, VERSION, clean, reads, refuses
from harness.server import ROOT
from harness.world import SERVICE, impersonate, query
from test_concurrency import run_together

GOLDEN = ROOT / "tests" / "golden" / "masking.txt"
TABLE = """
CREATE TABLE sales.people (id int PRIMARY KEY, name text NOT NULL, ssn varchar(11), salary numeric(10,2), born date, region text);
INSERT INTO sales.people VALUES (1, 'Ann Archer', '123-45-6789', 54321.99, '1980-05-17', 'EU'), (2, 'Bo', NULL, 100, '2000-01-31', 'US');
"""
ALL = ["id", "name", "ssn", "salary", "born", "region"]
SSN = "SELECT immuta.create_masking_policy('ssn', 'hash', columns => '{sales.people.ssn}', except_groups => '{hr}')"
NULLED = "SELECT immuta.create_masking_policy(%s, 'null', columns => %s, except_groups => '{hr}')"


@pytest.fixture
def masking(sales):
    """ann and ben read the people, ann by herself, ben by a policy."""
    sales.ddl("DROP VIEW sales.totals")
    sales.ddl(TABLE)
    sales.sql("SELECT immuta.subscribe('ann', 'sales.people'), immuta.set_user_groups('ben', '{clerks}')")
    sales.sql("SELECT immuta.create_subscription_policy('clerks', data_sources => '{sales.people}', groups => '{clerks}')")
    yield sales
    for (name,) in sales.world.sql("SELECT name FROM immuta.masking_policy"):
        sales.world.sql("SELECT immuta.drop_masking_policy(%s)", (name,))
    for leftover in ("masks", "mask_parameters", "access_class WHERE masking_policy_id IS NOT NULL"):
        assert sales.world.value(f"SELECT count(*) FROM immuta.{leftover}") == 0


def columns(office, userid, privilege="SELECT", table="sales.people"):
    return [name for (name,) in office.world.sql(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped "
        "AND has_column_privilege(%s, attrelid, attnum, %s) ORDER BY attnum", (table, office.role(userid), privilege))]


def but(*names):
    return [name for name in ALL if name not in names]


def in_step(office):
    assert office.drift() == [] and office.sql("SELECT * FROM immuta.sync()") == []
    return True


def test_who_is_excepted_reads_the_column(masking):
    assert columns(masking, "ann") == columns(masking, "ben") == ALL
    masking.sql(SSN)
    assert columns(masking, "ann") == columns(masking, "ben") == but("ssn") and in_step(masking)
    for user in ("ann", "ben"):
        masking.sql("SELECT immuta.add_user_to_group(%s, 'hr')", (user,))
        assert columns(masking, user) == ALL and in_step(masking)
        assert reads(masking, user, "SELECT ssn FROM sales.people WHERE id = 1") == [("123-45-6789",)]
        masking.sql("SELECT immuta.remove_user_from_group(%s, 'hr')", (user,))
        assert columns(masking, user) == but("ssn") and in_step(masking)
        [(masked,), (none,)] = reads(masking, user, "SELECT ssn FROM sales.people ORDER BY id")
        assert re.fullmatch("[0-9a-f]{11}", masked) and none is None
        assert masking.sql("SELECT * FROM immuta.why(%s, 'sales.people')", (user,))[-1] == ("masking policy", "ssn", True, "ssn: hash")
    assert masking.sql("SELECT immuta.drop_masking_policy('ssn')") == [(True,)]
    assert masking.sql("SELECT immuta.drop_masking_policy('ssn')") == [(False,)]
    assert columns(masking, "ann") == columns(masking, "ben") == ALL and in_step(masking)


@pytest.mark.parametrize("exception,excepted", [
    ("except_groups => '{hr,boss}'", "SELECT immuta.add_user_to_group(%s, 'boss')"),
    ("except_attributes => '{\"level\": [\"3\", \"4\"]}'", "SELECT immuta.set_user_attribute(%s, 'level', '{4}')"),
    ("except_expression => '$.attributes.level[*].double() > 2'", "SELECT immuta.set_user_attribute(%s, 'level', '{4}')"),
    ("except_groups => '{clerks}', except_attributes => '{\"level\": \"4\"}'",
     "SELECT immuta.add_user_to_group(u, 'clerks'), immuta.set_user_attribute(u, 'level', '{4}') FROM (SELECT %s) t (u)")])
def test_exceptions_are_those_of_policies(masking, exception, excepted):
    masking.sql(f"SELECT immuta.create_masking_policy('m', 'null', columns => '{{sales.people.ssn,sales.people.salary}}', {exception})")
    for user in ("ann", "ben"):
        assert columns(masking, user) == but("ssn", "salary")
        masking.sql(excepted, (user,))
        assert columns(masking, user) == ALL
    assert in_step(masking)
    masking.sql("SELECT immuta.create_masking_policy('m', 'null', columns => '{sales.people.ssn}', except_groups => '{none}', replace => true)")
    assert columns(masking, "ann") == columns(masking, "ben") == but("ssn") and in_step(masking)


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
def test_plans_follow_exceptions(masking, mode):
    """A statement that a driver keeps, while the user is excepted and is so no more: when nothing changes but memberships, too."""
    masking.sql(SSN + ", immuta.add_user_to_group('ben', 'hr')")
    dsn = masking.world.server.dsn(*SERVICE, masking.world.dbname, options=f"-c plan_cache_mode={mode}")
    with psycopg.connect(**dsn, prepare_threshold=0) as connection:
        for change in ("add_user_to_group", "remove_user_from_group") * 2:
            masking.sql(f"SELECT immuta.{change}('ann', 'hr')")
            connection.execute(f"SET LOCAL bodata.impersonation_token = '{masking.world.token('ann')}'", prepare=False)
            [(ssn,)] = connection.execute("SELECT ssn FROM sales.people WHERE id = %s", (1,)).fetchall()
            assert (ssn == "123-45-6789") is (change == "add_user_to_group")
            connection.commit()


def test_an_exception_gives_no_access(masking):
    """Neither to who is not subscribed, nor beyond what a required policy allows."""
    masking.sql("SELECT immuta.create_user('cleo'), immuta.set_user_groups('cleo', '{hr}'), immuta.subscribe('cleo', 'sales.orders')")
    masking.sql(SSN)
    assert columns(masking, "cleo") == []
    masking.sql("SELECT immuta.create_subscription_policy('required', data_sources => '{sales.people}', groups => '{trained}', combine => 'all')")
    masking.sql("SELECT immuta.add_user_to_group('ben', 'hr')")
    assert columns(masking, "ben") == []
    masking.sql("SELECT immuta.add_user_to_group('ben', 'trained')")
    assert columns(masking, "ben") == ALL
    masking.sql("SELECT immuta.remove_user_from_group('ben', 'clerks')")
    assert columns(masking, "ben") == [] and in_step(masking)
    masking.sql("SELECT immuta.add_user_to_group('ann', 'hr'), immuta.unsubscribe('ann', 'sales.people')")
    assert columns(masking, "ann") == [] and in_step(masking)


def test_who_writes_never_writes_a_mask(masking):
    """INSERT, UPDATE and REFERENCES on a masked column are for those who are excepted and write."""
    masking.sql("SELECT immuta.subscribe('ann', 'sales.people', 'WRITE')")
    masking.sql("SELECT immuta.create_subscription_policy('clerks', data_sources => '{sales.people}', groups => '{clerks}', "
                "access => 'WRITE', replace => true)")
    masking.sql(SSN)
    for user in ("ann", "ben"):
        assert masking.world.sql("SELECT has_table_privilege(%s, 'sales.people', 'DELETE')", (masking.role(user),)) == [(True,)]
        for privilege in ("INSERT", "UPDATE"):
            assert columns(masking, user, privilege) == but("ssn")
        masking.sql("SELECT immuta.add_user_to_group(%s, 'hr')", (user,))
        for privilege in ("INSERT", "UPDATE"):
            assert columns(masking, user, privilege) == ALL
        assert columns(masking, user, "REFERENCES") == []
    masking.sql("SELECT immuta.subscribe('ann', 'sales.people')")
    assert columns(masking, "ann") == ALL and columns(masking, "ann", "UPDATE") == [] and in_step(masking)


def test_columns_by_tags(masking):
    masking.sql("SELECT immuta.create_masking_policy('pii', 'null', column_tags => '{pii,secret}', except_groups => '{hr}')")
    assert columns(masking, "ann") == ALL
    masking.sql("SELECT immuta.tag_column('sales.people.ssn', 'pii', 'numbers'), immuta.tag_column('sales.people.born', 'secret')")
    assert columns(masking, "ann") == columns(masking, "ben") == but("ssn", "born") and in_step(masking)
    assert masking.sql("SELECT column_name, tags FROM immuta.column_tags") == [("born", ["secret"]), ("ssn", ["numbers", "pii"])]
    masking.sql("SELECT immuta.add_user_to_group('ben', 'hr'), immuta.untag_column('sales.people.ssn', 'pii')")
    assert columns(masking, "ann") == but("born") and columns(masking, "ben") == ALL
    # A column that comes with a tag of a former one, and one that is tagged when it comes.
    masking.ddl("ALTER TABLE sales.people DROP COLUMN born; ALTER TABLE sales.people ADD COLUMN born text, ADD COLUMN phone text")
    assert columns(masking, "ann") == ["id", "name", "ssn", "salary", "region", "phone"]
    masking.sql("SELECT immuta.tag_column('sales.people.phone', 'pii')")
    assert columns(masking, "ann") == ["id", "name", "ssn", "salary", "region"] and in_step(masking)
    masking.sql("SELECT immuta.untag_column('sales.people.phone', 'pii'), immuta.untag_column('sales.people.born', 'secret'),"
                " immuta.untag_column('sales.people.ssn', 'numbers')")
    assert masking.world.sql("SELECT * FROM immuta.named_column") == [] and in_step(masking)


def test_two_policies_on_one_column(masking):
    masking.sql(SSN)
    masking.sql("SELECT immuta.create_masking_policy('pii', 'null', column_tags => '{pii}')")
    for statement in ("SELECT immuta.tag_column('sales.people.ssn', 'pii')",
                      "SELECT immuta.create_masking_policy('other', 'null', columns => '{sales.people.name,sales.people.ssn}')"):
        with refuses("42710") as refused:
            masking.sql(statement)
        assert "ssn" in refused.message and "A column has one mask" in refused.hint
    assert columns(masking, "ann") == but("ssn") and in_step(masking)
    # Where DDL brings them together nobody sees the column, and nothing is excepted.
    masking.sql("SELECT immuta.tag_column('sales.people.region', 'pii'), immuta.add_user_to_group('ann', 'hr')")
    masking.ddl("ALTER TABLE sales.people DROP COLUMN region; ALTER TABLE sales.people RENAME ssn TO region")
    assert columns(masking, "ann") == ["id", "name", "salary", "born"]
    assert masking.world.sql("SELECT column_name, mask, policy_id FROM immuta.masks") == [("region", "", None)]
    [(what, object, detail)] = masking.drift()
    assert (what, object) == ("column refused", "sales.people.region") and '"pii", "ssn"' in detail
    masking.sql("SELECT immuta.drop_masking_policy('pii')")
    assert columns(masking, "ann") == ["id", "name", "region", "salary", "born"] and in_step(masking)


def test_columns_that_change(masking):
    masking.sql(SSN)
    masking.sql("SELECT immuta.add_user_to_group('ben', 'hr')")
    mask = "SELECT column_name, column_number, mask ~ 'number' FROM immuta.masks"
    masking.ddl("ALTER TABLE sales.people RENAME ssn TO number")
    assert reads(masking, "ann", "SELECT length(number) FROM sales.people WHERE id = 1") == [(11,)]
    assert masking.world.sql(mask) == [("number", 3, True)] and "number" not in columns(masking, "ann") and "number" in columns(masking, "ben")
    # Whoever adds the former name does not get it granted.
    masking.ddl("ALTER TABLE sales.people ADD COLUMN ssn text")
    assert columns(masking, "ann") == but("ssn") and in_step(masking)
    masking.ddl("ALTER TABLE sales.people DROP COLUMN ssn; ALTER TABLE sales.people ALTER number TYPE varchar(5) USING left(number, 5)")
    assert "left" in masking.world.value("SELECT mask FROM immuta.masks") and in_step(masking)
    # A type that the method is not for: subscribers are refused the column, whoever is excepted reads it.
    masking.ddl("ALTER TABLE sales.people ALTER number TYPE boolean USING true")
    assert masking.world.sql("SELECT mask FROM immuta.masks") == [("",)]
    assert "number" not in columns(masking, "ann") and "number" in columns(masking, "ben")
    [(what, object, detail)] = masking.drift()
    assert (what, object) == ("column refused", "sales.people.number") and "not for columns of type boolean" in detail
    assert masking.sql("SELECT state FROM immuta.masked_columns") == [(detail,)]
    assert masking.sql("SELECT ok FROM immuta.doctor() WHERE \"check\" = 'masked columns are masked'") == [(False,)]
    assert [row for row in masking.sql("SELECT * FROM immuta.why('ann', 'sales.people')") if row[0] == "masking policy"] == [
        ("masking policy", "ssn", True, "number: refused, as it has no mask: see immuta.masked_columns")]
    with refuses("42501", "MASKED_COLUMN") as refused:
        reads(masking, "ann", "SELECT number FROM sales.people")
    assert "replace the masking policy" in refused.hint
    assert reads(masking, "ann", "SELECT name FROM sales.people WHERE id = 2") == [("Bo",)]
    masking.ddl("ALTER TABLE sales.people ALTER number TYPE text")
    assert masking.world.sql("SELECT mask <> '' FROM immuta.masks") == [(True,)] and in_step(masking)
    masking.ddl("ALTER TABLE sales.people DROP COLUMN number")
    assert masking.world.sql("SELECT * FROM immuta.masks") == [] and in_step(masking)


def test_tables_that_change(masking):
    masking.sql(SSN)
    masks = "SELECT table_oid::regclass::text, schema_name || '.' || table_name || '.' || column_name FROM immuta.masks"
    masking.ddl("ALTER TABLE sales.people RENAME TO folk")
    assert masking.world.sql(masks) == [("sales.folk", "sales.folk.ssn")] and columns(masking, "ann", table="sales.folk") == but("ssn")
    masking.world.sql("ALTER SCHEMA sales RENAME TO moved")
    assert masking.world.sql(masks) == [("moved.folk", "moved.folk.ssn")] and in_step(masking)
    masking.world.sql("ALTER SCHEMA moved RENAME TO sales")
    # What takes its place is nobody's until it is confirmed.
    masking.ddl("DROP TABLE sales.folk; CREATE TABLE sales.folk (id int, ssn text)")
    assert masking.world.sql(masks) == [] and columns(masking, "ann", table="sales.folk") == []
    assert [row[:2] for row in masking.drift()] == [("not confirmed", "sales.folk")]
    assert masking.sql("SELECT columns FROM immuta.masking_policies") == [([],)]


def test_ddl_under_a_token(masking):
    """Users may own tables: what they do to them is followed in their transaction."""
    masking.sql(SSN)
    masking.world.sql("GRANT data_owner TO user_ben")
    try:
        service = masking.world.connect()
        impersonate(service, masking.world.token("ben"))
        query(service, "ALTER TABLE sales.people RENAME ssn TO number; ALTER TABLE sales.people ADD COLUMN ssn text")
        assert query(service, "SELECT count(*) FROM sales.people") == [(2,)] and service.notices == []
        service.commit()
        service.close()
        assert columns(masking, "ann") == but("ssn")
        assert reads(masking, "ann", "SELECT length(number), ssn FROM sales.people WHERE id = 1") == [(11, None)]
    finally:
        masking.world.sql("REVOKE data_owner FROM user_ben")
    assert in_step(masking)


def test_without_the_event_triggers(masking):
    masking.sql(SSN)
    masking.world.sql("ALTER EVENT TRIGGER immuta_ddl DISABLE; ALTER EVENT TRIGGER immuta_drop DISABLE")
    try:
        masking.ddl("ALTER TABLE sales.people RENAME ssn TO number; ALTER TABLE sales.people ADD COLUMN ssn text")
        assert ("mask differs", "sales.people.number", "immuta.sync() puts it right") in masking.drift()
        assert "number" not in columns(masking, "ann") and "ssn" not in columns(masking, "ann")
        # Nor is it granted with what is granted meanwhile.
        masking.ddl("ALTER TABLE sales.people ADD COLUMN computed text GENERATED ALWAYS AS (left(number, 3)) STORED")
        masking.sql("SELECT immuta.subscribe('ben', 'sales.people', 'WRITE')")
        assert columns(masking, "ben") == columns(masking, "ben", "UPDATE") == ["id", "name", "salary", "born", "region"]
    finally:
        masking.world.sql("ALTER EVENT TRIGGER immuta_ddl ENABLE; ALTER EVENT TRIGGER immuta_drop ENABLE")
    assert [row for row in masking.sql("SELECT what, object FROM immuta.sync()") if row[0].startswith("mask")] == [
        ("mask changed", "sales.people.number"), ("mask added", "sales.people.ssn"), ("mask added", "sales.people.computed")]
    assert in_step(masking)


def test_what_is_computed_from_masked_columns(masking):
    masking.ddl("ALTER TABLE sales.people ADD COLUMN mail text GENERATED ALWAYS AS (name || '@' || region) STORED")
    masking.system.notices.clear()
    masking.sql(NULLED, ("name", "{sales.people.name}"))
    assert any('"mail" of "sales.people" is generated from a masked column' in n for n in masking.system.notices)
    assert columns(masking, "ann") == but("name")
    masking.sql("SELECT immuta.add_user_to_group('ann', 'hr')")
    assert columns(masking, "ann") == [*ALL, "mail"]
    assert reads(masking, "ben", "SELECT id, name, mail FROM sales.people WHERE id = 1") == [(1, None, None)]
    masking.sql("SELECT immuta.create_masking_policy('name', 'partial', columns => '{sales.people.name}', except_groups => '{hr}', replace => true)")
    assert reads(masking, "ben", "SELECT mail FROM sales.people WHERE id = 2") == [("**@US",)]
    assert reads(masking, "ann", "SELECT mail FROM sales.people WHERE id = 2") == [("Bo@US",)]
    # Two policies: neither speaks for what is computed from both.
    masking.sql(NULLED, ("region", "{sales.people.region}"))
    assert columns(masking, "ann") == ALL and in_step(masking)
    masking.ddl("ALTER TABLE sales.people ADD COLUMN hello text GENERATED ALWAYS AS ('Hello ' || name) STORED")
    assert columns(masking, "ben") == but("name", "region") and columns(masking, "ann") == [*ALL, "hello"]
    assert [row[-1] for row in masking.sql("SELECT * FROM immuta.why('ben', 'sales.people')") if row[0] == "masking policy"] == [
        "name: partial", "region: null", "mail: computed from masks", "hello: computed from masks"]


def test_exclusion_and_masks(masking):
    """What is excluded is nobody's, also not those whom a policy excepts."""
    masking.sql(SSN)
    masking.sql("SELECT immuta.add_user_to_group('ann', 'hr'), immuta.register_data_source('sales.people', exclude_columns => '{ssn}')")
    assert columns(masking, "ann") == columns(masking, "ben") == but("ssn")
    assert masking.world.sql("SELECT * FROM immuta.masks") == [] and in_step(masking)
    with refuses("55000") as refused:
        masking.sql("SELECT immuta.create_masking_policy('two', 'null', columns => '{sales.people.ssn}')")
    assert "exclude_columns" in refused.hint
    masking.sql("SELECT immuta.register_data_source('sales.people', exclude_columns => '{}')")
    assert columns(masking, "ann") == ALL and columns(masking, "ben") == but("ssn") and in_step(masking)


def test_a_project_shows_what_all_may_see(masking):
    masking.world.sql("SELECT immuta.create_project('p')")
    try:
        masking.world.sql("SELECT immuta.add_project_member('p', 'ann'), immuta.add_project_member('p', 'ben')")
        masking.world.sql("SELECT immuta.add_project_data_source('p', 'sales.people')")
        shown = "SELECT columns FROM immuta.projects"
        assert masking.sql(shown) == [(ALL,)]
        masking.sql(SSN)
        for group, user, wanted in [("hr", "ann", but("ssn")), ("hr", "ben", ALL), ("clerks", "ben", but("ssn"))]:
            assert masking.sql(shown) == [(but("ssn"),)]
            masking.sql("SELECT immuta.add_user_to_group(%s, %s)", (user, group))
            if wanted == ALL:
                assert masking.sql(shown) == [(ALL,)]
                masking.sql("SELECT immuta.remove_user_from_group('ann', 'hr')")
        assert in_step(masking)
        # ben may read it, and in the project sees what ann sees.
        masking.sql("SELECT immuta.set_current_project('p', 'ben')")
        assert reads(masking, "ben", "SELECT current_user, length(ssn), name FROM sales.people WHERE ssn !~ '-'") == [("project_p", 11, "Ann Archer")]
        masking.sql("SELECT immuta.set_current_project(NULL, 'ben')")
        assert reads(masking, "ben", "SELECT ssn FROM sales.people WHERE id = 1") == [("123-45-6789",)]
    finally:
        masking.world.sql("SELECT immuta.drop_project('p')")


BY_HAND = {
    "PUBLIC": ("GRANT SELECT ON sales.people TO PUBLIC", "REVOKE SELECT ON sales.people FROM PUBLIC",
               [("unmasked by hand", "SELECT on sales.people", "to PUBLIC by data_owner")]),
    "PUBLIC, the column": ("GRANT SELECT (ssn) ON sales.people TO PUBLIC", "REVOKE SELECT (ssn) ON sales.people FROM PUBLIC",
                           [("unmasked by hand", "SELECT (ssn) on sales.people", "to PUBLIC by data_owner")]),
    "a group": ("CREATE ROLE some_group; GRANT SELECT ON sales.people TO some_group; GRANT some_group TO user_ann",
                "DROP OWNED BY some_group; DROP ROLE some_group", [("unmasked by hand", "SELECT on sales.people", "to some_group by data_owner")]),
    "pg_read_all_data": ("GRANT pg_read_all_data TO user_ann", "REVOKE pg_read_all_data FROM user_ann",
                         [("unmasked by hand", "ROLE pg_read_all_data", "of user_ann")]),
    "the owner": ("GRANT data_owner TO user_ann", "REVOKE data_owner FROM user_ann",
                  [("unmasked by hand", "ownership of sales.people", "by data_owner, for whom subscribers may act")]),
    "TRIGGER": ("GRANT TRIGGER ON sales.people TO PUBLIC", "REVOKE TRIGGER ON sales.people FROM PUBLIC",
                [("unmasked by hand", "TRIGGER on sales.people", "to PUBLIC by data_owner")]),
    "the role itself": ("GRANT SELECT (ssn) ON sales.people TO user_ann", "REVOKE SELECT (ssn) ON sales.people FROM user_ann",
                        [("granted by hand", "SELECT (ssn) on sales.people", "to user_ann by data_owner")]),
}


@pytest.mark.parametrize("way", BY_HAND)
def test_what_was_granted_by_hand(masking, way):
    """It stays, and is told: when the policy is made, and by drift() and doctor()."""
    grant, revoke, found = BY_HAND[way]
    masking.world.sql(grant)
    try:
        masking.system.notices.clear()
        masking.sql(SSN)
        assert way == "the role itself" or any("masks do not hold for everybody" in n for n in masking.system.notices)
        assert masking.drift() == found and masking.sql("SELECT * FROM immuta.sync()") == []
        assert masking.drift() == found and (way == "TRIGGER") != ("ssn" in columns(masking, "ann"))
        if way == "TRIGGER":
            return
        assert [row for row in masking.sql("SELECT * FROM immuta.why('ann', 'sales.people')") if row[0] == "masking policy"] == [
            ("masking policy", "ssn", False, "ssn: hash, but the role may read it: see immuta.drift()")]
    finally:
        masking.world.sql(revoke)
    assert in_step(masking)


@pytest.mark.parametrize("damage,what", [
    ("DELETE FROM immuta.masks", "mask missing"), ("UPDATE immuta.masks SET mask = 'ssn'", "mask differs"),
    ("INSERT INTO immuta.masks SELECT table_oid, 2, 'NULL::text', NULL, schema_name, table_name, 'name' FROM immuta.masks", "mask not wanted"),
    ("UPDATE immuta.masks SET policy_id = NULL", "mask differs")])
def test_masks_that_somebody_changed(masking, damage, what):
    masking.sql(SSN)
    kept = masking.world.sql("SELECT * FROM immuta.masks")
    masking.world.sql(damage)
    assert what in [row[0] for row in masking.drift()]
    assert masking.sql("SELECT ok FROM immuta.doctor() WHERE \"check\" = 'masked columns are masked'") == [(False,)]
    assert masking.sql("SELECT * FROM immuta.sync()") != []
    assert masking.world.sql("SELECT * FROM immuta.masks") == kept and in_step(masking)
    assert masking.sql("SELECT ok FROM immuta.doctor() WHERE \"check\" = 'masked columns are masked'") == [(True,)]


# Masks as former versions wrote them, which are not allowed any more.
FORMER = {"by the name of a zone": "date_trunc('month'::text, seen, 'UTC'::text)", "in the reader's zone": "date_trunc('month'::text, seen)",
          "of a type that is gone": "NULL::sales.gone", "no expression": "SELECT 1", "without the cast": "'2000-01-01'::date"}


@pytest.mark.parametrize("former", FORMER)
def test_a_stored_mask_that_does_not_hold_any_more(masking, former):
    """Its column is refused until sync() makes the mask anew, the rest of the table goes on."""
    masking.ddl("ALTER TABLE sales.people ADD seen timestamptz DEFAULT '2024-05-17 12:34:56+00'")
    masking.sql("SELECT immuta.create_masking_policy('m', 'round', '{\"unit\": \"month\"}', columns => '{sales.people.seen}')")
    look = "SELECT DISTINCT seen = '2024-05-01 00:00+00' FROM sales.people"
    assert reads(masking, "ann", look) == [(True,)]
    masking.world.sql("UPDATE immuta.masks SET mask = %s", (FORMER[former],))
    with refuses("42501", "MASKED_COLUMN") as refused:
        reads(masking, "ann", look)
    assert "immuta.drift()" in refused.hint
    assert reads(masking, "ann", "SELECT name FROM sales.people WHERE id = 2") == [("Bo",)]
    assert masking.drift() == [("mask differs", "sales.people.seen", "immuta.sync() puts it right")]
    assert masking.sql("SELECT * FROM immuta.sync()") == [("mask changed", "sales.people.seen", None)]
    assert reads(masking, "ann", look) == [(True,)] and in_step(masking)


def test_a_preview_changes_nothing(masking):
    state = ("SELECT (SELECT array_agg(k::text) FROM immuta.masks k), (SELECT array_agg(p::text) FROM immuta.masking_policy p), "
             "(SELECT array_agg(n::text) FROM immuta.named_column n), (SELECT array_agg(id) FROM immuta.mask_parameters), "
             "(SELECT array_agg(attacl::text) FROM pg_attribute WHERE attrelid = 'sales.people'::regclass)")
    before = masking.world.sql(state)
    preview = "SELECT column_name, userid, change FROM immuta.preview_masking_policy('ssn', "
    masking.sql("SELECT immuta.add_user_to_group('ben', 'hr')")
    assert masking.sql(preview + "'null', columns => '{sales.people.ssn,sales.people.born}', except_groups => '{hr}')") == [
        ("born", None, "mask added"), ("born", "ann", "loses"), ("ssn", None, "mask added"), ("ssn", "ann", "loses")]
    assert masking.world.sql(state) == before
    masking.sql(SSN)
    before = masking.world.sql(state)
    assert masking.sql(preview + "'null', columns => '{sales.people.ssn}', except_groups => '{clerks}')") == [("ssn", None, "mask changed")]
    assert masking.sql(preview + "'null', columns => '{sales.people.ssn}', except_groups => '{none}')") == [
        ("ssn", None, "mask changed"), ("ssn", "ben", "loses")]
    assert masking.sql(preview + "dropped => true)") == [("ssn", None, "mask removed"), ("ssn", "ann", "gains")]
    [(_, _, _, _, _, mask, none)] = masking.sql("SELECT * FROM immuta.preview_masking_policy('ssn', dropped => true) WHERE userid IS NULL")
    assert "mask_hash" in mask and none is None
    with refuses("22023"):
        masking.sql(preview + "'round', '{\"to\": 10}', columns => '{sales.people.ssn}')")
    assert masking.world.sql(state) == before and in_step(masking)


def test_a_dry_run_shows_the_mask(masking):
    masking.sql(SSN)
    tried = "SELECT allowed, sqlstate, coalesce(message, plan) FROM immuta.test_access(%s, %s)"
    for query_, allowed, words in [("SELECT * FROM sales.people WHERE ssn LIKE '1%'", True, "mask_hash"),
                                   ("DELETE FROM sales.people WHERE ssn = '1'", False, 'column "ssn" of table "people" is masked')]:
        [(seen, _, text)] = masking.sql(tried, ("ann", query_))
        assert seen == allowed and words in text
    masking.sql("SELECT immuta.add_user_to_group('ann', 'hr')")
    [(seen, _, text)] = masking.sql(tried, ("ann", "SELECT * FROM sales.people WHERE ssn LIKE '1%'"))
    assert seen and "mask" not in text


def test_warnings_where_the_policy_is_made(masking):
    masking.world.sql("GRANT data_owner TO immuta_system")
    masking.ddl("CREATE TABLE sales.parted (id int, ssn text) PARTITION BY LIST (ssn); CREATE VIEW sales.seen AS SELECT * FROM sales.people")
    masking.sql("SELECT immuta.register_data_source('sales.seen')")
    for column, words in [("people.id", "part of a key"), ("parted.ssn", "partition key"), ("people.ssn", "what is hidden here is shown by sales.seen")]:
        masking.system.notices.clear()
        masking.sql("SELECT immuta.create_masking_policy(%s, 'null', columns => ARRAY[%s])", (column, f"sales.{column}"))
        assert any(words in notice for notice in masking.system.notices), column
    assert ("not confirmed", "sales.seen", "it shows what is hidden of sales.people") in masking.drift()
    masking.system.notices.clear()
    masking.sql("SELECT immuta.create_masking_policy('last', 'null', columns => '{sales.parted.id}')")
    assert any("no column" in notice and "is left" in notice for notice in masking.system.notices)
    masking.world.sql("REVOKE data_owner FROM immuta_system")


# What is made before the policy, of which column, and what drift() says of it: nothing that sync() could put right.
REMARKS = {
    "partition key": ("CREATE TABLE sales.parted (id int, ssn text) PARTITION BY LIST (ssn)", "parted.ssn", "partition key"),
    "key": ("ALTER TABLE sales.people ADD UNIQUE (ssn)", "people.ssn", "part of a key"),
    "generated column": ("ALTER TABLE sales.people ADD mail text GENERATED ALWAYS AS (ssn || '@') STORED", "people.ssn", '"mail" of "sales.people" is generated'),
    "CHECK": ("ALTER TABLE sales.people ADD CHECK (ssn <> name)", "people.ssn", "finds out values"),
    "view": ("CREATE VIEW other.seen AS SELECT ssn FROM sales.people", "people.ssn", "shown as it is by view other.seen"),
    "view of the row": ("CREATE VIEW other.seen AS SELECT p FROM sales.people p", "people.ssn", "shown as it is by view other.seen"),
    "view of the row and a column": ("CREATE VIEW other.seen AS SELECT p, p.id FROM sales.people p", "people.ssn", "shown as it is by view other.seen"),
    "view of a view": ("CREATE VIEW other.first AS SELECT ssn FROM sales.people; CREATE VIEW other.seen AS SELECT * FROM other.first",
                       "people.ssn", "shown as it is by view other.seen"),
    "materialized view": ("CREATE MATERIALIZED VIEW other.seen AS SELECT max(ssn) FROM sales.people", "people.ssn", "shown as it is by view other.seen"),
    "function": ("CREATE FUNCTION other.seen() RETURNS text LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC SELECT max(ssn) FROM sales.people; END",
                 "people.ssn", "shown as it is by function other.seen()"),
    "child": ("CREATE TABLE other.seen () INHERITS (sales.people)", "people.ssn", "shown as it is by table other.seen"),
    "parent": ("CREATE TABLE other.seen (LIKE sales.people); ALTER TABLE sales.people INHERIT other.seen", "people.ssn", "shown as it is by table other.seen"),
}


@pytest.mark.parametrize("remark", REMARKS)
def test_what_masks_do_not_hide_is_told(masking, remark):
    """Where the policy is made, and by drift() as long as it is so."""
    made, column, words = REMARKS[remark]
    masking.ddl(made)
    is_shown = "other.seen" in made
    if is_shown:
        masking.ddl("GRANT USAGE ON SCHEMA other TO PUBLIC" + ("" if remark == "function" else "; GRANT SELECT ON other.seen TO PUBLIC"))
    remarks = "SELECT object, detail FROM immuta.drift() WHERE what = 'mask warning' AND detail ~ 'sales'"
    assert masking.sql(remarks) == []
    assert told(masking, f"SELECT immuta.create_masking_policy('m', 'null', columns => '{{sales.{column}}}')", words)
    [(object, detail)] = [row for row in masking.sql(remarks) if words in row[1]]
    assert object in (f"sales.{column}", "sales.people.mail") and in_step(masking)
    assert masking.sql("SELECT ok FROM immuta.doctor() WHERE \"check\" = 'subscriptions and grants'") == [(True,)]
    if is_shown:
        masking.ddl("REVOKE EXECUTE ON FUNCTION other.seen() FROM PUBLIC" if remark == "function" else "REVOKE SELECT ON other.seen FROM PUBLIC")
        assert masking.sql(remarks) == []
    masking.sql("SELECT immuta.drop_masking_policy('m')")
    assert masking.sql(remarks) == []


def test_what_shows_masks_is_no_warning(masking):
    """What is shown by the rights of whoever reads, or of an owner who sees the mask, and what no subscriber may use."""
    masking.ddl("CREATE VIEW other.nobodys AS SELECT ssn FROM sales.people; CREATE VIEW other.without AS SELECT name FROM sales.people;"
                "CREATE FUNCTION other.invoker() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT max(ssn) FROM sales.people; END;"
                "GRANT USAGE ON SCHEMA other TO PUBLIC; GRANT SELECT ON other.without TO PUBLIC")
    if int(VERSION) >= 15:
        masking.ddl("CREATE VIEW other.invokers WITH (security_invoker) AS SELECT ssn FROM sales.people; GRANT SELECT ON other.invokers TO PUBLIC")
    masking.sql(SSN)
    masking.world.sql("CREATE SCHEMA own AUTHORIZATION user_ann; SET ROLE user_ann; CREATE VIEW own.seen AS SELECT ssn FROM sales.people; "
                      "GRANT USAGE ON SCHEMA own TO PUBLIC; GRANT SELECT ON own.seen TO PUBLIC; RESET ROLE")
    try:
        assert masking.sql("SELECT * FROM immuta.drift()") == []
    finally:
        masking.world.sql("DROP SCHEMA own CASCADE")


def test_who_is_asked_in_a_chain_of_views(masking):
    """The owner of the first for the masked column, others for what they read."""
    ann = masking.role("ann")
    masking.ddl("CREATE VIEW other.first AS SELECT ssn FROM sales.people; GRANT USAGE, CREATE ON SCHEMA other TO PUBLIC")
    masking.world.sql(f"SET ROLE {ann}; CREATE VIEW other.seen AS SELECT * FROM other.first; CREATE VIEW other.mask AS SELECT ssn FROM sales.people; "
                      "GRANT SELECT ON other.seen, other.mask TO PUBLIC; RESET ROLE")
    masking.ddl("CREATE VIEW other.last AS SELECT ssn FROM other.mask; GRANT SELECT ON other.last TO PUBLIC")
    masking.sql(SSN)
    shown = "SELECT substring(detail FROM 'by view other.([a-z]*)') FROM immuta.drift() WHERE what = 'mask warning' ORDER BY 1"
    assert masking.sql(shown) == []
    masking.ddl(f"GRANT SELECT ON other.first TO {ann}")
    assert masking.sql(shown) == [("first",), ("seen",)]
    assert reads(masking, "ben", "SELECT ssn FROM other.seen WHERE ssn IS NOT NULL") == [("123-45-6789",)]
    assert reads(masking, "ben", "SELECT ssn FROM other.last WHERE ssn IS NOT NULL") != [("123-45-6789",)]


def test_what_the_account_may_not_hand_on_is_not_shown(masking):
    """A mask could be the value itself: it needs the right to grant that."""
    masking.world.sql("REVOKE ALL ON sales.people FROM immuta_system CASCADE; "
                      "GRANT SELECT (id, name, salary, born, region) ON sales.people TO immuta_system WITH GRANT OPTION")
    attempts = ["SELECT immuta.create_masking_policy('m', 'expression', '{\"expression\": \"{column}\"}', columns => '{sales.people.ssn}')",
                "SELECT immuta.create_masking_policy('m', 'expression', '{\"expression\": \"ssn\"}', columns => '{sales.people.name}')",
                "SELECT immuta.create_masking_policy('m', 'null', columns => '{sales.people.name}', rows => 'ssn IS NULL')",
                "SELECT immuta.create_masking_policy('m', 'partial', '{\"suffix\": 9}', columns => '{sales.people.ssn}')"]
    for attempt in attempts:
        with refuses("42501") as refused:
            masking.sql(attempt)
        assert "WITH GRANT OPTION" in refused.hint
    masking.sql("SELECT immuta.create_masking_policy('m', 'null', columns => '{sales.people.name}')")


def test_administrators_at_once(masking):
    """Policies, tags, groups and DDL by several at a time: no deadlock, and in the end all is in step."""
    def administrator(number):
        connection = masking.login(*SYSTEM)

        def work():
            for turn in range(4):
                query(connection, "SELECT immuta.create_masking_policy(%s, 'null', column_tags => %s, except_groups => %s, replace => true)",
                      (f"m{number}", [f"t{number}"], [f"g{turn % 2}"]))
                query(connection, "SELECT immuta.tag_column(%s, %s)", (f"sales.people.{ALL[number]}", f"t{number}"))
                query(connection, "SELECT immuta.add_user_to_group('ann', %s)", (f"g{number % 2}",))
                query(connection, "SELECT immuta.untag_column(%s, %s)", (f"sales.people.{ALL[number]}", f"t{number}"))
                query(connection, "SELECT immuta.remove_user_from_group('ann', %s)", (f"g{number % 2}",))
            query(connection, "SELECT immuta.tag_column(%s, %s)", (f"sales.people.{ALL[number]}", f"t{number}"))
        return work

    def owner():
        connection = masking.login("data_owner", "owner-password")
        for turn in range(6):
            query(connection, f"ALTER TABLE sales.people ADD COLUMN new{turn} int")
            query(connection, f"ALTER TABLE sales.people DROP COLUMN new{turn}")

    errors = run_together(*(administrator(number) for number in range(3)), owner)
    assert errors == []
    masking.sql("SELECT immuta.tag_column('sales.people.region', 'none')")
    assert columns(masking, "ben") == but(*ALL[:3]) and in_step(masking)


def test_a_lost_update_is_refused(masking):
    other = masking.login(*SYSTEM)
    other.autocommit = False
    query(other, "BEGIN ISOLATION LEVEL REPEATABLE READ")
    query(other, "SELECT count(*) FROM immuta.masking_policies")
    masking.sql(SSN)
    with refuses("40001"):
        query(other, "SELECT immuta.create_masking_policy('late', 'null', columns => '{sales.people.ssn}')")
    other.rollback()
    # Of two who make the same mask the second is told.
    query(other, "SELECT immuta.drop_masking_policy('ssn')")
    masking.system.notices.clear()
    other.commit()
    assert columns(masking, "ann") == ALL


def test_users_see_nothing_of_it(masking):
    """Neither policies nor masks nor salts, and none of the commands."""
    masking.sql(SSN)
    for statement in ("SELECT * FROM immuta.masking_policies", "SELECT * FROM immuta.masked_columns", "SELECT * FROM immuta.column_tags",
                      "SELECT * FROM immuta.masking_policy", "SELECT * FROM immuta.mask_parameters", "SELECT * FROM immuta.masks",
                      "SELECT * FROM immuta.named_column", "SELECT immuta.drop_masking_policy('ssn')",
                      "SELECT immuta.untag_column('sales.people.ssn', 'x')", "SELECT immuta_internal.settle_masks(NULL)"):
        with refuses("42501"):
            reads(masking, "ann", statement)


def test_one_who_leaves_another_database_or_is_dropped(masking):
    masking.sql(SSN)
    masking.sql("SELECT immuta.add_user_to_group('ann', 'hr'), immuta.add_user_to_group('ben', 'hr')")
    masking.sql("SELECT immuta.drop_user('ann'), immuta.drop_user('ben')")
    assert masking.world.sql("SELECT count(*) FROM immuta.policy_member") == [(0,)]
    assert masking.world.sql("SELECT count(*) FROM pg_roles WHERE rolname IN ('user_ann', 'user_ben')") == [(0,)] and in_step(masking)


def test_the_order_of_an_index_is_seen(masking):
    masking.ddl("CREATE TABLE sales.ranked (id int, secret int); INSERT INTO sales.ranked SELECT i, (i * 7919) % 1000 FROM generate_series(1, 999) i;"
                "CREATE INDEX ON sales.ranked (secret) INCLUDE (id)")
    masking.world.sql("VACUUM ANALYZE sales.ranked")
    masking.sql("SELECT immuta.subscribe('ann', 'sales.ranked')")
    masking.sql("SELECT immuta.create_masking_policy('m', 'null', columns => '{sales.ranked.secret}')")
    in_order = masking.world.sql("SELECT id FROM sales.ranked ORDER BY secret")
    assert reads(masking, "ann", "SET LOCAL enable_seqscan = off; SELECT id FROM sales.ranked") == in_order
    assert reads(masking, "ann", "SELECT id, secret FROM sales.ranked WHERE secret > 0") == []


def test_the_partition_of_a_row_is_seen(masking):
    masking.ddl("CREATE TABLE sales.parted (id int, secret text) PARTITION BY LIST (secret);"
                "CREATE TABLE sales.part_a PARTITION OF sales.parted FOR VALUES IN ('a');"
                "CREATE TABLE sales.part_b PARTITION OF sales.parted FOR VALUES IN ('b'); INSERT INTO sales.parted VALUES (1, 'a'), (2, 'b')")
    masking.sql("SELECT immuta.subscribe('ann', 'sales.parted')")
    masking.system.notices.clear()
    masking.sql("SELECT immuta.create_masking_policy('m', 'null', columns => '{sales.parted.secret}')")
    assert any("partition key" in notice for notice in masking.system.notices)
    plan = [line for (line,) in reads(masking, "ann", "EXPLAIN (ANALYZE, COSTS off, TIMING off) SELECT id, secret FROM sales.parted WHERE id = 2")]
    assert any("part_b" in line and re.search(r"rows=1(\.00)?", line) for line in plan)
    assert any("part_a" in line and re.search(r"rows=0(\.00)?", line) for line in plan)


def told(office, statement, *words):
    office.system.notices.clear()
    office.sql(statement)
    return any(all(word in notice for word in words) for notice in office.system.notices)


def writes(office, userid, statement):
    service = office.world.connect()
    try:
        impersonate(service, office.world.token(userid))
        query(service, statement)
    finally:
        service.rollback()
        service.close()


def test_what_decides_on_a_mask_is_not_written_by_who_sees_it(masking):
    """Else they would switch the mask off by a change of the column that `rows` looks at."""
    masking.ddl("ALTER TABLE sales.people ADD is_public bool NOT NULL DEFAULT false, ADD text text, ADD \"A.b\" int, ADD length int, "
                "ADD low int GENERATED ALWAYS AS (id + length) STORED")
    everything = [*ALL, "is_public", "text", "A.b", "length", "low"]
    masking.sql("SELECT immuta.subscribe('ann', 'sales.people', 'WRITE')")
    masking.sql("SELECT immuta.create_subscription_policy('clerks', data_sources => '{sales.people}', groups => '{clerks}', "
                "access => 'WRITE', replace => true)")
    for rows, expression, decides in [
            ("NOT is_public", None, {"is_public"}), ('"A.b" > 1 -- length', None, {"A.b"}), ("low > 1", None, {"low", "id", "length"}),
            ("(SELECT region = v.x FROM (VALUES ('EU')) v (x))", None, {"region"}),
            (None, "left(name, length(ssn))", {"name"}), (None, "substr(ssn, length)::text", {"length"})]:
        parameters = f'{{"expression": "{expression}", "never_fails": true}}' if expression else '{"suffix": 2, "never_fails": true}'
        masking.sql("SELECT immuta.create_masking_policy('m', %s, %s, columns => '{sales.people.ssn}', except_groups => '{hr}', "
                    "rows => %s, replace => true)", ("expression" if expression else "partial", parameters, rows))
        readable = [name for name in everything if name != "ssn"]
        for user in ("ann", "ben"):
            assert columns(masking, user, "UPDATE") == [name for name in readable if name not in decides]
            assert columns(masking, user, "INSERT") == columns(masking, user) == readable
            masking.sql("SELECT immuta.add_user_to_group(%s, 'hr')", (user,))
            assert columns(masking, user, "UPDATE") == everything and in_step(masking)
            masking.sql("SELECT immuta.remove_user_from_group(%s, 'hr')", (user,))
    shown = ("SELECT immuta.create_masking_policy('m', 'partial', '{\"suffix\": 2}', columns => '{sales.people.ssn}', "
             "except_groups => '{hr}', rows => 'NOT is_public', replace => true)")
    masking.sql(shown)
    attempts = ["UPDATE sales.people SET is_public = true",
                "INSERT INTO sales.people (id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET is_public = true",
                "MERGE INTO sales.people p USING (VALUES (1)) v (i) ON p.id = v.i WHEN MATCHED THEN UPDATE SET is_public = true"]
    for attempt in attempts[:3 if int(VERSION) >= 15 else 2]:
        with refuses("42501"):
            writes(masking, "ann", attempt)
    # Nor by a new name; and what two policies look at is nobody's.
    masking.ddl("ALTER TABLE sales.people RENAME is_public TO shown")
    with refuses("42501", "MASKED_COLUMN"):
        reads(masking, "ann", "SELECT ssn FROM sales.people")
    masking.sql(shown.replace("is_public", "shown"))
    assert "shown" not in columns(masking, "ann", "UPDATE") and in_step(masking)
    masking.sql(shown.replace("'m'", "'n'").replace("partial", "null").replace('{"suffix": 2}', "{}").replace("ssn", "name").replace("is_public", "shown"))
    masking.sql("SELECT immuta.add_user_to_group('ann', 'hr')")
    assert "shown" not in columns(masking, "ann", "UPDATE") and in_step(masking)
    masking.sql("SELECT immuta.drop_masking_policy('n')")
    assert "shown" in columns(masking, "ann", "UPDATE") and "shown" not in columns(masking, "ben", "UPDATE") and in_step(masking)


def test_what_decides_on_a_mask_is_changed_in_other_ways(masking):
    """By a foreign key that follows its parent, as by a trigger or a view of the owner's."""
    masking.ddl("CREATE TABLE sales.regions (region text PRIMARY KEY); INSERT INTO sales.regions VALUES ('EU'), ('US');"
                "ALTER TABLE sales.people ADD FOREIGN KEY (region) REFERENCES sales.regions ON UPDATE CASCADE")
    masking.sql("SELECT immuta.subscribe('ann', 'sales.people', 'WRITE'), immuta.subscribe('ann', 'sales.regions', 'WRITE')")
    masking.sql("SELECT immuta.create_masking_policy('m', 'null', columns => '{sales.people.ssn}', rows => $$region <> 'AS'$$)")
    with refuses("42501"):
        writes(masking, "ann", "UPDATE sales.people SET region = 'AS'")
    service = masking.world.connect()
    try:
        impersonate(service, masking.world.token("ann"))
        query(service, "UPDATE sales.regions SET region = 'AS' WHERE region = 'EU'")
        assert query(service, "SELECT ssn FROM sales.people WHERE id = 1") == [("123-45-6789",)]
    finally:
        service.rollback()
        service.close()


def test_a_mask_that_names_a_masked_column_is_told(masking):
    masking.sql(NULLED, ("n", "{sales.people.salary}"))
    made = "SELECT immuta.create_masking_policy('m', 'null', columns => '{sales.people.ssn}', rows => 'salary IS NULL', replace => true)"
    assert told(masking, made, '"salary"', "which is masked itself, as it is")
    # By whether the mask is there they learn what the other one hides.
    assert reads(masking, "ann", "SELECT salary, ssn FROM sales.people WHERE id = 1") == [(None, "123-45-6789")]
    assert not told(masking, made.replace("salary", "id"), "which is masked itself")


def test_a_row_policy_of_another_table_gets_the_mask(masking):
    masking.world.sql("GRANT data_owner TO immuta_system")
    masking.sql("SELECT immuta.subscribe('ann', 'sales.orders')")
    policy = ("SELECT immuta.create_row_policy('names', 'sales.orders', $$NOT EXISTS (SELECT FROM sales.people p WHERE p.name = 'Bo' "
              "AND p.region = orders.region)$$, replace => true)")
    mask = "SELECT immuta.create_masking_policy('m', 'null', columns => '{sales.people.name}', replace => true)"
    masking.sql(policy)
    assert reads(masking, "ann", "SELECT count(*) FROM sales.orders WHERE region = 'US'") == [(0,)]
    assert told(masking, mask, 'row policy "names" of "sales.orders" reads "name"', "gets the mask")
    assert reads(masking, "ann", "SELECT count(*) FROM sales.orders WHERE region = 'US'") == [(1,)]
    assert told(masking, policy, 'row policy "names" reads "name"', "gets the mask")
    assert told(masking, policy.replace("p.name = 'Bo'", "p::text ~ 'Bo'"), 'row policy "names" reads "name"', "gets the mask")
    # One of the table's own sees what is in the column.
    masking.sql("SELECT immuta.create_row_policy('names', 'sales.people', $$name <> 'Bo'$$), immuta.drop_row_policy('names', 'sales.orders')")
    assert not told(masking, mask, "gets the mask")
    assert reads(masking, "ann", "SELECT id, name FROM sales.people") == [(1, None)]
    masking.sql("SELECT immuta.drop_row_policy('names', 'sales.people')")
    masking.world.sql("REVOKE data_owner FROM immuta_system")


@pytest.mark.parametrize("compares", ["CONSTRAINT bound CHECK (salary < high)", "bound numeric GENERATED ALWAYS AS (1 / (high - salary)) STORED"])
def test_what_compares_a_masked_column_tells_of_it(masking, compares):
    masking.ddl(f"ALTER TABLE sales.people ADD high numeric(10,2) DEFAULT 99999; ALTER TABLE sales.people ADD {compares}")
    masking.sql("SELECT immuta.subscribe('ann', 'sales.people', 'WRITE')")
    assert told(masking, "SELECT immuta.create_masking_policy('m', 'null', columns => '{sales.people.salary}')", '"bound"', "finds out values")
    writes(masking, "ann", "UPDATE sales.people SET high = 54322 WHERE id = 1")
    with pytest.raises((psycopg2.errors.CheckViolation, psycopg2.errors.DivisionByZero)):
        writes(masking, "ann", "UPDATE sales.people SET high = 54321.99 WHERE id = 1")
    assert not told(masking, "SELECT immuta.create_masking_policy('n', 'null', columns => '{sales.people.ssn}')", "finds out values")


def test_an_expression_that_fails_can_show_the_value(masking):
    masking.system.notices.clear()
    masking.sql("SELECT immuta.create_masking_policy('m', 'expression', '{\"expression\": \"ssn::int::text\", \"never_fails\": true}', columns => '{sales.people.ssn}')")
    assert any("message can show the value" in notice for notice in masking.system.notices)
    with pytest.raises(psycopg2.errors.InvalidTextRepresentation, match="123-45-6789"):
        reads(masking, "ann", "SELECT ssn FROM sales.people")


def test_a_table_of_masked_columns_only(masking):
    masking.ddl("CREATE TABLE sales.single (secret text)")
    masking.sql("SELECT immuta.subscribe('ann', 'sales.single')")
    masking.system.notices.clear()
    masking.sql("SELECT immuta.create_masking_policy('m', 'null', columns => '{sales.single.secret}')")
    assert any("subscribers are refused it" in notice for notice in masking.system.notices)
    with refuses("42501"):
        reads(masking, "ann", "SELECT secret FROM sales.single")


def test_views_have_no_masks(masking):
    masking.ddl("CREATE VIEW sales.seen AS SELECT * FROM sales.people")
    with refuses("42809", "MASK_NOT_ALLOWED"):
        masking.sql("SELECT immuta.create_masking_policy('m', 'null', columns => '{sales.seen.ssn}')")
    masking.sql(SSN)
    masking.world.sql("CREATE SCHEMA IF NOT EXISTS own AUTHORIZATION user_ann; GRANT ALL ON SCHEMA own TO user_ann")
    try:
        service = masking.world.connect()
        impersonate(service, masking.world.token("ann"))
        query(service, "CREATE VIEW own.people AS SELECT ssn FROM sales.people WHERE id = 1")
        [(masked,)] = query(service, "SELECT * FROM own.people")
        assert re.fullmatch("[0-9a-f]{11}", masked)
        service.close()
    finally:
        masking.world.sql("DROP SCHEMA own CASCADE")


def test_an_expression_after_a_rename(masking):
    masking.sql("SELECT immuta.create_masking_policy('m', 'expression', '{\"expression\": \"left({column}, 1) || region\", \"never_fails\": true}', columns => '{sales.people.name}')")
    masking.ddl("ALTER TABLE sales.people RENAME name TO called")
    assert reads(masking, "ann", "SELECT called FROM sales.people WHERE id = 1") == [("AEU",)]
    masking.ddl("ALTER TABLE sales.people RENAME region TO area")
    with refuses("42501", "MASKED_COLUMN"):
        reads(masking, "ann", "SELECT called FROM sales.people")
    assert reads(masking, "ann", "SELECT area FROM sales.people WHERE id = 1") == [("EU",)]
    assert masking.drift() == [("column refused", "sales.people.called", 'column "region" does not exist')]
    masking.sql("SELECT immuta.create_masking_policy('m', 'expression', '{\"expression\": \"left({column}, 1) || area\", \"never_fails\": true}', columns => '{sales.people.called}', replace => true)")
    assert reads(masking, "ann", "SELECT called FROM sales.people WHERE id = 1") == [("AEU",)] and in_step(masking)


# Statements that are refused, and why.
BAD = {
    "no name": "(NULL, 'null', columns => '{sales.people.ssn}')",
    "nothing to mask": "('m', 'null')",
    "an unknown method": "('m', 'shuffle', columns => '{sales.people.ssn}')",
    "no method": "('m', NULL, columns => '{sales.people.ssn}')",
    "an unknown parameter": "('m', 'hash', '{\"salt\": \"abc\"}', columns => '{sales.people.ssn}')",
    "a parameter of a method that takes none": "('m', 'null', '{\"value\": 1}', columns => '{sales.people.ssn}')",
    "a parameter that is missing": "('m', 'constant', columns => '{sales.people.ssn}')",
    "a list of parameters": "('m', 'hash', '[]', columns => '{sales.people.ssn}')",
    "a parameter that is no text": "('m', 'hash', '{\"group\": 1}', columns => '{sales.people.ssn}')",
    "a number below nothing": "('m', 'partial', '{\"suffix\": -1}', columns => '{sales.people.ssn}')",
    "two characters to fill with": "('m', 'partial', '{\"fill\": \"**\"}', columns => '{sales.people.ssn}')",
    "a pattern that is none": "('m', 'regex', '{\"pattern\": \"(\"}', columns => '{sales.people.ssn}')",
    "a flag that is none": "('m', 'regex', '{\"pattern\": \"a\", \"flags\": \"z\"}', columns => '{sales.people.ssn}')",
    "rounding to nothing": "('m', 'round', '{\"to\": 0}', columns => '{sales.people.salary}')",
    "rounding a number by a unit": "('m', 'round', '{\"unit\": \"month\"}', columns => '{sales.people.salary}')",
    "rounding a date by a number": "('m', 'round', '{\"to\": 10}', columns => '{sales.people.born}')",
    "rounding a date to hours": "('m', 'round', '{\"unit\": \"hour\"}', columns => '{sales.people.born}')",
    "rounding to fractions of a whole number": "('m', 'round', '{\"to\": 0.5}', columns => '{sales.people.id}')",
    "both": "('m', 'round', '{\"to\": 10, \"unit\": \"month\"}', columns => '{sales.people.born}')",
    "a type that the method is not for": "('m', 'hash', columns => '{sales.people.salary}')",
    "a constant that does not fit the type": "('m', 'constant', '{\"value\": \"abc\"}', columns => '{sales.people.salary}')",
    "a constant that is too long": "('m', 'constant', '{\"value\": \"123-45-67890\"}', columns => '{sales.people.ssn}')",
    "a constant that the domain does not allow": "('m', 'constant', '{\"value\": -1}', columns => '{sales.odd.positive}')",
    "a method that a domain may not allow": "('m', 'round', '{\"to\": 10}', columns => '{sales.odd.positive}')",
    "a column without its table": "('m', 'null', columns => '{ssn}')",
    "a table that is no data source": "('m', 'null', columns => '{other.people.ssn}')",
    "a column that does not exist": "('m', 'null', columns => '{sales.people.nss}')",
    "a system column": "('m', 'null', columns => '{sales.people.ctid}')",
    "a tag without text": "('m', 'null', column_tags => '{\"\"}')",
    "attributes that are none": "('m', 'null', columns => '{sales.people.ssn}', except_attributes => '[]')",
    "a second policy of the name": "('there', 'null', columns => '{sales.people.ssn}')",
    "a second policy of the column": "('m', 'null', columns => '{sales.people.region}')",
    "rows that are no expression": "('m', 'null', columns => '{sales.people.ssn}', rows => 'true) IS FALSE THEN ssn ELSE (ssn')",
    "rows that are no truth": "('m', 'null', columns => '{sales.people.ssn}', rows => 'id')",
    "an expression of another type": "('m', 'expression', '{\"expression\": \"born\"}', columns => '{sales.people.id}')",
    "an expression that is none": "('m', 'expression', '{\"expression\": \"1; DROP TABLE sales.people\"}', columns => '{sales.people.id}')",
    "an expression that may fail": "('m', 'expression', '{\"expression\": \"ssn::int::text\"}', columns => '{sales.people.ssn}')",
    "rows that may fail": "('m', 'null', columns => '{sales.people.ssn}', rows => 'ssn::int > 1')",
    "no word of its not failing": "('m', 'expression', '{\"expression\": \"region\", \"never_fails\": \"yes\"}', columns => '{sales.people.ssn}')",
    "a volatile function": "('m', 'expression', '{\"expression\": \"random()::text\"}', columns => '{sales.people.name}')",
    "a function that a setting changes": "('m', 'expression', '{\"expression\": \"to_char(born, ''TMMonth'')\"}', columns => '{sales.people.name}')",
    "the time zone of the reader": "('m', 'expression', '{\"expression\": \"date_trunc(''day'', born::timestamptz)::date\"}', columns => '{sales.people.born}')",
    "the name of the reader": "('m', 'expression', '{\"expression\": \"current_user::text\"}', columns => '{sales.people.name}')",
    "a table in it": "('m', 'expression', '{\"expression\": \"(SELECT min(name) FROM sales.people)\"}', columns => '{sales.people.name}')",
    "an aggregate": "('m', 'expression', '{\"expression\": \"max(name)\"}', columns => '{sales.people.name}')",
    "a function without a path": "('m', 'expression', '{\"expression\": \"sales.loose(name)\"}', columns => '{sales.people.name}')",
    "a secret as a constant": "('m', 'expression', '{\"expression\": \"md5(name || ''my salt'')\"}', columns => '{sales.people.name}')",
    "a reference of one's own": "('m', 'expression', '{\"expression\": \"immuta.mask_hash(name, immuta_internal.mask_ref(1))\"}', columns => '{sales.people.name}')",
    "a column that there is not": "('m', 'expression', '{\"expression\": \"nmae\"}', columns => '{sales.people.name}')",
}


def test_what_is_refused_names_its_cause_and_the_next_step(masking):
    masking.ddl("CREATE DOMAIN sales.positive AS int CHECK (VALUE > 0); CREATE TABLE sales.odd (id int, positive sales.positive);"
                "CREATE FUNCTION sales.loose(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN left($1, 1); END'")
    masking.world.sql("GRANT USAGE ON SCHEMA sales TO immuta_system")
    masking.sql("SELECT immuta.create_masking_policy('there', 'null', columns => '{sales.people.region}')")
    shown = []
    for title, arguments in BAD.items():
        with pytest.raises(psycopg2.Error) as refused:
            masking.sql(f"SELECT immuta.create_masking_policy{arguments}")
        diag = refused.value.diag
        assert diag.message_hint and not diag.sqlstate.startswith("XX"), (title, diag.message_primary)
        shown.append(f"{title}\n  {arguments}\n  {diag.sqlstate} {diag.message_primary}\n"
                     + (f"  DETAIL: {diag.message_detail}\n" if diag.message_detail else "") + f"  HINT: {diag.message_hint}\n")
    assert masking.world.sql("SELECT name FROM immuta.masking_policy") == [("there",)] and in_step(masking)
    assert "\n".join(shown) == GOLDEN.read_text(), "compare with tests/golden/masking.txt"


def test_other_commands_that_are_refused(masking):
    for statement, sqlstate in [
            ("SELECT immuta.tag_column('sales.people.nss', 'pii')", "42703"), ("SELECT immuta.tag_column('ssn', 'pii')", "22023"),
            ("SELECT immuta.tag_column('no.such.ssn', 'pii')", "42704"), ("SELECT immuta.tag_column('sales.people.ssn', '')", "22023"),
            ("SELECT immuta.untag_column('sales.people.\"', 'pii')", "22023"), ("SELECT immuta.tag_column(NULL, 'pii')", "22023")]:
        with refuses(sqlstate):
            masking.sql(statement)
    masking.sql("SELECT immuta.untag_column('sales.people.never', 'pii')")
    assert masking.world.sql("SELECT * FROM immuta.named_column") == []
