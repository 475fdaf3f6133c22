"""GGUF files from NumPy arrays: the container's writer, and the blocks of four weight formats.

`write_gguf` writes version 3 (or 2, whose bytes differ by the number only), little-endian.
`quantize` and `dequantize` turn float32 rows into a format's bytes and back:

    format   block        bytes of a block                               value
    F32      1 weight     float32                                        x
    F16      1 weight     float16                                        x
    Q8_0     32 weights   float16 d, 32 x int8 q                         d*q
    Q4_1     32 weights   float16 d, float16 m, 16 bytes; byte i is      d*q + m
                          q[i] in its low nibble and q[i + 16] above

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


class Format(NamedTuple):
    ggml_type: int
    block: int  # weights
    block_bytes: int


FORMATS = {
    "F32": Format(0, 1, 4),
    "F16": Format(1, 1, 2),
    "Q4_1": Format(3, BLOCK, 20),
    "Q8_0": Format(8, BLOCK, 34),
}

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
    blocks = values.reshape(-1, BLOCK)
    return (_quantize_q4_1 if format == "Q4_1" else _quantize_q8_0)(blocks).tobytes()


def dequantize(data: bytes | memoryview, format: str, shape: Sequence[int]) -> np.ndarray:
    """The float32 weights, of `shape`, that `data` means.

    A product d*q is exact in float32 (11 bits of a half's significand times at most 8 of q), so
    Q8_0 is exact and Q4_1 is rounded once, at + m. Decoders that write `d*q + m` in C get these
    bits with or without a fused multiply-add.
    """
    want = tensor_nbytes(shape, format)
    raw = np.frombuffer(data, np.uint8)
    if raw.size != want:
        raise ValueError(f"{tuple(shape)} {format} is {want} bytes, got {raw.size}")
    if format == "F32":
        return raw.view("<f4").reshape(shape)
    if format == "F16":
        return raw.view("<f2").astype(np.float32).reshape(shape)
    raw = raw.reshape(-1, FORMATS[format].block_bytes)
    d = raw[:, :2].copy().view("<f2").astype(np.float32)
    if format == "Q8_0":
        return (d * raw[:, 2:].view(np.int8).astype(np.float32)).reshape(shape)
    m = raw[:, 2:4].copy().view("<f2").astype(np.float32)
    q = np.concatenate([raw[:, 4:] & 15, raw[:, 4:] >> 4], axis=1)
    return (d * q.astype(np.float32) + m).reshape(shape)


def _quantize_q4_1(x: np.ndarray) -> np.ndarray:
    """(blocks, 32) float32 -> (blocks, 20) uint8: m is the least value, d a 15th of the span."""
    low = x.min(axis=1, keepdims=True)
    d = _half((x.max(axis=1, keepdims=True) - low) / np.float32(15), "Q4_1")
    m = _half(low, "Q4_1")
    q = _nearest(x - m.astype(np.float32), d, 0, 15).astype(np.uint8)
    return np.concatenate([_bytes(d), _bytes(m), q[:, :16] | q[:, 16:] << 4], axis=1)


def _quantize_q8_0(x: np.ndarray) -> np.ndarray:
    """(blocks, 32) float32 -> (blocks, 34) uint8: d is a 127th of the largest magnitude."""
    d = _half(np.abs(x).max(axis=1, keepdims=True) / np.float32(127), "Q8_0")
    q = _nearest(x, d, -127, 127).astype(np.int8)
    return np.concatenate([_bytes(d), q.view(np.uint8)], axis=1)


def _nearest(x: np.ndarray, d: np.ndarray, low: int, high: int) -> np.ndarray:
    """The multiple of the rounded scale that is nearest to x; 0 where the scale is 0."""
    d = d.astype(np.float32)
    return np.clip(np.rint(np.divide(x, d, out=np.zeros_like(x), where=d != 0)), low, high)


def _half(x: np.ndarray, format: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # an overflow is told below
        half = x.astype("<f2")
    if not np.isfinite(half).all():
        raise ValueError(f"{format}: {np.abs(x).max()} does not fit a half-precision number")
    return half


def _bytes(column: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(column).view(np.uint8)
