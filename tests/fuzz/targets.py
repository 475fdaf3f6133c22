"""What the C fuzz targets are made of, and how they are built: with libFuzzer by clang, or with a
main() that runs single files by any compiler; with AddressSanitizer and UBSan in either case."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from targets.build import INCLUDES, ROOT, Library, build_program, libraries

HERE = Path(__file__).parent
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
FLAGS = ("-O1", "-g", "-fno-omit-frame-pointer", "-Werror", *SANITIZERS)
# Comparisons are not traced: the formats have few magic numbers, and it halves the speed.
COVERAGE = ("-fsanitize=fuzzer-no-link", "-fno-sanitize-coverage=trace-cmp")

_ENGINE = "runtime/engine/"
_VOCABULARY = [
    _ENGINE + f"nyb_{name}.c"
    for name in (
        *("vocab", "vocab_build", "vocab_open", "vocab_roles", "encode", "merge", "special"),
        *("pretokenize", "unicode", "unicode_data"),
    )
]
_TOOLS = ["tests/fuzz/maker.c", "tests/fuzz/oracle.c"]  # of which no coverage is wanted
# target -> (what is fuzzed, what helps; tests/fuzz/TARGET.c is fuzzed too)
SOURCES: dict[str, tuple[list[str], list[str]]] = {
    "gguf": ([_ENGINE + "nyb_gguf.c"], []),
    "vocab": (_VOCABULARY, _TOOLS),
    "encode": (_VOCABULARY, _TOOLS),
    "program": (
        ["tools/replay/dump.c", *(_ENGINE + f"{name}.c" for name in ("bind", "run", "attention"))],
        [],
    ),
}
LEVELS = ("avx2",)  # beside plain C: to compile every level takes minutes
# Bytes of the largest input that libFuzzer is to make.
MOST_BYTES = {"gguf": 2048, "vocab": 500, "encode": 300, "program": 9000}


def clang() -> list[str] | None:
    """The command of a clang that can link libFuzzer, from $CLANG or the path; None for none."""
    command = shlex.split(os.environ.get("CLANG", "clang"))
    if shutil.which(command[0]) is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder, "empty.c")
        empty.write_text("int LLVMFuzzerTestOneInput(void) { return 0; }\n")
        link = [*command, "-fsanitize=fuzzer,address,undefined", str(empty), "-o", f"{folder}/out"]
        return command if subprocess.run(link, capture_output=True).returncode == 0 else None


def build_standalone(
    target: str, out: Path, command: list[str], objects: Path, levels: Sequence[str]
) -> None:
    """Builds a target that takes files (standalone.c); `build_program` has the arguments."""
    fuzzed, helping = SOURCES[target]
    own = [source for source in fuzzed if not source.startswith(_ENGINE)]
    mains = [f"tests/fuzz/{target}.c", "tests/fuzz/standalone.c"]
    without = [_ENGINE + "pool.c"] if target == "program" else []  # whose threads are played
    sources = [*mains, *own, *helping]
    build_program(out, sources, command, objects, only=levels, without=without)


def build(target: str, out: Path, cc: list[str]) -> None:
    """Builds a target with libFuzzer, AddressSanitizer and UBSan by this clang."""
    fuzzed, helping = SOURCES[target]
    own = [f"tests/fuzz/{target}.c"]
    includes = list(INCLUDES)
    language = ["-std=c11", "-D_GNU_SOURCE", "-ffp-contract=off", "-Wall", "-Wextra"]
    parts = [
        Library("fuzzed", [*own, *fuzzed], includes, [*language, *FLAGS, *COVERAGE]),
        Library("helping", helping, includes, [*language, *FLAGS]),
    ]
    if target == "program":  # kernels, and what picks them
        rooms = libraries(cc, FLAGS, LEVELS)
        parts += [room for room in rooms if room.name != "nyb_engine"]
    with tempfile.TemporaryDirectory() as folder:
        objects = []
        for part in parts:
            for source in part.sources:
                objects.append(f"{folder}/{part.name}-{Path(source).stem}.o")
                rooms_flags = [f"-I{ROOT / room}" for room in part.include_dirs]
                compile_one = [*cc, *part.cflags, *rooms_flags, "-c", str(ROOT / source)]
                subprocess.run([*compile_one, "-o", objects[-1]], check=True)
        flags = [*SANITIZERS, "-fsanitize=fuzzer", "-lm", "-lpthread"]
        subprocess.run([*cc, *objects, *flags, "-o", str(out)], check=True)
