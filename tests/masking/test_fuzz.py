"""Some of the statements that `make fuzz` sends for minutes, always the same: every byte that comes back is searched for what is masked.

Threats: 63 (docs/threats.md).
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fuzz"))

import masked as scenes  # noqa: E402
from masks import of_ours, sweep, watch  # noqa: E402
from proxy import Session, Watch  # noqa: E402


@pytest.fixture(scope="module")
def fuzzed(world):
    """The scene, and what sends so many statements as one of its users."""
    scene = scenes.Scene(world.server, 1)

    def send(user, count):
        watched = watch(Watch, scene, user, 1)
        world.tokens.append(watched.token)
        session = Session(watched)
        for _ in range(count):
            session.try_one()
        session.check_nobody()
        session.wire.close()
        assert watched.faults == []
        return watched

    yield scene, send
    world.sql("DROP DATABASE fuzz")


def test_each_column(fuzzed):
    """Is masked for the one, and found by the same search in what the other reads."""
    assert list(sweep(fuzzed[0])) == []


def test_nothing_that_is_masked_is_seen(fuzzed):
    scene, send = fuzzed
    seen = send("fay", 600)
    assert seen.leaks == [] and list(of_ours(scene, seen.internal)) == []
    # Of those that name masked tables.
    assert seen.ran[1] > 200 and seen.seen > 30 and seen.as_nobody > 30


def test_who_is_excepted_sees_it(fuzzed):
    """The positive control: the same statements, another user."""
    assert len(fuzzed[1]("eve", 300).leaks) > 75


def test_a_column_that_is_granted_is_found(fuzzed):
    scene, send = fuzzed
    scene.server.psql("-c", "GRANT SELECT (secret) ON data.people TO fay", dbname=scene.dbname)
    leaks = send("fay", 300).leaks
    scene.server.psql("-c", "REVOKE SELECT (secret) ON data.people FROM fay", dbname=scene.dbname)
    assert leaks != []
