"""What nyb_run takes for a batch, under sanitizers, with no Python in the process."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CC = os.environ.get("CC", "gcc")
pytestmark = pytest.mark.skipif(
    shutil.which(CC) is None, reason=f"no C compiler {CC!r}: install gcc, or set CC"
)
ROOMS = ("runtime/engine", "targets", "kernels_ref")
SOURCES = [
    *(f"runtime/engine/{name}.c" for name in ("bind", "run", "pool")),
    *("tests/engine/batch.c", "targets/registry.c", "targets/cpu.c"),
]


def test_a_slot_is_in_a_batch_once(tmp_path):
    program = tmp_path / "batch"
    subprocess.run(
        [CC, "-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
        + ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-ffp-contract=off"]
        + [f"-I{ROOT / room}" for room in ROOMS]
        + [ROOT / source for source in SOURCES]
        + [*sorted((ROOT / "kernels_ref").glob("*.c")), "-o", program, "-lm", "-lpthread"],
        check=True,
    )
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    twice = "two spans of a batch name one slot"
    expected = ["run", "run", "run", twice, twice, "a span names an unknown slot"]
    assert done.stdout.splitlines() == expected
