"""Each family against transformers: the goldens of tools/make_family_goldens.py."""

from pathlib import Path

import numpy as np
import pytest

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
