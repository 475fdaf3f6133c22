"""The chat that `nybble run` holds on a terminal when it is given no prompt."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from nybble import hub
from nybble.cli.terminal import (
    as_flags,
    cut_short,
    figures,
    fitted,
    print_words,
    printable,
    say,
    valid,
)
from nybble.errors import ContextError, NybbleError, UsageError
from nybble.hub.known import DEFAULT

if TYPE_CHECKING:
    from nybble.chat import Chat
    from nybble.model import Model
    from nybble.reply import Reply

_HELP = '''\
/help         this text
/new          begin anew: what was said is forgotten
/system TEXT  begin anew, and the model is to behave like this
/think on     let a model that can think do so first; off; auto
/stats        how long the last reply took
/save FILE    write down what was said: .json as messages, else as text
/exit         leave (Ctrl-D does too); Ctrl-C stops a reply
"""           begins a message of several lines, and ends it'''
_HELP_INDENT = _HELP.index("this text")
_QUOTES = '"""'
_HISTORY_LINES = 1000
_THINK = {"on": True, "off": False, "auto": None}


def chat(model: Model, system: str | None, ask_options: dict[str, Any], verbose: bool) -> None:
    """Answer message after message from the terminal until `/exit` or the end of the input."""
    if not model.has_template:
        raise UsageError(
            "this model has no chat template: it continues text and does not chat; give it a"
            f" prompt, or chat with another: nybble run {DEFAULT}"
        )
    # Whether the options make sense is told now, and not after the first message; and that need not
    # wait for the template engine.
    model.ask("Hello", **ask_options).close()
    history = _History()
    session = _Session(model, system, ask_options, verbose)
    say("Type /help for help, /exit to leave.")
    while True:
        try:
            text = _read_message()
        except EOFError:
            say("")
            return
        except KeyboardInterrupt:
            say("\n/exit or Ctrl-D leaves")
            continue
        history.keep()
        if text == "/exit":
            return
        if text:
            session.take(text)


class _Session:
    """What a chat holds between two messages."""

    def __init__(
        self, model: Model, system: str | None, ask_options: dict[str, Any], verbose: bool
    ) -> None:
        self._model = model
        self._talk: Chat = model.chat(system=system)
        self._options = dict(ask_options)
        self._verbose = verbose
        self._last: Reply | None = None
        self._saved: set[str] = set()

    def take(self, text: str) -> None:
        """Carry out a command, or answer a message."""
        word, _, rest = text.partition(" ")
        commands = {
            "/help": self._help,
            "/new": self._begin_anew,
            "/system": self._set_system,
            "/think": self._set_think,
            "/stats": self._show_stats,
            "/save": self._save,
        }
        if word in commands:
            commands[word](rest.strip())
        elif word.startswith("/") and text.isprintable() and word.count("/") == 1:
            say(f"there is no command {printable(word)}; /help lists them")
        else:
            self._answer(text)

    def _help(self, rest: str) -> None:
        for line in _HELP.splitlines():
            for part in fitted(line, sys.stderr, _HELP_INDENT):
                say(part)

    def _begin_anew(self, rest: str) -> None:
        self._talk.messages[:] = [m for m in self._talk.messages if m["role"] == "system"]

    def _set_system(self, rest: str) -> None:
        if not rest:
            now = [m["content"] for m in self._talk.messages if m["role"] == "system"]
            say(now[0] if now else "no system message; /system TEXT sets one")
            return
        self._talk = self._model.chat(system=rest)

    def _set_think(self, rest: str) -> None:
        if rest not in _THINK:
            now = {value: word for word, value in _THINK.items()}[self._options.get("think")]
            say(f"/think is {now}; on, off and auto change it")
            return
        options = {key: value for key, value in self._options.items() if key != "think"}
        if _THINK[rest] is not None:
            options["think"] = _THINK[rest]
        try:
            self._model.ask("Hello", **options).close()
        except UsageError as error:
            say(f"nybble: {printable(_as_commands(str(error)))}")
            return
        self._options = options

    def _show_stats(self, rest: str) -> None:
        say("no reply yet" if self._last is None else figures(self._last))

    def _save(self, rest: str) -> None:
        path = os.path.expanduser(rest)
        if not rest:
            say("/save FILE: which file?")
        elif os.path.lexists(path) and os.path.abspath(path) not in self._saved:
            say(f"{printable(rest)} is there already; save under another name")
        else:
            try:
                _write_down(self._talk.messages, path)
            except OSError as error:
                say(f"{printable(rest)}: {error.strerror or error}")
                return
            self._saved.add(os.path.abspath(path))
            say(f"saved {len(self._talk.messages)} messages: {printable(path)}")

    def _answer(self, text: str) -> None:
        """Print the reply; an error or Ctrl-C ends this reply, not the chat."""
        try:
            reply = self._talk.ask(text, **self._options)
            self._last = reply
            try:
                print_words(reply)
            finally:
                reply.close()
        except KeyboardInterrupt:
            say("\n(stopped)")
            return
        except ContextError as error:
            say(f"nybble: {printable(as_flags(str(error)))}; /new begins a new chat")
            return
        except NybbleError as error:
            say(f"nybble: {printable(_as_commands(str(error)))}")
            return
        if note := cut_short(reply):
            say(note)
        if self._verbose:
            say(figures(reply))


def _as_commands(text: str) -> str:
    """An error about the keyword `think`, for someone who chats."""
    said = text.replace("think=True", "/think on").replace("think=False", "/think off")
    return said if said == text else f"{said}; /think auto leaves that to the model"


class _History:
    """What was typed, for the arrow keys, kept in `<home>/chat_history` for the user alone.

    Where that file cannot be written or Python has no readline, a chat works without it: it is a
    convenience.
    """

    def __init__(self) -> None:
        self._readline: Any = None
        try:
            import readline

            self._path = os.path.join(hub.home(), "chat_history")
            os.makedirs(hub.home(), exist_ok=True)
            os.close(os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600))
            os.chmod(self._path, 0o600)
            readline.set_history_length(_HISTORY_LINES)
            readline.read_history_file(self._path)
        except (ImportError, OSError, NybbleError):  # the last: there is no home at all
            return
        self._readline = readline

    def keep(self) -> None:
        """Write down what has been typed, so that a kill loses nothing."""
        if self._readline is not None:
            try:
                self._readline.write_history_file(self._path)
            except OSError:
                self._readline = None


def _read_message() -> str:
    '''A line, or the lines from one """ to the next.'''
    line = valid(_read_line("> ")).strip()
    if not line.startswith(_QUOTES):
        return line
    line = line.removeprefix(_QUOTES)
    lines = []
    while not line.rstrip().endswith(_QUOTES):
        lines.append(line)
        line = valid(_read_line(". "))
    lines.append(line.rstrip().removesuffix(_QUOTES))
    return "\n".join(lines).strip("\n")


def _read_line(prompt: str) -> str:
    """A line from the terminal; the prompt is on stdout only if that is the terminal too."""
    if sys.stdout.isatty():
        return input(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)
    return input()


def _write_down(messages: list[dict[str, str]], path: str) -> None:
    """Write beside the file and rename, so that what was saved before stays if this fails."""
    import tempfile  # takes its time to load, and few chats are saved

    if path.endswith(".json"):
        text = json.dumps(messages, ensure_ascii=False, indent=1) + "\n"
    else:
        text = "\n".join(f"{m['role']}: {m['content']}\n" for m in messages)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path) or ".", prefix=".save-") as folder:
        whole = os.path.join(folder, "chat")
        with open(whole, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(whole, path)
