"""The float operations: the reference against float64, every level against the reference."""

import math
from fractions import Fraction

import numpy as np
import pytest

from nybble.archs.turns import rope_turns

from .contract import (
    ROWS_BY_NAME,
    TINY,
    call,
    guarded,
    guarded_copy,
    op_of,
    ref_of,
    rows_of,
)

U = 2.0**-24  # half a unit in the last place of 1


def is_flushed(x):
    return bool(((x == 0) | (np.abs(x) >= TINY) | np.isnan(x)).all())


def softmax(name, x, top):
    p, total = guarded(len(x), np.float32), guarded(1, np.float32)
    call(name, n=len(x), x=guarded_copy(x), max=top, p=p, sum=total)
    return p, total[0]


# -- exp, by way of softmax


@pytest.mark.parametrize("name", rows_of("softmax"))
def test_exp_is_within_two_units(name):
    x = np.linspace(-54, 0, 80_000, dtype=np.float32)
    p, _ = softmax(name, x, 0)
    error = np.abs(p / np.exp(x.astype(np.float64)) - 1)
    assert error.max() < 1.3e-7, f"exp({x[error.argmax()]!r}) is off by {error.max()}"


@pytest.mark.parametrize("name", rows_of("softmax"))
def test_exp_at_its_edges(name):
    below = np.nextafter(np.float32(-54), np.float32(-55))
    x = np.array([0, -0.0, -54, below, -1e30, -np.inf, np.nan, -(2.0**-40)], np.float32)
    p, _ = softmax(name, x, 0)
    assert p[0] == p[1] == 1
    assert p[2] >= 2.0**-79, "what a half may be multiplied with"
    assert (p[3:6] == 0).all()
    assert np.isnan(p[6])
    assert p[7] == 1
    assert softmax(name, np.full(8, 1e4, np.float32), 0)[0][0] == pytest.approx(math.exp(88))


@pytest.mark.parametrize("name", rows_of("softmax"))
def test_softmax_sums_in_eight_lanes_and_one_tree(name):
    x = np.random.default_rng(0).standard_normal(128).astype(np.float32)
    p, total = softmax(name, x, x.max())
    lanes = np.zeros(8, np.float32)
    for row in p.reshape(-1, 8):
        lanes += row
    a = lanes
    assert total == ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))


# -- norms, activations, sums


@pytest.mark.parametrize("name", rows_of("rmsnorm"))
@pytest.mark.parametrize("n", [8, 576, 4096])
def test_rmsnorm_is_within_rounding_of_exact(name, n):
    rng = np.random.default_rng(n)
    x = rng.standard_normal(n).astype(np.float32) * 100
    w = rng.standard_normal(n).astype(np.float32)
    out = guarded(n, np.float32)
    call(name, n=n, eps=1e-5, x=guarded_copy(x), w=guarded_copy(w), out=out)
    eps = np.float64(np.float32(1e-5))
    exact = x / np.sqrt(np.mean(x.astype(np.float64) ** 2) + eps) * w
    # n/8 additions in a lane and three in the tree, halved by the root; five more roundings
    assert np.abs(out - exact).max() <= ((n / 8 + 3) / 2 + 5) * U * np.abs(exact).max()
    assert is_flushed(out)
    same = guarded_copy(x)
    call(name, n=n, eps=1e-5, x=same, w=w, out=same)
    assert same.tobytes() == out.tobytes(), "in place"


@pytest.mark.parametrize("name", rows_of("rmsnorm"))
@pytest.mark.parametrize("large", [2.0**64, 3e38, np.inf, np.nan])
def test_rmsnorm_of_squares_beyond_all_floats_is_nan(name, large):
    """Not zero, as dividing by infinity would have it: what went wrong must reach the logits."""
    x, w, out = np.ones(16, np.float32), np.ones(16, np.float32), np.zeros(16, np.float32)
    x[3] = large
    call(name, n=16, eps=1e-5, x=x, w=w, out=out)
    assert np.isnan(out).all()


@pytest.mark.parametrize("name", rows_of("silu_mul"))
def test_silu_mul_is_within_rounding_of_exact(name):
    rng = np.random.default_rng(1)
    gate = np.concatenate([rng.uniform(-100, 100, 4000), [0, -0.0, 1e25, -1e25]]).astype(np.float32)
    gate = np.resize(gate, 4008)
    up = rng.standard_normal(len(gate)).astype(np.float32)
    out = guarded(len(gate), np.float32)
    call(name, n=len(gate), gate=guarded_copy(gate), up=guarded_copy(up), out=out)
    g = np.maximum(gate.astype(np.float64), -700)
    silu = g / (1 + np.exp(-g))
    limit = 2.0**-21 * np.abs(silu * up) + 2 * TINY * (1 + abs(up))
    assert (np.abs(out - silu * up) <= limit).all()
    assert is_flushed(out)


