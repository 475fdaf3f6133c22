"""The fuzz target of chat templates: one of any construction renders within the time, memory and
output that are promised, or is refused with nybble's own error.

An input is a list of choices, a byte each, that a grammar makes a template of: loops, macros,
namespaces, filters, tests, attributes, slices, format strings, and numbers and texts of every size.
What a rendering costs is measured, not what was charged for it: that is what may be wrong.
tests/fuzz/atheris_target.py drives it.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from nybble import tokenizer
from nybble.errors import TemplateError
from nybble.tokenizer import sandbox
from nybble.tokenizer.template import MAX_ERROR, ChatTemplate
from tests.fuzz.builder import Choices

sys.path.append(str(Path(__file__).parents[1] / "tokenizer"))

import vocabulary  # noqa: E402

SECONDS = 10  # of the CPU that one may take; "a second or two", ten times as slow under a fuzzer
MOST_BYTES = 64 << 20  # that one may add: 16 MB, what compiling takes, and what it wrote, twice
MESSAGES = [
    {"role": "user", "content": "Why? <|end|> {{ x }}\n 漢字 & <b>"},
    {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"a": [1, 2]}}]},
]
# What every template has: an expression is mostly of the type that its place asks for, so that many
# templates come as far as their end.
PREAMBLE = """\
{% set n = namespace(s="ab", l=[1], d={"a": [1]}, x=1) %}\
{% set s, l, d, x = "ab", [1], {"a": 1}, 2 %}\
{% macro f(s="ab", l=[1]) %}{{ s }}{{ caller() if caller else l }}{% endmacro %}"""
NUMBERS = "0 1 -1 2 3 7 16 60 99 100 1000 9999 65536 250000 4000000 99999999999 0.5 1e300".split()
NUMBERS += ["2 ** 70", "none"]
TEXTS = ["", " ", "\\n", "{" * 9]
TEXTS += "a ab 漢 {} {0} {s} {0.x} {:>9999999} {!r} %s %9999999d".split()
TEXTS += "role content a.b a,b __class__ <|end|> & %Y".split()
FIELDS = "s l d x a role content items __class__ index previtem".split()
TESTS = "defined string mapping iterable number none lower odd callable divisibleby(3)".split()
TESTS += "sameas(x) eq(l) in(l) gt(s) filter test undefined".split()
COMPARED = ["==", "!=", "<", ">=", "in", "not in", "and", "or"]
SIGNS = ["+", "-", "*", "/", "//", "**", "%"]
TO_TEXT = "e escape safe string tojson title upper capitalize trim lower indent join".split()
TO_TEXT += ["indent(16, true)", "replace('a', n.s)", "trim(n.s)"]
TO_LIST = "list sort unique|list reverse map('string') select reject items groupby('a')".split()
TO_LIST += "dictsort map(attribute='a.b') map('upper')".split()
TO_NUMBER = "length count int float abs round sum first last min max".split()
# What bombs are made of.
DOUBLED = """
l = [n.l, n.l]
l = (n.l, n.l)
l = n.l + n.l
l = [n.l] * 99
l = n.l | map('list') | list
s = n.s ~ n.s
s = n.s * 9
s = f(n.s)
s = [n.s, n.s] | join(n.s)
s = n.s | replace('a', n.s)
s = '{0}{0}'.format(n.s)
d = dict(a=n.d, b=n.d)
d = {'a': n.d, 'b': n.l}
d = namespace(a=n.d, b=n.l)
""".strip().splitlines()
METHODS = sorted({name for names in sandbox.METHODS.values() for name in names} | {"ljust"})


class Grammar:
    """Makes a template, never deeper than a few levels, and not much longer than one may be."""

    def __init__(self, choices: Choices):
        self._choices = choices
        self._left = 300  # parts

    def template(self) -> str:
        return PREAMBLE + "".join(self._statement(0) for _ in range(1 + self._choices.below(6)))

    # -- statements

    def _statement(self, depth: int) -> str:
        return self._one_of(
            lambda: f"{{{{ {self._value(depth)} }}}}",
            lambda: f"{{% set {self._target()} %}}",
            self._doubling,
            self._doubling,
            lambda: self._for(depth + 1),
            lambda: self._for(depth + 1),
            lambda: f"{{% if {self._value(depth)} %}}{self._body(depth)}{{% else %}}x{{% endif %}}",
            lambda: f"{{% macro f(s='ab') %}}{self._body(depth)}{{% endmacro %}}{{{{ f() }}}}",
            lambda: f"{{% set s %}}{self._body(depth)}{{% endset %}}",
            lambda: f"{{% filter {self._of(TO_TEXT)} %}}{self._body(depth)}{{% endfilter %}}",
            lambda: f"{{% call f({self._text(depth)}) %}}{self._body(depth)}{{% endcall %}}",
            lambda: self._of(
                ["{{ loop(l) }}", "{{ loop.changed(l) }}", "x\n", "{% break %}", "{{ m.x }}"]
            ),
        )

    def _target(self) -> str:
        where = self._of(["", "n."])
        return self._one_of(
            lambda: f"{where}s = {self._text(2)}",
            lambda: f"{where}l = {self._list(2)}",
            lambda: f"{where}d = {self._dict(2)}",
            lambda: f"{where}x = {self._number(2)}",
        )

    def _doubling(self) -> str:
        doubled = self._of(DOUBLED)
        many = self._of(["", "{% for i in range(60) %}", "{% for i in range(250000) %}"])
        return f"{many}{{% set n.{doubled} %}}" + ("{% endfor %}" if many else "")

    def _for(self, depth: int) -> str:
        over = f"range({self._of(NUMBERS)})" if self._choices.below(2) else self._list(depth)
        head = f"for {self._of(['s', 'l', 'x', 'd', 'i', 'a, b'])} in {over}"
        head += f" if {self._value(depth)}" if self._choices.below(4) == 3 else ""
        head += " recursive" if self._choices.below(4) == 3 else ""
        return f"{{% {head} %}}{self._body(depth)}{{% endfor %}}"

    def _body(self, depth: int) -> str:
        if depth > 4 or self._is_used_up():
            return "{{ n.s }}"
        return "".join(self._statement(depth + 1) for _ in range(1 + self._choices.below(3)))

    # -- expressions

    def _value(self, depth: int) -> str:
        kinds = [self._text, self._list, self._dict, self._number]
        return str(self._of(kinds)(depth + 1))

    def _text(self, depth: int) -> str:
        d = depth + 1
        if d > 6 or self._is_used_up():
            return self._of(["s", "n.s", f'"{self._of(TEXTS)}"', "messages[0].content"])
        return self._one_of(
            lambda: f'"{self._of(TEXTS)}"',
            lambda: self._of(["s", "n.s", "messages[0].content"]),
            lambda: f"({self._text(d)} {self._of(['+', '~', '%'])} {self._text(d)})",
            lambda: f"({self._value(d)} ~ {self._value(d)})",
            lambda: f"({self._text(d)} * {self._of(NUMBERS)})",
            lambda: f"({self._value(d)} | {self._of(TO_TEXT)})",
            lambda: f"({self._text(d)} | replace({self._text(d)}, {self._text(d)}))",
            lambda: f"({self._list(d)} | join({self._text(d)}))",
            lambda: f"({self._text(d)} | indent({self._of(NUMBERS[:8])}))",
            lambda: f"({self._value(d)} | tojson(indent={self._of(NUMBERS[:8])}))",
            lambda: f"{self._text(d)}.{self._of(METHODS)}({self._arguments(d)})",
            lambda: f"{self._text(d)}.replace({self._text(d)}, {self._text(d)})",
            lambda: f"{self._text(d)}.format({self._arguments(d)}, s={self._value(d)})",
            lambda: f"{self._text(d)}.join({self._list(d)})",
            lambda: f"{self._text(d)}[{self._slice()}]",
            lambda: f"f({self._text(d)})",
            lambda: f"({self._text(d)} if {self._value(d)} else {self._text(d)})",
        )

    def _list(self, depth: int) -> str:
        d = depth + 1
        if d > 6 or self._is_used_up():
            return self._of(["l", "n.l", "messages"])
        return self._one_of(
            lambda: self._of(["l", "n.l", "messages", "d.items()", "n.d.values()", "tools"]),
            lambda: f"[{self._value(d)}, {self._value(d)}]",
            lambda: f"({self._value(d)}, {self._value(d)})",
            lambda: f"({self._list(d)} + {self._list(d)})",
            lambda: f"({self._list(d)} * {self._of(NUMBERS)})",
            lambda: f"range({self._of(NUMBERS)})",
            lambda: f"({self._value(d)} | {self._of(TO_LIST)})",
            lambda: f"{self._text(d)}.{self._of(['split', 'rsplit'])}({self._text(d)})",
            lambda: f"{self._text(d)}.splitlines()",
            lambda: f"{self._list(d)}[{self._slice()}]",
        )

    def _dict(self, depth: int) -> str:
        d = depth + 1
        if d > 6 or self._is_used_up():
            return "d"
        return self._one_of(
            lambda: self._of(["d", "n.d", "messages[1]", "n", "loop", "f"]),
            lambda: f"{{{self._value(d)}: {self._value(d)}}}",
            lambda: f"dict({self._dict(d)}, a={self._value(d)})",
            lambda: f"namespace(a={self._value(d)}, b={self._value(d)})",
            lambda: f"{self._dict(d)}.{self._of(FIELDS)}",
            lambda: f"{self._dict(d)}[{self._value(d)}]",
        )

    def _number(self, depth: int) -> str:
        d = depth + 1
        if d > 6 or self._is_used_up():
            return self._of(["x", "1"])
        return self._one_of(
            lambda: self._of(NUMBERS),
            lambda: self._of(["x", "n.x", "l | length", "loop.index"]),
            lambda: f"({self._number(d)} {self._of(SIGNS)} {self._number(d)})",
            lambda: f"({self._value(d)} | {self._of(TO_NUMBER)})",
            lambda: f"({self._number(d)} | round({self._of(NUMBERS)}))",
            lambda: f"({self._value(d)} {self._of(COMPARED)} {self._value(d)})",
            lambda: f"({self._value(d)} is {self._of(TESTS)})",
            lambda: f"(not {self._value(d)})",
            lambda: f"{self._text(d)}.{self._of(['count', 'find', 'rfind'])}({self._text(d)})",
            lambda: f"{self._list(d)}.{self._of(['count', 'index'])}({self._value(d)})",
        )

    def _arguments(self, depth: int) -> str:
        return ", ".join(self._value(depth) for _ in range(1 + self._choices.below(2)))

    def _slice(self) -> str:
        some = ["", "", *NUMBERS]
        return f"{self._of(some)}:{self._of(some)}:{self._of(some)}"

    def _of(self, values: list[Any]) -> Any:
        return self._choices.of(values)

    def _one_of(self, *kinds: Callable[[], str]) -> str:
        return str(self._choices.of([*kinds])())

    def _is_used_up(self) -> bool:
        self._left -= 1
        return self._left < 0


@cache
def tokens() -> tokenizer.Tokenizer:
    named = {"<|end|>": vocabulary.CONTROL}
    return tokenizer.load(vocabulary.metadata([*vocabulary.BYTES, *named], [], named))


def peak() -> int:
    """The most bytes that the process has held since its count was cleared."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))


@contextlib.contextmanager
def memory_of_its_own() -> Iterator[Callable[[], int]]:
    """Gives a function that tells how much memory has been taken in between, at most."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = peak()
    yield lambda: peak() - before


def try_one(data: bytes) -> bool:
    """Renders what an input says; whether that is taken. Any exception but the promised one is a
    finding, and so is what takes long, or much memory, or says much."""
    source = Grammar(Choices(data)).template()
    refused = None
    with memory_of_its_own() as taken:
        started = time.process_time()
        try:
            text = ChatTemplate(source, tokens()).render(MESSAGES, tools=[{"a": 1}])
        except TemplateError as error:
            refused = str(error)
        seconds, nbytes = time.process_time() - started, taken()
    assert seconds < SECONDS, f"{seconds:.1f} s for {source!r}"
    assert nbytes < MOST_BYTES, f"{nbytes >> 20} MB for {source!r}"
    if refused is None:
        assert len(text) < 2 * sandbox.MAX_OUTPUT, f"{len(text)} characters of {source!r}"
        return True
    assert 0 < len(refused) < MAX_ERROR + 200, f"{refused[:999]!r} of {source!r}"
    assert "MemoryError" not in refused, refused
    assert "RecursionError" not in refused, refused
    return False
