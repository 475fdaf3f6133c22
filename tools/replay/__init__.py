"""Dumps a bound model's program so that a C program without Python replays it elsewhere.

    python -m tools.replay dump MODEL FILE [--tokens N] [--rows N] [--kv TYPE]
    python -m tools.replay build OUT [-- compiler and flags]

`dump` writes program, packed weights, the tokens of a text and the logits that this machine made
of them. `build` compiles replay.c with the engine and the kernels (static, with `cc`, by default;
give a cross compiler for a board). What the compiled program says and takes: replay.c.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence as Ids
from pathlib import Path

from nybble._core.program import KV_TYPES, Weights
from nybble._core.sequence import Engine, Sequence
from targets.build import build_program

SECTIONS = ("steps", "buffers", "attentions", "ropes", "turns")
PAGE = 128
SOURCES = ("tools/replay/replay.c", "tools/replay/dump.c")
STATIC = ("cc", "-O2", "-static")


def build(out: Path, command: Ids[str] = STATIC, objects: Path | None = None) -> None:
    """Compiles replay.c with the engine and every kernel. `command`: a compiler and its flags;
    `objects` is as `build_program` has it."""
    build_program(out, SOURCES, command, objects)


def dump(weights: Weights, ids: list[int], rows: int, path: Path, kv: str = "f16") -> None:
    """Writes a program with its weights, these tokens and the logits of the last `rows`, with keys
    and values of the type `kv`."""
    pages = -(-len(ids) // PAGE)
    sequence = Sequence(Engine(weights, context=pages * PAGE, kv=kv))
    vocab = weights.program.vocab
    expected = memoryview(bytearray(4 * vocab * rows)).cast("f", (rows, vocab))
    plain = ids[: len(ids) - rows]
    while len(sequence.ids) < len(plain):
        done = len(sequence.ids)
        end = done + sequence.next_chunk(len(plain) - done)
        sequence.feed(plain[done:end])
    sequence.logits_of(ids[len(plain) :], expected)

    sections = weights.program.sections()
    header = struct.pack(
        "<8s7I28x",
        *(b"NYBRPLAY", 6, pages, vocab, weights.program.logits_buffer),
        *(len(ids), rows, KV_TYPES[kv]),
    )
    with path.open("wb") as file:
        file.write(header)
        for data in (
            *(sections[name] for name in SECTIONS),
            weights.view(),
            struct.pack(f"<{len(ids)}i", *ids),
            expected.cast("B"),
        ):
            file.write(struct.pack("<Q56x", len(data)))
            file.write(data)
            file.write(bytes(-len(data) % 64))
