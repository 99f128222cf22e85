"""node-postgres and postgres.js."""

import json
import subprocess
from pathlib import Path

import pytest
from environments import node_program

HERE = Path(__file__).parent / "node"


@pytest.mark.parametrize("driver", ["pg", "postgres"])
def test_node(where, tokens, driver):
    """Named prepared statements across users, errors, savepoints, several queries at once."""
    given = dict(driver=driver, where=where, tokens=tokens)
    done = subprocess.run(["node", node_program(HERE / "application.mjs")], text=True, input=json.dumps(given), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["prepared", "nested", "refused", "many", "done"]
