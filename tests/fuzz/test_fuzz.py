"""The fuzz targets without a fuzzer: their seeds, what once crashed, and random changes of both.

`make fuzz` looks for what is not known yet.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from nybble._core.gguf import GgufArray
from nybble.formats.gguf import GgufFile
from tests.fuzz import builder, packed, seeds, targets, templates

sys.path.append(str(Path(__file__).parents[1] / "engine"))

import sanitized  # noqa: E402

CRASHES = Path(__file__).parent / "crashes"
FLIPS = {"gguf": 2_000, "vocab": 300, "encode": 100, "program": 100}  # of each of four seeds


@pytest.fixture(scope="module", params=targets.SOURCES)
def target(request, tmp_path_factory, objects):
    """(name, program)"""
    out = tmp_path_factory.mktemp(request.param) / request.param
    levels = sanitized.LEVELS
    targets.build_standalone(request.param, out, sanitized.COMMAND, objects, levels)
    return request.param, out


def run(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@sanitized.needs_compiler
def test_seeds_and_what_once_crashed(target, tmp_path):
    name, program = target
    inputs = sorted((CRASHES / name).glob("*"))
    for seed, data in seeds.of(name).items():
        (tmp_path / seed).write_bytes(data)
        inputs.append(tmp_path / seed)
    run(program, *inputs)


@sanitized.needs_compiler
def test_random_changes(target, tmp_path):
    name, program = target
    made = sorted(seeds.of(name).items())
    for n, (seed, data) in enumerate(random.Random(1).sample(made, 4)):
        (tmp_path / seed).write_bytes(data)
        run(program, "--flip", n, FLIPS[name], tmp_path / seed)


def test_seeds_are_cut_from_real_files(smollm2_path, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(seeds.cut_head(smollm2_path))
    assert cut.stat().st_size < targets.MOST_BYTES["gguf"]
    with GgufFile(smollm2_path) as real, GgufFile(cut) as file:
        assert [*file.metadata] == [*real.metadata]
        for name, value in file.metadata.items():
            whole = real.metadata[name]
            if isinstance(value, GgufArray):
                assert [*value] == [whole[n] for n in range(len(value))]
                assert len(value) == min(len(whole), seeds.FEW)
            elif isinstance(value, str):
                assert value == whole[: seeds.LETTERS]
            else:
                assert value == whole
        assert len(file.tensors) == 2
        for name in file.tensors:
            assert bytes(real.data(name)).startswith(bytes(file.data(name)))
    assert "real-smollm2-135m" in seeds.of("gguf")


def inputs(target):
    """(name, inputs): what once crashed a target in Python, then random ones."""
    for path in sorted((CRASHES / target).glob("*")):
        yield path.name, [path.read_bytes()]
    rng = random.Random(7)
    for n in range(12):
        yield f"random-{n}", [rng.randbytes(rng.choice([4, 12, 40])) for _ in range(25)]


@pytest.fixture
def in_memory(monkeypatch):
    """GGUF files have no copies here."""
    monkeypatch.setenv("NYBBLE_PACK", "0")


@pytest.mark.parametrize(("name", "data"), [*inputs("builder")])
def test_any_metadata_is_refused_or_runs(in_memory, name, data):
    for one in data:
        builder.try_one(one)


@pytest.mark.parametrize("number", range(len(builder.FAMILIES)))
@pytest.mark.parametrize("fits", [0, 1])
def test_unchanged_files_run(in_memory, number, fits):
    assert builder.try_one(bytes([number, fits]))


@pytest.mark.parametrize(("name", "data"), [*inputs("packed")])
def test_any_packed_file_is_refused_or_runs(in_memory, name, data):
    for one in data:
        packed.try_one(one)


@pytest.mark.parametrize("number", range(len(builder.FAMILIES)))
def test_unchanged_packed_files_run(in_memory, number):
    assert packed.try_one(bytes([number]))


@pytest.mark.parametrize(("name", "data"), [*inputs("templates")])
def test_any_template_is_rendered_or_refused(name, data):
    for one in data:
        templates.try_one(one)


def test_many_templates_are_rendered():
    rng = random.Random(3)
    assert sum(templates.try_one(rng.randbytes(40)) for _ in range(300)) > 30


@pytest.mark.parametrize(
    ("name", "bound", "words"),
    [("SECONDS", 0, " s for "), ("MOST_BYTES", 0, "MB for "), ("MAX_ERROR", -200, " of ")],
)
def test_what_a_template_takes_is_measured(monkeypatch, name, bound, words):
    """With nothing to spare, whatever is rendered or refused is a finding."""
    monkeypatch.setattr(templates, name, bound)
    data = [random.Random(n).randbytes(60) for n in range(60)]
    with pytest.raises(AssertionError, match=words):
        [*map(templates.try_one, data)]
