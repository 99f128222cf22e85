"""The SQL of CREATE EXTENSION: what its parts may use, how long they are, what they are called."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = re.findall(r'"\.\./(sql/[\w/]+\.sql)"', (ROOT / "src/sql.rs").read_text())
TEXTS = {file: (ROOT / file).read_text() for file in FILES}
FUNCTION = r"CREATE (?:FUNCTION|PROCEDURE) (immuta\w*\.\w+)\("


def test_every_file_is_named_in_the_order():
    there = {str(file.relative_to(ROOT)) for file in (ROOT / "sql").rglob("*.sql") if not file.name.startswith("immuta_ext--")}
    assert there == {*FILES, "sql/create-impersonation-user.sql"} and len(FILES) == len(set(FILES))


def test_calls_point_back():
    """A function calls what stands in its own file or in one before it."""
    place = {name: at for at, text in enumerate(TEXTS.values()) for name in re.findall(FUNCTION, text)}
    calls = 0
    for at, (file, text) in enumerate(TEXTS.items()):
        # Texts in quotes are words for people.
        text = re.sub(r"'[^'\n]*'", "", re.sub(r"--.*", "", text))
        for name in set(re.findall(r"\bimmuta\w*\.\w+(?=\()", text)) & place.keys():
            assert place[name] <= at, f"{file} calls {name} of {FILES[place[name]]}"
            calls += 1
    assert calls > 400


def test_files_and_functions_are_read_at_once():
    assert {file: text.count("\n") for file, text in TEXTS.items() if text.count("\n") > 500} == {}
    functions = re.findall(rf"^{FUNCTION}((?:(?!\nCREATE ).)*?)^(?:\$\$|END);", "".join(TEXTS.values()), re.M | re.S)
    assert len(functions) > 200
    assert {name: body.count("\n") for name, body in functions if body.count("\n") > 60} == {}


def test_every_table_is_dumped_or_made_anew():
    """A restore brings what people said; what follows from that is made anew (`immuta_internal.take_stock()`)."""
    anew = {"grant_made", "policy_member", "class_member", "class_source", "pending_sync", "connection_state"}
    text = "".join(TEXTS.values())
    tables = set(re.findall(r"^CREATE TABLE immuta\.(\w+)", text, re.M))
    dumped = set(re.findall(r"pg_extension_config_dump\(\s*'immuta\.(\w+)'", text))
    assert len(tables) > 20 and tables - dumped == anew
    counted = set(re.findall(r"^CREATE TABLE immuta\.(\w+) \((?:(?!^\);).)*?^    id (?:big)?serial\b", text, re.M | re.S)) - anew
    assert {f"{table}_id_seq" for table in counted} == dumped - tables


def test_c_symbols_are_the_names():
    symbols = re.findall(rf"{FUNCTION}[^$;]*?'MODULE_PATHNAME', '(\w+)'", "".join(TEXTS.values()))
    assert len(symbols) > 25
    assert [pair for pair in symbols if pair[1].removesuffix("_wrapper") != f"immuta_{pair[0].split('.')[1]}"] == []
