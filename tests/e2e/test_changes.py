"""A change of user, mapping, role or token reaches every session at its next transaction.

Threats: 19, 34, 48 (docs/threats.md).
"""

import psycopg2
import pytest
from conftest import carriers, refuses, rows_seen
from harness.world import impersonate, query

INVALID = ("28000", "IMPERSONATION_TOKEN_INVALID")
NOT_MAPPED = ("42704", "IMPERSONATION_NOT_MAPPED")
NOT_ALLOWED = ("42501", "IMPERSONATION_NOT_ALLOWED")


@pytest.fixture
def user(world):
    """A user with a role of her own, a warm session and its token."""
    world.sql("CREATE ROLE dana; GRANT USAGE ON SCHEMA app TO dana; GRANT SELECT ON app.flights TO dana")
    world.sql("CREATE POLICY dana_sees ON app.flights TO dana USING (carrier = 'DL')")
    world.sql("SELECT immuta.create_user('dana', postgres_role => 'dana')")
    connection = world.connect()
    token = world.token("dana")
    impersonate(connection, token)
    assert carriers(connection) == ["DL"]
    connection.commit()
    yield connection, token
    connection.close()
    world.sql("DELETE FROM immuta.user_account WHERE userid = 'dana'")
    world.sql("DROP POLICY IF EXISTS dana_sees ON app.flights")
    if world.sql("SELECT 1 FROM pg_roles WHERE rolname = 'dana'"):
        world.sql("DROP OWNED BY dana; DROP ROLE dana")


REVOCATIONS = {
    "revoke_token": (lambda w, t: w.sql("SELECT immuta.revoke_token(%s)", (t,)), INVALID),
    "revoke_user_tokens": (lambda w, t: w.sql("SELECT immuta.revoke_user_tokens('dana')"), INVALID),
    "disable_user": (lambda w, t: w.sql("SELECT immuta.disable_user('dana')"), INVALID),
    "drop_user": (lambda w, t: w.sql("SELECT immuta.drop_user('dana')"), INVALID),
    "direct delete": (lambda w, t: w.sql("DELETE FROM immuta.token"), INVALID),
    "truncate": (lambda w, t: w.sql("TRUNCATE immuta.token"), INVALID),
    "unmap_user": (lambda w, t: w.sql("SELECT immuta.unmap_user('dana')"), NOT_MAPPED),
    "drop role": (lambda w, t: w.sql("DROP OWNED BY dana; DROP ROLE dana"), NOT_MAPPED),
    "becomes superuser": (lambda w, t: w.sql("ALTER ROLE dana SUPERUSER"), NOT_ALLOWED),
    "becomes bypassrls": (lambda w, t: w.sql("ALTER ROLE dana BYPASSRLS"), NOT_ALLOWED),
    "becomes createrole": (lambda w, t: w.sql("ALTER ROLE dana CREATEROLE"), NOT_ALLOWED),
    "may signal backends": (lambda w, t: w.sql("GRANT pg_signal_backend TO dana"), NOT_ALLOWED),
    "member of the service": (lambda w, t: w.sql("GRANT svc TO dana"), NOT_ALLOWED),
    "becomes administrator": (lambda w, t: w.sql("GRANT immuta_admin TO dana"), NOT_ALLOWED),
}


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("change", REVOCATIONS)
def test_what_is_revoked_before_the_token_is_presented(world, user, change, isolation):
    """In a transaction that has begun, and has a snapshot from before."""
    connection, token = user
    act, expected = REVOCATIONS[change]
    query(connection, f"SET TRANSACTION ISOLATION LEVEL {isolation}")
    assert query(connection, "SELECT count(*) > 0 FROM pg_class") == [(True,)]
    act(world, token)
    with refuses(*expected):
        impersonate(connection, token)
    connection.rollback()


@pytest.mark.parametrize("change", REVOCATIONS)
def test_a_revocation_takes_effect_at_the_next_transaction(world, user, change):
    connection, token = user
    act, expected = REVOCATIONS[change]
    impersonate(connection, token)
    rows_seen(connection)
    connection.rollback()
    act(world, token)
    with refuses(*expected):
        impersonate(connection, token)
    connection.rollback()
    assert query(connection, "SELECT current_user") == [("svc",)]


