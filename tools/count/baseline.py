"""What every kernel row takes on small models, and a committed table to compare with.

    python -m tools.count baseline                   compare with the table of this gcc
    python -m tools.count baseline --compiler zig    with that of the compiler of wheels
    python -m tools.count baseline --write           make the table anew

Small random models, one for each format of weights, for each family that has operations of its own
and for each type of keys and values, are replayed on a CPU of each ISA level, a prompt and two
steps, and the instructions of each row are added up; a row that none of them executes is an error.
Tables are in tools/count/baselines, one for each compiler that made one: another compiler has other
counts. A new or changed kernel comes with its table.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from nybble._core.program import KV_TYPES
from tools import count, replay
from tools.count import emulator, peer
from tools.count.emulator import CountError
from tools.peers.build import BuildError, Say, default_cache
from tools.tiny_model import FILE_TYPES, FORMATS, tiny_model

FOLDER = Path(__file__).with_name("baselines")
CPUS = ("cortex-a53", "cortex-a76", "max")  # one for each level of rows
PLAN = count.Plan(prompt=37, gen=2)  # no multiple of what a loop takes at once
FAMILIES = ("qwen2", "gemma3", "granite")
TOLERANCE = 0.02
ROW = re.compile(r"nyb_(?P<what>\w+)_(?P<level>ref|neon|dotprod|i8mm)")
SIZES = {"layers": 1, "dim": 256, "heads": 4, "kv_heads": 2, "hidden": 512, "tied": False}

Table = dict[str, dict[str, int]]  # CPU -> row -> instructions


def models(folder: Path) -> Iterator[Path]:
    """Writes the small models one after another: their dumps."""
    kinds = [("llama", format, "f16") for format in FILE_TYPES]
    kinds += [(family, "Q4_1", "f16") for family in FAMILIES]
    kinds += [("llama", "Q4_1", kv) for kv in KV_TYPES if kv != "f16"]
    for family, format, kv in kinds:
        model, dumped = folder / "tiny.gguf", folder / "dump"
        tiny_model(model, family=family, formats=dict.fromkeys(FORMATS, format), **SIZES)
        count.dump(model, PLAN, dumped, kv)
        yield dumped


def measure(compiler: count.Compiler, plugin: Path, say: Say) -> Table:
    """The instructions of every row on every CPU."""
    table: dict[str, Counter[str]] = {cpu: Counter() for cpu in CPUS}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "replay")
        say("compiling the static program")
        replay.build(program, compiler.command)
        for dumped in models(Path(folder)):
            command = count.replay_command(program, dumped)
            for cpu in CPUS:
                for run in emulator.execute(plugin, cpu, command).runs:
                    table[cpu] += run
        rows = best_rows(functions(program))
        inlined = {row for row in rows for what in compiler.inlined if f"_{what}_" in row}
        missing = rows - inlined - set().union(*table.values())
    if missing:
        raise CountError(f"no model here executes {', '.join(sorted(missing))}")
    for cpu, counts in table.items():
        check_names(cpu, counts)
    return {
        cpu: {name: counts[name] for name in sorted(counts) if is_row(name)}
        for cpu, counts in table.items()
    }


def check_names(cpu: str, counts: Counter[str]) -> None:
    """Raises CountError if much is executed by a function that is not named like a row: the table
    would not see it. A loop that several rows share has such a name too."""
    for name, n in counts.items():
        if not is_row(name) and n > TOLERANCE * counts.total():
            raise CountError(f"{cpu}: {name} takes {n:,} instructions and is not named like a row")


def is_row(function: str) -> bool:
    """Whether a function is a kernel's and not the engine's or the C library's."""
    return ROW.fullmatch(function) is not None


def functions(program: Path) -> list[str]:
    """The names of a program's functions."""
    command = [f"{peer.CROSS}nm", "--defined-only", "--format=posix", str(program)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name, kind, *_ in map(str.split, lines) if kind in "tT"]


def best_rows(functions: Iterable[str]) -> set[str]:
    """Rows of every level, and the reference's where no level has another."""
    rows = [row for row in map(ROW.fullmatch, functions) if row]
    above = {row["what"] for row in rows if row["level"] != "ref"}
    return {row[0] for row in rows if row["level"] != "ref" or row["what"] not in above}


def compare(want: Mapping[str, Mapping[str, int]], got: Table) -> list[str]:
    """A line for each row whose count is not within the tolerance of the table's, or that is in one
    of both only. Fewer is told too: what was gained is to be kept."""
    wrong = []
    for cpu in want.keys() | got.keys():
        old, new = want.get(cpu, {}), got.get(cpu, {})
        for name in old.keys() | new.keys():
            before, now = old.get(name, 0), new.get(name, 0)
            if not before or not now:
                wrong.append(f"{cpu}: {name} is {'new' if now else 'gone'}")
            elif abs(more := now / before - 1) > TOLERANCE:
                change = f"{before:,} instructions, now {now:,}: {more:+.1%}"
                wrong.append(f"{cpu}: {name} took {change}")
    return sorted(wrong)


def path_of(compiler: str) -> Path:
    """Where the table of a compiler is; it is called like the compiler."""
    return FOLDER / f"{re.sub(r'[^A-Za-z0-9.]+', '-', compiler).strip('-')}.toml"


def text_of(compiler: str, table: Table) -> str:
    """A table as TOML."""
    lines = ["# Made by `python -m tools.count baseline --write`: instructions of each kernel row."]
    lines.append(f'compiler = "{compiler}"')
    for cpu, rows in table.items():
        lines += ["", f"[rows.{cpu}]", *(f"{name} = {n}" for name, n in rows.items())]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Carry out `python -m tools.count baseline`."""
    p = argparse.ArgumentParser(
        prog="python -m tools.count baseline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    count.add_compiler(p)
    p.add_argument("--write", action="store_true", help="make this compiler's table anew")
    args = p.parse_args(arguments)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        compiler = count.compiler(args.compiler)
        path = path_of(compiler.name)
        if not args.write and not path.exists():
            say(f"no table of {compiler.name}: nothing was compared. --write makes one")
            return 2
        table = measure(compiler, emulator.build_plugin(default_cache(), say), say)
        if args.write:
            FOLDER.mkdir(exist_ok=True)
            path.write_text(text_of(compiler.name, table))
            return 0
        wrong = compare(tomllib.loads(path.read_text())["rows"], table)
    except (BuildError, CountError) as error:
        say(f"tools.count: {error}")
        return 1
    print("\n".join(wrong) or f"{sum(map(len, table.values()))} counts are as in {path.name}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
