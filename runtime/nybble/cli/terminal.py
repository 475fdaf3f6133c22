"""What the verbs print with: words, sizes, a progress bar, text that cannot drive a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nybble.reply import Reply

_BAR = 24  # characters


def printable(text: str) -> str:
    r"""`text` on one line, with everything that is not plainly visible escaped (`\x1b`).

    For strings out of files: names, metadata, paths. Escaped are control and formatting
    characters (also those that reverse the reading direction), line ends and lone surrogates.
    """
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def harmless(text: str) -> str:
    """A model's words with control characters escaped, except line ends and tabs.

    A hostile model file could speak escape sequences; formatting characters that scripts and
    emoji need are left alone.
    """
    return "".join(_escape(c) if _is_control(c) and c not in "\n\t" else c for c in text)


def megabytes(nbytes: int) -> str:
    """A size to read: `98 MB`, `1.3 GB` (powers of ten, as shops and `ls --si` count)."""
    for limit, unit, digits in ((1e3, "B", 0), (1e6, "kB", 0), (1e9, "MB", 0)):
        if nbytes < limit:
            return f"{nbytes / (limit / 1e3):.{digits}f} {unit}"
    return f"{nbytes / 1e9:.1f} GB"


def valid(argument: str) -> str:
    """An argument or a typed line as valid text: bytes that are no UTF-8 become U+FFFD."""
    return argument.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def say(text: str) -> None:
    """Print a line beside the results, on stderr."""
    print(text, file=sys.stderr, flush=True)


def print_words(pieces: Iterable[str]) -> None:
    """Print a model's words on stdout as they come, and end them with a line end."""
    show = harmless if sys.stdout.isatty() else str
    last = ""
    for text in pieces:
        print(show(text), end="", flush=True)
        last = text or last
    if not last.endswith("\n"):
        print(flush=True)


def figures(reply: Reply) -> str:
    """The figures of a finished reply on one line; "-" for what there was nothing to measure of."""
    stats = reply.stats

    def shown(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    return (
        f"prompt {stats.prompt_tokens} tokens ({stats.cached_tokens} cached)"
        f" at {shown(stats.prefill_tok_s, 1)} tokens/s,"
        f" first token after {shown(stats.first_token_s, 2)} s;"
        f" reply {stats.tokens} tokens at {shown(stats.decode_tok_s, 1)} tokens/s;"
        f" {shown(stats.total_s, 2)} s, peak {megabytes(stats.peak_bytes or 0)},"
        f" seed {stats.seed}, ended by {stats.stop_reason}"
    )


def cut_short(reply: Reply) -> str | None:
    """What to tell of a reply that the end of the context cut."""
    stats = reply.stats
    if stats.stop_reason != "context":
        return None
    return (
        f"nybble: the context is full with {stats.prompt_tokens + stats.tokens:,} tokens:"
        " the reply ends here (--context makes room)"
    )


class ProgressBar:
    """A line on stderr that is redrawn in place; on anything but a terminal it stays silent."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.is_drawn = False

    def __call__(self, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        filled = _BAR * done // max(total, 1)
        bar = "#" * filled + "." * (_BAR - filled)
        text = f"\r{self.label} [{bar}] {megabytes(done)} of {megabytes(total)} "
        print(text, end="", file=sys.stderr, flush=True)
        self.is_drawn = True

    def close(self) -> None:
        """End the line, so that what follows begins on its own."""
        if self.is_drawn:
            print(file=sys.stderr)
            self.is_drawn = False


def _is_control(c: str) -> bool:
    return c < " " or "\x7f" <= c <= "\x9f"


def _escape(c: str) -> str:
    return c.encode("unicode_escape").decode("ascii")
