"""Appending keys and values to a page, and attending to it: the reference against float64 and
against the rules of docs/arithmetic.md in NumPy, every level against the reference."""

import numpy as np
import pytest

from .contract import (
    BLOCK,
    PAGE,
    TINY,
    as_keys,
    as_values,
    call,
    empty_page,
    guarded,
    guarded_copy,
    kv_of,
    places,
    ref_of,
    rows_of,
)

U = 2.0**-24  # half a unit in the last place of 1
KVS = ("f16", "v8", "int8")
ORDERS = {"k": as_keys, "v": as_values}


def is_flushed(x):
    return bool(((x == 0) | (np.abs(x) >= TINY) | np.isnan(x)).all())


def halves(x):
    """(PAGE, D) floats as they are stored, and what they then mean."""
    with np.errstate(over="ignore"):
        stored = np.clip(x, -65504, 65504).astype(np.float16)
    return stored.view(np.uint16), stored.astype(np.float64)


def as_bytes(x):
    """(PAGE, D) floats as int8, their scales (D / 32, PAGE), and what both then mean."""
    q, scales = np.zeros(x.shape, np.int8), []
    meaning = np.zeros(x.shape)
    for d in range(0, x.shape[1], BLOCK):
        block = x[:, d : d + BLOCK]
        with np.errstate(all="ignore"):
            amax = np.abs(block).max(axis=1)
            amax[~np.isfinite(block).all(axis=1)] = np.nan
            scale = np.minimum(amax / np.float32(127), np.float32(65504)).astype(np.float16)
            wide = scale.astype(np.float32)[:, None]
            found = np.clip(np.rint(block * (np.float32(1) / wide)), -127, 127)
        q[:, d : d + BLOCK] = np.where(wide > 0, found, 0)
        meaning[:, d : d + BLOCK] = q[:, d : d + BLOCK].astype(np.float64) * wide
        scales.append(scale.view(np.uint16))
    return q, np.stack(scales), meaning


def filled(kv, k, v):
    """A page with these keys and values, (PAGE, D) floats; and what is stored of each, exactly."""
    page = empty_page(kv, k.shape[1])
    if kv == "int8":
        stored, page["k_scales"][...], k = as_bytes(k)
    else:
        stored, k = halves(k)
    page["k"][...] = as_keys(stored)
    if kv == "f16":
        stored, v = halves(v)
    else:
        stored, page["v_scales"][...], v = as_bytes(v)
    page["v"][...] = as_values(stored)
    return page, k, v


def random_page(rng, kv, head_dim):
    k, v = rng.standard_normal((2, PAGE, head_dim)).astype(np.float32)
    return filled(kv, k, v)


def attend(name, q, page, first=0, end=PAGE):
    n, head_dim = q.shape
    out = guarded((n, head_dim + 8), np.float32)
    call(
        name,
        head_dim=head_dim,
        n_queries=n,
        first=first,
        end=end,
        q=guarded_copy(q),
        scores=guarded((n, PAGE), np.float32),
        out=out,
        out_stride=head_dim + 8,
        **page,
    )
    return out


def exact_attention(q, k, v):
    """softmax(q k) v in float64: (queries, D), not normalised, with maxima and sums."""
    s = q.astype(np.float64) @ k.T
    top = s.max(1)
    p = np.exp(s - top[:, None])
    return p @ v, top, p.sum(1)


# -- append


@pytest.mark.parametrize("name", rows_of("append"))
@pytest.mark.parametrize("head_dim", [8, 32, 48, 80, 256])
def test_append_stores_what_the_rules_say(name, head_dim):
    """Of magnitudes about the least and the largest that a half can have, as a number and as a
    scale, and of blocks of zeros; and it writes nowhere else."""
    for seed, size in enumerate((-40, -26, -24, -18, -14, 0, 15, 17, 22, 24, 60)):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((2, head_dim)) * 2.0 ** rng.uniform(size - 2, size, (2, head_dim))
        x = np.where(np.abs(x) < TINY, 0, x).astype(np.float32)
        x[0, : min(head_dim, BLOCK)] *= rng.integers(0, 2)
        page = empty_page(kv_of(name), head_dim)
        key, value = (guarded_copy(row) for row in x)
        position = (0, 31, 32, 77, 127)[seed % 5]
        call(name, head_dim=head_dim, position_in_page=position, key=key, value=value, **page)
        at = np.zeros((2, PAGE, head_dim), np.float32)
        at[:, position] = x
        expected, _, _ = filled(kv_of(name), *at)
        for part, array in page.items():
            assert array.tobytes() == expected[part].tobytes(), f"{part}, 2^{size}"


