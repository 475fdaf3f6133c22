"""The fuzz target of packed files: one that was changed in any way is refused with an error of
nybble's own, or loads, encodes and runs; and its sum tells whether it was changed.

An input is a list of choices, a byte each: a family's tiny file, then where its packed file is
changed, and how. tests/fuzz/atheris_target.py drives it.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import nybble
from nybble import packing
from nybble.errors import FormatError, NybbleError
from nybble.formats import packed_writer
from nybble.formats.gguf import GgufFile
from nybble.formats.packed import TABLES, PackedFile
from tests.fuzz.builder import (
    BY_THE_ENGINE,
    FAMILIES,
    NUMBERS,
    SHAPE,
    VOCAB,
    Choices,
    folder_in_memory,
    use,
)
from tools.tiny_model import tiny_model


class Base(NamedTuple):
    """A packed file and what may be changed in it."""

    data: bytes
    fields: list[int]  # where a length, a type or a value begins in the head
    regions: list[tuple[int, int]]  # (begin, bytes) of the head, the tables and the weights


@cache
def tiny(family: str) -> Base:
    """A family's tiny model, packed."""
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder, "tiny.gguf"), Path(folder, "tiny.nyb")
        tiny_model(source, family=family, vocab=VOCAB, **SHAPE)
        with GgufFile(source) as gguf:
            reading = packing.Reading(gguf)
            packed_writer.write(os.fspath(path), gguf, reading.program, reading.tokenizer)
        data = path.read_bytes()
        with PackedFile(path) as file:
            head, tables = len(file.head), len(file.tables)
            tensors = list(file.tensors.values())
    listed = data.index(TABLES.encode()) - 8
    keys = [at - 8 for name in (b"nybble.", b"tokenizer.", family.encode() + b".", b"general.")
            for at in _occurrences(data[:listed], name)]  # fmt: skip
    # behind a key's name, of at most 48 bytes, stand its type and value
    values = [at + 8 + data[at] for at in keys] + [at + 12 + data[at] for at in keys]
    rows = [at for tensor in tensors for at in _occurrences(data[:head], tensor.name.encode())]
    dims = [at + step for at in rows for step in range(0, 64, 4)]
    fields = sorted({4, 8, 16, *keys, *values, listed, *range(listed, listed + 64, 4), *dims})
    weights = min(tensor.offset for tensor in tensors)
    regions = [(0, head), (head, tables), (weights, len(data) - weights)]
    return Base(data, [at for at in fields if at < head - 8], regions)


def _occurrences(data: bytes, of: bytes) -> list[int]:
    found, at = [], data.find(of)
    while at >= 0:
        found.append(at)
        at = data.find(of, at + 1)
    return found


def change(choices: Choices, base: Base) -> bytes:
    data = bytearray(base.data)
    for _ in range(choices.below(5)):
        how = choices.below(8)
        if how < 4:  # a number in the head
            at = base.fields[choices.wide() % len(base.fields)]
            width = choices.of([1, 2, 4, 8])
            number = choices.of(NUMBERS) % 2 ** (8 * width)
            data[at : at + width] = number.to_bytes(width, "little")
        elif how < 7:  # a byte anywhere
            begin, nbytes = choices.of(base.regions)
            at = begin + choices.wide() % nbytes
            if at < len(data):
                data[at] ^= 1 + choices.below(255)
        else:  # its end
            del data[choices.of([len(data) - 1, *(begin for begin, _ in base.regions)]) :]
    return bytes(data)


def try_one(data: bytes) -> bool:
    """Packs, changes and runs what an input says; whether it ran. Any exception but nybble's own is
    a finding, and so is a sum that does not see a change."""
    choices = Choices(data)
    base = tiny(choices.of(list(FAMILIES)))
    changed = change(choices, base)
    with folder_in_memory() as folder:
        path = os.path.join(folder, "model.nyb")
        Path(path).write_bytes(changed)
        try:
            with PackedFile(path) as file:
                _check_sum(file, changed == base.data)
            use(nybble.load(path, threads=1))
        except NybbleError as error:
            refused = str(error)
        else:
            return True
    assert refused, "an error without a word"
    assert BY_THE_ENGINE not in refused, refused
    return False


def _check_sum(file: PackedFile, is_whole: bool) -> None:
    try:
        file.check_sum()
    except FormatError:
        assert not is_whole, "the sum of a file as it was written does not fit"
    else:
        assert is_whole, "the sum of a changed file fits"
