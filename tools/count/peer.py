"""llama.cpp built for an emulated CPU, from the same source package as for bench-peers.

The kernels are compiled for each CPU, with what an expert would tell the compiler for it, so that
the peer has every one that it has for that CPU; what is above them once, for any aarch64. All is
static, as the counter needs it, and without OpenMP: one thread is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.aarch64 import CROSS, QEMU
from tools.peers.build import (
    DRIVER,
    PEERS,
    Form,
    Say,
    build_tools,
    digest,
    download,
    extract,
    run,
)

PEER = PEERS["llama.cpp"]

# What the peer's kernels are compiled with, for each CPU of qemu's. "max" stands for the newest
# cores: everything that the peer has for them below SVE, which phones mostly do without.
CPUS = {
    "cortex-a53": "-mcpu=cortex-a53",
    "cortex-a72": "-mcpu=cortex-a72",
    "cortex-a76": "-mcpu=cortex-a76",
    "max": "-march=armv8.2-a+fp16+dotprod+i8mm",
}
CMAKE = (
    *("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"),
    *(f"-DCMAKE_C_COMPILER={CROSS}gcc", f"-DCMAKE_CXX_COMPILER={CROSS}g++"),
    *("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DGGML_NATIVE=OFF"),
    *("-DGGML_OPENMP=OFF", "-DGGML_LLAMAFILE=ON", "-DGGML_CPU_KLEIDIAI=OFF"),
    *("-DGGML_BLAS=OFF", "-DGGML_CCACHE=OFF", "-DCMAKE_OPTIMIZE_DEPENDENCIES=ON"),
    *("-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"),
    *("-DLLAMA_BUILD_TOOLS=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_COMMON=OFF"),
)

# The forms in which a model is compared: what the peer's own quantizer makes of it by default, in
# which the embedding, which is often the head too, has more bits.
_TYPES = {"Q4_0": 2, "Q4_1": 3, "Q4_K": 14, "Q6_K": 18}
FORMS = {
    form.name: form
    for form in (
        Form("file"),
        *(Form(type, ftype) for type, ftype in _TYPES.items()),
        *(Form(type, ftype, pure=True) for type, ftype in _TYPES.items()),
    )
}
OPTIONS = ("defaults", "no flash")


def build(cpu: str, cache: Path, jobs: int, say: Say) -> Path:
    """The peer's driver for this CPU: a static program. What is there already is not built anew."""
    home = cache / f"{PEER.name}-{PEER.version}-aarch64"
    driver, done = home / f"driver-{cpu}", home / f"driver-{cpu}.sha256"
    want = digest(DRIVER) + " " + " ".join((*CMAKE, CPUS[cpu]))
    if driver.exists() and done.exists() and done.read_text() == want:
        return driver
    home.mkdir(parents=True, exist_ok=True)
    source = cache / f"{PEER.name}-{PEER.version}" / "source"
    if not source.exists():
        say(f"{PEER.name}: fetching {PEER.package} {PEER.version} from PyPI")
        source.parent.mkdir(exist_ok=True)
        extract(download(PEER, cache), PEER.tree, source)
    say(f"{PEER.name}: building for {cpu} with {jobs} jobs, log in {home / 'build.log'}")
    # Each by name: a static library does not ask for those that it will be linked with.
    parts = ("llama", "ggml", "ggml-base")
    llama = _cmake(source, home / "llama", parts, "", cache, jobs, say)
    kernels = _cmake(source, home / cpu, ("ggml-cpu",), CPUS[cpu], cache, jobs, say)
    includes = [f"-I{source / 'include'}", f"-I{source / 'ggml' / 'include'}"]
    command = [f"{CROSS}gcc", "-O2", "-std=gnu11", "-c", *includes, str(DRIVER)]
    run([*command, "-o", f"{driver}.o"], home / "build.log")
    base = llama / "ggml" / "src"
    libraries = [llama / "src" / "libllama.a", base / "libggml.a"]
    libraries += [kernels / "ggml" / "src" / "libggml-cpu.a", base / "libggml-base.a"]
    link = [f"{CROSS}g++", "-static", f"{driver}.o", *map(str, libraries)]
    run([*link, "-lpthread", "-ldl", "-lm", "-o", str(driver)], home / "build.log")
    done.write_text(want)
    return driver


def _cmake(
    source: Path,
    out: Path,
    targets: Sequence[str],
    flags: str,
    cache: Path,
    jobs: int,
    say: Say,
) -> Path:
    """Builds targets with these flags in `out`, and a log beside it."""
    tools, log = build_tools(cache, say), out.parent / "build.log"
    ninja = str(tools / "ninja")
    own = [f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    own += [f"-DCMAKE_{language}_FLAGS={flags}" for language in ("C", "CXX") if flags]
    run([str(tools / "cmake"), "-S", str(source), "-B", str(out), "-G", "Ninja", *CMAKE, *own], log)
    heard = f"{PEER.name}, {out.name}: "
    run([ninja, "-C", str(out), f"-j{jobs}", *targets], log, say=lambda line: say(heard + line))
    return out


def emulated(driver: Path, cpu: str, folder: Path) -> Path:
    """A program of this machine that runs the driver under the emulator."""
    path = folder / "driver"
    path.write_text(f'#!/bin/sh\nexec {QEMU} -cpu {cpu} "{driver}" "$@"\n')
    path.chmod(0o755)
    return path
