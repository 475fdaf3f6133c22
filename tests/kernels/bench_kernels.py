"""How fast every row of this CPU is, on the shapes of SmolLM2-135M (or the next wider ones that a
K-quant can have). `make bench` runs it.

A matrix is read from memory and not from a cache, as decoding does: several copies of it are gone
through in turn. extra_info has bytes and GB/s, and for gemm multiply-adds and GMAC/s, each of the
median round, with the CPU and the compiler. The call from Python is in the times: some 0.15 us.
"""

import itertools

import numpy as np
import pytest

from nybble import machine
from nybble._core import native
from nybble.archs.turns import rope_turns

from .contract import (
    BLOCK,
    PAGE,
    Q8,
    Q16,
    ROWS,
    ROWS_BY_NAME,
    bits_of,
    columns,
    empty_page,
    format_of,
    kv_of,
    op_of,
    pack,
    prepared,
    quantized,
    random_blocks,
    rows_of,
)

DIM, HIDDEN, VOCAB, HEADS, KV_HEADS, HEAD_DIM = 576, 1536, 49152, 9, 3, 64
SHAPES = {  # rows, columns
    "k": (KV_HEADS * HEAD_DIM, DIM),
    "q": (DIM, DIM),
    "gate": (HIDDEN, DIM),
    "down": (DIM, HIDDEN),
}
TOKENS = 128  # of a chunk of the prompt
COLD_BYTES = 48 << 20  # more than the caches near a core hold

pytestmark = pytest.mark.benchmark(max_time=0.25, min_rounds=5, warmup=True)


def measure(benchmark, row, nbytes, call, macs=0):
    benchmark.group = op_of(row)
    benchmark(call)
    info = benchmark.extra_info
    info.update(cpu=machine.cpu_name(), compiler=native.compiler(), row=row)
    info["level"], info["nbytes"] = ROWS_BY_NAME[row]["level"], nbytes
    if benchmark.stats is None:  # run without --benchmark-enable: once, to see that it works
        return
    seconds = benchmark.stats.stats.median
    info["gb_s"] = nbytes / seconds / 1e9
    if macs:
        info["macs"], info["gmac_s"] = macs, macs / seconds / 1e9


def cold(calls):
    """Each of the calls in turn, forever."""
    turn = itertools.cycle(calls)
    return lambda: next(turn)()


