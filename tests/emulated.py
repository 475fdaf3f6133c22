"""Static AArch64 programs, compiled here and run by an emulator as CPUs of boards."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

COMPILER = "aarch64-linux-gnu-gcc"
EMULATOR = "qemu-aarch64"
COMMAND = (COMPILER, "-O3", "-static")

# What qemu's models of CPUs have: those of a Zero 2 W and Pi 3, of a Pi 4, of a Pi 5, a server's,
# and whatever there is.
LEVELS = {
    "cortex-a53": ("neon",),
    "cortex-a72": ("neon",),
    "cortex-a76": ("neon", "dotprod"),
    "neoverse-n1": ("neon", "dotprod"),
    "max": ("neon", "dotprod", "i8mm"),
}


def need_tools() -> None:
    """CI fails and a laptop skips where there is no cross compiler or emulator."""
    for tool, package in ((COMPILER, "gcc-aarch64-linux-gnu"), (EMULATOR, "qemu-user")):
        if shutil.which(tool) is None:
            give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            give_up(f"needs {tool} (Debian: {package})")


def run(cpu: str, program: Path, *args: object) -> subprocess.CompletedProcess[str]:
    """Runs a static program as this CPU would."""
    command = [EMULATOR, "-cpu", cpu, str(program), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)
