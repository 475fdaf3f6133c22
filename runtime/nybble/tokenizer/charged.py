"""jinja2's filters and Python's methods of strings as a template has them: at a price, and within
bounds where a few characters could ask for a great deal.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2.exceptions import SecurityError
from markupsafe import Markup

from nybble.tokenizer.metering import (
    BYTES_A_STEP,
    OBJECT,
    REFERENCE,
    BudgetExceeded,
    Meter,
    escaped_width,
    length_of,
    size_of,
    width_of,
)

MAX_INDENT = 16
MAX_DIGITS = 400  # of a number in a string, and of a rounding
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # str.splitlines' own
LISTED = 4 * OBJECT  # a string's character in a list, beside what it is sorted by
ESCAPED_JSON = 3  # times as much is paid for a text, which as JSON may be six times as long


class Charged(Meter):
    """What a template may call, each paid for before it is done."""

    def range_of(self, *args: int) -> range:
        numbers = range(*args)
        self.charge(len(numbers))
        return numbers

    def dict_of(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        for value in args:
            self.charge(OBJECT * length_of(value))
        return self.made(dict(*args, **kwargs))  # type: ignore[no-any-return]

    def charging(
        self,
        function: Callable[..., Any],
        *,
        lists: bool = False,
        lazy: bool = False,
        has_attribute: bool = False,
    ) -> Callable[..., Any]:
        """A filter that pays for the size of what it is given, and for the text that it makes.

        lists         : it makes a list of a string's characters or words
        lazy          : it goes through what it is given later, maybe without giving anything
        has_attribute : it can be told to look something up in each element: `a.b`, or `a,b`
        """
        at = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def charging(*args: Any, **kwargs: Any) -> Any:
            value = args[at]
            self.charge(size_of(value))
            for name in (*args[at + 1 :], *kwargs.values()) if has_attribute else ():
                if isinstance(name, str):  # the names in it are made a list of
                    self.charge(OBJECT * (name.count(".") + name.count(",")))
            if lists and isinstance(value, str):
                self.charge(LISTED * len(value))
            if isinstance(value, Iterator) or (lazy and value and isinstance(value, Iterable)):
                args = (*args[:at], self.counted(value), *args[at + 1 :])
            made = function(*args, **kwargs)
            if isinstance(made, str) and made is not value:
                self.charge(width_of(made))
            return made

        return charging

    def weighing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that makes something of all that it looks up: a copy in lower case."""

        @functools.wraps(function)
        def weighing(*args: Any, **kwargs: Any) -> Any:
            self.weighs_items = True
            try:
                made = function(*args, **kwargs)
                return list(made) if isinstance(made, Iterator) else made
            finally:
                self.weighs_items = False

        return weighing

    def escaping(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that escapes HTML's characters."""

        @functools.wraps(function)
        def escaping(value: Any) -> Any:
            text = self.text_of(value)
            self.charge(escaped_width(text))
            return function(value)

        return escaping

    def of_number(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A test that divides: text would be formatted."""

        @functools.wraps(function)
        def of_number(value: Any, *args: Any) -> Any:
            if not isinstance(value, (int, float)):
                raise SecurityError(f"a {type(value).__name__} is not divided here")
            return function(value, *args)

        return of_number

    def writing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter or test that takes anything for text."""

        @functools.wraps(function)
        def writing(value: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(value, str):
                value = self.text_of(value)
            return function(value, *args, **kwargs)

        return writing

    def bounded_int(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def bounded(value: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(value, str) and len(value) > MAX_DIGITS:
                raise BudgetExceeded(f"it reads a number of {len(value)} digits")
            return function(value, *args, **kwargs)

        return bounded

    def bounded_round(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def bounded(value: Any, precision: int = 0, method: str = "common") -> Any:
            if not -MAX_DIGITS <= precision <= MAX_DIGITS:
                raise BudgetExceeded(f"it rounds to {precision!r:.40} digits")
            return function(value, precision, method)

        return bounded

    def sum_of_numbers(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Of numbers: adding lists one to the other takes the square of their length."""

        def bounded(context: Any, values: Any, attribute: Any = None, start: Any = 0) -> Any:
            if not isinstance(start, (int, float)):
                raise SecurityError("only numbers are summed here")
            return function(context, values, attribute, start)

        bounded.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
        return bounded

    def list_of(self, value: Iterable[Any]) -> list[Any]:
        if isinstance(value, Iterator):
            return list(self.counted(value))
        small = isinstance(value, (list, tuple, dict))
        self.charge((REFERENCE if small else OBJECT) * length_of(value))
        return list(value)

    def trim(self, value: Any, chars: str | None = None) -> str:
        return self.strip(self.text_of(value), chars)

    def strip(self, text: str, chars: str | None = None, /, way: str = "strip") -> str:
        if chars is not None:
            chars = "".join(dict.fromkeys(chars))  # a set to strip, and it is gone through
        self.charge(width_of(text) * len(chars or " "))
        return str(getattr(text, way)(chars))

    def lstrip(self, text: str, chars: str | None = None, /) -> str:
        return self.strip(text, chars, "lstrip")

    def rstrip(self, text: str, chars: str | None = None, /) -> str:
        return self.strip(text, chars, "rstrip")

    def split(self, text: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
        """No more pieces are made than can be paid for."""
        most = self.steps_left + 1
        pieces = text.split(sep, most if maxsplit < 0 else min(most, maxsplit))
        self.charge(width_of(text) + OBJECT * len(pieces))
        return pieces

    def rsplit(self, text: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
        if sep is not None:
            self.search_backwards(text, sep)
        most = self.steps_left + 1
        pieces = text.rsplit(sep, most if maxsplit < 0 else min(most, maxsplit))
        self.charge(width_of(text) + OBJECT * len(pieces))
        return pieces

    def search_backwards(self, text: str, part: str = "") -> None:
        """Python looks forwards in linear time, and backwards in the product of the lengths."""
        if len(part) > BYTES_A_STEP:
            self.charge(len(text) * len(part))

    def comparing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter or test that pays for all that is in what it is given."""

        @functools.wraps(function)
        def comparing(*args: Any, **kwargs: Any) -> Any:
            return function(*map(self.compared, args), **kwargs)

        return comparing

    def replace(self, text: Any, old: Any, new: Any, count: int = -1) -> str:
        text, old, new = self.text_of(text), self.text_of(old), self.text_of(new)
        self.charge(width_of(text) + text.count(old) * max(0, width_of(new) - len(old)))
        return str(text.replace(old, new, -1 if count is None else count))

    def join(self, glue: str, items: Iterable[Any]) -> str:
        texts = [self.text_of(item) for item in self.counted(items)]
        width = escaped_width if isinstance(glue, Markup) else width_of  # it escapes them
        self.charge(sum(map(width, texts)) + width_of(glue) * len(texts))
        return glue.join(texts)

    def indent(self, indent: Callable[..., Any]) -> Callable[..., str]:
        def bounded(text: str, width: int | str = 4, *args: Any, **kwargs: Any) -> str:
            if not isinstance(width, int) or not 0 <= width <= MAX_INDENT:
                raise BudgetExceeded(f"it indents by {width!r}, {MAX_INDENT} is the most")
            text = self.text_of(text)
            self.charge(width_of(text) + count_lines(text) * (OBJECT + width))
            return str(indent(text, width, *args, **kwargs))

        return bounded

    def tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        if indent is not None and not 0 <= indent <= MAX_INDENT:
            raise BudgetExceeded(f"it indents JSON by {indent!r}, {MAX_INDENT} is the most")
        self.weigh(value, times=ESCAPED_JSON)  # a text is written whole before it is paid for
        encoder = json.JSONEncoder(
            ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )
        pieces = []
        for piece in encoder.iterencode(value):
            self.charge(len(piece))
            pieces.append(piece)
        return "".join(pieces)


def count_lines(text: str) -> int:
    """How many there are at most, as Python and so jinja2 ends them."""
    return 1 + sum(map(text.count, LINE_ENDS))
