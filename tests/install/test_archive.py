"""The archive for other systems: its script, by the words of docs/installing.md."""

import re
import subprocess
import tarfile

from harness.server import BUILD
from life import PAGE, Life
from pages import VERSION, blocks

TREE = f"immuta_ext-{VERSION}-pg15"


def newer(archive, folder):
    """The same with another library."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder)
    with open(folder / TREE / "immuta_ext.so", "ab") as library:
        library.write(b"\0" * 8)
    with tarfile.open(folder / archive.name, "w:gz") as tar:
        tar.add(folder / TREE, TREE)
    return folder / archive.name


def test_life(system, packed, tmp_path):
    _, archive = packed("15")
    there = Life(system("bookworm", "archive"), "15")
    there.system.run("apt-get install postgresql-15")
    before = there.postmaster()
    there.system.put(archive)
    there.follow("An archive, for other systems")
    assert there.postmaster() == before
    there.follow("Two settings, and the extension")
    there.first_steps()
    there.works()

    there.system.put(newer(archive, tmp_path))
    there.goes_on(lambda: there.follow("An archive, for other systems"))
    there.system.run("service postgresql restart")
    there.upgraded()
    [script] = re.findall(r"^sudo \S+/install .*$", "".join(blocks(PAGE, "An archive, for other systems")), re.M)
    uninstall = script.replace("/install ", "/install --uninstall ")
    there.goes_on(lambda: there.system.run(uninstall), reads=False)
    there.system.run(script)
    there.remove(lambda _: there.system.run(uninstall))


def test_refusals(packed, tmp_path):
    """It takes no other major's server, and needs to be told of one."""
    _, archive = packed("15")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path)
    environment = {"PATH": "/usr/bin:/bin", "DESTDIR": str(tmp_path / "d")}
    for words, said in ((["--help", "me"], "usage:"), ([tmp_path / "none"], "needs the server's pg_config"),
                        ([BUILD / "pg/14/bin/pg_config"], "these files are for PostgreSQL 15")):
        done = subprocess.run([tmp_path / TREE / "install", *words], text=True, capture_output=True, env=environment)
        assert done.returncode == 1 and said in done.stderr
    assert not (tmp_path / "d").exists()
