"""Clients that send garbage, half a message or a token of a megabyte, or are gone in the middle: clear errors, nothing left,
and whoever comes next is served."""

import contextlib
import socket
import struct
import time

import pytest
from harness.fixtures import VERSION
from harness.wire import Closed, Wire
from scene import ACTIVE, INVALID, REQUIRED, expect, token_of

MEGABYTE = 1 << 20
SERVICE = ("svc", "service-password")


@pytest.fixture
def client(world):
    made = []

    def make():
        made.append(Wire("127.0.0.1", world.server.port, *SERVICE, world.dbname))
        return made[-1]

    yield make
    for wire in made:
        wire.close()


def present(world, client):
    wire = client()
    wire.query("BEGIN")
    wire.query(f"SET LOCAL bodata.impersonation_token = '{token_of(world, 'alice')}'")
    return wire


def gone(wire):
    """The client ends without a word; the server may have been faster."""
    with contextlib.suppress(OSError):
        wire.socket.shutdown(socket.SHUT_RDWR)


def is_over(world, timeout=10):
    """No session of the service login's is left, and nobody is impersonated."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        left = world.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'svc' AND state LIKE 'idle in%%'")
        if left == 0 and world.value("SELECT count(*) FROM immuta.impersonations") == 0:
            return True
        time.sleep(0.05)
    return False


GARBAGE = [
    b"\0" * 64, b"\xff" * 64, b"GET / HTTP/1.1\r\n\r\n", b"Z\0\0\0\5I", b"Q\0\0\0\3", b"Q\x7f\xff\xff\xff", b"Q\x80\0\0\0",
    b"P\0\0\0\4", b"P\0\0\0\6ab", b"B\0\0\0\5x", b"B" + struct.pack("!i", 4 + 2 + 2 + 2 + 2 + 4) + b"\0\0" + struct.pack("!hhhi", 0, 0, 1, -5),
    b"E\0\0\0\5x", b"F\0\0\0\5x", b"C\0\0\0\6Xx", b"D\0\0\0\6Xx", b"Q\0\0\0\x0bSELECT '\xff\0", b"p\0\0\0\x08oops", b"d\0\0\0\5x"]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: repr(garbage)[:40])
@pytest.mark.parametrize("under_a_token", [False, True])
def test_garbage(world, client, garbage, under_a_token):
    """An error or the end of the connection; never anything that only a user may have."""
    wire = present(world, client) if under_a_token else client()
    wire.socket.sendall(garbage)
    wire.socket.settimeout(0.3)
    try:
        wire.sync().send()
        answer = wire.read()
        assert all(not result.rows for result in answer.results)
    except (Closed, OSError, EOFError, AssertionError):
        pass
    finally:
        gone(wire)
    assert is_over(world)
    after = present(world, client)
    assert after.query("SELECT current_user").rows == [("alice",)]
    after.query("ROLLBACK")
    expect(after.query("SELECT * FROM app.flights"), *REQUIRED)


@pytest.mark.parametrize("cut", [b"Q", b"Q\0\0", b"Q\0\0\0\xffSELECT", b"P\0\0\1\0s\0SELECT", b"B\0\0\1\0"])
def test_half_a_message_and_gone(world, client, cut):
    wire = present(world, client)
    wire.query("INSERT INTO app.orders VALUES (4711, 'UA')")
    wire.socket.sendall(cut)
    gone(wire)
    assert is_over(world)
    assert world.value("SELECT count(*) FROM app.orders WHERE id = 4711") == 0


@pytest.mark.parametrize("step", ["presented", "in a query", "in a copy", "in a savepoint", "before the answer"])
def test_gone_in_the_middle(world, client, step):
    wire = present(world, client)
    wire.query("INSERT INTO app.orders VALUES (4711, 'UA')")
    if step == "in a query":
        wire.simple("SELECT pg_sleep(0.3)").send()
    elif step == "in a copy":
        wire.simple("COPY app.orders FROM STDIN").send()
    elif step == "in a savepoint":
        wire.query("SAVEPOINT s")
    elif step == "before the answer":
        wire.simple("SELECT g, repeat('x', 1000) FROM generate_series(1, 100000) g").send()
    gone(wire)
    assert is_over(world)
    assert world.value("SELECT count(*) FROM app.orders WHERE id = 4711") == 0


@pytest.mark.parametrize("size", [16385, MEGABYTE])
def test_a_long_token(world, client, size):
    """One clear error, at once, in each form, and the connection goes on."""
    wire, token = client(), "x" * size
    for present_it in (lambda: wire.query(f"SET LOCAL bodata.impersonation_token = '{token}'"),
                       lambda: wire.query_extended("SELECT set_config('bodata.impersonation_token', $1, true)", token)):
        wire.query("BEGIN")
        started = time.monotonic()
        answer = present_it()
        assert time.monotonic() - started < 10
        expect(answer, *INVALID)
        assert len(str({k: v for k, v in answer.error.items() if k != "q"})) < 2000
        wire.query("ROLLBACK")
    assert wire.query("SELECT current_user").rows == [("svc",)]
    assert world.value("SELECT immuta.check_token(%s)", (token,)) == {"active": False}


def test_a_long_name_of_everything(world, client):
    """Settings, savepoints, statements and portals with names of a megabyte."""
    wire, name = present(world, client), "n" * MEGABYTE
    wire.query(f'SAVEPOINT "{name}"')
    assert wire.query("SELECT current_user").rows == [("alice",)]
    # Prefixes of settings are reserved since 15.
    unknown = [] if VERSION == "14" else [f"SET LOCAL bodata.{name} = 1"]
    for statement in (*unknown, f'SET ROLE "{name}"', f"SELECT set_config('{name}', '1', true)"):
        assert wire.query(statement).error is not None
        wire.query(f'ROLLBACK TO "{name}"')
        assert wire.query("SELECT current_user").rows == [("alice",)]
    expect(wire.query(f"SET LOCAL bodata.impersonation_token = '{name}'"), *ACTIVE)
    wire.query("ROLLBACK")


@pytest.mark.parametrize("statement", ['SET "{}" = 1', 'SET LOCAL "{}" = 1', "SELECT set_config('{}', '1', false)", 'SHOW "{}"',
                                       'SET bodata."{}" = 1', 'PREPARE "{}" AS SELECT 1', 'LISTEN "{}"', 'SET "x.{}" = 1'])
def test_no_refusal_repeats_a_long_name(world, client, statement):
    """Without a user, and under a token."""
    for wire in (client(), present(world, client)):
        error = wire.query(statement.format("n" * MEGABYTE)).error
        if error and error.get("D", "").startswith("IMPERSONATION"):
            assert len(error["M"]) < 1000, error["M"][:100]


# What the type itself refuses is PostgreSQL's to say.
LONG = {"text": "repeat('x', 1000000)", "name": "repeat('x', 1000000)", "bytea": "convert_to(repeat('x', 1000000), 'UTF8')",
        "text[]": "ARRAY[repeat('x', 1000000)]", "name[]": "ARRAY[repeat('x', 1000000)]",
        "jsonb": "jsonb_build_object(repeat('x', 1000000), repeat('y', 1000000))", "jsonpath": "('$.' || repeat('x', 1000000))"}
SHORT = {"text": "'x'", "name": "'x'", "regclass": "'app.flights'::regclass", "jsonb": "'{}'::jsonb", "text[]": "'{x}'::text[]",
         "boolean": "false", "integer": "1", "interval": "'1 s'::interval"}
ARGUMENTS = """
SELECT p.oid::regproc::text, p.prokind, p.proargnames[1:p.pronargs], ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) t),
       p.pronargs - p.pronargdefaults
