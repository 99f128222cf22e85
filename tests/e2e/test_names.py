"""Impersonation by name for honest applications: drivers, poolers, encodings, what the session shows."""

import psycopg2
import pytest
from conftest import VERSION, carriers, refuses
from harness.pooler import PgBouncer
from harness.server import Server
from harness.world import World, prepare, query


@pytest.fixture
def namer(world):
    world.sql("CREATE ROLE namer LOGIN PASSWORD 'namer' IN ROLE immuta_impersonation; "
              "ALTER ROLE namer SET bodata.allow_session_impersonation = on")
    yield lambda **extra: world.connect("namer", "namer", **extra)
    world.sql("DROP ROLE namer")


def test_a_driver_that_begins_transactions_by_itself(namer):
    """psycopg2's default: SET without LOCAL counts when its transaction commits."""
    connection = namer()
    query(connection, "SET immuta.impersonation_userid = 'alice'")
    assert carriers(connection) == ["UA"]
    connection.rollback()
    assert query(connection, "SELECT current_user") == [("namer",)]
    connection.rollback()
    query(connection, "CALL immuta_procedures.impersonate_user(%s)", ("alice",))
    connection.commit()
    for _ in range(2):
        assert carriers(connection) == ["UA"]
        connection.commit()
    with refuses("25000", "IMPERSONATION_NOT_SUPPORTED") as seen:
        query(connection, "SELECT 1")
        query(connection, "RESET immuta.immuta_user")
    assert "COMMIT" in seen.hint
    connection.rollback()
    query(connection, "RESET immuta.immuta_user")
    connection.commit()
    assert query(connection, "SELECT current_user, userid FROM immuta.whoami()") == [("namer", None)]
    connection.close()


def test_what_the_session_shows(world, namer):
    connection = namer()
    connection.autocommit = True
    query(connection, "SET immuta.immuta_user = 'alice'")
    [row] = query(connection, "SELECT impersonator, iamid, userid, mapped_role, effective_role, provider, scope, "
                              "expires_at - established_at FROM immuta.whoami()")
    assert row[:7] == ("namer", "bim", "alice", "alice", "alice", "name", "session")
    assert row[7].total_seconds() >= 3600
    assert query(connection, "SELECT setting FROM pg_settings WHERE name = 'immuta.immuta_user'") == [("alice",)]
    assert query(connection, "SHOW session_authorization") == [("namer",)]
    seen = world.sql("SELECT usename FROM pg_stat_activity WHERE pid = %s", (connection.info.backend_pid,))
    assert seen == [("namer",)]
    connection.close()


def test_what_a_token_shows(world, service):
    """Where it would cost every transaction: nothing. whoami() tells."""
    query(service, "SET LOCAL bodata.impersonation_token = %s", (world.token(),))
    assert query(service, "SELECT current_setting('immuta.immuta_user'), userid FROM immuta.whoami()") == [("", "alice")]
    service.rollback()


def test_a_pooler_that_resets(world, server, namer):
    """PgBouncer in session mode: the next client of the server connection is nobody."""
    world.sql("ALTER ROLE namer SET bodata.single_impersonation_user = off")
    with PgBouncer(server, "namer", "namer", world.dbname, pool_size=1, mode="session") as pooler:
        pids = set()
        for user, carrier in (("alice", "UA"), ("bob", "AA"), ("alice", "UA")):
            connection = psycopg2.connect(host="127.0.0.1", port=pooler.port, user="namer", password="namer",
                                          dbname=world.dbname)
            connection.autocommit = True
            assert query(connection, "SELECT current_user, current_setting('search_path')") == [("namer", '"$user", public')]
            query(connection, f"SET immuta.immuta_user = '{user}'")
            assert carriers(connection) == [carrier]
            query(connection, "SET search_path = alice")
            pids.add(query(connection, "SELECT pg_backend_pid()")[0])
            connection.close()
        assert len(pids) == 1


def test_a_pooler_between_transactions(world, server, namer):
    """PgBouncer in transaction mode, for an application that passes no SQL of its users: SET LOCAL."""
    world.sql("ALTER ROLE namer SET bodata.single_impersonation_user = off")
    with PgBouncer(server, "namer", "namer", world.dbname, pool_size=1) as pooler:
        clients = [psycopg2.connect(host="127.0.0.1", port=pooler.port, user="namer", password="namer", dbname=world.dbname)
                   for _ in range(2)]
        for _ in range(3):
            for client, user, carrier in ((clients[0], "alice", "UA"), (clients[1], "bob", "AA")):
                query(client, f"SET LOCAL immuta.immuta_user = '{user}'")
                assert carriers(client) == [carrier]
                client.commit()
        for client in clients:
            client.close()


def test_other_encodings():
    """In LATIN1 names are converted; in SQL_ASCII what is no text is no user."""
    with Server(VERSION, "names-latin1", encoding="LATIN1") as server:
        prepare(server)
        world = World(server)
        world.sql('CREATE ROLE namer LOGIN PASSWORD \'namer\' IN ROLE immuta_impersonation; '
                  'ALTER ROLE namer SET bodata.allow_session_impersonation = on; '
                  'ALTER ROLE namer SET bodata.single_impersonation_user = off; '
                  'CREATE ROLE "zoë@é" IN ROLE immuta_mappable; CREATE ROLE "zoë" IN ROLE immuta_mappable')
        connection = world.connect("namer", "namer")
        connection.autocommit = True
        query(connection, "SET immuta.immuta_user = 'zoë'")
        assert query(connection, "SELECT current_user, userid, current_setting('immuta.immuta_user') "
                                 "FROM immuta.whoami()") == [("zoë", "zoë", "zoë")]
        query(connection, "SET immuta.impersonation_userid_template = '{userid}@é'")
        query(connection, "SET immuta.immuta_user = 'zoë'")
        assert query(connection, "SELECT current_user, current_setting('immuta.immuta_user')") == [("zoë@é", "zoë@é")]
        query(connection, "RESET ALL")
        connection.close()
        world.sql("CREATE TABLE app.\"ö\" (a int)")
        assert world.sql("SELECT allowed, object FROM immuta.test_access('zoë', 'SELECT * FROM app.\"ö\"')") == [
            (False, "table ö")]
        world.sql("SELECT immuta.create_user('zoë'), immuta.create_project('é')")
        world.sql("SELECT immuta.add_project_member('é', 'zoë'), immuta.set_current_project('é', 'zoë')")
        assert world.sql("SELECT project, postgres_role, members FROM immuta.projects") == [("é", "project_é", ["zoë"])]
        assert ("namer", "name", "zoë") in world.sql("SELECT impersonator, means, userid FROM immuta.impersonators")
        world.sql("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
        server.psql("-c", "CREATE EXTENSION immuta_ext", dbname="ascii")
        connection = world.connect("namer", "namer", dbname="ascii")
        connection.set_client_encoding("SQL_ASCII")
        connection.autocommit = True
        with pytest.raises(psycopg2.Error) as error:
            query(connection, b"SET immuta.immuta_user = 'a\xff'")
        assert error.value.pgcode in ("22021", "42704")
        assert query(connection, "SELECT current_user") == [("namer",)]
        connection.close()
