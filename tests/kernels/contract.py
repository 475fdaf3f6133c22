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
from tools.gguf_writer import exact, quantize

Q8 = np.dtype([("q", "i1", 32), ("d", "f4"), ("s", "f4"), ("sum", "i4"), ("half_sum", "i2", 2)])
Q16 = np.dtype(
    [
        *[("hi", "i1", 32), ("lo", "i1", 32), ("d", "f4"), ("s", "f4"), ("sum", "i4")],
        *[("half_sum", "i2", (2, 2)), ("unused", "i4", 3)],
    ]
)
BLOCK, ROWS, PAGE, GROUP = 32, 8, 128, 32
TINY = np.float32(2.0**-40)

SIZE, POINTER, FLOAT, U64 = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_float, ctypes.c_uint64
FIELDS = {
    "gemv32": [
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
        *[(n, POINTER) for n in ("k", "v", "k_scales", "v_scales")],
    ],
    "hadamard": [("n", SIZE), ("n_block", SIZE), ("x", POINTER), ("out", POINTER)],
    "attend": [
        *[(n, SIZE) for n in ("head_dim", "n_queries", "first", "end")],
        *[(n, POINTER) for n in ("q", "k", "v", "k_scales", "v_scales")],
        *[(n, POINTER) for n in ("next", "scores", "out")],
        ("out_stride", SIZE),
    ],
    "combine": [
        *[("head_dim", SIZE), ("n_parts", SIZE), ("parts", POINTER), ("stride", SIZE)],
        ("out", POINTER),
    ],
    "softmax": [("n", SIZE), ("x", POINTER), ("max", FLOAT), ("p", POINTER), ("sum", POINTER)],
}
FIELDS["gelu_mul"] = FIELDS["silu_mul"]
FIELDS["gemv16"] = FIELDS["gemv32"]
FIELDS["gemv"] = [*FIELDS["gemv32"], ("w_beside", POINTER), ("y_beside", POINTER)]
FIELDS["gemm32"] = FIELDS["gemm"][:-1]  # no panel
FIELDS["quantize16"] = FIELDS["quantize"]
STRUCTS = {op: type(op, (ctypes.Structure,), {"_fields_": fields}) for op, fields in FIELDS.items()}

ROWS_BY_NAME = {row["name"]: row for row in native.rows()}
FORMATS = native.formats()


def op_of(name: str) -> str:
    """ "gemv_q4_1_ref" -> "gemv"; the longest operation that begins the name."""
    ops = [op for op in STRUCTS if name.startswith(op + "_")]
    assert ops, f"{name} is of an operation whose struct is not in FIELDS"
    return max(ops, key=len)


def rows_of(op: str) -> list[str]:
    """The rows of an operation that this CPU runs."""
    return [n for n, row in ROWS_BY_NAME.items() if op_of(n) == op and row["runs"]]


def ref_of(name: str) -> str:
    """The reference row that a row must equal."""
    return name.removesuffix(ROWS_BY_NAME[name]["level"]) + "ref"


def kv_of(name: str) -> str | None:
    """How keys and values are stored in a row of append or attend: "f16", "v8" or "int8"."""
    return name.split("_")[1] if op_of(name) in ("append", "attend") else None


