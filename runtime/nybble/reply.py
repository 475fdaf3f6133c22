"""A reply: lazy, iterable, with its statistics."""

from __future__ import annotations

import sys
from _thread import allocate_lock
from collections.abc import Callable, Generator, Iterator
from time import perf_counter, sleep

from nybble._core.sampler import Sampler
from nybble._core.sequence import Sequence
from nybble.errors import BusyError, NybbleError
from nybble.machine import peak_bytes
from nybble.options import Options
from nybble.sequences import POLL_S, Sequences
from nybble.tokenizer import TextStream, Tokenizer


class Stats:
    """What a reply cost. Rates are None until there is something to divide.

    prompt_tokens  : tokens of the prompt
    cached_tokens  : of those, how many were still in the cache
    tokens         : tokens of the reply so far
    prefill_tok_s  : prompt tokens that were run, a second
    decode_tok_s   : tokens a second after the first
    first_token_s  : seconds from the first step to the first token
    total_s        : seconds from the first step to the last
    peak_bytes     : the most memory the process has held (VmHWM)
    seed           : of the random numbers
    stop_reason    : "end", "stop", "length", "context", "timeout", "closed"; None while running
    """

    __slots__ = (
        "cached_tokens",
        "decode_tok_s",
        "first_token_s",
        "peak_bytes",
        "prefill_tok_s",
        "prompt_tokens",
        "seed",
        "stop_reason",
        "tokens",
        "total_s",
    )

    def __init__(self, prompt_tokens: int, seed: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = 0
        self.tokens = 0
        self.prefill_tok_s: float | None = None
        self.decode_tok_s: float | None = None
        self.first_token_s: float | None = None
        self.total_s: float | None = None
        self.peak_bytes: int | None = None
        self.seed = seed
        self.stop_reason: str | None = None

    def asdict(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}

    def __repr__(self) -> str:
        return f"Stats({', '.join(f'{k}={v!r}' for k, v in self.asdict().items())})"


class Reply:
    """A reply that is made while it is read: **nothing runs until it is iterated or read**.

        for text in reply: ...       pieces of text, as they come
        reply.text, str(reply)       the whole text
        reply.stats                  what it cost
        reply.close()                ends it where it is; also at the end of `with reply:`

    Iterating again starts from the beginning, with the pieces that are there already. When the
    last reference goes it is closed, so leaving a loop over `model.ask(...)` frees the model.
    Several threads may read a reply, and any may close it.
    """

    def __init__(
        self,
        sequences: Sequences,
        tokenizer: Tokenizer,
        prompt: list[int],
        options: Options,
        on_end: Callable[[str], None] | None = None,
    ) -> None:
        self.stats = stats = Stats(len(prompt), options.seed)
        self._on_end = on_end
        self._pieces: list[str] = []
        self._lock = allocate_lock()  # of readers
        self._is_closed = False
        self._is_started = False
        self._error: NybbleError | None = None
        # Without self: a cycle would keep the sequence when the last reference goes.
        self._begin: Callable[[], Generator[str, None, str]] = lambda: _generate(
            sequences, tokenizer, prompt, options, stats
        )
        self._steps = self._begin()

    def __iter__(self) -> Iterator[str]:
        i = 0
        # Again at the end: while _step waited, another reader may have brought the reply there.
        while i < len(self._pieces) or self._step() or i < len(self._pieces):
            if i < len(self._pieces):
                yield self._pieces[i]
                i += 1

    @property
    def text(self) -> str:
        """The whole text; waits until the reply has ended."""
        while self._step():
            pass
        return "".join(self._pieces)

    def __str__(self) -> str:
        return self.text

    def close(self) -> None:
        """Ends the reply where it is; the text so far stays. While another thread reads it, it
        ends with that thread's token or chunk of the prompt, and this does not wait for it."""
        self._is_closed = True
        if self.stats.stop_reason is None:
            try:
                self._steps.close()
            except ValueError:  # it is running: its reader looks at _is_closed afterwards
                return
            self._end("closed")

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # __init__ may have failed; and an interpreter that shuts down has lost what ending needs
        if hasattr(self, "_steps") and not sys.is_finalizing():
            self.close()

    def _step(self) -> bool:
        """Goes on by a chunk of the prompt or a token of the reply; False when it has ended."""
        with self._lock:
            if self._error is not None:
                raise self._error
            if self.stats.stop_reason is not None:
                return False
            try:
                piece = next(self._steps)
                self._is_started = True
                if piece:
                    self._pieces.append(piece)
                if self._is_closed:
                    self._steps.close()
                    self._end("closed")
            except StopIteration as end:
                self._end(end.value or "closed")
            except BusyError:  # nothing has run: it may be read when the other reply has ended
                self._steps = self._begin()
                raise
            except BaseException as error:
                if isinstance(error, NybbleError):
                    self._error = error  # and not an empty text the next time
                self._steps.close()
                self._end("closed")
                raise
            return True

    def _end(self, reason: str) -> None:
        if self.stats.stop_reason is None:
            self.stats.stop_reason = reason
            self.stats.peak_bytes = peak_bytes()
            if self._on_end is not None and self._is_started:
                self._on_end("".join(self._pieces))


def _generate(
    sequences: Sequences, tokenizer: Tokenizer, prompt: list[int], options: Options, stats: Stats
) -> Generator[str, None, str]:
    """Yields after each chunk of the prompt and each token, text or "" if none is complete;
    returns the stop reason. The sequence is given back however this ends."""
    started = perf_counter()
    while (loan := sequences.borrow()) is None:
        stats.total_s = perf_counter() - started
        if options.timeout_s is not None and stats.total_s >= options.timeout_s:
            return "timeout"
        sleep(POLL_S)
        yield ""
    try:
        text = _Text(tokenizer.text_stream(behind=prompt[-1]), options.stop)
        for reason in _tokens(loan.sequence, tokenizer, prompt, options, stats, started, text):
            if reason is not None:
                yield text.flush(is_cut=reason != "end")
                return "stop" if text.stopped else reason
            yield text.take()
            if text.stopped:
                return "stop"
    finally:
        loan.end()
    raise AssertionError("_tokens ends with a reason")


def _tokens(
    sequence: Sequence,
    tokenizer: Tokenizer,
    prompt: list[int],
    options: Options,
    stats: Stats,
    started: float,
    text: _Text,
) -> Iterator[str | None]:
    """Runs the prompt and pushes the reply's tokens into `text`; yields None after each step,
    and last the reason why there are no more."""
    room = sequence.context - len(prompt)
    limit = room if options.max_tokens is None else min(room, options.max_tokens)
    sampler = Sampler(
        sequence.vocab,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repeat_penalty=options.repeat_penalty,
        seed=options.seed,
    )

    def is_late() -> bool:
        return options.timeout_s is not None and perf_counter() - started >= options.timeout_s

    prefill_started = perf_counter()
    stats.cached_tokens = sequence.reuse(prompt)
    while len(sequence.ids) < len(prompt):
        if is_late():
            yield "timeout"
            return
        done = len(sequence.ids)
        end = done + sequence.next_chunk(len(prompt) - done)
        sequence.feed(prompt[done:end], end == len(prompt))
        stats.total_s = perf_counter() - started
        yield None

    first_at = None
    while True:
        token = sampler.next(sequence, stats.tokens)
        now = perf_counter()
        stats.total_s = now - started
        if first_at is None:
            first_at = now
            stats.first_token_s = now - started
            stats.prefill_tok_s = (len(prompt) - stats.cached_tokens) / (now - prefill_started)
        if token in tokenizer.end_ids and not options.ignore_eos:
            yield "end"
            return
        stats.tokens += 1
        if stats.tokens > 1:
            stats.decode_tok_s = (stats.tokens - 1) / (now - first_at)
        text.push(token)
        yield None
        if stats.tokens == limit:
            yield "length" if limit == options.max_tokens else "context"
            return
        if is_late():
            yield "timeout"
            return
        sequence.feed([token], True)


class _Text:
    """From tokens to text that may be shown: whole characters, and nothing that may yet turn out
    to be the beginning of a stop string."""

    def __init__(self, stream: TextStream, stops: tuple[str, ...]) -> None:
        self._stream = stream
        self._stops = stops
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> None:
        self._held += self._stream.push([token])

    def take(self) -> str:
        """What can be let go of; sets `stopped` when a stop string is complete."""
        found = [at for at in map(self._held.find, self._stops) if at >= 0]
        if found:
            self.stopped = True
            return self._held[: min(found)]
        keep = max(map(self._begun, self._stops), default=0)
        out = self._held[: len(self._held) - keep]
        self._held = self._held[len(out) :]
        return out

    def flush(self, is_cut: bool) -> str:
        """The rest, when no more tokens come; without the beginning of a character that the model
        would have completed, had it not been cut short."""
        if not is_cut:
            self._held += self._stream.flush()
        out = self.take()
        return out if self.stopped else out + self._held

    def _begun(self, stop: str) -> int:
        """How many characters at the end of what is held begin this stop string."""
        for n in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if self._held.endswith(stop[:n]):
                return n
        return 0
