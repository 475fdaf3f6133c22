"""The sequences of a model, lent to one reply each."""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock, get_ident
from _weakref import ref
from _weakrefset import WeakSet
from time import sleep

from nybble._core.sequence import Sequence
from nybble.errors import BusyError

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    from typing import Any, Protocol

    from nybble.planning import Promise

    class Forkable(Protocol):
        def _after_fork(self) -> None: ...


POLL_S = 0.002

# A sequence that holds something else is taken if it would keep this part of what it holds; else
# the one that was used the longest ago, so that a greeting in common does not cost a long chat.
WORTH_KEEPING = 1 / 4


class Owner:
    """Who wants a sequence or has one: this thread and, in asyncio, its running task."""

    __slots__ = ("task", "thread")

    def __init__(self) -> None:
        self.thread = get_ident()
        self.task: ref[Any] | None = None
        try:
            task = sys.modules["asyncio"].current_task()
        except (KeyError, AttributeError, RuntimeError):
            return  # nobody runs asyncio in this thread
        self.task = None if task is None else ref(task)

    def is_stuck_behind(self, holder: Owner, blocks: bool) -> bool:
        """Whether waiting for what `holder` has would be for ever. blocks: the whole thread waits,
        not its task alone."""
        if holder.thread != self.thread:
            return False
        if blocks or holder.task is None or self.task is None:
            return True
        return holder.task() is self.task()


class Loan:
    """A sequence while it is lent. It ends by `end`, or when nobody refers to it any more: so an
    exception in any place, Ctrl-C among them, cannot lose a sequence."""

    __slots__ = ("__weakref__", "is_over", "owner", "sequence")

    def __init__(self, sequence: Sequence, owner: Owner) -> None:
        self.sequence = sequence
        self.owner = owner
        self.is_over = False

    def end(self) -> None:
        """Gives the sequence back. Takes no lock, because finalizers do it."""
        self.is_over = True


class Sequences:
    """What is free is what no living loan has. `promise` is kept as long as their memory is."""

    def __init__(self, sequences: list[Sequence], promise: Promise) -> None:
        self._sequences = sequences
        self._promise = promise
        self._loans: list[ref[Loan] | None] = [None] * len(sequences)
        self._turns = [0] * len(sequences)  # when each was last lent
        self._lock = allocate_lock()  # of borrowers
        watch_forks(self)

    def borrow(self, ids: list[int], owner: Owner, *, blocks: bool = True) -> Loan | None:
        """A free sequence, the best one for these ids; None if there is none and somebody else
        will give one back. BusyError if it is the owner who has one: it would wait for ever."""
        with self._lock:
            held = [self._loan(i) for i in range(len(self._sequences))]
            free = [i for i, loan in enumerate(held) if loan is None]
            if free:
                return self._lend(self._best(free, ids), owner)
        self._refuse_stuck(held, owner, blocks)
        return None

    def wait(self, ids: list[int]) -> Loan:
        """A free sequence, as soon as there is one; BusyError as above."""
        owner = Owner()
        while (loan := self.borrow(ids, owner)) is None:
            sleep(POLL_S)
        return loan

    def clear(self) -> None:
        """Empties each sequence, as soon as it is free; BusyError as above."""
        owner = Owner()
        for i, sequence in enumerate(self._sequences):
            while True:
                with self._lock:
                    loan = self._loan(i)
                    if loan is None:
                        sequence.rewind(0)
                        break
                self._refuse_stuck([loan], owner, True)
                sleep(POLL_S)

    def _after_fork(self) -> None:
        """In a forked child this thread is the only one: what others had borrowed is free."""
        self._lock = allocate_lock()
        for i in range(len(self._loans)):
            loan = self._loan(i)
            if loan is not None and loan.owner.thread != get_ident():
                loan.end()

    def _loan(self, i: int) -> Loan | None:
        reference = self._loans[i]
        loan = None if reference is None else reference()
        return None if loan is None or loan.is_over else loan

    def _lend(self, i: int, owner: Owner) -> Loan:
        loan = Loan(self._sequences[i], owner)
        self._loans[i] = ref(loan)
        self._turns[i] = max(self._turns) + 1
        return loan

    def _best(self, free: list[int], ids: list[int]) -> int:
        if len(free) == 1:
            return free[0]
        reusable = {i: self._sequences[i].reusable(ids) for i in free}
        nearest = max(free, key=reusable.__getitem__)
        if reusable[nearest] > WORTH_KEEPING * len(self._sequences[nearest].ids):
            return nearest
        return min(free, key=self._turns.__getitem__)

    def _refuse_stuck(self, held: list[Loan | None], owner: Owner, blocks: bool) -> None:
        if any(loan is not None and owner.is_stuck_behind(loan.owner, blocks) for loan in held):
            n = len(self._sequences)
            none_is_free = f", and none of its {n} sequences is free" if n > 1 else ""
            raise BusyError(
                f"another reply of this model is being read in this thread{none_is_free}; read it "
                f"to its end or close() it first, or load(..., sequences={n + 1}) for {n + 1} at a "
                "time"
            )


# -- forks: what must know of them

_forkable: WeakSet[Forkable] = WeakSet()


def watch_forks(it: Forkable) -> None:
    """Has `it._after_fork` called in forked children, before they do anything else."""
    _forkable.add(it)


def _after_fork() -> None:
    for it in list(_forkable):
        it._after_fork()


os.register_at_fork(after_in_child=_after_fork)
