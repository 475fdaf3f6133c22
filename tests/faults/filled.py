"""All that a model's memory is planned for: the context full, the whole vocabulary read.

    python -m tests.faults.filled MODEL [--kv v8] [--context N] [--sequences N] [--threads N]
        [--models N] [--tokens N] [--turns N] [--jinja2] [--tools] [--only-load]

Prints the plan, the peak from before the load on and what it consists of as JSON, in bytes, when it
has also made that many tokens, in as many replies as it takes, and had a chat of that many turns.
Of several models of the same file, which are used in turn, the plan is the last one's. --jinja2 is
for as it is without minijinja; --tools, with a tool's call among the messages at last. --only-load
is for the plan alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

import nybble
from nybble import hub, machine
from nybble.errors import ContextError

WORDS = "In the evening the geese fly south in a V, each in the wake of the one before it. "
# Reading a page of a mapping brings in the 64 KiB around it; a row's numbers are halves at most.
BROUGHT_IN, MOST_BYTES = 1 << 16, 2


def read_whole_vocabulary(model: nybble.Model) -> None:
    """Reads the embedding table, of which a short text reads little, from end to end."""
    program = model.weights.program
    ids = range(0, program.vocab, BROUGHT_IN // (MOST_BYTES * program.dim))
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
    ids = model.tokenize(WORDS * (model.context // 16 + 1))[: model.context - 1]
    assert len(ids) == model.context - 1
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
        except ContextError:
            chat = model.chat()


def call_a_tool(model: nybble.Model) -> None:
    """Which minijinja is not trusted with."""
    call = {"type": "function", "function": {"name": "clock", "arguments": {}}}
    messages = [
        {"role": "user", "content": "What is the time?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "user", "content": "Well?"},
    ]
    assert model.ask(messages, max_tokens=24).text is not None


def anonymous_bytes() -> int:
    with open("/proc/self/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Anon")) * 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--kv", default="f16")
    parser.add_argument("--threads", type=int)
    for name, default in (("context", 2048), ("sequences", 1), ("models", 1), ("tokens", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--jinja2", action="store_true")
    parser.add_argument("--tools", action="store_true")
    parser.add_argument("--only-load", action="store_true")
    args = parser.parse_args()
    if args.jinja2:
        sys.modules["minijinja"] = None  # type: ignore[assignment]
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")  # VmHWM begins anew from what is held now
    models = [
        nybble.load(
            args.path,
            context=args.context,
            sequences=args.sequences,
            threads=args.threads,
            kv=args.kv,
        )
        for _ in range(args.models)
    ]
    loaded = machine.peak_bytes()
    for model in [] if args.only_load else models:
        fill(model, args.sequences)
        read_whole_vocabulary(model)
        generate(model, args.tokens)
        if model.has_template and args.turns:
            talk(model, args.turns)
        if args.tools:
            call_a_tool(model)
    copy = hub.copy_path(args.path)
    print(
        json.dumps(
            {
                "plan": models[-1].plan.total_bytes,
                "lines": models[-1].plan.lines,
                "chunk": models[-1].plan.chunk,
                "peak": machine.peak_bytes(),
                "loaded": loaded,
                "anonymous": anonymous_bytes(),
                "kv": sum(model.engine.kv.view().nbytes for model in models),
                "packed": os.stat(copy).st_size if os.path.exists(copy) else None,
                "tuned": models[-1].tune is not None,
            }
        )
    )


if __name__ == "__main__":
    main()
