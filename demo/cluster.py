"""The demo's server. It outlives the program that started it: its pid is in PostgreSQL's own pid file."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from harness.server import BUILD, Server, run_prefix  # noqa: E402

NAME = "demo"


def server(version):
    return Server(version, NAME)


def fresh(version):
    """A new server, in place of the one that an earlier run left."""
    made = server(version)
    stop(made.home)
    return made.create().start()


def homes():
    """The folders of all demo servers."""
    return sorted((BUILD / "run").glob(f"{run_prefix()}{NAME}-*"))


def pid(home):
    """Process id of the running server, or None. A pid file may be left over from a crash, and its number may by
    now be another process's: the command line tells."""
    try:
        number = int((home / "data" / "postmaster.pid").read_text().split()[0])
        words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError, IndexError):
        return None
    return number if os.fsencode(home / "data") in words else None


def stop(home):
    """Stops the server that lives there; whether there was one."""
    number = pid(home)
    if number is None:
        return False
    os.kill(number, signal.SIGINT)
    for _ in range(300):
        if pid(home) is None:
            return True
        time.sleep(0.1)
    raise RuntimeError(f"the server with pid {number} did not stop within 30 s")


def remove(home):
    was_running = stop(home)
    shutil.rmtree(home)
    return was_running
