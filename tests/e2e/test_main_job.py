"""The main job: a token in, the user's rows out."""

import psycopg2
import pytest
from conftest import carriers, refuses, rows_seen
from harness.world import impersonate, query


def whoami(connection):
    columns = "impersonator, iamid, userid, mapped_role, effective_role, provider, scope"
    return query(connection, f"SELECT {columns} FROM immuta.whoami()")[0]


def test_each_user_sees_his_own_rows_on_one_connection(world, service):
    for user, expected in (("alice", ["UA"]), ("bob", ["AA"]), ("alice", ["UA"]), ("carol", ["AA", "DL", "UA"])):
        impersonate(service, world.token(user))
        assert carriers(service) == expected
        assert query(service, "SELECT current_user, session_user, current_setting('is_superuser')") == [
            (user, "svc", "off")]
        service.commit()


def test_the_first_statement_after_the_token_is_the_users(world, service):
    """Row policies, schema USAGE, COPY and DDL are decided when a statement is parsed."""
    token = world.token("alice")
    impersonate(service, token)
    assert rows_seen(service) == 100
    service.commit()
    impersonate(service, token)
    with service.cursor() as cursor:
        import io
        out = io.StringIO()
        cursor.copy_expert("COPY (SELECT carrier FROM app.flights) TO STDOUT", out)
    assert set(out.getvalue().split()) == {"UA"}
    service.commit()
    impersonate(service, token)
    query(service, "CREATE TABLE alice.copy AS SELECT * FROM app.flights")
    assert query(service, "SELECT count(*), min(tableowner) FROM alice.copy, pg_tables "
                          "WHERE schemaname = 'alice' AND tablename = 'copy'") == [(100, "alice")]
    service.rollback()
    impersonate(service, world.token("bob"))
    with refuses("42501"):
        query(service, "SELECT * FROM private.notes")


def test_column_grants_apply(world, service):
    impersonate(service, world.token("carol"))
    assert len(query(service, "SELECT id, carrier FROM app.flights")) == 300
    with refuses("42501"):
        query(service, "SELECT secret FROM app.flights")


def test_whoami(world, service):
    assert whoami(service) == ("svc", None, None, None, "svc", None, None)
    service.rollback()
    impersonate(service, world.token("alice"))
    assert whoami(service) == ("svc", "bim", "alice", "alice", "alice", "local", "transaction")
    established, expires, now = query(service, "SELECT established_at, expires_at, now() FROM immuta.whoami()")[0]
    assert established <= expires and 3590 < (expires - now).total_seconds() < 3610
    service.commit()
    assert whoami(service) == ("svc", None, None, None, "svc", None, None)


def test_without_a_token_nothing_is_seen(service):
    for statement in ("SELECT * FROM app.flights", "SELECT * FROM app.everyone",
                      "INSERT INTO app.everyone VALUES ('x')", "UPDATE app.everyone SET body = 'x'",
                      "DELETE FROM app.everyone", "SELECT count(*) FROM immuta.token"):
        with refuses("42501"):
            query(service, statement)
        service.rollback()
    with refuses("42501", "IMPERSONATION_REQUIRED"):
        query(service, "SELECT * FROM app.everyone")


def test_after_the_transaction_the_session_sees_nothing_again(world, service):
    impersonate(service, world.token("alice"))
    assert rows_seen(service) == 100
    for end in (service.commit, service.rollback):
        end()
        with refuses("42501", "IMPERSONATION_REQUIRED"):
            rows_seen(service)
        service.rollback()
        assert query(service, "SELECT current_user, current_setting('role')") == [("svc", "none")]
        service.rollback()
        impersonate(service, world.token("alice"))
        assert rows_seen(service) == 100
    with refuses("22012"):
        query(service, "SELECT 1/0")
    service.rollback()
    with refuses("42501", "IMPERSONATION_REQUIRED"):
        rows_seen(service)


def test_driver_start_up_queries_work(service):
    for statement in ("SELECT 1", "SELECT version()", "SHOW server_version", "SHOW ALL",
                      "SELECT oid, typname FROM pg_type WHERE typname = 'jsonb'",
                      "SELECT * FROM information_schema.tables LIMIT 1",
                      "SELECT current_schema(), pg_backend_pid()", "SET client_encoding = 'UTF8'",
                      "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
                      "SET TIME ZONE 'UTC'", "SET application_name = 'app'", "RESET ALL", "EXPLAIN SELECT 1",
                      "SELECT set_config('application_name', 'x', false)"):
        query(service, statement)
        service.commit()
    assert query(service, "SHOW application_name") == [("x",)]
    service.commit()
    service.autocommit = True
    query(service, "DISCARD ALL")


@pytest.mark.parametrize("token", ["", "x", "x" * 100_000, "x" * 1_000_000, "a b", "a\r\nX: y", "é'\"", "'; --"])
def test_bad_tokens_are_refused_alike(world, service, token):
    if token == "":
        impersonate(service, token)
        with refuses("42501", "IMPERSONATION_REQUIRED"):
            query(service, "SELECT * FROM app.everyone")
        return
    with refuses("28000", "IMPERSONATION_TOKEN_INVALID") as seen:
        impersonate(service, token)
    if len(token) > 10:
        assert token not in seen.message
    service.rollback()
    assert query(service, "SELECT 1") == [(1,)]


