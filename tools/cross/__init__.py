"""Wheels for other machines, made here, and tried on their emulated CPUs.

`wheel` compiles for a platform (targets/platforms) with zig from PyPI, whose C library may be as
old as one likes, and looks at what came out. `userland` unpacks that platform's Python from Debian
into the cache. `test` installs the wheel there and runs it on the CPU of a board (targets/boards)
under qemu: the board's own kernels, and the same text as here.

The tools come into .venv/cross by themselves; the Debian packages qemu-user and mmdebstrap have to
be there. qemu shows whether instructions are right, and nothing of how fast they are.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class CrossError(Exception):
    """Something that could not be built or did not hold, or a tool that is missing."""

    exit_code = 1


class AskedError(CrossError):
    """The request makes no sense as it was made."""

    exit_code = 2
