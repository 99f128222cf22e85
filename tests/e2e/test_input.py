"""Bad and unusual input: names, settings, encodings. Each gets a clear error; the connection stays usable."""

import psycopg2
import pytest
from conftest import VERSION, carriers, refuses
from harness.server import Server
from harness.world import World, impersonate, prepare, query

NAMES = ['Alice', 'a b', 'a"b', "a'b", "a\\b", "ünïcødé", "Ａｌｉｃｅ", "alice ", "日本", "x" * 63, "$user", "a;b--"]


@pytest.mark.parametrize("name", NAMES)
def test_unusual_user_and_role_names_work(world, service, name):
    quoted = '"' + name.replace('"', '""') + '"'
    world.sql(f"CREATE ROLE {quoted}")
    try:
        world.sql("SELECT immuta.create_user(%s)", (name,))
        with refuses("42704", "IMPERSONATION_NOT_MAPPED"):
            impersonate(service, world.token(name))
        service.rollback()
        world.sql(f"GRANT immuta_mappable TO {quoted}")
        impersonate(service, world.token(name))
        assert query(service, "SELECT current_user, userid, effective_role FROM immuta.whoami()") == [(name,) * 3]
        service.rollback()
        world.sql("SELECT immuta.map_user(%s, %s)", (name, name))
        impersonate(service, world.token(name))
        assert query(service, "SELECT current_user, current_setting('role')") == [(name, name)]
        service.rollback()
        world.sql("SELECT immuta.drop_user(%s)", (name,))
    finally:
        world.sql(f"DROP ROLE {quoted}")


@pytest.mark.parametrize("name", ["ALICE", "alice ", " alice", "alic\u0435", "al\u00adice", "alice\n"])
def test_look_alikes_are_other_users(world, service, name):
    """Byte by byte: none of them is alice, nor maps to her role by name."""
    world.sql("GRANT immuta_mappable TO alice")
    world.sql("SELECT immuta.create_user(%s)", (name,))
    try:
        with refuses("42704", "IMPERSONATION_NOT_MAPPED"):
            impersonate(service, world.token(name))
    finally:
        world.sql("SELECT immuta.drop_user(%s)", (name,))
        world.sql("REVOKE immuta_mappable FROM alice")


@pytest.mark.parametrize("name, sqlstate", [
    ("", "22023"), ("x" * 256, "22023"), ("x" * 1_000_000, "22023"), (None, "22004"), ("alice", "42710")])
def test_impossible_user_names(world, name, sqlstate):
    with refuses(sqlstate):
        world.sql("SELECT immuta.create_user(%s)", (name,))


def test_a_name_longer_than_an_identifier_maps_to_nothing(world, service):
    """PostgreSQL would cut it to 63 bytes, and find another role."""
    role, user = "r" * 63, "r" * 64
    world.sql(f'CREATE ROLE "{role}" IN ROLE immuta_mappable')
    try:
        world.sql("SELECT immuta.create_user(%s)", (user,))
        with refuses("42704", "IMPERSONATION_NOT_MAPPED"):
            impersonate(service, world.token(user))
    finally:
        world.sql("SELECT immuta.drop_user(%s)", (user,))
        world.sql(f'DROP ROLE "{role}"')


@pytest.mark.parametrize("role, sqlstate, code", [
    ("no_such_role", "42704", "IMPERSONATION_NOT_MAPPED"), ("none", "42704", "IMPERSONATION_NOT_MAPPED"),
    ("public", "42704", "IMPERSONATION_NOT_MAPPED"), ("", "42704", "IMPERSONATION_NOT_MAPPED"),
    ("postgres", "42501", "IMPERSONATION_NOT_ALLOWED"), ("svc", "42501", "IMPERSONATION_NOT_ALLOWED"),
    ("pg_monitor", "42501", "IMPERSONATION_NOT_ALLOWED"), ("immuta_admin", "42501", "IMPERSONATION_NOT_ALLOWED"),
    ("bodata_impersonate_user", "42501", "IMPERSONATION_NOT_ALLOWED"), (None, "22004", None)])
def test_roles_that_cannot_be_mapped_to(world, role, sqlstate, code):
    with refuses(sqlstate, code):
        world.sql("SELECT immuta.map_user('alice', %s)", (role,))
    assert world.value("SELECT postgres_role::text FROM immuta.user_account WHERE userid = 'alice'") == "alice"


def test_the_service_user_itself_is_refused_at_the_switch(world):
    """Also where the mapping was written past the functions."""
    world.sql("CREATE ROLE lonely LOGIN PASSWORD 'x'")
    world.sql("SELECT immuta.create_user('lonely')")
    world.sql("UPDATE immuta.user_account SET mapping = 'explicit', postgres_role = 'lonely' WHERE userid = 'lonely'")
    world.sql("GRANT bodata_impersonate_user TO lonely")
    connection = world.connect("lonely", "x")
    with refuses("42501", "IMPERSONATION_NOT_ALLOWED"):
        impersonate(connection, world.token("lonely"))
    connection.close()
    world.sql("SELECT immuta.drop_user('lonely')")
    world.sql("DROP ROLE lonely")


