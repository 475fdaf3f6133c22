"""Chat templates: messages to ids, so that nobody's text can pass for a control token.

The rule: before rendering, a mark (a private-use character that occurs nowhere else) is put inside
every spelling of a protected token in the messages' strings, and at a string's end that is a proper
prefix of one, or start that is a proper suffix. After rendering, special tokens are found only
where no mark is inside, and then the marks are taken out: what the template wrote became tokens,
what the messages said is text.

Protected are the control tokens, and those user-defined ones that the template itself writes. In an
assistant's own message `<think>` and `</think>` are left alone: templates look for them there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from nybble._core import tokenizer as core
from nybble.errors import TemplateError, UsageError
from nybble.tokenizer import Tokenizer, lone_surrogate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

    import minijinja

THINK = frozenset(("<think>", "</think>"))
ROLES = frozenset(("system", "user", "assistant", "tool", "developer"))
MAX_DEPTH = 64  # of lists and mappings in messages and variables
MARKS = range(0xE000, 0xF900)


class ChatTemplate:
    """A model's chat template, `source` in jinja2's language, with the tokenizer it is for.

    It is compiled when first used: by minijinja where that is known to make the same text
    (`nybble.tokenizer.quick`), by jinja2 as soon as a conversation needs it. TemplateError if it
    does not compile, cannot render the messages or takes more than it may
    (`nybble.tokenizer.sandbox`), with the line where it is known.
    """

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        self.source = source
        self._tokenizer = tokenizer
        self._code: CodeType | None = None
        protected = frozenset(_protected(tokenizer, source))
        # A template that takes pieces out of a text could join what was apart: then the mark goes
        # behind every character that could begin a spelling.
        dense = any(word in source for word in ("replace", "split", "join"))
        self._guard = _Guard(protected, dense)
        self._assistant_guard = self._guard
        if protected & THINK:
            self._assistant_guard = _Guard(protected - THINK, dense, left_alone=tuple(THINK))

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
        checked = _checked(messages)
        spoken = [*_strings(checked, "messages"), *_strings(variables, "variables")]
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
        size = sum(map(len, spoken))
        return self._run(context, size).replace(_escaped(mark), mark), mark

    def _spelling(self, id: int | None) -> str:
        return "" if id is None else self._tokenizer.spelling(id)

    def _protect_message(self, message: Mapping[str, Any], mark: str) -> dict[str, Any]:
        guard = self._assistant_guard if message["role"] == "assistant" else self._guard
        protected: dict[str, Any] = guard.protect(message, mark)
        role = message["role"]
        if role in ROLES or (role.isidentifier() and _is_quoted(role, self.source)):
            protected["role"] = role  # templates compare it, and write <|role|>
        elif guard.is_inside(role):
            protected["role"] = mark + protected["role"]
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
        import jinja2

        from nybble.tokenizer import sandbox
        from nybble.tokenizer.metering import BudgetExceeded

        try:
            if self._code is None:
                self._code = sandbox.compile_template(self.source)
            return sandbox.Sandbox().render(self._code, context, spoken)
        except sandbox.TemplateRaised as error:
            raise TemplateError(
                f"the chat template cannot render these messages: {error}"
            ) from None
        except BudgetExceeded as error:
            raise TemplateError(f"the chat template is refused: {error}") from None
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"the chat template does not compile: line {error.lineno}: {error.message}"
            ) from None
        except RecursionError:
            raise TemplateError("the chat template is refused: it is nested too deeply") from None
        except Exception as error:  # a template can raise whatever Python's operators raise
            line = _line_of(error)
            where = f"line {line}: " if line else ""
            raise TemplateError(
                f"the chat template failed: {where}{type(error).__name__}: {error}"
            ) from error


class _Guard:
    """Puts marks into strings so that no spelling of `protected` survives in them, nor arises where
    they meet other strings. With `dense` also behind every character that begins a spelling, but
    for the spellings `left_alone`.

    Letters count in either case, because templates change it. Gemma's vocabulary has 6,000
    spellings, so they are kept in sorted lists, which are made in no time.
    """

    def __init__(
        self, protected: frozenset[str], dense: bool, left_alone: tuple[str, ...] = ()
    ) -> None:
        self._whole = {_folded(spelling) for spelling in protected}
        self._sorted = sorted(self._whole)
        self._backwards = sorted(spelling[::-1] for spelling in self._whole)
        self._lengths: dict[str, set[int]] = {}  # by the first character
        for spelling in self._whole:
            self._lengths.setdefault(spelling[0], set()).add(len(spelling))
        self._longest = max(map(len, self._whole), default=0)
        self._dense = dense
        self._left_alone = left_alone

    def protect(self, value: Any, mark: str) -> Any:
        """A copy of a value of strings, lists and mappings, with marks in its strings."""
        if isinstance(value, str):
            return self._protect_text(value, mark)
        if isinstance(value, Mapping):
            # Names that templates look up are words; other keys are text like any other.
            return {
                key if key.isidentifier() else self._protect_text(key, mark): self.protect(
                    item, mark
                )
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.protect(item, mark) for item in value]
        return value

    def is_inside(self, text: str) -> bool:
        """Whether some spelling has the text in it: a template that writes `<|` and `|>` around a
        role must not make a token of one that it does not know."""
        return _folded(text) in "\n".join(self._sorted)

    def _protect_text(self, text: str, mark: str) -> str:
        if not text or not self._whole:
            return text
        folded = _folded(text)
        places = {at + 1 for at in self._found(folded) if not text.startswith(self._left_alone, at)}
        # A template may strip white space off before it joins, so the edges within it count too.
        for end in {len(text), len(text.rstrip())}:
            tail = folded[max(0, end - self._longest) : end]
            if any(_is_begun(self._sorted, tail[n:]) for n in range(len(tail))):
                places.add(end)
        for start in {0, len(text) - len(text.lstrip())}:
            head = folded[start : start + self._longest][::-1]
            if any(_is_begun(self._backwards, head[n:]) for n in range(len(head))):
                places.add(start)
        pieces = []
        at = 0
        for place in sorted(places):
            pieces += [text[at:place], mark]
            at = place
        return "".join([*pieces, text[at:]])

    def _found(self, folded: str) -> Iterator[int]:
        """Every place where a spelling starts, also within another; if dense, where one could."""
        for first, lengths in self._lengths.items():
            at = folded.find(first)
            while at >= 0:
                if self._dense or any(folded[at : at + n] in self._whole for n in lengths):
                    yield at
                at = folded.find(first, at + 1)


class _Folds(dict[int, str]):
    """Every character as what it becomes in lower case, by way of upper case too (the long s), if
    that is one character."""

    def __missing__(self, code: int) -> str:
        ways = (chr(code).upper().lower(), chr(code).lower(), chr(code))
        self[code] = next(way for way in ways if len(way) == 1)
        return self[code]


_FOLDS = _Folds()


def _folded(text: str) -> str:
    """A text without upper case, character by character."""
    return text.lower() if text.isascii() else text.translate(_FOLDS)


def _is_begun(ordered: list[str], start: str) -> bool:
    """Whether one of the strings, which are sorted, goes on behind `start`."""
    at = bisect_right(ordered, start)
    return at < len(ordered) and ordered[at].startswith(start)


def _protected(tokenizer: Tokenizer, source: str) -> Iterator[str]:
    """The spellings that messages must not pass off as tokens."""
    for id in tokenizer.vocabulary.specials():
        spelling = tokenizer.spelling(id)
        if not spelling or spelling.isspace():
            continue
        if tokenizer.vocabulary.type(id) != core.USER_DEFINED or spelling in source:
            yield spelling


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
    """All strings in a value; UsageError for what is neither JSON nor a tuple."""
    if depth > MAX_DEPTH:
        raise UsageError(f"{where} are nested more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
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
        if chr(code) not in everything and _escaped(chr(code)) not in everything:
            return chr(code)
    raise UsageError("the messages use every private-use character of Unicode's first plane")


def _escaped(mark: str) -> str:
    """How a mark stands in what Python's repr or JSON in ASCII makes of a string."""
    return repr(mark)[1:-1]


def _is_quoted(word: str, source: str) -> bool:
    return f"'{word}'" in source or f'"{word}"' in source


def _line_of(error: BaseException) -> int | None:
    """The line of the template that was running, from the traceback that jinja2 rewrote."""
    line = None
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<chat template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line
