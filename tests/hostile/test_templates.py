"""Hostile chat templates: refused in little time and memory, saying which limit."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time

import pytest

from nybble import tokenizer
from nybble.errors import TemplateError
from nybble.tokenizer import sandbox
from nybble.tokenizer.template import ChatTemplate
from tests.tokenizer import vocabulary

from .templates import BOMBS
from .warden import LIMIT


def small():
    return tokenizer.load(vocabulary.metadata([*vocabulary.BYTES, "<|end|>"], [], {"<|end|>": 3}))


def test_every_bomb_is_refused_and_says_why(warden):
    wrong = []
    for name, (source, words) in BOMBS.items():
        outcome = warden.does("template", source, limit=None)
        if outcome.get("error") != "TemplateError" or not re.search(words, outcome["text"]):
            wrong.append(f"{name}: {outcome}"[:300])
        elif len(outcome["text"]) > 400 or outcome["seconds"] > 15 or outcome["peak"] > LIMIT:
            wrong.append(f"{name}: {outcome}"[:300])
    assert not wrong, "\n".join(wrong)


def test_as_much_as_may_be_written_is_encoded_in_little_memory(warden):
    source = "{% for i in range(26) %}{{ '漢 ' * 5000 }}{% endfor %}"
    outcome = warden.does("template", source)
    assert outcome["error"] is None
    assert int(outcome["text"].split()[0]) > 500_000


# As deep as may be, in each way.
DEEP = [
    f"{{{{ {begin * n}1{end * n} }}}}"
    for begin, end, n in (
        *(("(", ")", 24), ("[", "]", 24), ("range(", ")", 24), ("not ", "", 90), ("- ", "", 90)),
        *(("1 if a else ", "", 90), ("1 + ", "", 90), ("", "|e", 90), ("", "[0]", 90)),
    )
] + [
    "{% for i in [1] %}" * 20 + "{% endfor %}" * 20,
    "{% if 1 %}" * 24 + "{% endif %}" * 24,
    "{% set x %}" * 24 + "{% endset %}" * 24,
    "{% macro f() %}{{ caller() }}{% endmacro %}" + "{% call f() %}" * 24 + "{% endcall %}" * 24,
]


def in_a_small_thread():
    """In a program that has raised Python's limit, on a stack of 1 MB."""
    sys.setrecursionlimit(1_000_000)
    threading.stack_size(1 << 20)
    tokens = small()

    def render(source):
        started = time.monotonic()
        try:
            ChatTemplate(source, tokens).encode([{"role": "user", "content": "Hello"}])
        except TemplateError as error:
            said = str(error)
        else:
            said = "rendered"
        if time.monotonic() - started > 10:
            said += ", and took long"
        outcomes.append(said)

    for source in [*DEEP, *(source for source, _ in BOMBS.values())]:
        outcomes = []
        thread = threading.Thread(target=render, args=(source,))
        thread.start()
        thread.join()
        print(*outcomes, sep="\n", flush=True)


def test_nesting_ends_before_a_small_stack_does():
    script = "from tests.hostile.test_templates import in_a_small_thread as run; run()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    assert len(said) == len(DEEP) + len(BOMBS)
    for text, (_, words) in zip(said[len(DEEP) :], BOMBS.values(), strict=True):
        assert re.search(words, text), (words, text)
    assert "took long" not in done.stdout
    assert said[: len(DEEP)].count("rendered") >= 8


@pytest.mark.parametrize(
    "source",
    [
        "{% if a %}{{ 1 }}" * 25 + "{% endif %}" * 25,
        "{{ '" + "not " * 300 + "' }}{{ x" + " and not x" * 201 + " }}",
        "{{ " + "{1: " * 25 + "1" + "}" * 25 + " }}",
        "{% set a = 1 %}" * 30 + "{% set x | replace('a', count=1) %}" * 25 + "{% endset %}" * 25,
    ],
)
def test_nesting_is_seen_before_it_is_read(source, monkeypatch):
    monkeypatch.setattr(sandbox, "check_size", lambda tree: pytest.fail("it was read"))
    with pytest.raises(TemplateError, match="it is nested too deeply"):
        ChatTemplate(source, small()).encode([])


def test_what_is_not_nested_may_be_often():
    source = (
        "{% if a %}{% endif %}" * 60
        + "{% set a = 1 %}" * 60
        + "{% set b %}not else{% endset %}" * 60
        + "{{ -(1) }}" * 250
    )
    assert ChatTemplate(source, small()).encode([])


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
