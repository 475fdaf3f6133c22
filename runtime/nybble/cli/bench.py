"""nybble bench: how fast a model runs here, and how much of the memory's speed that is."""

from __future__ import annotations

import argparse
import json
from statistics import median
from time import perf_counter
from typing import Any

from nybble.cli.terminal import megabytes, say

_EXAMPLES = """\
examples:
  nybble bench smollm2-135m
  nybble bench smollm2-135m --prompt 512 --gen 64 --threads 2 --json

Decoding reads every weight once for each token, so its ceiling is the rate at which the same
threads can just read the same memory ("read"): the best of 1, 2 and 4 streams a thread.
"""
# What is fed to the model; its own tokens again and again until the prompt is long enough.
_TEXT = """The river ran past the mill as it had always done, and nobody in the village could have
said who built the bridge. In the evening the children came home and told their mother about the
geese that fly south in a V, each in the wake of the one before it. """


def add_parser(verbs: Any) -> None:
    """Describe `nybble bench` to argparse."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "bench",
        help="measure a model's speed",
        description="Measure prefill and decode of a model, as medians over several runs.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("model", metavar="MODEL", help="a known name or a .gguf file")
    parser.add_argument("--prompt", type=int, default=512, metavar="N", help="tokens (512)")
    parser.add_argument("--gen", type=int, default=64, metavar="N", help="tokens after it (64)")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="runs (5)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the engine")
    parser.add_argument("--json", action="store_true", help="one JSON object, with every run")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `nybble bench`."""
    import nybble
    from nybble import machine
    from nybble._core import native
    from nybble.errors import UsageError

    for name in ("prompt", "gen", "runs"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name} must be 1 or more")
    model = nybble.load(args.model, threads=args.threads, context=args.prompt + args.gen)
    ids = model.tokenize(_TEXT)
    ids = (ids * (args.prompt // len(ids) + 1))[: args.prompt]
    runs = []
    for i in range(args.runs):
        if not args.json:
            say(f"run {i + 1} of {args.runs}")
        runs.append(_once(model, ids, args.gen))
    read = min(run["read_s"] for run in runs)
    result = {
        "model": args.model,
        "cpu": machine.cpu_name(),
        "compiler": native.compiler(),
        "threads": model.threads,
        "prompt": args.prompt,
        "gen": args.gen,
        "bytes_per_token": model.weights.program.read_bytes,
        "prefill_tok_s": median(run["prefill_tok_s"] for run in runs),
        "decode_tok_s": median(run["decode_tok_s"] for run in runs),
        "read_gb_s": model.weights.arena.nbytes / read / 1e9,
        "peak_bytes": machine.peak_bytes(),
        "solo_calls": native.solo_calls(),
        "runs": runs,
    }
    weights_gb_s = result["decode_tok_s"] * result["bytes_per_token"] / 1e9
    result["read_share"] = weights_gb_s / result["read_gb_s"]
    if args.json:
        print(json.dumps(result))
        return 0
    print(f"{args.model} on {result['cpu']}, {model.threads} threads, {result['compiler']}")
    for what in ("prefill", "decode"):
        rates = [run[f"{what}_tok_s"] for run in runs]
        print(
            f"{what:<8} {median(rates):8.1f} tokens/s"
            f"   (median of {len(rates)}: {min(rates):.1f} to {max(rates):.1f})"
        )
    print(
        f"weights  {megabytes(result['bytes_per_token'])} a token, read at {weights_gb_s:.1f} GB/s:"
        f" {result['read_share']:.0%} of the {result['read_gb_s']:.1f} GB/s of a plain read"
    )
    print(f"memory   {megabytes(result['peak_bytes'])} at most")
    return 0


def _once(model: Any, ids: list[int], gen: int) -> dict[str, float]:
    """One prompt, one reply of `gen` tokens, and plain reads in the same minute."""
    reply = model._reply(ids, {"max_tokens": gen, "ignore_eos": True}, None)
    model.forget()
    start = perf_counter()
    reply.text  # noqa: B018 - reading it runs it
    stats = reply.stats
    decode_s = stats.total_s - stats.first_token_s
    return {
        "prefill_tok_s": stats.prefill_tok_s,
        "decode_tok_s": (stats.tokens - 1) / decode_s if stats.tokens > 1 else 0.0,
        "total_s": perf_counter() - start,
        "read_s": min(model.engine.read_seconds(streams) for streams in (1, 2, 4)),
    }
