"""What pages tell people to type works as it stands there: the SQL of the README, of the reference and of the page about
subscriptions, and the README's program."""

import re

import psycopg2
import pytest
from harness.fixtures import VERSION
from harness.server import ROOT, Server
from harness.world import query

DATABASE = "immuta"
# Tables, logins and users that the pages take for granted.
BEFORE = """
CREATE SCHEMA air;
CREATE TABLE air.flights AS SELECT 'UA'::text AS carrier;
CREATE ROLE flights_app LOGIN PASSWORD 'flights-password';
CREATE ROLE names LOGIN PASSWORD 'names-password';
CREATE ROLE sales_owner;
CREATE SCHEMA sales AUTHORIZATION sales_owner;
SET ROLE sales_owner;
CREATE TABLE sales.orders (id int, region text, level text);
CREATE TABLE sales.totals AS SELECT 1 AS total;
RESET ROLE;
"""
AFTER_README = """
GRANT bodata_impersonate_user TO flights_app;
GRANT immuta_impersonation TO names;
ALTER ROLE names SET bodata.allow_session_impersonation = on;
GRANT USAGE ON SCHEMA air TO ursula;
GRANT SELECT ON air.flights TO ursula;
"""


def blocks(page, language="sql"):
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", (ROOT / page).read_text(), re.S | re.M)


@pytest.fixture(scope="module")
def database():
    with Server(VERSION, "pages") as server:
        server.psql("-c", f"CREATE DATABASE {DATABASE}")
        [install] = blocks("README.md")
        for sql in (BEFORE, install, AFTER_README):
            server.psql(input=sql, dbname=DATABASE)
        yield server


def connect(database, user, password):
    return psycopg2.connect(**database.dsn(user, password, DATABASE))


def test_readme(database):
    """A password becomes a token, and the program of the page reads with it what ursula may."""
    with connect(database, "flights_app", "flights-password") as login:
        [(answer,)] = query(login, "SELECT immuta.authenticate('ursula', 'a good password')")
    login.close()
    [program] = blocks("README.md", "python")
    there = database.dsn("flights_app", "flights-password", DATABASE)
    program, replaced = re.subn(r'host="db", dbname="immuta", user="flights_app", password="..."', "**there", program)
    assert replaced == 1
    names = {"there": there}
    exec(program, names)
    assert names["flights_of"](answer["token"]) == [("UA", 1)]
    with pytest.raises(psycopg2.Error) as refused:
        names["flights_of"]("nobody's")
    assert refused.value.pgcode == "28000"
    names["pool"].closeall()


def test_reference(database):
    rules, transaction, session = blocks("docs/reference.md")
    connection = connect(database, "names", "names-password")
    connection.autocommit = True
    for statement in transaction.split(";")[:-2]:
        answer = query(connection, statement)
    assert answer == [(1,)]
    connection.rollback()
    connection.close()
    connection = connect(database, "names", "names-password")
    connection.autocommit = True
    for statement, user in zip(session.strip().splitlines(), ["ursula", "ursula", "", "ursula"], strict=True):
        query(connection, statement)
        assert query(connection, "SHOW immuta.immuta_user") == [(user,)], statement
    connection.close()
    database.psql(input=rules, dbname=DATABASE)
    assert database.psql("-A", "-t", "-c", "SELECT count(*) FROM immuta.impersonation_rules()",
                         dbname=DATABASE).stdout.strip() == str(rules.count("SELECT"))
    database.psql("-c", "DELETE FROM immuta.impersonation_rule", dbname=DATABASE)


@pytest.fixture(scope="module")
def account(database):
    """The system account, as the page about subscriptions sets it up."""
    database.psql(input=blocks("docs/subscriptions.md")[1] + "GRANT sales_owner TO immuta_system;", dbname=DATABASE)
    database.psql("-c", "SELECT immuta.create_user('ann')", dbname=DATABASE)


def test_subscriptions(database, account):
    """In the order of the page, but that the system account is set up first."""
    first, _, policies = blocks("docs/subscriptions.md")
    shown = database.psql(input=first, dbname=DATABASE).stdout
    assert "READ" in shown and "analysts read everything tagged public" in shown
    database.psql(input=policies, dbname=DATABASE)
    made = "SELECT count(*) FROM pg_policies WHERE tablename = 'orders' AND permissive = 'RESTRICTIVE'"
    assert database.psql("-A", "-t", "-c", made, dbname=DATABASE).stdout.strip() == "2"