def bench_gemv_of(benchmark, name, n, k):
    rng, k = np.random.default_rng(0), columns(format_of(name), k)
    x = quantized(rng.standard_normal((1, k)), bits=bits_of(name))[0]
    w = pack(format_of(name), random_blocks(rng, format_of(name), n, k))
    y = np.zeros(len(w) * ROWS, np.float32)
    copies = [w.copy() for _ in range(-(-COLD_BYTES // w.nbytes))]
    calls = [
        prepared(name, n_tiles=len(w), n_blocks=k // BLOCK, w=this, x=x, y=y) for this in copies
    ]
    measure(benchmark, name, w.nbytes, cold(calls), n * k)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", rows_of("gemv") + rows_of("gemv32"))
def test_gemv(benchmark, name, shape):
    bench_gemv_of(benchmark, name, *SHAPES[shape])


@pytest.mark.parametrize("name", rows_of("gemv16"))
def test_head(benchmark, name):
    bench_gemv_of(benchmark, name, VOCAB, DIM)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", rows_of("gemm") + rows_of("gemm32"))
def test_gemm(benchmark, name, shape):
    (n, k), rng = SHAPES[shape], np.random.default_rng(0)
    k = columns(format_of(name), k)
    w = pack(format_of(name), random_blocks(rng, format_of(name), n, k))
    x = quantized(rng.standard_normal((TOKENS, k)), bits=bits_of(name))
    args = {"n_tiles": len(w), "n_blocks": k // BLOCK, "n_tokens": TOKENS, "w": w, "x": x}
    args |= {"x_stride": x.shape[1], "y": np.zeros((TOKENS, n), np.float32), "y_stride": n}
    if op_of(name) == "gemm":
        args["panel"] = np.zeros(k // BLOCK * ROWS_BY_NAME[name]["panel_bytes"], np.uint8)
    measure(benchmark, name, w.nbytes, prepared(name, **args), TOKENS * n * k)


@pytest.mark.parametrize("name", rows_of("embed"))
def test_embed(benchmark, name):
    rng, k = np.random.default_rng(0), columns(format_of(name), DIM)
    w = pack(format_of(name), random_blocks(rng, format_of(name), 512, k))
    out = np.zeros(k, np.float32)
    calls = [
        prepared(name, row=row, n_blocks=k // BLOCK, w=w, scale=1.0, out=out)
        for row in rng.permutation(512).tolist()
    ]
    measure(benchmark, name, w.nbytes // 512, cold(calls))


# -- the float operations, on one token


def floats(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def page(kv):
    """Keys and values of one head: random numbers, and scales of 0.01."""
    arrays = empty_page(kv, HEAD_DIM)
    for name, array in arrays.items():
        if name.endswith("scales"):
            array.view(np.float16)[...] = 0.01
        elif array.dtype == np.int8:
            array[...] = 40 * floats(*array.shape)
        else:
            array.view(np.float16)[...] = floats(*array.shape)
    return arrays


def turns(theta=100_000.0):
    return np.array(rope_turns(theta, HEAD_DIM), np.uint64)


PART = HEAD_DIM + 8
GROUP = HEADS // KV_HEADS
MATRICES = ("gemv", "gemv16", "gemv32", "gemm", "gemm32", "embed")
CASES = {  # op -> bytes read and written, arguments
    "rmsnorm": lambda: (
        12 * DIM,
        {"n": DIM, "eps": 1e-5, "x": floats(DIM), "w": floats(DIM), "out": floats(DIM)},
    ),
    "quantize": lambda: (
        4 * HIDDEN + HIDDEN // BLOCK * Q8.itemsize,
        {"n_blocks": HIDDEN // BLOCK, "x": floats(HIDDEN), "out": quantized(floats(HIDDEN) * 0)},
    ),
    "quantize16": lambda: (
        4 * DIM + DIM // BLOCK * Q16.itemsize,
        {"n_blocks": DIM // BLOCK, "x": floats(DIM), "out": quantized(floats(DIM) * 0, bits=16)},
    ),
    "add": lambda: (12 * DIM, {"n": DIM, "x": np.zeros(DIM, np.float32), "y": floats(DIM) * 0}),
    "silu_mul": lambda: (
        12 * HIDDEN,
        {"n": HIDDEN, "gate": floats(HIDDEN), "up": floats(HIDDEN), "out": floats(HIDDEN)},
    ),
    "gelu_mul": lambda: (
        12 * HIDDEN,
        {"n": HIDDEN, "gate": floats(HIDDEN), "up": floats(HIDDEN), "out": floats(HIDDEN)},
    ),
    "rope_angles": lambda: (
        8 * HEAD_DIM,
        {"n": HEAD_DIM // 2, "position": 777, "turns": turns(), "out": floats(HEAD_DIM)},
    ),
    "rope": lambda: (
        12 * HEAD_DIM,
        {
            "n": HEAD_DIM // 2,
            "head_dim": HEAD_DIM,
            "angles": floats(HEAD_DIM),
            "scale": 0.5,
            "x": floats(HEAD_DIM),
            "out": floats(HEAD_DIM),
        },
    ),
    "hadamard": lambda: (
        8 * HEAD_DIM,
        {"n": HEAD_DIM, "n_block": 32, "x": floats(HEAD_DIM), "out": floats(HEAD_DIM)},
    ),
    "append": lambda: (
        12 * HEAD_DIM,
        {
            "head_dim": HEAD_DIM,
            "position_in_page": 77,
            "key": floats(HEAD_DIM),
            "value": floats(HEAD_DIM),
        },
    ),
    "attend": lambda: (
        4 * PAGE * HEAD_DIM,
        {
            "head_dim": HEAD_DIM,
            "n_queries": GROUP,
            "first": 0,
            "end": PAGE,
            "q": floats(GROUP, HEAD_DIM) / 8,
            "scores": floats(GROUP, PAGE),
            "out": floats(GROUP, PART),
            "out_stride": PART,
        },
    ),
    "combine": lambda: (
        4 * 8 * PART,
        {
            "head_dim": HEAD_DIM,
            "n_parts": 8,
            "parts": np.abs(floats(8, PART)),
            "stride": PART,
            "out": floats(HEAD_DIM),
        },
    ),
    "softmax": lambda: (
        8 * PAGE,
        {"n": PAGE, "x": floats(PAGE), "max": 4.0, "p": floats(PAGE), "sum": floats(1)},
    ),
}


def arguments(name):
    """Of a row of CASES: the bytes that it reads and writes, and its arguments."""
    nbytes, args = CASES[op_of(name)]()
    if kv_of(name):
        args |= page(kv_of(name))
    if op_of(name) == "attend":
        nbytes = sum(args[part].nbytes for part in ("k", "v", "k_scales", "v_scales"))
    return nbytes, args


FLOAT_ROWS = [row for op in CASES for row in rows_of(op)]


@pytest.mark.parametrize("name", FLOAT_ROWS)
def test_float_operation(benchmark, name):
    nbytes, args = arguments(name)
    measure(benchmark, name, nbytes, prepared(name, **args))
