"""GGUF files from NumPy arrays: the container's writer, and the blocks of the weight formats.

`write_gguf` writes version 3 (or 2, whose bytes differ by the number only), little-endian.
`quantize` and `dequantize` turn float32 rows into a format's bytes and back:

    format          block                                                       value
    F32 F16 BF16    1 weight                                                    x
    Q4_0 Q5_0       32 weights; float16 d, (fifth bits,) nibbles                d*(q - 8 or 16)
    Q4_1 Q5_1       32; float16 d and m, (fifth bits,) nibbles                  d*q + m
    Q8_0            32; float16 d, int8 q                                       d*q
    IQ4_NL          32; float16 d, nibbles                                      d*IQ4_NL[q]
    MXFP4           32; e of a scale 2^(e - 128), nibbles                       2^(e - 128)*FP4[q]
    Q4_K Q5_K       256; float16 d and dmin, 6 bits each sc and mn of           d*sc*q - dmin*mn
                    32 weights, (fifth bits,) nibbles
    Q6_K            256; nibbles, pairs of bits, int8 sc of 16 weights, float16 d   d*sc*(q - 32)

In a block of 32, byte i of the nibbles is q[i] in the low half and q[i + 16] in the high one.

Both are for tests and tools: what they write is valid, not what a quantizer that minimises
error would choose.

Source of the layouts: the GGUF specification, and ggml's definition of its blocks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

MAGIC = b"GGUF"
ALIGNMENT = 32  # of the data section and of every tensor in it, unless general.alignment says
BLOCK = 32  # weights in a quantized block
SUPERBLOCK = 256  # in one of a K-quant


class Format(NamedTuple):
    ggml_type: int
    block: int  # weights
    block_bytes: int


FORMATS = {
    "F32": Format(0, 1, 4),
    "F16": Format(1, 1, 2),
    "Q4_0": Format(2, BLOCK, 18),
    "Q4_1": Format(3, BLOCK, 20),
    "Q5_0": Format(6, BLOCK, 22),
    "Q5_1": Format(7, BLOCK, 24),
    "Q8_0": Format(8, BLOCK, 34),
    "Q4_K": Format(12, SUPERBLOCK, 144),
    "Q5_K": Format(13, SUPERBLOCK, 176),
    "Q6_K": Format(14, SUPERBLOCK, 210),
    "IQ4_NL": Format(20, BLOCK, 18),
    "BF16": Format(30, 1, 2),
    "MXFP4": Format(39, BLOCK, 17),
}
IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
FP4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # twice E2M1

_SCALARS = {  # kind -> (the id in the file, struct code)
    "uint8": (0, "B"),
    "int8": (1, "b"),
    "uint16": (2, "H"),
    "int16": (3, "h"),
    "uint32": (4, "I"),
    "int32": (5, "i"),
    "float32": (6, "f"),
    "bool": (7, "?"),
    "uint64": (10, "Q"),
    "int64": (11, "q"),
    "float64": (12, "d"),
}
_STRING = 8
_ARRAY = 9


class Scalar(NamedTuple):
    """A number whose type is said and not guessed: `Scalar("uint16", 7)`."""

    kind: str
    value: int | float | bool


class Array(NamedTuple):
    """An array of one kind: a scalar's name, "string" or "array" (of `Array`s)."""

    kind: str
    values: Sequence


class Tensor(NamedTuple):
    """One tensor as the file holds it."""

    name: str
    shape: tuple[int, ...]  # outermost first, as NumPy has it; the file has the reverse
    format: str
    data: bytes


Value = str | bool | int | float | Scalar | Array | Sequence[str]


def tensor(name: str, values: np.ndarray, format: str) -> Tensor:
    """`values` (..., columns) float as a tensor of `format`; the shape is theirs."""
    return Tensor(name, values.shape, format, quantize(values, format))


