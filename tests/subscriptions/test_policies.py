"""Subscription policies: who gets what, how they combine, what they explain and preview."""

import pytest
from conftest import reads, refuses
from harness.world import query


def policy(office, name="p", **arguments):
    given = "".join(f", {key} => %({key})s" for key in arguments)
    office.sql(f"SELECT immuta.create_subscription_policy(%(name)s{given})", dict(arguments, name=name))


@pytest.fixture
def tagged(sales):
    sales.sql("SELECT immuta.tag_data_source('sales.orders', 'public', 'money')")
    return sales


def test_a_group_and_a_tag(tagged):
    policy(tagged, tags=["public"], groups=["analysts"])
    assert tagged.role("ann") is None
    tagged.sql("SELECT immuta.add_user_to_group('ann', 'analysts')")
    assert tagged.access("ann", "sales.orders") == "READ" and tagged.access("ann", "sales.customers") is None
    assert reads(tagged, "ann", "SELECT count(*) FROM sales.orders") == [(3,)]
    tagged.sql("SELECT immuta.tag_data_source('sales.customers', 'public')")
    assert tagged.access("ann", "sales.customers") == "READ"
    tagged.sql("SELECT immuta.untag_data_source('sales.orders', 'public')")
    assert tagged.access("ann", "sales.orders") is None
    tagged.sql("SELECT immuta.remove_user_from_group('ann', 'analysts')")
    assert tagged.access("ann", "sales.customers") is None
    with refuses("42501"):
        reads(tagged, "ann", "SELECT count(*) FROM sales.customers")
    assert tagged.drift() == []


@pytest.mark.parametrize("who, ann, ben", [
    (dict(groups=["a", "x"]), True, False),
    (dict(attributes='{"region": "EU"}'), True, False),
    (dict(attributes='{"region": ["US", "EU"]}'), True, True),
    (dict(attributes='{"region": ["US", "EU"], "level": "3"}'), True, False),
    (dict(expression='$.attributes.region[*] == "US"'), False, True),
    (dict(expression='$.attributes.level[*].double() >= 3'), True, False),
    (dict(expression='$.userid starts with "b" || $.groups[*] == "nothing"'), False, True),
    (dict(expression='$.iamid == "bim" && !exists($.attributes.level)'), False, True),
    (dict(expression='true'), True, True),
    (dict(groups=["a"], expression='$.attributes.region[*] == "US"'), False, False),
    # What is wrong in an expression is a no.
    (dict(expression='$.attributes.region[*].double() > 1'), False, False),
    (dict(expression='$.userid'), False, False),
    (dict(expression='strict $.attributes.nothing == 1'), False, False),
])
def test_who(tagged, who, ann, ben):
    tagged.sql("SELECT immuta.set_user_groups('ann', '{a,b}'), immuta.set_user_attribute('ann', 'region', '{EU}')")
    tagged.sql("SELECT immuta.set_user_attribute('ann', 'level', '{3}'), immuta.set_user_attribute('ben', 'region', '{US,JP}')")
    policy(tagged, tags=["public"], **who)
    assert (tagged.access("ann", "sales.orders"), tagged.access("ben", "sales.orders")) == (ann and "READ" or None, ben and "READ" or None)
    # The same if the users come to it afterwards.
    tagged.sql("SELECT immuta.create_user('late'), immuta.set_user_groups('late', '{a}')")
    tagged.sql("SELECT immuta.set_user_attribute('late', 'region', '{EU}'), immuta.set_user_attribute('late', 'level', '{3}')")
    assert tagged.access("late", "sales.orders") == tagged.access("ann", "sales.orders")
    assert tagged.drift() == []


def test_hostile_attributes_are_only_values(tagged):
    policy(tagged, tags=["public"], expression='$.attributes.region[*] == "EU"')
    for value in ("EU'; DROP TABLE sales.orders; --", '"EU"', '$.x', '") || (1 == 1', "\\", "{EU}"):
        tagged.sql("SELECT immuta.set_user_attribute('ann', 'region', ARRAY[%s])", (value,))
        assert tagged.access("ann", "sales.orders") is None
    tagged.sql("SELECT immuta.set_user_attribute('ann', %s, '{EU}')", ('x") || (1 == 1',))
    assert tagged.access("ann", "sales.orders") is None
    with refuses("42601"):
        policy(tagged, "sql", tags=["public"], expression="(SELECT true)")


def test_on_what(tagged):
    tagged.ddl("CREATE TABLE other.notes (a int)")
    tagged.sql("SELECT immuta.register_data_source('other.notes', '{public}')")
    everybody = dict(expression="true")
    cases = [(dict(tags=["public"]), {"sales.orders", "other.notes"}),
             (dict(schemas=["sales"]), {"sales.orders", "sales.customers", "sales.totals"}),
             (dict(schemas=["sales"], tags=["public", "none"]), {"sales.orders"}),
             (dict(tags=["none"]), set())]
    tables = ("sales.orders", "sales.customers", "sales.totals", "other.notes")
    for on, reached in cases:
        policy(tagged, replace=True, **on, **everybody)
        assert {t for t in tables if tagged.access("ann", t)} == reached, on
    tagged.sql("SELECT immuta.create_subscription_policy('p', data_sources => '{sales.customers,other.notes}', expression => 'true', replace => true)")
    assert {t for t in tables if tagged.access("ann", t)} == {"sales.customers", "other.notes"}
    tagged.ddl("DROP TABLE sales.customers")
    tagged.sql("SELECT immuta.unregister_data_source('other.notes')")
    # Nothing is left of the list, and that does not mean everything.
    assert {t for t in tables if t != "sales.customers" and tagged.access("ann", t)} == set()
    assert tagged.drift() == []


