"""CREATE EXTENSION, DROP EXTENSION, dump and restore, the ways of loading the library."""

import psycopg2
import pytest
from conftest import VERSION, carriers, refuses
from harness.server import Server
from harness.wire import Closed, Wire
from harness.world import SERVICE, World, impersonate, prepare, query


@pytest.fixture
def database(world):
    """Makes databases that are dropped afterwards."""
    made = []

    def make(name, template="template0"):
        world.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        made.append(name)
        connection = psycopg2.connect(**world.server.dsn(dbname=name))
        connection.autocommit = True
        made.append(connection)
        return connection

    yield make
    for thing in reversed(made):
        if isinstance(thing, str):
            world.sql(f"DROP DATABASE {thing} WITH (FORCE)")
        else:
            thing.close()


def test_drop_leaves_nothing_but_the_roles(database):
    connection = database("drops")
    count = ("SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_namespace),"
             " (SELECT count(*) FROM pg_depend), (SELECT count(*) FROM pg_description), (SELECT count(*) FROM pg_roles)")
    before = query(connection, count)
    query(connection, "CREATE EXTENSION immuta_ext")
    assert query(connection, count) != before
    query(connection, "DROP EXTENSION immuta_ext")
    assert query(connection, count) == before, "the roles were there before, for the other database"
    query(connection, "CREATE EXTENSION immuta_ext")


def test_create_twice(database):
    connection = database("twice")
    query(connection, "CREATE EXTENSION immuta_ext")
    with refuses("42710"):
        query(connection, "CREATE EXTENSION immuta_ext")
    query(connection, "CREATE EXTENSION IF NOT EXISTS immuta_ext")


def test_only_a_superuser_can_create_it(world, database):
    database("notsuper")
    world.sql("ALTER DATABASE notsuper OWNER TO plain")
    connection = world.connect("plain", "plain-password", dbname="notsuper")
    with refuses("42501"):
        query(connection, "CREATE EXTENSION immuta_ext")
    connection.close()


def test_an_existing_schema_must_be_a_superusers(database):
    connection = database("planted")
    query(connection, "CREATE SCHEMA immuta AUTHORIZATION alice")
    with refuses("42501"):
        query(connection, "CREATE EXTENSION immuta_ext")
    query(connection, "ALTER SCHEMA immuta OWNER TO postgres")
    query(connection, "CREATE EXTENSION immuta_ext")
    query(connection, "DROP EXTENSION immuta_ext")
    assert query(connection, "SELECT count(*) FROM pg_namespace WHERE nspname = 'immuta'") == [(1,)]


def test_default_privileges_open_nothing(world, database):
    connection = database("defaults")
    query(connection, "CREATE SCHEMA immuta_internal")
    with refuses("42P06"):
        query(connection, "CREATE EXTENSION immuta_ext")
    query(connection, "DROP SCHEMA immuta_internal; ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO plain, PUBLIC; "
                      "ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO plain; "
                      "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO plain; ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO plain")
    query(connection, "CREATE EXTENSION immuta_ext")
    assert query(connection, "SELECT rolname FROM pg_roles WHERE NOT rolsuper AND has_schema_privilege(oid, "
                             "'immuta_internal', 'USAGE, CREATE') AND rolname !~ '^pg_(read|write)_all_data$'") == []
    query(connection, "SELECT immuta_internal.make_audit_partition('2031-01-01')")
    plain = world.connect("plain", "plain-password", dbname="defaults")
    for statement in ("SELECT * FROM immuta.audit_log_20310101", "SELECT immuta_internal.run_as(10, 'SELECT 1')", "SELECT immuta.set_system_account('plain')",
                      "SELECT * FROM immuta.user_account", "SELECT nextval('immuta.token_id_seq')"):
        with refuses("42501"):
            query(plain, statement)
        plain.rollback()
    plain.close()
    query(connection, "DROP EXTENSION immuta_ext")
    assert query(connection, "SELECT nspname FROM pg_namespace WHERE nspname ~ '^immuta'") == []


