"""The supported majors of PostgreSQL stand in one place, tools/versions.sh, and the differences between them in one, too."""

import re

from harness.server import BUILD, ROOT, TRIED, VERSIONS

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


def test_columns_of_catalogs():
    """Of those that pgrx does not name, the numbers are written by hand. PostgreSQL may move them in any major, and no compiler sees it."""
    by_hand = []
    for file in (ROOT / "src/pg").rglob("*.rs"):
        for name, number in re.findall(r"const ANUM_(PG_\w+): \w+ =\s+([^;]+);", file.read_text()):
            by_hand.append((name.lower(), re.findall(r'"pg(\d+)"', number), re.findall(r"\b\d+\b", re.sub(r'".*?"', "", number))))
    assert len(by_hand) > 5
    headers = {version: BUILD / "pg" / version / "include/server/catalog" for version in (*VERSIONS, TRIED)}
    headers = {version: folder for version, folder in headers.items() if folder.exists()}
    assert headers
    for version, folder in headers.items():
        said = "".join(file.read_text() for file in folder.glob("*_d.h"))
        for name, older, numbers in by_hand:
            number = numbers[0] if version in older else numbers[-1]
            assert re.search(rf"^#define Anum_{name} (\d+)$", said, re.M)[1] == number, f"{name}, PostgreSQL {version}"
