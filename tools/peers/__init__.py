"""How fast nybble is beside its peers, llama.cpp and ik_llama.cpp, on this machine.

Both are built from their published sources for this CPU, once, in a cache. Each gets the same
file as nybble, and its best four-bit form of the same model: its own quantizer makes some, and a
short trial picks those that are fastest here. Then all sides take turns, each a process of its
own: prefill of a prompt and decode at several depths of context, by the same loop over the same
numbers of tokens and threads. What is compared is medians of rounds of one run, on request of
those in which two threads were on one core, or on two.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.peers import measure
from tools.peers.build import BuildError, Form, Peer, Say, digest, quantize
from tools.peers.measure import MeasureError, Plan, Side

TRIALS = 3  # turns of each form in which those of one peer compete


def compare(
    name: str,
    model: Path,
    drivers: Mapping[Peer, Path],
    plan: Plan,
    rounds: int,
    cache: Path,
    say: Say,
    **placed: Any,
) -> list[dict[str, Any]]:
    """Measures nybble and the peers on one model, as plain data: an object for each of the
    placements in `placed` that there were, which is what measure.take_rounds takes of them."""
    failed: list[dict[str, str]] = []
    sides = [measure.nybble_side(str(model), plan)]
    with measure.serving(sides[0]) as served:  # what it cannot do is known before the trials
        served.ask("fill 1")
    for peer, driver in drivers.items():
        sides += best_sides(peer, driver, model, plan, cache, failed, say)
    results = []
    for placement, turns in measure.take_rounds(sides, plan, rounds, say, **placed).items():
        rows = measure.summary(plan, turns)
        if not rows:
            continue
        results.append(
            {
                "model": name,
                "threads": plan.threads,
                "prompt": plan.prompt,
                "gen": plan.gen,
                "placement": placement,
                "conditions": measure.conditions(turns),
                "failed": failed,
                "rows": rows,
                "strongest": measure.against_strongest(rows),
                "context": measure.context_costs(plan, rows),
            }
        )
    return results


def best_sides(
    peer: Peer,
    driver: Path,
    model: Path,
    plan: Plan,
    cache: Path,
    failed: list[dict[str, str]],
    say: Say,
) -> list[Side]:
    """The peer on the file, and in the forms in which it is fastest at these threads. A form that
    it cannot make or run is left out and told in `failed`."""
    trial = plan._replace(depths=(plan.prompt,), gen=min(plan.gen, 32))
    found: list[Side] = []
    for is_file in (True, False):
        forms: dict[Side, tuple[Form, Path]] = {}
        rates: dict[Side, list[tuple[float, float]]] = {}
        for form in (form for form in peer.forms if (form.ftype is None) == is_file):
            try:
                file = form_of(model, peer, driver, form, cache, say)
                side = measure.peer_side(peer.name, driver, file, form, trial)
                with measure.serving(side) as served:
                    rates[side] = [
                        (
                            measure.take_turn(served, trial, 0).rate,
                            measure.take_turn(served, trial, 1).rate,
                        )
                        for _ in range(TRIALS)
                    ]
                forms[side] = (form, file)
                said = " | ".join(f"{prefill:.1f} {decode:.1f}" for prefill, decode in rates[side])
                say(f"trial: {side}: {said}")
            except (BuildError, MeasureError) as error:
                failed.append({"side": peer.name, "form": form.name, "why": str(error)})
                say(f"not measured: {error}")
        for side in measure.fastest(rates):
            form, file = forms[side]
            found.append(measure.peer_side(peer.name, driver, file, form, plan))
    return found


def form_of(model: Path, peer: Peer, driver: Path, form: Form, cache: Path, say: Say) -> Path:
    """The file of a form, made if it is not in the cache: it is named after the model's bytes."""
    if form.ftype is None:
        return model
    kind = f"{form.ftype}{'-pure' if form.pure else ''}"
    out = cache / "models" / f"{digest(model)[:16]}-{peer.name}-{peer.version}-{kind}.gguf"
    if not out.exists():
        say(f"{peer.name}: making {form.type} of {model.name}")
    return quantize(driver, model, form, out, cache / "models" / "quantize.log")
