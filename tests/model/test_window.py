"""Layers that see a window: the ring they keep it in, and how far back a sequence can go."""

import ctypes

import numpy as np
import pytest

import nybble
from nybble._core.sequence import Engine, Sequence
from tools.tiny_model import tiny_model

from .models import feed

CONTEXT, PAGE, TOKENS = 1024, 128, 700
# (window, chunk): rings of one page and of several, with a place that two pages share and without
RINGS = [(1, 1), (127, 1), (24, 16), (100, 28), (128, 64), (130, 128), (200, 16)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(window -> packed weights, a prompt, window -> its logits, from an engine without a ring:
    one whose chunk makes it as long as the context)."""
    folder, weights, expected = tmp_path_factory.mktemp("window"), {}, {}
    ids = np.random.default_rng(3).integers(3, 259, TOKENS).tolist()
    for window, _ in RINGS:
        path = folder / f"{window}.gguf"
        tiny_model(
            path, family="gemma3", heads=2, head_dim=32, window=window, context=CONTEXT, seed=window
        )
        weights[window] = nybble.load(path).weights
        whole = Engine(weights[window], CONTEXT, chunk=CONTEXT)
        assert whole.kv.nbytes == 2 * per_layer(CONTEXT)
        out = np.empty((TOKENS, 323), np.float32)
        Sequence(whole).logits_of(ids, out)
        expected[window] = out
    return weights, ids, expected


def per_layer(positions):
    return 2 * 32 * 2 * positions


def ring_of(window, chunk):
    """Positions: those seen and the batch, or the tile in which the newest one is."""
    return -(-(window + max(chunk, 8)) // PAGE) * PAGE


@pytest.mark.parametrize(("window", "chunk"), RINGS)
def test_the_cache_of_a_window_is_a_ring(model, window, chunk):
    engine = Engine(model[0][window], CONTEXT, chunk=chunk)
    ring = ring_of(window, chunk)
    assert engine.kv.nbytes == per_layer(ring) + per_layer(CONTEXT)
    two = Engine(model[0][window], CONTEXT, chunk=chunk, sequences=2)
    assert two.kv.nbytes == 2 * engine.kv.nbytes


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("window", "chunk"), RINGS)
def test_a_ring_changes_no_bit(model, window, chunk, threads):
    weights, ids, expected = model
    sequence = Sequence(Engine(weights[window], CONTEXT, chunk=chunk, threads=threads))
    out = np.empty((TOKENS, sequence.vocab), np.float32)
    sequence.logits_of(ids, out)
    assert out.tobytes() == expected[window].tobytes()


@pytest.mark.parametrize(("window", "chunk"), RINGS)
def test_a_prompt_in_uneven_pieces_gives_the_same_bits(model, window, chunk):
    weights, ids, expected = model
    sequence = Sequence(Engine(weights[window], CONTEXT, chunk=chunk))
    for end in (1, 5, 130, 131, 257, 300, 384, 555, TOKENS):
        assert feed(sequence, ids[:end], 50).tobytes() == expected[window][end - 1].tobytes()


@pytest.mark.parametrize(("window", "chunk"), RINGS)
def test_a_rewind_keeps_what_the_ring_still_has_and_begins_again_otherwise(model, window, chunk):
    weights, ids, expected = model
    ring = ring_of(window, chunk)
    for written in (100, 128, 300, 650):
        # the next token sees `window` - 1 positions before it, which must be among the last `ring`
        furthest = max(written - ring + window - 1, 0)
        for kept in {0, 1, furthest - 1, furthest, furthest + 1, written - 1}:
            if not 0 <= kept < written:
                continue
            sequence = Sequence(Engine(weights[window], CONTEXT, chunk=chunk))
            other = [(i + 1) % 250 + 3 for i in ids[kept:written]]
            feed(sequence, ids[:kept] + other, CONTEXT)
            can = kept >= furthest or written <= ring
            assert sequence.reuse(ids[: kept + 1]) == (kept if can else 0)
            got = feed(sequence, ids[: kept + 1], CONTEXT)
            assert got.tobytes() == expected[window][kept].tobytes(), (written, kept)


def test_rewinds_add_up(model):
    """What a ring has overwritten stays lost, however short the sequence has become since."""
    weights, ids, expected = model
    sequence = Sequence(Engine(weights[24], CONTEXT, chunk=16))  # a ring of 128
    feed(sequence, ids[:300], CONTEXT)
    assert sequence.rewind(200) == 200
    assert sequence.rewind(194) == 0
    assert sequence.ids == []
    feed(sequence, ids[:150], CONTEXT)
    assert sequence.rewind(100) == 100, "the count began anew"
    assert feed(sequence, ids[:120], CONTEXT).tobytes() == expected[24][119].tobytes()


def test_sequences_have_rings_of_their_own(model):
    weights, ids, expected = model
    engine = Engine(weights[24], CONTEXT, chunk=16, sequences=3)
    sequences = [Sequence(engine, slot) for slot in range(3)]
    for end in (100, 260, 300):
        for i, sequence in enumerate(sequences):
            own = ids[: end + i]
            assert feed(sequence, own, 16).tobytes() == expected[24][end + i - 1].tobytes()


def test_pages_outside_the_window_are_not_read(model):
    weights, ids, expected = model
    engine = Engine(weights[100], CONTEXT, chunk=CONTEXT // 2)
    ring = 612 // PAGE + 1
    sequence = Sequence(engine)
    feed(sequence, ids[:500], CONTEXT)  # the next token sees 401..500, in page 3
    kv = np.frombuffer(engine.kv.view(), np.uint8)[: per_layer(ring * PAGE)]  # the first layer's
    pages = kv.reshape(ring, -1)
    assert pages[3].any()
    for page in (0, 1, 2, 4):
        ctypes.memset(pages[page].ctypes.data, 0xFF, pages[page].nbytes)  # NaN
    for end in (501, 510):  # one token, and several
        assert feed(sequence, ids[:end], CONTEXT).tobytes() == expected[100][end - 1].tobytes()
