"""One server for all tests of a run; `PG_VERSION` says which."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.fixtures import *  # noqa: E402,F401,F403


@pytest.fixture(scope="session")
def server_name():
    return "e2e"
