"""gemv, gemv16, gemm and embed: the reference against exact arithmetic, all rows against it."""

import gguf
import numpy as np
import pytest

from tools.gguf_writer import dequantize, quantize

from .contract import (
    BLOCK,
    FLOATS,
    FORMATS,
    HALVES,
    ROWS,
    ROWS_BY_NAME,
    TINY,
    bits_of,
    call,
    columns,
    exact_weights,
    format_of,
    guarded,
    guarded_copy,
    op_of,
    pack,
    quantized,
    random_blocks,
    ref_of,
    rows_of,
    set_quants,
    set_scales,
    values,
    viewed,
)

SHAPES = [(8, 32), (16, 4096), (576, 1536), (200, 896), (24, 96)]
IDS = [f"{n}x{k}" for n, k in SHAPES]
GEMV_ROWS = [row for op in ("gemv", "gemv16", "gemv32") for row in rows_of(op)]


def activations(rng, k, tokens=1, bits=8):
    """Random activations with a block of zeros, a lone spike and both signs of the extreme."""
    x = rng.standard_normal((tokens, k)).astype(np.float32)
    x[:, :BLOCK] = 0
    if k > BLOCK:
        x[:, BLOCK + 3], x[:, BLOCK + 4] = 40, -40
    return quantized(x, bits=bits)


def gemv(name, w, x):
    y = guarded(len(w) * ROWS, np.float32)
    blocks = len(x) // BLOCK if x.dtype == np.float32 else len(x)
    call(name, n_tiles=len(w), n_blocks=blocks, w=w, x=guarded_copy(x), y=y)
    return y


def side_by_side(name, w, x):
    """As `gemv`, of two matrices: half of the tile rows are read beside the others."""
    half = len(w) // 2
    y, y_beside = (guarded(half * ROWS, np.float32) for _ in range(2))
    args = {"n_tiles": 2 * half, "n_blocks": len(x), "x": guarded_copy(x), "y": y}
    args |= {"w": guarded_copy(w[:half]), "w_beside": guarded_copy(w[half:]), "y_beside": y_beside}
    call(name, **args)
    return np.concatenate([y, y_beside])


def bound(w, x, steps):
    """Of |y - exact|: the integer dots are exact; each block rounds t once and the sum twice, each
    column of floats the sum once, and flushing moves a result by less than 2^-40."""
    return (2 * steps + 4) * 2.0**-24 * (np.abs(w) @ np.abs(x)) * 2 + 2.0**-40


@pytest.mark.parametrize(("n", "k"), SHAPES, ids=IDS)
@pytest.mark.parametrize("name", GEMV_ROWS)
def test_gemv_is_within_rounding_of_exact(name, n, k):
    rng = np.random.default_rng([n, k])
    k = columns(format_of(name), k)
    blocks = random_blocks(rng, format_of(name), n, k)
    x = activations(rng, k, bits=bits_of(name))[0]
    w, exact_x = exact_weights(format_of(name), blocks), values(x)
    # s is rounded from d * sum, so a minimum meets a sum that is off by 2^-24 of it
    steps = k // BLOCK if bits_of(name) < 32 else k
    limit = bound(w, exact_x, steps) + 2.0**-22 * np.abs(w).max() * np.abs(exact_x).sum()
    error = np.abs(gemv(name, pack(format_of(name), blocks), x)[:n] - w @ exact_x)
    row = np.argmax(error / limit)
    assert error[row] <= limit[row], f"row {row} of {n}: off by {error[row]}, bound {limit[row]}"