@pytest.mark.parametrize("name", rows_of("gelu_mul"))
def test_gelu_mul_is_within_rounding_of_exact(name):
    rng = np.random.default_rng(1)
    wide = rng.uniform(-100, 100, 2000)
    gate = np.concatenate([wide, rng.uniform(-11, 11, 2000), [0, -0.0, 1e30, -1e25]])
    gate = np.resize(gate, 4008).astype(np.float32)
    up = rng.standard_normal(len(gate)).astype(np.float32)
    out = guarded(len(gate), np.float32)
    call(name, n=len(gate), gate=guarded_copy(gate), up=guarded_copy(up), out=out)
    g = gate.astype(np.float64)
    twice = 2 * np.sqrt(2 / np.pi) * (g + 0.044715 * g**3)
    gelu = g / (1 + np.exp(-np.clip(twice, -700, 700)))
    # the exponent is rounded four times, and that error is exp's relative one; beyond 88 it is 88
    relative = 2.0**-21 + 4 * U * np.minimum(np.abs(twice), 88)
    limit = relative * np.abs(gelu * up) + 2 * TINY * (1 + abs(up))
    assert (np.abs(out - gelu * up) <= limit).all()
    assert is_flushed(out)


@pytest.mark.parametrize("name", rows_of("gelu_mul"))
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_gelu_mul_keeps_what_is_not_finite(name, bad):
    out = np.zeros(8, np.float32)
    call(name, n=8, gate=np.full(8, bad, np.float32), up=np.ones(8, np.float32), out=out)
    assert not np.isfinite(out).any()


@pytest.mark.parametrize("name", rows_of("add"))
def test_add_flushes_what_cancels(name):
    x = np.array([1, 1 + 2.0**-23, TINY, np.nan, -1, 3, 0, 2.0**-30], np.float32)
    y = np.array([1, -1, -TINY / 2, 1, 1, -4, 0, -(2.0**-30) - 2.0**-45], np.float32)
    out = guarded_copy(x)
    call(name, n=8, x=out, y=y)
    assert out[:3].tolist() == [2, 2.0**-23, 0]
    assert np.isnan(out[3])
    assert out[4:].tolist() == [0, -1, 0, 0]


# -- rotary embeddings


