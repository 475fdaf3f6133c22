"""Strings that end a reply, found as its characters come."""

from __future__ import annotations

from collections.abc import Iterable


class StopSearch:
    """Looks for any of many strings, a character at a time, and lets go of what can be none.

    What is held is the longest end of the text that begins one of the strings; a character either
    lengthens it or shortens it from the front, so the work is about two look-ups a character,
    however many strings there are: a binary search for what it begins, a hash for each length of
    string that may end here.

    found : whether a string is complete: the one that was complete first, of those the longest
    """

    def __init__(self, strings: Iterable[str]) -> None:
        from bisect import bisect_left  # where there are no stop strings, its import is saved

        self._find = bisect_left
        self._strings = frozenset(strings)
        self._sorted = sorted(self._strings)
        self._lengths = sorted({len(s) for s in self._strings}, reverse=True)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The text that can be let go of, up to a string that is complete; "" ever after."""
        out = []
        for character in "" if self.found else text:
            held = self._held + character
            if (start := self._complete(held)) is not None:
                self.found, self._held = True, ""
                out.append(held[:start])
                break
            begin = 0
            while begin < len(held) and not self._is_begun(held[begin:]):
                begin += 1
            out.append(held[:begin])
            self._held = held[begin:]
        return "".join(out)

    def flush(self) -> str:
        """What is still held, when no more text comes."""
        held, self._held = self._held, ""
        return held

    def _complete(self, held: str) -> int | None:
        """Where the longest string starts that ends where `held` does."""
        for length in self._lengths:
            if length <= len(held) and held[-length:] in self._strings:
                return len(held) - length
        return None

    def _is_begun(self, text: str) -> bool:
        at = self._find(self._sorted, text)
        return at < len(self._sorted) and self._sorted[at].startswith(text)
