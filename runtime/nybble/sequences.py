"""The sequences of a model, lent to one reply each."""

from __future__ import annotations

from _thread import allocate_lock, get_ident
from _weakref import ref
from os import getpid
from time import sleep

from nybble._core.sequence import Sequence
from nybble.errors import BusyError

POLL_S = 0.002


class Loan:
    """A sequence while it is lent. It ends by `end`, or when nobody refers to it any more: so an
    exception in any place, Ctrl-C among them, cannot lose a sequence."""

    __slots__ = ("__weakref__", "is_over", "owner", "sequence")

    def __init__(self, sequence: Sequence, owner: int) -> None:
        self.sequence = sequence
        self.owner = owner
        self.is_over = False

    def end(self) -> None:
        """Gives the sequence back. Takes no lock, because finalizers do it."""
        self.is_over = True


class Sequences:
    """What is free is what no living loan has."""

    def __init__(self, sequences: list[Sequence]) -> None:
        self._sequences = sequences
        self._loans: list[ref[Loan] | None] = [None] * len(sequences)
        self._lock = allocate_lock()  # of borrowers
        self._process = getpid()

    def borrow(self) -> Loan | None:
        """A free sequence; None if there is none and another thread will give one back. BusyError
        if this thread has one itself: it would wait for ever."""
        me = get_ident()
        if self._process != getpid():
            self._after_fork(me)
        with self._lock:
            for i, sequence in enumerate(self._sequences):
                if self._loan(i) is None:
                    loan = Loan(sequence, me)
                    self._loans[i] = ref(loan)
                    return loan
            held = [self._loan(i) for i in range(len(self._sequences))]
        if any(loan is not None and loan.owner == me for loan in held):
            raise BusyError(
                "another reply of this model is being read in this thread; read it to its end or "
                "close() it first"
            )
        return None

    def wait(self) -> Loan:
        """A free sequence, as soon as there is one; BusyError as above."""
        while (loan := self.borrow()) is None:
            sleep(POLL_S)
        return loan

    def _after_fork(self, me: int) -> None:
        """In a forked child this thread is the only one: what others had borrowed is free."""
        self._process, self._lock = getpid(), allocate_lock()
        for i in range(len(self._loans)):
            loan = self._loan(i)
            if loan is not None and loan.owner != me:
                loan.end()

    def _loan(self, i: int) -> Loan | None:
        reference = self._loans[i]
        loan = None if reference is None else reference()
        return None if loan is None or loan.is_over else loan
