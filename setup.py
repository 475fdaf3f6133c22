"""Builds the C rooms as static libraries and the Cython modules of `nybble._core` over them.

Each room is one library; a room of kernels will be one library per ISA level. Only
`nybble._core.native` refers to the C symbols; the other modules reach it by `cimport`.
Set NYBBLE_WERROR=1 to make warnings errors and NYBBLE_DEBUG=1 for -O1 -g (`make debug`).
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel

ROOMS = {  # library -> (directory, C standard)
    "nyb_engine": ("runtime/engine", "c11"),
    "nyb_targets": ("targets", "c99"),
    "nyb_kernels_ref": ("kernels_ref", "c99"),
}
CORE = Path("runtime/nybble/_core")
INCLUDES = [directory for directory, _ in ROOMS.values()]
DEBUG = os.environ.get("NYBBLE_DEBUG") == "1"

# Contraction off: a fused multiply-add is written where it is meant and nowhere else, or the
# same source would give other bits on other machines (docs/arithmetic.md).
CFLAGS = ["-ffp-contract=off", "-fvisibility=hidden", "-fno-strict-aliasing", "-Wall", "-Wextra"]
CFLAGS += ["-O1", "-g"] if DEBUG else ["-O3"]
if os.environ.get("NYBBLE_WERROR") == "1":
    CFLAGS += ["-Werror"]

PY_LIMITED_API = "0x030B0000"  # Python 3.11
# Bounds are checked everywhere: what is hot is in C, and no input may reach undefined behaviour.
DIRECTIVES = {"language_level": 3}


class Abi3Wheel(bdist_wheel):
    """One wheel for every Python from 3.11 on."""

    def finalize_options(self):
        self.py_limited_api = "cp311"
        super().finalize_options()


def room(name):
    directory, standard = ROOMS[name]
    sources = sorted(str(p) for p in Path(directory).glob("*.c"))
    headers = sorted(str(p) for d in INCLUDES for p in Path(d).glob("*") if p.suffix != ".c")
    return (
        name,
        {
            "sources": sources,
            "include_dirs": INCLUDES,
            "cflags": [f"-std={standard}", "-D_GNU_SOURCE", *CFLAGS],
            "obj_deps": {"": headers},
        },
    )


def extension(path):
    name = f"nybble._core.{path.stem}"
    return Extension(
        name,
        [str(path)],
        include_dirs=INCLUDES,
        define_macros=[("Py_LIMITED_API", PY_LIMITED_API), ("CYTHON_LIMITED_API", "1")],
        py_limited_api=True,
        libraries=["m"],
        # A changed room means a new link.
        depends=[str(p) for d in [*INCLUDES, str(CORE)] for p in sorted(Path(d).glob("*.[chd]*"))],
        extra_compile_args=[
            "-fvisibility=hidden",
            "-O1" if DEBUG else "-O2",
            "-include",
            str(CORE / "limited_api.h"),
            "-Wno-unused-function",
        ],
    )


setup(
    package_dir={"": "runtime"},
    packages=[
        "nybble",
        "nybble._core",
        "nybble.archs",
        "nybble.cli",
        "nybble.formats",
        "nybble.tokenizer",
    ],
    package_data={"nybble": ["py.typed"], "nybble._core": ["*.pyi", "*.pxd", "*.h"]},
    libraries=[room(name) for name in ROOMS],
    ext_modules=cythonize(
        [extension(p) for p in sorted(CORE.glob("*.pyx"))],
        compiler_directives=DIRECTIVES,
        include_path=["runtime"],
    ),
    cmdclass={"bdist_wheel": Abi3Wheel},
)
