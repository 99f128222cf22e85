"""One answer for the whole server: what one session is told about a token, all know; one asks, the others wait.

Threats: 62 (docs/threats.md).
"""

import itertools
import os
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest
from conftest import INVALID, UNAVAILABLE, outcome, who

from harness.fixtures import VERSION, logs_no_secret, wait_until
from harness.immuta_api import CURRENT_USER, ImmutaApi
from harness.server import Server
from harness.shims import Clock
from harness.standby import Standby
from harness.world import World, digest, impersonate, prepare, query

SMALL = 16
# Sessions and tokens; `make crowd` has more.
SESSIONS, TOKENS = (int(number) for number in os.environ.get("CROWD", "20x200").split("x"))


@pytest.fixture(scope="module")
def small():
    """A server that shares little."""
    options = ["bodata.api_allow_http=on", "max_connections=60", f"bodata.shared_token_cache_size={SMALL}"]
    with Server(VERSION, "providers-small", options=options) as server:
        prepare(server)
        yield World(server)


@pytest.fixture
def small_api(small):
    with ImmutaApi() as api:
        for user in ("alice", "bob", "carol"):
            api.add_user(user)
        for name, value in (("token_provider", "immuta"), ("api_url", api.url)):
            small.sql(f"ALTER DATABASE immuta SET bodata.{name} = '{value}'")
        yield api


def asked(api):
    return api.requests[CURRENT_USER]


def each(connections, act):
    """The result of each, all at the same time."""
    together = threading.Barrier(len(connections))

    def run(connection):
        together.wait()
        return act(connection)

    with ThreadPoolExecutor(len(connections)) as threads:
        return list(threads.map(run, connections))


def pid(connection):
    return query(connection, "SELECT pg_backend_pid()")[0][0]


def waits(world, api, count=1):
    """Waits until a request is on its way."""
    end = time.monotonic() + 10
    while asked(api) < count:
        assert time.monotonic() < end
        time.sleep(0.01)


def started_again(world):
    """A connection to a server that one of its processes made start again."""
    world.admin.close()
    assert wait_until(lambda: "all server processes terminated; reinitializing" in world.server.log(), 30)
    found = []

    def connects():
        try:
            found.append(world.connect())
        except psycopg2.OperationalError:
            pass
        return found

    assert wait_until(connects, 30)
    return found[0]


# -- one asks ----------------------------------------------------------------------------------------------------------


def test_a_stampede_makes_one_call(api, token, connect):
    api.delay, good = 0.3, token()
    connections = [connect() for _ in range(200)]
    assert each(connections, lambda c: outcome(c, good)) == ["alice"] * 200
    assert asked(api) == 1


def test_a_stampede_on_a_busy_machine():
    """Whoever learnt the time before another took its turn does not take that for a clock that was set back."""
    clock = Clock(f"busy-{VERSION}")
    with Server(VERSION, "providers-busy", options=["bodata.api_allow_http=on"], environment=clock.environment) as server, \
            ImmutaApi() as api:
        prepare(server)
        world = World(server)
        api.add_user("alice")
        # A busy machine takes its time: what is asked about is not taken for abandoned.
        for name, value in (("token_provider", "immuta"), ("api_url", api.url), ("api_timeout", "60s")):
            world.sql(f"ALTER DATABASE immuta SET bodata.{name} = '{value}'")
        connections, good = [world.connect() for _ in range(5)], api.issue("alice")
        api.delay = 1
        clock.set(0, pause=50_000)
        assert world.value("SELECT clock_timestamp() + '40 ms' <= clock_timestamp()"), "the clock is not that of the test"
        assert set(each(connections, lambda c: outcome(c, good))) == {"alice"}
        clock.set(0)
        assert asked(api) == 1


