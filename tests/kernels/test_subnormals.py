"""No subnormal float has a say in any result: each row returns the same bits when the CPU flushes
them to zero (docs/arithmetic.md, "No subnormal matters", has the proof for each operation).

What the operations meet here is as small as their preconditions allow: activations of 2^-40,
sums that cancel to the last bit, subnormal halves.
"""

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nybble.archs.turns import rope_turns

from .contract import (
    BLOCK,
    PAGE,
    ROWS_BY_NAME,
    TINY,
    bits_of,
    call,
    columns,
    empty_page,
    format_of,
    kv_of,
    op_of,
    pack,
    quantized,
    random_blocks,
    set_scales,
)

SOURCE = Path(__file__).with_name("call_flushing.c")


@pytest.fixture(scope="module")
def flushing(tmp_path_factory):
    """A caller for contract.call that flushes meanwhile."""
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip(f"{platform.machine()} has no such mode, or none that a test may set")
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "a C compiler is needed to build nybble"
    library = tmp_path_factory.mktemp("flushing") / "call_flushing.so"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    flags = ["-std=c99", "-O1", "-shared", "-fPIC", *warnings]
    subprocess.run([compiler, *flags, "-o", library, SOURCE], check=True)
    function = ctypes.CDLL(str(library)).call_flushing
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    function.restype = None
    return function


def edge(rng, shape, top=0):
    """Flushed floats of magnitudes 2^-40 to 2^top, many next to the smallest, with many pairs whose
    difference is the last bit of one of them."""
    n = int(np.prod(shape))
    x = 2.0 ** rng.uniform(-40, top, n) * rng.choice([-1, 1], n)
    x[rng.random(n) < 0.5] = TINY
    x *= rng.choice([1, -1, 1 + 2.0**-23, -1 - 2.0**-23], n)
    x[rng.random(n) < 0.1] = 0
    x = x.astype(np.float32)
    assert ((x == 0) | (np.abs(x) >= TINY)).all()
    return x.reshape(shape)


def half_bits(rng, shape):
    """Halves, half of them subnormal."""
    bits = rng.integers(0, 0x7C00, shape, np.uint16)
    small = rng.random(shape) < 0.5
    bits[small] = rng.integers(0, 0x400, int(small.sum()), np.uint16)
    return bits | (rng.random(shape) < 0.5).astype(np.uint16) << 15


def matrix(rng, format, n, k):
    """A packed matrix whose scales and minima are `half_bits`, or powers of two near 2^-40."""
    blocks = random_blocks(rng, format, n, k)
    if format in ("F32", "BF16", "MXFP4"):
        set_scales(format, blocks, lambda shape: 2.0 ** rng.uniform(-42, -20, shape))
    else:
        set_scales(format, blocks, lambda shape: half_bits(rng, shape).view(np.float16))
    return pack(format, blocks)


def smallest_page(rng, kv, head_dim):
    """A page whose halves, numbers or scales, are `half_bits`."""
    page = empty_page(kv, head_dim)
    for array in page.values():
        is_half = array.dtype == np.uint16
        array[...] = (
            half_bits(rng, array.shape) if is_half else rng.integers(-2, 3, array.shape, np.int8)
        )
    for scales in (page["k_scales"], page["v_scales"]):
        scales &= 0x7FFF
    return page


