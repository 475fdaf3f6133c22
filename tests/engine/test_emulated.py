"""A model's program, dumped here, makes the same logits on CPUs of boards."""

import pytest

import nybble
from tests import emulated
from tools import replay
from tools.replay.__main__ import TEXT

TOKENS, ROWS = 40, 8  # a prompt, then a token at a time


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    emulated.need_tools()
    out = tmp_path_factory.mktemp("aarch64") / "replay"
    replay.build(out, emulated.COMMAND)
    return out


@pytest.fixture(scope="module")
def dumped(smollm2_path, tmp_path_factory):
    model = nybble.load(smollm2_path)
    out = tmp_path_factory.mktemp("smollm2") / "dumped"
    replay.dump(model.weights, model.tokenize(TEXT)[:TOKENS], ROWS, out)
    return out


@pytest.mark.parametrize("cpu", ["cortex-a53", "cortex-a72", "cortex-a76", "max"])
def test_a_real_model_has_the_same_logits_on_boards(cpu, program, dumped):
    level = emulated.LEVELS[cpu][-1]
    done = emulated.run(cpu, program, dumped, 2, level)
    assert (done.stdout, done.stderr) == (f"equal: 0 of {ROWS * 49152} logits differ\n", "")


def test_a_level_that_the_cpu_lacks_is_refused(program, dumped):
    done = emulated.run("cortex-a72", program, dumped, 1, "dotprod")
    assert done.stderr == "replay: no such level, or this CPU lacks it\n"
    assert done.returncode == 2