def tensor_nbytes(shape: Sequence[int], format: str) -> int:
    """Bytes of a tensor whose rows, `shape[-1]` weights long, are whole blocks."""
    _, block, block_bytes = FORMATS[format]
    if shape[-1] % block:
        raise ValueError(f"{format} takes rows in {block}s of weights, got {shape[-1]}")
    return int(np.prod(shape, dtype=np.int64)) // block * block_bytes


def write_gguf(
    path: str | Path,
    metadata: Mapping[str, Value],
    tensors: Iterable[Tensor] = (),
    *,
    version: int = 3,
) -> None:
    """Write a GGUF file. Tensors lie in the order given.

    metadata : a bare str, bool, int or float is written as string, bool, uint32 or float32, a
               sequence of str as an array of strings; `Scalar` and `Array` say their type.
               `general.alignment`, where given, is obeyed.
    Raises ValueError for a tensor whose bytes do not fit its shape.
    """
    tensors = list(tensors)
    alignment = _alignment(metadata)
    head = bytearray(MAGIC)
    head += struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += _string(key) + _typed(value)

    offset = 0
    for t in tensors:
        want = tensor_nbytes(t.shape, t.format)
        if len(t.data) != want:
            raise ValueError(f"{t.name} {t.shape} {t.format} is {want} bytes, got {len(t.data)}")
        head += _string(t.name) + struct.pack("<I", len(t.shape))
        head += struct.pack(f"<{len(t.shape)}Q", *reversed(t.shape))
        head += struct.pack("<IQ", FORMATS[t.format].ggml_type, offset)
        offset += want + -want % alignment

    with open(path, "wb") as file:
        file.write(head + bytes(-len(head) % alignment))
        for t in tensors:
            file.write(t.data)
            file.write(bytes(-len(t.data) % alignment))


def _alignment(metadata: Mapping[str, Value]) -> int:
    value = metadata.get("general.alignment", ALIGNMENT)
    if isinstance(value, Scalar):
        value = value.value
    if not isinstance(value, int):
        raise ValueError(f"general.alignment is {value!r}, not a whole number")
    return value


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(value: Value) -> bytes:
    """A metadata value with its type's id in front."""
    if isinstance(value, Array):
        return struct.pack("<I", _ARRAY) + _array(value)
    if isinstance(value, Scalar):
        id, code = _SCALARS[value.kind]
        return struct.pack("<I" + code, id, value.value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, bool):
        return _typed(Scalar("bool", value))
    if isinstance(value, int):
        return _typed(Scalar("uint32", value))
    if isinstance(value, float):
        return _typed(Scalar("float32", value))
    return _typed(Array("string", value))


def _array(array: Array) -> bytes:
    """An array without the id of "array" in front: its elements' id, their count, they."""
    kind, values = array
    if kind == "string":
        id, body = _STRING, b"".join(map(_string, values))
    elif kind == "array":
        id, body = _ARRAY, b"".join(map(_array, values))
    else:
        id, code = _SCALARS[kind]
        body = struct.pack(f"<{len(values)}{code}", *values)
    return struct.pack("<IQ", id, len(values)) + body


def quantize(values: np.ndarray, format: str) -> bytes:
    """Bytes of `values` (..., columns) in `format`, row after row.

    Raises ValueError where columns are not whole blocks, or a value or a block's scale is not
    finite in the format.
    """
    tensor_nbytes(values.shape, format)  # checks the columns
    values = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{format}: a value is not finite")
    if format == "F32":
        return values.astype("<f4").tobytes()
    if format == "F16":
        return _half(values, format).tobytes()
    if format == "BF16":  # to nearest, ties to even
        bits = values.view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()
    return _QUANTIZERS[format](values.reshape(-1, FORMATS[format].block), format).tobytes()


def dequantize(data: bytes | memoryview, format: str, shape: Sequence[int]) -> np.ndarray:
    """The float32 weights, of `shape`, that `data` means.

    A product of scales and q is exact in float32 (11 bits of a half's significand, 6 of a small
    scale and 5 of q at most, or 11 and 13), so formats with a minimum are rounded once, where it
    is added, and all others are exact. Decoders that write `d*q + m` in C get these bits with or
    without a fused multiply-add.
    """
    return exact(data, format, shape).astype(np.float32, copy=False)


