"""The frozen character classes: made by the tool, of the right version, right where it shows."""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT / "runtime/engine/nyb_unicode_data.c"
sys.path.append(str(ROOT / "tools"))
tool = importlib.import_module("make_unicode_tables")

SHA256 = "19c859de7478a3bdf56e3ec8dbad0c1b96db02fcb9a0b00ad39093589bf33830"


@pytest.fixture(scope="module")
def classes():
    """The class bits of every code point, read from the C file."""
    first, second = re.findall(r"\] = \{\n(.*?)\n\};", DATA.read_text(), re.DOTALL)
    blocks = [[int(n) for n in block.split(",")] for block in re.findall(r"\{([^{}]*)\}", second)]
    return [bits for number in first.split(",") for bits in blocks[int(number)]]


def test_the_tables_are_what_the_tool_makes():
    try:
        made = tool.make(tool.categories_of_module())
    except tool.NoDataError:  # this Python is of another version: the digest stands for it
        assert hashlib.sha256(DATA.read_bytes()).hexdigest() == SHA256
    else:
        assert made == DATA.read_text()
        assert hashlib.sha256(made.encode()).hexdigest() == SHA256


def test_every_code_point_has_a_class(classes):
    assert len(classes) == sys.maxunicode + 1


def test_classes_agree_with_this_pythons_unicode(classes):
    """Categories of assigned characters hardly ever change between versions of Unicode."""
    changed = [
        chr(code)
        for code, bits in enumerate(classes)
        if unicodedata.category(chr(code)) != "Cn"
        and bits not in (0, tool.class_bits(code, unicodedata.category(chr(code))))
    ]
    assert len(changed) <= 3
    unassigned = sum(1 for code, bits in enumerate(classes) if bits and not known(code))
    assert unassigned < 6000  # 15.1 against 14.0, the oldest that Python 3.11 has: 5,116


def known(code):
    return unicodedata.category(chr(code)) != "Cn"


@pytest.mark.parametrize(
    ("character", "bits"),
    [
        ("a", tool.LETTER | tool.LOWER),
        ("Z", tool.LETTER | tool.UPPER),
        ("ǅ", tool.LETTER | tool.UPPER),
        ("漢", tool.LETTER),
        ("ʰ", tool.LETTER),
        ("½", tool.NUMBER),
        ("²", tool.NUMBER),
        ("Ⅷ", tool.NUMBER),
        ("٣", tool.NUMBER),
        (" ", tool.SPACE),
        ("\u0085", tool.SPACE),
        ("\u3000", tool.SPACE),
        ("\u200b", 0),
        ("\x1c", 0),  # Python's isspace says otherwise
        ("\u0301", tool.MARK),
        ("!", tool.PUNCTUATION),
        ("$", tool.SYMBOL),
        ("🚀", tool.SYMBOL),
        ("\ue000", 0),
        ("\U0002ebf0", tool.LETTER),  # new in 15.1
        ("\u2ffc", tool.SYMBOL),  # new in 15.1
        ("\u1c89", 0),  # new in 16.0
    ],
)
def test_spot_facts(classes, character, bits):
    assert classes[ord(character)] == bits