@pytest.mark.parametrize("name", rows_of("append"))
def test_append_of_int8_is_off_by_half_a_step(name):
    """Wherever the scale is a normal half; a step is the block's largest over 127."""
    rng = np.random.default_rng(1)
    x = (rng.standard_normal(320) * 2.0 ** rng.uniform(-3, 9, 320)).astype(np.float32)
    page = empty_page(kv_of(name), 320)
    call(name, head_dim=320, position_in_page=3, key=x, value=x, **page)
    step = np.repeat(np.abs(x.reshape(-1, BLOCK)).max(axis=1) / 127, BLOCK)
    for part, bytes_of in (("k", kv_of(name) == "int8"), ("v", kv_of(name) != "f16")):
        if not bytes_of:
            continue
        row = page[part][places(ORDERS[part], 320)[3]]
        scale = page[part + "_scales"][:, 3].copy().view(np.float16).astype(np.float64)
        error = np.abs(row * np.repeat(scale, BLOCK) - x)
        assert (error <= (0.5 + 127 * 2.0**-11) * step).all()  # the scale's own rounding: 2^-11


@pytest.mark.parametrize("name", rows_of("append"))
def test_append_rounds_to_the_nearest_half_and_saturates(name):
    if kv_of(name) == "int8":
        return
    rng = np.random.default_rng(5)
    x = (rng.standard_normal(4096) * 2.0 ** rng.uniform(-30, 20, 4096)).astype(np.float32)
    every = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (every[:-1] + every[1:]) / 2
    x = np.concatenate([x, every, ties, [65519, 65520, 1e30, np.inf, -np.inf, -0.0, 0]])
    x = np.resize(x, -(-len(x) // 8) * 8).astype(np.float32)
    page = empty_page(kv_of(name), len(x))
    call(name, head_dim=len(x), position_in_page=77, key=x, value=-x, **page)
    assert (page["k"][places(as_keys, len(x))[77]] == halves(x)[0]).all()
    if kv_of(name) == "f16":
        assert (page["v"][places(as_values, len(x))[77]] == halves(-x)[0]).all()


@pytest.mark.parametrize("name", rows_of("append"))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_append_hides_nothing_that_is_not_finite(name, bad):
    """NaN stays in a half and infinity saturates; of int8 either makes the whole block NaN."""
    x = np.ones(64, np.float32)
    x[5] = bad
    page = empty_page(kv_of(name), 64)
    call(name, head_dim=64, position_in_page=0, key=x, value=x, **page)
    for part, is_int8 in (("k", kv_of(name) == "int8"), ("v", kv_of(name) != "f16")):
        if is_int8:
            scales = page[part + "_scales"][:, 0].copy().view(np.float16)
            assert np.isnan(scales[0])
            assert scales[1] == np.float16(1 / 127)
        else:
            stored = page[part][places(ORDERS[part], 64)[0]].view(np.float16)
            expected = x if np.isnan(bad) else np.clip(x, -65504, 65504)
            assert np.array_equal(stored, expected.astype(np.float16), equal_nan=True)


# -- attend


@pytest.mark.parametrize("name", rows_of("attend"))
@pytest.mark.parametrize("queries", [1, 2, 3, 4, 5, 7, 9])
@pytest.mark.parametrize("head_dim", [16, 64, 80])
def test_attend_is_within_rounding_of_exact(name, queries, head_dim):
    rng = np.random.default_rng([queries, head_dim])
    page, k, v = random_page(rng, kv_of(name), head_dim)
    q = rng.standard_normal((queries, head_dim)).astype(np.float32) / 8
    for first, end in ((0, PAGE), (0, 1), (5, 6), (3, 77), (121, 128), (0, 9)):
        out = attend(name, q, page, first, end)
        exact, top, total = exact_attention(q, k[first:end], v[first:end])
        # scores are off by D/4 + 2 roundings of |q||k|, and one more for each block of int8, which
        # exp turns into a relative error; a weight of int8 values is rounded once more
        roundings = head_dim / 4 + 2 + -(-head_dim // BLOCK)
        e = roundings * U * (np.abs(q) @ np.abs(k[first:end].T)).max()
        relative = 2 * e + (end - first + 9) * U + 1.3e-7
        assert np.abs(out[:, head_dim] - top).max() <= e
        assert np.abs(out[:, head_dim + 1] / total - 1).max() <= relative
        scale = (total[:, None] * np.abs(v[first:end]).max()).max()
        assert np.abs(out[:, :head_dim] - exact).max() <= relative * scale
        assert is_flushed(out)


@pytest.mark.parametrize("name", rows_of("attend"))
@pytest.mark.parametrize(("first", "end"), [(10, 21), (42, 75)])
def test_attend_does_not_see_what_is_masked(name, first, end):
    rng = np.random.default_rng(2)
    k, v = rng.standard_normal((2, PAGE, 48)).astype(np.float32)
    q = rng.standard_normal((3, 48)).astype(np.float32)
    before = attend(name, q, filled(kv_of(name), k, v)[0], first, end)
    k[:first], k[end:] = 60000, -60000
    v[:first], v[end:] = 1000, -1000
    assert attend(name, q, filled(kv_of(name), k, v)[0], first, end).tobytes() == before.tobytes()


@pytest.mark.parametrize("name", rows_of("attend"))
def test_a_head_alone_attends_as_in_its_group(name):
    rng = np.random.default_rng(3)
    page, _, _ = random_page(rng, kv_of(name), 64)
    q = rng.standard_normal((9, 64)).astype(np.float32)
    together = attend(name, q, page, 0, 100)
    for i in range(9):
        assert attend(name, q[i : i + 1], page, 0, 100).tobytes() == together[i].tobytes()


@pytest.mark.parametrize("name", rows_of("attend"))
def test_every_value_is_read_exactly(name):
    """A lone position has p = 1, so the part is the value itself: every half, or of every scale
    every int8."""
    numbers = np.arange(0x7C00, dtype=np.uint16)
    scales = np.concatenate([numbers[:300], numbers[300::64]])
    head_dim = len(numbers) if kv_of(name) == "f16" else BLOCK * len(scales)
    page, at = empty_page(kv_of(name), head_dim), places(as_values, head_dim)[0]
    if kv_of(name) == "f16":
        page["v"][at] = numbers
        expected = numbers.view(np.float16).astype(np.float32)
    else:
        page["v"][at] = np.resize(np.arange(-127, 128), head_dim)
        page["v_scales"][:, 0] = scales
        wide = np.repeat(scales.view(np.float16).astype(np.float32), BLOCK)
        expected = page["v"][at] * wide
    out = attend(name, np.zeros((1, head_dim), np.float32), page, 0, 1)
    assert (out[0, :head_dim] == expected).all()


@pytest.mark.parametrize("kv", KVS)
@pytest.mark.parametrize("name", rows_of("combine"))
def test_combining_pages_is_attending_to_all(name, kv):
    rng = np.random.default_rng(4)
    head_dim, pages = 64, 5
    q = rng.standard_normal((1, head_dim)).astype(np.float32)
    parts, keys, vals = [], [], []
    for _ in range(pages):
        page, k, v = random_page(rng, kv, head_dim)
        parts.append(attend(f"attend_{kv}_ref", q, page)[0])
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


# -- every level equals the reference


@pytest.mark.parametrize("name", rows_of("append") + rows_of("attend"))
@pytest.mark.parametrize("head_dim", [48, 64])
def test_every_row_equals_the_reference(name, head_dim):
    for seed in range(20):
        results = []
        for row in (name, ref_of(name)):
            rng = np.random.default_rng(seed)
            floats = lambda *n, rng=rng: rng.standard_normal(n).astype(np.float32)  # noqa: E731
            if name.startswith("append"):
                page = empty_page(kv_of(name), head_dim)
                call(row, head_dim=head_dim, position_in_page=9, key=floats(head_dim),
                     value=floats(head_dim), **page)  # fmt: skip
                results.append([array.tobytes() for array in page.values()])
            else:
                page, _, _ = random_page(rng, kv_of(name), head_dim)
                first = int(rng.integers(0, PAGE))
                end = int(rng.integers(first + 1, PAGE + 1))
                n = int(rng.integers(1, 7))
                results.append(attend(row, floats(n, head_dim), page, first, end).tobytes())
        assert results[0] == results[1], f"seed {seed}"
