"""Sides measured in turn, and what the turns say together.

A side is a program that keeps its model loaded and times what it is asked for, one figure a turn:
prefill of a prompt, or decode at a depth. So a turn is short, and those of a figure follow one
another within a second or two: what the machine does to one side, it does to all.

Two threads have the units of one core between them or a core each, which is not the same machine;
a host moves the CPUs of a virtual one from one to the other while it runs. The barrier tells them
apart (`placement_of`), before and after each turn.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any, NamedTuple

from tools.peers.build import Form

Say = Callable[[str], None]
NYBBLE = "nybble"
NEAR = 512  # tokens of context that fill the windows of layers that have one
ANYWHERE = "anywhere"
ONE_CORE = "one core"
TWO_CORES = "two cores"
MOVED = "moved"
UNKNOWN = "not known"
# Between what was seen: at most 0.1 us on one core, and 0.15 and 0.28 us on two.
ONE_CORE_BARRIER_US = 0.12
SETTLE_S = 0.02  # until a peer's threads, which wait for more work awake, have gone to sleep
LOOK_AGAIN_S = 0.1  # how long to sleep until the next look at where the CPUs are


class MeasureError(Exception):
    """A side that did not give its figures: the command and what it said."""


class Plan(NamedTuple):
    """What every side does."""

    threads: int
    prompt: int  # tokens of prefill
    gen: int  # tokens of each reply
    depths: tuple[int, ...]  # tokens in the context before a reply

    def figures(self) -> list[str]:
        """Names of what is measured, each in tokens a second."""
        return [f"prefill {self.prompt}", *(f"decode at {depth:,}" for depth in self.depths)]

    def positions(self) -> int:
        """Tokens that a context has to have room for."""
        return max(self.prompt, *(max(depth, 1) + self.gen for depth in self.depths))


class Side(NamedTuple):
    """A program at work on a file: `form` says on which form of the model."""

    name: str
    form: str
    is_file: bool  # the same file as nybble's, not another form of the model
    command: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}, {self.form}"


class Turn(NamedTuple):
    """A side's rate of one figure in tokens a second; what nybble tells of the machine in the same
    second, if it has been asked: the share of a plain read that decode reached, the plain read in
    GB/s, the barrier in us (the longer one of before and after; 0 if one thread worked); and how
    many CPUs others than the side kept busy meanwhile."""

    rate: float
    read_share: float = 0.0
    read_gb_s: float = 0.0
    barrier_us: float = 0.0
    others_cpus: float = 0.0


# Of each figure, in the order of Plan.figures(): the turns of each side.
Turns = list[dict[Side, list[Turn]]]


def nybble_side(model: str, plan: Plan) -> Side:
    """nybble itself, by the bench that its users have."""
    command = [sys.executable, "-m", "tools.peers.own", model]
    return Side(NYBBLE, "file", True, (*command, str(plan.threads), str(plan.positions())))


def peer_side(name: str, driver: Path, model: Path, form: Form, plan: Plan) -> Side:
    """A peer's driver on a model that is in this form already."""
    command = [str(driver), "serve", str(model), str(plan.threads)]
    command += [",".join(form.options) or "defaults", str(plan.positions())]
    return Side(name, form.name, form.ftype is None, tuple(command))


