"""The memory plan: what a model will hold, line by line, before a weight is touched.

The figure is the most that the process holds at once, as the kernel counts it (VmHWM): its own
memory and the pages of files that it has mapped, with the context full. docs/memory.md says how to
check it. A plan is made of metadata alone.
"""

from __future__ import annotations

import mmap
import os
import sys
from _operator import index
from _thread import RLock
from _weakref import ref
from typing import Any, NamedTuple

from nybble import machine
from nybble._core.sequence import CHUNK, PAGE, sizes
from nybble.errors import BudgetError, UsageError
from nybble.formats.gguf import GgufFile
from nybble.options import KV, NO_NUMBER, shown
from nybble.packing import blaming

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    from nybble._core.program import Program
    from nybble.board import Board
    from nybble.packing import Reading

MIB = 1 << 20
INTERPRETER = 16 * MIB  # Python with nybble, where it is not running yet: on a board
OBJECTS = 5 * MIB  # templates and their engine, replies, and what Python keeps of both
JINJA2 = 8 * MIB  # more, where templates are jinja2's: 8.5 to 13 MiB in place of minijinja's 2.7
TOKEN = 160  # bytes that Python keeps of a token of a reply: its id, and its piece of text
PACKING = 6 * MIB  # the library that sums a packed copy (3 MiB), and what malloc does not give back
HEADROOM = 64 * MIB  # of the machine's memory, left to others where nobody says how much to use
# What is assumed of a board where nobody measured it: that Linux sees what it sees of the Zero 2 W,
# the least that is known of any, and that the system takes as much as one with a desktop may.
LINUX_SHARE, IDLE_SHARE = 13 / 16, 1 / 4
_CHUNKS = (CHUNK, 64, 32, 16)
# How keys and values may be stored: what a plan calls it, and what it alone adds to the KL
# divergence from float32, by model (docs/fidelity.md).
KV_TYPES = {"f16": "float16", "v8": "float16 and int8 (v8)", "int8": "int8"}
KV_KL = {
    "f16": {"smollm2-135m": 4e-7, "gemma3-270m": 4e-7, "qwen2.5-coder-0.5b": 2.3e-6},
    "v8": {"smollm2-135m": 2.5e-5, "gemma3-270m": 3.4e-5, "qwen2.5-coder-0.5b": 1.5e-5},
    "int8": {"smollm2-135m": 1.9e-4, "gemma3-270m": 2.5e-4, "qwen2.5-coder-0.5b": 5.9e-3},
}
UNITS = {"": 1, "kib": 1 << 10, "mib": MIB, "gib": 1 << 30, "kb": 1e3, "mb": 1e6, "gb": 1e9}
_SHORT = ("k", "m", "g", "ki", "mi", "gi")


class Line(NamedTuple):
    """One part of a plan."""

    what: str
    nbytes: int


class Budget(NamedTuple):
    """Bytes that a process may hold, who says so, and how there could be more."""

    nbytes: int
    who: str
    way_out: str


