"""The package of Debian: installed, upgraded and removed by the words of README.md and docs/installing.md."""

import re
import subprocess

import pytest
from harness.server import ROOT
from life import PAGE, Life
from pages import VERSION, blocks, for_major


def revised(package, folder):
    """The same as a later revision."""
    tree, name = folder / "tree", package.name.replace(f"{VERSION}-1_", f"{VERSION}-2_")
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(control.read_text().replace(f"\nVersion: {VERSION}-1\n", f"\nVersion: {VERSION}-2\n"))
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", tree, folder / name], check=True, capture_output=True)
    return folder / name


# Those that have this PostgreSQL themselves.
@pytest.mark.parametrize("suite, major", [("bookworm", "15"), ("trixie", "17")])
def test_life(system, packed, tmp_path, suite, major):
    package, _ = packed(major)
    there = Life(system(suite, f"debian-{suite}"), major)
    # README's way is this page's, in one block.
    [readme] = blocks("README.md")
    assert readme == "".join(blocks(PAGE, "A package of Debian") + blocks(PAGE, "Two settings, and the extension"))
    # PostgreSQL is there before, with a server.
    there.system.run(f"apt-get install postgresql-{major}")
    before = there.postmaster()
    newer = revised(package, tmp_path)
    there.system.put(package, newer)

    install, *more = for_major(readme, major).splitlines(keepends=True)
    there.system.run(install)
    assert there.postmaster() == before, "the server was restarted"
    there.system.run("".join(more))
    there.first_steps()
    there.works()

    [upgrade] = blocks(PAGE, "Upgrading")
    upgrade, *more = for_major(upgrade, major).splitlines(keepends=True)
    there.goes_on(lambda: there.system.run(upgrade))
    there.system.run("".join(more))
    there.upgraded()

    name = package.name.split("_")[0]
    there.goes_on(lambda: there.system.run(f"apt remove {name}"), reads=False)
    there.system.run(upgrade)
    there.system.run("service postgresql restart")
    there.works()
    [purge] = re.findall(r"`(sudo apt purge [^`]*)`", (ROOT / PAGE).read_text())
    there.remove(lambda _: there.system.run(for_major(purge, major)))
    assert there.system.ask(f"dpkg-query -W -f '${{Status}}' {name} 2>/dev/null || true") in ("", "unknown ok not-installed")
