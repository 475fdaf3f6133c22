"""Golden files hold what they claim: distributions in order, figures of the same positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tools import fidelity

ROOT = Path(__file__).parents[2]
VOCABS = {"smollm2-135m": 49152, "gemma3-270m": 262144, "qwen2.5-coder-0.5b": 151936}
MAX_BYTES = 600_000  # git keeps every version of a file


@pytest.fixture(scope="module", params=VOCABS, name="name")
def fixture_name(request):
    return request.param


@pytest.fixture(scope="module", name="vocab")
def fixture_vocab(name):
    return VOCABS[name]


@pytest.fixture(scope="module", name="path")
def fixture_path(name):
    return ROOT / "tests" / "golden" / f"{name}-fidelity.npz"


@pytest.fixture(scope="module", name="golden")
def fixture_golden(path):
    return fidelity.load_golden(path)


def test_golden_file_is_small_and_names_its_maker(golden, path):
    assert path.stat().st_size < MAX_BYTES
    assert (ROOT / golden.about["made_by"]).is_file()
    assert len(bytes.fromhex(golden.about["model_sha256"])) == 32
    assert len(golden.about["texts"]) == len(golden.about["texts_sha256"]) == len(golden.starts)
    assert all(len(bytes.fromhex(digest)) == 32 for digest in golden.about["texts_sha256"])
    assert golden.about["llama_cpp"]["llama_cpp_python"]
    assert golden.about["float32"]["numpy"]
    assert golden.about["cpu"]


def test_golden_arrays_have_one_row_a_position(golden, vocab):
    count = len(golden.tokens)
    assert count >= 500
    assert golden.tokens.shape == (count,)
    assert golden.starts[0] == 0
    assert {len(ids) for ids in golden.texts()} == {count // len(golden.starts)}
    assert golden.reference.ids.shape == (count, fidelity.TOP)
    assert golden.reference.log_p.shape == (count, fidelity.TOP)
    assert golden.reference.log_tail.shape == (count,)
    assert golden.llama_cpp_kl.shape == (count,)
    assert golden.llama_cpp_argmax.shape == (count,)
    for ids in (golden.tokens, golden.reference.ids, golden.llama_cpp_argmax):
        assert ids.max() < vocab


def test_golden_ids_are_the_likeliest_first(golden, vocab):
    ids, log_p, log_tail = golden.reference
    assert (np.diff(log_p, axis=1) <= 0).all()
    assert all(len(set(row)) == fidelity.TOP for row in ids.tolist())
    # The mean of the rest cannot be above the least that is kept.
    assert (log_tail - np.log(vocab - fidelity.TOP) <= log_p[:, -1]).all()


def test_golden_probabilities_and_tail_sum_to_one(golden, vocab):
    _, log_p, log_tail = golden.reference
    total = np.exp(log_p.astype(np.float64)).sum(axis=1) + np.exp(log_tail.astype(np.float64))
    # A logarithm near -x is kept with an error of x * 2^-24, and weighted by exp(-x) their sum
    # is at most log(vocab) * 2^-24 a position.
    np.testing.assert_allclose(total, 1, rtol=0, atol=np.log(vocab) * 2.0**-24)


def test_golden_distributions_belong_to_the_text(golden):
    """A shift by one position, or another text's ids, would not predict the next id so well."""
    following = golden.tokens[1:, None] == golden.reference.ids[:-1]
    following = np.delete(following, golden.starts[1:] - 1, axis=0)  # a text's last has no next
    assert following[:, 0].mean() > 0.3
    assert following.any(axis=1).mean() > 0.8


def test_golden_llama_cpp_figures_are_those_of_a_quantized_run(golden):
    ids, log_p, _ = golden.reference
    assert (golden.llama_cpp_kl > -1e-6).all()
    assert 0.0005 < golden.llama_cpp_kl.mean() < 0.01
    assert 0.9 < np.mean(ids[:, 0] == golden.llama_cpp_argmax) < 1
    # By Pinsker's inequality no probability is off by more than sqrt(KL / 2), so llama.cpp's
    # choice is at most twice that below float32's.
    for t, choice in enumerate(golden.llama_cpp_argmax):
        p = np.exp(log_p[t, ids[t] == choice])
        assert p.size == 1, f"llama.cpp's choice at {t} is not among float32's {fidelity.TOP}"
        gap = np.exp(log_p[t, 0]) - p[0]
        assert gap <= 2 * np.sqrt(max(golden.llama_cpp_kl[t], 0) / 2) + 1e-6
