"""Chat templates: messages to ids, so that nobody's text can pass for a control token.

The rule: before rendering, a mark (a private-use character that occurs nowhere else) is put inside
every spelling of a protected token in the messages' strings, and at a string's end that is a proper
prefix of one, or start that is a proper suffix (nybble.tokenizer.guard, which says where else).
After rendering, special tokens are found only where no mark is inside, and then the marks are taken
out: what the template wrote became tokens, what the messages said is text.

Protected are the control tokens, and those user-defined ones that the template itself writes. In an
assistant's own message `<think>` and `</think>` are left alone: templates look for them there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain, islice

from nybble._core import tokenizer as core
from nybble.errors import TemplateError, UsageError
from nybble.tokenizer import Tokenizer, lone_surrogate
from nybble.tokenizer.guard import Guard, Reading, escaped, written

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

    import minijinja

THINK = frozenset(("<think>", "</think>"))
ROLES = frozenset(("system", "user", "assistant", "tool", "developer"))
MAX_SOURCE = 1 << 16  # characters of a template; the longest known has 30,000
MAX_ERROR = 300  # characters of what a template says in an error
MAX_DEPTH = 64  # of lists and mappings in messages and variables, and of all that is in them,
MAX_VALUES = 1 << 18  # a list that is there twice counted twice; a template can go through fewer
MAX_SPOKEN = 1 << 22  # characters of both: four for each of a million tokens
MARKS = range(0xE000, 0xF900)


class ChatTemplate:
    """A model's chat template, `source` in jinja2's language, with the tokenizer it is for.

    It is compiled when first used: by minijinja where that is known to make the same text
    (`nybble.tokenizer.quick`), by jinja2 as soon as a conversation needs it. TemplateError if it
    does not compile, cannot render the messages or takes more than it may
    (`nybble.tokenizer.sandbox`), with the line where it is known.
    """

    def __init__(
        self, source: str, tokenizer: Tokenizer, before_jinja2: Callable[[], None] | None = None
    ) -> None:
        """before_jinja2 is called each time before jinja2 is, which takes memory, and may raise."""
        self.source = source
        self._tokenizer = tokenizer
        self._before_jinja2 = before_jinja2
        self._code: CodeType | None = None

    @cached_property
    def _protected(self) -> frozenset[str]:
        return frozenset(_protected(self._tokenizer, self.source))

    @cached_property
    def _reading(self) -> Reading:
        return Reading(self.source)

    @cached_property
    def _guard(self) -> Guard:
        return Guard(self._protected, self._reading)

    @cached_property
    def _assistant_guard(self) -> Guard:
        if not self._protected & THINK:
            return self._guard
        return Guard(self._protected - THINK, self._reading, left_alone=tuple(THINK))

    def encode(
        self,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: object,
    ) -> list[int]:
        """The ids of a conversation, up to where the assistant speaks.

        `messages` are mappings with a str "role" and a str "content", which may be None or missing
        beside "tool_calls"; `variables` are what else the template knows (`tools`,
        `enable_thinking`). BOS is in front once, whether the file asks for
        it or the template writes it. UsageError if the messages are anything else.
        """
        text, mark = self._render(messages, add_generation_prompt, variables)
        ids = self._tokenizer.encode_marked(text, mark)
        bos = self._tokenizer.bos
        if self._tokenizer.add_bos and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: object,
    ) -> str:
        """The text of a conversation, for people to look at. To encode it would let the messages
        forge control tokens; that is what `encode` is for."""
        text, mark = self._render(messages, add_generation_prompt, variables)
        return text.replace(mark, "")

    def _render(
        self, messages: object, add_generation_prompt: bool, variables: dict[str, object]
    ) -> tuple[str, str]:
        if len(self.source) > MAX_SOURCE:
            raise TemplateError(
                f"the chat template is refused: it has {len(self.source)} characters, "
                f"{MAX_SOURCE} are the most"
            )
        checked = _checked(messages)
        strings = chain(_strings(checked, "messages"), _strings(variables, "variables"))
        spoken = [*islice(strings, MAX_VALUES + 1)]
        if len(spoken) > MAX_VALUES:
            raise UsageError(f"messages and variables hold more than {MAX_VALUES:,} values")
        size = sum(map(len, spoken))
        if size > MAX_SPOKEN:
            raise UsageError(
                f"messages and variables hold {size:,} characters; {MAX_SPOKEN:,} are the most"
            )
        for text in spoken:
            if (at := lone_surrogate(text)) is not None:
                raise UsageError(
                    f"messages: character {at} is the lone surrogate U+{ord(text[at]):04X}, which "
                    f"is no text, in {text[:40]!r}; decode bytes with errors='replace'"
                )
        mark = _unused_mark([self.source, *spoken])
        context: dict[str, Any] = {
            "bos_token": self._spelling(self._tokenizer.bos),
            "eos_token": self._spelling(self._tokenizer.eos),
            **{name: self._guard.protect(value, mark) for name, value in variables.items()},
            "messages": [self._protect_message(message, mark) for message in checked],
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            text = self._run(context, size)
        except TemplateError as error:
            raise TemplateError(str(error).replace(mark, "")) from error.__cause__
        return text.replace(escaped(mark), mark), mark

    def _spelling(self, id: int | None) -> str:
        return "" if id is None else self._tokenizer.spelling(id)

    def _protect_message(self, message: Mapping[str, Any], mark: str) -> dict[str, Any]:
        role = message["role"]
        guard = self._assistant_guard if role == "assistant" else self._guard
        protected: dict[str, Any] = guard.protect(message, mark)
        if role in ROLES or guard.is_known(role):
            protected["role"] = role  # templates compare it, and write <|role|>
        return protected

    def _run(self, context: dict[str, Any], spoken: int) -> str:
        text = self._run_quickly(context)
        return self._run_in_sandbox(context, spoken) if text is None else text

    def _run_quickly(self, context: dict[str, Any]) -> str | None:
        from nybble.tokenizer import quick

        engine = self._quick_engine
        return None if engine is None else quick.render(engine, context)

    @cached_property
    def _quick_engine(self) -> minijinja.Environment | None:
        from nybble.tokenizer import quick

        return quick.engine(self.source)

    def _run_in_sandbox(self, context: dict[str, Any], spoken: int) -> str:
        if self._before_jinja2 is not None:
            self._before_jinja2()
        import nybble.hashing  # noqa: F401  # before jinja2 imports hashlib

        # isort: split
        import jinja2

        from nybble.tokenizer import sandbox
        from nybble.tokenizer.metering import BudgetExceeded

        try:
            if self._code is None:
                self._code = sandbox.compile_template(self.source)
            return sandbox.Sandbox().render(self._code, context, spoken)
        except sandbox.TemplateRaised as error:
            raise TemplateError(
                f"the chat template cannot render these messages: {_cut(error)}"
            ) from None
        except BudgetExceeded as error:
            raise TemplateError(f"the chat template is refused: {_cut(error)}") from None
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"the chat template does not compile: line {error.lineno}: {_cut(error.message)}"
            ) from None
        except (MemoryError, SystemError):  # CPython may raise the second where it lacks memory
            raise MemoryError("there is no memory for the chat template") from None
        except RecursionError:
            raise TemplateError("the chat template is refused: it is nested too deeply") from None
        except Exception as error:  # a template can raise whatever Python's operators raise
            line = _line_of(error)
            where = f"line {line}: " if line else ""
            raise TemplateError(
                f"the chat template failed: {where}{type(error).__name__}: {_cut(error)}"
            ) from error


def _protected(tokenizer: Tokenizer, source: str) -> Iterator[str]:
    """The spellings that messages must not pass off as tokens."""
    user_defined = []
    for id in tokenizer.vocabulary.specials():
        spelling = tokenizer.spelling(id)
        if tokenizer.vocabulary.type(id) == core.USER_DEFINED:
            if spelling and not spelling.isspace():  # Gemma's are, and text like any other
                user_defined.append(spelling)
        elif spelling and (len(spelling) > 1 or not spelling.isspace()):  # no mark would fit in
            yield spelling
    yield from written(user_defined, source)


def _checked(messages: object) -> list[Mapping[str, Any]]:
    if not isinstance(messages, (list, tuple)):
        raise UsageError(f"messages are a list of mappings, not {type(messages).__name__}")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise UsageError(f"message {number} is a mapping, not {type(message).__name__}")
        for key in ("role", "content"):
            if key == "content" and message.get(key) is None and message.get("tool_calls"):
                continue  # an assistant that calls a tool need not say anything
            if not isinstance(message.get(key), str):
                found = type(message[key]).__name__ if key in message else "missing"
                raise UsageError(f'message {number}: "{key}" is a str, here it is {found}')
    return list(messages)


def _strings(value: object, where: str, depth: int = 0) -> Iterator[str]:
    """All strings in a value, and an empty one for what is none; UsageError for what is neither
    JSON nor a tuple."""
    if depth > MAX_DEPTH:
        raise UsageError(f"{where} are nested more than {MAX_DEPTH} deep")
    yield value if isinstance(value, str) else ""
    if isinstance(value, str):
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise UsageError(f"a key in {where} is a str, not {type(key).__name__}")
            yield key
            yield from _strings(item, where, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item, where, depth + 1)
    elif value is not None and not isinstance(value, (bool, int, float)):
        raise UsageError(f"{where} hold text, numbers, lists and mappings, not a {type(value)}")


def _unused_mark(texts: Iterable[str]) -> str:
    everything = "\n".join(texts)
    for code in MARKS:
        if chr(code) not in everything and escaped(chr(code)) not in everything:
            return chr(code)
    raise UsageError("the messages use every private-use character of Unicode's first plane")


def _cut(error: object) -> str:
    """What an error says, of which the template may have written any amount."""
    text = str(error)
    return text if len(text) <= MAX_ERROR else f"{text[:MAX_ERROR]}..."


def _line_of(error: BaseException) -> int | None:
    """The line of the template that was running, from the traceback that jinja2 rewrote."""
    line = None
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<chat template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line
