"""The command line: `nybble VERB ...`, one module per verb.

A verb's module has `add_parser(verbs)`, which describes it to argparse, and `run(args)`, which
returns the exit code. stdout carries results only; questions, progress and errors go to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from nybble.cli import bench, doctor, ls, pull, run, show
from nybble.cli.terminal import printable
from nybble.errors import NybbleError, UsageError

INTERRUPTED = 130

_DESCRIPTION = "Run small language models, quantized to about four bits, on small computers."
_EXAMPLES = """\
examples:
  nybble pull smollm2-135m                        get a model (98 MB)
  nybble run "Why do geese fly in a V?"           ask it
  dmesg | nybble run "What is failing?"           ask about what a command says
  nybble run                                      chat
  nybble ls --known                               which models there are

exit codes: 0 done, 1 failed (network, disk, ...), 2 usage, 3 does not fit the memory or the
context, 4 damaged or unknown file, 5 cannot run on this machine, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `argv` is the process's own if None."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a character the terminal lacks is no error
                stream.reconfigure(errors="replace")
        args = _parse(sys.argv[1:] if argv is None else argv)
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _abandon_stdout()
        return 0
    except NybbleError as error:
        print(f"nybble: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"nybble: {printable(str(error))}", file=sys.stderr)
        return 1


class _Parser(argparse.ArgumentParser):
    """argparse with one-line errors, and flags anywhere between MODEL and PROMPT."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options
        )
        self._is_mixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but optional positionals may follow flags."""
        if self._is_mixing or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._is_mixing = True  # the intermixed parser comes back here for each of its passes
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_mixing = False

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


class _Version(argparse.Action):
    """Prints the version; reads the package's metadata only when asked."""

    def __call__(self, *_: object) -> NoReturn:
        import importlib.metadata

        print(f"nybble {importlib.metadata.version('nybble')}")
        sys.exit(0)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; what follows `--` is never a flag.

    argparse forgets `--` when flags may stand anywhere, so the words after it carry a NUL, which
    no real argument can contain, until it is done.
    """
    words = list(argv)
    if "--" in words:
        end = words.index("--")
        words[end:] = [f"\0{word}" for word in words[end + 1 :]]
    args = _parser().parse_args(words)
    for name, value in vars(args).items():
        if isinstance(value, str):
            setattr(args, name, value.removeprefix("\0"))
    return args


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="nybble", description=_DESCRIPTION, epilog=_EXAMPLES)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in (run, pull, show, ls, bench, doctor):
        verb.add_parser(verbs)
    return parser


def _abandon_stdout() -> None:
    """Send what is still buffered nowhere, so that the interpreter's exit is quiet as well."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # a stdout without a descriptor has nothing to flush
        return
