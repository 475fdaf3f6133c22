"""The fuzz targets without a fuzzer: their seeds, what once crashed, and random changes of both.

`make fuzz` looks for what is not known yet.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import builder, packed, seeds, targets

sys.path.append(str(Path(__file__).parents[1] / "engine"))

import sanitized  # noqa: E402

CRASHES = Path(__file__).parent / "crashes"
FLIPS = {"gguf": 2_000, "vocab": 300, "encode": 100, "program": 100}  # of each of four seeds


@pytest.fixture(scope="module", params=targets.SOURCES)
def target(request, tmp_path_factory, objects):
    """(name, program)"""
    out = tmp_path_factory.mktemp(request.param) / request.param
    targets.build_standalone(request.param, out, sanitized.COMMAND, objects)
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
