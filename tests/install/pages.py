"""What the pages tell people to type, section by section."""

import re
import textwrap

from harness.server import ROOT

VERSION = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]


def blocks(page, title=None, language="sh"):
    """The blocks of one language in a section, or in the page."""
    text = (ROOT / page).read_text()
    if title:
        [text] = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    fenced = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.S | re.M)
    found = [textwrap.dedent(block) for its, block in fenced if its == language]
    assert found, f"{page}: no block of {language or 'no language'} in {title}"
    return found


def for_major(text, major):
    """"Put your major version in place of 15"."""
    return re.sub(r"(?<![\d.])15(?![\d.])", major, text)
