"""All that a model's memory is planned for: the context full, the whole vocabulary read.

    python -m tests.faults.filled MODEL KV CONTEXT SEQUENCES TOKENS TURNS

Prints the plan, the peak and what that consists of as JSON, in bytes, when it has also made TOKENS
tokens, in as many replies as that takes, and had a chat of TURNS turns.
"""

from __future__ import annotations

import json
import os
import sys

import nybble
from nybble import hub, machine

WORDS = "In the evening the geese fly south in a V, each in the wake of the one before it. "
# Reading a page of a mapping brings in the 64 KiB around it: of the largest rows some 16.
STRIDE = 16


def read_whole_vocabulary(model: nybble.Model) -> None:
    """Reads the embedding table, of which a short text reads little, from end to end."""
    ids = range(0, len(model.logits([0])), STRIDE)
    for start in range(0, len(ids), model.context - 1):
        model.logits(list(ids[start : start + model.context - 1]))


def fill(model: nybble.Model, sequences: int) -> None:
    """Fills the contexts of all sequences at once, by replies and by a prompt."""
    prompt = WORDS * (model.context // 22)
    replies = [model.complete(prompt) for _ in range(sequences)]
    for reply in replies:
        next(iter(reply))
    for reply in replies:
        assert str(reply) is not None
        assert reply.stats.stop_reason in ("context", "end")
    ids = model.tokenize(WORDS * model.context)[: model.context - 1]
    for _ in range(sequences):
        model.logits(ids)


def generate(model: nybble.Model, tokens: int) -> None:
    left = tokens
    while left > 0:
        reply = model.complete(WORDS, max_tokens=left, ignore_eos=True)
        assert str(reply)
        left -= reply.stats.tokens


def talk(model: nybble.Model, turns: int) -> None:
    """A chat; a new one where the context is used up."""
    chat = model.chat()
    for turn in range(turns):
        try:
            chat.ask(f"What is {turn} plus one?", max_tokens=24).text  # noqa: B018
        except nybble.ContextError:
            chat = model.chat()


def anonymous_bytes() -> int:
    with open("/proc/self/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Anon")) * 1024


def main() -> None:
    path, kv, *numbers = sys.argv[1:]
    context, sequences, tokens, turns = map(int, numbers)
    model = nybble.load(path, context=context, sequences=sequences, threads=2, kv=kv)
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")  # VmHWM begins anew from what is held now
    fill(model, sequences)
    read_whole_vocabulary(model)
    generate(model, tokens)
    if model.has_template:
        talk(model, turns)
    print(
        json.dumps(
            {
                "plan": model.plan.total_bytes,
                "peak": machine.peak_bytes(),
                "anonymous": anonymous_bytes(),
                "kv": model.engine.kv.view().nbytes,
                "packed": os.stat(hub.copy_path(path)).st_size,
            }
        )
    )


if __name__ == "__main__":
    main()