class Plan:
    """What a model takes, with a context and a number of sequences.

    lines        : its parts
    total_bytes  : their sum, which the process will not exceed
    budget_bytes : what it may take, and `budget`, who says so
    context, sequences, threads, chunk : what it is for; chunk is the tokens of prefill at once
    kv           : how keys and values are stored: "f16", "v8" or "int8"
    asked_context, asked_kv : what was asked for, where the plan had to take something else
    read_bytes   : bytes that one token of decode reads, with the context full
    ways_out     : what would make it fit, where it does not; else ""
    """

    def __init__(
        self,
        lines: list[Line],
        *,
        context: int,
        sequences: int,
        threads: int,
        chunk: int,
        kv: str,
        read_bytes: int,
    ):
        self.lines = lines
        self.total_bytes = sum(line.nbytes for line in lines)
        self.context = context
        self.sequences = sequences
        self.threads = threads
        self.chunk = chunk
        self.kv = kv
        self.read_bytes = read_bytes
        self.budget_bytes = 0
        self.budget = ""
        self.asked_context = context
        self.asked_kv = kv
        self.ways_out = ""
        self.has_jinja2 = False  # whether it is counted

    @property
    def fits(self) -> bool:
        """Whether the total is within the budget."""
        return self.total_bytes <= self.budget_bytes

    @property
    def notice(self) -> str:
        """What a user should know of how the plan was made to fit; "" for nothing."""
        changes = []
        if self.context != self.asked_context:
            changes.append(f"the context is {self.context:,} tokens, not {self.asked_context:,}")
        if self.kv != self.asked_kv:
            changes.append(f"keys and values are stored as {self.kv}, not {self.asked_kv}")
        if not changes:
            return ""
        said = ", and ".join(changes)
        return f"{said}: more does not fit {_mib(self.budget_bytes)} ({self.budget})"

    @property
    def kv_kl(self) -> dict[str, float]:
        """What storing keys and values so adds to the mean KL divergence from float32, in nats, by
        known model."""
        return KV_KL[self.kv]

    def tok_s(self, read_gb_s: float) -> float:
        """Tokens a second of decode that memory read at this rate allows, the context full."""
        return read_gb_s * 1e9 / self.read_bytes

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "total_bytes": self.total_bytes,
            "budget_bytes": self.budget_bytes,
            "budget": self.budget,
            "fits": self.fits,
            "ways_out": self.ways_out,
            "context": self.context,
            "asked_context": self.asked_context,
            "kv": self.kv,
            "asked_kv": self.asked_kv,
            "kv_kl": self.kv_kl,
            "sequences": self.sequences,
            "threads": self.threads,
            "chunk": self.chunk,
            "read_bytes": self.read_bytes,
            "lines": [line._asdict() for line in self.lines],
        }

    def __repr__(self) -> str:
        return f"<nybble.Plan {self.total_bytes / MIB:,.1f} of {self.budget_bytes / MIB:,.1f} MiB>"


def plan(
    reading: Reading,
    *,
    context: int,
    sequences: int,
    threads: int,
    budget: Budget,
    held: int,
    on_exceed: str = "refuse",
    kv: str | None = None,
    board: Board | None = None,
    name: str = "",
) -> Plan:
    """The plan of a model that has been opened, within a budget.

    budget    : what the process may hold
    held      : bytes that it holds already, `held_bytes()`
    on_exceed : "refuse": BudgetError if it does not fit. "adapt": then v8 is taken, unless `kv` is
                given, and, if that is not enough, a smaller context, if one fits. "tell", which
                only tools may say: the plan is returned, whether it fits or not
    kv        : "f16", "v8", "int8", or "auto": f16 if it fits, else v8; None is f16 that "adapt"
                may take v8 for
    board     : where it is to run; None for this machine
    name      : what the model is called in a refusal; by default its file's name

    A smaller prefill chunk, which changes no token, is tried first in any case.
    """
    if kv is not None and (not isinstance(kv, str) or kv not in KV):
        raise UsageError(f"kv must be 'f16', 'v8', 'int8' or 'auto', not {shown(kv)}")
    may_be_v8 = kv == "auto" or (kv is None and on_exceed == "adapt")
    asked = "f16" if kv is None or kv == "auto" else kv

    # once: the size of a file that is yet to be packed takes time
    fixed, objects = _fixed(reading, held, board), _objects(reading, board)

    def made(context: int) -> Plan:
        for kind in (asked, "v8") if may_be_v8 else (asked,):
            for chunk in _CHUNKS:
                shape = context, threads, sequences, chunk
                tried = _plan(reading.program, fixed, objects, *shape, kind, board)
                tried.budget_bytes, tried.budget = budget.nbytes, budget.who
                tried.asked_kv = asked
                tried.has_jinja2 = objects > OBJECTS
                if tried.fits:
                    return tried
        return tried

    with blaming(reading.file):
        whole = made(context)
    if whole.fits:
        return whole
    largest = _largest_context(made, context)
    if largest is None:
        whole.ways_out = _ways_to_more(made(min(context, PAGE)), budget)
    else:
        whole.ways_out = _ways_to_less(whole, largest)
    if on_exceed == "tell":
        return whole
    if largest is None or on_exceed == "refuse":
        raise BudgetError(_refusal(name or os.path.basename(reading.file.path), whole))
    largest.asked_context = context
    return largest


# Held from looking at what the process holds until what was planned by it is promised: so models
# that threads load at the same moment count each other.
lock = RLock()


def _after_fork() -> None:
    global lock
    lock = RLock()  # in a forked child nobody else is there who could give it back


os.register_at_fork(after_in_child=_after_fork)


