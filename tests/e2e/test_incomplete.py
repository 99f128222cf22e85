"""What is missing, renamed or of another version holds service logins back, and nobody else: absent is not ordinary.

Threats: 55 (docs/threats.md).
"""

import re

import psycopg2
import pytest
from conftest import refuses
from harness.world import impersonate, query

READ = "SELECT count(*) FROM common.for_everyone"
PARTS = """
SELECT format('ALTER %s immuta.%I RENAME TO', CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE'
              WHEN 'i' THEN 'INDEX' WHEN 'I' THEN 'INDEX' ELSE 'TABLE' END, relname), relname::text, 'immuta.'
FROM pg_class WHERE relnamespace = 'immuta'::regnamespace AND relkind IN ('r', 'p', 'v', 'S', 'i', 'I')
UNION ALL
SELECT format('ALTER ROUTINE %s RENAME TO', oid::regprocedure), proname::text,
       format('%s.%%s(%s)', pronamespace::regnamespace, pg_get_function_identity_arguments(oid))
FROM pg_proc WHERE pronamespace IN ('immuta'::regnamespace, 'immuta_internal'::regnamespace)
ORDER BY 1"""
# What the library itself reads: without it nobody can be impersonated.
NEEDED = {"user_account", "user_account_id_key", "user_account_pkey", "token", "token_pkey", "token_issuer",
          "token_issuer_pkey", "impersonation_rule", "subscription", "subscription_pkey", "subscriber",
          "subscriber_role_key", "project", "project_pkey", "project_member", "project_member_current_key", "home",
          "api_key", "api_key_pkey", "user_profile", "user_profile_pkey", "token_revocation", "token_revocation_pkey",
          "access_class", "access_class_role_key", "masks", "masks_pkey", "mask_parameters", "mask_parameters_pkey"}


@pytest.fixture(scope="module")
def logins(world):
    """A service login's session and an ordinary one's, both from before anything was changed."""
    world.sql("CREATE SCHEMA common; GRANT USAGE ON SCHEMA common TO PUBLIC; CREATE TABLE common.for_everyone AS SELECT 1 AS id; GRANT SELECT ON common.for_everyone TO PUBLIC; "
              "CREATE ROLE stranger LOGIN PASSWORD 'stranger-password'")
    service, stranger = world.connect(), world.connect("stranger", "stranger-password")
    yield service, stranger
    service.close()
    stranger.close()
    world.sql("DROP SCHEMA common CASCADE; DROP ROLE stranger")


def is_held(world, logins, token, needed, remedy="ALTER EXTENSION immuta_ext UPDATE"):
    """Held without a token in an old session and in a new one, and with one where the library misses something;
    anybody else notices nothing."""
    service, stranger = logins
    fresh = world.connect()
    expected = "55000" if needed else "42501"
    try:
        for connection in (service, fresh):
            with refuses(expected):
                query(connection, READ)
            connection.rollback()
            if needed:
                with refuses("55000", "IMPERSONATION_NOT_SUPPORTED") as refused:
                    impersonate(connection, token)
                assert remedy in refused.hint
            else:
                impersonate(connection, token)
                assert query(connection, "SELECT current_user, session_user") == [("alice", "svc")]
            connection.rollback()
    finally:
        fresh.close()
    assert query(stranger, READ) == [(1,)]
    stranger.rollback()
    with world.connect("stranger", "stranger-password") as another:
        assert query(another, READ) == [(1,)]
    another.close()


def doctors_word(world):
    return world.sql("SELECT ok, detail FROM immuta.doctor() WHERE \"check\" = 'the extension fits its library'")


def test_all_is_there(world, logins):
    is_held(world, logins, world.token("alice"), False)
    assert doctors_word(world) == [(True, "nothing is missing")]


