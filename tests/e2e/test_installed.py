"""What is installed is what the tree and the releases say."""

import re
import subprocess

from conftest import VERSION
from harness.releases import CURRENT, LIBRARY, RELEASED, ROOT, script, statements, symbols
from harness.server import TREES

# What a session whose library was replaced meanwhile has background workers of the new one do.
ENTRY_POINTS = {"immuta_ext_perform", "immuta_ext_store_audit"}


def test_the_script_is_the_same_for_every_major(world):
    generated = (TREES / VERSION / "share" / "extension" / f"immuta_ext--{CURRENT}.sql").read_text()
    assert statements(generated) == script()


def test_no_function_of_a_release_is_gone():
    """Functions in C that a script names are kept, with their arguments: an older script runs with this library until it is
    updated."""
    library = TREES / VERSION / "lib" / LIBRARY
    names = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    there = set(re.findall(r" T (\w+)$", names, re.M))
    scripts = [script(), *(file.read_text() for folder in (RELEASED, ROOT / "sql") for file in folder.glob("immuta_ext--*.sql"))]
    wanted = set.union(ENTRY_POINTS, *map(symbols, scripts))
    assert len(wanted) > 45 and wanted - there == set()
    sources = "".join(file.read_text() for file in (ROOT / "src").rglob("*.rs"))
    assert ENTRY_POINTS == set(re.findall(r'fn (immuta_ext_\w+)\(', sources))


def test_versions_agree(world):
    assert world.value("SELECT extversion FROM pg_extension WHERE extname = 'immuta_ext'") == CURRENT
    assert world.value("SELECT default_version FROM pg_available_extensions WHERE name = 'immuta_ext'") == CURRENT
    if int(VERSION) >= 18:
        assert world.sql("SELECT version FROM pg_get_loaded_modules() WHERE module_name = 'immuta_ext'") == [(CURRENT,)]
