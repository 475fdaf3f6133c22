"""nybble ls: which models are here, and which could be."""

from __future__ import annotations

import argparse
import json
from typing import Any

from nybble import hub
from nybble.cli.terminal import megabytes, printable, say
from nybble.known import DEFAULT, KNOWN

_EXAMPLES = """\
examples:
  nybble ls                    the models on this machine
  nybble ls --known            the names that nybble pull knows
  nybble ls --json             one object a line
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
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `nybble ls`."""
    rows = _known() if args.known else _installed()
    if args.json:
        for row in rows:
            print(json.dumps(row))
        return 0
    if not rows:
        say(
            f"no models here; nybble pull {DEFAULT} gets one ({megabytes(KNOWN[DEFAULT].nbytes)}),"
            " nybble ls --known lists all that can be pulled"
        )
    width = max((len(printable(row["name"])) for row in rows), default=0)
    for row in rows:
        last = f"{row['about']} ({row['licence']})" if args.known else printable(row["path"])
        here = ("here  " if row["here"] else "      ") if args.known else ""
        print(f"{printable(row['name']):<{width}}  {megabytes(row['nbytes']):>6}  {here}{last}")
    return 0


def _installed() -> list[dict[str, Any]]:
    return [
        {"name": name, "nbytes": nbytes, "path": path} for name, path, nbytes in hub.installed()
    ]


def _known() -> list[dict[str, Any]]:
    return [
        {
            "name": row.name,
            "nbytes": row.nbytes,
            "download_nbytes": row.download_nbytes,
            "here": hub.is_pulled(row.name),
            "about": row.about,
            "licence": row.licence,
        }
        for row in KNOWN.values()
    ]
