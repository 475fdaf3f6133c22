"""Models' programs, dumped here, make the same logits on CPUs of boards."""

import pytest

import nybble
from tests import emulated
from tools import replay
from tools.aarch64 import COMPILER
from tools.replay.__main__ import TEXT

STEPS = 3  # of one token, behind a prompt
EXTREMES = ("cortex-a53", "max")  # the CPUs that have the least and the most
# Tokens of a prompt, and the CPUs to try it on: few, for an emulator is slow. Each prompt is more
# than gemm takes at once, and no multiple of it.
TRIED = {
    "smollm2_path": (21, ("cortex-a53", "cortex-a76", "max")),  # a CPU for each level
    "gemma3_path": (5, EXTREMES),
    "qwen_coder_path": (5, EXTREMES),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory, objects):
    emulated.need_tools()
    out = tmp_path_factory.mktemp("aarch64") / "replay"
    replay.build(out, COMPILER, objects)
    return out


@pytest.fixture(scope="module")
def dumped(request, tmp_path_factory):
    """A model with its logits behind the prompt and behind each step, how many those are, and the
    CPUs to try it on."""
    prompt, cpus = TRIED[request.param]
    model = nybble.load(request.getfixturevalue(request.param))
    ids = model.tokenize(TEXT)[: prompt + STEPS]
    assert len(ids) == prompt + STEPS
    out = tmp_path_factory.mktemp("model") / "dumped"
    replay.dump(model.weights, ids, STEPS + 1, out)
    yield out, (STEPS + 1) * model.weights.program.vocab, cpus
    out.unlink()  # hundreds of megabytes


@pytest.mark.parametrize("dumped", TRIED, indirect=True)
def test_a_real_model_has_the_same_logits_on_boards(dumped, program):
    out, logits, cpus = dumped
    for cpu in cpus:
        done = emulated.run(cpu, program, out, 2, emulated.LEVELS[cpu][-1])
        said = (cpu, done.stdout, done.stderr)
        assert said == (cpu, f"equal: 0 of {logits} logits differ\n", "")


@pytest.mark.parametrize("dumped", ["smollm2_path"], indirect=True)
def test_a_level_that_the_cpu_lacks_is_refused(dumped, program):
    done = emulated.run("cortex-a72", program, dumped[0], 1, "dotprod")
    assert done.stderr == "replay: no such level, or this CPU lacks it\n"
    assert done.returncode == 2