def exact(data: bytes | memoryview, format: str, shape: Sequence[int]) -> np.ndarray:
    """The weights that `data` means without any rounding, float64 (float32 if they are that)."""
    want = tensor_nbytes(shape, format)
    raw = np.frombuffer(data, np.uint8)
    if raw.size != want:
        raise ValueError(f"{tuple(shape)} {format} is {want} bytes, got {raw.size}")
    if format == "F32":
        return raw.view("<f4").reshape(shape)
    if format == "F16":
        return raw.view("<f2").astype(np.float32).reshape(shape)
    if format == "BF16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    blocks = raw.reshape(-1, FORMATS[format].block_bytes)
    return _MEANINGS[format](blocks, format).reshape(shape)


# -- blocks of 32 weights: (blocks, 32) float32 to (blocks, bytes) uint8, and back to float64


def _quantize_32(x: np.ndarray, format: str) -> np.ndarray:
    """Q4_0 and Q5_0: d is the value of largest magnitude over -8 or -16, the largest negative q."""
    bias = 8 if format == "Q4_0" else 16
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    d = _half(largest / np.float32(-bias), format)
    q = _nearest(x, d, -bias, bias - 1).astype(np.int8) + bias
    return np.concatenate([_bytes(d), _packed(q.astype(np.uint8), format)], axis=1)


def _quantize_32_min(x: np.ndarray, format: str) -> np.ndarray:
    """Q4_1 and Q5_1: m is the least value, d a 15th or 31st of the span."""
    largest = 15 if format == "Q4_1" else 31
    low = x.min(axis=1, keepdims=True)
    d = _half((x.max(axis=1, keepdims=True) - low) / np.float32(largest), format)
    m = _half(low, format)
    q = _nearest(x - m.astype(np.float32), d, 0, largest).astype(np.uint8)
    return np.concatenate([_bytes(d), _bytes(m), _packed(q, format)], axis=1)


def _quantize_q8_0(x: np.ndarray, format: str) -> np.ndarray:
    """d is a 127th of the largest magnitude."""
    d = _half(np.abs(x).max(axis=1, keepdims=True) / np.float32(127), format)
    q = _nearest(x, d, -127, 127).astype(np.int8)
    return np.concatenate([_bytes(d), q.view(np.uint8)], axis=1)


def _quantize_iq4_nl(x: np.ndarray, format: str) -> np.ndarray:
    """d is a 127th of the value of largest magnitude, with the sign that makes it -127."""
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    d = _half(largest / np.float32(-127), format)
    return np.concatenate([_bytes(d), _packed(_closest(x, d, IQ4_NL), format)], axis=1)


def _quantize_mxfp4(x: np.ndarray, format: str) -> np.ndarray:
    """The scale is the power of two that brings the largest magnitude to 4..8 of 6."""
    amax = np.abs(x).max(axis=1, keepdims=True)
    exponent = np.frexp(amax)[1] - 1  # floor(log2)
    e = np.where(amax > 0, np.clip(exponent - 2 + 127, 0, 254), 0).astype(np.uint8)
    return np.concatenate([e, _packed(_closest(x, _power(e), FP4), format)], axis=1)


def _power(e: np.ndarray) -> np.ndarray:
    """2^(e - 128): half of what E8M0 calls e, because FP4 is doubled."""
    return np.ldexp(1.0, e.astype(np.int32) - 128)


def _packed(q: np.ndarray, format: str) -> np.ndarray:
    """(blocks, 32) of 4 or 5 bits as a block has them behind its scales."""
    nibbles = q[:, :16] & 15 | (q[:, 16:] & 15) << 4
    if not format.startswith("Q5"):
        return nibbles
    return np.concatenate([np.packbits(q >> 4, axis=1, bitorder="little"), nibbles], axis=1)


