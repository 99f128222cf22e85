"""Names that never resolve: a library that is loaded into a server before the C library."""

import subprocess

from .server import BUILD, ROOT

HANGS = "anything.hangs.invalid"
SOURCE = ROOT / "tests" / "harness" / "dns_shim.c"


def hanging_names():
    """The environment in which every look-up of a name below `hangs.invalid` takes for ever."""
    library = BUILD / "dns_shim.so"
    if not library.exists() or library.stat().st_mtime < SOURCE.stat().st_mtime:
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library)}
