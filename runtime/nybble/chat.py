"""A conversation: messages that may be edited, and replies that join them."""

from __future__ import annotations

from _weakref import ref
from collections.abc import Callable

from nybble.reply import Reply

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    from typing import Any, Unpack

    from nybble.options import AskOptions

    Message = dict[str, Any]


class Chat:
    """A conversation with a model.

    messages : a plain list of {"role": ..., "content": ...}; edit it between turns as you like.

    `ask` adds the user's message at once and the assistant's, behind it, when its reply ends (with
    the text so far, if it was closed, and without what it thought before). What the cache still
    holds of the conversation is not run again.
    """

    def __init__(self, ask: Callable[..., Reply], system: str | None = None) -> None:
        self._ask = ask
        self._last: ref[Reply] | None = None
        self.messages: list[Message] = []
        if system is not None:
            self.messages.append({"role": "system", "content": system})

    def ask(self, text: str, **options: Unpack[AskOptions]) -> Reply:
        """The reply to the next message; options as for `Model.ask`. Nothing runs until the
        reply is read. The reply before, if it has not ended, is closed."""
        last = None if self._last is None else self._last()
        if last is not None:
            last.close()
        message: Message = {"role": "user", "content": text}

        def add(answer: str) -> None:
            for i, other in enumerate(self.messages):
                if other is message:  # still there, and where it now stands
                    self.messages.insert(i + 1, {"role": "assistant", "content": answer})
                    return

        reply = self._ask([*self.messages, message], add, options)
        self.messages.append(message)
        self._last = ref(reply)
        return reply

    def __repr__(self) -> str:
        return f"<nybble.Chat, {len(self.messages):,} messages>"
