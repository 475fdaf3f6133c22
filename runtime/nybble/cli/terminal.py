"""What the verbs print with: words, sizes, tables, bars, text that cannot drive a terminal."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from nybble.model import Model
    from nybble.reply import Reply

_BAR = 24  # characters, where there is room
_REDRAW_S = 0.1
LONG_S = 1.0  # what takes longer says so


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


def as_flags(text: str) -> str:
    """What an error calls `context=`, for someone who gives flags: `--context`."""
    return re.sub(r"\b(context|memory)=(, --\1)?", r"--\1", text)


def counted(n: int, what: str) -> str:
    """`1 thread`, `2 threads`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def rounded(rate: float) -> float:
    """Tokens a second with one decimal, or two digits if they are less than one."""
    return round(rate, 1) if rate >= 1 else float(f"{rate:.2g}")


def per_second(rate: float) -> str:
    """`82 tokens/s`, `1.4 tokens/s`, `0.21 tokens/s`: a slow model is not one that stands still."""
    return f"{rate:,.0f} tokens/s" if rate >= 9.95 else f"{rounded(rate)} tokens/s"


def valid(argument: str) -> str:
    """An argument or a typed line as valid text: bytes that are no UTF-8 become U+FFFD."""
    return argument.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def say(text: str) -> None:
    """Print a line beside the results, on stderr."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def ended_line() -> Iterator[None]:
    """Whatever Ctrl-C breaks off in here, its line on the terminal is ended, so that the shell's
    prompt begins on its own."""
    try:
        yield
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            say("")
        raise


def columns(stream: TextIO) -> int | None:
    """How wide the terminal is that `stream` goes to; None if it goes elsewhere."""
    if not stream.isatty():
        return None
    try:
        own = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        own = 0
    return max(own or 80, 20)


def fitted(line: str, stream: TextIO, indent: int = 4) -> list[str]:
    """A line as it is, or on a terminal too narrow for it wrapped: what follows is indented. Words
    stay whole, for a path may be among them."""
    width = columns(stream)
    if width is None or len(line) <= width:
        return [line]
    below = " " * indent
    return textwrap.wrap(
        line, width, subsequent_indent=below, break_on_hyphens=False, break_long_words=False
    )


def table(rows: Sequence[tuple[str, str, str]]) -> Iterable[str]:
    """Lines for rows of (name, size, more). On a terminal too narrow for all of a row, what is more
    goes below it, wrapped; a pipe gets a row a line."""
    width = columns(sys.stdout)
    names = max((len(name) for name, _, _ in rows), default=0)
    sizes = max((len(size) for _, size, _ in rows), default=0)
    for name, size, more in rows:
        line = f"{name:<{names}}  {size:>{sizes}}  {more}".rstrip()
        if width is None or len(line) <= width:
            yield line
            continue
        head = f"{name:<{min(names, max(width - sizes - 2, 0))}}  {size:>{sizes}}"
        yield from textwrap.wrap(head, width) if len(head) > width else [head]
        yield from textwrap.wrap(
            more, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
        )


def load(name: str, **options: Any) -> Model:
    """`nybble.load`, with a bar while weights are packed if that takes long."""
    import nybble  # after the cheap checks of the verb

    bar = ProgressBar(f"loading {printable(name)}", after_s=LONG_S, is_passing=True)
    try:
        model = nybble.load(name, on_progress=bar, **options)
    finally:
        bar.close()
    if model.notice:
        say(f"nybble: {printable(as_flags(model.notice))}")
    return model


def print_words(reply: Reply) -> None:
    """Print a model's words on stdout as they come, and end them with a line end. What it thinks
    before goes to a terminal only, beside the results."""
    show = harmless if sys.stdout.isatty() else str
    last = ""
    waiting = Waiting(f"reading the prompt ({counted(reply.stats.prompt_tokens, 'token')})")
    with waiting, _Thoughts() as thoughts:
        for kind, text in reply.parts():
            waiting.end()
            if kind == "thinking":
                thoughts.print(text)
                continue
            thoughts.end()
            print(show(text), end="", flush=True)
            last = text or last
    if not last.endswith("\n"):
        print(flush=True)


class _Thoughts:
    """What a model thinks before it answers: on stderr, dim, where that is a terminal."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()
        self._has_begun = False
        is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
        self._dim, self._normal = ("", "") if is_plain else ("\x1b[2m", "\x1b[0m")

    def __enter__(self) -> _Thoughts:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def print(self, text: str) -> None:
        if self._is_shown:
            begin = "" if self._has_begun else self._dim
            print(begin + harmless(text), end="", file=sys.stderr, flush=True)
            self._has_begun = True

    def end(self) -> None:
        """Leave a line between thinking and text."""
        if self._has_begun:
            say(f"{self._normal}\n")
            self._has_begun = False


