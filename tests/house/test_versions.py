"""The supported majors of PostgreSQL stand in one place, tools/versions.sh, and the differences between them in one, too."""

import re

from harness.server import ROOT, TRIED, VERSIONS

CARGO = (ROOT / "Cargo.toml").read_text()


def test_features():
    assert re.findall(r"^pg(\d+) = ", CARGO, re.M) == list(VERSIONS)


def test_pages():
    """Whatever speaks of the oldest and the newest in one breath means these."""
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        for first, last in re.findall(r"PostgreSQL (\d\d)(?:-|–| to )(\d\d)\b", page.read_text()):
            assert (first, last) == (VERSIONS[0], VERSIONS[-1]), page.name
    assert f"PostgreSQL {VERSIONS[0]} to {VERSIONS[-1]}" in (ROOT / "README.md").read_text()


def test_differences():
    """In one file, and written so that the next major, which is tried, takes the way of the newest."""
    assert int(TRIED) == int(VERSIONS[-1]) + 1
    named = {file.relative_to(ROOT / "src"): set(re.findall(r'feature = "pg(\d+)"', file.read_text()))
             for file in (ROOT / "src").rglob("*.rs")}
    assert [str(file) for file, versions in named.items() if versions] == ["pg/sys/compat.rs"]
    assert set().union(*named.values()) <= set(VERSIONS)
