"""The sampler under AddressSanitizer and UBSan, with no Python in the process."""

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
    *("tests/engine/sample.c", "runtime/engine/sampler.c"),
    *("targets/registry.c", "targets/cpu.c"),
]


def test_every_small_vocabulary_is_sampled_within_bounds(tmp_path):
    program = tmp_path / "sample"
    subprocess.run(
        [CC, "-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
        + ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-ffp-contract=off"]
        + [f"-I{ROOT / room}" for room in ROOMS]
        + [ROOT / source for source in SOURCES]
        + [*sorted((ROOT / "kernels_ref").glob("*.c")), "-o", program, "-lm"],
        check=True,
    )
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{69 * 5 * 6}\n"