@pytest.mark.skipif(int(VERSION) < 16, reason="who makes a role has ADMIN on it from 16 on")
def test_who_made_a_control_role_before_is_named(world, database):
    """And what the WARNING and doctor() recommend takes it away."""
    name = "immuta_admin"
    world.sql(f"CREATE ROLE maker LOGIN CREATEROLE PASSWORD 'maker'; ALTER ROLE {name} RENAME TO set_aside")
    maker = world.connect("maker", "maker")
    connection = database("made_before")
    try:
        query(maker, f"CREATE ROLE {name}")
        maker.commit()
        query(connection, "CREATE EXTENSION immuta_ext")
        [warning] = [notice for notice in connection.notices if "control roles" in notice]
        remedy = f"REVOKE ADMIN OPTION FOR {name} FROM maker GRANTED BY postgres"
        assert warning.startswith("WARNING") and remedy in warning
        doctor = "SELECT ok, detail FROM immuta.doctor() WHERE \"check\" LIKE 'only superusers grant%%'"
        [(ok, detail)] = query(connection, doctor)
        assert not ok and remedy in detail
        query(connection, remedy)
        assert query(connection, doctor) == [(True, "nobody else has ADMIN on one")]
        with refuses("42501"):
            query(maker, f"GRANT {name} TO plain")
    finally:
        maker.close()
        query(connection, f"DROP EXTENSION immuta_ext CASCADE; DROP OWNED BY {name}; DROP ROLE {name}")
        world.sql(f"ALTER ROLE set_aside RENAME TO {name}; DROP ROLE maker")


def test_every_object_has_a_comment_and_no_function_is_public(database):
    connection = database("comments")
    query(connection, "CREATE EXTENSION immuta_ext")
    assert query(connection, """
        SELECT pg_describe_object(classid, objid, 0) FROM pg_depend
        WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
          AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'immuta_ext')
          AND (classid = 'pg_proc'::regclass OR classid = 'pg_namespace'::regclass
               OR classid = 'pg_class'::regclass AND (SELECT relkind FROM pg_class WHERE oid = objid) = 'r')
          AND obj_description(objid, classid::regclass::name) IS NULL""") == []
    public = query(connection, """
        SELECT proname FROM pg_proc p, aclexplode(coalesce(proacl, acldefault('f', proowner))) a
        WHERE pronamespace::regnamespace::text ~ '^immuta(_internal)?$' AND a.grantee = 0 ORDER BY 1""")
    assert [name for name, in public] == ["actor", "client_id", "current_project", "mask_hash", "mask_regex", "my_subscriptions", "request_my_subscription",
                                          "session_state", "set_current_project", "token_claim", "token_state", "user_attribute",
                                          "user_attribute_values", "user_in_group", "whoami"]
    unpinned = query(connection, """
        SELECT proname FROM pg_proc WHERE pronamespace::regnamespace::text ~ '^immuta' AND prosecdef
        AND NOT coalesce(proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false)""")
    assert unpinned == []
    assert query(connection, "SELECT count(*) FROM pg_class c, aclexplode(relacl) a "
                             "WHERE relnamespace = 'immuta'::regnamespace AND a.grantee = 0") == [(0,)]


def test_dump_and_restore_keep_the_rows(world, database, tmp_path):
    """Tokens, keys and mappings work in the restored database; new ones do not collide."""
    token = world.token("alice")
    world.sql("SELECT immuta.create_user('dumped', 'Okta', profile => '{\"name\": \"D\"}')")
    world.sql("SELECT immuta.unmap_user('dumped', 'Okta')")
    key = world.value("SELECT immuta.create_api_key('bob')")
    tables = ("user_account", "token", "api_key")
    state = {t: world.sql(f"SELECT * FROM immuta.{t} ORDER BY id") for t in tables}
    dump = tmp_path / "dump"
    world.server.run_client("pg_dump", "-Fc", "-f", dump, dbname="immuta")
    restored = database("restored")
    world.server.run_client("pg_restore", "-d", "restored", "--exit-on-error", dump)
    for table in tables:
        assert query(restored, f"SELECT * FROM immuta.{table} ORDER BY id") == state[table]
    service = world.connect(dbname="restored")
    impersonate(service, token)
    assert carriers(service) == ["UA"]
    service.commit()
    assert query(service, "SELECT immuta.authenticate_api_key(%s)", (key,))[0][0]["authenticated"]
    service.close()
    query(restored, "SELECT immuta.create_user('new'), immuta.issue_token('new'), immuta.create_api_key('new')")
    world.sql("SELECT immuta.drop_user('dumped', 'Okta')")


def test_not_preloaded_it_refuses_to_be_created():
    with Server(VERSION, "bare", preload=None) as server:
        done = server.psql("-v", "VERBOSITY=verbose", "-c", "CREATE EXTENSION immuta_ext", check=False)
        assert "55000" in done.stderr and "IMPERSONATION_NOT_SUPPORTED" in done.stderr
        assert "session_preload_libraries" in done.stderr and "shared_preload_libraries" in done.stderr
        server.psql("-c", "LOAD 'immuta_ext'")
        assert server.psql("-At", "-c", "SELECT count(*) FROM pg_namespace WHERE nspname = 'immuta'").stdout == "0\n"