def figures(reply: Reply) -> str:
    """The figures of a finished reply, on one line where stderr has room; "-" for what there was
    nothing to measure of."""
    stats = reply.stats

    def shown(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    line = (
        f"prompt {counted(stats.prompt_tokens, 'token')} ({stats.cached_tokens} cached)"
        f" at {shown(stats.prefill_tok_s, 1)} tokens/s,"
        f" first token after {shown(stats.first_token_s, 2)} s;"
        f" reply {counted(stats.tokens, 'token')} at {shown(stats.decode_tok_s, 1)} tokens/s;"
        f" {shown(stats.total_s, 2)} s, peak {megabytes(stats.peak_bytes or 0)},"
        f" seed {stats.seed}, ended by {stats.stop_reason}"
    )
    return "\n".join(fitted(line, sys.stderr, 2))


def cut_short(reply: Reply) -> str | None:
    """What to tell of a reply that the end of the context cut, or that went on behind it."""
    stats = reply.stats
    if stats.dropped_system_tokens:
        return (
            f"nybble: the context holds {stats.context:,} tokens: {stats.dropped_tokens:,} were"
            f" dropped, {stats.dropped_system_tokens:,} of them of the system message, of which"
            " half the context is kept at most (--context makes room)"
        )
    if stats.dropped_tokens:
        return (
            f"nybble: the context holds {stats.context:,} tokens: the oldest"
            f" {stats.dropped_tokens:,} behind the system message were dropped"
        )
    if stats.stop_reason != "context":
        return None
    return (
        f"nybble: the context is full with {stats.prompt_tokens + stats.tokens:,} tokens:"
        " the reply ends here (--context makes room, --overflow shift goes on)"
    )


class _PassingLine:
    """A line on stderr, redrawn in place; with spaces, because not all terminals know an escape
    sequence that erases."""

    def __init__(self) -> None:
        self.drawn = 0  # characters that are on the terminal

    def draw(self, text: str) -> None:
        print(f"\r{text:<{self.drawn}}", end="", file=sys.stderr, flush=True)
        self.drawn = len(text)

    def erase(self) -> None:
        if self.drawn:
            print(f"\r{'':<{self.drawn}}\r", end="", file=sys.stderr, flush=True)
            self.drawn = 0


class ProgressBar:
    """A line on stderr that is redrawn in place; on anything but a terminal it stays silent.

    after_s   : begins to draw when it has taken so long
    is_passing: the line is erased at the end, and not kept
    """

    def __init__(self, label: str, *, after_s: float = 0.0, is_passing: bool = False) -> None:
        self.label = label
        self._shown = _PassingLine()
        self._is_passing = is_passing
        self._next_at = time.monotonic() + after_s

    def __call__(self, done: int, total: int) -> None:
        """Draw that `done` of `total` bytes are done; a total of 0 is not known."""
        now = time.monotonic()
        if now < self._next_at and not (self._shown.drawn and done == total):
            return
        width = columns(sys.stderr)
        if width is None:
            return
        self._next_at = now + _REDRAW_S
        self._shown.draw(self._line(done, total, width - 1))

    def close(self) -> None:
        """End the line, so that what follows begins on its own."""
        if self._is_passing:
            self._shown.erase()
        elif self._shown.drawn:
            say("")
            self._shown.drawn = 0

    def _line(self, done: int, total: int, width: int) -> str:
        size = f"{megabytes(done)} of {megabytes(total)}" if total else megabytes(done)
        room = width - len(size) - 1
        label = self.label if len(self.label) <= room else self.label[: max(room - 3, 0)] + "..."
        bar = min(_BAR, room - len(label) - 3) if total else 0
        if bar < 4:
            return f"{label} {size}"
        filled = min(bar * done // total, bar)
        return f"{label} [{'#' * filled}{'.' * (bar - filled)}] {size}"


class Waiting:
    """A passing line on stderr, on a terminal, that says what takes more than a second, and how
    long it has."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Waiting:
        if sys.stderr.isatty():
            with contextlib.suppress(RuntimeError):  # no thread can be had, and no line
                self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Stop, and leave nothing of the line; more than once does no harm."""
        if not self._has_ended.is_set():
            self._has_ended.set()
            if self._thread.is_alive():
                self._thread.join()

    def _run(self) -> None:
        started = time.monotonic()
        shown, pause_s = _PassingLine(), LONG_S
        while not self._has_ended.wait(pause_s):
            line = f"{self._what}, {time.monotonic() - started:.0f} s"
            width = columns(sys.stderr) or len(line) + 1
            shown.draw(line[: width - 1])
            pause_s = 0.5
        shown.erase()


def _is_control(c: str) -> bool:
    return c < " " or "\x7f" <= c <= "\x9f"


def _escape(c: str) -> str:
    return c.encode("unicode_escape").decode("ascii")
