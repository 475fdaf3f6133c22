"""How many threads a model is best decoded and read with here, found by trying.

More threads are not always faster: decode reads memory, which a part of a board's cores may use up,
and threads wait for each other. So the first load of a model on a machine tries, for about a
second, up to three where a token takes long, and keeps what it found beside the model's packed
copy. Whatever is chosen, the tokens are the same.

Only what a machine can be asked in that time is tried: the threads of both phases, and the level of
decode's rows. How far ahead a row prefetches is not: on x86 384 and 512 bytes are alike in huge
pages (docs/experiments.md), and NEON's `gemv` prefetches nothing, as no board has been timed yet.

`$NYBBLE_TUNE` is `auto` (the default) or `0`: then every thread works. A model that was loaded with
a number of threads has just that number.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from itertools import count
from math import inf
from time import perf_counter, time
from typing import NamedTuple

from nybble import hub, machine
from nybble._core import native
from nybble._core.sequence import Engine, Sequence
from nybble.errors import NybbleError, UsageError

_SECONDS, _MOST_SECONDS = 1.0, 3.0  # that trying may take: of most models, and of slow ones
_TOKENS = 50  # whose time a trial is given, within these
_TOO_SLOW = 0.5  # seconds of a token with which too little can be tried in that time
_ROUNDS = 8  # of which each choice's best counts: what disturbs makes slower, never faster
_PROMPT, _PROBE = 16, 4  # tokens of calls that read a prompt: when timed, and when told how slow
_USUAL = 5  # calls' time that a round of one phase takes: 4, 3, 2, and 1 thread for twice as long
_AGAIN = 3600.0  # seconds after which a busy machine may not be busy any more
_WORTH = 1.03  # times as fast: for less, fewer threads leave a core to others
_CLEAR = 1.1  # times as slow: what comes after it will be slower still


class Tune(NamedTuple):
    """What a model runs with.

    decode_threads, prefill_threads : for one token at a time and for several
    level                           : of the rows that read a matrix for one token
    rounds                          : how often each choice was timed, at least: less on slow
                                      machines. 0: nothing was, for a token takes too long
    token_s                         : seconds of a call of one token so, at the best of these times
                                      and with an empty cache; 0 if that is not known
    """

    decode_threads: int
    prefill_threads: int
    level: str
    rounds: int
    token_s: float = 0.0


def is_wanted() -> bool:
    """Whether models are tuned, by $NYBBLE_TUNE and $NYBBLE_ISA, which forces a level."""
    wish = os.environ.get("NYBBLE_TUNE", "") or "auto"
    if wish not in ("auto", "1", "0"):
        raise UsageError(f"NYBBLE_TUNE is {wish!r:.40}; it may be auto or 0")
    return wish != "0" and not os.environ.get("NYBBLE_ISA")


def tuned(path: str, engine: Engine) -> Tune | None:
    """Has the engine of the model at `path` run with what was found for it on this machine, now or
    before. None where there is nothing to choose, a prompt of some length has no room, nothing can
    be kept, or the machine was busy: then it is tried again in an hour."""
    if not is_wanted() or engine.threads == 1:
        return None
    try:
        place = hub.tune_path(path)
    except UsageError:  # this user has no home
        return None
    is_known, found = _kept(place, engine.threads)
    if not is_known:
        if min(engine.context, engine.chunk, engine.weights.program.vocab) < _PROMPT:
            return None
        # First that nothing is, so that it is not tried at every start, nor by two at once.
        if not _keep(place, path, engine.threads, None):
            return None
        found = _tried(engine)
        _keep(place, path, engine.threads, found)
    if found is not None:
        _use(engine, found)
    return found


def kept(path: str) -> Tune | None:
    """What was found for the model at `path` on this machine, as it is now and as `load` would use
    it; None if nothing was."""
    if not is_wanted():
        return None
    try:
        return _kept(hub.tune_path(path), machine.default_threads())[1]
    except UsageError:  # this user has no home
        return None


def _use(engine: Engine, tune: Tune) -> None:
    engine.tune(tune.decode_threads, tune.prefill_threads, tune.level)


def all_kept() -> Iterator[tuple[str, Tune]]:
    """(name, what was found) of every model that was tuned on this machine, as it is now and as
    `load` would use it."""
    if not is_wanted():
        return
    with contextlib.suppress(OSError, UsageError):
        folder = os.path.join(hub.cache_folder(), "packed")
        for entry in sorted(os.listdir(folder)):
            if entry.endswith(hub.TUNE):
                _, tune = _kept(os.path.join(folder, entry), machine.default_threads())
                if tune is not None:
                    yield entry.removesuffix(hub.TUNE).rpartition("-")[0], tune


def is_of_use(place: str) -> bool:
    """Whether the model is there that the file at `place` was kept for."""
    lines = _lines(place)
    return lines is not None and os.path.isfile(lines[2])


# -- kept: a line that names the machine, as it is used, one of what was found, "-" for nothing, and
#    the model's path


def _here(threads: int) -> str:
    cpus = ",".join(map(str, machine.cpus()))
    levels = ",".join(native.levels())
    quota = machine.quota()
    return f"3; {machine.cpu_name()}; cpus {cpus}; quota {quota}; {levels}; threads {threads}"


def _lines(place: str) -> tuple[str, str, str] | None:
    """What is kept at `place`; anything may be in the file."""
    try:
        with open(place, "rb") as file:
            here, found, path = os.fsdecode(file.read(65_536)).split("\n", 2)
    except (OSError, ValueError):
        return None
    return here, found, path.removesuffix("\n")


def _kept(place: str, threads: int) -> tuple[bool, Tune | None]:
    """Whether it is known what to do, and what was found on this machine."""
    lines = _lines(place)
    if lines is None or lines[0] != _here(threads):
        return False, None
    found = lines[1]
    try:
        if found == "-":
            return 0 <= time() - os.stat(place).st_mtime < _AGAIN, None
        decode, prefill, level, rounds, token_s = found.split()
        tune = Tune(int(decode), int(prefill), level, int(rounds), float(token_s))
        numbers = tune[:2]
        is_right = 1 <= min(numbers) and max(numbers) <= threads and tune.rounds >= 0
        is_right = is_right and 0 <= tune.token_s < inf
        return (True, tune) if is_right and _runs(level) else (False, None)
    except (OSError, ValueError):
        return False, None


def _keep(place: str, path: str, threads: int, found: Tune | None) -> bool:
    """Keeps it, if that can be; whether it could."""
    from nybble.disk import part_of

    words = "-" if found is None else " ".join(map(str, found))
    text = os.fsencode(f"{_here(threads)}\n{words}\n{os.path.realpath(path)}\n")
    try:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with part_of(place, len(text), lambda: False) as part:
            assert part is not None
            part.write(text)
            part.flush()
    except OSError:
        return False
    return True


# -- trying


class _BusyError(Exception):
    """The machine has other things to do: the team of threads got smaller."""


def _tried(engine: Engine) -> Tune | None:
    """What is best by this engine, whose first sequence is empty before and afterwards. None if the
    machine is busy."""
    trial = _Trial(engine)
    try:
        return trial.run()
    except _BusyError:
        return None
    finally:
        engine.tune(engine.threads, engine.threads)
        trial.sequence.clear()


def _runs(level: str) -> bool:
    try:
        native.level_bits(level)
    except NybbleError:
        return False
    return True


def _levels() -> list[str]:
    """The two best that the CPU runs; plain C is never better than what was written for it."""
    levels = [level for level in reversed(native.levels()) if _runs(level)]
    return levels[: max(1, min(2, len(levels) - 1))]


class _Trial:
    """Calls of an engine that are timed, until the time is up. What could not be tried by then
    stays with all threads and the best level."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.sequence = Sequence(engine)
        self.end = inf  # of the time
        self.rounds = _ROUNDS  # that each choice has had, at least

    def run(self) -> Tune:
        threads, levels = self.engine.threads, _levels()
        found = Tune(threads, threads, levels[0], 0)
        token = self.awake(found, 1)
        found = found._replace(token_s=token)
        if token > _TOO_SLOW:
            return found
        # What the first call read from the disk, a reply would have had to read too.
        most = min(max(_SECONDS, _TOKENS * token), _MOST_SECONDS)
        self.end = perf_counter() + most - 2 * token

        counts = [n for n in range(1, threads) if n <= 4 or n & (n - 1) == 0]
        counts = [threads, *reversed(counts)]
        tunes = [found._replace(decode_threads=n) for n in counts]
        decode, token = self.quickest(tunes, 1, token)
        found = found._replace(decode_threads=decode.decode_threads, token_s=token)

        if self.has_time(6 * token):  # two probes, and a prompt, if it is limited by memory too
            probe = self.awake(found, _PROBE)
            if self.has_time(probe * _PROMPT / _PROBE):  # which it takes at most
                tunes = [found._replace(prefill_threads=n) for n in counts]
                prompt = self.seconds(found, _PROMPT)
                prefill, _ = self.quickest(tunes, _PROMPT, prompt)
                found = found._replace(prefill_threads=prefill.prefill_threads)

        if len(levels) > 1 and self.has_time(3 * token):
            token = self.awake(found, 1)
            tunes = [found._replace(level=level) for level in levels]
            found, token = self.quickest(tunes, 1, token)
            found = found._replace(token_s=min(token, found.token_s))
        return found._replace(rounds=self.rounds)

    def has_time(self, seconds: float) -> bool:
        return perf_counter() + seconds <= self.end

    def quickest(self, tunes: list[Tune], n: int, first: float) -> tuple[Tune, float]:
        """The one of them that makes calls of `n` tokens quickest, or fewer threads that are nearly
        as quick, and its seconds. `tunes` has the likeliest in front, which took `first` seconds
        just now; the first that is clearly slower ends it."""
        half = (self.end - perf_counter()) / 2  # the rest is for what is tried next
        rounds = max(1, min(_ROUNDS, int(half / (_USUAL * first))))
        before = native.busy_calls()
        least: list[float] = []
        for tune in tunes:
            # At most twice as long as the one before: the threads are halved at most.
            best, expected = (inf, 2 * least[-1]) if least else (first, first)
            done = 0 if least else 1
            while done < rounds and self.has_time(expected):  # in a row: who is awake stays so
                expected = self.seconds(tune, n)
                best = min(best, expected)
                done += 1
            if native.busy_calls() != before:
                raise _BusyError
            if done == 0:
                break
            least.append(best)
            self.rounds = min(self.rounds, done)
            if best > _CLEAR * min(least):
                break
        good = [i for i, seconds in enumerate(least) if seconds <= _WORTH * min(least)]
        chosen = min(good, key=lambda i: tunes[i].decode_threads + tunes[i].prefill_threads)
        return tunes[chosen], least[chosen]

    def awake(self, tune: Tune, n: int) -> float:
        """How long a call takes once all threads work: those that slept come late, or wait for the
        disk, and after that fewer work for a while."""
        end = min(self.end, perf_counter() + _SECONDS)
        for tries in count(1):
            before = native.busy_calls()
            self.seconds(tune, n)
            second = self.seconds(tune, n)
            if native.busy_calls() == before:
                return second
            if tries > 1 and perf_counter() > end:
                break
        raise _BusyError

    def seconds(self, tune: Tune, n: int) -> float:
        """How long a call of `n` tokens takes, of any, from an empty cache on."""
        _use(self.engine, tune)
        self.sequence.rewind(0)
        start = perf_counter()
        self.sequence.feed(list(range(n)))
        return perf_counter() - start