@pytest.mark.parametrize("name", rows_of("rope_angles"))
@pytest.mark.parametrize("position", [0, 1, 7, 127, 8191, 131071, 2**24 - 1])
def test_rope_angles_are_those_of_exact_turns(name, position):
    theta, dims = 100_000.0, 64
    turns = np.array(rope_turns(theta, dims), np.uint64)
    out = guarded(dims, np.float32)
    call(name, n=dims // 2, position=position, turns=turns, out=out)
    for i, turn in enumerate(turns.tolist()):
        angle = 2 * math.pi * float(Fraction(turn * position % 2**64, 2**64))
        # the fraction has 32 bits, the polynomial 24
        assert abs(out[i] - math.cos(angle)) < 2e-7, f"cos of pair {i}"
        assert abs(out[dims // 2 + i] - math.sin(angle)) < 2e-7, f"sin of pair {i}"
    assert is_flushed(out)


def test_rope_turns_are_slowed_down_by_factors():
    factors = tuple(np.linspace(1, 8, 32, dtype=np.float32).tolist())
    plain, slow = rope_turns(1e4, 64), rope_turns(1e4, 64, 2.0, factors)
    for fast, slower, factor in zip(plain, slow, factors, strict=True):
        assert slower == pytest.approx(fast / 2 / factor, rel=1e-13)


def test_rope_turns_are_theta_to_the_power():
    for theta, dims in ((10_000.0, 64), (1e6, 128), (500_000.0, 96)):
        for i, turn in enumerate(rope_turns(theta, dims)):
            exact = theta ** (-2 * i / dims) / (2 * math.pi)
            assert turn / 2**64 == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize("name", rows_of("rope"))
@pytest.mark.parametrize(("head_dim", "n"), [(16, 8), (64, 32), (96, 32)])
def test_rope_rotates_halves_and_scales(name, head_dim, n):
    rng = np.random.default_rng(n)
    x = rng.standard_normal(head_dim).astype(np.float32)
    angle = rng.uniform(0, 7, n)
    angles = np.concatenate([np.cos(angle), np.sin(angle)]).astype(np.float32)
    out = guarded(head_dim, np.float32)
    call(name, n=n, head_dim=head_dim, angles=angles, scale=0.125, x=guarded_copy(x), out=out)
    z = (x[:n] + 1j * x[n : 2 * n]) * np.exp(1j * angle)
    exact = np.concatenate([z.real, z.imag, x[2 * n :]]) * 0.125
    assert np.abs(out - exact).max() <= 6 * U * np.abs(exact).max()


@pytest.mark.parametrize("name", rows_of("hadamard"))
@pytest.mark.parametrize(("n", "block"), [(8, 8), (80, 16), (64, 64), (512, 256), (4096, 4096)])
def test_hadamard_is_within_rounding_of_exact(name, n, block):
    matrix = np.ones((1, 1))
    while len(matrix) < block:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    x[3] = 100
    out = guarded(n, np.float32)
    call(name, n=n, n_block=block, x=guarded_copy(x), out=out)
    blocks = x.reshape(-1, block).astype(np.float64)
    exact = (blocks @ matrix / np.sqrt(block)).ravel()
    # a stage rounds once what is at most the sum of all; the root, its inverse and a product too
    most = np.abs(blocks).sum(axis=1).max() / np.sqrt(block)
    assert np.abs(out - exact).max() <= (np.log2(block) + 3) * U * most
    assert is_flushed(out)
    same = guarded_copy(x)
    call(name, n=n, n_block=block, x=same, out=same)
    assert same.tobytes() == out.tobytes(), "in place"


@pytest.mark.parametrize("name", rows_of("hadamard"))
def test_hadamard_flushes_and_keeps_nan(name):
    x = np.zeros(24, np.float32)
    x[:2] = 1, 2.0**-23 - 1  # leaves 2^-23 / sqrt(8) and what cancels
    x[8], x[16] = np.nan, TINY
    out = np.ones(24, np.float32)
    call(name, n=24, n_block=8, x=x, out=out)
    assert is_flushed(out)
    assert np.isnan(out[8:16]).all()
    assert (out[16:] == 0).all(), "2^-40 over 8's root"


# -- every level equals the reference

CASES = {
    "rmsnorm": lambda r: {"n": 96, "eps": 1e-5, "x": r(96), "w": r(96), "out": r(96)},
    "add": lambda r: {"n": 96, "x": r(96), "y": r(96)},
    "silu_mul": lambda r: {"n": 96, "gate": r(96) * 9, "up": r(96), "out": r(96)},
    "gelu_mul": lambda r: {"n": 96, "gate": r(96) * 5, "up": r(96), "out": r(96)},
    "rope": lambda r: {
        "n": 32, "head_dim": 80, "angles": r(64), "scale": 0.3, "x": r(80), "out": r(80),
    },  # fmt: skip
    "softmax": lambda r: {"n": 96, "x": r(96) * 20, "max": 60.0, "p": r(96), "sum": r(1)},
    "combine": lambda r: {
        "head_dim": 64, "n_parts": 7, "parts": np.abs(r((7, 72))), "stride": 72, "out": r(64),
    },  # fmt: skip
    "rope_angles": lambda r: {
        "n": 32, "position": 12345, "turns": np.array(rope_turns(1e4, 64), np.uint64), "out": r(64),
    },  # fmt: skip
    "hadamard": lambda r: {"n": 96, "n_block": 32, "x": r(96), "out": r(96)},
}  # fmt: skip


def test_every_operation_is_compared_with_the_reference():
    """Here, or in test_matrices.py, test_quantize.py and test_attention.py."""
    elsewhere = {"gemv", "gemv16", "gemv32", "gemm", "gemm32", "embed", "quantize", "quantize16"}
    elsewhere |= {"append", "attend"}
    assert {op_of(name) for name in ROWS_BY_NAME} == {*CASES, *elsewhere}


@pytest.mark.parametrize(("op", "name"), [(op, name) for op in CASES for name in rows_of(op)])
def test_every_row_equals_the_reference(op, name):
    for seed in range(20):
        results = []
        for row in (name, ref_of(name)):
            rng = np.random.default_rng(seed)
            args = CASES[op](lambda n, rng=rng: rng.standard_normal(n).astype(np.float32))
            call(row, **args)
            results.append({k: a.tobytes() for k, a in args.items() if isinstance(a, np.ndarray)})
        assert results[0] == results[1], f"seed {seed}"
