"""The float operations: the reference against float64, every level against the reference."""

import math
from fractions import Fraction

import numpy as np
import pytest

from nybble.archs.turns import rope_turns

from .contract import (
    PAGE,
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


# -- attention


def page(rng, head_dim, filled=PAGE):
    """Keys and values (PAGE, D) as halves, and the page's two layouts."""
    k = np.zeros((PAGE, head_dim), np.float16)
    v = np.zeros((PAGE, head_dim), np.float16)
    k[:filled] = rng.standard_normal((filled, head_dim))
    v[:filled] = rng.standard_normal((filled, head_dim))
    tiled = np.ascontiguousarray(k.reshape(PAGE // 8, 8, head_dim).transpose(0, 2, 1))
    return k, v, guarded_copy(tiled), guarded_copy(v)


def attend(name, q, k, v, first=0, end=PAGE):
    n, head_dim = q.shape
    out = guarded((n, head_dim + 8), np.float32)
    call(
        name,
        head_dim=head_dim,
        n_queries=n,
        first=first,
        end=end,
        q=guarded_copy(q),
        k=k,
        v=v,
        scores=guarded((n, PAGE), np.float32),
        out=out,
        out_stride=head_dim + 8,
    )
    return out


def exact_attention(q, k, v):
    """softmax(q k) v in float64: (queries, D), not normalised, with maxima and sums."""
    s = q.astype(np.float64) @ k.astype(np.float64).T
    top = s.max(1)
    p = np.exp(s - top[:, None])
    return p @ v.astype(np.float64), top, p.sum(1)


@pytest.mark.parametrize("name", rows_of("attend"))
@pytest.mark.parametrize("queries", [1, 2, 3, 4, 5, 7, 9])
@pytest.mark.parametrize("head_dim", [16, 64, 80])
def test_attend_is_within_rounding_of_exact(name, queries, head_dim):
    rng = np.random.default_rng([queries, head_dim])
    k, v, tiles, values = page(rng, head_dim)
    q = rng.standard_normal((queries, head_dim)).astype(np.float32) / 8
    for first, end in ((0, PAGE), (0, 1), (5, 6), (3, 77), (121, 128), (0, 9)):
        out = attend(name, q, tiles, values, first, end)
        exact, top, total = exact_attention(q, k[first:end], v[first:end])
        # scores are off by D/4 + 2 roundings of |q||k|, which exp turns into a relative error
        e = (head_dim / 4 + 2) * U * (np.abs(q) @ np.abs(k[first:end].T.astype(float))).max()
        relative = 2 * e + (end - first + 8) * U + 1.3e-7
        assert np.abs(out[:, head_dim] - top).max() <= e
        assert np.abs(out[:, head_dim + 1] / total - 1).max() <= relative
        scale = (total[:, None] * np.abs(v[first:end]).max()).max()
        assert np.abs(out[:, :head_dim] - exact).max() <= relative * scale
        assert is_flushed(out)


@pytest.mark.parametrize("name", rows_of("attend"))
def test_attend_does_not_see_what_is_masked(name):
    rng = np.random.default_rng(2)
    _, _, k, v = page(rng, 32)
    q = rng.standard_normal((3, 32)).astype(np.float32)
    before = attend(name, q, k, v, 10, 21)
    v[:10], v[21:] = 1000, -1000
    tiles = k.transpose(0, 2, 1).reshape(PAGE, 32)
    tiles[:10], tiles[21:] = 60000, -60000
    k[...] = tiles.reshape(PAGE // 8, 8, 32).transpose(0, 2, 1)
    assert attend(name, q, k, v, 10, 21).tobytes() == before.tobytes()


@pytest.mark.parametrize("name", rows_of("attend"))
def test_a_head_alone_attends_as_in_its_group(name):
    rng = np.random.default_rng(3)
    _, _, k, v = page(rng, 64)
    q = rng.standard_normal((9, 64)).astype(np.float32)
    together = attend(name, q, k, v, 0, 100)
    for i in range(9):
        assert attend(name, q[i : i + 1], k, v, 0, 100).tobytes() == together[i].tobytes()


@pytest.mark.parametrize("name", rows_of("combine"))
def test_combining_pages_is_attending_to_all(name):
    rng = np.random.default_rng(4)
    head_dim, pages = 64, 5
    q = rng.standard_normal((1, head_dim)).astype(np.float32)
    parts, keys, vals = [], [], []
    for _ in range(pages):
        k, v, tiles, values = page(rng, head_dim)
        parts.append(attend(ref_of(name).replace("combine", "attend_f16"), q, tiles, values)[0])
        keys.append(k)
        vals.append(v)
    out = guarded(head_dim, np.float32)
    parts = guarded_copy(np.stack(parts))
    stride = parts.shape[1]
    call(name, head_dim=head_dim, n_parts=pages, parts=parts, stride=stride, out=out)
    exact, _, total = exact_attention(q, np.concatenate(keys), np.concatenate(vals))
    assert np.abs(out - exact[0] / total).max() < 2e-5
    call(name, head_dim=head_dim, n_parts=1, parts=parts, stride=stride, out=out)
    alone = parts[0, :head_dim] / parts[0, head_dim + 1]
    alone[np.abs(alone) < TINY] = 0
    assert (out == alone).all()


# -- halves


@pytest.mark.parametrize("name", rows_of("append"))
def test_append_rounds_to_the_nearest_half_and_saturates(name):
    rng = np.random.default_rng(5)
    x = (rng.standard_normal(4096) * 2.0 ** rng.uniform(-30, 20, 4096)).astype(np.float32)
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (halves[:-1] + halves[1:]) / 2
    x = np.concatenate([x, halves, ties, [65519, 65520, 1e30, np.inf, -np.inf, -0.0, 0]])
    x = np.resize(x, -(-len(x) // 8) * 8).astype(np.float32)
    head_dim = len(x)
    k, v = np.zeros((16, head_dim, 8), np.uint16), np.zeros((PAGE, head_dim), np.uint16)
    call(name, head_dim=head_dim, position_in_page=77, key=x, value=-x, k=k, v=v)
    expected = np.clip(x, -65504, 65504).astype(np.float16)
    assert (k[77 // 8, :, 77 % 8] == expected.view(np.uint16)).all()
    assert (v[77] == (-expected).view(np.uint16)).all()
    k[77 // 8, :, 77 % 8] = 0
    v[77] = 0
    assert not k.any()
    assert not v.any(), "it wrote elsewhere"


@pytest.mark.parametrize("name", rows_of("append"))
def test_append_keeps_nan(name):
    x = np.full(8, np.nan, np.float32)
    k, v = np.zeros((16, 8, 8), np.uint16), np.zeros((PAGE, 8), np.uint16)
    call(name, head_dim=8, position_in_page=0, key=x, value=x, k=k, v=v)
    assert np.isnan(v[0].view(np.float16)).all()


@pytest.mark.parametrize("name", rows_of("attend"))
def test_every_half_is_read_exactly(name):
    """A lone position has p = 1, so the part is the value itself."""
    halves = np.arange(0x7C00, dtype=np.uint16)
    head_dim = len(halves) // 8 * 8
    k = guarded((16, head_dim, 8), np.uint16)
    v = guarded((PAGE, head_dim), np.uint16)
    v[0] = halves[:head_dim]
    out = attend(name, np.zeros((1, head_dim), np.float32), k, v, 0, 1)
    assert (out[0, :head_dim] == v[0].view(np.float16).astype(np.float32)).all()


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
    "append": lambda r: {
        "head_dim": 64, "position_in_page": 9, "key": r(64), "value": r(64),
        "k": np.zeros((16, 64, 8), np.uint16), "v": np.zeros((PAGE, 64), np.uint16),
    },  # fmt: skip
    "attend": lambda r: {
        "head_dim": 64, "n_queries": 3, "first": 3, "end": 101, "q": r((3, 64)),
        "k": r((16, 64, 8)).astype(np.float16), "v": r((PAGE, 64)).astype(np.float16),
        "scores": r((3, PAGE)), "out": r((3, 72)), "out_stride": 72,
    },  # fmt: skip
}  # fmt: skip


def test_every_operation_is_compared_with_the_reference():
    """Here, or in test_matrices.py and test_quantize.py."""
    elsewhere = {"gemv", "gemv16", "gemv32", "gemm", "gemm32", "embed", "quantize", "quantize16"}
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
        results[0].pop("scores", None), results[1].pop("scores", None)
        assert results[0] == results[1], f"seed {seed}"
