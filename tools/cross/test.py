"""python -m tools.cross test: a wheel tried on the emulated CPUs of boards.

On each CPU the wheel's modules load, `nybble doctor` finds the level of kernels that the board's
file promises, and models continue a text with the logits, bit for bit, that they have on this
machine; on the first board of each level some of the repository's tests pass. Models are packed
here, as for a real board.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.cross import ROOT, AskedError, platforms
from tools.cross.toolbox import cache

if TYPE_CHECKING:
    from nybble.board import Board
    from tools.cross.platforms import Platform

RUNTIME = ROOT / "runtime"  # its module of boards needs nothing that is compiled
_COSTS = """\
qemu is some 20 times slower than the board, so these are few. The models (843 MB) are pulled if
they are not there."""
_EXAMPLES = """\
examples:
  python -m tools.cross test rpi4
  python -m tools.cross test rpi3 rpi5 --model smollm2-135m --json
"""


def add_parser(verbs: Any) -> None:
    """Describe the verb to argparse."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "test",
        help="try a wheel on the emulated CPUs of boards",
        description=f"{__doc__.partition(chr(10) * 2)[2]}\n{_COSTS}",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "board", nargs="+", metavar="BOARD", help="as in targets/boards, with a qemu_cpu there"
    )
    parser.add_argument(
        "--wheel", type=Path, metavar="FILE", help="for the boards' platform; built if not given"
    )
    parser.add_argument(
        "--model", action="append", metavar="NAME", help="repeatable (those that tests run)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a board")
    parser.set_defaults(run=main, check=asked)


def asked(args: argparse.Namespace) -> tuple[list[Board], Platform]:
    """The boards that are asked for, and their platform. AskedError if they make no sense, or what
    else is asked for does not."""
    if str(RUNTIME) not in sys.path:  # nybble need not be there outside of .venv/cross
        sys.path.append(str(RUNTIME))
    from nybble import board as boards
    from nybble.errors import UsageError
    from tools.cross import trial, wheel

    try:
        chosen = [boards.load(id) for id in dict.fromkeys(args.board)]
    except UsageError as error:
        raise AskedError(str(error)) from None
    for board in chosen:
        if not board.qemu_cpu:
            raise AskedError(f"{board.id} is not emulated: its file has no qemu_cpu")
    if len({board.isa for board in chosen}) > 1:
        raise AskedError("boards of one architecture at a time: they share a wheel")
    for model in args.model or ():
        if model not in trial.MODELS:
            raise AskedError(f"no {model!r:.40} among the models: {', '.join(trial.MODELS)}")
    platform = platforms.load(f"linux-{chosen[0].isa}")
    if args.wheel is not None:
        wheel.check_given(args.wheel, platform)
    return chosen, platform


def main(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    chosen, platform = asked(args)
    from tools.cross import trial

    # In the cache and not in /tmp, which may be memory: the packed models are 860 MB.
    home = cache() / "cross"
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        models = args.model or [*trial.MODELS]
        subject = trial.prepare(platform, args.wheel, models, Path(scratch))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            tested = trial.one_of_each_level(chosen)
            outcomes = list(
                pool.map(lambda b: trial.try_board(b, subject, tested[b.expect_level].id), chosen)
            )
    for outcome in outcomes:
        print(json.dumps(outcome._asdict()) if args.json else "\n".join(as_text(outcome)))
    return 1 if any(outcome.failures for outcome in outcomes) else 0


def as_text(outcome: Any) -> list[str]:
    """The lines that say what came of a board."""
    lines = [
        f"{outcome.board}: {'FAILED' if outcome.failures else 'passed'} as {outcome.cpu}, "
        f"{outcome.seconds} s",
        f"  kernels  {outcome.rows} of level {outcome.level}",
    ]
    lines += [f"  answer   {model}: {text!r}" for model, text in outcome.answers.items()]
    lines += [f"  tests    {outcome.tests}"]
    return lines + [f"  failed   {failure}" for failure in outcome.failures]