@pytest.mark.parametrize("name", GEMV_ROWS)
@pytest.mark.parametrize("mode", ["random", "largest", "smallest", "subnormal", "mixed signs"])
def test_gemv_equals_the_reference(name, mode):
    rng = np.random.default_rng(len(mode))
    k, n, format = 1024, 40, format_of(name)
    blocks = random_blocks(rng, format, n, k)
    x = rng.standard_normal((1, k)).astype(np.float32)
    if mode == "largest":
        set_scales(format, blocks, lambda shape: 65504)
        set_quants(format, blocks, 0xFF)
        x[...] = np.where(rng.random(x.shape) < 0.5, 1e30, -1e30)
    elif mode == "smallest":  # every activation is as small as a flushed one may be
        x[...] = np.where(rng.random(x.shape) < 0.5, TINY, -TINY)
    elif mode == "subnormal":
        bits = lambda shape: rng.integers(1, 1024, shape, np.uint16)  # noqa: E731
        set_scales(format, blocks, lambda shape: bits(shape).view(np.float16))
        x *= np.float32(2.0**-38)
        x[np.abs(x) < TINY] = 0
    elif mode == "mixed signs":
        set_scales(format, blocks, lambda shape: np.where(rng.random(shape) < 0.5, 0.01, -0.01))
        set_quants(format, blocks, 0x80)
        blocks[rng.random(blocks.shape) < 0.2] ^= 0xFF
        set_scales(format, blocks, lambda shape: np.where(rng.random(shape) < 0.5, 0.01, -0.01))
    x = quantized(x, bits=bits_of(name))[0]
    w = pack(format, blocks)
    got, expected = gemv(name, w, x), gemv(ref_of(name), w, x)
    assert got.tobytes() == expected.tobytes()
    if op_of(name) == "gemv":
        assert side_by_side(name, w[:-1], x).tobytes() == expected[:-ROWS].tobytes()
    tiny = expected[(expected != 0) & (np.abs(expected) < TINY)]
    assert tiny.size == 0, f"not flushed: {tiny[:4]}"


TOKENS = {40: [*range(1, 18), 33], 72: [*range(1, 18), 33, 65, 130]}  # by rows of the matrix


