"""C programs of these tests, built with AddressSanitizer and UBSan, which end them at a fault: no
Python in the process."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CC = os.environ.get("CC", "gcc")
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-ffp-contract=off", "-fno-omit-frame-pointer"]
FLAGS += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
ROOMS = ("runtime/engine", "targets", "kernels_ref")
# what binding, running and sampling call
KERNELS = ["targets/registry.c", "targets/cpu.c"]
KERNELS += [str(path.relative_to(ROOT)) for path in sorted((ROOT / "kernels_ref").glob("*.c"))]

needs_compiler = pytest.mark.skipif(
    shutil.which(CC) is None, reason=f"no C compiler {CC!r}: install gcc, or set CC"
)


def build(folder, main, sources):
    """Builds tests/engine/<main>.c with these sources of the repository; returns the program."""
    program = folder / main
    subprocess.run(
        [CC, *FLAGS, *(f"-I{ROOT / room}" for room in ROOMS), "-o", program]
        + [ROOT / source for source in (f"tests/engine/{main}.c", *sources)]
        + ["-lm", "-lpthread"],
        check=True,
    )
    return program


def run(program, *arguments):
    """Runs it; returns what it printed."""
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
