"""A conversation: messages that may be edited, and replies that join them."""

from __future__ import annotations

from collections.abc import Callable

from nybble.reply import Reply

Message = dict[str, str]


class Chat:
    """A conversation with a model.

    messages : a plain list of {"role": ..., "content": ...}; edit it between turns as you like.

    `ask` adds the user's message at once and the assistant's when its reply ends (with the text
    so far, if it was closed). What the cache still holds of the conversation is not run again.
    """

    def __init__(self, ask: Callable[..., Reply], system: str | None = None) -> None:
        self._ask = ask
        self.messages: list[Message] = []
        if system is not None:
            self.messages.append({"role": "system", "content": system})

    def ask(self, text: str, **options: object) -> Reply:
        """The reply to the next message; options as for `Model.ask`. Nothing runs until the
        reply is read."""
        message = {"role": "user", "content": text}
        reply = self._ask([*self.messages, message], self._add, options)
        self.messages.append(message)
        return reply

    def _add(self, text: str) -> None:
        self.messages.append({"role": "assistant", "content": text})