def empty_page(kv: str, head_dim: int) -> dict[str, np.ndarray]:
    """A page of one KV head, zeroed, as arguments of append and attend: k in the order of
    `as_keys`, v of `as_values`."""
    scales = -(-head_dim // BLOCK), PAGE
    of_k, of_v = (np.int8 if kv in types else np.uint16 for types in (("int8",), ("v8", "int8")))
    return {
        "k": guarded(PAGE * head_dim, of_k),
        "v": guarded(PAGE * head_dim, of_v),
        "k_scales": guarded(scales if of_k is np.int8 else 0, np.uint16),
        "v_scales": guarded(scales if of_v is np.int8 else 0, np.uint16),
    }


def as_keys(x: np.ndarray) -> np.ndarray:
    """(PAGE, D) numbers in the order in which a page has keys."""
    groups = x.reshape(PAGE // GROUP, GROUP, -1, 4)  # of positions; d / 4, d % 4
    return groups.transpose(0, 3, 2, 1).ravel()


def as_values(x: np.ndarray) -> np.ndarray:
    """(PAGE, D) numbers in the order in which a page has values."""
    blocks = [x[:, d : d + BLOCK] for d in range(0, x.shape[1], BLOCK)]
    groups = range(0, PAGE, GROUP)
    return np.concatenate([block[at : at + GROUP].ravel() for at in groups for block in blocks])


def places(order: Callable[[np.ndarray], np.ndarray], head_dim: int) -> np.ndarray:
    """Where in a page a position has its dimensions, (PAGE, D); `order`: as_keys or as_values."""
    numbers = np.arange(PAGE * head_dim)
    found = np.empty_like(numbers)
    found[order(numbers.reshape(PAGE, head_dim))] = numbers
    return found.reshape(PAGE, head_dim)


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
    if op_of(name) == "gemv":
        args = {"w_beside": None, "y_beside": None, **args}
    if kv_of(name) == "f16":
        args |= {"k_scales": guarded(0, np.uint16), "v_scales": guarded(0, np.uint16)}
    assert set(args) == {field for field, _ in struct._fields_}
    for field, kind in struct._fields_:
        value = args[field]
        if kind is POINTER and value is not None:
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

    Returns uint8 (tile rows, tiles of a row, bytes of a tile). ValueError names the row and the
    block of a scale, or a weight that is a float, that is not finite.
    """
    _, _, block_bytes, address = FORMATS[format]
    n, row_bytes = blocks.shape
    n_blocks, tiles = row_bytes // block_bytes, -(-n // ROWS)
    out = guarded((tiles, n_blocks, ROWS * block_bytes), np.uint8)
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


def columns(format: str, k: int) -> int:
    """The least number of columns, at least k, that the format's rows and activations can have."""
    whole = max(FORMATS[format][1], BLOCK)
    return -(-k // whole) * whole


# Where a block has its scales: bytes at which there is a half.
HALVES = {
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "IQ4_NL"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q6_K": (208,),
    "MXFP4": (),
    "F16": (0,),
}
FLOATS = ("F32", "F16", "BF16")


def viewed(format: str, blocks: np.ndarray) -> np.ndarray:
    """The blocks of a matrix, (N, blocks of a row, bytes of a block): a view."""
    return blocks.reshape(len(blocks), -1, FORMATS[format][2])


def set_scales(
    format: str, blocks: np.ndarray, values: Callable[[tuple[int, ...]], object]
) -> None:
    """Writes values(shape), halves, to all scales and minima of a matrix, in place. MXFP4, which
    has none, gets the powers of two that are nearest below."""
    view = viewed(format, blocks)
    shape = view.shape[:2]
    if format in FLOATS:
        small = np.asarray(values((len(blocks), view.shape[1])), np.float32)
        small = np.broadcast_to(small, view.shape[:2])
        blocks[...] = np.frombuffer(quantize(small, format), np.uint8).reshape(blocks.shape)
    for at in HALVES.get(format, ()):
        view[..., at : at + 2] = bytes_of(np.broadcast_to(values(shape), shape))
    if format == "MXFP4":
        magnitude = np.maximum(np.abs(np.asarray(values(shape), np.float64)), 2.0**-100)
        view[..., 0] = np.frexp(magnitude)[1] - 1 + 128


def bytes_of(values: np.ndarray) -> np.ndarray:
    """(...,) numbers as halves: (..., 2) uint8."""
    return np.ascontiguousarray(values, np.float16)[..., None].view(np.uint8)


def set_quants(format: str, blocks: np.ndarray, byte: object) -> None:
    """Writes `byte` to all that is not a scale that is a float, nor a weight that is one."""
    if format in FLOATS:
        return
    view = viewed(format, blocks)
    scales = {at + i for at in HALVES[format] for i in (0, 1)} if HALVES[format] else {0}
    view[..., [i for i in range(view.shape[2]) if i not in scales]] = byte


def random_blocks(rng, format: str, n: int, k: int, scale: float = 0.01) -> np.ndarray:
    """A matrix of random weights as GGUF blocks: (N, bytes of a row) uint8. Weights are about as
    large in each format, some ten times `scale`; minima are negative."""
    _, block_cols, block_bytes, _ = FORMATS[format]
    if block_cols == 1:
        values = rng.normal(0, 10 * scale, (n, k)).astype(np.float32)
        return np.frombuffer(quantize(values, format), np.uint8).reshape(n, -1).copy()
    blocks = rng.integers(0, 256, (n, k // block_cols * block_bytes), np.uint8)
    # a q of 8 bits, a scale of 6 and a q, or one of 8 and a q are as many times larger
    smaller = {"Q8_0": 8, "IQ4_NL": 8, "Q5_0": 2, "Q5_1": 2, "Q4_K": 32, "Q5_K": 64, "Q6_K": 256}
    scale /= smaller.get(format, 1)
    set_scales(format, blocks, lambda shape: rng.uniform(0, scale, shape))
    if format in ("Q4_1", "Q5_1"):
        m = rng.uniform(-8 * scale, 0, viewed(format, blocks).shape[:2])
        viewed(format, blocks)[..., 2:4] = bytes_of(m)
    if format == "Q4_0":
        signs = rng.integers(0, 2, viewed(format, blocks).shape[:2], np.uint8) << 7
        viewed(format, blocks)[..., 1] |= signs
    return blocks


def exact_weights(format: str, blocks: np.ndarray) -> np.ndarray:
    """What the blocks mean, exactly: (N, K) float64."""
    _, block_cols, block_bytes, _ = FORMATS[format]
    n, row_bytes = blocks.shape
    return exact(blocks.tobytes(), format, (n, row_bytes // block_bytes * block_cols)).astype(
        np.float64
    )


def quantized(x: np.ndarray, level: str = "ref", bits: int = 8) -> np.ndarray:
    """x (..., K) float32 through the quantize row: (..., K / 32) of Q8 or Q16; with 32 bits, x."""
    x = np.ascontiguousarray(x, np.float32)
    if bits == 32:
        return x
    out = np.zeros((*x.shape[:-1], x.shape[-1] // BLOCK), Q8 if bits == 8 else Q16)
    name = ("quantize_" if bits == 8 else "quantize16_") + level
    call(name, n_blocks=out.size, x=x, out=out)
    return out


def bits_of(name: str) -> int:
    """Of the activations that a row of gemv or gemm takes: 8, 16 or 32."""
    return int(op_of(name)[4:] or 8)


def values(blocks: np.ndarray) -> np.ndarray:
    """What activations, blocks or floats, mean exactly: (..., K) float64."""
    if blocks.dtype == np.float32:
        return blocks.astype(np.float64)
    if blocks.dtype == Q8:
        q = blocks["q"].astype(np.float64)
    else:
        q = 256.0 * blocks["hi"] + blocks["lo"]
    x = q * blocks["d"][..., None].astype(np.float64)
    return x.reshape(*blocks.shape[:-1], -1)
