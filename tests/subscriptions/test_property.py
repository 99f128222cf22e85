"""Random sequences of changes: after each, the grants in the catalogs are what a model in Python says they should be.

IMMUTA_STEPS and IMMUTA_SEED choose how long and which.
"""

import os
import random

import psycopg2
import pytest
from conftest import clean
from harness.world import query

STEPS = int(os.environ.get("IMMUTA_STEPS", "2000"))
SEED = int(os.environ.get("IMMUTA_SEED", random.randrange(1_000_000)))

SCHEMAS = ("sales", "other", "third")
USERS = [f"u{i}" for i in range(8)]
GROUPS = ("g0", "g1", "g2")
TAGS = ("t0", "t1", "t2")
POLICIES = [f"p{i}" for i in range(5)]
EXPRESSIONS = {
    '$.groups[*] == "g0" && !($.groups[*] == "g1")': lambda u: "g0" in u.groups and "g1" not in u.groups,
    '$.attributes.region[*] == "EU"': lambda u: "EU" in u.attributes.get("region", ()),
    'exists($.attributes.level) && $.attributes.level[*].double() >= 2':
        lambda u: any(float(level) >= 2 for level in u.attributes.get("level", ())),
    'true': lambda u: True,
}
KINDS = {"r": "TABLE {} (a int, b int)", "p": "TABLE {} (a int, b int) PARTITION BY LIST (a)",
         "v": "VIEW {} AS SELECT 1 AS a, 2 AS b", "m": "MATERIALIZED VIEW {} AS SELECT 1 AS a, 2 AS b"}
DROP = {"r": "TABLE", "p": "TABLE", "v": "VIEW", "m": "MATERIALIZED VIEW"}
LETTERS = {"READ": "r", "WRITE": {"r": "rawdD", "p": "rawdD", "v": "rawd", "m": "r"}}

ACTUAL = """
SELECT u.userid, c.relnamespace::regnamespace || '.' || c.relname,
       concat(CASE WHEN has_column_privilege(b.role, c.oid, 'a', 'SELECT') THEN 'r' END,
              CASE WHEN has_column_privilege(b.role, c.oid, 'a', 'INSERT') THEN 'a' END,
              CASE WHEN has_column_privilege(b.role, c.oid, 'a', 'UPDATE') THEN 'w' END,
              CASE WHEN has_table_privilege(b.role, c.oid, 'DELETE') THEN 'd' END,
              CASE WHEN has_table_privilege(b.role, c.oid, 'TRUNCATE') THEN 'D' END,
              CASE WHEN has_column_privilege(b.role, c.oid, 'b', 'SELECT') THEN 'x' END,
              CASE WHEN NOT has_schema_privilege(b.role, c.relnamespace, 'USAGE') THEN '!' END) AS letters
FROM immuta.user_account u JOIN immuta.subscriber b ON b.user_id = u.id
JOIN pg_class c ON c.relnamespace::regnamespace::text = ANY (%s) AND c.relkind IN ('r', 'p', 'v', 'm')
WHERE u.userid = ANY (%s)
"""

# Whoever has anything on a table, besides its owner and the system account, carries subscriptions or is a class.
STRAY = """
SELECT c.oid::regclass::text, a.grantee::regrole::text, a.privilege_type
FROM pg_class c, aclexplode(c.relacl) a
WHERE c.relnamespace::regnamespace::text = ANY (%s) AND a.grantee NOT IN (c.relowner, 'immuta_system'::regrole)
  AND a.grantee NOT IN (SELECT role FROM immuta.subscriber WHERE role IS NOT NULL
                        UNION ALL SELECT role FROM immuta.access_class WHERE role IS NOT NULL)
"""


class User:
    def __init__(self):
        self.groups, self.attributes, self.mapping = set(), {}, "username"


class Table:
    def __init__(self, kind, schema, name):
        self.kind, self.schema, self.name = kind, schema, name
        self.forget()

    def forget(self):
        """It is no data source any more."""
        self.explicit, self.tags, self.excluded = False, set(), False

    @property
    def full(self):
        return f"{self.schema}.{self.name}"