def _unpacked(raw: np.ndarray) -> np.ndarray:
    """The inverse: 16 or 20 bytes a block, (blocks, 32) uint8."""
    nibbles = raw[:, -16:]
    q = np.concatenate([nibbles & 15, nibbles >> 4], axis=1)
    if raw.shape[1] == 20:
        q |= np.unpackbits(raw[:, :4], axis=1, bitorder="little") << 4
    return q


def _mean_32(raw: np.ndarray, format: str) -> np.ndarray:
    bias = 8 if format == "Q4_0" else 16
    return _halves(raw, 0) * (_unpacked(raw[:, 2:]) - float(bias))


def _mean_32_min(raw: np.ndarray, format: str) -> np.ndarray:
    return _halves(raw, 0) * _unpacked(raw[:, 4:]) + _halves(raw, 2)


def _mean_q8_0(raw: np.ndarray, format: str) -> np.ndarray:
    return _halves(raw, 0) * raw[:, 2:].view(np.int8)


def _mean_iq4_nl(raw: np.ndarray, format: str) -> np.ndarray:
    return _halves(raw, 0) * np.array(IQ4_NL, np.float64)[_unpacked(raw[:, 2:])]


def _mean_mxfp4(raw: np.ndarray, format: str) -> np.ndarray:
    return _power(raw[:, :1]) * np.array(FP4, np.float64)[_unpacked(raw[:, 1:])]


# -- K-quants: blocks of 256 weights


def _quantize_k(x: np.ndarray, format: str) -> np.ndarray:
    """Q4_K and Q5_K: in each 32, the minimum is the least value or 0, and the scale a 15th or
    31st of the span; both are 63rds of the superblock's largest."""
    largest = 15 if format == "Q4_K" else 31
    x = x.reshape(-1, 8, BLOCK)
    least = np.minimum(x.min(axis=2), 0)
    scale = (np.maximum(x.max(axis=2), 0) - least) / np.float32(largest)
    d, dmin = (
        _half(a.max(axis=1, keepdims=True) / np.float32(63), format) for a in (scale, -least)
    )
    sc, mn = (_nearest(a, b, 0, 63).astype(np.uint8) for a, b in ((scale, d), (-least, dmin)))
    step, low = d.astype(np.float32) * sc, dmin.astype(np.float32) * mn
    q = _nearest(x + low[:, :, None], step[:, :, None], 0, largest).astype(np.uint8)
    packed = [
        (sc[:, :4] & 63) | (sc[:, 4:] >> 4) << 6,
        (mn[:, :4] & 63) | (mn[:, 4:] >> 4) << 6,
        (sc[:, 4:] & 15) | (mn[:, 4:] & 15) << 4,
    ]
    if format == "Q5_K":  # bit i of byte j: weight j of the i-th 32
        packed.append(np.packbits(q >> 4, axis=1, bitorder="little").reshape(len(q), BLOCK))
    nibbles = q[:, 0::2] & 15 | (q[:, 1::2] & 15) << 4
    return np.concatenate([_bytes(d), _bytes(dmin), *packed, nibbles.reshape(len(q), 128)], axis=1)


def _mean_k(raw: np.ndarray, format: str) -> np.ndarray:
    s = raw[:, 4:16]
    sc = np.concatenate([s[:, :4] & 63, s[:, 8:] & 15 | s[:, :4] >> 6 << 4], axis=1)
    mn = np.concatenate([s[:, 4:8] & 63, s[:, 8:] >> 4 | s[:, 4:8] >> 6 << 4], axis=1)
    nibbles = raw[:, -128:].reshape(-1, 4, 1, BLOCK)
    q = np.concatenate([nibbles & 15, nibbles >> 4], axis=2).reshape(-1, 8, BLOCK)
    if format == "Q5_K":
        high = np.unpackbits(raw[:, 16:48, None], axis=2, bitorder="little")
        q |= high.transpose(0, 2, 1) << 4
    step, low = _halves(raw, 0) * sc, _halves(raw, 2) * mn
    return step[:, :, None] * q - low[:, :, None]


