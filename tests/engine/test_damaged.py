"""A model whose numbers overflow says so, and is usable afterwards."""

import numpy as np
import pytest

import nybble
from nybble._core.sequence import Sequence
from nybble.errors import NumericError
from nybble.formats.gguf import GgufFile
from tools.tiny_model import tiny_model


def damaged_model(folder, tensor, **numbers):
    """A tiny model one of whose norms multiplies by the largest float."""
    path = folder / "tiny.gguf"
    tiny_model(path, **numbers)
    with GgufFile(str(path)) as file:
        at, nbytes = file.tensors[tensor].offset, file.tensors[tensor].nbytes
    with path.open("r+b") as file:
        file.seek(at)
        file.write(np.full(nbytes // 4, np.finfo(np.float32).max, np.float32).tobytes())
    return nybble.load(path)


@pytest.mark.parametrize("tensor", ["output_norm.weight", "blk.1.ffn_norm.weight"])
@pytest.mark.parametrize("read", [
    lambda model: model.logits([5, 6, 7]),
    lambda model: model.logits([5, 6, 7], all=True),
    lambda model: model.complete("a").text,
    lambda model: model.complete("a", temperature=1, top_k=9).text,
])  # fmt: skip
def test_nan_is_an_error(tmp_path, tensor, read):
    model = damaged_model(tmp_path, tensor)
    for _ in range(2):  # the first leaves the sequence free
        with pytest.raises(NumericError, match="is not a number"):
            read(model)


@pytest.mark.parametrize("family", ["llama", "gemma3"])  # pages, and a ring too
def test_pages_that_saw_nan_are_cleared(tmp_path, family):
    model = damaged_model(tmp_path, "blk.0.attn_norm.weight", family=family)
    sequence = Sequence(model.engine)
    sequence.feed([5, 6])
    kv = np.frombuffer(sequence.engine.kv.view(), np.float16)
    assert np.isnan(kv).any()
    with pytest.raises(NumericError):
        sequence.feed([7], np.zeros(model.vocab, np.float32))
    assert not kv.any()
    assert sequence.ids == []