class Promise:
    """What the plan of a loaded model gives it, which no other plan may count on: for as long as
    it is referred to, by whatever has the model's memory."""

    __slots__ = ("__weakref__", "held", "nbytes")

    def __init__(self, plan: Plan, held: int):
        """held: what the process held before, `held_bytes()`"""
        others = _promises()
        self.nbytes = plan.total_bytes - held
        self.held: int = others[0].held if others else held  # before any was promised
        _kept.append(ref(self, _kept.remove))


def add_jinja2(plan: Plan, promise: Promise) -> None:
    """Counts jinja2 in the plan of a loaded model that was to do without, before it is loaded for
    messages that minijinja is not trusted with (`nybble.tokenizer.quick`). BudgetError if it does
    not fit."""
    with lock:
        if plan.has_jinja2 or is_loaded("jinja2"):  # then it is in what the process holds
            return
        if plan.total_bytes + JINJA2 > plan.budget_bytes:
            raise BudgetError(
                f"these messages need jinja2, {_mib(JINJA2)} more than the plan's "
                f"{_mib(plan.total_bytes)}, and all may take {_mib(plan.budget_bytes)} "
                f"({plan.budget}); leave out tool calls and control characters, or load the model "
                "with more memory or a smaller context (memory=, context=)"
            )
        plan.lines.append(Line("jinja2, for messages with more than text", JINJA2))
        plan.total_bytes += JINJA2
        promise.nbytes += JINJA2
        plan.has_jinja2 = True


def is_loaded(module: str) -> bool:
    return module in sys.modules


_kept: list[ref[Promise]] = []


def _promises() -> list[Promise]:
    return [promise for kept in tuple(_kept) if (promise := kept()) is not None]


def held_bytes() -> int:
    """What the process holds, its models whole: of one that has just been loaded little has been
    touched yet."""
    return max(machine.held_bytes(), promised_bytes())


def promised_bytes() -> int:
    """What was held before any model was loaded, and what is promised to those that are; 0 if there
    is none."""
    promises = _promises()
    return promises[0].held + sum(p.nbytes for p in promises) if promises else 0


def budget_of(memory: int | str | None, held: int, name: str = "memory=") -> Budget:
    """What the process may hold: `memory`, bytes or a text such as "300MiB"; else $NYBBLE_MEMORY;
    else what the machine can give, less what is left to others.

    held : bytes that the process holds already
    name : what its user calls `memory`
    """
    if memory is not None:
        return Budget(nbytes_of(name.removesuffix("="), memory), name, f"allow more ({name})")
    if os.environ.get("NYBBLE_MEMORY"):
        nbytes = nbytes_of("NYBBLE_MEMORY", os.environ["NYBBLE_MEMORY"])
        return Budget(nbytes, "NYBBLE_MEMORY", "allow more")
    return Budget(*machine.may_hold(held, HEADROOM))


def nbytes_of(name: str, amount: int | str) -> int:
    """A number of bytes, from a whole number or a text such as "300MiB", "1.5 GB" or "1g" (as GiB).
    UsageError if it is none, or less than any model takes: then a unit was forgotten."""
    try:
        nbytes = _in_bytes(amount) if isinstance(amount, str) else index(amount)
    except (KeyError, *NO_NUMBER):
        nbytes = -1
    if isinstance(amount, bool):
        nbytes = -1
    if not 0 < nbytes < 1 << 50:
        raise UsageError(f"{name} must be an amount such as 300MiB, not {shown(amount)}")
    if nbytes < MIB:
        meant = f"; did you mean {nbytes}MiB?" if str(amount).strip() == str(nbytes) else ""
        raise UsageError(f"{name} must be 1 MiB or more, not {nbytes:,} bytes{meant}")
    return nbytes


def _in_bytes(amount: str) -> int:
    text = amount.strip().lower()
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = text[len(number) :].strip()
    unit = "" if unit == "b" else f"{unit[0]}ib" if unit in _SHORT else unit
    if "_" in number or not number.isascii():  # float() takes them
        raise ValueError
    return int(float(number) * UNITS[unit])


def on_board(board: Board, memory: int | str | None) -> Budget:
    """The budget on a board: `memory`, or what Linux sees of the least one, less what an idle
    system takes of that and what is left to others, which is what `budget_of` would find there. It
    is the command line that plans for boards."""
    if memory is not None:
        return budget_of(memory, 0, "--memory")
    least = board.memory_mib[0]
    seen = board.linux_mib or int(least * LINUX_SHARE)
    idle = board.idle_mib or int(least * IDLE_SHARE)
    sees = f"Linux sees {seen:,}" if board.linux_mib else f"Linux is taken to see {seen:,}"
    takes = f"an idle system takes {idle:,}" if board.idle_mib else f"a system may take {idle:,}"
    nbytes = (seen - idle) * MIB - HEADROOM
    who = f"{board.name} with {least:,} MiB: {sees}, {takes}, {HEADROOM // MIB} are left to others"
    return Budget(nbytes, who, "take one with more")


