"""Whole applications, which take minutes to install: `make clients-large`. A server of its own, with the orders and the users of
the other drivers."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "drivers")]

from drivers.conftest import *  # noqa: E402,F401,F403


@pytest.fixture(scope="session")
def server_name():
    return "drivers-large"