def test_a_stampede_of_a_token_that_is_refused(api, connect, world):
    api.delay = 0.3
    connections = [connect() for _ in range(20)]
    assert set(each(connections, lambda c: outcome(c, "nobody-has-this-token"))) == {INVALID[1]}
    assert asked(api) == 1


def test_one_call_in_each_interval(api, token, connect, settings):
    settings(token_revalidate_interval=1)
    good = token()
    connections = [connect() for _ in range(5)]
    end, began = time.monotonic() + 3, time.monotonic()
    while time.monotonic() < end:
        assert {outcome(c, good) for c in connections} == {"alice"}
    assert 2 <= asked(api) <= time.monotonic() - began + 1


def test_zero_asks_in_every_transaction(api, token, connect, settings):
    settings(token_revalidate_interval=0)
    good = token()
    for connection in (connect(), connect()):
        assert [outcome(connection, good) for _ in range(2)] == ["alice"] * 2
    assert asked(api) == 4


def test_many_sessions_and_many_tokens(api, token, connect):
    """As many sessions use as many tokens each, beginning at different ones."""
    users, shift = itertools.cycle(("alice", "bob")), TOKENS // SESSIONS
    tokens = [(user, token(user)) for user in itertools.islice(users, TOKENS)]
    connections = [connect() for _ in range(SESSIONS)]

    def mistakes(connection):
        start = connections.index(connection) * shift
        return [user for user, secret in tokens[start:] + tokens[:start] if outcome(connection, secret) != user]

    assert each(connections, mistakes) == [[]] * SESSIONS
    # A set of places can be full of others for a moment.
    assert TOKENS <= asked(api) <= 1.01 * TOKENS


# -- whoever asks may go away ------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(api, token, connect, world):
    """A session that asks a slow provider, one that waits for it, and what that one is told. Whoever asks next is answered at once."""
    api.delay, good = 3, token()
    first, second = connect(), connect()
    pids = pid(first), pid(second)
    first.rollback(), second.rollback()
    with ThreadPoolExecutor(2) as threads:
        asking = threads.submit(outcome, first, good)
        waits(world, api)
        api.delay = 0
        told = threads.submit(outcome, second, good)
        time.sleep(0.2)
        yield pids, asking, told


def test_whoever_asks_is_cancelled(waiting, api, world):
    (asks, _), _, told = waiting
    world.sql("SELECT pg_cancel_backend(%s)", (asks,))
    assert told.result(10) == "alice" and asked(api) == 2


def test_whoever_asks_is_terminated(waiting, api, world):
    (asks, _), _, told = waiting
    world.sql("SELECT pg_terminate_backend(%s)", (asks,))
    assert told.result(10) == "alice" and asked(api) == 2


def test_whoever_waits_is_cancelled(waiting, api, world):
    (_, waits), asking, told = waiting
    world.sql("SELECT pg_cancel_backend(%s)", (waits,))
    assert told.result(10) is None and not asking.done()
    assert asking.result(10) == "alice" and asked(api) == 1


def test_a_client_that_goes_away_while_it_asks(api, token, connect, world):
    api.delay, good = 1, token()
    asking = connect(options="-c client_connection_check_interval=100ms")
    asking.rollback()
    with ThreadPoolExecutor(1) as threads:
        gone = threads.submit(outcome, asking, good)
        waits(world, api)
        socket.socket(fileno=os.dup(asking.fileno())).shutdown(socket.SHUT_RDWR)
        assert outcome(connect(), good) == "alice"
        with pytest.raises(psycopg2.Error):
            gone.result(10)


def test_a_provider_that_hangs_is_asked_once(api, token, connect, settings):
    settings(api_timeout="2s")
    api.delay, good = 4, token()
    connections = [connect() for _ in range(10)]
    began = time.monotonic()
    assert set(each(connections, lambda c: outcome(c, good))) == {UNAVAILABLE[1]}
    assert time.monotonic() - began < 10 and asked(api) == 1, "not one after the other"
    api.delay = 0
    assert outcome(connections[3], good) == "alice"


