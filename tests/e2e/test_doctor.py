"""immuta.doctor(): finds what it should, and nothing where all is well."""

import pytest
from conftest import refuses
from harness.fixtures import VERSION
from harness.server import Server
from harness.world import World, prepare, query

FINDINGS = [
    ("svc owns nothing", "CREATE TABLE app.owned (); ALTER TABLE app.owned OWNER TO svc", "DROP TABLE app.owned",
     "app.owned"),
    ("svc has no rights of its own", "GRANT SELECT ON app.flights TO svc", "REVOKE SELECT ON app.flights FROM svc",
     "app.flights"),
    ("svc has no rights of its own", "CREATE ROLE readers; GRANT SELECT ON app.flights TO readers; GRANT readers TO svc",
     "REVOKE SELECT ON app.flights FROM readers; DROP ROLE readers", "app.flights"),
    ("svc inherits from no other role", "CREATE ROLE readers; GRANT readers TO svc", "DROP ROLE readers", "readers"),
    ("svc has no rights through PUBLIC", "GRANT SELECT ON app.flights TO PUBLIC",
     "REVOKE SELECT ON app.flights FROM PUBLIC", "app.flights"),
    ("svc is not a member of mapped roles", "GRANT alice TO svc", "REVOKE alice FROM svc", "alice"),
    ("svc does not administer", "GRANT immuta_admin TO svc", "REVOKE immuta_admin FROM svc", "immuta_admin"),
    ("svc is an ordinary role", "ALTER ROLE svc CREATEDB", "ALTER ROLE svc NOCREATEDB", "CREATEDB"),
    ("svc needs a token", "ALTER ROLE svc SET bodata.require_token = off", "ALTER ROLE svc RESET bodata.require_token",
     "every database"),
    ("svc finds no privileged functions", "CREATE FUNCTION app.f() RETURNS int LANGUAGE sql SECURITY DEFINER "
     "AS 'SELECT 1'", "DROP FUNCTION app.f()", "app.f()"),
    ("schema public is closed", "GRANT CREATE ON SCHEMA public TO PUBLIC", "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
     "REVOKE CREATE"),
    ("only superusers grant the control roles", "GRANT immuta_admin TO plain WITH ADMIN OPTION", "REVOKE immuta_admin FROM plain",
     "REVOKE ADMIN OPTION FOR immuta_admin FROM plain GRANTED BY postgres"),
    ("mapped roles may be impersonated", "ALTER ROLE bob CREATEROLE", "ALTER ROLE bob NOCREATEROLE", "bob"),
    ("mapped roles may be impersonated", "CREATE ROLE gone; SELECT immuta.create_user('gone', postgres_role => 'gone'); "
     "DROP ROLE gone", "SELECT immuta.drop_user('gone')", "gone"),
    ("roles mapped by name may be impersonated", "CREATE ROLE strong BYPASSRLS IN ROLE immuta_mappable",
     "DROP ROLE strong", "strong"),
    ("roles mapped by name own nothing", "GRANT immuta_mappable TO owner", "REVOKE immuta_mappable FROM owner", "owner"),
    ("changes are announced", "ALTER TABLE immuta.token DISABLE TRIGGER announce_row",
     "ALTER TABLE immuta.token ENABLE ALWAYS TRIGGER announce_row", "immuta.token"),
    # As pg_restore --disable-triggers leaves it: not where changes are replayed.
    ("changes are announced", "ALTER TABLE immuta.token ENABLE TRIGGER announce_row",
     "ALTER TABLE immuta.token ENABLE ALWAYS TRIGGER announce_row", "immuta.token"),
    ("changes of access are on record", "ALTER TABLE immuta.impersonation_rule DISABLE TRIGGER access_changes",
     "ALTER TABLE immuta.impersonation_rule ENABLE TRIGGER access_changes", "immuta.impersonation_rule"),
    ("clock", "INSERT INTO immuta.token (digest, user_id, last_used_at) SELECT sha256('future'), id, now() + '1 day' "
     "FROM immuta.user_account LIMIT 1", "DELETE FROM immuta.token WHERE digest = sha256('future')", "1 tokens"),
    ("impersonated statements are on record", "SET bodata.audit_sink = ''", "RESET bodata.audit_sink", "bodata.audit_sink"),
    ("errors and records reach the log", "SET log_min_messages = fatal", "RESET log_min_messages", "log_min_messages"),
    ("token provider", "SET bodata.token_provider = immuta", "RESET bodata.token_provider", "bodata.api_url is not set"),
    ("tokens travel encrypted", "SET bodata.api_allow_http = on; SET bodata.api_url = 'http://immuta.invalid'; "
     "SET bodata.token_provider = immuta", "RESET bodata.token_provider; RESET bodata.api_url; "
     "RESET bodata.api_allow_http", "http://immuta.invalid"),
    ("parse trees are not logged", "SET debug_print_plan = on", "RESET debug_print_plan", "debug_print_plan"),
]