def _quantize_q6_k(x: np.ndarray, format: str) -> np.ndarray:
    """In each 16, the scale is the value of largest magnitude over -32, in 127ths of the
    superblock's largest."""
    x = x.reshape(-1, 16, 16)
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=2)[:, :, None], axis=2)
    scale = largest[:, :, 0] / np.float32(-32)
    d = _half(np.abs(scale).max(axis=1, keepdims=True) / np.float32(127), format)
    sc = _nearest(scale, d, -127, 127).astype(np.int8)
    step = (d.astype(np.float32) * sc)[:, :, None]
    q = (_nearest(x, step, -32, 31).astype(np.int8) + 32).astype(np.uint8).reshape(-1, 2, 4, BLOCK)
    low = q[:, :, :2] & 15 | (q[:, :, 2:] & 15) << 4
    high = q >> 4
    high = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    parts = [low.reshape(-1, 128), high.reshape(-1, 64), sc.view(np.uint8), _bytes(d)]
    return np.concatenate(parts, axis=1)


def _mean_q6_k(raw: np.ndarray, format: str) -> np.ndarray:
    low = raw[:, :128].reshape(-1, 2, 1, 2, BLOCK)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, BLOCK)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    high = raw[:, 128:192].reshape(-1, 2, 1, BLOCK) >> shifts & 3
    q = (low | high << 4).reshape(-1, 16, 16) - 32.0
    step = _halves(raw, 208) * raw[:, 192:208].copy().view(np.int8)
    return step[:, :, None] * q


_QUANTIZERS = {
    "Q4_0": _quantize_32,
    "Q5_0": _quantize_32,
    "Q4_1": _quantize_32_min,
    "Q5_1": _quantize_32_min,
    "Q8_0": _quantize_q8_0,
    "IQ4_NL": _quantize_iq4_nl,
    "MXFP4": _quantize_mxfp4,
    "Q4_K": _quantize_k,
    "Q5_K": _quantize_k,
    "Q6_K": _quantize_q6_k,
}
_MEANINGS = {
    "Q4_0": _mean_32,
    "Q5_0": _mean_32,
    "Q4_1": _mean_32_min,
    "Q5_1": _mean_32_min,
    "Q8_0": _mean_q8_0,
    "IQ4_NL": _mean_iq4_nl,
    "MXFP4": _mean_mxfp4,
    "Q4_K": _mean_k,
    "Q5_K": _mean_k,
    "Q6_K": _mean_q6_k,
}


def _nearest(x: np.ndarray, d: np.ndarray, low: int, high: int) -> np.ndarray:
    """The multiple of the rounded scale that is nearest to x; 0 where the scale is 0."""
    d = np.broadcast_to(d.astype(np.float32), x.shape)
    return np.clip(np.rint(np.divide(x, d, out=np.zeros_like(x), where=d != 0)), low, high)


def _closest(x: np.ndarray, d: np.ndarray, table: Sequence[int]) -> np.ndarray:
    """The index of the table's value that is nearest to x / d, the first of equals; 0's if d is
    0."""
    values = np.array(table, np.float64)
    scaled = np.divide(x, d, out=np.zeros(x.shape), where=d != 0)
    return np.abs(scaled[..., None] - values).argmin(axis=-1).astype(np.uint8)


def _half(x: np.ndarray, format: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # an overflow is told below
        half = x.astype("<f2")
    if not np.isfinite(half).all():
        raise ValueError(f"{format}: {np.abs(x).max()} does not fit a half-precision number")
    return half


def _halves(raw: np.ndarray, at: int) -> np.ndarray:
    """The half at byte `at` of each block: (blocks, 1) float64."""
    return raw[:, at : at + 2].copy().view("<f2").astype(np.float64)


def _bytes(column: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(column).view(np.uint8)
