"""The memory plan: what a model will hold, line by line, before a weight is touched.

The figure is the most that the process holds at once, as the kernel counts it (VmHWM): its own
memory and the pages of files that it has mapped, with the context full. docs/memory.md says how to
check it. A plan is made of metadata alone.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from nybble import machine
from nybble._core.sequence import CHUNK, sizes
from nybble.errors import BudgetError, UsageError
from nybble.formats.gguf import GgufFile
from nybble.options import KV
from nybble.packing import blaming

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    from nybble._core.program import Program
    from nybble.board import Board
    from nybble.packing import Reading

MIB = 1 << 20
INTERPRETER = 16 * MIB  # Python with nybble, where it is not running yet: on a board
OBJECTS = 5 * MIB  # templates and their engine, replies, and what Python keeps of both
HEADROOM = 64 * MIB  # of the machine's memory, left to others where nobody says how much to use
_CHUNKS = (CHUNK, 64, 32, 16)
_PAGE = 128  # positions; a context is planned in whole pages
# How keys and values may be stored: what a plan calls it, and what it alone adds to the KL
# divergence from float32, by model (docs/fidelity.md).
KV_TYPES = {"f16": "float16", "v8": "float16 and int8 (v8)", "int8": "int8"}
KV_KL = {
    "f16": {"smollm2-135m": 4e-7, "gemma3-270m": 4e-7, "qwen2.5-coder-0.5b": 2.3e-6},
    "v8": {"smollm2-135m": 2.5e-5, "gemma3-270m": 3.4e-5, "qwen2.5-coder-0.5b": 1.5e-5},
    "int8": {"smollm2-135m": 1.9e-4, "gemma3-270m": 2.5e-4, "qwen2.5-coder-0.5b": 5.9e-3},
}
UNITS = {"": 1, "kib": 1 << 10, "mib": MIB, "gib": 1 << 30, "kb": 1e3, "mb": 1e6, "gb": 1e9}


class Line(NamedTuple):
    """One part of a plan."""

    what: str
    nbytes: int


class Plan:
    """What a model takes, with a context and a number of sequences.

    lines        : its parts
    total_bytes  : their sum, which the process will not exceed
    budget_bytes : what it may take, and `budget`, who says so
    context, sequences, threads, chunk : what it is for; chunk is the tokens of prefill at once
    kv           : how keys and values are stored: "f16", "v8" or "int8"
    asked_context, asked_kv : what was asked for, where the plan had to take something else
    read_bytes   : bytes that one token of decode reads, with the context full
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
        said = " and ".join(changes)
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
    budget: tuple[int, str],
    held: int,
    on_exceed: str = "refuse",
    kv: str = "f16",
) -> Plan:
    """The plan of a model that has been opened, within a budget.

    budget    : bytes that the process may hold, and who says so
    held      : bytes that it holds already
    on_exceed : "refuse": BudgetError if it does not fit. "adapt": then v8 is taken for f16 and, if
                that is not enough, a smaller context, if one fits. "tell": the plan is returned,
                whether it fits or not
    kv        : "f16", "v8", "int8", or "auto": f16 if it fits, else v8

    A smaller prefill chunk, which changes no token, is tried first in any case.
    """
    if on_exceed not in ("refuse", "adapt", "tell"):
        raise UsageError(f"on_exceed must be 'refuse' or 'adapt', not {on_exceed!r:.40}")

    if not isinstance(kv, str) or kv not in KV:
        raise UsageError(f"kv must be 'f16', 'v8', 'int8' or 'auto', not {kv!r:.40}")
    may_be_v8 = kv == "auto" or (kv == "f16" and on_exceed == "adapt")
    asked = "f16" if kv == "auto" else kv

    fixed = _fixed(reading, held)  # once: the size of a file that is yet to be packed takes time

    def made(context: int) -> Plan:
        for kind in (asked, "v8") if may_be_v8 else (asked,):
            for chunk in _CHUNKS:
                tried = _plan(reading.program, fixed, context, sequences, threads, chunk, kind)
                tried.budget_bytes, tried.budget = budget
                tried.asked_kv = asked
                if tried.fits:
                    return tried
        return tried

    with blaming(reading.file):
        whole = made(context)
    if whole.fits or on_exceed == "tell":
        return whole
    largest = _largest_context(made, context)
    if largest is None or on_exceed == "refuse":
        raise BudgetError(_refusal(reading, whole, largest))
    largest.asked_context = context
    return largest


