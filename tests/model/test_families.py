"""Each family against transformers: the goldens of tools/make_family_goldens.py."""

from pathlib import Path

import numpy as np
import pytest

import nybble
from nybble._core.sequence import Engine, Sequence
from tools import make_family_goldens as maker
from tools import oracle

GOLDEN = Path(__file__).parents[1] / "golden/families.npz"


@pytest.fixture(scope="module", params=maker.CASES)
def golden(request, tmp_path_factory):
    """(path of a float32 model, its prompt, transformers' logits and reply)."""
    name, path = request.param, tmp_path_factory.mktemp("family") / "tiny.gguf"
    with np.load(GOLDEN) as file:
        seed, prompt, logits, reply = (
            file[f"{name}.{key}"] for key in ("seed", "prompt", "logits", "reply")
        )
    maker.make_tiny(path, name, int(seed))
    return path, prompt.tolist(), logits, reply.tolist()


def test_the_oracle_computes_what_transformers_does(golden):
    path, prompt, logits, _ = golden
    truth = oracle.logits(path, prompt, dtype=np.float64)[:: maker.STRIDE]
    # float32's 2^-24 in sums of some hundred terms of size 3, through four layers
    assert np.abs(truth - logits).max() < 1e-4
    assert logits.std() > 2, "a flat row of logits would not show a mistake"


def test_float32_logits_are_off_by_the_rounding_of_keys_and_values(golden):
    path, prompt, logits, _ = golden
    got = np.asarray(nybble.load(path).logits(prompt, all=True))[:: maker.STRIDE]
    off = np.abs(got - logits).max()
    assert off < maker.BOUND
    assert off > 1e-4, "K and V are halves: this cannot be nybble"


def test_halves_explain_what_float32_logits_are_off_by(golden):
    """Keys near the middle of two halves may be rounded to another one than in float64, and all
    that follows from them. They are few: most of the difference is the same."""
    path, prompt, _, _ = golden
    got = np.asarray(nybble.load(path).logits(prompt, all=True))
    exact, halves = (oracle.logits(path, prompt, dtype=np.float64, kv=kv) for kv in ("f32", "f16"))
    assert (got - halves).std() < (got - exact).std() / 2


@pytest.mark.parametrize("threads", [1, 2])
def test_float32_replies_are_transformers(golden, threads):
    path, prompt, _, reply = golden
    weights = nybble.load(path).weights
    sequence = Sequence(Engine(weights, maker.CONTEXT, threads=threads, chunk=64))
    logits, ids = np.empty(sequence.vocab, np.float32), list(prompt)
    while len(ids) < len(prompt) + len(reply):
        done = len(sequence.ids)
        sequence.feed(ids[done : done + sequence.next_chunk(len(ids) - done)], logits)
        if len(sequence.ids) == len(ids):
            ids.append(int(logits.argmax()))
    assert len(reply) == 64
    assert ids[len(prompt) :] == reply