def arguments(name, rng):
    """Arguments for a row; what is written holds zeros."""
    op = op_of(name)
    floats = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    if op in ("gemv", "gemv16", "gemv32", "gemm", "gemm32"):
        tokens, n, k = 5 if op.startswith("gemm") else 1, 40, columns(format_of(name), 192)
        w = matrix(rng, format_of(name), n, k)
        x = quantized(edge(rng, (tokens, k), -30), bits=bits_of(name))
        args = {"n_tiles": n // 8, "n_blocks": k // BLOCK, "w": w, "x": x, "y": floats(tokens, n)}
        if tokens > 1:
            args |= {"n_tokens": tokens, "x_stride": x.shape[1], "y_stride": n}
        if op == "gemm":
            panel = np.zeros(k // BLOCK * ROWS_BY_NAME[name]["panel_bytes"] + 64, np.uint8)
            args["panel"] = panel[-panel.ctypes.data % 64 :]
        return args
    if op == "embed":
        k = columns(format_of(name), 96)
        w = matrix(rng, format_of(name), 8, k)
        return {"row": 3, "n_blocks": k // BLOCK, "w": w, "scale": 2.0**-17, "out": floats(k)}
    if op in ("quantize", "quantize16"):
        x = edge(rng, (6, BLOCK))
        x[0, 0] = np.finfo(np.float32).max  # 127 / amax is as small as it gets
        bits = 8 if op == "quantize" else 16
        return {"n_blocks": 6, "x": x, "out": np.zeros_like(quantized(x, bits=bits))}
    if op == "rmsnorm":
        x, w = edge(rng, 96, rng.uniform(-39, 60)), edge(rng, 96)
        return {"n": 96, "eps": 1e-5 if rng.random() < 0.5 else 2.0**-126, "x": x, "w": w,
                "out": floats(96)}  # fmt: skip
    if op == "add":
        return {"n": 96, "x": edge(rng, 96), "y": edge(rng, 96)}
    if op in ("silu_mul", "gelu_mul"):
        gate = edge(rng, 96, rng.uniform(-39, 120))
        return {"n": 96, "gate": gate, "up": edge(rng, 96), "out": floats(96)}
    if op == "rope_angles":
        turns = np.array(rope_turns(1e6, 64), np.uint64)
        turns[:8] = rng.integers(0, 99, 8)  # the smallest angles there are
        position = int(rng.integers(0, 1 << 24))
        return {"n": 32, "position": position, "turns": turns, "out": floats(64)}
    if op == "rope":
        return {"n": 32, "head_dim": 80, "angles": edge(rng, 64), "scale": 2.0**-6,
                "x": edge(rng, 80), "out": floats(80)}  # fmt: skip
    if op == "append":
        sizes = rng.uniform(-39, 17, 2)  # scales of int8 are subnormal halves below 2^-7
        return {"head_dim": 48, "position_in_page": 9, "key": edge(rng, 48, sizes[0]),
                "value": edge(rng, 48, sizes[1]), **empty_page(kv_of(name), 48)}  # fmt: skip
    if op == "hadamard":
        x = edge(rng, 64, rng.uniform(-39, 0))
        return {"n": 64, "n_block": 32, "x": x, "out": floats(64)}
    if op == "attend":
        return {"head_dim": 64, "n_queries": 3, "first": 0, "end": 101,
                "q": edge(rng, (3, 64), rng.uniform(-39, -6)),
                **smallest_page(rng, kv_of(name), 64),
                "scores": floats(3, PAGE), "out": floats(3, 72), "out_stride": 72}  # fmt: skip
    if op == "combine":
        parts = edge(rng, (7, 72), -35)
        parts[:, 64] = rng.uniform(-60, 0, 7)
        parts[:, 65] = rng.uniform(1, PAGE, 7)
        return {"head_dim": 64, "n_parts": 7, "parts": parts, "stride": 72, "out": floats(64)}
    assert op == "softmax", f"no arguments for {op}; add them here"
    x = (-(2.0 ** rng.uniform(-100, 6, 96))).astype(np.float32)  # r * r is subnormal in many
    return {"n": 96, "x": x, "max": 0.0, "p": floats(96), "sum": floats(1)}


def outputs(args):
    return {k: a.tobytes() for k, a in args.items() if isinstance(a, np.ndarray) and k != "panel"}


@pytest.mark.parametrize("name", [n for n, row in ROWS_BY_NAME.items() if row["runs"]])
def test_flushing_changes_no_bit(name, flushing):
    for seed in range(40):
        plain, flushed = (arguments(name, np.random.default_rng(seed)) for _ in range(2))
        call(name, **plain)
        call(name, flushing, **flushed)
        assert outputs(plain) == outputs(flushed), f"seed {seed}"


def test_the_mode_is_on(flushing):
    """Where the precondition is broken the modes do differ: d = 2^-127 is subnormal."""
    scales = []
    for caller in (None, flushing):
        out = quantized(np.zeros(BLOCK))
        x = np.full(BLOCK, 127 * 2.0**-127, np.float32)
        call("quantize_ref", caller, n_blocks=1, x=x, out=out)
        scales.append(float(out["d"][0]))
    assert scales == [2.0**-127, 0]
