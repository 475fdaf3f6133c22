"""nybble plan: what a model will hold in memory, before it is loaded."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from nybble import hub
from nybble.cli.terminal import counted, fitted, per_second, printable, rounded
from nybble.errors import BudgetError, ModelNotFoundError
from nybble.hub.known import KNOWN
from nybble.options import KV

if TYPE_CHECKING:
    from nybble.board import Board
    from nybble.fitting import Fit
    from nybble.planning import Budget, Plan

_DESCRIPTION = """\
Print what a model will hold in memory, line by line, and how fast it may decode, from its metadata
alone. The total is the most that the process holds at once, pages of files included. Exit code 0 if
it fits, 3 if not."""
_EXAMPLES = """\
examples:
  nybble plan smollm2-135m                         on this machine
  nybble plan smollm2-135m --memory 200MiB         within a budget
  nybble plan smollm2-135m --board rpi-zero-2w     on a board
  nybble plan smollm2-135m --context 8192 --sequences 2 --json

Without --memory the budget is what this machine can give (what is available, less 64 MiB; the
control group's limit; ulimit -v). With --board it is what Linux sees on the board with the least
memory it is sold with, less what an idle system takes and 64 MiB; a .gguf file is planned as at its
first run there, when it is yet to be packed, and a known model that is not here is estimated from
the size of its file.
"""


def add_parser(verbs: Any) -> None:
    """Describe `nybble plan` to argparse."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "plan", help="show what memory a model takes", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument("model", metavar="MODEL", help="a known name, a .gguf or a .nyb file")
    parser.add_argument("--memory", metavar="SIZE", help="the budget, such as 300MiB")
    parser.add_argument("--context", type=int, metavar="N", help="tokens of a sequence (2048)")
    parser.add_argument(
        "--kv", metavar="TYPE", choices=KV, default="f16", help="how to keep keys and values (f16)"
    )
    parser.add_argument("--sequences", type=int, metavar="N", default=1, help="at once (1)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the engine")
    parser.add_argument("--board", metavar="BOARD", help="plan for a board, such as rpi4")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `nybble plan`."""
    try:
        path = hub.resolve(args.model)
    except ModelNotFoundError as error:
        if args.model not in KNOWN:
            raise
        if not args.board:
            raise ModelNotFoundError(
                f"{error}; whether a board has room for it can be told before: nybble ls --known"
                " --board BOARD"
            ) from None
        return _estimate(args)

    from nybble import board as boards
    from nybble import model, packing, planning
    from nybble.options import whole

    board = boards.load(args.board) if args.board else None
    if board is None:
        held = planning.held_bytes()
        budget = planning.budget_of(args.memory, held, "--memory")
        threads = model.threads_of(args.threads)
    else:
        held = planning.INTERPRETER
        budget = planning.on_board(board, args.memory)
        threads = model.threads_of(
            board.clusters[0].cores if args.threads is None else args.threads
        )
    with packing.read(path, is_first=board is not None) as reading:
        if board is None:
            reading.foresee_copy()
        plan = planning.plan(
            reading,
            context=model.context_of(args.context, reading.tree.context),
            sequences=whole("sequences", args.sequences, 1, model.MAX_SEQUENCES),
            threads=threads,
            budget=budget,
            held=held,
            on_exceed="tell",
            kv=args.kv,
            board=board,
        )
    notice = " ".join(filter(None, (plan.notice, reading.notice)))
    measured = None if board or args.threads is not None else _measured(path)
    if args.json:
        rate = {**_rate(plan, board), "measured_tok_s": measured and rounded(measured)}
        said = {"model": path, "is_planned": True, **plan.as_dict(), "notice": notice}
        print(json.dumps({**said, **rate}))
    else:
        for line in _as_text(path, plan, board, measured, notice):
            print("\n".join(fitted(line, sys.stdout)))
    return 0 if plan.fits else BudgetError.exit_code


def _estimate(args: argparse.Namespace) -> int:
    """`nybble plan --board` of a known model that is not here."""
    from nybble import board as boards
    from nybble import fitting, model, planning
    from nybble.options import whole

    board = boards.load(args.board)
    budget = planning.on_board(board, args.memory)
    threads = model.threads_of(args.threads)
    row = hub.row_of(args.model)
    context = model.context_of(args.context, row.context)
    sequences = whole("sequences", args.sequences, 1, model.MAX_SEQUENCES)
    for kv in ("f16", "v8") if args.kv == "auto" else (args.kv,):
        found = fitting.estimate(
            row, board, args.memory, context=context, sequences=sequences, kv=kv
        )
        if found.fits:
            break
    if args.json:
        rate = found.decode_tok_s
        said = {  # the keys of a plan: null is what only a plan knows
            "model": args.model,
            "is_planned": False,
            "total_bytes": found.total_bytes,
            "budget_bytes": budget.nbytes,
            "budget": budget.who,
            "fits": found.fits,
            "ways_out": "" if found.fits else None,
            "context": context,
            "asked_context": context,
            "kv": kv,
            "asked_kv": "f16" if args.kv == "auto" else args.kv,
            "kv_kl": planning.KV_KL[kv],
            "sequences": sequences,
            "threads": threads if args.threads is not None else board.clusters[0].cores,
            "chunk": None,
            "read_bytes": found.read_bytes,
            "lines": None,
            "notice": "",
            "board": board.id,
            "read_gb_s": board.read_gb_s,
            "decode_tok_s": rate and rounded(rate),
            "measured_tok_s": None,
        }
        print(json.dumps(said))
    else:
        for line in _as_estimate(args.model, found, context, budget, board):
            print("\n".join(fitted(line, sys.stdout)))
    return 0 if found.fits else BudgetError.exit_code


def _as_estimate(name: str, found: Fit, context: int, budget: Budget, board: Board) -> list[str]:
    no = f"it does not fit, by an estimate; nybble ls --known --board {board.id} lists what does"
    rate = found.decode_tok_s
    if rate is None:
        speed = f"how fast {board.name} reads memory is not known"
    else:
        speed = (
            f"at {board.read_gb_s:g} GB/s ({board.source}) that is at most about {per_second(rate)}"
        )
    tokens = counted(context, "token")
    return [
        f"{name} on {board.name}: not on this machine, so all of this is estimated from the size of"
        " its file",
        "",
        f"in all  {_mib(found.total_bytes)}  (about)",
        f"budget  {_mib(budget.nbytes)}  ({budget.who})",
        "",
        "it fits, by an estimate; planned when it is here (nybble pull)" if found.fits else no,
        f"a token of decode reads about {found.read_bytes / 1e6:,.0f} MB with {tokens} in the"
        f" cache; {speed}",
    ]


def _rate(plan: Plan, board: Board | None) -> dict[str, Any]:
    read = board.read_gb_s if board else None
    return {
        "board": board.id if board else None,
        "read_gb_s": read,
        "decode_tok_s": rounded(plan.tok_s(read)) if read else None,
    }


def _measured(path: str) -> float | None:
    """Tokens a second that the model's first load measured on this machine; None if it did not."""
    from nybble import tuning

    tune = tuning.kept(path)
    return 1 / tune.token_s if tune and tune.token_s else None


def _as_text(
    path: str, plan: Plan, board: Board | None, measured: float | None, notice: str
) -> list[str]:
    where = f" on {board.name}" if board else ""
    lines = [f"{printable(path)}{where}", ""]
    width = max(len(line.what) for line in plan.lines)
    for line in plan.lines:
        lines.append(f"{line.what:<{width}}  {_mib(line.nbytes)}")
    lines.append(f"{'in all':<{width}}  {_mib(plan.total_bytes)}")
    lines.append(f"{'budget':<{width}}  {_mib(plan.budget_bytes)}  ({plan.budget})")
    lines += ["", "it fits" if plan.fits else f"it does not fit; {plan.ways_out}"]
    if notice:
        lines.append(printable(notice))
    if plan.kv != "f16":
        costs = ", ".join(f"{name} {kl:.5f}" for name, kl in plan.kv_kl.items())
        lines.append(
            f"keys and values as {plan.kv} add to the KL divergence from float32: {costs}"
            " (docs/fidelity.md)"
        )
    megabytes = plan.read_bytes / 1e6
    if board is None and measured:
        rate = (
            f"at its first load here, with an empty cache, {per_second(measured)} were measured at"
            " best: nybble bench measures more"
        )
    elif board is None:
        rate = "nybble bench measures how fast this machine is"
    elif board.read_gb_s is None:
        rate = f"how fast {board.name} reads memory is not known"
    else:
        rate = (
            f"at {board.read_gb_s:g} GB/s ({board.source}) that is at most "
            f"{per_second(plan.tok_s(board.read_gb_s))}: rate = GB/s read / GB a token"
        )
    lines.append(
        f"a token of decode reads {megabytes:,.0f} MB with {counted(plan.context, 'token')} in the "
        f"cache; {rate}"
    )
    return lines


def _mib(nbytes: int) -> str:
    return f"{nbytes / (1 << 20):9,.1f} MiB"
