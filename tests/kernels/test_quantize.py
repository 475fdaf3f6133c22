"""quantize and quantize16: the rules of docs/arithmetic.md at their edges."""

import numpy as np
import pytest

from .contract import BLOCK, Q8, Q16, TINY, call, guarded_copy, ref_of, rows_of


def run(name, x):
    x = np.ascontiguousarray(x, np.float32).reshape(-1, BLOCK)
    out = np.zeros(len(x), Q16 if name.startswith("quantize16") else Q8)
    call(name, n_blocks=len(x), x=guarded_copy(x), out=out)
    return out


def block(*values):
    return np.array([*values, *[0] * (BLOCK - len(values))], np.float32)


ROWS8, ROWS16 = rows_of("quantize"), rows_of("quantize16")


@pytest.mark.parametrize("name", ROWS8)
def test_quantize_is_the_nearest_of_127_steps(name):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((64, BLOCK)).astype(np.float32) * rng.uniform(1e-9, 1e9, (64, 1))
    x = x.astype(np.float32)
    out = run(name, x)
    amax = np.abs(x).max(1)
    assert (out["d"] == amax / np.float32(127)).all()
    assert (out["q"] == np.rint(x * (np.float32(127) / amax)[:, None])).all()
    assert (out["sum"] == out["q"].astype(int).sum(1)).all()
    assert (out["half_sum"] == out["q"].astype(int).reshape(-1, 2, 16).sum(2)).all()
    assert (out["s"] == out["d"] * out["sum"].astype(np.float32)).all()


@pytest.mark.parametrize("name", ROWS16)
def test_quantize16_is_within_a_step_of_32512(name):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((64, BLOCK)).astype(np.float32)
    out = run(name, x)
    amax = np.abs(x).max(1)
    v = 256 * out["hi"].astype(int) + out["lo"]
    nearest = np.rint(x * (np.float32(32512) / amax)[:, None])
    assert (out["d"] == amax / np.float32(32512)).all()
    assert np.abs(out["lo"].astype(int)).max() <= 127
    assert (np.abs(out["hi"].astype(int)).max(1) == 127).all()
    assert (v == np.where(nearest % 256 == 128, nearest + 1, nearest)).all()
    assert (nearest % 256 == 128).any(), "no value tried the pair that does not exist"
    assert (out["sum"] == v.sum(1)).all()
    for i, plane in enumerate(("hi", "lo")):
        halves = out[plane].astype(int).reshape(-1, 2, 16).sum(2)
        assert (out["half_sum"][:, i] == halves).all()
    assert (out["s"] == out["d"] * out["sum"].astype(np.float32)).all()


@pytest.mark.parametrize("name", ROWS8)
def test_ties_go_to_the_even_step(name):
    x = block(127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5)
    assert run(name, x)["q"][0][:8].tolist() == [127, 0, 2, 2, 0, -2, -2, 126]


@pytest.mark.parametrize("name", ROWS8 + ROWS16)
def test_a_block_of_zeros_has_no_scale(name):
    out = run(name, [block(), block(-0.0)])
    assert (out["d"] == 0).all()
    assert (out["s"] == 0).all()
    assert (out["sum"] == 0).all()


@pytest.mark.parametrize("name", ROWS8 + ROWS16)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 9, 31])
def test_what_is_not_finite_makes_the_scale_nan(name, bad, at):
    x = np.linspace(-1, 1, BLOCK, dtype=np.float32)
    x[at] = bad
    out = run(name, [x, block(1)])
    assert np.isnan(out["d"][0])
    assert np.isnan(out["s"][0])
    assert out["sum"][0] == 0
    for plane in ("q",) if out.dtype == Q8 else ("hi", "lo"):
        assert (out[plane][0] == 0).all()
    assert out["d"][1] > 0, "its neighbour is not touched"


@pytest.mark.parametrize("name", ROWS8 + ROWS16)
def test_the_smallest_and_largest_floats(name):
    largest = np.finfo(np.float32).max
    out = run(name, [block(TINY, -TINY), block(largest, -largest, TINY)])
    top = "q" if out.dtype == Q8 else "hi"
    assert out[top][:, 0].tolist() == [127, 127]
    assert out[top][:, 1].tolist() == [-127, -127]
    assert (out["d"] >= 2.0**-79).all(), "the precondition of every gemv"
    assert np.isfinite(out["d"]).all()


@pytest.mark.parametrize("name", ROWS8 + ROWS16)
def test_every_row_equals_the_reference(name):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((999, BLOCK)).astype(np.float32) * np.float32(2.0) ** rng.integers(
        -38, 120, (999, 1)
    ).astype(np.float32)
    x[np.abs(x) < TINY] = 0
    assert run(name, x).tobytes() == run(ref_of(name), x).tobytes()