def test_session_preload_is_enough():
    """The whole job, activity included, without shared_preload_libraries."""
    with Server(VERSION, "session", preload="session") as server:
        prepare(server)
        world = World(server)
        service = world.connect()
        token = world.token()
        world.sql("UPDATE immuta.token SET last_used_at = now() - interval '30 min'")
        impersonate(service, token)
        assert carriers(service) == ["UA"]
        query(service, "SET LOCAL statement_timeout = '1s'")
        service.commit()
        with refuses("42501", "IMPERSONATION_REQUIRED"):
            query(service, "SELECT * FROM app.everyone")
        service.rollback()
        for _ in range(100):
            if world.value("SELECT max(last_used_at) > now() - interval '1 min' FROM immuta.token"):
                break
            query(service, "SELECT pg_sleep(0.05)")
        else:
            pytest.fail("the use was not recorded")
        service.close()
        # Where the library is not loaded, our functions refuse to answer.
        other = psycopg2.connect(**server.dsn(dbname="immuta", options="-c session_preload_libraries="))
        with refuses("55000", "IMPERSONATION_NOT_SUPPORTED"):
            query(other, "SELECT immuta.whoami()")
        other.close()


SETTINGS = {"bodata.audit_required": "on", "bodata.shared_connections": "on", "bodata.token_idle_ttl": "5min", "bodata.shared_settings": "TimeZone"}


def test_options_of_a_connection_displace_no_setting_with_session_preload():
    """PostgreSQL reads them before it loads the library, and would go on with the defaults."""
    with Server(VERSION, "session-options", preload="session") as server:
        prepare(server)
        world = World(server)
        for name, value in SETTINGS.items():
            world.sql(f"ALTER DATABASE immuta SET {name} = '{value}'; ALTER ROLE svc SET {name} = '{value}'")
        for name, value in SETTINGS.items():
            for given in ("off", value):
                for options in (f"-c {name}={given}", f"-c TimeZone=UTC --{name.upper()}={given}"):
                    with pytest.raises(psycopg2.OperationalError, match=f'permission denied to set parameter "(?i:{name})"'):
                        world.connect(options=options)
            with pytest.raises(Closed, match="permission denied to set parameter"):
                Wire("127.0.0.1", server.port, *SERVICE, "immuta", **{name: "off"})
        service = world.connect(options="-c search_path=app -c application_name=it")
        assert {name: query(service, f"SHOW {name}")[0][0] for name in SETTINGS} == SETTINGS
        service.close()
        administrator = world.connect("postgres", server.superuser_password, options="-c bodata.audit_required=off")
        assert query(administrator, "SHOW bodata.audit_required") == [("off",)]
        administrator.close()


def test_names_and_sessions_with_session_preload():
    """Also the user of a connection, whose options PostgreSQL reads before it loads the library."""
    with Server(VERSION, "session-names", preload="session") as server:
        prepare(server)
        world = World(server)
        world.sql("CREATE ROLE namer LOGIN PASSWORD 'namer' IN ROLE immuta_impersonation; "
                  "ALTER ROLE namer SET bodata.allow_session_impersonation = on; "
                  "ALTER ROLE svc SET bodata.allow_session_impersonation = on")
        for user, password, options in (("namer", "namer", "immuta.immuta_user=alice"),
                                        ("svc", "service-password", f"bodata.impersonation_token={world.token()}")):
            connection = world.connect(user, password, options=f"-c {options}")
            connection.autocommit = True
            assert carriers(connection) == ["UA"]
            query(connection, "DISCARD ALL")
            assert carriers(connection) == ["UA"]
            connection.close()
        for options, code in (("immuta.immuta_user=nobody", "IMPERSONATION_NOT_MAPPED"),
                              ("bodata.impersonation_token=wrong", "IMPERSONATION_NOT_ALLOWED")):
            with pytest.raises(psycopg2.OperationalError, match=code):
                world.connect("namer", "namer", options=f"-c {options}")
        connection = world.connect("namer", "namer")
        connection.autocommit = True
        query(connection, "SET immuta.immuta_user = 'alice'")
        assert carriers(connection) == ["UA"]
        connection.close()
