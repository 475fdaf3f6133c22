"""What keeps a text in a chat from passing for a control token: marks in it, where a spelling is or
could arise (nybble.tokenizer.template says what they do)."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import pairwise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

READ_AT_A_PLACE = 1024  # characters that are compared where a spelling may begin, at most
MAX_INSIDE = 1 << 20  # characters of all spellings through which a word is looked for
MAX_LITERALS = 200  # of a template; the most seen is 76
MAX_SEARCHED = 1 << 24  # characters of a template times spellings that are looked for one by one
PART = 32  # characters of a spelling that are looked for in a template, where there are more

# What takes texts apart or changes them, so that what was apart or different could become a
# spelling: stripping more than white space, and slices of what is not a list of messages, too.
CHANGES = re.compile(
    r"replace|split|join|partition|removeprefix|removesuffix|reverse"
    r"|(?:strip|trim)\s*\((?!\s*(?:(['\"])(?:\s|\\[nrt])*\1\s*)?\))"
    r"|(?<=[\w)\]])(?<!messages)\[[^][{}'\"]*:"
)
# (What is not closed goes on to the end: searching again behind it would take for ever.)
CODE = re.compile(r"\{[{%](.*?)(?:[%}]\}|\Z)", re.DOTALL)
QUOTED = re.compile(r"(['\"])((?:\\.|(?!\1)[^\\])*)", re.DOTALL)
WORDS = re.compile(r"(['\"])(\w+)(?=\1)|\.\s*([^\W\d]\w*)")
ESCAPES = {"\\n": "\n", "\\r": "\r", "\\t": "\t", "\\\\": "\\", "\\'": "'", '\\"': '"'}


class Reading:
    """What a template's source tells of how it treats texts.

    words    : those that it compares or looks up: quoted alone, or behind a dot
    literals : all that it quotes; it may look for them in texts
    changes  : whether it does more to texts than to write them, trimmed and in another case
    """

    def __init__(self, source: str) -> None:
        words = (word or name for _, word, name in WORDS.findall(source))
        self.words = frozenset(("role", "content", *words))
        self.literals = frozenset(_literals(source))
        self.changes = CHANGES.search(source) is not None


def _literals(source: str) -> Iterator[str]:
    for code in CODE.findall(source):
        at = 0
        while (found := QUOTED.search(code, at)) is not None:
            at = found.end() + 1
            yield re.sub(r"\\.", lambda escape: ESCAPES.get(escape[0], escape[0]), found[2])


class Guard:
    """Puts marks into strings so that no spelling of `protected` survives in them, nor arises where
    they meet other strings or what the template writes around them.

    Where the template changes texts, marks stand also behind every character that begins a
    spelling, and between two of which one is no letter and that stand together in a spelling, in
    either order; and between letters, if that leaves nothing in the spelling's middle. So what is
    left of a spelling where a template puts a character or two of its own is in pieces. Words by
    themselves, and what the template looks for, are left whole, and so are the spellings
    `left_alone`.

    Letters count in either case, because templates change it. Gemma's vocabulary has 6,000
    spellings, so they are kept in sorted lists, which are made in no time.
    """

    def __init__(
        self, protected: Iterable[str], reading: Reading, left_alone: tuple[str, ...] = ()
    ) -> None:
        self._whole = {folded(spelling) for spelling in protected}
        self._reading = reading
        self._left_alone = left_alone
        self._longest = max(map(len, self._whole), default=0)
        self._sorted = sorted(self._whole)
        self._backwards = sorted(spelling[::-1] for spelling in self._whole)
        self._firsts = {spelling[0] for spelling in self._whole}
        self._lengths: dict[str, set[int]] = {}  # by the first two characters
        for spelling in self._whole:
            self._lengths.setdefault(spelling[:2], set()).add(len(spelling))

    def protect(self, value: Any, mark: str) -> Any:
        """A copy of a value of strings, lists and mappings, with marks in its strings."""
        if isinstance(value, str):
            return self._protect_text(value, mark)
        if isinstance(value, Mapping):
            # Keys that templates look up are words; others are text like any other.
            return {
                key if self.is_known(key) else self._protect_text(key, mark): self.protect(
                    item, mark
                )
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.protect(item, mark) for item in value]
        return value

    def is_known(self, word: str) -> bool:
        """Whether the template may compare a word, or look it up."""
        return word.isidentifier() and word in self._reading.words

    def _protect_text(self, text: str, mark: str) -> str:
        if not text:
            return text
        plain = folded(text)
        places = {at + 1 for at in self._found(plain)}
        places |= self._dense(text, plain)
        places |= self._edges(text, plain)
        if not text.isascii():
            places |= self._expanding(text)
        if (
            self._is_inside(plain)
            and text not in self._reading.literals
            and not self.is_known(text)
        ):
            places.add(len(text))  # the template may write `<|` and `|>` around it
        stripped = text.rstrip()
        if any(stripped.endswith(start) for start in _starts(escaped(mark))):
            places |= {len(text), len(stripped)}
        pieces = []
        at = 0
        for place in sorted(places):
            pieces += [text[at:place], mark]
            at = place
        return "".join([*pieces, text[at:]])

    def _found(self, plain: str) -> Iterator[int]:
        """Every place where a spelling starts, also within another. Where so many begin with two
        characters that comparing them all would take long, every place where one could."""
        many = {start for start, all in self._lengths.items() if sum(all) > READ_AT_A_PLACE}
        for first in self._firsts & {*plain}:
            is_whole = first in self._whole
            at = plain.find(first)
            while at >= 0:
                start = plain[at : at + 2]
                lengths = self._lengths.get(start, ())
                if (
                    is_whole
                    or start in many
                    or any(plain[at : at + n] in self._whole for n in lengths)
                ):
                    yield at
                at = plain.find(first, at + 1)

    def _edges(self, text: str, plain: str) -> set[int]:
        """The ends of a text that begin a spelling or end one. A template may strip white space off
        before it joins, so the edges within it count too."""
        places = set()
        for end in {len(text), len(text.rstrip())}:
            tail = plain[max(0, end - self._longest) : end]
            if any(_is_begun(self._sorted, tail[n:]) for n in range(len(tail))):
                places.add(end)
        for start in {0, len(text) - len(text.lstrip())}:
            head = plain[start : start + self._longest][::-1]
            if any(_is_begun(self._backwards, head[n:]) for n in range(len(head))):
                places.add(start)
        return places

    def _dense(self, text: str, plain: str) -> set[int]:
        """Where a changed text could become a spelling."""
        if not self._whole or not self._reading.changes or text.replace("_", "a").isalnum():
            return set()
        places = self._joints(plain)
        for literal in self._literals:
            at = text.find(literal)
            while at >= 0:
                places.difference_update(range(at + 1, at + len(literal)))
                at = text.find(literal, at + len(literal))
        return places

    def _joints(self, plain: str) -> set[int]:
        firsts, pairs = self._firsts, self._pairs
        return {
            at for at, pair in enumerate(pairwise(plain), 1) if pair[0] in firsts or pair in pairs
        }

    @cached_property
    def _pairs(self) -> set[tuple[str, str]]:
        pairs = set()
        for spelling in self._whole:
            apart = {
                at for at, pair in enumerate(pairwise(spelling)) if not "".join(pair).isalpha()
            }
            if not apart.intersection(range(1, len(spelling) - 2)):
                apart |= {*range(1, len(spelling) - 2)}
            pairs |= {(spelling[at], spelling[at + 1]) for at in apart}
        return pairs | {(second, first) for first, second in pairs}

    @cached_property
    def _literals(self) -> list[str]:
        """What the template may look for and is no spelling; none if it quotes very much."""
        quoted = [
            literal
            for literal in self._reading.literals
            if any(map(str.isalnum, literal))
            and self._joints(plain := folded(literal))
            and next(self._found(plain), None) is None
        ]
        return [*self._left_alone, *(quoted if len(quoted) <= MAX_LITERALS else [])]

    def _expanding(self, text: str) -> set[int]:
        """Both sides of characters that become several in another case, as the ligature of f and i
        does, if a spelling has those in it."""
        places = set()
        for char in {*text}:
            if len(cased := _cased(char)) > 1 and self._is_inside(cased):
                at = text.find(char)
                while at >= 0:
                    places |= {at, at + 1}
                    at = text.find(char, at + 1)
        return places

    def _is_inside(self, plain: str) -> bool:
        """Whether some spelling has the text in it."""
        if len(plain) > self._longest:
            return False
        return len(self._joined) > MAX_INSIDE or plain in self._joined

    @cached_property
    def _joined(self) -> str:
        return "\n".join(self._sorted)


class _Folds(dict[int, str]):
    """Every character as what it becomes in lower case, by way of upper case too (the long s), if
    that is one character."""

    def __missing__(self, code: int) -> str:
        ways = (chr(code).upper().lower(), chr(code).lower(), chr(code))
        self[code] = next(way for way in ways if len(way) == 1)
        return self[code]


_FOLDS = _Folds()


def written(spellings: list[str], source: str) -> Iterator[str]:
    """Those of the spellings that a template has in its source. There may be 100,000, and each
    would be looked for from its first character to its last: then all that could be found is
    sorted, by its first characters, and of a spelling that has more those are enough."""
    if len(spellings) * len(source) <= MAX_SEARCHED:
        yield from (spelling for spelling in spellings if spelling in source)
        return
    parts = sorted({source[at : at + PART] for at in range(len(source))})
    for spelling in spellings:
        start = spelling[:PART]
        at = bisect_left(parts, start)
        if at < len(parts) and parts[at].startswith(start):
            yield spelling


def folded(text: str) -> str:
    """A text without upper case, character by character."""
    return text.lower() if text.isascii() else text.translate(_FOLDS)


def _cased(char: str) -> str:
    """What a character becomes in the end, however its case is changed."""
    return char.lower().upper().lower()


def _is_begun(ordered: list[str], start: str) -> bool:
    """Whether one of the strings, which are sorted, goes on behind `start`."""
    at = bisect_right(ordered, start)
    return at < len(ordered) and ordered[at].startswith(start)


def escaped(mark: str) -> str:
    """How a mark stands in what Python's repr or JSON in ASCII makes of a string."""
    return repr(mark)[1:-1]


def _starts(text: str) -> Iterator[str]:
    return (text[:n] for n in range(1, len(text)))