def _fixed(reading: Reading, held: int, board: Board | None) -> list[Line]:
    """The lines that are the same whatever the context."""
    if reading.is_to_be_mapped:
        what, nbytes = "packed file, mapped", reading.packed_nbytes
    else:
        what, nbytes = "weights, packed in memory", reading.program.weights_bytes
    lines = [
        Line("Python, and what it holds already", held),
        Line(what, _in_pages(nbytes, board)),
    ]
    if isinstance(reading.file, GgufFile) and reading.is_to_be_mapped:
        lines.append(Line("what packing the file leaves", PACKING))
    elif isinstance(reading.file, GgufFile):
        head = 2 * reading.head_bytes
        lines.append(Line("tokenizer, and the file's head while it is read", head))
        if reading.has_no_copy and is_loaded("hashlib"):  # then packing had begun, or may have
            lines.append(Line("what packing the file leaves", PACKING))
    return lines


def _objects(reading: Reading, board: Board | None) -> int:
    """Bytes of templates and of what is the same of all replies."""
    from nybble.tokenizer import quick

    is_there = quick.is_there() if board is None else board.isa in quick.MACHINES
    if reading.template is None or (is_there and quick.is_known(reading.template)):
        return OBJECTS
    return OBJECTS + JINJA2


def _plan(
    program: Program,
    fixed: list[Line],
    objects: int,
    context: int,
    threads: int,
    sequences: int,
    chunk: int,
    kv: str,
    board: Board | None,
) -> Plan:
    panel_bytes = None if board is None else board.panel_bytes
    found = sizes(program, context, threads, sequences, chunk, kv, panel_bytes)
    kv_bytes, work_bytes = (_in_pages(nbytes, board) for nbytes in found)
    objects = _in_pages(objects + TOKEN * context * sequences, board)
    times = f"{sequences:,} times " if sequences > 1 else ""
    tokens = "1 token" if context == 1 else f"{context:,} tokens"
    return Plan(
        [
            *fixed,
            Line("templates and replies", objects),
            Line(f"KV cache of {times}{tokens}, {KV_TYPES[kv]}", kv_bytes),
            Line(f"working memory for {chunk} tokens at once", work_bytes),
        ],
        context=context,
        sequences=sequences,
        threads=threads,
        chunk=chunk,
        kv=kv,
        read_bytes=program.read_bytes + program.kv_read_bytes(context, kv),
    )


def _in_pages(nbytes: int, board: Board | None) -> int:
    """Bytes of the whole pages that it takes, of the board or this machine."""
    page = mmap.PAGESIZE if board is None else board.page_size
    return -(-nbytes // page) * page


def _largest_context(made: Any, context: int) -> Plan | None:
    """The plan with the most whole pages of context that fit; None if not even one does."""
    low, high = 0, (context - 1) // PAGE  # pages that fit, and the most that may
    best = None
    while low < high:
        middle = (low + high + 1) // 2
        tried = made(middle * PAGE)
        if tried.fits:
            low, best = middle, tried
        else:
            high = middle - 1
    return best


def _refusal(name: str, whole: Plan) -> str:
    return (
        f"{name} needs {_mib(whole.total_bytes)} with a context of {whole.context:,} tokens, and "
        f"may take {_mib(whole.budget_bytes)} ({whole.budget}); {whole.ways_out}"
    )


def _ways_to_less(whole: Plan, largest: Plan) -> str:
    smaller = ", more of it with values in 8 bits (--kv v8)" if whole.kv == "f16" else ""
    return (
        f"a context of {largest.context:,} fits (--context {largest.context}, "
        f"{_mib(largest.total_bytes)}){smaller}, or take a smaller model"
    )


def _ways_to_more(least: Plan, budget: Budget) -> str:
    return (
        f"no context makes it fit, for one of {least.context:,} takes "
        f"{_mib(least.total_bytes)}: {budget.way_out}, or take a smaller model"
    )


def _mib(nbytes: int) -> str:
    return f"{nbytes / MIB:,.1f} MiB"
