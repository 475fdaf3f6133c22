"""From a prompt to the parts of a reply, in steps: a chunk of the prompt, or a token."""

from __future__ import annotations

from collections.abc import Generator
from time import perf_counter

from nybble._core.sampler import Sampler
from nybble.stops import StopSearch
from nybble.thinking import Splitter, marks
from nybble.tokenizer import TextStream, Tokenizer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nybble._core.sequence import Sequence
    from nybble.options import Options
    from nybble.reply import Stats
    from nybble.sequences import Loan
    from nybble.shift import Shift
    from nybble.thinking import Part


class Clock:
    """A reply's times, from its first step on; what it measures goes into the reply's stats."""

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._started = self._prefill = self._first = perf_counter()

    def passed(self) -> float:
        return perf_counter() - self._started

    def is_late(self) -> bool:
        return self._timeout_s is not None and self.passed() >= self._timeout_s

    def begin_prefill(self) -> None:
        self._prefill = perf_counter()

    def note_token(self, stats: Stats, is_end: bool) -> None:
        """Notes that a token was chosen, one more of the reply or its end."""
        now = perf_counter()
        stats.total_s = now - self._started
        if stats.first_token_s is None:
            self._first = now
            stats.first_token_s = stats.total_s
            ran = stats.prompt_tokens - stats.dropped_tokens - stats.cached_tokens
            stats.prefill_tok_s = ran / (now - self._prefill)
        if not is_end:
            stats.tokens += 1
            if stats.tokens > 1:
                stats.decode_tok_s = (stats.tokens - 1) / (now - self._first)


def generate(
    loan: Loan,
    tokenizer: Tokenizer,
    prompt: list[int],
    options: Options,
    splitter: Splitter | None,
    stats: Stats,
    clock: Clock,
    shift: Shift | None,
) -> Generator[list[Part], None, str]:
    """Yields after each step what it completed, often nothing; returns the stop reason. The
    sequence is given back however this ends."""
    try:
        sequence = loan.sequence
        shown = () if splitter is None else marks(tokenizer)
        stream = tokenizer.text_stream(behind=prompt[-1], shown=shown)
        writer = _Writer(stream, splitter, options.stop)
        reason = yield from _run(sequence, tokenizer, prompt, options, writer, stats, clock, shift)
        yield writer.flush(is_cut=reason != "end")
        return "stop" if writer.stopped else reason
    finally:
        loan.end()


def _run(
    sequence: Sequence,
    tokenizer: Tokenizer,
    prompt: list[int],
    options: Options,
    writer: _Writer,
    stats: Stats,
    clock: Clock,
    shift: Shift | None,
) -> Generator[list[Part], None, str]:
    """Runs the prompt, and each token for the next; returns why there are no more. With `shift`
    what does not fit the context is let go of, and what is kept is run again."""
    clock.begin_prefill()
    ids = prompt if shift is None else shift.held(prompt)
    stats.dropped_tokens = len(prompt) - len(ids)
    stats.dropped_system_tokens = 0 if shift is None else shift.cut
    stats.cached_tokens = sequence.reuse(ids)
    fed = yield from _read(sequence, ids, stats, clock)
    sampler = Sampler(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repeat_penalty=options.repeat_penalty,
        seed=options.seed,
    )
    while fed:
        token = sampler.next(sequence, fed, stats.tokens)
        is_end = token in tokenizer.end_ids and not options.ignore_eos
        clock.note_token(stats, is_end)
        if is_end:
            return "end"
        yield writer.push(token)
        if writer.stopped:
            return "stop"
        if stats.tokens == options.max_tokens:
            return "length"
        if len(sequence.ids) + 1 < sequence.context:
            fed = [] if clock.is_late() else [token]
        elif shift is None:
            return "context"
        else:
            ids = [*sequence.ids, token]
            held = shift.held(ids)
            stats.dropped_tokens += len(ids) - len(held)
            stats.dropped_system_tokens = shift.cut
            sequence.reuse(held)
            fed = yield from _read(sequence, held, stats, clock)
    return "timeout"


def _read(
    sequence: Sequence, ids: list[int], stats: Stats, clock: Clock
) -> Generator[list[Part], None, list[int]]:
    """Runs these tokens, of which some may be in the cache, but for the last chunk: returns that,
    with which the next token comes, or nothing when time is up."""
    while not clock.is_late():
        done = len(sequence.ids)
        fed = ids[done : done + sequence.next_chunk(len(ids) - done)]
        if done + len(fed) == len(ids):
            return fed
        sequence.feed(fed)
        stats.total_s = clock.passed()
        yield []
    return []


class _Writer:
    """From tokens to the parts of a reply that may be shown: whole characters, and nothing that may
    yet turn out to be a mark of thinking or the beginning of a stop string.

    stopped : whether a stop string is complete; they are looked for in the text alone
    """

    def __init__(
        self, stream: TextStream, splitter: Splitter | None, stop: tuple[str, ...]
    ) -> None:
        self._stream = stream
        self._splitter = splitter
        self._stops = StopSearch(stop) if stop else None
        self.stopped = False

    def push(self, token: int) -> list[Part]:
        return self._write(self._stream.push([token]))

    def flush(self, is_cut: bool) -> list[Part]:
        """The rest, when no more tokens come; without the beginning of a character that the model
        would have completed, had it not been cut short."""
        parts = [] if is_cut else self._write(self._stream.flush())
        if self._splitter is not None:
            parts += self._search(self._splitter.flush())
        if self._stops is not None and (held := self._stops.flush()):
            parts.append(("text", held))
        return parts

    def _write(self, characters: str) -> list[Part]:
        if not characters:
            return []
        if self._splitter is None:
            return self._search([("text", characters)])
        return self._search(self._splitter.push(characters))

    def _search(self, parts: list[Part]) -> list[Part]:
        if self._stops is None:
            return parts
        found: list[Part] = []
        for kind, characters in parts:
            if kind == "text":
                characters = self._stops.push(characters)
                self.stopped = self._stops.found
            if characters:
                found.append((kind, characters))
        return found
