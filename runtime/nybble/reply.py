"""A reply: lazy, iterable, with its statistics."""

from __future__ import annotations

import sys
from _thread import allocate_lock, get_ident
from _weakref import ref
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from functools import partial
from time import sleep

from nybble.errors import NybbleError
from nybble.generation import Clock, generate
from nybble.machine import peak_bytes
from nybble.options import Options
from nybble.sequences import POLL_S, Loan, Owner, Sequences, watch_forks
from nybble.thinking import Splitter
from nybble.tokenizer import Tokenizer

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    from asyncio import Future

    from nybble.shift import Shift
    from nybble.thinking import Kind, Part

LONGEST_POLL_S = 0.01


class Stats:
    """What a reply cost. Rates are None until there is something to divide.

    prompt_tokens  : tokens of the prompt
    cached_tokens  : of those, how many were still in the cache
    tokens         : tokens of the reply so far, thinking included
    prefill_tok_s  : prompt tokens that were run, a second
    decode_tok_s   : tokens a second after the first
    first_token_s  : seconds from the first step to the first token, waiting for a turn included
    total_s        : seconds from the first step to the last
    peak_bytes     : the most memory the process has held (VmHWM), when the reply ended
    seed           : of the random numbers
    context        : positions there are for prompt and reply: fewer than were asked for where the
                     model was loaded with on_exceed="adapt" into too little memory
    kv             : how keys and values are stored: "f16", "v8" or "int8", which may not be what
                     was asked for either
    dropped_tokens : of the prompt and the reply so far, how many a full context has let go of: 0
                     but where the model was loaded with overflow="shift"
    dropped_system_tokens : of those, how many are of the system message, of which half the context
                     is kept at most
    stop_reason    : "end", "stop", "length", "context", "timeout", "closed"; None while running
    """

    __slots__ = (
        "cached_tokens",
        "context",
        "decode_tok_s",
        "dropped_system_tokens",
        "dropped_tokens",
        "first_token_s",
        "kv",
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
        self.context: int | None = None
        self.kv: str | None = None
        self.cached_tokens = 0
        self.dropped_tokens = 0
        self.dropped_system_tokens = 0
        self.tokens = 0
        self.prefill_tok_s: float | None = None
        self.decode_tok_s: float | None = None
        self.first_token_s: float | None = None
        self.total_s: float | None = None
        self.peak_bytes: int | None = None
        self.seed = seed
        self.stop_reason: str | None = None

    def asdict(self) -> dict[str, object]:
        """All of it by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __repr__(self) -> str:
        return f"Stats({', '.join(f'{k}={v!r}' for k, v in self.asdict().items())})"


class Reply:
    """A reply that is made while it is read: **nothing runs until it is iterated or read**.

        for text in reply: ...         pieces of text, as they come
        async for text in reply: ...   the same in asyncio, which stays responsive
        reply.text, str(reply)         the whole text
        reply.thinking                 what the model thought before, if it is one that does
        reply.parts()                  both as they come: pairs of "thinking" or "text", and a piece
        reply.stats                    what it cost
        reply.close()                  ends it where it is; also at the end of `with reply:`

    Iterating again starts from the beginning, with the pieces that are there already. When the
    last reference goes it is closed, so leaving a loop over `model.ask(...)` frees the model.
    Several threads and tasks may read a reply, and any may close it.
    """

    def __init__(
        self,
        sequences: Sequences,
        tokenizer: Tokenizer,
        prompt: list[int],
        options: Options,
        splitter: Splitter | None = None,
        on_end: Callable[[str], None] | None = None,
        shift: Shift | None = None,
    ) -> None:
        self.stats = Stats(len(prompt), options.seed)
        self._sequences = sequences
        self._prompt = prompt
        self._options = options
        self._tokenizer = tokenizer
        self._splitter = splitter
        self._on_end = on_end
        self._shift = shift
        self._parts: list[Part] = []
        self._lock = allocate_lock()  # of readers
        self._clock: Clock | None = None
        self._loan: ref[Loan] | None = None  # the steps alone hold it
        self._steps: Generator[list[Part], None, str] | None = None
        self._is_closed = False
        self._error: NybbleError | None = None
        watch_forks(self)

    # -- reading

    def __iter__(self) -> Iterator[str]:
        for kind, piece in self.parts():
            if kind == "text":
                yield piece

    def __aiter__(self) -> AsyncIterator[str]:
        return _Texts(self)

    def parts(self) -> Parts:
        """The pieces of the thinking and of the text as they come, for `for` and for `async for`:
        pairs of a kind, "thinking" or "text", and a str."""
        return Parts(self)

    @property
    def text(self) -> str:
        """The whole text; waits until the reply has ended."""
        self._read_until(lambda: False)
        return self._joined("text")

    @property
    def thinking(self) -> str:
        """The whole of what the model thought before its text, "" if it did not; waits until the
        text has begun or the reply has ended."""
        self._read_until(lambda: self._parts[-1:] != [] and self._parts[-1][0] == "text")
        return self._joined("thinking")

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        state = self.stats.stop_reason or ("not begun" if self._clock is None else "running")
        return f"<nybble.Reply, {self.stats.tokens:,} tokens, {state}>"

    # -- ending

    def close(self) -> None:
        """Ends the reply where it is; what there is of it stays. While another thread reads it, it
        ends with that thread's token or chunk of the prompt, and this does not wait for it."""
        self._is_closed = True
        if self._lock.acquire(False):  # else its reader looks at _is_closed behind its step
            try:
                self._end("closed")
            finally:
                self._lock.release()

    async def aclose(self) -> None:
        """`close`, and waits until a step under way is done: then its sequence is free."""
        from asyncio import sleep

        self.close()
        while self.stats.stop_reason is None or self._lock.locked():
            await sleep(POLL_S)

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Reply:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # __init__ may have failed; and an interpreter that shuts down has lost what ending needs
        if hasattr(self, "_steps") and not sys.is_finalizing():
            self.close()

    def _after_fork(self) -> None:
        """In a forked child: ends a reply that another thread was reading."""
        loan = None if self._loan is None else self._loan()
        if self._lock.locked() or (loan is not None and loan.owner.thread != get_ident()):
            self._lock = allocate_lock()
            if loan is not None:  # its steps may be held for good by a thread that is no more
                loan.end()
            self._end("closed")

    # -- within

    def _read_until(self, is_enough: Callable[[], bool]) -> None:
        """Goes on until that is so or the reply has ended. Ctrl-C between two steps ends it, as it
        does in one."""
        try:
            while not is_enough() and self._read():
                pass
        except NybbleError:
            raise
        except BaseException:
            self.close()
            raise

    def _read(self) -> bool:
        """Goes on by a step, as soon as there is a sequence; False when the reply has ended."""
        try:
            owner = Owner() if self._steps is None else None
            while (went := self._step(owner, blocks=True)) is None:
                sleep(POLL_S)
            return went
        except NybbleError:
            raise
        except BaseException:
            self.close()
            raise

    async def _aread(self) -> bool:
        """The same while the event loop goes on. A step is made in a thread of its executor;
        waiting is not, for those who wait could have all the threads there are."""
        from asyncio import get_running_loop, sleep

        owner, pause = Owner() if self._steps is None else None, POLL_S
        try:
            while self._waits(owner):
                await sleep(pause)
                pause = min(1.5 * pause, LONGEST_POLL_S)
            loop = get_running_loop()
            step = loop.run_in_executor(None, _step_of, ref(self), owner)
            # The task waits for a future of its own. Ctrl-C cancels it in a signal's handler, so
            # between any two bytecodes; and where asyncio, at the step's end, has just seen that
            # the future that is waited for is not cancelled, it would complain a moment later.
            done = loop.create_future()
            step.add_done_callback(partial(_wake, done))
            await done
            return step.result() is not False
        except NybbleError:
            raise
        except BaseException:  # cancelled, as a rule
            self.close()
            raise

    def _waits(self, owner: Owner | None) -> bool:
        """Whether there is no sequence for a reply that needs one. owner: None, if it has begun."""
        if self._is_closed:
            self.close()
        if owner is None or not self._lock.acquire(False):
            return False
        try:
            begins = self._steps is None and self.stats.stop_reason is None
            return begins and not self._begin(owner, False)
        finally:
            self._lock.release()

    def _step(self, owner: Owner | None, *, blocks: bool) -> bool | None:
        """Goes on by a chunk of the prompt or a token of the reply. False when it has ended, None
        when there is no sequence yet. owner: who wants one; None if the reply had begun. blocks:
        the owner's thread waits here."""
        with self._lock:
            has_turn = True
            if self._steps is None:
                if self._error is not None:
                    raise self._error
                if owner is None or self.stats.stop_reason is not None:
                    return False
                has_turn = self._begin(owner, blocks)
                if has_turn and self._steps is None:
                    return False  # time was up
            if self._steps is not None:
                self._go_on(self._steps)
        if self._is_closed:
            self.close()
        return True if has_turn else None

    def _begin(self, owner: Owner, blocks: bool) -> bool:
        """Borrows a sequence, unless time is up, which ends the reply; False if there is none yet.
        BusyError leaves the reply as it was. The caller holds the lock."""
        clock = self._clock or Clock(self._options.timeout_s)
        loan = None
        try:
            loan = self._sequences.borrow(self._prompt, owner, blocks=blocks)
            self._clock = clock
            if loan is None:
                self.stats.total_s = clock.passed()
                if clock.is_late():
                    self._end("timeout")
                    return True
                return False
            self._loan = ref(loan)
            self._steps = generate(
                loan,
                self._tokenizer,
                self._prompt,
                self._options,
                self._splitter,
                self.stats,
                clock,
                self._shift,
            )
            return True
        except BaseException:
            if loan is not None:
                loan.end()  # the traceback may live on
            raise

    def _go_on(self, steps: Generator[list[Part], None, str]) -> None:
        """The caller holds the lock."""
        try:
            self._parts += next(steps)
        except StopIteration as end:
            self._end(end.value or "closed")
        except BaseException as error:
            if isinstance(error, NybbleError):
                self._error = error  # and not an empty text the next time
            self._end("closed")
            raise

    def _end(self, reason: str) -> None:
        """The caller holds the lock."""
        if self.stats.stop_reason is not None:
            return
        self.stats.stop_reason = reason
        steps, self._steps = self._steps, None
        if steps is not None:
            try:
                steps.close()
            except ValueError:
                pass  # it is running, in a thread that a fork has left behind
        self.stats.peak_bytes = peak_bytes()
        if steps is not None and self._on_end is not None:
            self._on_end(self._joined("text"))

    def _joined(self, kind: Kind) -> str:
        return "".join(piece for found, piece in self._parts if found == kind)


def _wake(done: Future[None], step: Future[bool | None]) -> None:
    """Tells the one who waits for a step that it is done, if anyone still does."""
    from asyncio import InvalidStateError

    if not step.cancelled():
        step.exception()  # else asyncio says that nobody looked
    try:
        done.set_result(None)
    except InvalidStateError:
        pass


def _step_of(reply: ref[Reply], owner: Owner | None) -> bool | None:
    """A step in a thread of the executor, which keeps what it was handed for longer than the step:
    a reply that is dropped then must end at once."""
    there = reply()
    return False if there is None else there._step(owner, blocks=False)


class Parts:
    """The parts of a reply as they come, for `for` and for `async for`."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._taken = 0

    def __iter__(self) -> Parts:
        return self

    def __next__(self) -> Part:
        # Again at the end: while one waits, another reader may bring the reply there.
        while not self._is_there():
            if not self._reply._read() and not self._is_there():
                raise StopIteration
        return self._take()

    def __aiter__(self) -> Parts:
        return self

    async def __anext__(self) -> Part:
        while not self._is_there():
            if not await self._reply._aread() and not self._is_there():
                raise StopAsyncIteration
        return self._take()

    def _is_there(self) -> bool:
        return self._taken < len(self._reply._parts)

    def _take(self) -> Part:
        self._taken += 1
        return self._reply._parts[self._taken - 1]


class _Texts:
    """The pieces of text for `async for`. No generator: its end would wait for the event loop."""

    def __init__(self, reply: Reply) -> None:
        self._parts = Parts(reply)

    def __aiter__(self) -> _Texts:
        return self

    async def __anext__(self) -> str:
        while True:
            kind, piece = await self._parts.__anext__()
            if kind == "text":
                return piece
