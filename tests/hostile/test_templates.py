"""Hostile chat templates: refused in little time and memory, saying which limit."""

from __future__ import annotations

import re

from nybble import tokenizer
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
