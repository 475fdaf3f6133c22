"""How the C rooms are compiled: for setup.py and for the tools that build without it.

`libraries(cc)` gives the static libraries of a build by this compiler, in the order in which a
linker needs them. Only the standard library is used; setup.py runs this before anything is
installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
KERNEL_ROOMS = ("kernels_x86", "kernels_neon", "kernels_ref")
INCLUDES = ("runtime/engine", "targets", *KERNEL_ROOMS)

# Contraction off: a fused multiply-add is written where it is meant and nowhere else, or the
# same source would give other bits on other machines (docs/arithmetic.md).
CFLAGS = (
    *("-D_GNU_SOURCE", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden"),
    *("-fno-strict-aliasing", "-Wall", "-Wextra"),
)


class Library(NamedTuple):
    """A static library: paths are relative to ROOT."""

    name: str
    sources: list[str]
    include_dirs: list[str]
    cflags: list[str]


def built_levels(cc: Sequence[str]) -> dict[str, list[str]]:
    """The ISA levels of targets/levels.toml that this compiler can build: name -> flags."""
    levels = tomllib.loads((ROOT / "targets/levels.toml").read_text())
    with tempfile.TemporaryDirectory() as folder:
        probe, out = Path(folder, "probe.c"), Path(folder, "probe.o")
        found: dict[str, list[str]] = {}
        for name, level in levels.items():
            probe.write_text(level["probe"])
            for flags in level["cflags"]:
                command = [*cc, *flags, "-c", str(probe), "-o", str(out)]
                if subprocess.run(command, capture_output=True).returncode == 0:
                    found[name] = flags
                    break
    return found


def libraries(
    cc: Sequence[str], extra: Sequence[str] = (), only: Sequence[str] | None = None
) -> list[Library]:
    """The libraries of a build with this compiler; `extra` flags go to every file. `only`: of the
    ISA levels take these, not all that the compiler can build."""
    levels = built_levels(cc)
    if only is not None:
        levels = {name: flags for name, flags in levels.items() if name in only}
    have = [f"-DNYB_HAVE_{name.upper()}=1" for name in levels]

    def library(name: str, sources: list[Path], includes: Sequence[str], *flags: str) -> Library:
        paths = [str(p.relative_to(ROOT)) for p in sources]
        return Library(name, paths, list(includes), [*flags, *CFLAGS, *extra])

    def files(room: str, pattern: str = "*.c") -> list[Path]:
        return sorted((ROOT / room).glob(pattern))

    found = [
        library("nyb_engine", files("runtime/engine"), INCLUDES, "-std=c11"),
        library("nyb_targets", files("targets"), INCLUDES, "-std=c99", *have),
    ]
    for room in KERNEL_ROOMS:
        # A room's own headers come first: each has its lanes.h.
        includes = [room, "kernels_ref"] if room != "kernels_ref" else [room]
        for name, flags in levels.items():
            sources = files(room, f"*_{name}.c")
            if sources:
                found.append(library(f"nyb_{name}", sources, includes, "-std=c99", *flags))
    found.append(library("nyb_kernels_ref", files("kernels_ref"), ["kernels_ref"], "-std=c99"))
    return found


def build_program(
    out: Path,
    sources: Sequence[str],
    command: Sequence[str],
    objects: Path | None = None,
    *,
    only: Sequence[str] | None = None,
    without: Sequence[str] = (),
) -> None:
    """Compiles a C program's sources (from ROOT) and links them with the engine and every kernel,
    or those of `only` these ISA levels, and `without` the sources in whose place it has its own.
    `command`: a compiler, which may be a cross compiler, and its flags. A warning is an error.
    `objects`: a folder that keeps what was compiled for the next program by the same command; no
    source may change meanwhile."""
    main = Library("main", list(sources), list(INCLUDES), ["-std=c11", *CFLAGS, "-Werror"])
    with tempfile.TemporaryDirectory() as own, ThreadPoolExecutor(CPUS) as pool:
        compiles = {}  # object -> its command
        for library in [main, *libraries(command, ["-Werror"], only)]:
            includes = [f"-I{ROOT / room}" for room in library.include_dirs]
            for source in [s for s in library.sources if s not in without]:
                compile_one = [*command, *library.cflags, *includes, "-c", str(ROOT / source)]
                name = hashlib.sha256("\0".join(compile_one).encode()).hexdigest()
                compiles[Path(objects or own, f"{name}.o")] = compile_one
        missing = [[*c, "-o", str(path)] for path, c in compiles.items() if not path.exists()]
        list(pool.map(partial(subprocess.run, check=True), missing))
        link = [*command, *map(str, compiles), "-o", str(out), "-lm", "-lpthread"]
        subprocess.run(link, check=True)