class Served:
    """A side at work: a process that answers each line with one."""

    def __init__(self, side: Side, process: subprocess.Popen[str], log: Path) -> None:
        self.side = side
        self._process = process
        self._log = log

    def ask(self, line: str) -> list[float]:
        """The numbers that it answers, none for "ok"."""
        pipe, out = self._process.stdin, self._process.stdout
        assert pipe is not None
        assert out is not None
        answer = ""
        try:
            print(line, file=pipe, flush=True)
            answer = out.readline()
            if not answer:
                raise ValueError(f"it ended with {self._process.wait()}")
            return [] if answer == "ok\n" else [float(word) for word in answer.split()]
        except (OSError, ValueError) as error:
            said = self._log.read_text(errors="replace").strip()[-2000:]
            command = " ".join(self.side.command)
            raise MeasureError(f"{self.side}: {error!r} to {line} of: {command}\n{said}") from error

    def seconds(self, line: str) -> float:
        """How long it says that something took."""
        answer = self.ask(line)
        if len(answer) != 1 or not answer[0] > 0:
            raise MeasureError(f"{self.side}: {answer} to {line}: not a time")
        return answer[0]

    def cpu_seconds(self) -> float:
        """CPU seconds that its process has taken."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(side: Side) -> Iterator[Served]:
    """Starts a side, and ends it."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as log:
        process = subprocess.Popen(
            side.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            yield Served(side, process, Path(log.name))
        finally:
            process.kill()
            process.communicate()


def take_turn(served: Served, plan: Plan, figure: int) -> Turn:
    """A figure of a side, once: prefill, or decode at one of the depths."""
    if figure:
        served.ask(f"fill {max(plan.depths[figure - 1], 1)}")
    busy, own, start = busy_cpu_seconds(), served.cpu_seconds(), perf_counter()
    if figure:
        rate = plan.gen / served.seconds(f"reply {plan.gen}")
    else:
        rate = plan.prompt / served.seconds(f"prompt {plan.prompt}")
    took = perf_counter() - start
    others = ((busy_cpu_seconds() - busy) - (served.cpu_seconds() - own)) / took
    # ticks of 10 ms can make it a little less than nothing
    return Turn(rate, others_cpus=max(others, 0.0))


def busy_cpu_seconds() -> float:
    """CPU seconds that the machine has spent, as far as /proc/stat tells. Time that a hypervisor
    took is not in it."""
    user, nice, system, _, _, irq, softirq = (
        int(ticks) for ticks in Path("/proc/stat").read_text().split(maxsplit=8)[1:8]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def placement_of(before_us: float, after_us: float) -> str:
    """Where two threads were during a turn, by the barrier before and after it: 0 where the machine
    was busy and one worked alone."""
    if not before_us or not after_us:
        return UNKNOWN
    together = {barrier_us < ONE_CORE_BARRIER_US for barrier_us in (before_us, after_us)}
    if len(together) == 2:
        return MOVED
    return ONE_CORE if together == {True} else TWO_CORES


class Machine:
    """What the machine gives, by nybble's own measure of it: a side of its own, so that it can be
    asked in any turn."""

    def __init__(self, nybble: Served, plan: Plan) -> None:
        self._nybble = nybble
        self._plan = plan

    def barrier_us(self) -> float:
        """The barrier; 0 if one thread works alone."""
        return self._nybble.ask("barrier")[0] * 1e6 if self._plan.threads > 1 else 0.0

    def placement(self) -> str:
        """Where the threads are now."""
        barrier_us = self.barrier_us()
        return placement_of(barrier_us, barrier_us)

    def turn(self, served: Served, figure: int) -> tuple[Turn, str]:
        """A turn with what the machine gave, and where the threads were."""
        own_decode = figure > 0 and served.side.name == NYBBLE
        reads = [self._nybble.seconds("read")] if own_decode else []
        if figure:  # so that it is not filled between the looks at the barrier
            served.ask(f"fill {max(self._plan.depths[figure - 1], 1)}")
        before = self.barrier_us()
        turn = take_turn(served, self._plan, figure)
        sleep(SETTLE_S)
        after = self.barrier_us()
        if own_decode:
            reads.append(self._nybble.seconds("read"))
            step, weights = self._nybble.ask(
                f"bytes {self._plan.depths[figure - 1]} {self._plan.gen}"
            )
            read_gb_s = weights / 1e9 / (sum(reads) / len(reads))
            share = turn.rate * step / 1e9 / read_gb_s
            turn = turn._replace(read_share=share, read_gb_s=read_gb_s)
        return turn._replace(barrier_us=max(before, after)), placement_of(before, after)


def take_rounds(
    sides: Sequence[Side],
    plan: Plan,
    rounds: int,
    say: Say,
    placements: Sequence[str] = (ANYWHERE,),
    patience_s: float = 900.0,
) -> dict[str, Turns]:
    """All sides once a round, for one figure after the other; the first of them is nybble, and each
    round begins with another one.

    With placements, each of them has rounds of its own, and a turn in which the threads moved
    counts for none. What is lacking after `patience_s` seconds of a figure goes without: the rounds
    are then those that are whole, and there may be none.

    Raises MeasureError where a side fails.
    """
    found: dict[str, Turns] = {placement: [] for placement in placements}
    with ExitStack() as stack:
        served = {side: stack.enter_context(serving(side)) for side in sides}
        for side in sides:  # all are loaded before one is timed
            say(f"loading: {side}")
            served[side].ask("fill 1")
        machine = Machine(served[sides[0]], plan)
        for i, figure in enumerate(plan.figures()):
            taken = {p: {side: list[Turn]() for side in sides} for p in placements}
            end = float("inf") if ANYWHERE in placements else perf_counter() + patience_s
            while perf_counter() < end:
                lacking = [p for p in placements if _whole(taken[p]) < rounds]
                if not lacking:
                    break
                where = machine.placement() if ANYWHERE not in placements else ANYWHERE
                if where not in lacking:
                    sleep(LOOK_AGAIN_S)
                    continue
                side = _next_side(taken[where])
                turn, still = machine.turn(served[side], i)
                if still == where or where == ANYWHERE:
                    taken[where][side].append(turn)
                    n = len(taken[where][side])
                    say(f"{figure}, {where}, {n} of {rounds}: {side}: {turn.rate:.1f}")
            for p in placements:
                n = _whole(taken[p])
                found[p].append({side: turns[:n] for side, turns in taken[p].items()})
    for p, turns in found.items():
        for figure, taken_there in zip(plan.figures(), turns, strict=True):
            if not _whole(taken_there):
                say(f"not measured: {figure} on {p}: the threads were not there for a round")
    return found


def _whole(taken: Mapping[Side, Sequence[Turn]]) -> int:
    """How many rounds are whole."""
    return min(len(turns) for turns in taken.values())


def _next_side(taken: Mapping[Side, Sequence[Turn]]) -> Side:
    """Whose turn it is: in round n it begins with side n."""
    sides = list(taken)
    n = _whole(taken)
    order = [sides[(n + i) % len(sides)] for i in range(len(sides))]
    return next(side for side in order if len(taken[side]) == n)


def fastest(turns: Mapping[Side, Sequence[Sequence[float]]]) -> list[Side]:
    """Of the sides of one peer on forms of one kind, by their trials' (prefill, decode) rates: the
    fastest at prefill and the fastest at decode, by their best turns; often they are one, and none
    of none."""

    def best(side: Side, at: int) -> float:
        return max(rates[at] for rates in turns[side])

    if not turns:
        return []
    chosen = {max(turns, key=lambda side, at=at: best(side, at)) for at in (0, 1)}  # type: ignore[misc]
    return [side for side in turns if side in chosen]


def summary(plan: Plan, found: Turns) -> list[dict[str, Any]]:
    """A row for each figure that was measured and side: median and spread, and nybble's median as a
    multiple of it. nybble's own rows of decode say how much of the plain read they reach."""
    rows = []
    for figure, turns in zip(plan.figures(), found, strict=True):
        if not _whole(turns):
            continue
        middle = {side: median(turn.rate for turn in turns[side]) for side in turns}
        ours = next((middle[side] for side in turns if side.name == NYBBLE), None)
        for side in turns:
            rates = [turn.rate for turn in turns[side]]
            row: dict[str, Any] = {
                "threads": plan.threads,
                "figure": figure,
                "side": side.name,
                "form": side.form,
                "is_file": side.is_file,
                "tok_s": middle[side],
                "min": min(rates),
                "max": max(rates),
                "rounds": rates,
                "others_cpus": [turn.others_cpus for turn in turns[side]],
            }
            if side.name != NYBBLE and ours is not None:
                row["nybble_is"] = ours / middle[side]
            shares = [turn.read_share for turn in turns[side]]
            if all(shares):
                row["read_share"] = median(shares)
            rows.append(row)
    return rows


def against_strongest(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each figure nybble's median as a multiple of the strongest peer's, on the same file and
    in its best form of the model."""
    by_figure: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_figure.setdefault(row["figure"], []).append(row)
    found = []
    for figure, group in by_figure.items():
        for is_file in (True, False):
            peers = [r for r in group if "nybble_is" in r and r["is_file"] == is_file]
            if peers:
                row = max(peers, key=lambda r: r["tok_s"])
                found.append(
                    {
                        "threads": row["threads"],
                        "figure": figure,
                        "same_file": is_file,
                        "side": row["side"],
                        "form": row["form"],
                        "nybble_is": row["nybble_is"],
                    }
                )
    return found


def context_costs(plan: Plan, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What 1,000 tokens of context add to a token of each side, in ms: by its median rates at the
    least and the greatest depth from NEAR on that was measured. Empty if there is one or none."""
    rates: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        rates.setdefault((row["side"], row["form"]), {})[row["figure"]] = row["tok_s"]
    measured = {figure for of in rates.values() for figure in of}
    depths = sorted(d for d in plan.depths if d >= NEAR and f"decode at {d:,}" in measured)
    if len(depths) < 2:
        return []
    near, far = depths[0], depths[-1]
    found = []
    for (side, form), of in rates.items():
        seconds = 1 / of[f"decode at {far:,}"] - 1 / of[f"decode at {near:,}"]
        cost = seconds * 1e6 / (far - near)
        found.append({"side": side, "form": form, "from": near, "to": far, "ms": cost})
    return found


def conditions(found: Turns) -> dict[str, list[float]]:
    """What the machine gave: plain read in GB/s, barrier in us, CPUs that others kept busy; [least,
    median, most] of each, over the turns that tell of it."""
    every = [turn for turns in found for taken in turns.values() for turn in taken]
    told = {}
    for name in ("read_gb_s", "barrier_us", "others_cpus"):
        values = [getattr(turn, name) for turn in every]
        if name != "others_cpus":
            values = [value for value in values if value]
        if values:
            told[name] = [min(values), median(values), max(values)]
    return told
