"""argparse as nybble wants it: one-line errors, flags anywhere, help that fits its terminal."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from nybble.errors import UsageError

_BELOW = " " * 6  # before a purpose that goes below its command
_TEXT = "\0"  # marks a word that is no flag, however it looks; no real argument can contain it
_WIDEST = 98  # columns of help, however wide the terminal is
# What people type who come from elsewhere.
_OTHER_WORDS = {
    "ask": "run",
    "chat": "run",
    "complete": "run",
    "delete": "rm",
    "download": "pull",
    "get": "pull",
    "info": "show",
    "inspect": "show",
    "list": "ls",
    "models": "ls",
    "remove": "rm",
}


class Help(argparse.RawDescriptionHelpFormatter):
    """Fits descriptions and examples to the terminal's width.

    Lines that begin with two spaces are examples: a command, then two spaces or more and what it
    is for, which goes on a line of its own where there is no room. All else is wrapped.
    """

    def __init__(self, prog: str) -> None:
        import shutil

        super().__init__(prog, width=min(shutil.get_terminal_size().columns - 2, _WIDEST))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        import textwrap

        out = []
        for paragraph in text.strip("\n").split("\n\n"):
            prose: list[str] = []
            for line in [*paragraph.splitlines(), "  "]:  # the last flushes what is prose
                if not line.startswith("  "):
                    prose.append(line)
                    continue
                out += textwrap.wrap(" ".join(prose), width, break_on_hyphens=False)
                prose.clear()
                out += _example(line, width)
            out.append("")
        return "\n".join(out)


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, and flags anywhere between MODEL and PROMPT."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=Help, allow_abbrev=False, **options)
        self._is_mixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but optional positionals may follow flags."""
        if self._is_mixing or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._is_mixing = True  # the intermixed parser comes back here for each of its passes
        try:
            return self.parse_known_intermixed_args(args, namespace)
        except AttributeError as error:
            # Interrupted early, argparse fails to undo what it had not begun.
            if isinstance(error.__context__, KeyboardInterrupt):
                raise error.__context__ from None
            raise
        finally:
            self._is_mixing = False

    def flags(self) -> list[str]:
        """Its own flags, as they are typed."""
        return list(self._option_string_actions)

    def unknown(self, words: Sequence[str], way_out: str) -> UsageError:
        """The error for words that mean nothing here: which, what was most likely meant, and the
        way out."""
        said = f"unrecognized arguments: {' '.join(word.removeprefix(_TEXT) for word in words)}"
        likely = [near for word in words if (near := _near(word, self.flags()))]
        hint = f"did you mean {' '.join(likely)}? " if likely else ""
        return UsageError(f"{said}; {hint}{way_out}")

    def parse_words(self, argv: Sequence[str], verbs: Mapping[str, Parser]) -> argparse.Namespace:
        """Parse a command line, whose verb is among `verbs`; what follows `--` is never a flag.

        argparse forgets `--` when flags may stand anywhere, so the words after it carry a mark
        until it is done.
        """
        words = list(argv)
        if "--" in words:
            end = words.index("--")
            words[end:] = [f"{_TEXT}{word}" for word in words[end + 1 :]]
        parsed: tuple[argparse.Namespace, list[str]] = self.parse_known_args(words)
        args, unknown = parsed
        if unknown:
            verb = verbs[args.verb]
            raise verb.unknown(unknown, f"see {verb.prog} --help")
        for name, value in vars(args).items():
            if isinstance(value, str):
                setattr(args, name, value.removeprefix(_TEXT))
            elif isinstance(value, list):
                setattr(args, name, [_without_mark(item) for item in value])
        return args

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own swallows what happens when the disk behind stdout is full.
        (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def unknown_verb(word: str, verbs: Sequence[str]) -> UsageError:
    """The error for a first word that is no verb."""
    import difflib

    likely = _OTHER_WORDS.get(word.lower()) or next(
        iter(difflib.get_close_matches(word.lower(), verbs, n=1)), None
    )
    hint = f"did you mean nybble {likely}?" if likely else f"the verbs are {', '.join(verbs)}"
    return UsageError(f"there is no verb {word!r}; {hint}")


def _near(word: str, flags: Sequence[str]) -> str | None:
    """The flag that an unknown one most resembles."""
    import difflib  # slow to load, and few words are mistyped

    flag = word.partition("=")[0]
    begun = [one for one in flags if len(flag) > 3 and one.startswith(flag)]
    close = difflib.get_close_matches(flag, flags, n=1) if flag.startswith("-") else []
    return next(iter(begun + close), None)


def _example(line: str, width: int) -> list[str]:
    command, gap, purpose = _split(line)
    if not command:
        return []
    if len(line) <= width or not gap:
        return [line]
    import textwrap

    indent = " " * 6
    return [
        command,
        *textwrap.wrap(purpose, width, initial_indent=indent, subsequent_indent=indent),
    ]


def _split(line: str) -> tuple[str, str, str]:
    """(indented command, gap, purpose) of an example's line."""
    found = re.fullmatch(r"(  +\S+(?: \S+)*)(  +)(.*)", line)
    return (found[1], found[2], found[3]) if found else (line.rstrip(), "", "")


def _without_mark(item: Any) -> Any:
    return item.removeprefix(_TEXT) if isinstance(item, str) else item
