"""What the login proved itself with is not the user's: nobody goes elsewhere, or back, in its name.

Threats: 47 (docs/threats.md).
"""

import pytest
from harness.fixtures import VERSION
from scene import token_of

pytestmark = pytest.mark.skipif(int(VERSION) < 18, reason="SCRAM keys are kept since 18")

BY_DBLINK = "SELECT * FROM dblink('back', 'SELECT current_user::text') x(who text)"
BY_TABLE = "SELECT who FROM app.back_there"


@pytest.fixture(scope="module")
def server_back(world):
    """A foreign server that is this one, and asks for the login's own password."""
    host, port = world.server.dsn()["host"], world.server.port
    world.sql(f"CREATE SERVER back FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{host}', port '{port}', "
              "dbname 'immuta', use_scram_passthrough 'true'); GRANT USAGE ON FOREIGN SERVER back TO alice, svc; "
              "CREATE FOREIGN TABLE app.back_there (who text) SERVER back OPTIONS (schema_name 'app', table_name 'who'); "
              "CREATE VIEW app.who AS SELECT current_user::text AS who; GRANT SELECT ON app.who, app.back_there TO PUBLIC; "
              "CREATE USER MAPPING FOR PUBLIC SERVER back OPTIONS (user 'migrator'); "
              "CREATE USER MAPPING FOR migrator SERVER back OPTIONS (user 'migrator')")
    yield
    world.sql("DROP FOREIGN TABLE app.back_there; DROP VIEW app.who; DROP SERVER back CASCADE")


@pytest.mark.parametrize("mode", ["simple", "extended"])
def test_keys_of_the_login_are_not_the_users(world, connect, server_back, mode):
    """A mapping that alice makes, and one that an administrator has made for everybody."""
    session = connect(mode, "migrator", "migrator-password")
    session.ok("BEGIN")
    # Without this the test would show nothing: with its keys the login gets in.
    assert session.rows(BY_TABLE) == [("migrator",)]
    session.ok("COMMIT")
    for own in (False, True):
        for attack in (BY_DBLINK, BY_TABLE):
            session.ok("BEGIN")
            session.ok(f"SET LOCAL bodata.impersonation_token = '{token_of(world, 'alice')}'")
            if own:
                session.ok("CREATE USER MAPPING FOR CURRENT_USER SERVER back OPTIONS (user 'migrator')")
            answer = session.run(attack)
            assert answer.error and answer.error["C"] in ("08001", "2F003", "28P01"), answer
            session.ok("ROLLBACK")
