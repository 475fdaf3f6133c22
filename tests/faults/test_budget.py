"""The plan is kept: by the kernel's own count, and where exceeding it is death."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nybble
from nybble import hub
from tests.long import LONG

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
MODELS = {"smollm2": "smollm2_path", "gemma3": "gemma3_path", "qwen": "qwen_coder_path"}
PEAKS = [("smollm2", "f16", 512, 1), ("smollm2", "f16", 1024, 2), ("smollm2", "int8", 1024, 1)]
if LONG:
    PEAKS = [
        (model, kv, context, sequences)
        for model in MODELS
        for kv in ("f16", "v8", "int8")
        for context in (512, 2048, 4096)
        for sequences in (1, 2)
        if kv == "f16" or context == 2048
    ]
LIMITED = [
    (model, context)
    for model in (MODELS if LONG else ["smollm2"])
    for context in ((512, 2048, 4096) if LONG else (512, 1024))
]
TOKENS, TURNS = (2000, 20) if LONG else (500, 3)
GROUPS = "/sys/fs/cgroup/memory"  # version 1


@pytest.fixture
def model(request):
    """The path of the model that a test is for, packed."""
    path = request.getfixturevalue(MODELS[request.node.callspec.params["name"]])
    nybble.load(path)
    return path


def filled(path, *more, env=(), preexec_fn=None, **options):
    """What filled.py says."""
    flags = [*more, *(f"--{name}={value}" for name, value in options.items())]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.filled", path, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3600,
        env={**os.environ, **dict(env)},
        preexec_fn=preexec_fn,
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    return json.loads(done.stdout)


def check_plan(found):
    """Never above the plan, and the plan at most 3 % and 4 MiB above it."""
    assert found["peak"] <= found["plan"]
    assert found["plan"] <= found["peak"] * 1.03 + 4 * MIB


needs_proc = pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="reads /proc/self"
)


@needs_proc
@pytest.mark.parametrize(("name", "kv", "context", "sequences"), PEAKS)
def test_the_peak_is_what_the_plan_says(model, name, kv, context, sequences):
    found = filled(model, kv=kv, context=context, sequences=sequences, threads=2)
    check_plan(found)
    if sequences == 1:
        assert found["peak"] <= 1.05 * found["packed"] + found["kv"] + 30e6
        assert found["anonymous"] - found["kv"] < 25e6


@needs_proc
def test_the_peak_of_a_first_load_is_in_the_plan(smollm2_path, tmp_path):
    """Packing into the cache, then trying how many threads are best."""
    first = {"XDG_CACHE_HOME": str(tmp_path), "NYBBLE_HOME": "", "NYBBLE_TUNE": "auto"}
    found = filled(smollm2_path, context=512, env=first)
    assert found["packed"]
    check_plan(found)


@needs_proc
@pytest.mark.parametrize("models", [1, 2])
def test_the_peak_of_models_packed_in_memory_is_in_the_plan(smollm2_path, models):
    """What a model has not touched yet is in the plan of one that is loaded later."""
    found = filled(smollm2_path, context=512, models=models, threads=2, env={"NYBBLE_PACK": "0"})
    check_plan(found)


@needs_proc
def test_the_peak_of_a_model_whose_copy_cannot_be_kept_is_in_the_plan(smollm2_path, tmp_path):
    (tmp_path / "cache").write_text("no folder")
    unkept = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "NYBBLE_HOME": ""}
    found = filled(smollm2_path, context=512, threads=2, env=unkept)
    assert found["lines"][1][0] == "weights, packed in memory"
    check_plan(found)


@needs_proc
def test_the_peak_of_templates_of_jinja2_is_in_the_plan(smollm2_path):
    nybble.load(smollm2_path)
    found = filled(smollm2_path, "--jinja2", context=512, threads=2)
    check_plan(found)


@needs_proc
def test_the_peak_of_tools_is_in_the_plan(smollm2_path):
    """jinja2 is counted as soon as the messages need it."""
    nybble.load(smollm2_path)
    found = filled(smollm2_path, "--tools", context=512, threads=2)
    check_plan(found)
    assert found["lines"][-1] == ["jinja2, for messages with more than text", 8 * MIB]


@pytest.fixture
def group():
    """A memory control group of its own: the folder. Whoever exceeds its limit is killed."""
    folder = f"{GROUPS}/nybble-{os.getpid()}"
    try:
        os.mkdir(folder)
    except OSError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs to make a memory control group: {error}")
        pytest.skip(f"needs root and version 1 of memory control groups: {error}")
    yield folder
    os.rmdir(folder)


def write(folder, name, text):
    with open(f"{folder}/{name}", "w") as file:
        file.write(text)


def read(folder, name):
    with open(f"{folder}/{name}") as file:
        return file.read()


def drop_from_the_page_cache(path):
    """Pages that are there are charged to whom they were read for."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)  # what is not on the disk yet stays
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def own_copy(model, folder):
    """The packed model, whose pages nobody else has mapped: those would stay where they are."""
    nybble.load(model)
    return shutil.copy(hub.copy_path(model), folder / "own.nyb")


