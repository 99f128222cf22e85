"""What a provider may do wrong, each thing as one test; and that a session that waits for it is never held.

Threats: 31-33 (docs/threats.md).
"""

import os
import signal
import socket
import threading
import time
from contextlib import contextmanager

import psycopg2
import psycopg2.extensions
import pytest
from conftest import ENVIRONMENT, INVALID, UNAVAILABLE, outcome
from harness.shims import HANGS, hanging_names
from harness.fault_server import BROKEN, GOOD, HANG, FaultServer, faults_for
from harness.fixtures import VERSION, refuses
from harness.server import Server
from harness.world import World, impersonate, prepare, query

USER = {"iamid": "bim", "userid": "alice", "disabled": False, "profile": {"externalUserIds": {"postgresqlUser": "alice"}}}
INTROSPECTED = {"active": True, "username": "alice", "iss": "https://id.example.com", "exp": 4_000_000_000}
TOKEN = "a-token-that-no-log-may-hold"

FAULTS = faults_for(USER)
HANGS_ANYWHERE = [fault for fault in FAULTS.values() if fault.kind == HANG]
# The answer itself differs between the providers, not what can happen on the way.
OF_INTROSPECTION = {name: fault for name, fault in faults_for(INTROSPECTED).items()
                    if name not in FAULTS or fault.kind == HANG or "user" in name or "JSON" in name}
# Active, but nobody's: that is an answer.
OF_NOBODY = [OF_INTROSPECTION.pop(name) for name in ("null as the user", "empty user")]


@pytest.fixture(autouse=True)
def no_token_in_the_log(world):
    world.tokens.append(TOKEN)


def immuta(settings, server, **more):
    settings(token_provider="immuta", api_url=server.url, **more)


@pytest.fixture
def introspection(world, settings):
    secret = world.server.home / "client-secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(secret, 65534, 65534)
    world.sql("SELECT immuta.map_issuer('https://id.example.com', 'bim')")

    def ask(settings, server, **more):
        settings(token_provider="introspection", introspection_url=server.url, introspection_client_id="db",
                 introspection_client_secret_file=secret, **more)

    yield ask
    world.sql("SELECT immuta.unmap_issuer('https://id.example.com')")


def play(fault, answer, ask, settings, connect):
    """Presents a token to a provider with this fault: it is refused, or accepted, in its time, and the connection
    goes on."""
    limit = 0.5 if fault.kind == HANG else 8
    with FaultServer(fault, answer=answer) as server:
        ask(settings, server, api_timeout=f"{limit}s", api_connect_timeout=f"{limit}s")
        connection = connect()
        began = time.monotonic()
        if fault.kind == GOOD:
            impersonate(connection, TOKEN)
            assert query(connection, "SELECT current_user::text") == [("alice",)]
        else:
            with refuses(*UNAVAILABLE) as seen:
                impersonate(connection, TOKEN)
            assert TOKEN not in seen.message and "alice" not in seen.message
        took = time.monotonic() - began
        assert took < limit + 1.5, "inside the time limit"
        if fault.kind == HANG:
            assert took >= limit * 0.9
        connection.rollback()
        assert query(connection, "SELECT 1") == [(1,)]
        assert server.redirected == 0


@pytest.mark.parametrize("fault", FAULTS.values(), ids=str)
def test_immuta(fault, settings, connect):
    play(fault, USER, immuta, settings, connect)


@pytest.mark.parametrize("fault", OF_INTROSPECTION.values(), ids=str)
def test_introspection(fault, settings, connect, introspection):
    play(fault, INTROSPECTED, introspection, settings, connect)


@pytest.mark.parametrize("fault", OF_NOBODY, ids=str)
def test_introspection_of_nobodys_token(fault, settings, connect, introspection):
    with FaultServer(fault, answer=INTROSPECTED) as server:
        introspection(settings, server)
        assert outcome(connect(), TOKEN) == INVALID[1]


def test_one_session_goes_through_all_of_them(world, settings):
    """What one answer leaves on the connection, or in a thread, must not reach the next."""
    connection = psycopg2.connect(**world.server.dsn(dbname="immuta"))
    connection.autocommit = True
    query(connection, "SET bodata.token_provider = 'immuta'")
    query(connection, "SET bodata.api_timeout = '300ms'")
    pid = connection.info.backend_pid
    for fault in FAULTS.values():
        if fault.seconds:
            continue
        with FaultServer(fault, answer=USER) as server:
            query(connection, "SET bodata.api_url = %s", (server.url,))
            try:
                query(connection, f"BEGIN; SET LOCAL bodata.impersonation_token = '{TOKEN}'")
                seen = GOOD
                assert query(connection, "SELECT current_user::text") == [("alice",)]
            except psycopg2.Error as error:
                seen = error.diag.message_detail
            query(connection, "ROLLBACK")
            assert seen == (GOOD if fault.kind == GOOD else UNAVAILABLE[1]), fault.name
    assert has_one_thread(pid)
    connection.close()