FROM pg_proc p WHERE p.pronamespace IN ('immuta'::regnamespace, 'immuta_procedures'::regnamespace) AND p.pronargs > 0
ORDER BY 1
"""


def long_calls(world):
    """Each function of ours, with a megabyte in one argument and something in those that need it."""
    for name, kind, names, types, needed in world.sql(ARGUMENTS):
        for at, kind_of in enumerate(types):
            if kind_of in LONG:
                given = [f"{names[i]} => {SHORT.get(types[i], 'NULL')}" for i in range(needed) if i != at]
                yield name, f"{'CALL' if kind == 'p' else 'SELECT * FROM'} {name}({', '.join([*given, f'{names[at]} => {LONG[kind_of]}::{kind_of}'])})"


def test_no_error_repeats_a_long_argument(world, client):
    """A megabyte comes back neither in a message nor in a field of it: of the administrator's functions and of the user's."""
    called, repeated = 0, []
    for user in (None, "alice"):
        wire = Wire("127.0.0.1", world.server.port, "postgres", world.server.superuser_password, world.dbname) if user is None else None
        for name, call in long_calls(world):
            session = wire or present(world, client)
            if wire:
                session.query("BEGIN")
            error = session.query(call).error or {}
            session.query("ROLLBACK")
            called += 1
            repeated += [(call[:120], field, value[:200]) for field, value in error.items() if len(value) > 2000]
            if not wire:
                session.close()
        if wire:
            wire.close()
    assert repeated == [] and called > 150
