"""Static AArch64 programs, compiled here and run by an emulator as CPUs of boards."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from nybble import board
from tools.aarch64 import COMPILER, QEMU

# The levels, least first, that qemu's models of CPUs run: those of the boards, and a server's.
_KNOWN = ("neon", "dotprod", "i8mm")
_BEST = {b.qemu_cpu: b.expect_level for b in map(board.load, board.boards()) if b.qemu_cpu}
_BEST["neoverse-n1"] = "dotprod"
LEVELS = {cpu: _KNOWN[: _KNOWN.index(best) + 1] for cpu, best in _BEST.items()}


def need_tools() -> None:
    """CI fails and a laptop skips where there is no cross compiler or emulator."""
    for tool, package in ((COMPILER[0], "gcc-aarch64-linux-gnu"), (QEMU, "qemu-user")):
        if shutil.which(tool) is None:
            give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            give_up(f"needs {tool} (Debian: {package})")


def run(cpu: str, program: Path, *args: object) -> subprocess.CompletedProcess[str]:
    """Runs a static program as this CPU would."""
    command = [QEMU, "-cpu", cpu, str(program), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)