def test_each_part_that_is_renamed(world, logins):
    token, parts = world.token("alice"), world.sql(PARTS)
    assert len(parts) > 200 and NEEDED <= {name for _, name, _ in parts}
    for rename, name, form in parts:
        world.sql(f"{rename} gone".replace("%", "%%"))
        try:
            if name not in NEEDED:
                # Some 200: the sessions that are there are enough.
                with refuses("42501", "IMPERSONATION_REQUIRED"):
                    query(logins[0], READ)
                logins[0].rollback()
                assert query(logins[1], READ) == [(1,)]
                logins[1].rollback()
            else:
                is_held(world, logins, token, True)
                [(ok, detail)] = doctors_word(world)
                assert not ok and f'"{name}" is missing' in detail
        finally:
            back = re.sub(rf'(immuta\w*)\."?{name}"?', r"\1.gone", rename, count=1)
            world.sql(f'{back} "{name}"'.replace("%", "%%"))
    is_held(world, logins, token, False)


def test_what_is_there_is_not_made(world):
    """A script that may run again is no change, whatever is missing."""
    world.sql("ALTER TABLE immuta.project RENAME TO gone")
    try:
        world.sql("CREATE EXTENSION IF NOT EXISTS immuta_ext")
        assert "already exists" in world.admin.notices[-1]
    finally:
        world.sql("ALTER TABLE immuta.gone RENAME TO project")


@pytest.mark.parametrize("schema", ["immuta", "immuta_internal"])
def test_a_renamed_schema(world, logins, schema):
    token = world.token("alice")
    world.sql(f"ALTER SCHEMA {schema} RENAME TO gone")
    try:
        is_held(world, logins, token, True)
    finally:
        world.sql(f"ALTER SCHEMA gone RENAME TO {schema}")
    is_held(world, logins, token, False)


@pytest.mark.parametrize("role", ["bodata_impersonate_user", "immuta_impersonation", "immuta_admin", "immuta_mappable"])
def test_a_renamed_control_role(world, logins, role):
    """It is known whatever it is called; another one that takes its name is nobody."""
    token = world.token("alice")
    world.sql(f"ALTER ROLE {role} RENAME TO called_otherwise; CREATE ROLE {role}")
    try:
        is_held(world, logins, token, False)
    finally:
        world.sql(f"DROP ROLE {role}; ALTER ROLE called_otherwise RENAME TO {role}")


MARKER = "immuta_internal.is_bodata_impersonate_user()"
PLANTED = """
CREATE SCHEMA immuta_internal;
CREATE FUNCTION immuta_internal.is_bodata_impersonate_user() RETURNS boolean LANGUAGE sql AS 'SELECT true';
REVOKE ALL ON FUNCTION immuta_internal.is_bodata_impersonate_user() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta_internal.is_bodata_impersonate_user() TO stranger"""


@pytest.fixture
def planter(world, logins):
    """Somebody who may make schemas, and knows what the extension's are called."""
    world.sql("CREATE ROLE planter LOGIN PASSWORD 'planter-password'; GRANT CREATE ON DATABASE immuta TO planter")
    connection = world.connect("planter", "planter-password")
    connection.autocommit = True
    yield connection
    connection.close()
    world.sql("DROP OWNED BY planter; DROP ROLE planter")


@pytest.mark.parametrize("change, back, needed", [
    ("ALTER SCHEMA immuta_internal RENAME TO gone", "ALTER SCHEMA gone RENAME TO immuta_internal", True),
    (f"GRANT EXECUTE ON FUNCTION {MARKER} TO stranger", f"REVOKE EXECUTE ON FUNCTION {MARKER} FROM stranger", False),
    (f"ALTER FUNCTION {MARKER} SET SCHEMA common", "ALTER FUNCTION common.is_bodata_impersonate_user() SET SCHEMA immuta_internal", False)],
    ids=["schema renamed", "another grantee", "function moved"])
def test_a_renamed_control_role_and_more(world, logins, change, back, needed):
    token = world.token("alice")
    world.sql("ALTER ROLE bodata_impersonate_user RENAME TO called_otherwise")
    world.sql(change)
    try:
        is_held(world, logins, token, needed)
    finally:
        world.sql(back)
        world.sql("ALTER ROLE called_otherwise RENAME TO bodata_impersonate_user")
    is_held(world, logins, token, False)


def test_a_planted_schema_of_markers(world, logins, planter):
    token = world.token("alice")
    world.sql("ALTER SCHEMA immuta_internal RENAME TO gone")
    try:
        query(planter, PLANTED)
        is_held(world, logins, token, True)
    finally:
        query(planter, "DROP SCHEMA immuta_internal CASCADE")
        world.sql("ALTER SCHEMA gone RENAME TO immuta_internal")
    is_held(world, logins, token, False)


