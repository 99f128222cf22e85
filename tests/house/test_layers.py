"""Arrows between the rooms of the source point down the table of ARCHITECTURE.md."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src"
ROOMS = re.findall(r"^\| `src/(\S+?)/?` \|", (ROOT / "ARCHITECTURE.md").read_text(), re.M)
# What the rooms are made of.
BINDERS = {"lib.rs", "sql.rs", "pg/mod.rs", "core/mod.rs"}


def room_of(path):
    """The room of a source file, or of a path of modules."""
    return next((room for room in ROOMS if path == room or path.startswith(f"{room}/")
                 or room.endswith(".rs") and re.match(rf"{room[:-3]}(/|$)", path)), None)


def modules(text):
    """What a text names of this crate, as paths of modules."""
    text = re.sub(r"//.*", "", text).split("#[cfg(test)]")[0]
    for path, braces in re.findall(r"\bcrate((?:::\w+)+)(?:::\{([^}]*)\})?", text):
        base = path.removeprefix("::").replace("::", "/")
        yield from (f"{base}/{name.split('::')[0]}" for name in re.findall(r"[\w:]+", braces)) if braces else (base,)


def test_every_source_has_a_room():
    sources = {str(file.relative_to(SRC)) for file in SRC.rglob("*.rs")}
    assert {s for s in sources if not room_of(s)} - BINDERS == {s for s in sources if s.startswith("tests/")}
    assert [room for room in ROOMS if not (SRC / room).exists()] == []


def test_arrows_point_down():
    found = 0
    for file in SRC.rglob("*.rs"):
        here = room_of(str(file.relative_to(SRC)))
        for module in modules(file.read_text()) if here else ():
            there = room_of(module)
            assert there, f"{file} names crate::{module}, which is in no room"
            assert ROOMS.index(here) <= ROOMS.index(there), f"{file}: {here} must not use {there}"
            found += here != there
    assert found > 300


def test_only_pg_is_unsafe():
    unsafe = [file for file in SRC.rglob("*.rs") if re.search(r"\bunsafe (\{|fn|impl)", re.sub(r"//.*", "", file.read_text()))]
    assert {file.relative_to(SRC).parts[0] for file in unsafe} == {"pg"}


def test_no_type_has_the_name_of_another_in_its_layer():
    seen = {}
    for file in sorted(SRC.rglob("*.rs")):
        layer = file.relative_to(SRC).parts[0]
        layer = layer if layer in ("core", "pg") else "above"
        for name in re.findall(r"^\s*(?:pub(?:\(\w+\))? )?(?:struct|enum|trait) (\w+)", file.read_text(), re.M):
            first = seen.setdefault((layer, name), file)
            assert first is file, f"{name} stands for two things: {first}, {file}"
    assert len(seen) > 200
