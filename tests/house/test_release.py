"""The version stands in one place; what was released is never changed, and leads to this version by one way."""

import hashlib
import os
import re
import shutil
import subprocess
import sys

import pytest
from harness.releases import CURRENT, PRELOADED, RELEASED, ROOT, releases, script, sums

UPDATES = {file.name: file for file in (ROOT / "sql").glob("immuta_ext--*--*.sql")}
FREEZE = "tools/freeze writes it"


def file_of(name):
    return UPDATES.get(name, RELEASED / name)


def test_the_version_stands_in_one_place():
    assert re.search(r'name = "immuta_ext"\nversion = "(.+)"', (ROOT / "Cargo.lock").read_text())[1] == CURRENT
    assert "default_version = '@CARGO_VERSION@'" in (ROOT / "immuta_ext.control").read_text()
    for file in (ROOT / "META.json",):
        if file.exists():
            assert set(re.findall(r'"version": "(\d[\d.]+)"', file.read_text())) - {"1.0.0"} == {CURRENT}
    assert [str(file) for file in (ROOT / "src").rglob("*.rs") if re.search(rf'"{re.escape(CURRENT)}(?:\\0)?"', file.read_text())
            and file.name != "version.rs"] == []
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        of_ours = re.findall(r"immuta[_-]ext(?:--|-|_| )v?(\d+\.\d+\.\d+)", page.read_text())
        assert set(of_ours) <= {CURRENT}, page.name


def test_the_changelog_speaks_of_this_version():
    """What was never released can neither have changed nor been mended."""
    text = (ROOT / "CHANGELOG.md").read_text()
    heads = re.findall(r"^## (\S+)", text, re.M)
    assert heads[0] in (CURRENT, "Unreleased"), heads
    assert [head for head in heads if head not in (CURRENT, "Unreleased")] == [v for v in reversed(releases()) if v != CURRENT]
    if not set(releases()) - {CURRENT}:
        assert re.findall(r"^### (?!Added).*", text, re.M) == []