def test_planted_masks(world, planter):
    """What somebody calls like ours shows nobody a column that they may not read."""
    world.sql("""CREATE ROLE reader LOGIN PASSWORD 'reader-password' IN ROLE immuta_subscriber; GRANT USAGE ON SCHEMA app TO reader;
                 GRANT SELECT (id) ON app.flights TO reader; CREATE POLICY reader_sees ON app.flights TO reader USING (true);
                 ALTER SCHEMA immuta RENAME TO gone""")
    try:
        query(planter, """
            CREATE SCHEMA immuta;
            CREATE TABLE immuta.masks (table_oid oid, column_number smallint, mask text, CONSTRAINT masks_pkey PRIMARY KEY (table_oid, column_number));
            CREATE TABLE immuta.mask_parameters (id int CONSTRAINT mask_parameters_pkey PRIMARY KEY);
            INSERT INTO immuta.masks SELECT 'app.flights'::regclass, attnum, 'secret' FROM pg_attribute
            WHERE attrelid = 'app.flights'::regclass AND attname = 'secret'""")
        with world.connect("reader", "reader-password") as connection, pytest.raises(psycopg2.errors.InsufficientPrivilege):
            query(connection, "SELECT id, secret FROM app.flights")
        connection.close()
    finally:
        query(planter, "DROP SCHEMA immuta CASCADE")
        world.sql("ALTER SCHEMA gone RENAME TO immuta; DROP POLICY reader_sees ON app.flights; DROP OWNED BY reader; DROP ROLE reader")


def test_who_may_execute_the_marker_counts_at_once(world, logins):
    """In sessions that are there already."""
    service, _ = logins
    world.sql(f"REVOKE EXECUTE ON FUNCTION {MARKER} FROM bodata_impersonate_user; GRANT EXECUTE ON FUNCTION {MARKER} TO stranger")
    try:
        world.sql("ALTER ROLE bodata_impersonate_user RENAME TO called_otherwise")
        assert query(service, READ) == [(1,)], "another role is the control role now"
        service.rollback()
        world.sql(f"REVOKE EXECUTE ON FUNCTION {MARKER} FROM stranger; GRANT EXECUTE ON FUNCTION {MARKER} TO called_otherwise")
        with refuses("42501", "IMPERSONATION_REQUIRED"):
            query(service, READ)
        service.rollback()
    finally:
        world.sql("ALTER ROLE called_otherwise RENAME TO bodata_impersonate_user")
    is_held(world, logins, world.token("alice"), False)


@pytest.mark.parametrize("version, how, remedy", [("0.0.9", "older", "ALTER EXTENSION immuta_ext UPDATE"), ("99.0", "newer", "Connect again")])
def test_sql_of_another_version(world, logins, version, how, remedy):
    token = world.token("alice")
    current = world.value("SELECT extversion FROM pg_extension WHERE extname = 'immuta_ext'")
    # What ALTER EXTENSION does, which also changes something that sessions hear of.
    change = ("UPDATE pg_extension SET extversion = %s WHERE extname = 'immuta_ext'; "
              "COMMENT ON TABLE immuta.token IS 'changed'; ALTER TABLE immuta.token SET (fillfactor = 100)")
    world.sql(change, (version,))
    try:
        is_held(world, logins, token, True, remedy)
        [(ok, detail)] = doctors_word(world)
        assert not ok and f"is {how} than" in detail and remedy in detail
    finally:
        world.sql(change, (current,))
    is_held(world, logins, token, False)


def test_a_session_that_runs_when_something_goes(world, logins):
    """A transaction goes on as it began; the next is refused."""
    service, _ = logins
    impersonate(service, world.token("alice"))
    world.sql("ALTER TABLE immuta.project RENAME TO gone")
    try:
        assert query(service, "SELECT current_user") == [("alice",)]
        with refuses("42501"):
            query(service, "SELECT * FROM immuta.token")
        service.rollback()
        with refuses("55000"):
            query(service, READ)
        service.rollback()
    finally:
        world.sql("ALTER TABLE immuta.gone RENAME TO project")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        query(service, READ)
    service.rollback()
