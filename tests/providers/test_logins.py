"""Logins with a token (PostgreSQL 18): this library as OAuth validator, asked over the wire and by libpq.

Threats: 61 (docs/threats.md).
"""

import ctypes
import json
import re
import time
from pathlib import Path

import psycopg
import pytest
from conftest import ENVIRONMENT
from harness.fixtures import TALKATIVE, VERSION, logs_no_secret, no_process_crashed
from harness.issuer import Issuer
from harness.server import Server
from harness.wire import Closed, Wire
from harness.world import World, prepare

pytestmark = pytest.mark.skipif(int(VERSION) < 18, reason="PostgreSQL 18 brought logins with OAuth")

ROLES = """
CREATE ROLE bi LOGIN IN ROLE bodata_impersonate_user; CREATE ROLE stranger LOGIN; CREATE ROLE boss LOGIN SUPERUSER;
CREATE ROLE direct LOGIN IN ROLE bodata_impersonate_user;
"""
SETTINGS = ["bodata.token_provider=jwt", "bodata.jwt_audience=db", "bodata.api_allow_http=on", "oauth_validator_libraries=immuta_ext",
            "bodata.jwt_keys_cooldown=1", "authentication_timeout=3s"]


@pytest.fixture(scope="module")
def issuer(authority):
    """Over TLS: libpq wants it."""
    with Issuer(authority.server_context()) as issuer:
        yield issuer


@pytest.fixture(scope="module")
def logins(issuer, authority):
    server = Server(VERSION, "logins", environment=ENVIRONMENT,
                    options=[*TALKATIVE, *SETTINGS, f"bodata.api_ca_file={authority.ca_file}"])
    with server:
        prepare(server)
        server.psql(input=ROLES, dbname="immuta")
        world = World(server)
        world.sql("SELECT immuta.map_issuer(%s, 'bim')", (issuer.url,))
        line = f'127.0.0.1/32 oauth issuer="{issuer.url}" scope="db:read"'
        hba = server.data / "pg_hba.conf"
        hba.write_text(f"""host immuta bi,stranger,boss {line} delegate_ident_mapping=1
host immuta direct {line}
host immuta svc,alice 127.0.0.1/32 scram-sha-256
""" + hba.read_text())
        world.sql("SELECT pg_reload_conf()")
        time.sleep(0.2)
        yield world
        no_process_crashed(world)
        logs_no_secret(world)
        world.admin.close()


@pytest.fixture
def token(logins, issuer):
    def issue(sub="alice", **how):
        logins.tokens.append(issuer.token(sub, **{"scope": "openid db:read", **how}))
        return logins.tokens[-1]

    return issue


@pytest.fixture
def login(logins):
    made = []

    def make(token, user="bi", **settings):
        made.append(Wire("127.0.0.1", logins.server.port, user, token, "immuta", **settings))
        return made[-1]

    yield make
    for wire in made:
        wire.close()


def rows(wire, sql):
    answer = wire.simple(sql).send().read()
    assert answer.error is None, answer.error
    return [list(row) for row in answer.rows]


def refused(login, *args, **settings):
    with pytest.raises(Closed) as closed:
        login(*args, **settings)
    [error] = closed.value.args
    return error


def test_a_login(login, token, logins):
    """From the first statement on the session is the user's."""
    wire = login(token())
    assert rows(wire, "SELECT session_user, current_user, userid, provider, scope, client_id FROM immuta.whoami()") == [
        ["bi", "alice", "alice", "jwt", "session", "app"]]
    assert rows(wire, "SELECT DISTINCT carrier FROM app.flights") == [["UA"]]
    assert rows(wire, "SELECT system_user") == [["oauth:alice"]]
    for attempt in ("RESET ROLE", "SET SESSION AUTHORIZATION DEFAULT", "SELECT * FROM immuta.token"):
        assert wire.simple(attempt).send().read().error["C"] == "42501", attempt
    assert rows(wire, "SELECT current_user") == [["alice"]]
    for reset in ("RESET ALL", "DISCARD ALL"):
        assert wire.simple(reset).send().read().error is None
        assert rows(wire, "SELECT current_user, immuta.client_id()") == [["alice", "app"]], reset
    assert '"impersonatedBy":"bi"' in logins.server.log()


