"""How many instructions nybble executes on emulated boards, by function and for each token.

Instructions, not time: an emulator has no caches and no pipelines. But counts are exact and the
same on every run, so a kernel that needs more of them than before is seen without the board.

`count` gives a model's prefill and decode on one CPU: a static program replays its dump under qemu
with one thread, and has to give the logits of this machine. `count_peer` gives the same of
llama.cpp built for that CPU. tools/count/baseline.py counts kernel rows for CI.
"""

from __future__ import annotations

import argparse
import struct
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import nybble
from tools import replay
from tools.aarch64 import COMPILER
from tools.count import emulator
from tools.count.emulator import CountError
from tools.cross import CrossError, toolbox
from tools.tiny_model import FORMATS, tiny_model

# A model on whose shapes every format can be had: K-quants have blocks of 256 columns, which those
# of the known models are no multiple of. SmolLM2's heads, other numbers.
RANDOM = "random-768"
RANDOM_SIZES = {"layers": 4, "dim": 768, "heads": 12, "kv_heads": 4, "hidden": 2048, "vocab": 8192}

CHUNK = 128  # tokens of prefill in one engine call, as `nybble.load` has it


class Plan(NamedTuple):
    """What is counted: a prompt of so many tokens, then steps of one token, of which the first is
    left out because the peer makes its graph in it."""

    prompt: int
    gen: int


class Compiler(NamedTuple):
    """Its name and version, its command with flags for a static program, and the operations whose
    rows it puts into those that call them."""

    name: str
    command: tuple[str, ...]
    inlined: tuple[str, ...] = ()


class Counts(NamedTuple):
    """Instructions a token by function, of prefill and of decode."""

    prefill: Counter[str]
    decode: Counter[str]

    def as_data(self) -> dict[str, Any]:
        """Totals and functions, most first, for JSON."""
        return {
            kind: {"total": round(counts.total()), "functions": dict(counts.most_common())}
            for kind, counts in self._asdict().items()
        }


def arbitrary_ids(n: int, vocab: int) -> list[int]:
    """The tokens that the peer's driver is fed: which they are makes no difference to a count."""
    return [i * 7919 % vocab for i in range(n)]


def random_model(folder: Path) -> Path:
    """Writes the model RANDOM, whose bytes are always the same, with half-precision matrices."""
    path = folder / f"{RANDOM}.gguf"
    tiny_model(path, formats=dict.fromkeys(FORMATS, "F16"), **RANDOM_SIZES)
    return path


def dump(model: Path, plan: Plan, out: Path, kv: str = "f16") -> None:
    """Writes what nybble's side replays, by nybble on this machine, with keys and values of the
    type `kv`."""
    weights = nybble.load(model, context=CHUNK).weights
    ids = arbitrary_ids(plan.prompt + plan.gen, weights.program.vocab)
    replay.dump(weights, ids, plan.gen + 1, out, kv)


def next_tokens(dumped: Path) -> list[int]:
    """The likeliest token after the prompt of a dump and after each of its steps."""
    with dumped.open("rb") as file:
        header = file.read(64)
        vocab, n_rows = struct.unpack_from("<16xI8xI", header)
        for _ in range(len(replay.SECTIONS) + 2):  # and weights and tokens
            (length,) = struct.unpack("<Q56x", file.read(64))
            file.seek(-(-length // 64) * 64, 1)
        file.seek(64, 1)
        logits = np.fromfile(file, "<f4", n_rows * vocab).reshape(n_rows, vocab)
    return [int(i) for i in logits.argmax(axis=1)]


def count(program: Path, dumped: Path, plan: Plan, cpu: str, plugin: Path) -> Counts:
    """nybble's instructions a token on this CPU. Raises CountError where its logits differ from
    this machine's."""
    return per_token(emulator.execute(plugin, cpu, replay_command(program, dumped)).runs, plan)


def replay_command(program: Path, dumped: Path) -> list[str | Path]:
    """One thread, the CPU's best rows, and chunks as `nybble.load` has them."""
    return [program, dumped, "1", "best", str(CHUNK)]


def compiler(name: str) -> Compiler:
    """The one of COMPILERS called so. Raises CountError where it cannot be had."""
    return COMPILERS[name]()


def _gcc() -> Compiler:
    try:
        out = subprocess.run([COMPILER[0], "--version"], capture_output=True, text=True, check=True)
    except OSError as error:
        raise CountError(f"{COMPILER[0]} is missing; Debian: gcc-aarch64-linux-gnu") from error
    return Compiler(out.stdout.splitlines()[0], COMPILER)


def _zig() -> Compiler:
    """What wheels are built by, with a C library that can be linked statically."""
    try:
        zig = (str(toolbox.install()), "-m", "ziglang")
        version = toolbox.run([*zig, "version"]).strip()
    except CrossError as error:
        raise CountError(str(error)) from error
    keeps = (f"ZIG_{which}_CACHE_DIR={toolbox.cache() / 'zig'}" for which in ("GLOBAL", "LOCAL"))
    flags = ("-target", "aarch64-linux-musl", "-O3", "-g0", "-static")
    return Compiler(f"zig {version}", ("env", *keeps, *zig, "cc", *flags), ("softmax",))


COMPILERS = {"gcc": _gcc, "zig": _zig}


def add_compiler(parser: argparse.ArgumentParser) -> None:
    """The option of command lines."""
    parser.add_argument(
        "--compiler",
        choices=COMPILERS,
        default="gcc",
        help="of nybble's side: Debian's, or the one that wheels are built by (%(default)s)",
    )


def count_peer(driver: Path, model: Path, options: str, plan: Plan, cpu: str, plugin: Path) -> Any:
    """The peer's instructions a token, and its likeliest tokens."""
    lengths = [str(plan.prompt), str(plan.gen)]
    command: list[str | Path] = [driver, "count", model, options, *lengths]
    done = emulator.execute(plugin, cpu, command)
    return per_token(done.runs, plan), [int(word) for word in done.stdout.split()]


def per_token(runs: list[Counter[str]], plan: Plan) -> Counts:
    """The last runs are steps of one token, those before them the prompt's."""
    prompt, steps = runs[: -plan.gen], runs[len(runs) - plan.gen + 1 :]
    if not prompt or not steps:
        raise CountError(f"{len(runs)} runs for a prompt and {plan.gen} steps")
    return Counts(_mean(prompt, plan.prompt), _mean(steps, len(steps)))


def _mean(runs: list[Counter[str]], tokens: int) -> Counter[str]:
    total: Counter[str] = Counter()
    for one in runs:
        total += one
    return Counter({name: count / tokens for name, count in total.items()})