# groups of ann → access, by the policies (combine, access, group) on one table
COMBINATIONS = [
    ([("any", "READ", "a"), ("any", "WRITE", "b")], {"": None, "a": "READ", "b": "WRITE", "ab": "WRITE"}),
    ([("all", "READ", "a"), ("all", "WRITE", "b")], {"": None, "a": None, "b": None, "ab": "READ"}),
    ([("all", "WRITE", "a"), ("all", "WRITE", "b")], {"a": None, "ab": "WRITE"}),
    ([("all", "WRITE", "a"), ("any", "READ", "b"), ("any", "WRITE", "c")],
     {"a": None, "b": None, "ab": "READ", "ac": "WRITE", "abc": "WRITE", "bc": None}),
    ([("all", "READ", "a"), ("any", "WRITE", "c")], {"ac": "READ", "a": None, "c": None}),
]


@pytest.mark.parametrize("policies, expected", COMBINATIONS)
def test_combinations(tagged, policies, expected):
    for i, (combine, access, group) in enumerate(policies):
        policy(tagged, f"p{i}", tags=["public"], groups=[group], access=access, combine=combine)
    for groups, access in expected.items():
        tagged.sql("SELECT immuta.set_user_groups('ann', %s)", (list(groups),))
        assert tagged.access("ann", "sales.orders") == access, groups
    assert tagged.drift() == []


def test_single_subscriptions_and_policies_add_up(tagged):
    policy(tagged, tags=["public"], groups=["a"])
    tagged.sql("SELECT immuta.set_user_groups('ann', '{a}'), immuta.subscribe('ann', 'sales.orders', 'WRITE')")
    assert tagged.access("ann", "sales.orders") == "WRITE"
    tagged.sql("SELECT immuta.unsubscribe('ann', 'sales.orders')")
    assert tagged.access("ann", "sales.orders") == "READ"
    tagged.sql("SELECT immuta.subscribe('ann', 'sales.orders')")
    tagged.sql("SELECT immuta.drop_subscription_policy('p')")
    assert tagged.access("ann", "sales.orders") == "READ"
    assert tagged.sql("SELECT immuta.drop_subscription_policy('p')") == [(False,)]


def test_nobody_is_mapped_to_the_role_of_a_policy(tagged):
    policy(tagged, tags=["public"], groups=["a"])
    role = tagged.world.value("SELECT role_name FROM immuta.access_class")
    with refuses("42501", "IMPERSONATION_NOT_ALLOWED"):
        tagged.sql("SELECT immuta.map_user('ann', %s)", (role,))
    tagged.sql("SELECT immuta.create_user(%s)", (role,))
    with refuses("42704", "IMPERSONATION_NOT_MAPPED"):
        reads(tagged, role, "SELECT * FROM sales.orders")


def test_nothing_is_left_of_a_policy(tagged):
    before = tagged.world.sql("SELECT count(*) FROM pg_roles")
    policy(tagged, tags=["public"], groups=["nobody"])
    policy(tagged, "q", tags=["public"], groups=["nobody"], combine="all")
    tagged.sql("SELECT immuta.drop_subscription_policy('p'), immuta.drop_subscription_policy('q')")
    assert tagged.world.sql("SELECT count(*) FROM pg_roles") == before
    for table in ("access_class", "class_source", "class_member", "policy_member", "grant_made"):
        assert tagged.world.value(f"SELECT count(*) FROM immuta.{table}") == 0, table


def test_why(tagged):
    policy(tagged, tags=["public"], groups=["a"])
    policy(tagged, "must", tags=["money"], groups=["b"], combine="all")
    why = "SELECT source, name, applies, detail FROM immuta.why('ann', 'sales.orders')"
    assert tagged.sql(why) == [
        ("policy", "must", False, "READ, required of everybody: the user does not satisfy it"),
        ("policy", "p", False, "READ: the user does not satisfy it"),
        ("role", None, False, "none yet")]
    tagged.sql("SELECT immuta.set_user_groups('ann', '{a}')")
    assert tagged.sql(why)[1] == ("policy", "p", False, "READ: the user satisfies it, but not every policy that is required")
    tagged.sql("SELECT immuta.set_user_groups('ann', '{a,b}'), immuta.subscribe('ann', 'sales.orders', 'READ')")
    seen = tagged.sql(why)
    assert seen[:3] == [("subscription", None, True, "READ, approved"),
                        ("policy", "must", True, "READ, required of everybody: the user satisfies it"),
                        ("policy", "p", True, "READ: the user satisfies it")]
    assert seen[3][:3] == ("role", "user_ann", True)
    assert [(name, applies) for source, name, applies, _ in seen if source == "access"] == [
        ("SELECT", True), ("INSERT", False), ("UPDATE", False), ("DELETE", False), ("TRUNCATE", False)]
    tagged.sql("SELECT immuta.unmap_user('ann')")
    assert ("role", None, False, "the user is mapped to no role") in tagged.sql(why)


