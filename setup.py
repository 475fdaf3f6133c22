"""Builds the C rooms as static libraries and the Cython modules of `nybble._core` over them.

targets/build.py says what is compiled, and how. Only `nybble._core.native` refers to the C
symbols; the other modules reach it by `cimport`. Set NYBBLE_WERROR=1 to make warnings errors,
NYBBLE_DEBUG=1 for -O1 -g (`make debug`), NYBBLE_SANITIZE=1 for AddressSanitizer and UBSan
(`make test-sanitized`).
"""

import os
import shlex
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent / "targets"))
import build

CORE = Path("runtime/nybble/_core")
DEBUG = os.environ.get("NYBBLE_DEBUG") == "1"
SANITIZERS = []
if os.environ.get("NYBBLE_SANITIZE") == "1":
    SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
IS_QUICK = DEBUG or bool(SANITIZERS)  # to compile
CFLAGS = ["-O1", "-g"] if IS_QUICK else ["-O3"]
if os.environ.get("NYBBLE_WERROR") == "1":
    CFLAGS += ["-Werror"]
PY_LIMITED_API = "0x030B0000"  # Python 3.11


class Abi3Wheel(bdist_wheel):
    """One wheel for every Python from 3.11 on."""

    def finalize_options(self):
        self.py_limited_api = "cp311"
        super().finalize_options()


class BuildLibraries(build_clib):
    """As many libraries at a time as there are CPUs: each level of kernels is one."""

    def run(self):
        check_headers()
        super().run()

    def build_libraries(self, libraries):
        with ThreadPoolExecutor(build.CPUS) as threads:
            list(threads.map(super().build_libraries, [[one] for one in libraries]))


class BuildExtensions(build_ext):
    """As many modules at a time as there are CPUs, by Cython and by the C compiler.

    Cython runs when modules are built, not whenever setup.py is asked something: a source package
    needs no C of it.
    """

    def finalize_options(self):
        self.parallel = self.parallel or build.CPUS
        super().finalize_options()

    def run(self):
        # Bounds are checked everywhere: what is hot is in C, and no input may reach undefined
        # behaviour.
        translated = cythonize(
            self.extensions,
            nthreads=build.CPUS,
            force=self.force,
            compiler_directives={"language_level": 3},
            include_path=["runtime"],
        )
        sources = {extension.name: extension.sources for extension in translated}
        for extension in self.extensions:
            extension.sources = sources[extension.name]
        super().run()


def check_headers():
    """Says what is missing before the first library is compiled, which takes minutes."""
    folder = sysconfig.get_path("include")
    if (Path(folder) / "Python.h").is_file():
        return
    flags = [flag for name in ("CPPFLAGS", "CFLAGS") for flag in os.environ.get(name, "").split()]
    command = [*compiler(), *flags, "-E", "-x", "c", "-"]  # which may find it elsewhere
    done = subprocess.run(command, input=b"#include <Python.h>", capture_output=True)
    if done.returncode:
        version = "{}.{}".format(*sys.version_info)
        sys.exit(
            f"nybble is compiled, which needs Python's headers: there is no Python.h in {folder}; "
            f"install them (Debian, Ubuntu, Raspberry Pi OS: apt install python{version}-dev, or "
            f"python3-dev for the system's Python; Fedora: python3-devel)"
        )


def compiler():
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def inputs():
    """What every object depends on beside its source: headers, and where flags are written."""
    rooms = [*build.INCLUDES, str(CORE)]
    kinds = (".h", ".def", ".pxd")
    headers = sorted(str(p) for room in rooms for p in Path(room).glob("*") if p.suffix in kinds)
    return [*headers, "setup.py", "targets/build.py", "targets/levels.toml"]


def library(lib):
    # Kernels take minutes to compile with sanitizers, and C programs of the tests run them so.
    is_checked = lib.name in ("nyb_engine", "nyb_targets")
    options = {
        "sources": lib.sources,
        "include_dirs": lib.include_dirs,
        "cflags": [*lib.cflags, *(SANITIZERS if is_checked else [])],
        "obj_deps": {"": inputs()},
    }
    return lib.name, options


def extension(path, libraries):
    sources = [source for lib in libraries for source in lib.sources]
    return Extension(
        f"nybble._core.{path.stem}",
        [str(path)],
        include_dirs=list(build.INCLUDES),
        define_macros=[("Py_LIMITED_API", PY_LIMITED_API), ("CYTHON_LIMITED_API", "1")],
        py_limited_api=True,
        libraries=["m", "pthread"],
        depends=[*inputs(), *sources],  # a changed room means a new link
        extra_compile_args=[
            "-fvisibility=hidden",
            "-O1" if IS_QUICK else "-O2",
            *SANITIZERS,
            "-include",
            str(CORE / "limited_api.h"),
            "-Wno-unused-function",
        ],
        extra_link_args=SANITIZERS,
    )


def main():
    # What sanitizers test is above the kernels, of which one level is enough then.
    libraries = build.libraries(compiler(), CFLAGS, ["avx2"] if SANITIZERS else None)
    setup(
        package_dir={"": "runtime"},
        packages=[
            "nybble",
            "nybble._core",
            "nybble.archs",
            "nybble.cli",
            "nybble.formats",
            "nybble.hub",
            "nybble.tokenizer",
        ],
        include_package_data=False,  # MANIFEST.in is for source packages
        package_data={
            "nybble": ["py.typed", "boards/*.toml"],
            "nybble._core": ["*.pyi", "*.pxd", "*.h"],
        },
        libraries=[library(lib) for lib in libraries],
        ext_modules=[extension(path, libraries) for path in sorted(CORE.glob("*.pyx"))],
        cmdclass={
            "bdist_wheel": Abi3Wheel,
            "build_clib": BuildLibraries,
            "build_ext": BuildExtensions,
        },
    )


if __name__ == "__main__":  # Cython's processes import this file
    main()
