"""docs/reference.md names every setting and every function that somebody may call, and nothing else."""

import re

from harness.server import ROOT

REFERENCE = (ROOT / "docs/reference.md").read_text()
# Described on pages of their own.
PAGES = REFERENCE + "".join((ROOT / f"docs/{name}.md").read_text() for name in ("subscriptions", "masking", "audit", "operations"))


def test_settings(world):
    there = {name for (name,) in world.sql(
        "SELECT name FROM pg_settings WHERE name ~ '^(bodata|immuta)[.]' UNION VALUES ('bodata.impersonation_token')")}
    table = REFERENCE[REFERENCE.index("| setting |"):REFERENCE.index("## Errors")]
    named = {word.replace('"', "") for line in table.splitlines() if line.count("|") > 3
             for word in re.findall(r"`([^`]+)`", line.split("|")[1])}
    assert named - there == set()
    assert there - named == set()


def test_defaults(world):
    """What the page gives as default is the default of that setting."""
    checked = 0
    for line in REFERENCE.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        name = re.fullmatch(r"`(bodata\.\w+)`", cells[1]) if len(cells) > 3 else None
        default = re.fullmatch(r"`(.+)`|empty", cells[2]) if name else None
        if not default or name[1] == "bodata.impersonation_token":
            continue
        [(boot, context)] = world.sql("SELECT boot_val, context FROM pg_settings WHERE name = %s", (name[1],))
        setting = default[1] or ""
        if context != "postmaster":
            # In the units in which the view has them.
            world.sql("BEGIN; SELECT set_config(%s, %s, true)", (name[1], setting))
            setting = world.sql("SELECT setting FROM pg_settings WHERE name = %s", (name[1],))[0][0]
            world.sql("ROLLBACK")
        assert setting == boot, name[1]
        checked += 1
    assert checked > 35


def test_functions(world):
    """What administrators, service logins or everybody may execute stands on a page."""
    callable_ones = world.sql(
        "SELECT DISTINCT p.proname::text FROM pg_proc p WHERE p.pronamespace = 'immuta'::regnamespace "
        "AND EXISTS (SELECT FROM unnest(ARRAY['immuta_admin', "
        "'bodata_impersonate_user', 'plain']::name[]) r WHERE has_function_privilege(r, p.oid, 'EXECUTE'))")
    assert len(callable_ones) > 40
    assert [name for (name,) in callable_ones if not re.search(rf"\b{name}\(", PAGES)] == []


def test_state():
    """Whatever the library can change and keep stands on docs/state.md, with what resets it."""
    kept = set()
    for source in (ROOT / "src").rglob("*.rs"):
        text = source.read_text().split("#[cfg(test)]")[0]
        for name, kind in re.findall(r"static (?:mut )?([A-Z_0-9]+): ([^=;]+)", text):
            if re.match(r"GucSetting|\[GucSetting|&\[&dyn|OnceCell|pg_sys::\w+_hook_type|pg_sys::Pg_finfo_record|Option<unsafe", kind):
                continue
            # What it means differs between versions and never changes.
            if source.name == "compat.rs":
                continue
            kept.add((str(source.relative_to(ROOT / "src")), name))
    page = {(row.split("|")[1].strip(" `"), name) for row in (ROOT / "docs/state.md").read_text().splitlines()
            if row.startswith("| `") for name in re.findall(r"`(\w+)`", row.split("|")[2])}
    assert len(kept) > 50
    assert kept - page == set()
    assert page - kept == set()
