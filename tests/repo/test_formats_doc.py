"""docs/formats.md tells the truth: its bytes are what the code makes.

A fenced block `hex NAME` holds lines of an offset or a label, a colon, and bytes in hexadecimal.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from nybble import packing
from nybble.formats import packed_writer
from nybble.formats.gguf import GgufFile
from nybble.formats.packed import PackedFile
from tests.kernels.contract import FLOATS, FORMATS, call, empty_page, pack, quantized
from tools.gguf_writer import exact
from tools.tiny_model import tiny_model

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


def assert_shows(name, expected):
    """Each line of a block is what `expected` has at its offset."""
    for label, part in lines(name):
        at = int(label.split()[0])
        assert expected[at : at + len(part)] == part, f"{name}: {label}"


# -- the example: 8 rows of one block of each format, by the page's rules


def numbers(format):
    """What the rows hold: (d, second scale or None, integer scales or None, q), each (8, ...)."""
    r = np.arange(8)[:, None]
    k = np.arange(FORMATS[format][1])
    one, block = 0x3C00 + r, k // 32
    if format in FLOATS:
        return one if format == "F16" else 0x3F80 + r, None, None, None
    if format in ("Q4_0", "Q4_1", "IQ4_NL", "MXFP4"):
        q = np.where(k < 16, k + r, 31 - k + r) % 16
        m = 0xB800 + r if format == "Q4_1" else None
        return one if format != "MXFP4" else 120 + r, m, None, q
    if format == "Q8_0":
        return 0x2C00 + r, None, None, 8 * k - 128 + r
    if format in ("Q5_0", "Q5_1"):
        return one, 0xB800 + r if format == "Q5_1" else None, None, (k + r) % 32
    if format in ("Q4_K", "Q5_K"):
        scales = 8 * np.arange(8) + r
        return one, 0x3800 + r, scales, (k % 32 + r + block) % (16 if format == "Q4_K" else 32)
    assert format == "Q6_K"
    return one, None, 8 * np.arange(16) + r - 64, (2 * (k % 32) + r + block) % 64


def halves(bits):
    return bits.astype("<u2").view(np.uint8)


def number(bits):
    return bits.astype("<u2").view("<f2").astype(float)


def file_rows(format):
    """The example's rows: GGUF blocks (8, bytes of a block)."""
    d, m, scales, q = numbers(format)
    if format == "F32":
        return np.concatenate([np.zeros((8, 2), np.uint8), halves(d)], axis=1)
    if format in FLOATS:
        return halves(d)
    q = (q & 255).astype(np.uint8)
    if format == "Q8_0":
        return np.concatenate([halves(d), q], axis=1)
    if format == "MXFP4":
        return np.concatenate([d.astype(np.uint8), q[:, :16] | q[:, 16:] << 4], axis=1)
    if format == "Q6_K":
        b = q.reshape(8, 2, 4, 32)  # half, block in it, column
        low = np.stack([b[:, :, i] & 15 | (b[:, :, i + 2] & 15) << 4 for i in (0, 1)], axis=2)
        high = sum((b[:, :, i] >> 4) << 2 * i for i in range(4))
        low, high = low.reshape(8, 128), high.reshape(8, 64)
        return np.concatenate([low, high, scales.astype(np.int8).view(np.uint8), halves(d)], axis=1)
    head = [halves(d)] + ([] if m is None else [halves(m)])
    fifth = q >> 4
    if format.endswith("_K"):
        sc, mn = scales.astype(np.uint8), 63 - scales.astype(np.uint8)
        head += [sc[:, :4] | sc[:, 4:] >> 4 << 6, mn[:, :4] | mn[:, 4:] >> 4 << 6]
        head += [sc[:, 4:] & 15 | (mn[:, 4:] & 15) << 4]
        pairs = (q & 15).reshape(8, 4, 2, 32)  # two blocks share 32 bytes
        nibbles = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(8, 128)
        fifth = sum(fifth[:, 32 * i : 32 * i + 32] << i for i in range(8))
    else:
        nibbles = (q & 15)[:, :16] | (q & 15)[:, 16:] << 4
        fifth = np.packbits(fifth, axis=1, bitorder="little")
    return np.concatenate([*head, *([fifth] if "5" in format else []), nibbles], axis=1)


def test_every_format_has_its_example():
    shown = {name.removesuffix(" tile").upper() for name in BLOCKS if name.endswith(" tile")}
    assert shown == set(FORMATS)
    assert {name for name in BLOCKS if " " not in name} == {"q8", "q16"}


@pytest.mark.parametrize("format", FORMATS)
def test_rows_pack_to_the_tile(format):
    rows = file_rows(format)
    number, block_cols, block_bytes, _ = FORMATS[format]
    assert rows.shape == (8, block_bytes)
    tile = pack(format, rows).tobytes()
    assert_shows(f"{format.lower()} tile", tile)
    bits = block_bytes * 8 / block_cols
    sizes = rf"{block_cols} columns?, {block_bytes} bytes \| {len(tile)} bytes \| {bits:g}"
    row = rf"\| {format} \| {number} \|.*\| {sizes} "
    assert re.search(row, TEXT), row