class Model:
    """What should be, and the steps that change it, here and in the database."""

    def __init__(self, office, rng):
        self.office, self.rng = office, rng
        self.users, self.tables, self.registered, self.policies, self.subscriptions = {}, [], set(), {}, {}
        self.guarded_names = set()
        self.count = self.compared = 0

    # -- what should be ---------------------------------------------------------------------------------------------

    def is_source(self, table):
        return table.explicit or table.schema in self.registered

    def satisfies(self, user, policy):
        if policy["groups"] is not None and not user.groups & set(policy["groups"]):
            return False
        for name, wanted in (policy["attributes"] or {}).items():
            if not set(user.attributes.get(name, ())) & set(wanted):
                return False
        return policy["expression"] is None or EXPRESSIONS[policy["expression"]](user)

    def applies(self, policy, table):
        return ((policy["tags"] is None or bool(table.tags & set(policy["tags"])))
                and (policy["schemas"] is None or table.schema in policy["schemas"])
                and (policy["data_sources"] is None or table in policy["data_sources"]))

    def access(self, userid, table):
        user = self.users[userid]
        if user.mapping == "none" or not self.is_source(table):
            return None
        found = set()
        state, access = self.subscriptions.get((userid, table), (None, None))
        if state == "approved":
            found.add(access)
        policies = [p for p in self.policies.values() if self.applies(p, table)]
        required = [p for p in policies if p["combine"] == "all"]
        shared = [p for p in policies if p["combine"] == "any"]
        for access in ("READ", "WRITE"):
            enough = [p for p in shared if access == "READ" or p["access"] == "WRITE"]
            if (policies and all(self.satisfies(user, p) for p in required)
                    and (access == "READ" or all(p["access"] == "WRITE" for p in required))
                    and (not shared or any(self.satisfies(user, p) for p in enough))):
                found.add(access)
        return "WRITE" if "WRITE" in found else "READ" if found else None

    def expected(self):
        rights = {}
        for userid in self.users:
            for table in self.tables:
                access = self.access(userid, table)
                if access:
                    letters = "r" if access == "READ" else LETTERS["WRITE"][table.kind]
                    rights[userid, table.full] = letters + ("" if table.excluded else "x")
        return rights

    # -- comparing --------------------------------------------------------------------------------------------------

    def check(self, what):
        world = self.office.world
        actual = {(u, t): letters for u, t, letters in world.sql(ACTUAL, (list(SCHEMAS), USERS)) if letters.strip("!")}
        expected = self.expected()
        self.compared += len(expected)
        wrong = {key: (actual.get(key), expected.get(key)) for key in actual.keys() | expected.keys()
                 if actual.get(key) != expected.get(key)}
        assert wrong == {}, f"after step {self.count} ({what}), seed {SEED}: (is, should be) {wrong}"
        assert world.sql(STRAY, (list(SCHEMAS),)) == [], f"after step {self.count} ({what}), seed {SEED}"

    # -- steps ------------------------------------------------------------------------------------------------------

    def step(self):
        self.count += 1
        steps = [m for m in dir(self) if m.startswith("do_")]
        name = self.rng.choice(steps)
        self.guarded_names |= {t.full for t in self.tables if t.excluded}
        result = name, getattr(self, name)()
        # What comes back under the name of a table with excluded columns waits for an administrator.
        held = "SELECT schema_name || '.' || table_name FROM immuta.data_source WHERE held"
        for full, in self.office.world.sql(held):
            assert full in self.guarded_names, result
            self.sql("SELECT immuta.register_data_source(%s)", full)
            next(t for t in self.tables if t.full == full).explicit = True
        return result

    def sql(self, statement, *args):
        return self.office.sql(statement, args)

    def some_user(self):
        return self.rng.choice(sorted(self.users)) if self.users else None

    def some_table(self, sources_only=True):
        tables = [t for t in self.tables if self.is_source(t)] if sources_only else self.tables
        return self.rng.choice(tables) if tables else None

    def leave(self, table):
        """The table may no longer be a data source: then all that hung on it goes."""
        if not self.is_source(table):
            table.forget()
            self.subscriptions = {k: v for k, v in self.subscriptions.items() if k[1] is not table}
            for policy in self.policies.values():
                if policy["data_sources"] is not None:
                    policy["data_sources"] = [t for t in policy["data_sources"] if t is not table]

    def do_create_user(self):
        missing = [u for u in USERS if u not in self.users]
        if missing:
            userid = self.rng.choice(missing)
            self.sql("SELECT immuta.create_user(%s)", userid)
            self.users[userid] = User()

    do_create_user_again = do_create_user

    def do_drop_user(self):
        userid = self.some_user()
        if userid and self.rng.random() < 0.4:
            self.sql("SELECT immuta.drop_user(%s)", userid)
            del self.users[userid]
            self.subscriptions = {k: v for k, v in self.subscriptions.items() if k[0] != userid}

    def do_map_user(self):
        userid = self.some_user()
        if userid:
            self.sql("SELECT immuta.map_user(%s, %s)", userid, f"hand_{userid}")
            self.users[userid].mapping = "explicit"

    def do_unmap_user(self):
        userid = self.some_user()
        if userid and self.rng.random() < 0.5:
            self.sql("SELECT immuta.unmap_user(%s)", userid)
            self.users[userid].mapping = "none"

    def do_set_groups(self):
        userid = self.some_user()
        if userid:
            groups = self.rng.sample(GROUPS, self.rng.randrange(len(GROUPS) + 1))
            self.sql("SELECT immuta.set_user_groups(%s, %s)", userid, groups)
            self.users[userid].groups = set(groups)

    def do_add_group(self):
        userid, group = self.some_user(), self.rng.choice(GROUPS)
        if userid:
            self.sql("SELECT immuta.add_user_to_group(%s, %s)", userid, group)
            self.users[userid].groups.add(group)

    def do_remove_group(self):
        userid, group = self.some_user(), self.rng.choice(GROUPS)
        if userid:
            self.sql("SELECT immuta.remove_user_from_group(%s, %s)", userid, group)
            self.users[userid].groups.discard(group)

    def do_set_attribute(self):
        userid = self.some_user()
        if userid:
            name, values = self.rng.choice([("region", ["EU"]), ("region", ["US", "EU"]), ("region", []), ("level", ["1"]),
                                            ("level", ["1", "3"]), ("level", [])])
            self.sql("SELECT immuta.set_user_attribute(%s, %s, %s)", userid, name, values)
            self.users[userid].attributes[name] = values
            if not values:
                del self.users[userid].attributes[name]

    def do_create_table(self):
        if len(self.tables) < 9:
            kind = self.rng.choice("rrrpvm")
            table = Table(kind, self.rng.choice(SCHEMAS), f"t{self.count}")
            self.office.ddl("CREATE " + KINDS[kind].format(table.full))
            self.tables.append(table)

    do_create_table_again = do_create_table

    def do_drop_table(self):
        table = self.some_table(False)
        if table and self.rng.random() < 0.4:
            self.office.ddl(f"DROP {DROP[table.kind]} {table.full}")
            self.tables.remove(table)
            self.registered, registered = set(), self.registered
            table.explicit = False
            self.leave(table)
            self.registered = registered

    def do_rename_table(self):
        table = self.some_table(False)
        if table:
            self.office.ddl(f"ALTER {DROP[table.kind]} {table.full} RENAME TO n{self.count}")
            table.name = f"n{self.count}"

    def do_move_table(self):
        table = self.some_table(False)
        if table:
            schema = self.rng.choice([s for s in SCHEMAS if s != table.schema])
            self.office.ddl(f"ALTER {DROP[table.kind]} {table.full} SET SCHEMA {schema}")
            table.schema = schema
            self.leave(table)

    def do_unseen_move(self):
        """While the event triggers are off; sync() makes up for it."""
        table = self.some_table(False)
        if table and self.rng.random() < 0.5:
            schema = self.rng.choice([s for s in SCHEMAS if s != table.schema])
            self.office.world.sql("SET session_replication_role = replica; "
                                  f"ALTER {DROP[table.kind]} {table.full} SET SCHEMA {schema}; RESET session_replication_role")
            table.schema = schema
            self.leave(table)
            self.sql("SELECT * FROM immuta.sync()")

    def do_revoked_by_hand(self):
        """sync() puts it back."""
        table = self.some_table()
        if table:
            role = self.office.world.sql("SELECT a.grantee::regrole::text FROM pg_class c, aclexplode(relacl) a WHERE c.oid = %s::regclass "
                                         "AND a.grantee NOT IN (c.relowner, 'immuta_system'::regrole) LIMIT 1", (table.full,))
            if role:
                self.sql(f"REVOKE ALL ON {table.full} FROM {role[0][0]}")
                self.sql("SELECT * FROM immuta.sync()")

    def do_register_schema(self):
        schema = self.rng.choice(SCHEMAS)
        self.sql("SELECT immuta.register_schema(%s)", schema)
        self.registered.add(schema)

    def do_unregister_schema(self):
        if self.registered and self.rng.random() < 0.3:
            schema = self.rng.choice(sorted(self.registered))
            self.sql("SELECT immuta.unregister_schema(%s)", schema)
            self.registered.discard(schema)
            for policy in self.policies.values():
                if policy["schemas"] is not None:
                    policy["schemas"] = [s for s in policy["schemas"] if s != schema]
            for table in self.tables:
                self.leave(table)

    def do_register(self):
        table = self.some_table(False)
        if table:
            excluded = self.rng.random() < 0.3
            tags = self.rng.sample(TAGS, self.rng.randrange(3))
            self.sql("SELECT immuta.register_data_source(%s, %s, %s::name[])", table.full, tags, ["b"] if excluded else [])
            table.explicit, table.tags, table.excluded = True, set(tags), excluded

    def do_unregister(self):
        table = self.some_table()
        if table and table.schema not in self.registered:
            assert self.sql("SELECT immuta.unregister_data_source(%s)", table.full) == [(True,)]
            table.explicit = False
            self.leave(table)

    def do_tag(self):
        table, tag = self.some_table(), self.rng.choice(TAGS)
        if table:
            self.sql("SELECT immuta.tag_data_source(%s, %s)", table.full, tag)
            table.tags.add(tag)

    def do_untag(self):
        table, tag = self.some_table(), self.rng.choice(TAGS)
        if table:
            self.sql("SELECT immuta.untag_data_source(%s, %s)", table.full, tag)
            table.tags.discard(tag)

    def do_policy(self):
        name, rng = self.rng.choice(POLICIES), self.rng
        some = lambda values: rng.sample(sorted(values), rng.randrange(1, len(values) + 1)) if values and rng.random() < 0.5 else None  # noqa: E731
        sources = [t for t in self.tables if self.is_source(t)]
        policy = dict(tags=some(TAGS), schemas=some(self.registered), groups=some(GROUPS),
                      data_sources=rng.sample(sources, rng.randrange(1, len(sources) + 1)) if sources and rng.random() < 0.3 else None,
                      attributes=rng.choice([None, {"region": ["EU"]}, {"region": ["EU", "US"], "level": ["1"]}]),
                      expression=rng.choice([None, *EXPRESSIONS]), access=rng.choice(["READ", "WRITE"]),
                      combine=rng.choice(["any", "any", "all"]))
        if (policy["tags"], policy["schemas"], policy["data_sources"]) == (None,) * 3:
            policy["tags"] = ["t0"]
        if (policy["groups"], policy["attributes"], policy["expression"]) == (None,) * 3:
            policy["groups"] = ["g0"]
        wants = rng.random() < 0.15 and self.predicted(name, policy)
        self.sql("SELECT immuta.create_subscription_policy(%s, %s, %s::name[], %s::text[]::regclass[], %s, %s, %s, %s, %s, true)", *self.arguments(name, policy))
        self.policies[name] = policy
        if wants:
            before, preview = wants
            after = {(u, t.full): self.by_policy(u, t) for u in self.users for t in self.tables}
            changed = {k: (before.get(k), v) for k, v in after.items() if before.get(k) != v}
            assert preview == changed, f"preview at step {self.count}, seed {SEED}"

    do_another_policy = do_policy

    def arguments(self, name, policy):
        return (name, policy["tags"], policy["schemas"],
                None if policy["data_sources"] is None else [t.full for t in policy["data_sources"]], policy["groups"],
                psycopg2.extras.Json(policy["attributes"]) if policy["attributes"] else None, policy["expression"], policy["access"],
                policy["combine"])

    def by_policy(self, userid, table):
        """What policies alone give, whatever the user is mapped to."""
        user, subscriptions = self.users[userid], self.subscriptions
        mapping, user.mapping, self.subscriptions = user.mapping, "username", {}
        access = self.access(userid, table)
        user.mapping, self.subscriptions = mapping, subscriptions
        return access

    def predicted(self, name, policy):
        before = {(u, t.full): self.by_policy(u, t) for u in self.users for t in self.tables}
        rows = self.sql("SELECT userid, data_source, access_before, access_after "
                        "FROM immuta.preview_policy(%s, %s, %s::name[], %s::text[]::regclass[], %s, %s, %s, %s, %s)", *self.arguments(name, policy))
        return before, {(u, t): (b, a) for u, t, b, a in rows if u in self.users}

    def do_drop_policy(self):
        if self.policies and self.rng.random() < 0.5:
            name = self.rng.choice(sorted(self.policies))
            self.sql("SELECT immuta.drop_subscription_policy(%s)", name)
            del self.policies[name]

    def do_subscribe(self):
        userid, table = self.some_user(), self.some_table()
        if userid and table:
            access = self.rng.choice(["READ", "WRITE"])
            if self.users[userid].mapping == "none":
                with pytest.raises(psycopg2.Error) as refused:
                    self.sql("SELECT immuta.subscribe(%s, %s, %s)", userid, table.full, access)
                assert refused.value.pgcode == "42704"
            else:
                self.sql("SELECT immuta.subscribe(%s, %s, %s)", userid, table.full, access)
                self.subscriptions[userid, table] = ("approved", access)

    do_subscribe_again = do_subscribe

    def do_unsubscribe(self):
        if self.subscriptions:
            userid, table = self.rng.choice(sorted(self.subscriptions, key=lambda k: (k[0], k[1].full)))
            assert self.sql("SELECT immuta.unsubscribe(%s, %s)", userid, table.full) == [(True,)]
            del self.subscriptions[userid, table]

    def do_request(self):
        userid, table = self.some_user(), self.some_table()
        if userid and table and self.subscriptions.get((userid, table), ("",))[0] != "approved":
            self.sql("SELECT immuta.request_subscription(%s, %s, 'WRITE')", userid, table.full)
            self.subscriptions[userid, table] = ("requested", "WRITE")

    def do_decide(self):
        open_requests = sorted((k for k, v in self.subscriptions.items() if v[0] in ("requested", "denied")),
                               key=lambda k: (k[0], k[1].full))
        if open_requests:
            userid, table = self.rng.choice(open_requests)
            if self.rng.random() < 0.5 or self.users[userid].mapping == "none":
                self.sql("SELECT immuta.deny_subscription(%s, %s)", userid, table.full)
                self.subscriptions[userid, table] = ("denied", self.subscriptions[userid, table][1])
            else:
                self.sql("SELECT immuta.approve_subscription(%s, %s)", userid, table.full)
                self.subscriptions[userid, table] = ("approved", self.subscriptions[userid, table][1])

    def do_rolled_back(self):
        """A step that is undone leaves nothing."""
        userid = self.some_user()
        if userid:
            self.sql("BEGIN")
            self.sql("SELECT immuta.set_user_groups(%s, %s)", userid, list(GROUPS))
            self.sql("SELECT immuta.create_subscription_policy('undone', tags => '{t0,t1,t2}', expression => 'true', access => 'WRITE')")
            self.sql("ROLLBACK")