@pytest.mark.parametrize(("name", "context"), LIMITED)
def test_nobody_is_killed_within_the_plan(model, group, name, context, tmp_path):
    own = own_copy(model, tmp_path)
    plan = filled(own, "--only-load", context=context, threads=2)["plan"]
    write(group, "memory.limit_in_bytes", str(plan + plan // 50))
    drop_from_the_page_cache(own)
    found = filled(
        own,
        context=context,
        threads=2,
        tokens=TOKENS,
        turns=TURNS,
        # what Python holds when the model is loaded differs by some pages
        env={"NYBBLE_MEMORY": str(plan + plan // 100)},
        preexec_fn=lambda: write(group, "tasks", str(os.getpid())),
    )
    assert found["chunk"] == 128
    check_nobody_was_killed(group, plan)


def check_nobody_was_killed(group, plan):
    kills = [line for line in read(group, "memory.oom_control").splitlines() if "kill " in line]
    assert kills in ([], ["oom_kill 0"])
    assert int(read(group, "memory.max_usage_in_bytes")) > plan // 2  # it was in there


def test_the_budget_that_nobody_set_keeps_within_the_group(smollm2_path, group, tmp_path):
    """Of a limit of the plan and 2 % a reserve is left alone, so a smaller prefill chunk may be
    taken; with a tenth less the model is refused, before anything is read."""
    own = own_copy(smollm2_path, tmp_path)
    unset = {"NYBBLE_MEMORY": ""}
    plan = filled(own, "--only-load", context=512, threads=2, env=unset)["plan"]

    def enter():
        write(group, "tasks", str(os.getpid()))

    write(group, "memory.limit_in_bytes", str(plan + plan // 50))
    drop_from_the_page_cache(own)
    found = filled(own, context=512, threads=2, env=unset, preexec_fn=enter)
    assert found["plan"] <= plan
    assert found["peak"] <= found["plan"]
    check_nobody_was_killed(group, plan)

    write(group, "memory.limit_in_bytes", str(plan - plan // 10))
    with pytest.raises(AssertionError, match=r"BudgetError: .*its control group's memory\.limit"):
        filled(own, context=512, threads=2, env=unset, preexec_fn=enter)
    check_nobody_was_killed(group, plan)


def test_the_group_kills(group):
    """Else the test above would say nothing."""
    write(group, "memory.limit_in_bytes", str(64 * MIB))
    done = subprocess.run(
        [sys.executable, "-c", f"bytearray(b'x') * {128 * MIB}"],
        preexec_fn=lambda: write(group, "tasks", str(os.getpid())),
        capture_output=True,
    )
    assert done.returncode == -9
