"""The chat that `nybble run` holds on a terminal when it is given no prompt."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from nybble.cli.terminal import cut_short, figures, print_words, printable, say, valid
from nybble.errors import ContextError, NybbleError, UsageError
from nybble.known import DEFAULT

if TYPE_CHECKING:
    from nybble.chat import Chat
    from nybble.model import Model
    from nybble.reply import Reply

_HELP = """\
/help    this text
/new     begin anew: what was said is forgotten
/stats   how long the last reply took
/exit    leave (Ctrl-D does too); Ctrl-C stops a reply"""


def chat(model: Model, system: str | None, ask_options: dict[str, Any], verbose: bool) -> None:
    """Answer line after line from the terminal until `/exit` or the end of the input."""
    if not model.has_template:
        raise UsageError(
            "this model has no chat template: it continues text and does not chat; give it a"
            f" prompt, or chat with another: nybble run {DEFAULT}"
        )
    try:
        import readline  # noqa: F401  line editing in input(), where Python has it
    except ImportError:
        pass
    talk = model.chat(system=system)
    reply: Reply | None = None
    say("Type /help for help, /exit to leave.")
    while True:
        try:
            line = valid(_read_line("> ")).strip()
        except EOFError:
            say("")
            return
        except KeyboardInterrupt:
            say("\n/exit or Ctrl-D leaves")
            continue
        if line == "/exit":
            return
        if line == "/help":
            say(_HELP)
        elif line == "/new":
            talk.messages[:] = [m for m in talk.messages if m["role"] == "system"]
        elif line == "/stats":
            say("no reply yet" if reply is None else figures(reply))
        elif line.startswith("/") and " " not in line:
            say(f"there is no command {printable(line)}; /help lists them")
        elif line:
            reply = _answer(talk, line, ask_options)
            if verbose and reply is not None:
                say(figures(reply))


def _answer(talk: Chat, line: str, ask_options: dict[str, Any]) -> Reply | None:
    """Print the reply to one line; an error or Ctrl-C ends this reply, not the chat."""
    try:
        reply = talk.ask(line, **ask_options)
        try:
            print_words(reply)
        finally:
            reply.close()
        if note := cut_short(reply):
            say(note)
    except KeyboardInterrupt:
        say("\n(stopped)")
        return None
    except ContextError as error:
        say(f"nybble: {printable(str(error))}; /new begins a new chat")
        return None
    except NybbleError as error:
        say(f"nybble: {printable(str(error))}")
        return None
    return reply


def _read_line(prompt: str) -> str:
    """A line from the terminal; the prompt is on stdout only if that is the terminal too."""
    if sys.stdout.isatty():
        return input(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)
    return input()