def test_a_renamed_role_is_followed(world, user):
    connection, token = user
    world.sql("ALTER ROLE dana RENAME TO diana")
    impersonate(connection, token)
    assert query(connection, "SELECT current_user") == [("diana",)]
    connection.rollback()
    world.sql("ALTER ROLE diana RENAME TO dana")


def test_a_role_made_again_under_the_same_name_is_another(world, user):
    connection, token = user
    world.sql("DROP OWNED BY dana; DROP ROLE dana; CREATE ROLE dana")
    with refuses(*NOT_MAPPED):
        impersonate(connection, token)


def test_a_remapped_user_becomes_the_other_role(world, user):
    connection, token = user
    world.sql("SELECT immuta.map_user('dana', 'alice')")
    impersonate(connection, token)
    assert carriers(connection) == ["UA"]
    assert query(connection, "SELECT userid, mapped_role FROM immuta.whoami()") == [("dana", "alice")]
    connection.rollback()
    world.sql("SELECT immuta.disable_user('dana')")
    world.sql("SELECT immuta.disable_user('dana', disabled => false)")
    impersonate(connection, token)
    assert carriers(connection) == ["UA"]


def test_mapping_by_name_reaches_marked_roles_only(world, user, service):
    connection, token = user
    world.sql("UPDATE immuta.user_account SET mapping = 'username', postgres_role = NULL WHERE userid = 'dana'")
    with refuses(*NOT_MAPPED):
        impersonate(connection, token)
    connection.rollback()
    world.sql("GRANT immuta_mappable TO dana")
    impersonate(connection, token)
    assert carriers(connection) == ["DL"]
    connection.rollback()
    world.sql("SELECT immuta.create_user('dana', 'okta')")
    elsewhere = world.token("dana", "okta")
    with refuses(*NOT_MAPPED):
        impersonate(service, elsewhere)
    service.rollback()
    world.sql("ALTER DATABASE immuta SET bodata.map_by_username_iamids = 'bim, okta'")
    fresh = world.connect()
    impersonate(fresh, elsewhere)
    assert carriers(fresh) == ["DL"]
    fresh.close()
    world.sql("ALTER DATABASE immuta SET bodata.map_by_username = off")
    fresh = world.connect()
    with refuses(*NOT_MAPPED):
        impersonate(fresh, token)
    fresh.close()
    world.sql("ALTER DATABASE immuta RESET ALL")


def test_same_userid_in_another_iam_is_another_user(world, user):
    connection, token = user
    world.sql("SELECT immuta.create_user('dana', 'Okta', 'bob')")
    impersonate(connection, world.token("dana", "Okta"))
    assert carriers(connection) == ["AA"]
    connection.commit()
    impersonate(connection, token)
    assert carriers(connection) == ["DL"]
    with pytest.raises(Exception, match="does not exist"):
        world.token("dana", "okta")


def test_the_cache_is_bounded_and_can_be_looked_at(world):
    world.sql("ALTER DATABASE immuta SET bodata.token_cache_size = 3")
    world.sql("GRANT immuta_admin TO svc")
    try:
        connection = world.connect()
        for _ in range(2):
            for user in ("alice", "bob", "carol", "alice"):
                impersonate(connection, world.token(user))
                rows_seen(connection)
                connection.commit()
        cached = query(connection, "SELECT userid, mapped_role, provider, expires_at - last_used_at = '1 h' "
                                   "FROM immuta.token_cache()")
        assert cached == [("alice", "alice", "local", True), ("carol", "carol", "local", True),
                          ("bob", "bob", "local", True)]
        assert query(connection, "SELECT immuta.flush_token_cache()") == [(3,)]
        assert query(connection, "SELECT count(*) FROM immuta.token_cache()") == [(0,)]
        connection.close()
    finally:
        world.sql("REVOKE immuta_admin FROM svc")
        world.sql("ALTER DATABASE immuta RESET ALL")


def test_a_change_in_the_running_transaction_waits_for_the_next(world, user):
    """Once established, the state belongs to the transaction."""
    connection, token = user
    impersonate(connection, token)
    rows_seen(connection)
    world.sql("SELECT immuta.revoke_token(%s)", (token,))
    assert carriers(connection) == ["DL"]


