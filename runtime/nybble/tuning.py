"""How many threads a model is best decoded and read with here, found by trying.

More threads are not always faster: decode reads memory, which a part of a board's cores may use up,
and threads wait for each other. So the first load of a model on a machine tries, for a second at
most, and keeps what it found beside the model's packed copy. Whatever is chosen, the tokens are the
same.

`$NYBBLE_TUNE` is `auto` (the default) or `0`: then every thread works. A model that was loaded with
a number of threads has just that number.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from math import inf
from time import perf_counter, time
from typing import NamedTuple

from nybble import hub, machine
from nybble._core import native
from nybble._core.sequence import Engine, Sequence
from nybble.errors import NybbleError, UsageError

SECONDS = 1.0  # that trying may take
_ROUNDS = 3  # of which each choice's best counts: what disturbs makes slower, never faster
_DECODE, _PREFILL = (1,) * 4, (16,)  # tokens of calls
_AGAIN = 3600.0  # seconds after which a busy machine may not be busy any more
_WORTH = 1.03  # times as fast: for less, fewer threads leave a core to others


class Tune(NamedTuple):
    """What a model runs with.

    decode_threads, prefill_threads : for one token at a time and for several
    level                           : of the rows that read a matrix for one token
    """

    decode_threads: int
    prefill_threads: int
    level: str


def is_wanted() -> bool:
    """Whether models are tuned, by $NYBBLE_TUNE and $NYBBLE_ISA, which forces a level."""
    wish = os.environ.get("NYBBLE_TUNE", "") or "auto"
    if wish not in ("auto", "1", "0"):
        raise UsageError(f"NYBBLE_TUNE is {wish!r:.40}; it may be auto or 0")
    return wish != "0" and not os.environ.get("NYBBLE_ISA")


def tuned(path: str, engine: Engine) -> Tune | None:
    """Has the engine of the model at `path` run with what was found for it on this machine, now or
    before. None where there is nothing to choose, or nothing could be found: the machine is busy,
    or the model takes longer than trying may; then it is tried again in an hour."""
    if not is_wanted() or engine.threads == 1:
        return None
    place = hub.tune_path(path)
    is_known, found = _kept(place, engine.threads)
    if not is_known:
        found = _tried(engine)
        _keep(place, engine.threads, found)
    if found is not None:
        engine.tune(*found)
    return found


def all_kept() -> Iterator[tuple[str, Tune]]:
    """(name, what was found) of every model that was tuned on this machine, as it is now."""
    folder = os.path.join(hub.cache_folder(), "packed")
    with contextlib.suppress(OSError):
        for entry in sorted(os.listdir(folder)):
            if entry.endswith(hub.TUNE):
                _, kept = _kept(os.path.join(folder, entry), machine.default_threads())
                if kept is not None:
                    yield entry.removesuffix(hub.TUNE).rpartition("-")[0], kept


# -- kept: a line that names the machine, as it is used, and one of what was found, "-" for nothing


def _here(threads: int) -> str:
    cpus = ",".join(map(str, machine.cpus()))
    levels = ",".join(native.levels())
    quota = machine.quota()
    return f"1; {machine.cpu_name()}; cpus {cpus}; quota {quota}; {levels}; threads {threads}"


def _kept(place: str, threads: int) -> tuple[bool, Tune | None]:
    """Whether it is known what to do, and what was found on this machine; anything may be in the
    file."""
    try:
        with open(place, encoding="utf-8") as file:
            here, found = file.read(65_536).splitlines()
            age = time() - os.fstat(file.fileno()).st_mtime
        if here != _here(threads):
            return False, None
        if found == "-":
            return 0 <= age < _AGAIN, None
        decode, prefill, level = found.split()
        kept = Tune(int(decode), int(prefill), level)
    except (OSError, ValueError):
        return False, None
    numbers = kept[:2]
    is_right = 1 <= min(numbers) and max(numbers) <= threads and _runs(level)
    return (True, kept) if is_right else (False, None)


def _keep(place: str, threads: int, found: Tune | None) -> None:
    """Keeps it, if that can be: trying again is all that it saves."""
    words = "-" if found is None else " ".join(map(str, found))
    part = f"{place}.{os.getpid()}"
    with contextlib.suppress(OSError):
        try:
            with open(part, "w", encoding="utf-8") as file:
                file.write(f"{_here(threads)}\n{words}\n")
            os.replace(part, place)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(part)


# -- trying


def _tried(engine: Engine) -> Tune | None:
    """What is best by this engine, whose first sequence is empty before and afterwards. None if it
    takes too long, or the machine has other things to do."""
    sequence, threads = Sequence(engine), engine.threads
    counts = [n for n in range(1, threads + 1) if n <= 4 or n == threads or n & (n - 1) == 0]
    levels = [level for level in reversed(native.levels()) if _runs(level)][:2]
    found = Tune(threads, threads, levels[0])
    choices = (
        ([found._replace(decode_threads=n) for n in counts], _DECODE),
        ([found._replace(prefill_threads=n) for n in counts], _PREFILL),
        ([found._replace(level=level) for level in levels], _DECODE),
    )
    best = []
    try:
        for tunes, sizes in choices:
            fastest = _fastest(engine, sequence, tunes, sizes)
            if fastest is None:
                return None
            best.append(fastest)
    finally:
        engine.tune(threads, threads)
        sequence.clear()
    decode, prefill, rows = best
    return Tune(decode.decode_threads, prefill.prefill_threads, rows.level)


def _runs(level: str) -> bool:
    try:
        native.level_bits(level)
    except NybbleError:
        return False
    return True


def _fastest(
    engine: Engine, sequence: Sequence, tunes: list[Tune], sizes: tuple[int, ...]
) -> Tune | None:
    """The first of them that no other is worth waiting for. None if the time is up before each has
    been tried, or the team got smaller, as it does on a busy machine. sizes: tokens of the calls
    that are timed."""
    end = perf_counter() + SECONDS / 3
    alone = -1
    while native.solo_calls() != alone:  # threads that slept came late: until all work
        alone = native.solo_calls()
        _seconds(engine, sequence, tunes[-1], sizes)
        if perf_counter() > end:
            return None
    least = [inf] * len(tunes)
    for i in reversed(range(len(tunes))):  # those with most threads first: they are quick
        for _ in range(_ROUNDS):  # in a row: each thread that has to wake comes late once
            least[i] = min(least[i], _seconds(engine, sequence, tunes[i], sizes))
            is_late = perf_counter() > end
            if is_late:
                break
        if native.solo_calls() != alone or (is_late and i > 0):
            return None
    best = min(least)
    return next(tune for tune, s in zip(tunes, least, strict=True) if s <= best * _WORTH)


def _seconds(engine: Engine, sequence: Sequence, tune: Tune, sizes: tuple[int, ...]) -> float:
    """How long such calls take, of any tokens, from an empty cache on."""
    engine.tune(*tune)
    sequence.rewind(0)
    start = perf_counter()
    for n in sizes:
        sequence.feed(list(range(n)))
    return perf_counter() - start
