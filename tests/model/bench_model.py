"""How fast the real model reads a prompt and speaks. `make bench` runs it; `nybble bench` gives
medians of more runs. extra_info has tokens a second, bytes of weights and GB/s, CPU and compiler.
"""

import numpy as np
import pytest

import nybble
from nybble import machine
from nybble._core import native
from nybble._core.sampler import Sampler
from nybble._core.sequence import Sequence

from .models import fidelity_golden

PROMPT = 512  # of the golden file's tokens: real text
DECODED = 16  # tokens a round


@pytest.fixture(
    scope="module", params=sorted({1, machine.default_threads()}), ids="{} threads".format
)
def model(request, smollm2_path):
    return nybble.load(smollm2_path, threads=request.param)


@pytest.fixture(scope="module")
def ids():
    return fidelity_golden("smollm2-135m").tokens[:PROMPT].tolist()


def tell(benchmark, model, tokens, nbytes):
    info = benchmark.extra_info
    info.update(cpu=machine.cpu_name(), compiler=native.compiler(), threads=model.threads)
    info["nbytes"] = nbytes
    if benchmark.stats is not None:
        seconds = benchmark.stats.stats.median
        info["tok_s"], info["gb_s"] = tokens / seconds, nbytes / seconds / 1e9


def test_prefill(benchmark, model, ids):
    sequence = Sequence(model.engine)
    out = np.empty(model.vocab, np.float32)

    def prefill():
        sequence.rewind(0)
        while len(sequence.ids) < PROMPT:
            at = len(sequence.ids)
            end = at + sequence.next_chunk(PROMPT - at)
            sequence.feed(ids[at:end], out if end == PROMPT else None)

    benchmark.pedantic(prefill, rounds=5, warmup_rounds=1)
    chunks = -(-PROMPT // model.engine.chunk)
    tell(benchmark, model, PROMPT, chunks * model.weights.program.read_bytes)


def test_decode(benchmark, model, ids):
    """The same tokens again and again, after a prompt of one page."""
    sequence = Sequence(model.engine)
    sequence.feed(ids[:128])
    sampler = Sampler()

    def decode():
        sequence.rewind(128)
        for id in ids[128 : 128 + DECODED]:
            sampler.next(sequence, [id], 0)

    benchmark.pedantic(decode, rounds=9, warmup_rounds=1)
    tell(benchmark, model, DECODED, DECODED * model.weights.program.read_bytes)
