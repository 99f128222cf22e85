"""One server for all tests of a run; `PG_VERSION` says which. Everything here is done by a system account that is no
superuser: it logs in, calls the functions, and its rights are what grants are made with."""

import sys
from pathlib import Path

import psycopg2
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.fixtures import *  # noqa: E402,F401,F403
from harness.world import impersonate, query  # noqa: E402

SYSTEM = ("immuta_system", "system-password")

SQL = """
CREATE ROLE immuta_system LOGIN PASSWORD 'system-password' CREATEROLE IN ROLE immuta_admin;
CREATE ROLE data_owner LOGIN PASSWORD 'owner-password';
CREATE SCHEMA sales AUTHORIZATION data_owner; CREATE SCHEMA other AUTHORIZATION data_owner;
GRANT USAGE ON SCHEMA sales, other TO immuta_system WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE data_owner GRANT ALL ON TABLES TO immuta_system WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE data_owner GRANT USAGE ON SEQUENCES TO immuta_system WITH GRANT OPTION;
"""


@pytest.fixture(scope="session")
def server_name():
    return "subscriptions"


@pytest.fixture(scope="session")
def connected(world):
    """The system account is set up, and nothing registered."""
    world.sql(SQL)
    world.sql("SELECT immuta.set_system_account('immuta_system')")
    world.kept = {}
    yield world
    for connection in world.kept.values():
        connection.close()


class Office:
    """What the tests do with: the system account's connection, and the owner's."""

    def __init__(self, world):
        self.world = world
        self.connections = []
        self.system = self._kept(*SYSTEM)
        self.owner = self._kept("data_owner", "owner-password")

    def _kept(self, user, password):
        """One connection for all tests, as administrators have them: it has planned what our functions do."""
        connection = self.world.kept.get(user)
        if connection is None or connection.closed:
            connection = self.world.kept[user] = self.world.connect(user, password)
        else:
            connection.rollback()
        connection.autocommit = True
        query(connection, "RESET ALL; DISCARD TEMP")
        connection.notices.clear()
        return connection

    def login(self, user, password):
        connection = self.world.connect(user, password)
        connection.autocommit = True
        self.connections.append(connection)
        return connection

    def sql(self, statement, args=None):
        """As the system account."""
        return query(self.system, statement, args)

    def value(self, statement, args=None):
        return self.sql(statement, args)[0][0]

    def ddl(self, statement):
        """As the owner of the data."""
        return query(self.owner, statement)

    def role(self, userid, iamid="bim"):
        rows = self.world.sql("SELECT role::regrole::text FROM immuta.subscriber b JOIN immuta.user_account u ON u.id = b.user_id "
                              "WHERE u.userid = %s AND u.iamid = %s", (userid, iamid))
        return rows[0][0] if rows else None

    def may(self, userid, table, privilege="SELECT", iamid="bim"):
        """Whether the user's role has the privilege on the table, and USAGE of its schema."""
        role = self.role(userid, iamid)
        return role is not None and self.world.value(
            "SELECT has_table_privilege(%s::regrole::oid, c.oid, %s) AND has_schema_privilege(%s::regrole::oid, c.relnamespace, 'USAGE') "
            "FROM pg_class c WHERE c.oid = %s::regclass", (role, privilege, role, table))

    def access(self, userid, table, iamid="bim"):
        """The privileges, in short: r, w for all that writes, or what there is of it."""
        has = "".join(letter for letter, privilege in (
            ("r", "SELECT"), ("a", "INSERT"), ("w", "UPDATE"), ("d", "DELETE"), ("D", "TRUNCATE"))
            if self.may(userid, table, privilege, iamid))
        return {"": None, "r": "READ", "rawdD": "WRITE"}.get(has, has)

    def drift(self):
        """Without what is no difference."""
        return self.sql("SELECT what, object, detail FROM immuta.drift() WHERE what <> 'mask warning'")

    def close(self):
        for connection in (self.system, self.owner):
            if not connection.closed:
                connection.rollback()
        for connection in self.connections:
            connection.close()


@pytest.fixture
def office(connected):
    """A clean state: no users but the three of the small world, nothing registered."""
    office = Office(connected)
    yield office
    office.close()
    clean(connected)


def clean(world):
    world.sql("ROLLBACK")
    for (name,) in world.sql("SELECT name FROM immuta.subscription_policy"):
        world.sql("SELECT immuta.drop_subscription_policy(%s)", (name,))
    for (name,) in world.sql("SELECT schema_name FROM immuta.registered_schema"):
        world.sql("SELECT immuta.unregister_schema(%s)", (name,))
    for (relation,) in world.sql("SELECT relation::regclass FROM immuta.data_source WHERE relation IS NOT NULL"):
        world.sql("SELECT immuta.unregister_data_source(%s)", (relation,))
    world.sql("SET client_min_messages = error; DROP SCHEMA sales CASCADE; DROP SCHEMA other CASCADE; DROP SCHEMA IF EXISTS moved CASCADE; "
              "CREATE SCHEMA sales AUTHORIZATION data_owner; CREATE SCHEMA other AUTHORIZATION data_owner; "
              "GRANT USAGE ON SCHEMA sales, other TO immuta_system WITH GRANT OPTION; RESET client_min_messages")
    # Now no grant made by hand keeps a role.
    for userid, iamid in world.sql("SELECT userid, iamid FROM immuta.user_account WHERE userid NOT IN ('alice', 'bob', 'carol')"):
        world.sql("SELECT immuta.drop_user(%s, %s)", (userid, iamid))
    world.sql("DELETE FROM immuta.user_profile")


@pytest.fixture
def sales(office):
    """Three tables in a registered schema, and two users without roles."""
    office.ddl("CREATE TABLE sales.orders (id serial PRIMARY KEY, region text, amount int);"
               "INSERT INTO sales.orders (region, amount) VALUES ('EU', 1), ('US', 2), ('EU', 3);"
               "CREATE TABLE sales.customers (id int PRIMARY KEY, name text, ssn text);"
               "CREATE VIEW sales.totals AS SELECT region, sum(amount) AS amount FROM sales.orders GROUP BY region")
    office.sql("SELECT immuta.register_schema('sales')")
    office.sql("SELECT immuta.create_user('ann'), immuta.create_user('ben')")
    return office


def reads(office, userid, statement, iamid="bim"):
    """Rows that the user sees with a token of theirs."""
    service = office.world.connect()
    try:
        impersonate(service, office.world.token(userid, iamid))
        return query(service, statement)
    finally:
        service.close()