@pytest.mark.parametrize("setting, value, sqlstate", [
    ("token_idle_ttl", "0", "22023"), ("token_idle_ttl", "-1", "22023"), ("token_idle_ttl", "abc", "22023"),
    ("token_idle_ttl", "1000 days", "22023"), ("token_revalidate_interval", "-1", "22023"),
    ("token_cache_size", "0", "22023"), ("token_cache_size", "1e99", "22023"), ("require_token", "perhaps", "22023"), ("shared_connections", "perhaps", "22023"),
    ("map_by_username", "", "22023"), ("map_by_username_iamids", '"unclosed', "22023"),
    ("session_settings", "a,,b", "22023"), ("session_settings", "role", "22023"),
    ("session_settings", "*", "22023"), ("session_settings", "search_path", "22023"),
    ("session_settings", "bodata.impersonation_token", "22023"), ("trusted_definers", ",", "22023"),
    ("impersonation_tokken", "x", None)])
def test_settings_are_checked_when_set(world, setting, value, sqlstate):
    if sqlstate is None:  # a name we do not have; 14 only warns
        sqlstate = "42602" if VERSION != "14" else None
    if sqlstate is None:
        return world.sql(f"SET bodata.{setting} = %s", (value,))
    with refuses(sqlstate):
        world.sql(f"SET bodata.{setting} = %s", (value,))


@pytest.mark.parametrize("statement", [
    "SET bodata.require_token = off", "SELECT set_config('bodata.require_token', 'off', false)",
    "SET bodata.token_idle_ttl = '30 days'", "SET bodata.trusted_definers = 'alice'",
    "ALTER ROLE svc SET bodata.require_token = off"])
def test_the_service_cannot_loosen_its_own_guard(service, statement):
    with refuses("42501"):
        query(service, statement)
    service.rollback()
    with refuses("42501", "IMPERSONATION_REQUIRED"):
        query(service, "SELECT * FROM app.everyone")


def test_a_token_belongs_in_no_catalog_and_no_file(world):
    token = world.token()
    for statement in ("ALTER ROLE svc SET bodata.impersonation_token = %s",
                      "ALTER DATABASE immuta SET bodata.impersonation_token = %s",
                      "ALTER SYSTEM SET bodata.impersonation_token = %s",
                      "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql SET bodata.impersonation_token = %s "
                      "AS 'SELECT 1'"):
        with refuses("55P02" if "SYSTEM" in statement else "25000") as seen:
            world.sql(statement, (token,))
        assert token not in seen.message
    assert world.value("SELECT count(*) FROM pg_db_role_setting WHERE setconfig::text LIKE '%%impersonation_token%%'") == 0
    with pytest.raises(psycopg2.OperationalError, match="must be set with SET LOCAL") as error:
        world.connect(options=f"-c bodata.impersonation_token={token}")
    assert token not in str(error.value)


def test_other_encodings():
    """In SQL_ASCII any byte may come; in LATIN1 names are converted."""
    with Server(VERSION, "latin1", encoding="LATIN1") as server:
        prepare(server)
        world = World(server)
        world.sql("CREATE ROLE \"zoë\" IN ROLE immuta_mappable")
        world.sql("SELECT immuta.create_user('zoë')")
        service = world.connect()
        impersonate(service, world.token("zoë"))
        assert query(service, "SELECT userid, effective_role FROM immuta.whoami()") == [("zoë", "zoë")]
        service.close()
        world.sql("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
        server.psql("-c", "CREATE EXTENSION immuta_ext", dbname="ascii")
        ascii_world = World(server, "ascii")
        ascii_world.sql("SELECT immuta.create_user('alice', postgres_role => 'alice')")
        ascii_world.sql("SELECT immuta.create_user(E'a\\xff')")
        service = ascii_world.connect()
        service.set_client_encoding("SQL_ASCII")
        for statement in (b"SET LOCAL bodata.impersonation_token = '\xff\xfe'",
                          b"SELECT set_config('bodata.impersonation_token', '\xff', true)"):
            with refuses("28000", "IMPERSONATION_TOKEN_INVALID"):
                query(service, statement)
            service.rollback()
        impersonate(service, ascii_world.token("alice"))
        assert query(service, "SELECT current_user") == [("alice",)]
        service.rollback()
        strange = ascii_world.value("SELECT immuta_internal.new_token(id) FROM immuta.user_account WHERE userid <> 'alice'")
        with refuses("22021"):
            impersonate(service, strange)
        service.close()


def test_a_role_that_two_users_share(world, service):
    world.sql("SELECT immuta.create_user('alice2', postgres_role => 'alice')")
    impersonate(service, world.token("alice2"))
    assert carriers(service) == ["UA"]
    assert query(service, "SELECT userid, mapped_role FROM immuta.whoami()") == [("alice2", "alice")]
    service.rollback()
    world.sql("SELECT immuta.drop_user('alice2')")