def test_grants_are_what_the_policies_say(office):
    import psycopg2.extras  # noqa: F401
    world = office.world
    world.sql("CREATE SCHEMA third AUTHORIZATION data_owner; GRANT USAGE ON SCHEMA third TO immuta_system WITH GRANT OPTION")
    world.sql("; ".join(f"CREATE ROLE hand_{u}" for u in USERS))
    # The view of a class that the other users of the small world belong to is not this test's.
    try:
        rng = random.Random(SEED)
        model = Model(office, rng)
        print(f"seed {SEED}, {STEPS} steps")
        for _ in range(STEPS):
            what = model.step()
            model.check(what)
            if model.count % 100 == 0:
                drift = [d for d in office.drift() if d[0] != "user without a role"]
                assert drift == [], f"after step {model.count}, seed {SEED}"
                assert office.sql("SELECT * FROM immuta.sync()") == [], f"after step {model.count}, seed {SEED}"
                model.check("sync")
        # A model in which nobody has anything would agree with anything.
        assert model.compared > 2 * STEPS, model.compared
        print(f"{model.compared} pairs of user and table with access compared")
    finally:
        clean(world)
        world.sql("DROP SCHEMA IF EXISTS third CASCADE")
        world.sql("; ".join(f"DROP ROLE hand_{u}" for u in USERS))
