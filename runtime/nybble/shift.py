"""What a full context lets go of, where a model was loaded with overflow="shift"."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    from nybble.chat import Message

SYSTEM = ("system", "developer")  # roles of the messages that are kept


class Shift:
    """Keeps of a conversation that has outgrown its context the first tokens and the newest.

    context : positions there are
    prefix  : called, when it is first needed, for how many of the first tokens are kept; at most
              half of the context are

    Between them whole pieces are let go of, of half of what is not kept. So a conversation that
    grows loses a piece now and then, behind which it is run again, and not a token for each token;
    and what is kept depends on its tokens alone, not on how they came.

    cut : of the tokens that were to be kept, how many were let go of, as they were more than half
          of the context
    """

    def __init__(self, context: int, prefix: Callable[[], int]) -> None:
        self._context = context
        self._prefix = prefix
        self._kept: int | None = None
        self._uncut = 0  # tokens behind the kept ones that were to be kept too
        self.cut = 0

    def held(self, ids: list[int]) -> list[int]:
        """What is kept of these tokens: at least one fewer than there are positions."""
        too_many = len(ids) - self._context + 1
        if too_many <= 0:
            return ids
        if self._kept is None:
            prefix = self._prefix()
            self._kept = min(prefix, (self._context - 1) // 2)
            self._uncut = prefix - self._kept
        piece = (self._context - self._kept) // 2
        dropped = -(-too_many // piece) * piece
        cut = min(dropped, self._uncut)
        self._uncut -= cut
        self.cut += cut
        return ids[: self._kept] + ids[self._kept + dropped :]


def prefix_of(
    encode: Callable[[list[Message]], list[int]], messages: list[Message], ids: list[int]
) -> int:
    """How many of a conversation's ids come before the first word that is not the system's: those
    that it shares with two others of the same system messages. encode: messages to ids."""
    system = list(takewhile(lambda message: message["role"] in SYSTEM, messages))
    others = (encode([*system, {"role": "user", "content": text}]) for text in ("a", "b"))
    shared = 0
    for one, two, three in zip(ids, *others, strict=False):
        if not one == two == three:
            break
        shared += 1
    return shared
