"""The sequences of a model, lent to one reply each."""

from __future__ import annotations

from _thread import get_ident
from time import monotonic, sleep

from nybble._core.sequence import Sequence
from nybble.errors import BusyError

POLL_S = 0.002


class Sequences:
    """A free list. Giving back never blocks, because finalizers do it."""

    def __init__(self, sequences: list[Sequence]) -> None:
        self._free = sequences
        self._owners: dict[int, int] = {}  # id of a lent sequence -> thread that has it

    def borrow(self, timeout_s: float | None = None) -> Sequence | None:
        """A free sequence; None if there was none within timeout_s.

        Waits for another thread's, but a thread that has one itself would wait for ever, and
        gets BusyError.
        """
        me = get_ident()
        late = None if timeout_s is None else monotonic() + timeout_s
        while True:
            try:
                sequence = self._free.pop()  # atomic
            except IndexError:
                if me in self._owners.values():
                    raise BusyError(
                        "another reply of this model is being read in this thread; read it to "
                        "its end or close() it first"
                    ) from None
                if late is not None and monotonic() >= late:
                    return None
                sleep(POLL_S)
            else:
                self._owners[id(sequence)] = me
                return sequence

    def give_back(self, sequence: Sequence) -> None:
        self._owners.pop(id(sequence), None)
        self._free.append(sequence)
