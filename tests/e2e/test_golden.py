"""What psql shows of a session, message by message, against `tests/golden/session.out`."""

import re
from pathlib import Path

from harness.world import SERVICE, digest

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def test_session(world):
    world.sql("CREATE SEQUENCE IF NOT EXISTS app.s; GRANT ALL ON app.s TO PUBLIC")
    world.sql("SELECT immuta.create_user('golden')")
    tokens = {"alice": world.token("alice"), "old": world.token("alice"), "unmapped": world.token("golden")}
    world.sql("UPDATE immuta.token SET last_used_at = now() - interval '2 h' "
              "WHERE digest = %s", (digest(tokens["old"]),))
    variables = [word for name, token in tokens.items() for word in ("-v", f"{name}={token}")]
    done = world.server.run_client("psql", "-X", "-q", "-a", *variables, "-f", GOLDEN / "session.sql",
                                   user=SERVICE[0], password=SERVICE[1], dbname=world.dbname)
    world.sql("SELECT immuta.drop_user('golden')")
    # Results and messages come in two streams; the line numbers tell which statement a message belongs to.
    shown = re.sub(r"psql:\S+?:(\d+): ", r"line \1: ", done.stderr)
    shown = done.stdout + "\n-- messages\n" + "".join(
        line for line in shown.splitlines(True) if not line.startswith("LOCATION:"))
    for name, token in tokens.items():
        assert token not in shown
    expected = GOLDEN / "session.out"
    assert shown == expected.read_text(), "compare with tests/golden/session.out"
