"""What packages say of themselves stands in one place each."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from harness.server import ROOT, VERSIONS

CARGO = (ROOT / "Cargo.toml").read_text()
VERSION, DESCRIPTION, LICENSE = (re.search(rf'^{key} = "(.+)"', CARGO, re.M)[1] for key in ("version", "description", "license"))
META = json.loads((ROOT / "META.json").read_text())
TABLE = re.findall(r"^\| (\d+) \| (\d+\.\d+) \| (\d+\.\d+) \|$", (ROOT / "README.md").read_text(), re.M)
LIBRARY, SHARED = Path("pkglibdir/immuta_ext.so"), Path("sharedir/immuta_ext")


def versions(name):
    return re.search(rf'^{name}="(.*)"', (ROOT / "tools/versions.sh").read_text(), re.M)[1].split()


def test_minor_releases():
    assert [major for major, _, _ in TABLE] == list(VERSIONS)
    assert versions("PG_MINIMA") == [least for _, least, _ in TABLE]
    assert versions("PG_PACKAGES") == [f"{major}:{tested}.0" for major, _, tested in TABLE]


def test_pgxn():
    """META.json as PGXN's specification wants it."""
    assert META["version"] == META["provides"]["immuta_ext"]["version"] == VERSION
    assert META["abstract"] == DESCRIPTION and (META["license"], LICENSE) == ("apache_2_0", "Apache-2.0")
    assert META["prereqs"]["runtime"]["requires"]["PostgreSQL"] == f"{TABLE[0][1]}.0"
    assert META["meta-spec"]["version"] == "1.0.0"
    # Nobody's address is made up.
    assert re.fullmatch(r"[^<>@]+( <[^<> ]+@[^<> ]+>)?", META["maintainer"]) and ".invalid" not in META["maintainer"]
    assert all((ROOT / META["provides"]["immuta_ext"][file]).exists() for file in ("file", "docfile"))


def test_names_on_pages():
    text = (ROOT / "README.md").read_text() + (ROOT / "docs/installing.md").read_text()
    named = set(re.findall(r"postgresql-15-immuta-ext_\S+?\.deb|immuta_ext-[\d.]+-pg1[58][-\w.]*", text))
    assert named == {f"postgresql-15-immuta-ext_{VERSION}-1_amd64.deb", f"postgresql-15-immuta-ext_{VERSION}-2_amd64.deb",
                     f"immuta_ext-{VERSION}-pg15", f"immuta_ext-{VERSION}-pg18", f"immuta_ext-{VERSION}-pg15-linux-x86_64.tar.gz"}


def test_scripts():
    for shell, script in (("bash", "tools/package"), ("sh", "packaging/install")):
        subprocess.run([shell, "-n", ROOT / script], check=True)


@pytest.fixture
def install(tmp_path):
    """The archive's script, with files beside it and a server's folders."""
    archive, server = tmp_path / "archive", tmp_path / "server"
    archive.mkdir()
    server.mkdir()
    (archive / "install").write_text((ROOT / "packaging/install").read_text().replace("@MAJOR@", "15"))
    for name in ("immuta_ext.so", "immuta_ext.control", f"immuta_ext--{VERSION}.sql", "create-impersonation-user.sql"):
        (archive / name).write_text(name)
        (archive / name).chmod(0o600)
    (server / "pg_config").write_text('#!/bin/sh\ncase $1 in --version) echo PostgreSQL 15.1 ;; *) echo "${0%/*}/${1#--}" ;; esac\n')
    (server / "pg_config").chmod(0o755)

    def run(*options, umask=0o022):
        return subprocess.run(["sh", archive / "install", *options, server / "pg_config"], text=True, capture_output=True, umask=umask)
    run.server = server
    return run


def test_install_is_for_everybody_to_read(install):
    done = install(umask=0o077)
    assert done.returncode == 0, done.stderr
    modes = {oct(path.stat().st_mode & 0o777) for path in install.server.rglob("*") if path.name != "pg_config"}
    assert modes == {"0o755", "0o644"}
    assert (install.server / LIBRARY).read_text() == LIBRARY.name


def test_install_follows_no_link(install, tmp_path):
    """Where somebody else may write into the server's folders."""
    (tmp_path / "elsewhere").mkdir()
    victim = tmp_path / "victim"
    victim.write_text("kept")
    victim.chmod(0o600)
    library = install.server / LIBRARY
    library.parent.mkdir()
    library.with_name(f".{library.name}.new").symlink_to(victim)
    library.symlink_to(tmp_path / "elsewhere")
    done = install()
    assert (done.returncode, victim.read_text(), victim.stat().st_mode & 0o777) == (0, "kept", 0o600), done.stderr
    assert not library.is_symlink() and library.read_text() == library.name
    assert not list((tmp_path / "elsewhere").iterdir())


def test_uninstall_leaves_what_is_not_ours(install):
    assert install().returncode == 0
    mine = install.server / SHARED / "mine.sql"
    mine.write_text("")
    done = install("--uninstall")
    assert done.returncode == 0 and "removed from" in done.stdout, done.stderr
    assert [path for path in install.server.rglob("*immuta*") if path.is_file()] == [] and mine.exists()
    mine.unlink()
    assert install("--uninstall").returncode == 0 and not mine.parent.exists()


def test_nothing_overwrites_a_library():
    """What pages show, and tools do, gets at a library by rename, or removes it first."""
    shown = "".join(block for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"))
                    for block in re.findall(r"^ *```\w*\n(.*?)^ *```$", page.read_text(), re.S | re.M))
    assert re.findall(r"^.*\bcp\b.*immuta_ext\.so.*$", shown, re.M) == []
    for text in (shown, (ROOT / "tools/install").read_text()):
        assert re.search(r"\brm -f .*immuta_ext\.so", text.split("cargo pgrx install")[0])
        assert text.count("cargo pgrx install") == 1