def test_preview_is_what_happens(tagged):
    tagged.sql("SELECT immuta.set_user_groups('ann', '{a}'), immuta.set_user_groups('ben', '{b}')")
    state = "SELECT (SELECT count(*) FROM pg_roles), (SELECT count(*) FROM pg_auth_members), (SELECT array_agg(relacl::text) FROM pg_class)," \
            "(SELECT count(*) FROM immuta.subscription_policy), (SELECT count(*) FROM immuta.access_class)"
    before = tagged.world.sql(state)
    preview = "SELECT userid, data_source, change, access_before, access_after FROM immuta.preview_policy('p', "
    assert tagged.sql(preview + "tags => '{public}', groups => '{a}')") == [("ann", "sales.orders", "gains", None, "READ")]
    assert tagged.world.sql(state) == before
    policy(tagged, tags=["public"], groups=["a"])
    before = tagged.world.sql(state)
    assert tagged.sql(preview + "tags => '{public}', groups => '{b}', access => 'WRITE')") == [
        ("ann", "sales.orders", "loses", "READ", None), ("ben", "sales.orders", "gains", None, "WRITE")]
    assert tagged.sql(preview + "tags => '{public}', groups => '{a}', access => 'WRITE')") == [
        ("ann", "sales.orders", "changes", "READ", "WRITE")]
    assert tagged.sql(preview + "dropped => true)") == [("ann", "sales.orders", "loses", "READ", None)]
    assert tagged.world.sql(state) == before
    assert tagged.access("ann", "sales.orders") == "READ" and tagged.drift() == []


def test_a_policy_is_all_or_nothing(tagged):
    """An error in the middle, and a rollback, leave nothing."""
    tagged.sql("SELECT immuta.set_user_groups('ann', '{a}')")
    count = "SELECT (SELECT count(*) FROM pg_roles), (SELECT count(*) FROM immuta.subscription_policy)"
    before = tagged.world.sql(count)
    tagged.sql("BEGIN")
    policy(tagged, tags=["public"], groups=["a"])
    tagged.sql("ROLLBACK")
    tagged.sql("SET statement_timeout = 1")
    with refuses("57014"):
        tagged.sql("SELECT immuta.create_subscription_policy('p', tags => '{public}', groups => '{a}') FROM generate_series(1, 100000)")
    tagged.sql("RESET statement_timeout")
    assert tagged.world.sql(count) == before and tagged.access("ann", "sales.orders") is None


@pytest.mark.parametrize("arguments, sqlstate", [
    (dict(groups=["a"]), "22023"),
    (dict(tags=["a"]), "22023"),
    (dict(tags=["a"], groups=["a"], access="ADMIN"), "22023"),
    (dict(tags=["a"], groups=["a"], combine="some"), "22023"),
    (dict(tags=["a"], groups=[None]), "22023"),
    (dict(tags=["a"], groups=[""]), "22023"),
    (dict(tags=["a"], attributes="[]"), "22023"),
    (dict(tags=["a"], attributes="{}"), "22023"),
    (dict(tags=["a"], attributes='{"x": 1}'), "22023"),
    (dict(tags=["a"], attributes='{"x": [[]]}'), "22023"),
    (dict(tags=["a"], attributes='{"x": {"y": "z"}}'), "22023"),
    (dict(tags=["a"], expression="$.["), "42601"),
    (dict(schemas=["other"], groups=["a"]), "42704"),
    (dict(name="", tags=["a"], groups=["a"]), "22023"),
    (dict(name="x" * 256, tags=["a"], groups=["a"]), "22023"),
])
def test_wrong_input(sales, arguments, sqlstate):
    with refuses(sqlstate):
        policy(sales, **dict(dict(name="p"), **arguments))
    assert sales.sql("SELECT * FROM immuta.subscription_policies") == []


def test_a_policy_is_not_replaced_by_chance(tagged):
    policy(tagged, tags=["public"], groups=["a"])
    with refuses("42710"):
        policy(tagged, tags=["public"], groups=["b"])


def test_users_come_and_go(tagged):
    policy(tagged, tags=["public"], expression="true")
    tagged.sql("SELECT immuta.create_user('new')")
    assert tagged.access("new", "sales.orders") == "READ"
    assert query(tagged.system, "SELECT role, role_was_made FROM immuta.user_profiles WHERE userid = 'new'") == [("user_new", True)]
    tagged.sql("SELECT immuta.drop_user('new')")
    assert tagged.world.value("SELECT count(*) FROM pg_roles WHERE rolname = 'user_new'") == 0 and tagged.drift() == []
