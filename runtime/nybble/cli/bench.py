"""nybble bench: how fast a model runs here, and how much of the memory's speed that is."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from nybble.cli.terminal import as_flags, counted, ended_line, load, megabytes, say
from nybble.errors import BudgetError, UsageError
from nybble.options import KV, Options

if TYPE_CHECKING:
    from nybble.model import Model

_EXAMPLES = """\
examples:
  nybble bench smollm2-135m
  nybble bench smollm2-135m --prompt 512 --gen 64 --threads 2 --json
  nybble bench smollm2-135m --depth 0 --depth 512 --depth 2048

Decoding reads every weight, and the keys and values of all tokens before, once for each token, so
its ceiling is the rate at which the same threads can just read the same memory ("read"): the best
of 1, 2 and 4 streams a thread, before and after each reply, for the speed of memory drifts. Two and
more threads meet some five times a layer: "barrier" is how long that takes them here when they have
nothing else to do.
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
    parser.add_argument("model", metavar="MODEL", help="a known name, a .gguf or a .nyb file")
    parser.add_argument("--prompt", type=int, default=512, metavar="N", help="tokens (512)")
    parser.add_argument("--gen", type=int, default=64, metavar="N", help="tokens after it (64)")
    parser.add_argument(
        "--depth",
        type=int,
        action="append",
        metavar="N",
        help="tokens in the context before the first of --gen (as many as the prompt has);"
        " may be given several times",
    )
    parser.add_argument(
        "--kv", metavar="TYPE", choices=KV, default="f16", help="how to keep keys and values (f16)"
    )
    parser.add_argument(
        "--context", type=int, metavar="N", help="tokens of the context (as many as are needed)"
    )
    parser.add_argument(
        "--memory", metavar="SIZE", help="the most that may be held, such as 300MiB"
    )
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="runs (5)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the engine")
    parser.add_argument("--json", action="store_true", help="one JSON object, with every run")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `nybble bench`."""
    from nybble import machine
    from nybble._core import native

    for name in ("prompt", "gen", "runs"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name} must be 1 or more")
    depths = args.depth or [args.prompt]
    if min(depths) < 0:
        raise UsageError("--depth must be 0 or more")
    with ended_line():
        bench, runs = _measure(args, depths)
    model = bench.model
    weights_gb = model.weights.nbytes / 1e9
    read_gb_s = weights_gb / median(s for run in runs for s in run["read_s"])
    barriers = [run["barrier_s"] for run in runs if run["barrier_s"]]
    decode = []
    for i, depth in enumerate(depths):
        tok_s = median(run["decode_tok_s"][i] for run in runs)
        nbytes = bench.bytes_per_token(depth, args.gen)
        share = median(
            run["decode_tok_s"][i] * nbytes / 1e9 * run["read_s"][i] / weights_gb for run in runs
        )
        decode.append(
            {
                "depth": depth,
                "tok_s": tok_s,
                "bytes_per_token": nbytes,
                "read_share": share,
                "read_gb_s": weights_gb / median(run["read_s"][i] for run in runs),
            }
        )
    result = {
        "model": args.model,
        "cpu": machine.cpu_name(),
        "compiler": native.compiler(),
        "threads": model.threads,
        "tune": model.tune._asdict() if model.tune else None,
        "kv": model.plan.kv,
        "context": model.context,
        "prompt": args.prompt,
        "gen": args.gen,
        "prefill_tok_s": median(run["prefill_tok_s"] for run in runs),
        "decode_tok_s": decode[0]["tok_s"],
        "bytes_per_token": decode[0]["bytes_per_token"],
        "read_share": decode[0]["read_share"],
        "decode": decode,
        "read_gb_s": read_gb_s,
        "barrier_us": median(barriers) * 1e6 if barriers else None,
        "peak_bytes": machine.peak_bytes(),
        "busy_calls": native.busy_calls(),
        "runs": runs,
    }
    if args.json:
        print(json.dumps(result))
    else:
        for line in _as_text(result):
            print(line)
    return 0


def _measure(args: argparse.Namespace, depths: list[int]) -> tuple[Bench, list[dict[str, Any]]]:
    """The model, loaded, and the figures of each run."""
    longest = max(args.prompt, *depths)
    context = longest + args.gen + 1
    if args.context is not None:
        if args.context < context:
            raise UsageError(
                f"--context must be {context:,} or more for these --prompt, --depth and --gen"
            )
        context = args.context
    options = {"threads": args.threads, "kv": args.kv, "memory": args.memory}
    try:
        model = load(args.model, context=context, **options)
    except BudgetError as error:
        raise BudgetError(
            f"{as_flags(str(error))}; for a smaller context lower --prompt, --depth and --gen too"
        ) from None
    bench = Bench(model, longest)
    runs = []
    for i in range(args.runs):
        if not args.json:
            say(f"run {i + 1} of {args.runs}")
        runs.append(_once(bench, args.prompt, args.gen, depths))
    return bench, runs


def _as_text(result: dict[str, Any]) -> Iterator[str]:
    runs = result["runs"]
    threads = counted(result["threads"], "thread")
    if result["tune"]:
        threads += " (decode {decode_threads}, prefill {prefill_threads})".format(**result["tune"])
    yield f"{result['model']} on {result['cpu']}, {threads}, {result['compiler']}"
    yield _rates("prefill", [run["prefill_tok_s"] for run in runs])
    for i, row in enumerate(result["decode"]):
        yield _rates("decode", [run["decode_tok_s"][i] for run in runs]) + f" at {row['depth']}"
        yield (
            f"  reads  {megabytes(row['bytes_per_token'])} a token at"
            f" {row['tok_s'] * row['bytes_per_token'] / 1e9:.1f} GB/s:"
            f" {row['read_share']:.0%} of a plain read ({row['read_gb_s']:.1f})"
        )
    yield f"read     {result['read_gb_s']:8.1f} GB/s"
    if result["barrier_us"]:
        yield f"barrier  {result['barrier_us']:8.2f} us"
    elif result["threads"] > 1:
        yield "barrier  not measured: the machine is busy, and fewer threads work"
    yield f"memory   {megabytes(result['peak_bytes'])} at most"


def _rates(what: str, rates: list[float]) -> str:
    return (
        f"{what:<8} {median(rates):8.1f} tokens/s"
        f"   (median of {len(rates)}: {min(rates):.1f} to {max(rates):.1f})"
    )


def _once(bench: Bench, prompt: int, gen: int, depths: list[int]) -> dict[str, Any]:
    """One prompt, replies of `gen` tokens at each depth, and in the same minute plain reads and
    barriers."""
    start = perf_counter()
    prefill_tok_s = bench.prefill(prompt)
    decode_tok_s, reads = [], [bench.read_seconds()]
    for depth in depths:
        decode_tok_s.append(bench.decode(depth, gen))
        reads.append(bench.read_seconds())
    barrier_s = bench.barrier_seconds()
    return {
        "prefill_tok_s": prefill_tok_s,
        "decode_tok_s": decode_tok_s,
        "total_s": perf_counter() - start,
        # of each depth: the mean of before and after
        "read_s": [(a + b) / 2 for a, b in pairwise(reads)],
        "barrier_s": barrier_s,
    }


class Bench:
    """What can be timed of a loaded model, for prompts and depths of up to `longest` tokens."""

    def __init__(self, model: Model, longest: int) -> None:
        self.model = model
        ids = model.tokenize(_TEXT)
        self._ids = (ids * (longest // len(ids) + 1))[:longest]
        self._stats(1, 2)  # threads and memory come

    def prefill(self, n: int) -> float:
        """Tokens a second of a prompt of `n` in an empty context, up to its reply's first."""
        self.model.forget()
        return float(self._stats(n, 1).prefill_tok_s)

    def fill(self, depth: int) -> None:
        """Brings the context to `depth` tokens; at depth 0 it is one, for something has to come
        before a reply."""
        self._stats(max(depth, 1), 1)

    def decode(self, depth: int, gen: int) -> float:
        """Tokens a second of `gen` steps of one token behind `depth` tokens of context."""
        # The first token of a reply comes from the prompt, so that `gen` steps make one more.
        return float(self._stats(max(depth, 1), gen + 1).decode_tok_s)

    def read_seconds(self) -> float:
        """How long a plain read of the weights takes, in as many streams as is best."""
        engine = self.model.engine
        reads = {n: [engine.read_seconds(n) for _ in range(3)] for n in (1, 2, 4)}
        return float(min(median(times) for times in reads.values()))

    def barrier_seconds(self) -> float | None:
        """The barrier's latency; None where the team was one thread, or smaller because the machine
        was busy."""
        barriers = [self.model.engine.barrier_seconds() for _ in range(5)]
        return min((s for s in barriers if s), default=None)

    def bytes_per_token(self, depth: int, gen: int) -> int:
        """What a step of `decode` reads, weights, keys and values: halfway through the reply."""
        program = self.model.weights.program
        return int(program.read_bytes) + int(
            program.kv_read_bytes(depth + gen // 2, self.model.plan.kv)
        )

    def _stats(self, n: int, max_tokens: int) -> Any:
        made = self.model._reply(self._ids[:n], Options(max_tokens=max_tokens, ignore_eos=True))
        made.text  # noqa: B018 - reading it runs it
        return made.stats