def test_masking(database, account):
    """The guide, and what ann reads then: of the customers who are public what they earn."""
    database.psql(input="""
        SET ROLE sales_owner;
        CREATE TABLE sales.customers (id int, ssn varchar(11), mail text, phone text, income int, is_public boolean);
        INSERT INTO sales.customers VALUES (1, '123-45-6789', 'ann@example.com', '555-0123', 54321, false), (2, NULL, NULL, '911', 54321, true);
        RESET ROLE;
        SELECT immuta.register_data_source('sales.customers'), immuta.subscribe('ann', 'sales.customers')""", dbname=DATABASE)
    [policies] = blocks("docs/masking.md")
    shown = database.psql(input=policies, dbname=DATABASE).stdout
    assert shown.count("| masked") == 4 and "masking policy" in shown
    token = database.psql("-A", "-t", "-c", "SELECT immuta.issue_token('ann')", dbname=DATABASE).stdout.strip()
    with connect(database, "flights_app", "flights-password") as service:
        query(service, "SET LOCAL bodata.impersonation_token = %s", (token,))
        assert query(service, "SELECT id, length(ssn), mail, phone, income FROM sales.customers ORDER BY id") == [
            (1, 11, "***********.com", "****0123", 54000), (2, None, None, "***", 54321)]
    service.close()


@pytest.fixture
def trail(database):
    """The table as a sink, too, and nothing of what the page about incidents sets left afterwards."""
    database.psql(input="ALTER SYSTEM SET bodata.audit_sink = 'log, table'; SELECT pg_reload_conf()", dbname=DATABASE)
    yield
    for name in ("bodata.provider_grace", "bodata.audit_retention", "bodata.audit_sink"):
        database.psql("-c", f"ALTER SYSTEM RESET {name}", dbname=DATABASE)
    database.psql("-c", "SELECT pg_reload_conf()", dbname=DATABASE)


def test_incidents(database, account, trail):
    """What ends a token, a session and a login does; the trail tells what was done; every query of the page works."""

    def run(sql):
        return database.psql("-A", "-t", input=sql, dbname=DATABASE).stdout

    database.psql(input="SELECT immuta.disable_user('ursula', disabled => false); ALTER ROLE flights_app PASSWORD 'flights-password'",
                  dbname=DATABASE)
    run("SELECT immuta.register_data_source('air.flights')")
    leaked = run("SELECT immuta.revoke_user_tokens('ursula'); SELECT immuta.issue_token('ursula')").split()[1]
    key = run("SELECT immuta.create_api_key('ursula')").strip()
    working = connect(database, "flights_app", "flights-password")
    query(working, "SET LOCAL bodata.impersonation_token = %s", (leaked,))
    assert query(working, "SELECT * FROM air.flights") == [("UA",)]
    revoke, refuse, terminate, secrets, done, login, grace, locks, fewer, elsewhere, why, who = blocks("docs/incidents.md")
    assert run(revoke.replace("the token", leaked)).split() == ["t", "0"], "it was the only one"
    run(refuse)
    assert "|flights_app|127.0.0.1|t" in run(terminate)
    with pytest.raises(psycopg2.OperationalError):
        query(working, "SELECT 1")
    assert run(secrets).count("|t\n") == 1
    fresh = connect(database, "flights_app", "flights-password")
    with pytest.raises(psycopg2.errors.InvalidAuthorizationSpecification):
        query(fresh, "SET LOCAL bodata.impersonation_token = %s", (leaked,))
    fresh.rollback()
    assert query(fresh, "SELECT immuta.authenticate_api_key(%s) ->> 'authenticated'", (key,)) == [("false",)]
    run("SELECT immuta.flush_audit()")
    assert "|flights_app|127.0.0.1|" in run(done) and "SELECT * FROM air.flights|{air.flights}|1" in run(done)
    assert "|IMPERSONATION_TOKEN_INVALID|127.0.0.1" in run(login)
    with pytest.raises(psycopg2.OperationalError):
        query(fresh, "SELECT 1")
    with pytest.raises(psycopg2.OperationalError):
        connect(database, "flights_app", "flights-password")
    database.psql("-c", "ALTER ROLE flights_app PASSWORD 'flights-password'", dbname=DATABASE)
    for sql in (grace, locks, fewer):
        run(sql)
    assert "flights_app|token|ursula|" in run(why) and "role" in run(why)
    run("SELECT immuta.map_user('ursula', 'ursula'); SELECT immuta.flush_audit()")
    run(who)
    run(elsewhere)
