"""Models that reason before they answer: the template's switch, and the parts of a reply."""

from __future__ import annotations

from nybble.errors import UsageError
from nybble.tokenizer import Tokenizer

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    from typing import Any, Literal

    from nybble.tokenizer.template import ChatTemplate

    Kind = Literal["thinking", "text"]
    Part = tuple[Kind, str]

OPEN, CLOSE = "<think>", "</think>"

# What templates call the variable that turns thinking on and off: Qwen3's and SmolLM3's name,
# DeepSeek V3.1's and Granite's.
SWITCHES = ("enable_thinking", "thinking")


class Switch:
    """What a chat template does about thinking.

    variables : the names of its switch
    marks     : whether it knows the marks of thinking, so that its model may think
    """

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self.variables = tuple(name for name in SWITCHES if name in template.source)
        self.marks = OPEN in template.source or CLOSE in template.source
        self._works: bool | None = None

    def turned(self, think: bool | None, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """The template's variables for `think`; UsageError where these messages show that it cannot
        be had."""
        if think is None:
            return {}
        if self.variables and self._does_work(messages):
            return dict.fromkeys(self.variables, think)
        if think and not self.marks:
            raise UsageError(
                "think=True: this model does not think, its chat template knows nothing of it"
            )
        if not think and is_open(self._template.encode(messages), self._tokenizer):
            raise UsageError(
                "think=False: this model always thinks, its chat template has no switch"
            )
        return {}

    def _does_work(self, messages: list[dict[str, Any]]) -> bool:
        """Whether the template makes something else of the messages when its switch is turned."""
        if self._works is None:
            on, off = (
                self._template.encode(messages, **dict.fromkeys(self.variables, think))
                for think in (True, False)
            )
            self._works = on != off
        return self._works


def is_open(prompt: list[int], tokenizer: Tokenizer) -> bool:
    """Whether a prompt ends where the thinking begins, as DeepSeek R1's do."""
    tail = tokenizer.decode(prompt[-2 * len(OPEN) :], special=True)
    return tail.rstrip().endswith(OPEN.encode())


def marks(tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that are marks of thinking, in files that call them control tokens."""
    found = (tokenizer.vocabulary.find(mark.encode()) for mark in (OPEN, CLOSE))
    return frozenset(id for id in found if id is not None and tokenizer.is_control(id))


class Splitter:
    """Divides the characters of a reply into thinking and text, as they come.

    Thinking begins at the start of the reply (or of the prompt's end, `is_open`) and ends with the
    first mark. The marks are part of neither, nor is the white space around them.
    """

    def __init__(self, *, is_open: bool) -> None:
        self._held = ""
        self._where = "thinking" if is_open else "start"
        self._skips_space = is_open

    def push(self, characters: str) -> list[Part]:
        """The parts that are certain by now; often none or one."""
        held = self._held + characters
        parts: list[Part] = []
        if self._where == "start":
            begun = held.lstrip()
            if begun != OPEN and OPEN.startswith(begun):
                self._held = held
                return []
            if begun.startswith(OPEN):
                held = begun.removeprefix(OPEN)
                self._enter("thinking")
            else:
                self._where = "text"
        if self._skips_space:
            held = held.lstrip()
            self._skips_space = not held
        if self._where == "thinking":
            at = held.find(CLOSE)
            end = len(held[: at if at >= 0 else len(held) - _begun(held)].rstrip())
            if end:
                parts.append(("thinking", held[:end]))
            if at < 0:
                self._held = held[end:]
                return parts
            self._enter("text")
            held = held[at + len(CLOSE) :].lstrip()
            self._skips_space = not held
        self._held = ""
        if held:
            parts.append(("text", held))
        return parts

    def flush(self) -> list[Part]:
        """The rest, when no more characters come."""
        held, self._held = self._held, ""
        if self._where == "thinking":
            held = held.rstrip()
            return [("thinking", held)] if held else []
        return [("text", held)] if held else []

    def _enter(self, where: Kind) -> None:
        self._where = where
        self._skips_space = True


def _begun(text: str) -> int:
    """How many characters at the end of the text begin the closing mark."""
    for n in range(min(len(CLOSE) - 1, len(text)), 0, -1):
        if text.endswith(CLOSE[:n]):
            return n
    return 0
