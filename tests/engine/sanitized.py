"""C programs of these tests, built with AddressSanitizer and UBSan, which end them at a fault: no
Python in the process."""

import os
import shutil
import subprocess

import pytest

from targets.build import build_program

CC = os.environ.get("CC", "gcc")
# One command for all, so that they share what is compiled. Not optimised: with sanitizers gcc takes
# three minutes of CPU time to optimise the kernels.
COMMAND = [CC, "-O0", "-g", "-fno-omit-frame-pointer"]
COMMAND += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
LEVELS = ("avx2", "neon")  # beside plain C: the wider ones take half of the time, and tell no more

needs_compiler = pytest.mark.skipif(
    shutil.which(CC) is None, reason=f"no C compiler {CC!r}: install gcc, or set CC"
)


def build(folder, main, objects):
    """Builds tests/engine/<main>.c; returns the program. `objects`: conftest.py's folder."""
    program = folder / main
    build_program(program, [f"tests/engine/{main}.c"], COMMAND, objects, only=LEVELS)
    return program


def run(program, *arguments):
    """Runs it; returns what it printed."""
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