def test_the_service_role_is_watched_as_soon_as_it_is_granted(world):
    plain = world.connect("plain", "plain-password")
    assert query(plain, "SELECT * FROM app.everyone") == [("granted to public",)]
    plain.commit()
    world.sql("GRANT bodata_impersonate_user TO plain")
    try:
        with refuses("42501", "IMPERSONATION_REQUIRED"):
            query(plain, "SELECT * FROM app.everyone")
        plain.rollback()
    finally:
        world.sql("REVOKE bodata_impersonate_user FROM plain")
    assert query(plain, "SELECT * FROM app.everyone") == [("granted to public",)]
    plain.close()


def test_admin_only_membership_does_not_count_since_16(world):
    if world.server.version in ("14", "15"):
        world.sql("GRANT bodata_impersonate_user TO plain WITH ADMIN OPTION")
        expected = refuses("42501", "IMPERSONATION_REQUIRED")
    else:
        world.sql("GRANT bodata_impersonate_user TO plain WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
        expected = None
    plain = world.connect("plain", "plain-password")
    try:
        if expected:
            with expected:
                query(plain, "SELECT * FROM app.everyone")
        else:
            assert query(plain, "SELECT * FROM app.everyone")
    finally:
        world.sql("REVOKE bodata_impersonate_user FROM plain")
        plain.close()


def test_a_mark_is_not_handed_on(world):
    """Who is a member of a marked role is not marked, and the marker itself is nobody's role."""
    world.sql("CREATE ROLE zoe IN ROLE immuta_mappable; CREATE ROLE etl IN ROLE zoe")
    service = world.connect()
    try:
        for userid, expected in (("etl", NOT_MAPPED), ("immuta_mappable", NOT_MAPPED)):
            world.sql("SELECT immuta.create_user(%s)", (userid,))
            with refuses(*expected):
                impersonate(service, world.token(userid))
            service.rollback()
        with refuses(*NOT_ALLOWED):
            world.sql("SELECT immuta.map_user('etl', 'immuta_mappable')")
        with refuses(*NOT_ALLOWED):
            world.sql("SELECT immuta.map_user('etl', 'immuta_subscriber')")
        world.sql("GRANT immuta_mappable TO etl")
        impersonate(service, world.token("etl"))
        service.rollback()
        world.sql("GRANT immuta_mappable TO immuta_admin")
        world.sql("SELECT immuta.create_user('immuta_admin')")
        with refuses(*NOT_ALLOWED):
            impersonate(service, world.token("immuta_admin"))
    finally:
        service.close()
        world.sql("REVOKE immuta_mappable FROM immuta_admin")
        for userid in ("etl", "immuta_mappable", "immuta_admin"):
            world.sql("SELECT immuta.drop_user(%s)", (userid,))
        world.sql("DROP ROLE etl, zoe")


def test_changes_are_announced_whatever_the_replication_role(world, user):
    """As in a replica, or where a restore switches triggers off."""
    connection, token = user
    impersonate(connection, token)
    connection.commit()
    world.sql("SET session_replication_role = replica")
    try:
        world.sql("UPDATE immuta.user_account SET disabled = true WHERE userid = 'dana'")
    finally:
        world.sql("RESET session_replication_role")
    with refuses("28000"):
        impersonate(connection, token)
    tables = "SELECT count(*) FROM pg_trigger WHERE tgfoid = 'immuta_internal.announce_change()'::regprocedure AND tgenabled <> 'A'"
    assert world.value(tables) == 0


def test_sessions_that_impersonate_nobody_leave_no_predicate_locks(world):
    """A table of ours that they read would be one more that SERIALIZABLE transactions fail for."""
    ordinary = psycopg2.connect(**world.server.dsn(dbname=world.dbname))
    ordinary.isolation_level = "SERIALIZABLE"
    query(ordinary, "SELECT count(*) FROM pg_class")
    # Makes every session look for the extension again.
    world.sql("ALTER TABLE immuta.user_account SET (fillfactor = 90)")
    world.sql("ALTER TABLE immuta.user_account RESET (fillfactor)")
    query(ordinary, "CREATE TEMPORARY TABLE mine ()")
    assert query(ordinary, "SELECT relation::regclass FROM pg_locks "
                           "WHERE pid = pg_backend_pid() AND mode = 'SIReadLock'") == []
    ordinary.close()
