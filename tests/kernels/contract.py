"""The kernels' contract in ctypes, so that a test calls the very function that was built.

`call("gemv_q4_1_ref", n_tiles=2, n_blocks=3, w=tiles, x=blocks, y=y)` takes numbers and NumPy
arrays for the fields of the operation's struct in nyb_kernels.h. Arrays must be contiguous; they
are not checked for size, that is the caller's business (guarded() helps).
"""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Callable

import numpy as np

from nybble._core import native

Q8 = np.dtype(
    [("q", "i1", 32), ("d", "f4"), ("s", "f4"), ("sum", "i4"), ("unused", "i4")], align=True
)
Q16 = np.dtype(
    [("hi", "i1", 32), ("lo", "i1", 32), ("d", "f4"), ("s", "f4"), ("sum", "i4"), ("unused", "i4")]
)
BLOCK, ROWS, PAGE = 32, 8, 128
TINY = np.float32(2.0**-40)

SIZE, POINTER, FLOAT, U64 = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_float, ctypes.c_uint64
FIELDS = {
    "gemv": [
        *[("n_tiles", SIZE), ("n_blocks", SIZE)],
        *[("w", POINTER), ("x", POINTER), ("y", POINTER)],
    ],
    "gemm": [
        *[(n, SIZE) for n in ("n_tiles", "n_blocks", "n_tokens")],
        *[("w", POINTER), ("x", POINTER), ("x_stride", SIZE), ("y", POINTER), ("y_stride", SIZE)],
        ("panel", POINTER),
    ],
    "embed": [
        *[("row", SIZE), ("n_blocks", SIZE), ("w", POINTER), ("scale", FLOAT), ("out", POINTER)],
    ],
    "rmsnorm": [("n", SIZE), ("eps", FLOAT), ("x", POINTER), ("w", POINTER), ("out", POINTER)],
    "quantize": [("n_blocks", SIZE), ("x", POINTER), ("out", POINTER)],
    "add": [("n", SIZE), ("x", POINTER), ("y", POINTER)],
    "silu_mul": [("n", SIZE), ("gate", POINTER), ("up", POINTER), ("out", POINTER)],
    "rope_angles": [("n", SIZE), ("position", U64), ("turns", POINTER), ("out", POINTER)],
    "rope": [
        *[("n", SIZE), ("head_dim", SIZE), ("angles", POINTER), ("scale", FLOAT)],
        *[("x", POINTER), ("out", POINTER)],
    ],
    "append": [
        *[("head_dim", SIZE), ("position_in_page", SIZE), ("key", POINTER), ("value", POINTER)],
        *[("k", POINTER), ("v", POINTER)],
    ],
    "attend": [
        *[(n, SIZE) for n in ("head_dim", "n_queries", "first", "end")],
        *[(n, POINTER) for n in ("q", "k", "v", "next", "scores", "out")],
        ("out_stride", SIZE),
    ],
    "combine": [
        *[("head_dim", SIZE), ("n_parts", SIZE), ("parts", POINTER), ("stride", SIZE)],
        ("out", POINTER),
    ],
    "softmax": [("n", SIZE), ("x", POINTER), ("max", FLOAT), ("p", POINTER), ("sum", POINTER)],
}
FIELDS["gemv16"] = FIELDS["gemv"]
FIELDS["quantize16"] = FIELDS["quantize"]
STRUCTS = {op: type(op, (ctypes.Structure,), {"_fields_": fields}) for op, fields in FIELDS.items()}

ROWS_BY_NAME = {row["name"]: row for row in native.rows()}
FORMATS = native.formats()


def op_of(name: str) -> str:
    """ "gemv_q4_1_ref" -> "gemv"; the longest operation that begins the name."""
    return max((op for op in STRUCTS if name.startswith(op + "_")), key=len)


def rows_of(op: str) -> list[str]:
    """The rows of an operation that this CPU runs."""
    return [n for n, row in ROWS_BY_NAME.items() if op_of(n) == op and row["runs"]]


def ref_of(name: str) -> str:
    """The reference row that a row must equal."""
    return name.removesuffix(ROWS_BY_NAME[name]["level"]) + "ref"


def format_of(name: str) -> str:
    """The weights' format of a row, as GGUF writes it."""
    number = ROWS_BY_NAME[name]["format"]
    return next(f for f, (n, *_) in FORMATS.items() if n == number)


def prepared(
    name: str, caller: Callable[[int, int], object] | None = None, **args: object
) -> Callable[[], None]:
    """The call with these arguments, to be made as often as one likes: a benchmark's inner
    loop. `caller`, if given, is called with the addresses of the function and its arguments."""
    struct = STRUCTS[op_of(name)]()
    if op_of(name) == "attend":
        args.setdefault("next", args["k"])
    assert set(args) == {field for field, _ in struct._fields_}
    for field, kind in struct._fields_:
        value = args[field]
        if kind is POINTER:
            assert isinstance(value, np.ndarray)
            assert value.flags.c_contiguous
            value = value.ctypes.data
        setattr(struct, field, value)
    address = ROWS_BY_NAME[name]["address"]
    if caller is None:
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
    else:
        function = functools.partial(caller, address)
    call = functools.partial(function, ctypes.addressof(struct))
    call.keeps_alive = (struct, args)
    return call