@pytest.mark.parametrize("name", rows_of("gemm") + rows_of("gemm32"))
@pytest.mark.parametrize("n", TOKENS)
def test_gemm_equals_gemv_of_each_token(name, n):
    rng = np.random.default_rng(n)
    format, bits = format_of(name), bits_of(name)
    k = columns(format, 576 if n == 40 else 64)
    w = pack(format, random_blocks(rng, format, n, k))
    x = activations(rng, k, TOKENS[n][-1], bits)
    x_stride, y_stride = x.shape[1] + 1, n + 8
    strided = np.zeros((len(x), x_stride), x.dtype)
    strided[:, :-1] = x
    reference = ref_of(name).replace("gemm", "gemv")
    expected = np.stack([gemv(reference, w, one.copy()) for one in x])
    args = {"n_tiles": n // ROWS, "n_blocks": k // BLOCK, "w": w}
    args |= {"x_stride": x_stride, "y_stride": y_stride}
    if bits == 8:
        args["panel"] = guarded(k // BLOCK * ROWS_BY_NAME[name]["panel_bytes"], np.uint8)
    for tokens in TOKENS[n]:
        y = guarded((tokens, y_stride), np.float32)
        y[...] = 7
        call(name, n_tokens=tokens, x=strided[:tokens].copy(), y=y, **args)
        assert y[:, :n].tobytes() == expected[:tokens].tobytes(), f"{tokens} tokens"
        assert (y[:, n:] == 7).all(), f"of {tokens} tokens it wrote beyond its rows"


@pytest.mark.parametrize("name", GEMV_ROWS)
def test_gemv_of_nan_is_nan(name):
    """A NaN must reach the logits, where it is an error, and not vanish on the way."""
    rng = np.random.default_rng(0)
    k = columns(format_of(name), 64)
    x = rng.standard_normal((1, k)).astype(np.float32)
    x[0, 40] = np.nan
    w = pack(format_of(name), random_blocks(rng, format_of(name), 8, k))
    x = quantized(x, bits=bits_of(name))[0]
    assert np.isnan(gemv(name, w, x)).all()


@pytest.mark.parametrize("name", rows_of("embed"))
def test_embed_is_the_row_rounded_once(name):
    rng = np.random.default_rng(3)
    format, n = format_of(name), 21
    k = columns(format, 96)
    blocks = random_blocks(rng, format, n, k)
    w, exact = pack(format, blocks), exact_weights(format, blocks)
    out = guarded(k, np.float32)
    for row in range(n):
        call(name, row=row, n_blocks=k // BLOCK, w=w, scale=1.0, out=out)
        expected = exact[row].astype(np.float32)  # d * q + m fits float64 exactly
        expected[np.abs(expected) < TINY] = 0
        assert (out == expected).all()
    call(name, row=0, n_blocks=k // BLOCK, w=w, scale=3.0, out=out)
    assert (out == np.float32(3) * exact[0].astype(np.float32)).all()


@pytest.mark.parametrize("format", FORMATS)
def test_packing_pads_with_rows_of_zero(format):
    rng = np.random.default_rng(5)
    k = columns(format, 64)
    w = pack(format, random_blocks(rng, format, 11, k))
    op, bits = ("gemv32", 32) if format in FLOATS else ("gemv", 8)
    y = gemv(f"{op}_{format.lower()}_ref", w, activations(rng, k, bits=bits)[0])
    assert len(w) == 2
    assert (y[11:] == 0).all()
    assert (y[:11] != 0).all()


HALF_SCALES = [(format, at) for format, places in HALVES.items() for at in places]


@pytest.mark.parametrize(("format", "at"), HALF_SCALES, ids=[f"{f}-{at}" for f, at in HALF_SCALES])
@pytest.mark.parametrize("bad", [0x7C00, 0xFC00, 0x7E00, 0x7C01, 0xFFFF])
def test_packing_refuses_scales_that_are_not_finite(format, at, bad):
    blocks = random_blocks(np.random.default_rng(6), format, 11, columns(format, 33) * 2)
    viewed(format, blocks)[9, 1, at : at + 2] = np.frombuffer(np.uint16(bad).tobytes(), np.uint8)
    with pytest.raises(ValueError, match="row 9, block 1"):
        pack(format, blocks)


def test_packing_refuses_a_power_of_two_that_is_no_number():
    blocks = random_blocks(np.random.default_rng(6), "MXFP4", 11, 64)
    viewed("MXFP4", blocks)[9, 1, 0] = 255
    with pytest.raises(ValueError, match="row 9, block 1"):
        pack("MXFP4", blocks)


@pytest.mark.parametrize("format", ["F32", "BF16"])
def test_packing_refuses_and_flushes_floats(format):
    w = np.ones((11, 64), np.float32)
    w[9, 5] = 2.0**-41
    w[9, 6] = -(2.0**-40)
    blocks = np.frombuffer(quantize(w, format), np.uint8).reshape(11, -1).copy()
    out = np.zeros(64, np.float32)
    name = f"embed_{format.lower()}_ref"
    call(name, row=9, n_blocks=2, w=pack(format, blocks), scale=1.0, out=out)
    assert out[4:8].tolist() == [1, 0, -(2.0**-40), 1]
    for bad in (0x7F80, 0xFF80, 0x7FC0):  # the upper half of infinities and of a NaN
        end = (6 + 1) * FORMATS[format][2]
        blocks[9, end - 2 : end] = np.frombuffer(np.uint16(bad).tobytes(), np.uint8)
        with pytest.raises(ValueError, match="row 9, block 6"):
            pack(format, blocks)


def test_powers_of_two_below_tiny_become_zero():
    """2^(e - 128) is at least 2^-40 from e = 88 on."""
    blocks = random_blocks(np.random.default_rng(7), "MXFP4", 8, 64)
    blocks[:, 1:17] = 0x22  # 2 is twice E2M1's 1
    for e, expected in ((0, 0), (1, 0), (87, 0), (88, 2.0**-39), (254, 2.0**127)):
        viewed("MXFP4", blocks)[3, 0, 0] = e
        out = np.zeros(64, np.float32)
        call("embed_mxfp4_ref", row=3, n_blocks=2, w=pack("MXFP4", blocks), scale=1.0, out=out)
        assert (out[:32] == expected).all(), e


@pytest.mark.parametrize("format", FORMATS)
def test_weights_are_those_of_the_gguf_package(format):
    """What GGUF's own Python package makes of the same bytes, but for its values below 2^-40."""
    rng = np.random.default_rng(8)
    k = columns(format, 96)
    blocks = random_blocks(rng, format, 16, k)
    expected = gguf.dequantize(blocks, gguf.GGMLQuantizationType[format])
    shape = (16, k)
    assert (dequantize(blocks.tobytes(), format, shape) == expected).all()
    w, out = pack(format, blocks), np.zeros(k, np.float32)
    for row in range(16):
        name = f"embed_{format.lower()}_ref"
        call(name, row=row, n_blocks=k // BLOCK, w=w, scale=1.0, out=out)
        assert (out == np.where(np.abs(expected[row]) < TINY, 0, expected[row])).all()
