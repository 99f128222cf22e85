"""What packages hold, for each major: Debian's and PGDG's layout, what they need, the same bytes each time. Unpacked into a
server of that major, they make the extension."""

import hashlib
import os
import re
import shutil
import subprocess
import tarfile

import pytest
from harness.server import BUILD, ROOT, VERSIONS, Server, run_prefix
from pages import VERSION

MINIMA = re.search(r'^PG_MINIMA="(.*)"', (ROOT / "tools/versions.sh").read_text(), re.M)[1].split()
MINIMUM = {least.split(".")[0]: least for least in MINIMA}
EXTENSION = ["immuta_ext.control", f"immuta_ext--{VERSION}.sql"]


def run(*words, **options):
    return subprocess.run(words, text=True, capture_output=True, check=True, **options).stdout


@pytest.mark.parametrize("major", VERSIONS)
def test_layout(packed, tmp_path, major):
    package, _ = packed(major)
    shared, doc = f"usr/share/postgresql/{major}", f"usr/share/doc/postgresql-{major}-immuta-ext"
    files = re.findall(r"^-(\S{9}) (\S+) .* \./(\S+)$", run("dpkg-deb", "-c", package), re.M)
    assert {name for _, _, name in files} == {
        f"usr/lib/postgresql/{major}/lib/immuta_ext.so", *(f"{shared}/extension/{name}" for name in EXTENSION),
        f"{shared}/immuta_ext/create-impersonation-user.sql",
        *(f"{doc}/{name}" for name in ("copyright", "THIRD-PARTY-LICENSES.gz", "changelog.gz", "changelog.Debian.gz"))}
    assert {(mode, owner) for mode, owner, _ in files} == {("rw-r--r--", "root/root")}
    field = dict(re.findall(r"^(\S+): (.*)$", run("dpkg-deb", "-f", package), re.M))
    assert (field["Package"], field["Version"]) == (f"postgresql-{major}-immuta-ext", f"{VERSION}-1")
    # No maintainer scripts: no questions, no restarts.
    run("dpkg-deb", "-e", package, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["control", "md5sums"]
    needs = dict(re.fullmatch(r"(\S+) \(>= (.*)\)", need).groups() for need in field["Depends"].split(", "))
    assert needs.keys() == {f"postgresql-{major}", "libc6", "libgcc-s1"} and needs[f"postgresql-{major}"] == MINIMUM[major]
    # Debian 12 has 2.36.
    assert (2, 30) < tuple(map(int, needs["libc6"].split("."))) <= (2, 36)


@pytest.mark.parametrize("major", VERSIONS)
def test_unpacked(packed, tmp_path, major):
    """By both, into trees that have no extension: the same files, and a server that makes it of them."""
    package, archive = packed(major)
    bare = BUILD / "pg" / major
    trees = BUILD / "run" / f"{run_prefix()}unpacked"
    tree = trees / major
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(bare, tree, symlinks=True, ignore=lambda _, names: [n for n in names if n.startswith("immuta_ext")])
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path)
    run(tmp_path / f"immuta_ext-{VERSION}-pg{major}" / "install", tree / "bin" / "pg_config")
    run("dpkg-deb", "-x", package, tmp_path / "deb")
    debian = {file.name: file.read_bytes() for file in (tmp_path / "deb").rglob("*") if file.is_file() and "doc" not in file.parts}
    assert len(debian) == 4
    for name, content in debian.items():
        [installed] = tree.rglob(name)
        assert installed.read_bytes() == content, name
    try:
        with Server(major, "packaged", trees=trees) as server:
            assert server.psql("-At", "-c", "CREATE EXTENSION immuta_ext", "-c",
                               "SELECT extversion FROM pg_extension WHERE extname = 'immuta_ext'").stdout.strip() == VERSION
    finally:
        shutil.rmtree(tree)


def test_same_bytes(packed, tmp_path):
    """Packed again elsewhere, later and by another: the same."""
    if os.environ.get("PACKAGES"):
        pytest.skip("packages made elsewhere are not packed again")
    files = packed("15")
    before = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    for file in files:
        file.unlink()
    run(ROOT / "tools" / "package", "--installed", "15", env={**os.environ, "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8"}, umask=0o077)
    assert [hashlib.sha256(file.read_bytes()).hexdigest() for file in files] == before