def call(name: str, caller: Callable[[int, int], object] | None = None, **args: object) -> None:
    """Calls a row; `caller` as in `prepared`."""
    prepared(name, caller, **args)()


def guarded(shape: int | tuple[int, ...], dtype: object) -> np.ndarray:
    """A zeroed array that ends where memory ends: reading or writing beyond it is a crash."""
    dtype = np.dtype(dtype)
    nbytes = int(np.prod(shape)) * dtype.itemsize
    pages = -(-nbytes // mmap.PAGESIZE)
    area = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    base = np.frombuffer(area, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    last = base.ctypes.data + pages * mmap.PAGESIZE
    if libc.mprotect(ctypes.c_void_p(last), ctypes.c_size_t(mmap.PAGESIZE), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    return base[pages * mmap.PAGESIZE - nbytes :][:nbytes].view(dtype).reshape(shape)


def guarded_copy(array: np.ndarray) -> np.ndarray:
    out = guarded(array.shape, array.dtype)
    out[...] = array
    return out


def pack(format: str, blocks: np.ndarray) -> np.ndarray:
    """Packs a matrix given as GGUF blocks, (N, bytes of a row) uint8, into tiles.

    Returns uint8 (tile rows, blocks, bytes of a tile). ValueError names the row of a scale that
    is not finite.
    """
    _, block_bytes, tile_bytes, address = FORMATS[format]
    n, row_bytes = blocks.shape
    n_blocks, tiles = row_bytes // block_bytes, -(-n // ROWS)
    out = guarded((tiles, n_blocks, tile_bytes), np.uint8)
    function = ctypes.CFUNCTYPE(SIZE, SIZE, POINTER, POINTER)(address)
    for t in range(tiles):
        rows = (ctypes.c_void_p * ROWS)()
        for r in range(ROWS):
            at = t * ROWS + r
            rows[r] = blocks[at].ctypes.data if at < n else None
        bad = function(n_blocks, ctypes.addressof(rows), out[t].ctypes.data)
        if bad:
            raise ValueError(f"row {t * ROWS + (bad - 1) % 8}, block {(bad - 1) // 8}")
    return out


def random_blocks(rng, format: str, n: int, k: int, scale: float = 0.01) -> np.ndarray:
    """A matrix of random weights as GGUF blocks: (N, bytes of a row) uint8."""
    blocks = k // BLOCK
    if format == "Q4_1":
        d = rng.uniform(0, scale, (n, blocks, 1)).astype(np.float16)
        m = rng.uniform(-8 * scale, 0, (n, blocks, 1)).astype(np.float16)
        q = rng.integers(0, 256, (n, blocks, 16), np.uint8)
        parts = [d.view(np.uint8), m.view(np.uint8), q]
    elif format == "Q4_0":
        d = rng.uniform(-scale, scale, (n, blocks, 1)).astype(np.float16)
        parts = [d.view(np.uint8), rng.integers(0, 256, (n, blocks, 16), np.uint8)]
    elif format == "Q8_0":
        d = rng.uniform(0, scale / 8, (n, blocks, 1)).astype(np.float16)
        parts = [d.view(np.uint8), rng.integers(-128, 128, (n, blocks, 32), np.int8).view(np.uint8)]
    else:
        raise AssertionError(f"no random weights for {format}; add them here")
    return np.ascontiguousarray(np.concatenate(parts, axis=-1).reshape(n, -1))


def exact_weights(format: str, blocks: np.ndarray) -> np.ndarray:
    """What the blocks mean, exactly: (N, K) float64."""
    _, block_bytes, *_ = FORMATS[format]
    b = np.ascontiguousarray(blocks).reshape(len(blocks), -1, block_bytes)
    d = b[..., :2].copy().view(np.float16).astype(np.float64)
    if format == "Q4_1":
        m = b[..., 2:4].copy().view(np.float16).astype(np.float64)
        q = np.concatenate([b[..., 4:] & 15, b[..., 4:] >> 4], axis=-1)
        w = d * q + m
    elif format == "Q4_0":
        w = d * (np.concatenate([b[..., 2:] & 15, b[..., 2:] >> 4], axis=-1) - 8.0)
    elif format == "Q8_0":
        w = d * b[..., 2:].view(np.int8)
    else:
        raise AssertionError(f"no meaning for {format}; add it here")
    return w.reshape(len(blocks), -1)


def quantized(x: np.ndarray, level: str = "ref", bits: int = 8) -> np.ndarray:
    """x (..., K) float32 through the quantize row: (..., K / 32) of Q8 or Q16."""
    x = np.ascontiguousarray(x, np.float32)
    out = np.zeros((*x.shape[:-1], x.shape[-1] // BLOCK), Q8 if bits == 8 else Q16)
    name = ("quantize_" if bits == 8 else "quantize16_") + level
    call(name, n_blocks=out.size, x=x, out=out)
    return out


def values(blocks: np.ndarray) -> np.ndarray:
    """What activation blocks mean, exactly: (..., K) float64."""
    if blocks.dtype == Q8:
        q = blocks["q"].astype(np.float64)
    else:
        q = 256.0 * blocks["hi"] + blocks["lo"]
    x = q * blocks["d"][..., None].astype(np.float64)
    return x.reshape(*blocks.shape[:-1], -1)