def report(world):
    return {check: (ok, detail) for check, ok, detail in world.sql("SELECT * FROM immuta.doctor()")}


@pytest.fixture(scope="module", autouse=True)
def well(world):
    """The world of the tests has a table for everybody."""
    world.sql("REVOKE ALL ON app.everyone FROM PUBLIC")
    world.sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    yield
    world.sql("GRANT ALL ON app.everyone TO PUBLIC")


def test_nothing_where_all_is_well(world):
    found = {check: detail for check, (ok, detail) in report(world).items() if not ok}
    # Extensions of the world bring no definer functions; what is left would be a finding.
    assert found == {}
    assert world.value("SELECT count(*) FROM immuta.doctor('svc')") == len(report(world)) - 1


@pytest.mark.parametrize("check, do, undo, what", FINDINGS, ids=[f"{i}-{f[0]}" for i, f in enumerate(FINDINGS)])
def test_findings(world, check, do, undo, what):
    world.sql(do)
    try:
        ok, detail = report(world)[check]
        assert not ok and what in detail, detail
    finally:
        world.sql(undo)
    assert report(world)[check][0]


def test_names_are_compared_whatever_their_quotes(world):
    """What counts as the system's is told by its OID, not by how its name is written."""
    before = report(world)
    world.sql("SET quote_all_identifiers = on")
    try:
        assert report(world) == before
    finally:
        world.sql("RESET quote_all_identifiers")


def test_who_may_ask(world, service):
    with refuses("42501"):
        query(service, "SELECT * FROM immuta.doctor()")
    with refuses("42704"):
        world.sql("SELECT * FROM immuta.doctor('nosuchrole')")
    world.sql("CREATE ROLE adm LOGIN PASSWORD 'adm' IN ROLE immuta_admin")
    try:
        connection = world.connect("adm", "adm")
        assert len(query(connection, "SELECT * FROM immuta.doctor()")) == len(report(world))
        connection.close()
    finally:
        world.sql("DROP ROLE adm")


def test_a_login_without_a_password(world, server):
    hba = server.data / "pg_hba.conf"
    before = hba.read_text()
    try:
        hba.write_text("host all svc 127.0.0.1/32 trust\n" + before)
        ok, detail = report(world)["svc cannot log in without a password"]
        assert not ok and "line 1 of pg_hba.conf" in detail
    finally:
        hba.write_text(before)


def test_session_preload_is_told(world):
    server = Server(VERSION, "doctor", preload="session")
    with server:
        prepare(server)
        other = World(server)
        ok, detail = report(other)["library loaded in every session"]
        assert not ok and "shared_preload_libraries" in detail
        other.sql("ALTER ROLE svc SET session_preload_libraries = 'auto_explain'")
        ok, detail = report(other)["no role loads its libraries without it"]
        assert not ok and "svc" in detail
        other.admin.close()
