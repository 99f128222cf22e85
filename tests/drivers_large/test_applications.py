"""Applications of others as they are: pgAdmin and Superset, driven by what their pages send."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from environments import python
from harness.server import ROOT
from harness.world import SERVICE

HERE = Path(__file__).resolve().parent


@pytest.fixture
def given(world, tokens):
    """With a login whose sessions may be a user's."""
    where = dict(host="127.0.0.1", port=world.server.port, user=SERVICE[0], password=SERVICE[1], dbname=world.dbname)
    world.sql("CREATE ROLE reporter LOGIN PASSWORD 'reporter-password' IN ROLE bodata_impersonate_user; "
              "ALTER ROLE reporter SET bodata.allow_session_impersonation = on")
    session = dict(username="reporter", password="reporter-password", options={"options": f"-c bodata.impersonation_token={tokens['bob']}"})
    yield dict(where=where, tokens=tokens, session=session, examples=str(ROOT / "docs" / "integrations" / "examples"))
    world.sql("DROP ROLE reporter")


def run(packages, program, home, given, *arguments):
    home.mkdir()
    # Some of what they need has no wheel, and nothing in it to compile.
    interpreter = python(HERE / f"{packages}.txt", packages, "--prefer-binary")
    done = subprocess.run([interpreter, HERE / "programs" / program, home, *arguments], input=json.dumps(given), text=True,
                          capture_output=True, timeout=1200, env={**os.environ, "HOME": str(home)})
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-6000:]
    return done.stdout.splitlines()


def test_pgadmin_in_a_pool(given, tmp_path):
    """The two hundred transactions of the other drivers, by two query tools."""
    assert run("pgadmin", "run_pgadmin.py", tmp_path / "home", given)[-1] == "done 200"


def test_pgadmin_click_by_click(world, given, tmp_path):
    """Of a table that has been analysed it counts the rows, if they seem few."""
    world.sql("ANALYZE app.orders")
    seen = json.loads(run("pgadmin", "run_pgadmin.py", tmp_path / "home", given, "tour")[-1])
    alice, bob = [["alice", "UA", 10]], [["bob", "AA", 10]]
    catalogs = dict.fromkeys(("roles", "schemas", "columns", "locks", "configuration", "charts without sessions"), True)
    expected = {f"{login} {name}": value for login in ("service", "session") for name, value in catalogs.items()}
    expected |= {"service view data": "42501", "service query": "42501", "together": alice, "alone": "25P01", "explicit": alice,
                 "afterwards": "42501", "token without auto commit": alice, "service server cursor": [["UA"]],
                 "service end": "COMMIT", "token by a server cursor": "42501"}
    expected |= {"properties without counting": True, "sql without counting": True, "session properties": True, "session sql": True}
    expected |= {"session activity": True, "session charts": True, "session view data": 10, "session query": bob,
                 "session server cursor": [["AA"]], "session end": "COMMIT"}
    # It reads sessions from pg_stat_activity, which without a token is refused; its own code stumbles over the error.
    for name in ("service activity", "service charts"):
        assert seen.pop(name) is not True
    for name in ("cancel", "service properties", "service sql"):
        assert "requires an impersonation token" in seen.pop(name)
    assert seen == expected


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Superset 6.1 wants a numpy that knows Python up to 3.12")
def test_superset(given, tmp_path):
    *_, seen, last = run("superset", "run_superset.py", tmp_path / "home", given)
    assert last == "done 200"
    seen = json.loads(seen)
    escapes = seen.pop("escapes")
    assert escapes.pop("SELECT current_user, current_setting('work_mem')") == [["alice", "4MB"]]
    assert all(isinstance(answer, str) for answer in escapes.values()), escapes
    assert seen == {"test connection": 200, "test connection by nobody": 400, "schemas": True, "tables": True,
                    "columns": ["id", "carrier", "note", "at"], "cached": 97}
