"""`model.embed`: the mean of the hidden states, of length 1, the same bits everywhere."""

import numpy as np
import pytest

import nybble
from nybble._core.sequence import Engine, Sequence
from nybble.errors import BusyError, ContextError, NumericError, UsageError
from tools import make_family_goldens as maker
from tools import oracle
from tools.tiny_model import tiny_model

from .models import POISON, edited, with_poison

TEXT = "the cat and the hen went on in the rain. " * 6
FLOATS = dict.fromkeys(("embed", "attention", "mlp", "head"), "F32")
SHAPES = {
    "llama": {"heads": 6, "kv_heads": 2},
    "qwen2": {"dim": 64, "heads": 4, "tied": False},
    "qwen3": {"heads": 4, "kv_heads": 2, "head_dim": 48},
    "gemma3": {"heads": 4, "head_dim": 48, "window": 40, "layers": 4},
}


@pytest.fixture(scope="module", params=SHAPES)
def path(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    tiny_model(path, family=request.param, formats=FLOATS, seed=4, **SHAPES[request.param])
    return path


def mean(hidden):
    total = hidden.sum(axis=0)
    return total / np.linalg.norm(total)


def test_it_is_the_mean_of_the_last_hidden_states(path):
    """Keys and values are halves here and there; what else differs is the order of float32's sums:
    2^-24 of a hidden state's size of 1 in some hundred terms, less in the mean."""
    model = nybble.load(path)
    ids = model.tokenize(TEXT)
    truth = mean(oracle.hidden(oracle.Model(path, np.float64), ids, "f16"))
    got = np.asarray(model.embed(TEXT))
    assert np.abs(got - truth).max() < 2e-5
    assert np.abs(got - truth).max() > 0
    other = mean(oracle.hidden(oracle.Model(path, np.float64), ids[:-1], "f16"))
    assert np.abs(other - truth).max() > 1e-4, "one token more or less can be told"


@pytest.mark.parametrize("name", maker.CASES)
def test_the_head_of_a_hidden_state_gives_the_logits(name, tmp_path):
    """Whose logits are transformers', by the goldens: so are the hidden states."""
    path = tmp_path / "tiny.gguf"
    maker.make_tiny(path, name, 3)
    model, reference = nybble.load(path), oracle.Model(path)
    sequence = Sequence(Engine(model.weights, 256, chunk=16))
    ids = [5, 99, 300, 7, 64, 2, 1, 258, 17] * 4
    for i, id in enumerate(ids):
        sums = np.zeros(model.dim)
        sequence.hidden_sums([id], sums)
        if i % 7 == 0:
            logits = reference.rows(reference.head, 0, model.vocab) @ sums.astype(np.float32)
            got = np.asarray(model.logits(ids[: i + 1]))
            # float32 sums of `dim` terms, some hundred; logits spread by 3
            assert np.abs(logits - got).max() < 2e-5


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("chunk", [1, 7, 128])
def test_it_depends_neither_on_threads_nor_on_chunks(path, threads, chunk):
    model = nybble.load(path)
    ids = model.tokenize(TEXT)
    expected, sums = np.zeros(model.dim), np.zeros(model.dim)
    Sequence(model.engine).hidden_sums(ids, expected)
    Sequence(Engine(model.weights, 512, threads=threads, chunk=chunk)).hidden_sums(ids, sums)
    assert sums.tobytes() == expected.tobytes()
    assert expected.any()


def test_it_is_a_buffer_of_length_one(path):
    model = nybble.load(path)
    got = model.embed("the cat")
    assert (got.format, got.shape, got.nbytes) == ("f", (model.dim,), 4 * model.dim)
    array = np.asarray(got)
    assert array.dtype == np.float32
    assert array.__array_interface__["data"][0] == np.asarray(got).__array_interface__["data"][0]
    assert abs(np.linalg.norm(array.astype(np.float64)) - 1) < 1e-6
    assert model.embed("the cat").tobytes() == got.tobytes()
    assert model.embed("the dog").tobytes() != got.tobytes()


def test_replies_go_on_as_before(path):
    model = nybble.load(path)
    expected = model.complete("the cat", max_tokens=20, ignore_eos=True).text
    model.embed("something else")
    assert model.complete("the cat", max_tokens=20, ignore_eos=True).text == expected
    two = nybble.load(path, sequences=2)
    reply = two.complete("the cat", max_tokens=20, ignore_eos=True)
    pieces = [next(iter(reply))]
    vector = two.embed("the cat").tobytes()
    assert reply.text == expected
    assert pieces
    assert vector == model.embed("the cat").tobytes()


def test_logits_are_without_a_copy_too(path):
    model = nybble.load(path)
    for all in (False, True):
        view = model.logits([5, 6, 7], all=all)
        array = np.asarray(view)
        array[...] = 1
        assert set(view.tolist() if not all else view.tolist()[0]) == {1.0}


def test_special_tokens_are_the_files(path, tmp_path):
    plain = nybble.load(path)
    ends = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    model = nybble.load(edited(path, tmp_path / "ends.gguf", ends))
    sums = np.zeros(model.dim)
    Sequence(model.engine).hidden_sums([1, *plain.tokenize("the cat"), 2], sums)
    assert np.allclose(model.embed("the cat"), sums / np.linalg.norm(sums), atol=1e-7)


def test_what_it_refuses(path):
    model = nybble.load(path, context=64)
    for bad in (None, 5, b"the", ["the"], "", "\udc80"):
        with pytest.raises(UsageError, match=r"^embed\(\)"):
            model.embed(bad)
    with pytest.raises(ContextError, match="the text has 65 tokens and the context holds 64;"):
        model.embed("x" * 65)
    assert model.embed("x" * 64)
    reply = model.complete("the cat", max_tokens=5, ignore_eos=True)
    next(iter(reply))
    with pytest.raises(BusyError):
        model.embed("the cat")


def test_nan_is_an_error(tmp_path):
    model = nybble.load(with_poison(tmp_path))
    before = model.embed("the cat").tobytes()
    with pytest.raises(NumericError, match="element 0 of a hidden state is not a number"):
        model.embed(f"the {POISON} cat")
    assert model.embed("the cat").tobytes() == before