BAD = {
    "a token that nobody signed": (lambda token, issuer: issuer.forged(sign=lambda _: b"x" * 256), "not signed by its issuer"),
    "an expired one": (lambda token, issuer: token(seconds=-60), "has expired"),
    "another audience": (lambda token, issuer: token(aud="x"), "another audience"),
    "another type": (lambda token, issuer: token(header={"typ": "JWT"}), "a type (typ)"),
    "another issuer": (lambda token, issuer: token(iss="https://evil"), "an issuer that is not mapped"),
    "no scope of the line": (lambda token, issuer: token(scope="openid"), "lacks a scope"),
    "no JWT": (lambda token, issuer: "x" * 40, "three parts"),
    "too long a token": (lambda token, issuer: token(x="x" * 20_000), "too long"),
    "bound to a key": (lambda token, issuer: token(cnf={"jkt": "x"}), "bound to a key"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_logins(login, token, issuer, logins, name):
    """The client hears what PostgreSQL says of every login that fails, and nothing else."""
    make, why = BAD[name]
    before = logins.server.logged()
    error = refused(login, make(token, issuer))
    assert (error["C"], error["S"]) == ("28000", "FATAL")
    assert error["M"] == 'OAuth bearer authentication failed for user "bi"' and "D" not in error and "H" not in error
    assert why in logins.server.log(before)


@pytest.mark.parametrize("role, why", [("stranger", "no service login"), ("boss", "no service login"),
                                       ("direct", "delegate_ident_mapping")])
def test_roles_that_are_no_service_logins(login, token, logins, role, why):
    before = logins.server.logged()
    assert refused(login, token(), role)["C"] == "28000"
    assert why in logins.server.log(before)


def test_who_is_nobody_here_gets_no_connection(login, token, logins):
    """Good tokens, but our tables say no: that is known when the connection is made."""
    assert refused(login, token("zoe"))["C"] == "42704"
    logins.sql("SELECT immuta.disable_user('alice')")
    try:
        assert refused(login, token())["C"] == "28000"
    finally:
        logins.sql("SELECT immuta.disable_user('alice', disabled => false)")
    logins.sql("SELECT immuta.add_impersonation_rule('*', 'bob')")
    try:
        assert refused(login, token())["C"] == "42501"
        assert rows(login(token("bob")), "SELECT current_user") == [["bob"]]
    finally:
        logins.sql("DELETE FROM immuta.impersonation_rule")


def test_another_user_along(login, token):
    """The options of the connection cannot say somebody else."""
    for options in (f"-c bodata.impersonation_token={token('bob')}", "-c immuta.impersonation_userid=bob"):
        assert refused(login, token(), options=options)["C"] in ("25000", "42501"), options
    assert refused(login, token(), options="-c role=bob")["C"]


def test_a_fresh_token_of_the_same_user(login, token):
    """Renews the session; nobody else's does."""
    wire = login(token(seconds=-27))
    assert rows(wire, "SELECT current_user") == [["alice"]]
    assert wire.simple(f"SET bodata.impersonation_token = '{token('bob')}'").send().read().error["C"] == "42501"
    assert rows(wire, "SELECT current_user") == [["alice"]]
    fresh = token()
    assert wire.simple(f"SET bodata.impersonation_token = '{fresh}'").send().read().error is None
    time.sleep(3.2)
    assert rows(wire, "SELECT current_user, expires_at > now() + '5 minutes' FROM immuta.whoami()") == [["alice", "t"]]
    assert wire.simple("RESET ALL").send().read().error is None
    assert rows(wire, "SELECT current_user") == [["alice"]]


def run(wire, *statements):
    """What becomes of each: the SQLSTATE of an error, or nothing."""
    answers = [wire.simple(statement).send().read().error for statement in statements]
    return [error and error["C"] for error in answers]


def test_a_renewal_that_is_rolled_back(login, token, logins):
    """It is as if it had never been: the session goes on with its own token, which only that session may outlive."""
    logins.sql("ALTER ROLE bi SET bodata.oauth_session_lifetime = '1h'")
    logins.sql("ALTER ROLE bi SET bodata.token_revalidate_interval = 1")
    try:
        wire, expiring = login(token(seconds=-26)), token(seconds=-26)
        renew = f"SET bodata.impersonation_token = '{token()}'"
        assert run(wire, "BEGIN", renew, "SELECT 1", "ROLLBACK", renew + "; SELECT 1/0") == [None] * 4 + ["22012"]
        assert run(wire, "BEGIN", f"SET bodata.impersonation_token = '{expiring}'", "SELECT 1", "ROLLBACK") == [None] * 4
        time.sleep(4.2)
        assert rows(wire, "SELECT current_user") == [["alice"]]
        assert run(wire, "RESET ALL", "SELECT 1") == [None, None]
        assert run(wire, f"SET bodata.impersonation_token = '{expiring}'") == ["28000"], "it has expired, and was not taken over"
        assert rows(wire, "SELECT current_user") == [["alice"]]
        assert run(wire, renew) == [None] and rows(wire, "SELECT current_user") == [["alice"]]
    finally:
        logins.sql("ALTER ROLE bi RESET ALL")


def test_what_gave_its_place_is_as_any_other(login, token, logins):
    logins.sql("ALTER ROLE bi SET bodata.oauth_session_lifetime = '1h'")
    logins.sql("ALTER ROLE bi SET bodata.token_revalidate_interval = '5min'")
    try:
        first = token(seconds=-27)
        wire = login(first)
        assert rows(wire, "SELECT current_user") == [["alice"]]
        assert run(wire, f"SET bodata.impersonation_token = '{token()}'", "SELECT 1") == [None, None]
        time.sleep(3.2)
        assert run(wire, f"SET bodata.impersonation_token = '{first}'") == ["28000"]
        assert rows(wire, "SELECT current_user") == [["alice"]]
    finally:
        logins.sql("ALTER ROLE bi RESET ALL")


def test_the_end_of_the_token_is_the_end(login, token):
    """Unless a fresh one comes: then the session goes on."""
    wire = login(token(seconds=-27))
    time.sleep(3.2)
    assert wire.simple("SELECT 1").send().read().error["C"] == "28000"
    assert wire.simple("SELECT count(*) FROM app.flights").send().read().error["C"] == "28000"
    assert wire.simple(f"SET bodata.impersonation_token = '{token('bob')}'").send().read().error["C"] == "42501"
    assert wire.simple("SELECT count(*) FROM app.flights").send().read().error["C"] == "28000"
    assert wire.simple(f"SET bodata.impersonation_token = '{token()}'").send().read().error is None
    assert rows(wire, "SELECT current_user") == [["alice"]]


@pytest.mark.parametrize("revalidate", ["0", "5min"])
def test_a_connection_may_outlive_its_token(login, token, logins, revalidate):
    """By so much, and no token but that with which it was opened: an expired one opens and renews nothing."""
    logins.sql("ALTER ROLE bi SET bodata.oauth_session_lifetime = '6s'")
    logins.sql(f"ALTER ROLE bi SET bodata.token_revalidate_interval = '{revalidate}'")
    try:
        assert refused(login, token(seconds=-31))["C"] == "28000"
        wire = login(token(seconds=-27, jti=f"outlived-{revalidate}"))
        old = token(seconds=-31)
        time.sleep(3.2)
        assert rows(wire, "SELECT current_user, expires_at > now() FROM immuta.whoami()") == [["alice", "t"]]
        assert wire.simple("DISCARD ALL").send().read().error is None
        assert rows(wire, "SELECT current_user") == [["alice"]]
        assert wire.simple(f"SET bodata.impersonation_token = '{old}'").send().read().error["C"] == "28000"
        assert rows(wire, "SELECT current_user") == [["alice"]]
        # What a renewal brings is outlived likewise.
        assert wire.simple(f"SET bodata.impersonation_token = '{token(seconds=-27)}'").send().read().error is None
        time.sleep(3.2)
        assert rows(wire, "SELECT current_user") == [["alice"]]
        time.sleep(6)
        assert wire.simple("SELECT 1").send().read().error["C"] == "28000"
        assert wire.simple("SELECT count(*) FROM app.flights").send().read().error["C"] == "28000"
    finally:
        logins.sql("ALTER ROLE bi RESET ALL")


def test_who_is_revoked_outlives_nothing(login, token, logins):
    logins.sql("ALTER ROLE bi SET bodata.oauth_session_lifetime = '1d'")
    try:
        wire = login(token(seconds=-27))
        time.sleep(3.1)
        assert rows(wire, "SELECT current_user") == [["alice"]]
        logins.sql("SELECT immuta.disable_user('alice')")
        assert wire.simple("SELECT 1").send().read().error["C"] == "28000"
        for value in ("-1", "2d", "'x'"):
            with pytest.raises(Exception, match="oauth_session_lifetime"):
                logins.sql(f"SET bodata.oauth_session_lifetime = {value}")
    finally:
        logins.sql("SELECT immuta.disable_user('alice', disabled => false)")
        logins.sql("ALTER ROLE bi RESET ALL")


def test_an_issuer_that_hangs_at_login(logins, token, issuer, login):
    """PostgreSQL's own limit ends it."""
    issuer.add_key("k9", "ES256")
    logins.sql("SELECT pg_sleep(1.1)")
    issuer.answers["/jwks"] = lambda connection: connection.wait()
    try:
        begun = time.monotonic()
        refused(login, token(kid="k9"))
        assert time.monotonic() - begun < 6
    finally:
        del issuer.answers["/jwks"]
    assert rows(login(token()), "SELECT current_user") == [["alice"]]


def test_what_is_wrong_with_lines(logins):
    lines = dict(logins.sql("SELECT array_to_string(user_name, ','), problems FROM immuta.login_settings"))
    clear = "tokens travel in the clear: use hostssl"
    assert lines == {"bi,stranger,boss": [clear], "direct": [clear, "it lacks delegate_ident_mapping=1, without which immuta_ext refuses"]}
    [(ok, detail)] = logins.sql("SELECT ok, detail FROM immuta.doctor() WHERE \"check\" = 'logins with tokens'")
    assert not ok and clear in detail


def test_libpq_with_a_hook(logins, token, issuer):
    """As an application does that has a token already: libpq asks a hook for it."""
    [library] = [*Path(psycopg.__file__).parents[1].glob("psycopg_binary.libs/libpq-*")]
    libpq = ctypes.CDLL(str(library))

    class Request(ctypes.Structure):
        _fields_ = [("openid_configuration", ctypes.c_char_p), ("scope", ctypes.c_char_p), ("async", ctypes.c_void_p),
                    ("cleanup", ctypes.c_void_p), ("token", ctypes.c_char_p), ("user", ctypes.c_void_p)]

    kept = token().encode()
    hook_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    asked = []

    @hook_type
    def hook(kind, _, data):
        if kind != 1:
            return 0
        request = ctypes.cast(data, ctypes.POINTER(Request)).contents
        asked.append((request.openid_configuration.decode(), request.scope.decode()))
        request.token = kept
        return 1

    libpq.PQsetAuthDataHook(hook)
    libpq.PQconnectdb.restype = ctypes.c_void_p
    libpq.PQexec.restype = ctypes.c_void_p
    libpq.PQgetvalue.restype = libpq.PQerrorMessage.restype = ctypes.c_char_p
    for name in ("PQstatus", "PQexec", "PQfinish", "PQerrorMessage", "PQgetvalue"):
        getattr(libpq, name).argtypes = {"PQexec": [ctypes.c_void_p, ctypes.c_char_p],
                                         "PQgetvalue": [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]}.get(name, [ctypes.c_void_p])
    connection = libpq.PQconnectdb(
        f"host=127.0.0.1 port={logins.server.port} user=bi dbname=immuta oauth_issuer={issuer.url} oauth_client_id=bi".encode())
    try:
        assert libpq.PQstatus(connection) == 0, libpq.PQerrorMessage(connection)
        result = libpq.PQexec(connection, b"SELECT current_user")
        assert libpq.PQgetvalue(result, 0, 0) == b"alice"
        assert asked == [(issuer.url + "/.well-known/openid-configuration", "db:read")]
    finally:
        libpq.PQfinish(connection)
        libpq.PQsetAuthDataHook(None)


def test_a_library_that_is_not_preloaded(issuer, authority):
    """Named as validator only, it refuses everybody, and the log says why."""
    server = Server(VERSION, "logins-late", environment=ENVIRONMENT, preload="none",
                    options=["oauth_validator_libraries=immuta_ext"])
    with server:
        server.psql("-c", "CREATE ROLE bi LOGIN")
        hba = server.data / "pg_hba.conf"
        hba.write_text(f'host all bi 127.0.0.1/32 oauth issuer="{issuer.url}" scope="" delegate_ident_mapping=1\n' + hba.read_text())
        server.psql("-c", "SELECT pg_reload_conf()")
        time.sleep(0.2)
        with pytest.raises(Closed) as closed:
            Wire("127.0.0.1", server.port, "bi", issuer.token(), "postgres")
        assert closed.value.args[0]["C"] == "28000"
        assert re.search("must be in shared_preload_libraries", server.log())
        assert json.dumps("eyJ")[1:-1] not in server.log()
