"""Peers built from their published sources, once, in a cache outside the checkout.

A peer is llama.cpp or a relative of it: a source package on PyPI whose vendor/ folder holds the
C++ tree. Only its libraries are built, for this very CPU, and driver.c over them: the same few
lines time every peer, and its own quantizer makes its forms of a model.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DRIVER = Path(__file__).with_name("driver.c")
# To build with; the machine's own may be too old for the sources.
BUILD_TOOLS = ("cmake==3.31.10", "ninja==1.13.0")
# What is left out is what a decoder on a CPU does not need: tools, servers, other devices.
CMAKE = (
    *("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DGGML_NATIVE=ON"),
    *("-DGGML_BLAS=OFF", "-DGGML_CCACHE=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF"),
    *("-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_TOOLS=OFF", "-DLLAMA_BUILD_SERVER=OFF"),
    "-DLLAMA_BUILD_COMMON=OFF",
)

Say = Callable[[str], None]


class BuildError(Exception):
    """A download or a build that failed: the command and where its output is."""


@dataclass(frozen=True)
class Form:
    """A way to give a peer a model: what its quantizer makes of it, and how it is loaded.

    ftype   : number of the type in its llama.h; None for the file as it is
    pure    : the head and the embedding in the same type too
    options : what driver.c is asked for beside the defaults: "repacked" (rows interleaved while
              loading), "merged" (q, k and v as one matrix), "no flash" (plain attention)
    """

    type: str
    ftype: int | None = None
    pure: bool = False
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What tables call it."""
        return " ".join((self.type, *(["pure"] if self.pure else []), *self.options))


@dataclass(frozen=True)
class Peer:
    """Where a peer comes from, and the four-bit forms in which it may be at its best."""

    name: str
    package: str
    version: str
    sha256: str  # of the source package
    tree: str  # folder of the C++ tree in it
    forms: tuple[Form, ...]
    cmake: tuple[str, ...] = ()
    defines: tuple[str, ...] = ()  # for driver.c

    @property
    def sdist(self) -> str:
        """The file name of the source package."""
        return f"{self.package.replace('-', '_')}-{self.version}.tar.gz"


PEERS = {
    peer.name: peer
    for peer in (
        # It interleaves Q4_0 and a few other types by itself when it loads them. Flash attention,
        # its default, has been seen to help its prefill and to slow its decode by a quarter.
        Peer(
            name="llama.cpp",
            package="llama-cpp-python",
            version="0.3.36",
            sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
            tree="vendor/llama.cpp",
            forms=(
                Form("file"),
                Form("file", options=("no flash",)),
                Form("Q4_0", 2, pure=True),
                Form("Q4_0", 2, pure=True, options=("no flash",)),
                Form("IQ4_NL", 25, pure=True),
                Form("IQ4_NL", 25, pure=True, options=("no flash",)),
            ),
        ),
        # Its attention kernels for quantized caches take most of a build and are not used here.
        Peer(
            name="ik_llama.cpp",
            package="ik-llama-cpp-python",
            version="0.1.5",
            sha256="33c67eb99e4dcab5e611050433243815709b8b3067753f9ce18375013cf002ad",
            tree="vendor/ik_llama.cpp",
            forms=(
                Form("file"),
                Form("file", options=("repacked",)),
                Form("file", options=("merged",)),
                Form("Q4_0", 2, pure=True),
                Form("Q4_0", 2, pure=True, options=("repacked",)),
                Form("Q4_0", 2, pure=True, options=("repacked", "merged")),
                Form("IQ4_NL", 25, pure=True),
            ),
            cmake=("-DGGML_IQK_FA_ALL_QUANTS=OFF",),
            defines=("-DPEER_IK=1",),
        ),
    )
}


