"""What packages say of themselves stands in one place each."""

import json
import re
import subprocess

from harness.server import ROOT, VERSIONS

CARGO = (ROOT / "Cargo.toml").read_text()
VERSION, DESCRIPTION, LICENSE = (re.search(rf'^{key} = "(.+)"', CARGO, re.M)[1] for key in ("version", "description", "license"))
META = json.loads((ROOT / "META.json").read_text())
TABLE = re.findall(r"^\| (\d+) \| (\d+\.\d+) \| (\d+\.\d+) \|$", (ROOT / "README.md").read_text(), re.M)


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
    assert re.fullmatch(r"[^<>]+ <[^<> ]+@[^<> ]+>", META["maintainer"])
    assert all((ROOT / META["provides"]["immuta_ext"][file]).exists() for file in ("file", "docfile"))


def test_names_on_pages():
    text = (ROOT / "README.md").read_text() + (ROOT / "docs/installing.md").read_text()
    named = set(re.findall(r"postgresql-15-immuta-ext_\S+?\.deb|immuta_ext-[\d.]+-pg1[58][-\w.]*", text))
    assert named == {f"postgresql-15-immuta-ext_{VERSION}-1_amd64.deb", f"postgresql-15-immuta-ext_{VERSION}-2_amd64.deb",
                     f"immuta_ext-{VERSION}-pg15", f"immuta_ext-{VERSION}-pg18", f"immuta_ext-{VERSION}-pg15-linux-x86_64.tar.gz"}


def test_scripts():
    for shell, script in (("bash", "tools/package"), ("sh", "packaging/install")):
        subprocess.run([shell, "-n", ROOT / script], check=True)


def test_nothing_overwrites_a_library():
    """What pages show, and tools do, gets at a library by rename, or removes it first."""
    shown = "".join(block for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"))
                    for block in re.findall(r"^ *```\w*\n(.*?)^ *```$", page.read_text(), re.S | re.M))
    assert re.findall(r"^.*\bcp\b.*immuta_ext\.so.*$", shown, re.M) == []
    for text in (shown, (ROOT / "tools/install").read_text()):
        assert re.search(r"\brm -f .*immuta_ext\.so", text.split("cargo pgrx install")[0])
        assert text.count("cargo pgrx install") == 1
