"""What pages name is there: pages, tests, and what keeps a promise in the source; every invariant names its test."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


def file_of(name):
    """A file by the name that pages have for it: from here, or from one of these folders."""
    return next((path for path in (ROOT / name, ROOT / "src" / name, ROOT / "tests" / name) if path.exists()), None)


def test_every_invariant_names_what_keeps_it():
    page = (ROOT / "ARCHITECTURE.md").read_text().split("## Invariants")[1].split("\n## ")[0]
    invariants = re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |\Z)", page, re.M | re.S)
    assert [int(number) for number, _ in invariants] == list(range(1, len(invariants) + 1))
    assert len(invariants) > 15
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    for number, text in invariants:
        tests = re.findall(r"`([\w/]+\.py)`", text)
        makes = re.findall(r"`make (\w+)`", text)
        assert tests or makes, f"invariant {number} names no test"
        assert [test for test in tests if not file_of(test) or "def test_" not in file_of(test).read_text()] == [], number
        assert set(makes) <= targets, number


def test_pages_and_tests_that_pages_name_are_there():
    assert len(PAGES) > 12
    missing = []
    for page in PAGES:
        text = page.read_text()
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in link and not (page.parent / link).exists():
                missing.append((page.name, link))
        for file, test in re.findall(r"`(?:tests/)?(\w+/\w+\.py)(?:::(\w+))?`", text):
            path = ROOT / "tests" / file
            if not path.exists() or test and f"def {test}(" not in path.read_text():
                missing.append((page.name, file, test))
    assert missing == []


def test_sources_that_pages_name_are_there():
    """`file` (`name`, `name`) and (`file`, `name`): the file has what is called so."""
    missing, found = [], 0
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        for source, names in re.findall(r"`([\w/.-]+/[\w-]+\.(?:rs|sql|c|py|sh|txt))`((?:,?\s+\(?`\w+(?:\(\))?`)*)", page.read_text()):
            if source.startswith("/"):
                # Of a machine on which it is installed.
                continue
            file = file_of(source)
            if not file:
                missing.append((page.name, source))
                continue
            made = r"fn |struct |enum |trait |const |static |FUNCTION (?:immuta\w*\.)?|::|def " if file.suffix != ".txt" else ""
            for name in re.findall(r"`(\w+)", names):
                found += 1
                if not re.search(rf"(?:{made})(?:mut )?{name}\b", file.read_text()):
                    missing.append((page.name, source, name))
    assert missing == []
    assert found > 30


def test_users_are_they():
    texts = [*PAGES, *(ROOT / "src").rglob("*.rs"), *(ROOT / "sql").rglob("*.sql")]
    assert [(text.name, word) for text in texts
            for word in re.findall(r"\b(?:he|she|him|her|his|hers|himself|herself)\b", text.read_text(), re.I)] == []
