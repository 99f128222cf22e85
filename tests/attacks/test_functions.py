"""Functions that come with PostgreSQL: each is on a list that was reviewed, with what may be done with it, and the guard
says the same. A new major brings new functions: they fail here and not at a user's.

Threats: 18, 56 (docs/threats.md).
"""

import psycopg2
import pytest
from harness.server import ROOT
from harness.world import impersonate

LISTS = ROOT / "tests/attacks/functions.txt"

ALL = """SELECT oid::bigint, proname::text, provolatile::text, prokind::text, provariadic <> 0,
    proargtypes::regtype[]::text[], prorettype::regtype::text FROM pg_proc WHERE oid < 16384"""

# What no statement can call: values of these types are made by the server only.
NOT_CALLABLE = {"internal", "trigger", "event_trigger", "language_handler", "index_am_handler", "table_am_handler",
                "fdw_handler", "tsm_handler", "pg_ddl_command"}
STAND_INS = {"anyelement": "int", "anynonarray": "int", "anycompatible": "int", "anycompatiblenonarray": "int", '"any"': "int",
             "anyarray": "int[]", "anycompatiblearray": "int[]", "anyrange": "int4range", "anycompatiblerange": "int4range",
             "anymultirange": "int4multirange", "anycompatiblemultirange": "int4multirange"}
# Nothing that alice may use is an enum, and these need one.
NEEDS_ENUM = "anyenum"


def lists():
    """The names by heading."""
    found, names = {}, None
    for line in LISTS.read_text().splitlines():
        if line.startswith("["):
            names = found.setdefault(line.strip("[]"), set())
        elif line and not line.startswith("#"):
            names.update(line.split())
    return found


def call(name, kind, arguments):
    arguments = ", ".join(f"NULL::{STAND_INS.get(argument, argument)}" for argument in arguments)
    call = f'pg_catalog."{name}"({arguments})'
    if kind == "p":
        return f"CALL {call}"
    return f"EXPLAIN SELECT {call}{' OVER ()' if kind == 'w' else ''}"


def verdicts(connection, functions):
    """Names by whether we refused them: planned, and run as far as the planner runs them."""
    refused, passed = set(), set()
    for _, name, _, kind, _, arguments, result in functions:
        if {*arguments, result} & {*NOT_CALLABLE, NEEDS_ENUM}:
            continue
        with connection.cursor() as cursor:
            try:
                cursor.execute(call(name, kind, arguments))
                passed.add(name)
            except psycopg2.Error as error:
                ours = (error.diag.message_detail or "").startswith("IMPERSONATION_")
                (refused if ours else passed).add(name)
        connection.rollback()
    return refused, passed


def differing(functions):
    """Those that depend on more than their arguments."""
    return [f for f in functions if f[2] != "i"]


def test_every_function_was_reviewed(world):
    reviewed = set().union(*lists().values())
    functions = world.sql(ALL)
    assert len(functions) > 3000
    assert {name for _, name, *_ in functions} - reviewed == set()
    immutable = lists()["immutable"]
    assert {name for _, name, volatile, *_ in functions if volatile != "i" and name in immutable} == set()


def test_without_a_token_the_list_decides(world):
    service = world.connect()
    refused, passed = verdicts(service, differing(world.sql(ALL)))
    service.close()
    assert refused - lists()["closed without a token"] == set()
    assert passed & lists()["closed without a token"] == set()
    assert len(refused) > 40 and len(passed) > 400


def test_under_a_token_the_list_decides(world):
    """Functions are refused when they run: planning does not show it."""
    token, service = world.token("alice"), world.connect()
    closed = lists()["closed under a token"]
    functions = [f for f in world.sql(ALL) if f[1] in closed]
    assert {f[1] for f in functions} == closed
    for _, name, _, _, _, arguments, _ in functions:
        impersonate(service, token)
        with service.cursor() as cursor, pytest.raises(psycopg2.errors.InsufficientPrivilege, match="while impersonating"):
            cursor.execute(f"SELECT pg_catalog.{name}({', '.join('1' for _ in arguments)})")
        service.rollback()
    service.close()
