"""The web demo (`make demo-web`), in a real browser."""

import json
import os
import subprocess

import psycopg2.extensions
import pytest
from environments import browser, node_program, python
from harness.fixtures import TALKATIVE, VERSION
from harness.server import ROOT, Server
from harness.world import SERVICE, World, prepare
from test_guides import serving


@pytest.fixture(scope="module")
def audited():
    with Server(VERSION, "web", options=[*TALKATIVE, "bodata.audit_sink=table"]) as server:
        prepare(server, quick=False)
        world = World(server)
        yield world
        world.admin.close()


def test_in_a_browser(audited):
    world = audited
    # dave sees a mask where alice sees what is in a column, and carol nothing.
    world.sql("CREATE ROLE dave IN ROLE immuta_subscriber; GRANT USAGE ON SCHEMA app TO dave; GRANT SELECT (id, carrier, delay) ON app.flights TO dave;"
              "CREATE POLICY dave_sees ON app.flights TO dave USING (true); SELECT immuta.create_user('dave', postgres_role => 'dave');"
              "INSERT INTO immuta.masks VALUES ('app.flights'::regclass, 4, $$'masked'::text$$)")
    passwords = {user: f"{user}-secret-password" for user in ("alice", "bob", "carol", "dave")}
    for user, password in passwords.items():
        world.sql("SELECT immuta.set_password(%s, %s)", (user, password))
    world.sql("CREATE ROLE web_admin LOGIN PASSWORD 'web' IN ROLE immuta_admin, pg_monitor")
    passwords["admin"] = "admin-password"
    dsn = psycopg2.extensions.make_dsn(host="127.0.0.1", port=world.server.port, user="web_admin", password="web", dbname=world.dbname)
    environment = dict(PGHOST="127.0.0.1", PGPORT=str(world.server.port), PGUSER=SERVICE[0], PGPASSWORD=SERVICE[1],
                       PGDATABASE=world.dbname, ADMIN=dsn, ADMIN_PASSWORD=passwords["admin"], TABLE="app.flights")
    program, libraries = browser()
    with serving([python(), ROOT / "demo" / "web_app.py"], environment) as port:
        given = dict(browser=str(program), url=f"http://127.0.0.1:{port}", passwords=passwords, picture=os.environ.get("PICTURE"))
        done = subprocess.run(["node", node_program(ROOT / "tests" / "drivers" / "browser.mjs")], input=json.dumps(given),
                              text=True, capture_output=True, timeout=120, env={**os.environ, **libraries})
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert {user: (it["user"], it["role"], it["count"], it["bars"], it["rows"]) for user, it in seen["users"].items()} == {
        "alice": ("alice", "alice", "100", 1, 12), "bob": ("bob", "bob", "100", 1, 12), "carol": ("carol", "carol", "300", 3, 12),
        "dave": ("dave", "dave", "300", 3, 12)}
    assert [user for user, it in seen["users"].items() if "secret" in it["header"]] == ["alice", "bob", "dave"]
    # Side by side, to the administrator.
    shown = {user: ("secret " in view, "masked" in view) for user, view in seen["views"].items()}
    assert shown == {"alice": (True, False), "bob": (True, False), "carol": (False, False), "dave": (False, True)}, seen["views"]
    assert seen["escapes"].pop("SELECT current_user, session_user").endswith("alicesvc")
    assert seen["escapes"].pop("COMMIT") == "", "her transaction is over, and the page's next one is hers again"
    assert set(seen["escapes"].values()) == {"42501"}, seen["escapes"]
    assert seen["images"] == 0 and seen["refused"] == "User or password is wrong."
    assert world.sql("SELECT immuta.flush_audit('30 s')") == [(True,)]
    assert "alice" in seen["trail"] or world.value("SELECT count(*) FROM immuta.audit_log WHERE userid = 'alice'") > 0
