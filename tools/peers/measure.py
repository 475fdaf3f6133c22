"""Sides measured in turn, and what the turns say together.

A side is a program that is run once a turn, a process of its own, and prints one JSON object:
`prefill_tok_s`, `decode_tok_s` (a number for each depth), and, if it is nybble, what the machine
gave in the same seconds.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

from tools.peers.build import Form

Say = Callable[[str], None]
NYBBLE = "nybble"
NEAR = 512  # tokens of context that fill the windows of layers that have one


class MeasureError(Exception):
    """A side that did not give its figures: the command and what it said."""


class Plan(NamedTuple):
    """What every side does in a turn."""

    threads: int
    prompt: int  # tokens of prefill
    gen: int  # tokens of each reply
    depths: tuple[int, ...]  # tokens in the context before a reply

    def figures(self) -> list[str]:
        """Names of what a turn measures, each in tokens a second."""
        return [f"prefill {self.prompt}", *(f"decode at {depth:,}" for depth in self.depths)]


class Side(NamedTuple):
    """A program at work on a file: `form` says on which form of the model."""

    name: str
    form: str
    is_file: bool  # the same file as nybble's, not another form of the model
    command: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}, {self.form}"


class Turn(NamedTuple):
    """A side's figures of one turn, (1 + depths,) tokens a second; what nybble tells of the
    machine: bytes that a token reads at each depth, plain read in GB/s, barrier in us (0 if one
    thread worked); and how many CPUs other programs kept busy meanwhile, on the mean."""

    rates: tuple[float, ...]
    bytes_per_token: tuple[int, ...] = ()
    read_gb_s: float = 0.0
    barrier_us: float = 0.0
    others_cpus: float = 0.0


def nybble_side(model: str, plan: Plan) -> Side:
    """nybble itself, by the bench that its users have."""
    command = [sys.executable, "-m", "nybble", "bench", model, "--json", "--runs", "1"]
    command += ["--threads", str(plan.threads), "--prompt", str(plan.prompt)]
    command += ["--gen", str(plan.gen)]
    for depth in plan.depths:
        command += ["--depth", str(depth)]
    return Side(NYBBLE, "file", True, tuple(command))


def peer_side(name: str, driver: Path, model: Path, form: Form, plan: Plan) -> Side:
    """A peer's driver on a model that is in this form already."""
    command = [str(driver), "bench", str(model), str(plan.threads)]
    command += [",".join(form.options) or "defaults"]
    command += [str(n) for n in (plan.prompt, plan.gen, *plan.depths)]
    return Side(name, form.name, form.ftype is None, tuple(command))


def take_turn(side: Side, plan: Plan) -> Turn:
    """Runs a side once."""
    before = others_cpu_seconds()
    start = perf_counter()
    done = subprocess.run(side.command, capture_output=True, text=True, check=False)
    others = (others_cpu_seconds() - before) / (perf_counter() - start)
    try:
        if done.returncode != 0:
            raise ValueError(f"exit status {done.returncode}")
        # ticks of 10 ms can make it a little less than nothing
        return parse(json.loads(done.stdout), plan)._replace(others_cpus=max(others, 0.0))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise MeasureError(f"{side}: {error!r} of: {' '.join(side.command)}\n{said}") from error


def others_cpu_seconds() -> float:
    """CPU seconds that the machine has spent on what is not a child of this process, as far as
    /proc/stat tells. Time that a hypervisor took is not in it."""
    user, nice, system, _, _, irq, softirq = (
        int(ticks) for ticks in Path("/proc/stat").read_text().split(maxsplit=8)[1:8]
    )
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    return busy - own.ru_utime - own.ru_stime


def parse(said: dict[str, Any], plan: Plan) -> Turn:
    """The turn that a side's object tells of."""
    if "read_gb_s" in said:
        (run,) = said["runs"]
        rates = (run["prefill_tok_s"], *run["decode_tok_s"])
        nbytes = tuple(row["bytes_per_token"] for row in said["decode"])
        turn = Turn(rates, nbytes, said["read_gb_s"], said["barrier_us"] or 0.0)
    else:
        turn = Turn((said["prefill_tok_s"], *said["decode_tok_s"]))
    if len(turn.rates) != len(plan.figures()) or not all(rate > 0 for rate in turn.rates):
        raise ValueError(f"{len(plan.figures())} rates wanted, got {turn.rates}")
    return turn


def take_rounds(sides: Sequence[Side], plan: Plan, rounds: int, say: Say) -> dict[Side, list[Turn]]:
    """All sides once a round: what the machine does to one it does to all."""
    turns: dict[Side, list[Turn]] = {side: [] for side in sides}
    for n in range(rounds):
        for side in sides:
            say(f"round {n + 1} of {rounds}: {side}")
            turns[side].append(take_turn(side, plan))
    return turns


def fastest(turns: dict[Side, list[Turn]]) -> list[Side]:
    """Of the sides of one peer on forms of one kind: the fastest at prefill and the fastest at
    decode, by their best turns; often they are one, and none of none."""

    def best(side: Side, figures: slice) -> float:
        return max(sum(turn.rates[figures]) for turn in turns[side])

    if not turns:
        return []
    kinds = (slice(0, 1), slice(1, None))
    chosen = {max(turns, key=lambda side, at=at: best(side, at)) for at in kinds}
    return [side for side in turns if side in chosen]


def summary(plan: Plan, turns: dict[Side, list[Turn]]) -> list[dict[str, Any]]:
    """A row for each figure and side: median and spread, and nybble's median as a multiple of it.
    nybble's own rows say how much of the plain read of their rounds they reach."""
    rows = []
    for i, figure in enumerate(plan.figures()):
        middle = {side: median(turn.rates[i] for turn in turns[side]) for side in turns}
        ours = next((middle[side] for side in turns if side.name == NYBBLE), None)
        for side in turns:
            rates = [turn.rates[i] for turn in turns[side]]
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
            if side.name == NYBBLE and i:
                row["read_share"] = median(
                    turn.rates[i] * turn.bytes_per_token[i - 1] / 1e9 / turn.read_gb_s
                    for turn in turns[side]
                )
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
    least and the greatest depth from NEAR on. Empty if there is one such depth or none."""
    depths = sorted(depth for depth in plan.depths if depth >= NEAR)
    if len(depths) < 2:
        return []
    near, far = depths[0], depths[-1]
    rates: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        rates.setdefault((row["side"], row["form"]), {})[row["figure"]] = row["tok_s"]
    found = []
    for (side, form), of in rates.items():
        seconds = 1 / of[f"decode at {far:,}"] - 1 / of[f"decode at {near:,}"]
        cost = seconds * 1e6 / (far - near)
        found.append({"side": side, "form": form, "from": near, "to": far, "ms": cost})
    return found


def conditions(turns: dict[Side, list[Turn]]) -> dict[str, list[float]]:
    """What the machine gave in the rounds: plain read in GB/s and barrier in us, by nybble's turns;
    CPUs that others kept busy, by all; [least, median, most] of each."""
    every = [turn for side in turns for turn in turns[side]]
    own = [turn for side in turns if side.name == NYBBLE for turn in turns[side]]
    found = {}
    for name, of in (("read_gb_s", own), ("barrier_us", own), ("others_cpus", every)):
        values = [getattr(turn, name) for turn in of]
        if any(values) or name == "others_cpus":
            found[name] = [min(values), median(values), max(values)]
    return found
