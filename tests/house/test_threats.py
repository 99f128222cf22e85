"""docs/threats.md and the tests name each other."""

import ast
import re

from harness.server import ROOT


def numbers(text):
    return {n for first, last in re.findall(r"(\d+)(?:-(\d+))?", text) for n in range(int(first), int(last or first) + 1)}


def test_threats():
    rows = [line.split("|") for line in (ROOT / "docs/threats.md").read_text().splitlines() if re.match(r"\| \d", line)]
    assert [int(row[1]) for row in rows] == list(range(1, len(rows) + 1)) and len(rows) > 50
    tried = {(int(row[1]), test) for row in rows for test in re.findall(r"`(\w+/\w+\.py)`", row[3])}
    assert {row for row, _ in tried} == set(range(1, len(rows) + 1)), "each has a test"
    named = set()
    for file in (ROOT / "tests").glob("*/test_*.py"):
        threats = re.search(r"^Threats: ([\d, -]+) \(", ast.get_docstring(ast.parse(file.read_text())) or "", re.M)
        named |= {(row, f"{file.parent.name}/{file.name}") for row in numbers(threats[1])} if threats else set()
    assert tried == named