def default_cache() -> Path:
    """Where peers and their models are kept unless the user says otherwise; may be deleted."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "nybble" / "peers"


def download(peer: Peer, folder: Path) -> Path:
    """The peer's source package, from PyPI and checked; kept in `folder`."""
    archive = folder / peer.sdist
    if archive.exists() and digest(archive) == peer.sha256:
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        log = folder / f"{peer.package}-download.log"
        package = f"{peer.package}=={peer.version}"
        command = [sys.executable, "-m", "pip", "download", "--no-deps"]
        run([*command, "--no-binary", peer.package, package, "-d", scratch], log)
        found = Path(scratch) / peer.sdist
        if not found.exists() or digest(found) != peer.sha256:
            raise BuildError(f"{package}: what PyPI has is not the pinned {peer.sha256}")
        found.replace(archive)
    return archive


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def extract(archive: Path, tree: str, folder: Path) -> None:
    """Makes `folder`, on the archive's file system, hold what the archive has under `tree`: at
    once or not at all."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch, tarfile.open(archive) as tar:
        tar.extractall(scratch, filter="data")
        (root,) = Path(scratch).iterdir()
        try:
            (root / tree).rename(folder)
        except OSError:
            if not folder.is_dir():  # else another run was faster
                raise


def build(peer: Peer, cache: Path, jobs: int, say: Say) -> Path:
    """The peer's driver program, built if it is not there yet; a build that was broken off goes
    on where it was."""
    home = cache / f"{peer.name}-{peer.version}"
    driver = home / "driver"
    done = home / "driver.sha256"
    want = digest(DRIVER) + " " + " ".join((*CMAKE, *peer.cmake))
    if driver.exists() and done.exists() and done.read_text() == want:
        return driver
    home.mkdir(parents=True, exist_ok=True)
    source, objects, log = home / "source", home / "build", home / "build.log"
    if not source.exists():
        say(f"{peer.name}: fetching {peer.package} {peer.version} from PyPI")
        extract(download(peer, cache), peer.tree, source)
    tools = build_tools(cache, say)
    say(f"{peer.name}: building with {jobs} jobs, log in {log}")
    ninja = str(tools / "ninja")
    configure = [str(tools / "cmake"), "-S", str(source), "-B", str(objects), "-G", "Ninja"]
    run([*configure, f"-DCMAKE_MAKE_PROGRAM={ninja}", *CMAKE, *peer.cmake], log)
    compile_all = [ninja, "-C", str(objects), f"-j{jobs}", "llama"]
    run(compile_all, log, say=lambda line: say(f"{peer.name}: {line}"))
    libraries = sorted({path.parent for path in objects.rglob("lib*.so")})
    link = [f"-L{folder}" for folder in libraries]
    link += [f"-Wl,-rpath,{folder}" for folder in libraries]
    includes = [f"-I{source / 'include'}", f"-I{source / 'ggml' / 'include'}"]
    command = ["cc", "-O2", "-std=gnu11", *peer.defines, *includes, str(DRIVER)]
    run([*command, "-o", str(driver), *link, "-lllama", "-lggml", *_ggml_base(libraries)], log)
    done.write_text(want)
    return driver


def _ggml_base(folders: list[Path]) -> list[str]:
    """The library that newer trees split from ggml, if this one has it."""
    return ["-lggml-base"] if any((f / "libggml-base.so").exists() for f in folders) else []


def build_tools(cache: Path, say: Say) -> Path:
    """The folder of cmake and ninja, in an environment of their own in the cache."""
    home = cache / "build-tools"
    stamp = home / ".installed"
    if not stamp.exists() or stamp.read_text() != " ".join(BUILD_TOOLS):
        say(f"installing {' and '.join(BUILD_TOOLS)} in {home}")
        venv.create(home, with_pip=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q"]
        run([*pip, "--disable-pip-version-check", *BUILD_TOOLS], cache / "build-tools.log")
        stamp.write_text(" ".join(BUILD_TOOLS))
    return home / "bin"


def quantize(driver: Path, model: Path, form: Form, out: Path, log: Path) -> Path:
    """The model in this form, made by the peer's own quantizer if `out` is not there yet."""
    if form.ftype is None:
        return model
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_suffix(".part")
        run([str(driver), "quantize", str(model), str(part), str(form.ftype), str(+form.pure)], log)
        part.replace(out)
    return out


def compiler(driver: Path) -> str:
    """The compiler that CMake found for this driver's peer: its name and version."""
    for path in sorted((driver.parent / "build" / "CMakeFiles").glob("*/CMakeCXXCompiler.cmake")):
        found = dict(
            line[4:-1].split(" ", 1)
            for line in path.read_text().splitlines()
            if line.startswith("set(CMAKE_CXX_COMPILER_") and " " in line and line.endswith(")")
        )
        kind, version = (
            found.get(f"CMAKE_CXX_COMPILER_{what}", '""').strip('"') for what in ("ID", "VERSION")
        )
        return f"{'gcc' if kind == 'GNU' else kind.lower()} {version}"
    return "unknown"


def run(command: list[str], log: Path, say: Say | None = None) -> None:
    """Runs a command with its output in `log`; `say` hears every line of it too."""
    log.parent.mkdir(parents=True, exist_ok=True)
    last: deque[str] = deque(maxlen=8)
    with log.open("a") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    file.write(line)
                    last.append(line)
                    if say and line.startswith("["):
                        say(line.strip())
            except BaseException:
                process.terminate()  # a signal to this process alone
                raise
    if process.returncode != 0:
        raise BuildError(
            f"exit status {process.returncode} of: {' '.join(command)}\n{''.join(last)}see {log}"
        )