def test_released_scripts_are_as_they_were():
    listed = sums()
    there = {file.name for file in RELEASED.glob("*.sql")}
    assert there <= listed.keys()
    for name, checksum in listed.items():
        assert hashlib.sha256(file_of(name).read_bytes()).hexdigest() == checksum, f"{name} was released: change a later version"
    # The list could be changed along with them; what was tagged cannot.
    tags = subprocess.run(["git", "tag", "--list", "v*"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    for tag in tags:
        shown = subprocess.run(["git", "show", f"{tag}:sql/released/SHA256SUMS"], cwd=ROOT, capture_output=True, text=True)
        assert set(shown.stdout.splitlines()) <= {f"{checksum}  {name}" for name, checksum in listed.items()}, tag


def test_a_released_version_is_what_the_tree_makes():
    if CURRENT in releases():
        assert (RELEASED / f"immuta_ext--{CURRENT}.sql").read_text() == script(), (
            f"{CURRENT} is frozen: raise the version in Cargo.toml and write sql/immuta_ext--{CURRENT}--….sql; "
            f"as long as there is no tag v{CURRENT}, {FREEZE} anew")


def test_updates_are_one_chain():
    chain = releases() + ([] if CURRENT in releases() else [CURRENT])
    assert chain[-1] == CURRENT, "a version is only ever raised"
    assert set(UPDATES) == {f"immuta_ext--{one}--{next_one}.sql" for one, next_one in zip(chain, chain[1:])}
    for name in UPDATES.keys() - sums().keys():
        assert UPDATES[name].read_text().startswith(PRELOADED), f"{name} begins with {PRELOADED}"
        assert UPDATES[name].read_text().endswith((ROOT / "sql/closed.sql").read_text()), f"{name} ends with sql/closed.sql"
    assert {name for name in UPDATES if not name.endswith(f"--{CURRENT}.sql")} <= sums().keys()


def test_these_tests_can_fail(tmp_path, monkeypatch):
    """What they would say of a tree in which something was changed."""
    module = sys.modules[__name__]
    name = f"immuta_ext--{CURRENT}.sql"
    frozen = script()
    checksum = hashlib.sha256(frozen.encode()).hexdigest()
    monkeypatch.setattr(module, "RELEASED", tmp_path)
    monkeypatch.setattr(module, "UPDATES", {})
    for where in (module, sys.modules["harness.releases"]):
        monkeypatch.setattr(where, "sums", lambda: {name: checksum})
    (tmp_path / name).write_text(frozen)
    test_a_released_version_is_what_the_tree_makes()
    for edit, test in ((lambda: (tmp_path / name).write_text(frozen + "-- edited\n"), test_released_scripts_are_as_they_were),
                       (lambda: monkeypatch.setattr(module, "script", lambda: frozen + "SELECT 1;\n"), test_a_released_version_is_what_the_tree_makes),
                       (lambda: monkeypatch.setattr(module, "CURRENT", "0.0.1"), test_updates_are_one_chain),
                       (lambda: monkeypatch.setattr(module, "CURRENT", "99.0.0"), test_updates_are_one_chain)):
        (tmp_path / name).write_text(frozen)
        edit()
        with pytest.raises(AssertionError):
            test()
    monkeypatch.setattr(module, "CURRENT", "99.0.0")
    update = tmp_path / f"{name.removesuffix('.sql')}--99.0.0.sql"
    monkeypatch.setattr(module, "UPDATES", {update.name: update})
    closed = (ROOT / "sql/closed.sql").read_text()
    update.write_text(PRELOADED + closed)
    test_updates_are_one_chain()
    for forgetful in (PRELOADED, closed):
        update.write_text(forgetful)
        with pytest.raises(AssertionError):
            test_updates_are_one_chain()


def test_freeze_leaves_what_was_released(tmp_path):
    """It writes the version anew as often as it likes, and no other's checksum."""
    for part in ("tools/freeze", "tools/versions.sh", "Cargo.toml"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / part, tmp_path / part)
    for folder in ("tests/harness", "sql", "src"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "released", "immuta_ext--*"))
    released, update = tmp_path / "sql/released", f"immuta_ext--0.0.1--{CURRENT}.sql"
    old, new = released / "immuta_ext--0.0.1.sql", released / f"immuta_ext--{CURRENT}.sql"
    released.mkdir()
    old.write_text("SELECT 1;\n")
    (tmp_path / "sql" / update).write_text("SELECT 2;\n")

    def line(file):
        return f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"

    def freeze():
        return subprocess.run([sys.executable, tmp_path / "tools/freeze"], capture_output=True, text=True)
    listed = released / "SHA256SUMS"
    listed.write_text(line(old) + f"{'0' * 64}  {new.name}\n")
    assert freeze().returncode == 0
    frozen = listed.read_text()
    assert frozen == line(tmp_path / "sql" / update) + line(old) + line(new) and new.read_text() == script()
    old.write_text("SELECT 3;\n")
    refused = freeze()
    assert refused.returncode == 1 and old.name in refused.stderr and listed.read_text() == frozen


def test_reproduced_packages_bear_the_date_of_their_commit(tmp_path):
    """Not that of the newest one."""
    def git(*words, date="1"):
        day = f"2001-01-0{date}T00:00:00Z"
        who = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
               for what, value in (("NAME", "x"), ("EMAIL", "x@example.com"), ("DATE", day))}
        return subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True, text=True, env={**os.environ, **who}).stdout
    (tmp_path / "tools").mkdir()
    for tool in ("reproduce", "env.sh", "versions.sh"):
        shutil.copy(ROOT / "tools" / tool, tmp_path / "tools" / tool)
    # What it makes of the sources is their date.
    (tmp_path / "tools/package").write_text('#!/bin/sh\nmkdir -p "$IMMUTA_BUILD/dist"\necho "$SOURCE_DATE_EPOCH" >"$IMMUTA_BUILD/dist/file"\n')
    (tmp_path / "tools/package").chmod(0o755)
    for folder in ("build/pg/15", "build/tools", "made"):
        (tmp_path / folder).mkdir(parents=True)
    git("init", "-q")
    git("add", "tools")
    git("commit", "-qm", "one")
    git("commit", "-qm", "two", "--allow-empty", date="2")
    (tmp_path / "made/file").write_text(git("log", "-1", "--format=%ct", "HEAD~1"))
    for commit, code in (("HEAD~1", 0), ("HEAD", 1)):
        done = subprocess.run([tmp_path / "tools/reproduce", "15", commit, tmp_path / "made"], capture_output=True, text=True,
                              env={**os.environ, "IMMUTA_BUILD": str(tmp_path / "build")})
        assert done.returncode == code, done.stdout + done.stderr


def test_licences_of_what_is_linked_go_with_ours(tmp_path):
    subprocess.run([ROOT / "tools" / "licences", tmp_path / "file"], check=True)
    text = (tmp_path / "file").read_text()
    crates = re.findall(r"^([\w-]+ \d+\.\d+\.\d+\S*): ", text, re.M)
    assert len(crates) > 60 and text.count("Permission is hereby granted") > 20
    assert set(crates) == set(re.findall(r"^([\w-]+ \d+\.\d+\.\d+\S*) \(.+\)$", text, re.M)), "each with a text"


def test_the_page_has_the_steps_of_the_program():
    steps = re.search(r"^steps=\((.+)\)$", (ROOT / "tools" / "release").read_text(), re.M)[1].split()
    assert re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/release.md").read_text(), re.M) == steps