@pytest.mark.parametrize("format", FORMATS)
def test_rows_are_as_told(format):
    """The rows that the page shows follow its rules, and mean what it says."""
    rows, name = file_rows(format), format.lower()
    shown = f"{name} rows" if f"{name} rows" in BLOCKS else f"{name} row 0"
    found = []
    for label, part in lines(shown):
        if label:
            assert label == f"row {len(found)}"
            found.append(part)
        else:
            found[-1] += part
    assert found == [bytes(row) for row in rows[: len(found)]]
    d, m, scales, q = numbers(format)
    if format in ("IQ4_NL", "MXFP4", *FLOATS):
        return  # what they mean: test_weights_are_those_of_the_gguf_package
    d, m = (number(bits) for bits in (d, np.zeros_like(d) if m is None else m))
    q = q - {"Q4_0": 8.0, "Q5_0": 16.0, "Q6_K": 32.0}.get(format, 0.0)
    if scales is not None:
        columns = 256 // scales.shape[1]
        d = np.repeat(d * scales, columns, axis=1)
        m = np.repeat(-m * (63 - scales), columns, axis=1)
    assert (exact(rows.tobytes(), format, q.shape) == d * q + m).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_activation_blocks(bits):
    assert content(f"q{bits}") == quantized(ACTIVATIONS, bits=bits).tobytes()


@pytest.mark.parametrize("kv", ["f16", "v8", "int8"])
def test_a_position_in_its_page(kv):
    key = np.arange(1, 9, dtype=np.float32)
    page = empty_page(kv, HEAD_DIM)
    call(f"append_{kv}_ref", head_dim=HEAD_DIM, position_in_page=9, key=key, value=key / 2, **page)
    written = b"".join(page[part].tobytes() for part in ("k", "k_scales", "v", "v_scales"))
    expected = bytearray(len(written))
    for label, part in lines(f"page {kv}"):
        expected[int(label) : int(label) + len(part)] = part
    assert written == bytes(expected)


# -- the packed file


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The example's packed file."""
    folder = tmp_path_factory.mktemp("packed")
    tiny_model(folder / "tiny.gguf", layers=1, family="gemma3")
    with GgufFile(folder / "tiny.gguf") as file:
        reading = packing.Reading(file)
        out = str(folder / "tiny.nyb")
        packed_writer.write(out, file, reading.program, reading.tokenizer)
    return folder / "tiny.nyb"


def test_a_packed_file_begins_as_shown(packed):
    found = []
    for label, part in lines("packed file"):
        if label:
            found.append([label, part])
        else:
            found[-1][1] += part
    content = packed.read_bytes()
    with GgufFile(packed) as file:
        assert len(file.tensors) == 16
        assert len(file.metadata) == 44
        for label, part in found:
            kind, _, name = label.partition(" ")
            if kind == "key":
                at = file.record(name)[0]
            elif kind == "tensor":
                at = content.rindex(name.encode(), 0, file.tensors[name].offset) - 8
            else:
                at = {"start": 0, "tables": file.tensors["nybble.tokenizer"].offset}[kind]
            assert content[at : at + len(part)] == part, label
    assert len(found) == 6


def test_a_packed_file_has_the_keys_that_are_listed(packed):
    section = TEXT.partition("## Packed files\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| ([\w ]+) \|", section, re.MULTILINE)
    numbers = {"uint32": 4, "string": 8, "array of strings": 9, "uint64": 10, "int64": 11}
    is_of_copies = {"nybble.source.ctime_ns", "nybble.source.sample"}
    copy = packed.with_name("copy.nyb")
    with GgufFile(packed.with_suffix(".gguf")) as file:
        reading = packing.Reading(file)
        packed_writer.write(str(copy), file, reading.program, reading.tokenizer, is_copy=True)
    with GgufFile(packed) as file, PackedFile(packed) as mine:
        own = [key for key in file.metadata if key not in mine.metadata]
        kept = [key for key, _ in rows if key not in is_of_copies]
        assert kept == ["general.architecture", *own]
    content = copy.read_bytes()
    with GgufFile(copy) as file, PackedFile(copy) as mine:
        own = [key for key in file.metadata if key not in mine.metadata]
        assert [key for key, _ in rows] == ["general.architecture", *own]
        for key, kind in rows:
            at = file.record(key)[0] + 8 + len(key)
            assert int.from_bytes(content[at : at + 4], "little") == numbers[kind], key
        weights = [t.offset for name, t in file.tensors.items() if name != "nybble.tokenizer"]
        assert min(weights) % 4096 == 0