def budget_of(memory: int | str | None, held: int) -> tuple[int, str]:
    """How many bytes the process may hold, and who says so: `memory`, bytes or a text such as
    "300MiB"; else $NYBBLE_MEMORY; else what the machine can give, less what is left to others.

    held : bytes that the process holds already
    """
    if memory is not None:
        return nbytes_of("memory", memory), "memory"
    if os.environ.get("NYBBLE_MEMORY"):
        return nbytes_of("NYBBLE_MEMORY", os.environ["NYBBLE_MEMORY"]), "NYBBLE_MEMORY"
    free, what = machine.free_memory(HEADROOM)
    return held + free, what


def nbytes_of(name: str, amount: int | str) -> int:
    """A number of bytes, from an int or a text such as "300MiB", "1.5 GB" or "1g" (as MiB, GiB).
    UsageError if it is none."""
    if isinstance(amount, int) and not isinstance(amount, bool):
        nbytes = amount
    elif isinstance(amount, str):
        text = amount.strip().lower()
        number = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
        unit = text[len(number) :].strip()
        unit = {"k": "kib", "m": "mib", "g": "gib", "b": ""}.get(unit, unit)
        try:
            nbytes = int(float(number) * UNITS[unit])
        except (KeyError, ValueError, OverflowError):
            nbytes = -1
    else:
        nbytes = -1
    if not 0 < nbytes < 1 << 50:
        raise UsageError(f"{name} must be an amount such as 300MiB, not {amount!r:.40}")
    return nbytes


def on_board(board: Board, memory: int | str | None) -> tuple[int, str]:
    """The budget on a board: `memory`, or what the least one has, less what is left to others."""
    if memory is not None:
        return nbytes_of("memory", memory), "memory"
    return board.memory_mib[0] * MIB - HEADROOM, f"{board.name} with {board.memory_mib[0]:,} MiB"


def _fixed(reading: Reading, held: int) -> list[Line]:
    """The lines that are the same whatever the context."""
    if reading.is_to_be_mapped:
        weights = Line("packed file, mapped", reading.packed_nbytes)
    else:
        weights = Line("weights, packed in memory", reading.program.weights_bytes)
    lines = [
        Line("Python, and what it holds already", held),
        weights,
        Line("templates and replies", OBJECTS),
    ]
    if isinstance(reading.file, GgufFile):
        head = 2 * reading.head_bytes
        lines.append(Line("tokenizer, and the file's head while it is read", head))
    return lines


def _plan(
    program: Program,
    fixed: list[Line],
    context: int,
    sequences: int,
    threads: int,
    chunk: int,
    kv: str,
) -> Plan:
    kv_bytes, work_bytes = sizes(program, context, threads, sequences, chunk, kv)
    times = f"{sequences:,} times " if sequences > 1 else ""
    return Plan(
        [
            *fixed,
            Line(f"KV cache of {times}{context:,} tokens, {KV_TYPES[kv]}", kv_bytes),
            Line(f"working memory for {chunk} tokens at once", work_bytes),
        ],
        context=context,
        sequences=sequences,
        threads=threads,
        chunk=chunk,
        kv=kv,
        read_bytes=program.read_bytes + program.kv_read_bytes(context, kv),
    )


def _largest_context(made: Any, context: int) -> Plan | None:
    """The plan with the most whole pages of context that fit; None if not even one does."""
    low, high = 0, (context - 1) // _PAGE  # pages that fit, and the most that may
    best = None
    while low < high:
        middle = (low + high + 1) // 2
        tried = made(middle * _PAGE)
        if tried.fits:
            low, best = middle, tried
        else:
            high = middle - 1
    return best


def _refusal(reading: Reading, whole: Plan, largest: Plan | None) -> str:
    name = os.path.basename(reading.file.path)
    said = (
        f"{name} needs {_mib(whole.total_bytes)} with a context of {whole.context:,} "
        f"tokens, and may take {_mib(whole.budget_bytes)} ({whole.budget})"
    )
    smaller = ", more of it with values in 8 bits (--kv v8)" if whole.kv == "f16" else ""
    if largest is None:
        return f"{said}; no context makes it fit: take a smaller model, or close other programs"
    return (
        f"{said}; a context of {largest.context:,} fits (--context {largest.context}, "
        f"{_mib(largest.total_bytes)}){smaller}, or take a smaller model"
    )


def _mib(nbytes: int) -> str:
    return f"{nbytes / MIB:,.1f} MiB"
