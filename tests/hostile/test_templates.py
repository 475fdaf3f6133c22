"""Hostile chat templates: refused in little time and memory, saying which limit."""

from __future__ import annotations

import re
import sys

import pytest

from nybble import tokenizer
from nybble.errors import TemplateError
from nybble.tokenizer.template import ChatTemplate
from tests.tokenizer import vocabulary

from .templates import BOMBS


def small():
    return tokenizer.load(vocabulary.metadata([*vocabulary.BYTES, "<|end|>"], [], {"<|end|>": 3}))


def test_every_bomb_is_refused_and_says_why(warden):
    wrong = []
    for name, (source, words) in BOMBS.items():
        outcome = warden.does("template", source, limit=None)
        if outcome.get("error") != "TemplateError" or not re.search(words, outcome["text"]):
            wrong.append(f"{name}: {outcome}"[:300])
        elif len(outcome["text"]) > 400 or outcome["seconds"] > 15 or outcome["peak"] > 50 << 20:
            wrong.append(f"{name}: {outcome}"[:300])
    assert not wrong, "\n".join(wrong)


def test_as_much_as_may_be_written_is_encoded_in_little_memory(warden):
    source = "{% for i in range(26) %}{{ '漢 ' * 5000 }}{% endfor %}"
    outcome = warden.does("template", source)
    assert outcome["error"] is None
    assert int(outcome["text"].split()[0]) > 500_000


def test_nesting_has_a_limit_of_its_own():
    """A program may have raised Python's, behind which the process ends."""
    limit = sys.getrecursionlimit()
    sources = (
        "{% for i in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f() %}{{ caller() }}{% call f() %}{% endcall %}{% endmacro %}"
        "{% call f() %}{% endcall %}",
    )
    try:
        sys.setrecursionlimit(100_000)
        for source in sources:
            with pytest.raises(TemplateError, match="it is nested too deeply"):
                ChatTemplate(source, small()).encode([{"role": "user", "content": "Hello"}])
    finally:
        sys.setrecursionlimit(limit)
