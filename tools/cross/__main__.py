"""The command line of tools.cross, one module a verb."""

from __future__ import annotations

import argparse
import sys

from tools import cross
from tools.cross import test, toolbox, userland, wheel

_EXAMPLES = """\
examples:
  python -m tools.cross wheel linux-aarch64
  python -m tools.cross userland linux-aarch64
  python -m tools.cross test rpi4
"""


def parser() -> argparse.ArgumentParser:
    """What the tool takes."""
    p = argparse.ArgumentParser(
        prog="python -m tools.cross",
        description=cross.__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = p.add_subparsers(metavar="VERB", required=True)
    for verb in (wheel, userland, test):
        verb.add_parser(verbs)
    return p


def main(arguments: list[str]) -> int:
    """Carry out `python -m tools.cross`."""
    args = parser().parse_args(arguments)
    try:
        args.check(args)  # before the tools are fetched
        toolbox.enter(arguments)
        status: int = args.run(args)
        return status
    except cross.CrossError as error:
        print(f"cross: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
