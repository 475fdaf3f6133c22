"""The command line: `nybble VERB ...`, one module per verb.

A verb's module has `add_parser(verbs)`, which describes it to argparse, and `run(args)`, which
returns the exit code. stdout carries results only; questions, progress and errors go to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from nybble.__main__ import INTERRUPTED, die_of_interrupt, lacks_memory, out_of_memory
from nybble.cli import bench, completion, doctor, ls, pack, plan, pull, rm, run, show
from nybble.cli.parser import Parser, unknown_verb
from nybble.cli.terminal import printable
from nybble.errors import BudgetError, NybbleError, UsageError

_DESCRIPTION = "Run small language models, quantized to about four bits, on small computers."
_EXAMPLES = """\
examples:
  nybble pull smollm2-135m                        get a model (98 MB)
  nybble run "Why do geese fly in a V?"           ask it
  dmesg | nybble run "What is failing?"           ask about what a command says
  nybble run                                      chat
  nybble ls --known                               which models there are
  nybble help run                                 what a verb can do

exit codes: 0 done, 1 failed (network, disk, ...), 2 usage, 3 does not fit the memory or the
context, 4 damaged or unknown file, 5 cannot run on this machine, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `argv` is the process's own if None."""
    try:
        _open_what_is_closed()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a character the terminal lacks is no error
                stream.reconfigure(errors="replace")
        return _run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        if argv is None:
            die_of_interrupt()
        return INTERRUPTED
    except BrokenPipeError:
        _abandon_stdout()
        return 0
    except NybbleError as error:
        return _fail(str(error), error.exit_code)
    except (MemoryError, ImportError, RuntimeError, SystemError) as error:
        if not lacks_memory(error):
            raise
        what = f" ({error})" if isinstance(error, MemoryError) and str(error) else ""
        return _fail(f"there is not enough memory{what}", BudgetError.exit_code)
    except OSError as error:
        if error.filename is None and error.strerror:  # a write to what stdout is
            _abandon_stdout()
            return _fail(f"the output cannot be written: {error.strerror}", 1)
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}", 1)


class _Version(argparse.Action):
    """Prints the version; reads the package's metadata only when asked."""

    def __call__(self, *_: object) -> NoReturn:
        import importlib.metadata

        print(f"nybble {importlib.metadata.version('nybble')}")
        sys.exit(0)


def parser() -> Parser:
    """The parser of all verbs."""
    top = Parser(prog="nybble", description=_DESCRIPTION, epilog=_EXAMPLES)
    top.add_argument("-V", "--version", action=_Version, nargs=0, help="print the version and exit")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True, dest="verb")
    for verb in (run, pull, show, ls, rm, pack, plan, bench, doctor, completion):
        verb.add_parser(verbs)
    return top


def verbs_of(top: Parser) -> dict[str, Parser]:
    """The parser of each verb."""
    assert top._subparsers is not None
    for action in top._subparsers._group_actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("parser() adds the verbs")


def _run(argv: Sequence[str]) -> int:
    """Carry out a command; what it printed has been written when this returns, or raises what ends
    `--help`."""
    try:
        args = _parse(argv)
        code: int = args.run(args)
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return code


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    top = parser()
    verbs = verbs_of(top)
    if not argv:  # nothing was asked for, which is no result: not on stdout
        top.print_help(sys.stderr)
        raise SystemExit(UsageError.exit_code)
    if argv[0] == "help":  # as in `git help VERB`
        if len(argv) > 1 and argv[1] not in verbs:
            raise unknown_verb(argv[1], list(verbs))
        return top.parse_words([*argv[1:2], "--help"], verbs)
    if not argv[0].startswith("-") and argv[0] not in verbs:
        raise unknown_verb(argv[0], list(verbs))
    if argv[0].startswith("-") and argv[0] not in top.flags():
        raise top.unknown(argv[:1], "the flags of a verb come after it; see nybble --help")
    return top.parse_words(argv, verbs)


def _open_what_is_closed() -> None:
    """A service may have no stdout or stderr; then what goes there goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))


def _fail(text: str, code: int) -> int:
    try:
        print(f"nybble: {printable(text)}", file=sys.stderr)
    except MemoryError:
        return out_of_memory()
    return code


def _abandon_stdout() -> None:
    """Send what is still buffered nowhere, so that the interpreter's exit is quiet as well."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # a stdout without a descriptor has nothing to flush
        return
