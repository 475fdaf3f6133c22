"""The same bits, however a prompt is fed and whoever computes it; and near float32's logits."""

import numpy as np
import pytest

import nybble
from nybble import errors
from nybble._core import native
from nybble._core.sequence import Engine, Sequence
from tools import fidelity, oracle
from tools.tiny_model import tiny_model

from .models import feed, fidelity_golden

Q4_1 = dict.fromkeys(("embed", "attention", "mlp", "head"), "Q4_1")
Q8_0 = dict.fromkeys(Q4_1, "Q8_0")
SHAPES = {  # head_dim is dim / heads, query heads of a KV head are heads / kv_heads
    "mha 16": {"dim": 64, "heads": 4, "kv_heads": 4, "hidden": 96, "formats": Q4_1},
    "gqa2 32": {"dim": 128, "heads": 4, "kv_heads": 2, "vocab": 259, "tied": False},
    "gqa3 32": {"dim": 96, "heads": 3, "kv_heads": 1, "layers": 3, "formats": Q8_0},
    "gqa5 64": {"dim": 320, "heads": 5, "kv_heads": 1, "hidden": 288, "vocab": 333},
    "gqa2 80": {"dim": 320, "heads": 4, "kv_heads": 2, "tied": False, "formats": Q4_1},
    "scaled": {"dim": 64, "heads": 2, "rope_factor": 2, "rope_factors": [1, 1.5, 2, 8] * 4},
    "granite": {"family": "granite", "dim": 64, "heads": 4, "kv_heads": 2, "layers": 3},
    "smollm3": {"family": "smollm3", "dim": 64, "heads": 4, "kv_heads": 2, "layers": 5},
    "qwen2": {"family": "qwen2", "dim": 128, "heads": 4, "kv_heads": 2, "tied": False},
    "qwen3": {"family": "qwen3", "heads": 4, "kv_heads": 2, "head_dim": 48, "formats": Q8_0},
    # so many heads that each thread joins the parts of some, from the first page on
    "32 heads": {"family": "qwen3", "dim": 64, "heads": 32, "kv_heads": 2, "head_dim": 128},
    "gemma3": {"family": "gemma3", "heads": 4, "head_dim": 48, "window": 40, "layers": 4},
}
CONTEXT = 512
MIXED = {"embed": "BF16", "attention": "F16", "mlp": "Q6_K", "head": "F32"}
FORMATS = {**{f: dict.fromkeys(Q4_1, f) for f in native.formats()}, "mixed": MIXED}
LENGTHS = (1, 127, 128, 129, 300)  # about the ends of pages of 128


def prompt(seed, vocab=259):
    return np.random.default_rng(seed).integers(3, vocab, max(LENGTHS)).tolist()