def test_the_last_answer_of_others_serves_while_the_provider_is_away(api, token, connect, settings):
    settings(token_revalidate_interval=1, provider_grace=600, api_timeout="300ms")
    good = token()
    assert outcome(connect(), good) == "alice"
    time.sleep(1.1)
    api.delay = 0.6
    assert outcome(connect(), good) == "alice", "a session that never asked"


def of_role(world, name, **settings):
    """A service login with settings of its own."""
    if not world.sql("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)):
        world.sql(f"CREATE ROLE {name} LOGIN PASSWORD 'password' IN ROLE bodata_impersonate_user")
    for setting, value in settings.items():
        world.sql(f"ALTER ROLE {name} SET bodata.{setting} = '{value}'")
    return world.connect(name, "password")


def test_an_answer_that_comes_too_late_counts_for_nobody_else(api, token, connect, world, settings):
    """The session that asked was given up, another one was refused meanwhile: what the provider said before is out of date."""
    settings(api_timeout="5s", negative_cache_ttl=0)
    api.delay, good = 4, token()
    api.decides_first = True
    impatient = of_role(world, "impatient", api_timeout="300ms")
    with ThreadPoolExecutor(1) as threads:
        late = threads.submit(outcome, connect(), good)
        waits(world, api)
        api.delay = 0
        api.revoke(good)
        time.sleep(1.4)
        assert outcome(impatient, good) == INVALID[1]
        assert late.result(10) == "alice", "it was told so itself"
    assert outcome(connect(), good) == outcome(impatient, good) == INVALID[1]
    impatient.close()


def test_flushing_while_a_session_asks(api, token, connect, world):
    api.delay, good = 1, token()
    api.decides_first = True
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(outcome, connect(), good)
        waits(world, api)
        api.revoke(good)
        world.sql("SELECT immuta.flush_token_cache()")
        asking.result(10)
    assert outcome(connect(), good) == INVALID[1]


def test_nobody_waits_longer_than_a_request_may_take(api, token, connect, settings):
    settings(api_timeout="400ms")
    api.delay, good, longest = 1, token(), []
    end = time.monotonic() + 3

    def retry(connection):
        while time.monotonic() < end:
            began = time.monotonic()
            assert outcome(connection, good) == UNAVAILABLE[1]
            longest.append(time.monotonic() - began)

    each([connect() for _ in range(12)], retry)
    # One after the other it would be five.
    assert max(longest) < 4


def test_one_without_patience_decides_for_nobody_else(api, token, connect, world, settings):
    settings(api_timeout="5s")
    api.delay, good = 0.8, token()
    impatient = of_role(world, "impatient", api_timeout="300ms")
    with ThreadPoolExecutor(1) as threads:
        gone = threads.submit(outcome, impatient, good)
        waits(world, api)
        assert outcome(connect(), good) == "alice"
        assert gone.result(10) == UNAVAILABLE[1]
    impatient.close()


def test_what_cannot_be_shared_is_asked_for_by_all_at_once(api, connect, world):
    api.add_user("x" * 255, "i" * 255, external_ids={})
    good = api.issue("x" * 255, "i" * 255)
    world.tokens.append(good)
    # What comes of it is noted.
    outcome(connect(), good)
    connections, api.delay = [connect() for _ in range(8)], 1
    began = time.monotonic()
    each(connections, lambda c: outcome(c, good))
    assert time.monotonic() - began < 6, "not one after the other"


def test_a_refusal_ends_the_time_of_grace_in_all_sessions(api, token, connect, world, settings):
    settings(token_revalidate_interval=1, provider_grace=600, api_timeout="300ms", negative_cache_ttl=0)
    good, first = token(), connect()
    assert outcome(first, good) == "alice"
    api.revoke(good)
    time.sleep(1.1)
    eager = of_role(world, "eager", token_revalidate_interval=0)
    assert outcome(eager, good) == INVALID[1], "which shares nothing itself"
    api.delay = 0.6
    assert {outcome(c, good) for c in (first, eager, connect())} == {UNAVAILABLE[1]}
    eager.close()


# -- what it does not do -----------------------------------------------------------------------------------------------


def test_what_changes_here_counts_at_once(api, token, connect, world):
    bobs, sessions = token("bob"), [connect() for _ in range(3)]
    assert {who(c, bobs)[2] for c in sessions} == {"bob"}
    world.sql("SELECT immuta.disable_user('bob')")
    try:
        assert {outcome(c, bobs) for c in [*sessions, connect()]} == {INVALID[1]}
    finally:
        world.sql("SELECT immuta.disable_user('bob', disabled => false)")
    assert {who(c, bobs)[2] for c in sessions} == {"bob"} and asked(api) == 1


def test_flushing_makes_all_ask_again(api, token, connect, world):
    good, other = token(), connect()
    assert outcome(connect(), good) == "alice"
    api.revoke(good)
    assert outcome(connect(), good) == "alice", "as within any session"
    world.sql("SELECT immuta.flush_token_cache()")
    assert outcome(other, good) == INVALID[1]


def test_a_refusal_takes_the_answer_away(api, token, connect, settings):
    settings(token_revalidate_interval=1)
    good, first, second = token(), connect(), connect()
    assert outcome(first, good) == outcome(second, good) == "alice"
    api.revoke(good)
    time.sleep(1.1)
    assert outcome(first, good) == outcome(second, good) == outcome(connect(), good) == INVALID[1]
    assert asked(api) == 2


def test_another_provider_knows_nothing_of_it(api, token, connect, settings):
    good = token()
    assert outcome(connect(), good) == "alice"
    with ImmutaApi() as other:
        settings(api_url=other.url)
        assert outcome(connect(), good) == INVALID[1] and asked(other) == 1
    settings(api_url=api.url)
    assert outcome(connect(), good) == "alice" and asked(api) == 1


def test_another_database_knows_nothing_of_it(small, small_api):
    good = small_api.issue("alice")
    small.tokens.append(good)
    assert outcome(small.connect(), good) == "alice"
    small.sql("CREATE DATABASE second")
    try:
        second = World(small.server, "second")
        for statement in ("CREATE EXTENSION immuta_ext", "SELECT immuta.create_user('alice', postgres_role => 'alice')",
                          "ALTER DATABASE second SET bodata.token_provider = 'immuta'",
                          f"ALTER DATABASE second SET bodata.api_url = '{small_api.url}'"):
            second.sql(statement)
        small_api.revoke(good)
        connection = second.connect()
        assert outcome(connection, good) == INVALID[1]
        connection.close(), second.admin.close()
    finally:
        small.sql("DROP DATABASE second")


def test_guesses_push_out_no_token(small, small_api):
    good, sessions = small_api.issue("alice"), [small.connect() for _ in range(20)]
    small.tokens.append(good)
    assert outcome(sessions[0], good) == "alice"
    # A session is held back after a few: each makes three.
    for n, connection in enumerate(sessions * 3):
        assert outcome(connection, f"guess-{n}") == INVALID[1]
    before = asked(small_api)
    assert outcome(sessions[-1], good) == "alice" and asked(small_api) == before


def test_a_full_table_keeps_what_was_used_last(small, small_api):
    connection, tokens = small.connect(), [small_api.issue("alice") for _ in range(10 * SMALL)]
    small.tokens.extend(tokens)
    assert {outcome(connection, t) for t in tokens} == {"alice"}
    before = asked(small_api)
    assert before == len(tokens)
    assert outcome(small.connect(), tokens[-1]) == "alice" and asked(small_api) == before
    assert {outcome(small.connect(), t) for t in tokens[:SMALL]} == {"alice"}
    assert asked(small_api) > before, "the others gave way"


def test_a_server_that_crashes_while_a_session_asks(small, small_api):
    small_api.delay, good = 2, small_api.issue("alice")
    small.tokens.append(good)
    asking = small.connect()
    killed = pid(asking)
    asking.rollback()
    with ThreadPoolExecutor(1) as threads:
        gone = threads.submit(outcome, asking, good)
        waits(small, small_api)
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(psycopg2.Error):
            gone.result(10)
    small_api.delay = 0
    assert outcome(started_again(small), good) == "alice"


def test_a_standby_shares_as_well(small, small_api):
    good = small_api.issue("alice")
    small.tokens.append(good)
    standby = Standby(VERSION, "providers-standby", options=["bodata.api_allow_http=on"])
    try:
        world = World(standby.follow(small.server))
        assert outcome(world.connect(), good) == outcome(world.connect(), good) == "alice"
        assert asked(small_api) == 1
    finally:
        standby.destroy()


# -- a library that each session loads ---------------------------------------------------------------------------------

from_17 = pytest.mark.skipif(int(VERSION) < 17, reason="before 17 there is no memory that can be found by its name")


@pytest.fixture(scope="module")
def by_session():
    with Server(VERSION, "providers-alone", preload="session", options=["bodata.api_allow_http=on", "max_connections=60"]) as server:
        prepare(server)
        world = World(server)
        yield world
        # One test kills a process.
        assert server.lines_with("terminated by signal 11", "terminated by signal 6", "terminated by signal 7", "PANIC: ") == []
        logs_no_secret(world)


@pytest.fixture
def its_api(by_session):
    with ImmutaApi() as api:
        for user in ("alice", "bob"):
            api.add_user(user)
        for name, value in (("token_provider", "immuta"), ("api_url", api.url)):
            by_session.sql(f"ALTER DATABASE immuta SET bodata.{name} = '{value}'")
        yield api


def test_sessions_that_load_the_library_themselves(by_session, its_api):
    good, connections = its_api.issue("alice"), [by_session.connect() for _ in range(30)]
    by_session.tokens.append(good)
    its_api.delay = 0.3
    assert set(each(connections, lambda c: outcome(c, good))) == {"alice"}
    assert asked(its_api) == (1 if int(VERSION) >= 17 else 30)
    assert by_session.value("SHOW bodata.shared_token_cache_size") == "10000"
    its_api.revoke(good)
    its_api.delay = 0
    assert outcome(by_session.connect(), good) == ("alice" if int(VERSION) >= 17 else INVALID[1])
    by_session.sql("SELECT immuta.flush_token_cache()")
    assert outcome(by_session.connect(), good) == INVALID[1]


@from_17
@pytest.mark.parametrize("end", ["cancel", "terminate"])
def test_their_turn_is_given_back(by_session, its_api, end):
    """Also by a process that ends, from which PostgreSQL takes that memory away before it is gone."""
    its_api.delay, good = 3, its_api.issue("alice")
    by_session.tokens.append(good)
    first, second = by_session.connect(), by_session.connect()
    asks = pid(first)
    first.rollback()
    with ThreadPoolExecutor(2) as threads:
        threads.submit(outcome, first, good)
        waits(by_session, its_api)
        its_api.delay = 0
        told = threads.submit(outcome, second, good)
        time.sleep(0.2)
        by_session.sql(f"SELECT pg_{end}_backend(%s)", (asks,))
        assert told.result(10) == "alice" and asked(its_api) == 2


def reloads(world, size):
    """Sets the size for sessions to come."""
    world.sql(f"ALTER SYSTEM SET bodata.shared_token_cache_size = {size}")
    world.sql("SELECT pg_reload_conf()")
    assert wait_until(lambda: world.value("SHOW bodata.shared_token_cache_size") == str(size))


@from_17
def test_the_size_of_the_first_session_counts(by_session, its_api):
    """Until the server starts again. Sessions with tables of their own would not hear what others are told to forget."""
    good = its_api.issue("bob")
    by_session.tokens.append(good)
    before = by_session.connect()
    assert outcome(by_session.connect(), good) == "bob"
    for size in (100, 0):
        reloads(by_session, size)
        assert outcome(by_session.connect(), good) == "bob" and asked(its_api) == 1
    its_api.revoke(good)
    flushing = by_session.connect("postgres", by_session.server.superuser_password)
    query(flushing, "SELECT immuta.flush_token_cache()")
    flushing.commit()
    assert outcome(by_session.connect(), good) == outcome(before, good) == INVALID[1]
    reloads(by_session, 10_000)
    assert outcome(by_session.connect(), good) == INVALID[1]


@from_17
def test_where_that_memory_cannot_be_had_a_session_asks_for_itself():
    with Server(VERSION, "providers-limited", preload="session", options=["bodata.api_allow_http=on"]) as server, ImmutaApi() as api:
        prepare(server)
        world = World(server)
        api.add_user("alice")
        for name, value in (("token_provider", "immuta"), ("api_url", api.url)):
            world.sql(f"ALTER DATABASE immuta SET bodata.{name} = '{value}'")
        good, limited, other = api.issue("alice"), world.connect(), world.connect()
        subprocess.run([*server.as_user, "prlimit", "--pid", str(pid(limited)), "--fsize=1000000:unlimited"], check=True)
        limited.rollback()
        for _ in range(3):
            impersonate(limited, good)
            assert query(limited, "SELECT current_user") == [("alice",)]
            limited.commit()
        assert limited.notices == [] and asked(api) == 1
        assert server.log().count("memory for what sessions know together of tokens cannot be had") == 1
        assert outcome(other, good) == outcome(world.connect(), good) == "alice" and asked(api) == 2, "others have it"
        assert "not closed" not in server.log() and "leak" not in server.log()


@from_17
def test_they_crash_and_start_again(by_session, its_api):
    good = its_api.issue("alice")
    by_session.tokens.append(good)
    victim = by_session.connect()
    assert outcome(victim, good) == "alice"
    os.kill(pid(victim), signal.SIGKILL)
    connections = [started_again(by_session), by_session.connect()]
    assert [outcome(c, good) for c in connections] == ["alice"] * 2 and asked(its_api) == 2


# -- uses --------------------------------------------------------------------------------------------------------------


def test_a_use_is_known_to_all_sessions_at_once(world, connect, settings):
    """Up to a twelfth of the time to live late it would be, if only the table told."""
    settings(token_idle_ttl=4)
    good, first, second = world.token(), connect(), connect()
    assert outcome(second, good) == outcome(first, good) == "alice"
    for _ in range(12):
        time.sleep(0.5)
        assert outcome(first, good) == "alice"
    assert outcome(second, good) == "alice"
    time.sleep(4.2)
    assert outcome(first, good) == outcome(second, good) == INVALID[1]


def test_one_worker_records_a_use(world, connect, settings):
    settings(token_idle_ttl=12)
    good, sessions = world.token(), [connect() for _ in range(20)]
    world.sql("UPDATE immuta.token SET last_used_at = now() - interval '5 s' WHERE digest = %s", (digest(good),))
    xmin = "SELECT xmin::text, last_used_at > now() - interval '4 s' FROM immuta.token WHERE digest = %s"
    assert set(each(sessions, lambda c: outcome(c, good))) == {"alice"}
    end = time.monotonic() + 5
    while not (written := world.sql(xmin, (digest(good),))[0])[1]:
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.3)
    assert world.sql(xmin, (digest(good),))[0] == written


def test_a_size_out_of_range(world):
    with pytest.raises(psycopg2.Error) as refused:
        world.sql("ALTER SYSTEM SET bodata.shared_token_cache_size = 1000001")
    assert refused.value.pgcode == "22023"