def has_one_thread(pid):
    """Soon: one that was left behind ends by itself."""
    for _ in range(100):
        if len(os.listdir(f"/proc/{pid}/task")) == 1:
            return True
        time.sleep(0.1)
    return False


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid):
    """Memory of its own, in KiB."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))


@pytest.mark.parametrize("name, failures", [("500", 10_000), ("deep JSON", 1000), ("reset before an answer", 200)])
def test_memory_is_flat(settings, connect, name, failures):
    with FaultServer(FAULTS[name], answer=USER) as server:
        immuta(settings, server)
        connection = connect()
        connection.autocommit = True
        pid = connection.info.backend_pid

        def fail(times):
            for _ in range(times):
                try:
                    query(connection, f"SET LOCAL bodata.impersonation_token = '{TOKEN}'")
                except psycopg2.Error as error:
                    assert error.diag.message_detail == UNAVAILABLE[1]

        fail(failures // 10)
        before, files = resident(pid), open_files(pid)
        fail(failures)
        assert resident(pid) - before < 1024
        assert has_one_thread(pid) and open_files(pid) <= files + 1


# -- interrupts --------------------------------------------------------------------------------------------------


@contextmanager
def waiting(connection):
    """The connection presents a token while this runs; `ended` then holds what came of it, and when."""
    ended = {}

    def present():
        try:
            impersonate(connection, TOKEN)
        except psycopg2.Error as error:
            ended.update(error=error)
        ended.update(at=time.monotonic())

    thread = threading.Thread(target=present)
    thread.start()
    time.sleep(0.4)
    yield ended
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize("fault", HANGS_ANYWHERE, ids=str)
def test_interrupts_act_at_once(world, fault, settings, connect):
    """Cancel, statement_timeout and termination, while the limits are far away."""
    with FaultServer(fault, answer=USER) as server:
        immuta(settings, server, api_timeout="60s", api_connect_timeout="60s")
        connection = connect()
        pid = connection.info.backend_pid
        with waiting(connection) as ended:
            began = time.monotonic()
            connection.cancel()
        assert ended["error"].pgcode == "57014" and ended["at"] - began < 1
        connection.rollback()
        assert query(connection, "SELECT 1") == [(1,)]
        query(connection, "SET statement_timeout = '300ms'")
        connection.commit()
        began = time.monotonic()
        with refuses("57014"):
            impersonate(connection, TOKEN)
        assert time.monotonic() - began < 1.3
        connection.rollback()
        query(connection, "SET statement_timeout = 0")
        connection.commit()
        logged = world.server.logged()
        with waiting(connection) as ended:
            assert world.sql("SELECT state FROM pg_stat_activity WHERE pid = %s", (pid,)) == [("active",)]
            began = time.monotonic()
            world.sql("SELECT pg_terminate_backend(%s)", (pid,))
        assert connection.closed and ended["at"] - began < 1
        assert "57P01: terminating connection" in world.server.log(logged)


def test_the_wait_has_a_name(world, settings, connect):
    with FaultServer("hangs before the headers", answer=USER) as server:
        immuta(settings, server, api_timeout="60s")
        connection = connect()
        with waiting(connection):
            seen = world.sql("SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE pid = %s",
                             (connection.info.backend_pid,))
            connection.cancel()
        assert seen == [("Extension", "ImmutaTokenProvider" if int(VERSION) >= 17 else "Extension")]


def test_names_that_never_resolve(settings):
    """A server of its own, whose look-ups of some names hang."""
    server = Server(VERSION, "providers-dns", environment={**ENVIRONMENT, **hanging_names()},
                    options=["bodata.api_allow_http=on"])
    with server:
        prepare(server)
        world = World(server)
        for name, value in (("token_provider", "immuta"), ("api_url", f"http://{HANGS}:1/"), ("api_timeout", "400ms")):
            world.sql(f"ALTER DATABASE immuta SET bodata.{name} = '{value}'")
        connection = world.connect()
        for _ in range(3):
            began = time.monotonic()
            assert outcome(connection, TOKEN) == UNAVAILABLE[1]
            assert 0.3 < time.monotonic() - began < 2
        query(connection, "SET statement_timeout = '200ms'")
        connection.commit()
        for _ in range(3):
            with refuses("57014"):
                impersonate(connection, TOKEN)
            connection.rollback()
        # However impatient the client, the threads that cannot be interrupted are few.
        query(connection, "SET statement_timeout = '10ms'")
        connection.commit()
        codes = []
        for _ in range(60):
            with pytest.raises(psycopg2.Error) as raised:
                impersonate(connection, TOKEN)
            codes.append(raised.value.pgcode)
            connection.rollback()
        assert set(codes) == {"57014", UNAVAILABLE[0]}
        connection.close()
        world.admin.close()


def test_a_name_that_does_not_exist(settings, connect):
    settings(token_provider="immuta", api_url="http://no-such-host.invalid/", api_timeout="20s",
             api_connect_timeout="20s")
    with refuses(*UNAVAILABLE) as seen:
        impersonate(connect(), TOKEN)
    assert "name of its host" in seen.message


def test_nobody_listens(settings, connect):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    settings(token_provider="immuta", api_url=f"http://127.0.0.1:{port}/")
    with refuses(*UNAVAILABLE) as seen:
        impersonate(connect(), TOKEN)
    assert "cannot be connected to" in seen.message


def test_a_session_dies_with_its_server(settings):
    server = Server(VERSION, "providers-death", options=["bodata.api_allow_http=on"])
    with server, FaultServer("hangs before the headers", answer=USER) as provider:
        prepare(server)
        world = World(server)
        for name, value in (("token_provider", "immuta"), ("api_url", provider.url), ("api_timeout", "60s")):
            world.sql(f"ALTER DATABASE immuta SET bodata.{name} = '{value}'")
        connection = world.connect()
        pid = connection.info.backend_pid
        with waiting(connection):
            server.process.send_signal(signal.SIGKILL)
            for _ in range(100):
                if not os.path.exists(f"/proc/{pid}"):
                    break
                time.sleep(0.02)
            assert not os.path.exists(f"/proc/{pid}")
        connection.close()
