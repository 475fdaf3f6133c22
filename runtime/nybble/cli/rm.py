"""nybble rm: remove models."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from nybble import hub
from nybble.cli.terminal import megabytes, printable, say
from nybble.errors import ModelNotFoundError, UsageError

_EXAMPLES = """\
examples:
  nybble rm smollm2-135m
  nybble rm --yes qwen3-4b hf:Qwen/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0.gguf

nybble ls lists the names. A model that a program has loaded goes on working in that program.
"""


def add_parser(verbs: Any) -> None:
    """Describe `nybble rm` to argparse."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "rm",
        help="remove models",
        description="Remove models from $NYBBLE_HOME/models and their packed copies, or what a pull"
        " of them left. Asks first on a terminal; elsewhere --yes has to be given.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("names", metavar="NAME", nargs="+", help="what nybble ls calls it")
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `nybble rm`."""
    there = {name: nbytes for name, _, nbytes in hub.unfinished()}
    for name, path, nbytes in hub.installed():
        there[name] = there.get(name, 0) + nbytes + hub.copies_nbytes(path)
    names = list(dict.fromkeys(map(_name, args.names)))
    for name in names:  # all of them, before the first is gone
        if name not in there:
            raise ModelNotFoundError(f"there is no model {name!r} to remove; nybble ls lists them")
    if not args.yes and not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("nobody is there to be asked; give --yes to remove without a question")
    from nybble.hub import pulling

    for name in names:
        shown = printable(name)
        if not args.yes and not _is_wanted(f"remove {shown} ({megabytes(there[name])})?"):
            say(f"{shown} stays")
            continue
        nbytes = pulling.remove(name, lambda: say("a pull is running; waiting for it to end"))
        say(f"removed {shown}: {megabytes(nbytes)}")
    return 0


def _name(text: str) -> str:
    """The name of what is to go; a format, `hf:OWNER/REPO:FORMAT`, finds its file."""
    return hub.local_name(text) or hub.canonical(text)


def _is_wanted(question: str) -> bool:
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
