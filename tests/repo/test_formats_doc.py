"""docs/formats.md tells the truth: its bytes are what the code makes.

A fenced block `hex NAME` holds lines of an offset or a label, a colon, and bytes in hexadecimal.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.kernels.contract import FORMATS, PAGE, call, pack, quantized

TEXT = (Path(__file__).parents[2] / "docs/formats.md").read_text()
BLOCKS = dict(re.findall(r"^```hex ([\w ]+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
HEAD_DIM = 8
# The example's activations, as the page tells them.
ACTIVATIONS = [127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -100.25, *[0] * 24]


def lines(name):
    """A block's lines as (label, bytes)."""
    split = [line.rpartition(":") for line in BLOCKS[name].splitlines()]
    return [(label.strip(), bytes.fromhex(digits)) for label, _, digits in split]


def content(name):
    """The bytes of a block whose labels begin with offsets, after checking these."""
    found = b""
    for label, part in lines(name):
        assert int(label.split()[0]) == len(found), f"{name}: {label}"
        found += part
    return found


def file_rows(format):
    """The example's rows: GGUF blocks (8, bytes of a block)."""
    rows = []
    for label, part in lines(f"{format.lower()} rows"):
        if label:
            assert label == f"row {len(rows)}"
            rows.append(part)
        else:
            rows[-1] += part
    return np.array([list(row) for row in rows], np.uint8)


def test_every_format_has_its_example():
    shown = {name.removesuffix(" tile").upper() for name in BLOCKS if name.endswith(" tile")}
    assert shown == set(FORMATS)
    assert {name for name in BLOCKS if " " not in name} == {"q8", "q16", "page"}


@pytest.mark.parametrize("format", FORMATS)
def test_rows_pack_to_the_tile(format):
    rows = file_rows(format)
    number, block_bytes, tile_bytes, _ = FORMATS[format]
    assert rows.shape == (8, block_bytes)
    assert content(f"{format.lower()} tile") == pack(format, rows).tobytes()
    bits = block_bytes / 4
    sizes = rf"{block_bytes} bytes \| {tile_bytes} bytes \| {bits:g}"
    row = rf"\| {format} \| {number} \|.*\| {sizes} \|"
    assert re.search(row, TEXT)


@pytest.mark.parametrize("format", FORMATS)
def test_rows_are_as_told(format):
    """Scales and quants of the rows follow the rules that the page gives."""
    r, k = np.arange(8)[:, None], np.arange(32)
    rows = file_rows(format)
    if format == "Q8_0":
        d, quants = 0x2C00, rows[:, 2:].view(np.int8)
        expected = 8 * k - 128 + r
    else:
        nibbles = rows[:, -16:]
        d, quants = 0x3C00, np.concatenate([nibbles & 15, nibbles >> 4], axis=1)
        expected = np.where(k < 16, k + r, 31 - k + r) % 16
    assert (rows[:, :2].copy().view(np.uint16) == d + r).all()
    assert (quants == expected).all()
    if format == "Q4_1":
        assert (rows[:, 2:4].copy().view(np.uint16) == 0xB800 + r).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_activation_blocks(bits):
    assert content(f"q{bits}") == quantized(ACTIVATIONS, bits=bits).tobytes()


def test_a_position_in_its_page():
    k = np.zeros((PAGE // 8, HEAD_DIM, 8), np.uint16)
    v = np.zeros((PAGE, HEAD_DIM), np.uint16)
    key = np.arange(1, 9, dtype=np.float32)
    arguments = {"key": key, "value": key / 2, "k": k, "v": v}
    call("append_f16_ref", head_dim=HEAD_DIM, position_in_page=9, **arguments)
    expected = bytearray(4 * PAGE * HEAD_DIM)
    for label, part in lines("page"):
        expected[int(label) : int(label) + len(part)] = part
    assert k.tobytes() + v.tobytes() == bytes(expected)
