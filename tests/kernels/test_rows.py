"""check_rows.c: every row against its reference without Python, here and as CPUs of boards."""

import subprocess

import pytest

from nybble._core import native
from targets.build import build_program
from tests import emulated
from tools import replay
from tools.aarch64 import COMPILER

SOURCES = ["tests/kernels/check_rows.c", "tests/kernels/operands.c"]


def compared(done):
    """ "neon: 48 rows" -> {"neon": 48}, without the levels of which none was. Fails with what was
    printed if a row differs."""
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    counts = dict(line.removesuffix(" rows").split(": ") for line in done.stdout.splitlines())
    return {level: int(n) for level, n in counts.items() if int(n)}


def test_all_rows_of_this_machine_equal_the_reference(tmp_path, objects):
    expected = {}
    for row in native.rows():
        if row["runs"] and row["level"] != "ref":
            expected[row["level"]] = expected.get(row["level"], 0) + 1
    if not expected:
        pytest.skip("this CPU has no level above ref")
    build_program(tmp_path / "check_rows", SOURCES, replay.STATIC, objects)
    done = subprocess.run([tmp_path / "check_rows"], capture_output=True, text=True)
    assert compared(done) == expected


@pytest.fixture(scope="module")
def program(tmp_path_factory, objects):
    emulated.need_tools()
    out = tmp_path_factory.mktemp("aarch64") / "check_rows"
    build_program(out, SOURCES, COMPILER, objects)
    return out


@pytest.mark.parametrize("cpu", emulated.LEVELS)
def test_all_rows_equal_the_reference_on_boards(cpu, program):
    assert tuple(compared(emulated.run(cpu, program))) == emulated.LEVELS[cpu]


def test_a_level_that_the_cpu_lacks_is_not_compared(program):
    assert emulated.run("cortex-a53", program, "dotprod").returncode == 1
    done = emulated.run("cortex-a53", program, "avx512")
    assert (done.returncode, done.stderr) == (2, "check_rows: no such level: avx512\n")