def test_a_token_with_a_nul_is_refused(service):
    with pytest.raises(ValueError):
        impersonate(service, "a\0b")
    with refuses("22021"):
        query(service, "SELECT set_config('bodata.impersonation_token', convert_from('\\x6100'::bytea, 'UTF8'), true)")


def test_the_token_must_be_local(world, service):
    token = world.token()
    for statement in ("SET bodata.impersonation_token = %s",
                      "SET SESSION bodata.impersonation_token = %s",
                      "SELECT set_config('bodata.impersonation_token', %s, false)"):
        with refuses("25000", "IMPERSONATION_NOT_SUPPORTED"):
            query(service, statement, (token,))
        service.rollback()
        with refuses("42501", "IMPERSONATION_REQUIRED"):
            query(service, "SELECT * FROM app.everyone")
        service.rollback()


def test_a_token_inside_a_savepoint_goes_with_it(world, service):
    query(service, "SAVEPOINT s")
    impersonate(service, world.token())
    assert rows_seen(service) == 100
    query(service, "ROLLBACK TO s")
    with refuses("42501", "IMPERSONATION_REQUIRED"):
        rows_seen(service)
    query(service, "ROLLBACK TO s")
    impersonate(service, world.token())
    query(service, "RELEASE s")
    assert rows_seen(service) == 100


def test_a_lone_token_is_an_error_and_never_a_silent_no_op(world, service):
    service.autocommit = True
    for statement in ("SET LOCAL bodata.impersonation_token = %s",
                      "SELECT set_config('bodata.impersonation_token', %s, true)"):
        with refuses("25P01", "IMPERSONATION_NOT_SUPPORTED"):
            query(service, statement, (world.token(),))
        assert query(service, "SELECT current_user") == [("svc",)]


def test_several_statements_in_one_message(world, service):
    service.autocommit = True
    token = world.token()
    assert query(service, "SET LOCAL bodata.impersonation_token = %s; SELECT current_user", (token,)) == [("alice",)]
    assert query(service, "SELECT current_user") == [("svc",)]
    with refuses("25P01", "IMPERSONATION_NOT_SUPPORTED"):
        query(service, "SELECT 1; SET LOCAL bodata.impersonation_token = %s", (token,))
    query(service, "BEGIN; SET LOCAL bodata.impersonation_token = %s; COMMIT", (token,))


def test_set_config_in_a_select(world, service):
    assert query(service, "SELECT set_config('bodata.impersonation_token', %s, true)", (world.token(),)) == [
        ("********",)]
    assert carriers(service) == ["UA"]
    assert query(service, "SHOW bodata.impersonation_token") == [("********",)]
    assert query(service, "SELECT current_setting('bodata.impersonation_token')") == [("********",)]
    assert query(service, "SELECT count(*) FROM pg_settings WHERE name = 'bodata.impersonation_token'") == [(0,)]


def test_isolation_level_can_be_chosen_after_the_token(world, service):
    """Taking a token takes no snapshot, also when it is not in the cache."""
    for _ in range(2):
        impersonate(service, world.token())
        query(service, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        query(service, "SET TRANSACTION READ ONLY")
        assert query(service, "SHOW transaction_isolation") == [("serializable",)]
        with refuses("25006"):
            query(service, "INSERT INTO app.flights VALUES (1000, 'UA')")
        service.rollback()


def test_a_reading_transaction_stays_one(world, service):
    impersonate(service, world.token())
    rows_seen(service)
    assert query(service, "SELECT pg_current_xact_id_if_assigned()") == [(None,)]


def test_writes_are_the_users(world, service):
    impersonate(service, world.token())
    query(service, "INSERT INTO app.flights VALUES (1001, 'UA', 1, 's')")
    with refuses("42501"):
        query(service, "INSERT INTO app.flights VALUES (1002, 'AA', 1, 's')")
    service.rollback()
    impersonate(service, world.token("bob"))
    with refuses("42501"):
        query(service, "DELETE FROM app.flights")


def test_who_may_present_a_token(world):
    plain = world.connect("plain", "plain-password")
    with refuses("42501", "IMPERSONATION_NOT_ALLOWED"):
        impersonate(plain, world.token())
    plain.rollback()
    assert query(plain, "SELECT current_user") == [("plain",)]
    plain.rollback()
    world.sql("GRANT bodata_impersonate_user TO plain")
    try:
        impersonate(plain, world.token())
        assert carriers(plain) == ["UA"]
        plain.commit()
    finally:
        world.sql("REVOKE bodata_impersonate_user FROM plain")
    with refuses("42501", "IMPERSONATION_NOT_ALLOWED"):
        impersonate(plain, world.token())
    plain.close()


def test_a_superuser_loses_his_privileges_while_impersonating(world):
    connection = psycopg2.connect(**world.server.dsn(dbname=world.dbname))
    impersonate(connection, world.token("bob"))
    assert carriers(connection) == ["AA"]
    assert query(connection, "SHOW is_superuser") == [("off",)]
    with refuses("42501"):
        query(connection, "SELECT * FROM pg_authid")
    connection.rollback()
    assert query(connection, "SHOW is_superuser") == [("on",)]
    connection.close()


def test_a_database_without_the_extension(world):
    connection = world.connect(dbname="postgres")
    with refuses("55000", "IMPERSONATION_NOT_SUPPORTED"):
        impersonate(connection, world.token())
    connection.rollback()
    query(connection, "CREATE TEMP TABLE t (a int)")
    connection.close()