@pytest.fixture(scope="module", params=SHAPES)
def tiny(request, tmp_path_factory):
    """(path, packed weights, a prompt, the logits of all its tokens fed one by one)."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    tiny_model(path, seed=5, context=CONTEXT, **SHAPES[request.param])
    weights, ids = nybble.load(path).weights, prompt(1)
    return path, weights, ids, all_logits(weights, ids, chunk=1)


def new_sequence(weights, **engine):
    return Sequence(Engine(weights, CONTEXT, **engine))


def all_logits(weights, ids, **engine):
    sequence = new_sequence(weights, **engine)
    out = np.empty((len(ids), sequence.vocab), np.float32)
    sequence.logits_of(ids, out)
    return out


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("chunk", [1, 5, 16, 128])
def test_logits_depend_neither_on_threads_nor_on_chunks(tiny, threads, chunk):
    _, weights, ids, expected = tiny
    got = all_logits(weights, ids, threads=threads, chunk=chunk)
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("piece", [1, 7, 50, 128], ids="{} at once".format)
@pytest.mark.parametrize("length", LENGTHS)
def test_a_prompt_may_come_in_pieces(tiny, length, piece, threads):
    _, weights, ids, expected = tiny
    got = feed(new_sequence(weights, threads=threads), ids[:length], piece)
    assert got.tobytes() == expected[length - 1].tobytes()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kept", [0, 1, 100, 127, 128, 129, 200])
def test_a_cached_prefix_changes_nothing(tiny, kept, length):
    """The cache holds another text, longer or shorter, which begins like this one."""
    _, weights, ids, expected = tiny
    sequence = new_sequence(weights)
    feed(sequence, ids[:kept] + prompt(2)[: 290 - kept])
    # another text may go on alike for a token or two, and a window may have let go of it
    reused = sequence.reuse(ids[:length])
    assert reused == 0 or min(kept, length - 1) <= reused <= min(kept + 2, length - 1)
    assert feed(sequence, ids[:length]).tobytes() == expected[length - 1].tobytes()


@pytest.fixture(params=native.levels())
def level(request, monkeypatch):
    """Every level of this build, forced; those that this CPU lacks are skipped."""
    monkeypatch.setenv("NYBBLE_ISA", request.param)
    try:
        native.cpu_bits()
    except errors.CpuError:
        pytest.skip(f"{request.param} needs another CPU")
    return request.param


def test_every_level_of_this_cpu_gives_the_same_bits(tiny, level):
    _, weights, ids, expected = tiny
    assert all_logits(weights, ids).tobytes() == expected.tobytes()
    assert all_logits(weights, ids, chunk=1).tobytes() == expected.tobytes()


@pytest.mark.parametrize("kv", ["v8", "int8"])
def test_keys_and_values_of_fewer_bits_keep_all_of_that(tiny, kv, level):
    _, weights, ids, of_halves = tiny
    expected = all_logits(weights, ids, chunk=1, kv=kv)
    assert expected.tobytes() != of_halves.tobytes()
    for threads, chunk in ((1, 128), (3, 7)):
        got = all_logits(weights, ids, threads=threads, chunk=chunk, kv=kv)
        assert got.tobytes() == expected.tobytes(), f"{threads} threads, chunks of {chunk}"
    sequence = new_sequence(weights, threads=2, kv=kv)
    feed(sequence, ids[:129] + prompt(2)[:100])
    sequence.reuse(ids[:200])
    assert feed(sequence, ids[:200], 50).tobytes() == expected[199].tobytes()


@pytest.mark.parametrize("kv", ["f16", "v8", "int8"])
def test_keys_and_values_are_stored_as_float32s_oracle_stores_them(tmp_path, kv):
    """Of a model whose weights are floats nothing else is rounded to few bits. Sums in another
    order are 2^-20 off, so of int8 one number in 2^20 / 127 may be rounded to the neighbour: an
    error like the others', of so few that it is below a fiftieth of what the type costs."""
    floats = dict.fromkeys(Q4_1, "F32")
    tiny_model(tmp_path / "tiny.gguf", seed=9, family="qwen3", heads=4, head_dim=48, formats=floats)
    ids = prompt(4)[:150]
    weights = nybble.load(tmp_path / "tiny.gguf").weights
    log_q = fidelity.log_softmax(all_logits(weights, ids, kv=kv))
    kl = {}
    for stored in ("f32", kv):
        log_p = fidelity.log_softmax(oracle.logits(tmp_path / "tiny.gguf", ids, kv=stored))
        kl[stored] = (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()
    assert kl[kv] < 0.02 * kl["f32"], kl


@pytest.fixture(scope="module", params=FORMATS)
def of_format(request, tmp_path_factory):
    """(name, path, packed weights, a prompt, its logits by the plain C kernels, one by one)."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    shape = {"dim": 256, "heads": 4, "kv_heads": 2, "hidden": 256, "tied": False}
    tiny_model(path, seed=7, context=CONTEXT, formats=FORMATS[request.param], **shape)
    weights, ids = nybble.load(path).weights, prompt(3)[:70]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NYBBLE_ISA", "ref")
        expected = all_logits(weights, ids, chunk=1)
    return request.param, path, weights, ids, expected


def test_a_format_gives_the_same_bits_everywhere(of_format, level):
    _, _, weights, ids, expected = of_format
    for threads, chunk in ((1, 1), (1, 16), (2, 7), (3, 128), (5, 1)):
        got = all_logits(weights, ids, threads=threads, chunk=chunk)
        assert got.tobytes() == expected.tobytes(), f"{level}, {threads} threads, chunks of {chunk}"


def test_a_formats_logits_are_near_float32(of_format):
    """As below for two layers. Where nothing is quantized on the way, only the order of sums
    differs: a relative error of 256 * 2^-24 at most in each of some ten sums, 2e-4 of a logit's
    spread of 3, and half of that squared is the divergence: 2e-7."""
    name, path, _, ids, expected = of_format
    truth = oracle.logits(path, ids, kv="f16")
    log_p, log_q = fidelity.log_softmax(truth), fidelity.log_softmax(expected)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()
    assert kl < (2e-7 if name in ("F32", "F16", "BF16") else 0.01), f"mean KL {kl:.3g}"


def test_logits_are_near_float32(tiny):
    """Activations in int8 are what differs. A block's step is amax / 127, about 2.1 standard
    deviations / 127, so rounding to it makes an error of 2.1 / 127 / sqrt(12) = 0.005 of a typical
    value. A layer does so four times, up to 3 layers add up as squares, and a softmax of q at twice
    the spread and a gate may double it: 0.005 * sqrt(12) * 2 = 0.035 of a logit, whose spread is 3:
    an error of 0.1. Small errors e make a KL divergence of half their variance, 0.005; positions
    are unlike, so their mean may be twice that."""
    path, _, ids, expected = tiny
    truth = oracle.logits(path, ids, kv="f16")
    log_p, log_q = fidelity.log_softmax(truth), fidelity.log_softmax(expected)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()
    assert kl < 0.01, f"mean KL {kl:.6f}"
    assert kl > 1e-9, "equal to float32: the oracle measured itself"


def test_threads_do_not_change_the_real_models_text(smollm2_path):
    golden = fidelity_golden("smollm2-135m")
    one, three = (nybble.load(smollm2_path, threads=n) for n in (1, 3))
    text = one.detokenize(golden.tokens[:140])
    expected = one.complete(text, max_tokens=24).text
    assert three.complete(text, max_tokens=24).text == expected
    assert len(expected) > 24  # words, and not a token again and again
    assert one.logits(golden.tokens[:140]).tobytes() == three.logits(golden.tokens[:140]).tobytes()
