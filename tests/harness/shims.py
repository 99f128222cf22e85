"""Libraries that are loaded into a server before the C library: names that never resolve, a clock that is off."""

import os
import struct
import subprocess

from .server import BUILD, ROOT, run_prefix

HANGS = "anything.hangs.invalid"


def _shim(name):
    library, source = BUILD / f"{name}_shim.so", ROOT / "tests" / "harness" / f"{name}_shim.c"
    if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
        # Whole, or not there: other suites load it meanwhile.
        made = library.with_suffix(f".{os.getpid()}")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
        made.rename(library)
    return {"LD_PRELOAD": str(library)}


def hanging_names():
    """The environment in which every look-up of a name below `hangs.invalid` takes for ever."""
    return _shim("dns")


class Clock:
    """A server's clock, which can be set; `environment` is for the server."""

    def __init__(self, name):
        self.file = BUILD / "run" / f"{run_prefix()}{name}.clock"
        self.file.parent.mkdir(exist_ok=True)
        self.set(0)
        self.file.chmod(0o644)
        self.environment = {**_shim("clock"), "CLOCK_FILE": str(self.file)}

    def set(self, offset, pause=0):
        """So many seconds from the true time; so many microseconds pass between learning it and making use of it."""
        with open(self.file, "r+b" if self.file.exists() else "wb") as file:
            file.write(struct.pack("ll", offset, pause))
