"""The third act: data sources, a policy, and a user who joins a group and leaves it. The same token sees the table in the
next transaction, and does not."""

SYSTEM = "immuta_system"

# By a superuser, once: a role that is none, the privileges it may hand on, and nothing else.
CONNECT = f"""
CREATE ROLE {SYSTEM} NOLOGIN CREATEROLE;
GRANT USAGE ON SCHEMA air TO {SYSTEM} WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE air_owner IN SCHEMA air GRANT SELECT ON TABLES TO {SYSTEM} WITH GRANT OPTION;
SELECT immuta.set_system_account('{SYSTEM}');
SELECT immuta.register_schema('air');
SET ROLE air_owner;
CREATE TABLE air.carriers AS
SELECT carrier, count(*)::int AS flights, round(avg(dep_delay), 1)::float AS mean_delay FROM air.flights GROUP BY carrier;
CREATE TABLE air.crews (carrier text, name text);
RESET ROLE
"""

POLICY = """SELECT immuta.create_subscription_policy(
    'analysts read everything tagged public', tags => '{public}', groups => '{analysts}')"""


class SubscriptionsAct:
    def __init__(self, demo):
        self.demo = demo

    def play(self, heading, table):
        heading("10. Subscriptions: a policy instead of grants")
        self.demo.run(CONNECT)
        self.do("SELECT immuta.tag_data_source('air.carriers', 'public')")
        self.do(POLICY)
        self.do("SELECT immuta.create_user('grace')")
        token = self.demo.value("SELECT immuta.issue_token('grace')")
        rows = [("before", self.read(token, "air.carriers"), self.read(token, "air.crews"))]
        self.do("SELECT immuta.add_user_to_group('grace', 'analysts')")
        self.demo.expect("role of grace", self.demo.value(
            "SELECT role FROM immuta.user_profiles WHERE userid = 'grace'"), "user_grace")
        rows.append(("in the group", self.read(token, "air.carriers"), self.read(token, "air.crews")))
        self.do("SELECT immuta.tag_data_source('air.crews', 'public')")
        rows.append(("crews tagged public", self.read(token, "air.carriers"), self.read(token, "air.crews")))
        self.do("SELECT immuta.remove_user_from_group('grace', 'analysts')")
        rows.append(("out of the group", self.read(token, "air.carriers"), self.read(token, "air.crews")))
        refused = "refused (42501)"
        carriers = f"{self.demo.flights.summary().carriers} rows"
        self.demo.expect("what grace's token reads", rows, [
            ("before", "refused (42704)", "refused (42704)"), ("in the group", carriers, refused),
            ("crews tagged public", carriers, "0 rows"), ("out of the group", refused, refused)])
        print("\n  The same token, each time in the next transaction:\n")
        table(("grace is", "air.carriers", "air.crews"), rows)
        self.explain(table)
        self.demo.expect("drift", self.demo.value("SELECT count(*) FROM immuta.drift()"), 0)

    def explain(self, table):
        why = "SELECT source, coalesce(name, ''), applies::text, detail FROM immuta.why('grace', 'air.carriers') WHERE source <> 'access'"
        print(f"\n  {why}\n")
        table(("source", "name", "applies", "detail"), self.demo.rows(why))

    def do(self, statement):
        print(f"  {statement};".replace("\n", "\n  "))
        self.demo.run(statement)

    def read(self, token, relation):
        return self.demo.attempt(f"SELECT count(*) FROM {relation}", token)
