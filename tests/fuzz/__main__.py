"""Runs the fuzz targets for a while: `make fuzz`, or

    python -m tests.fuzz [TARGET...] [--seconds N] [--jobs N]

The C targets are built with libFuzzer (a clang with compiler-rt; $CLANG says which), those in
Python are driven by atheris. Each starts from its seeds (seeds.py), what past crashes left in
tests/fuzz/crashes/, and what earlier runs have found worth keeping in build/fuzz/. Prints how many
inputs each has tried; an input that fails is left in build/fuzz/TARGET/, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from targets.build import ROOT
from tests.fuzz import seeds, targets

BUILD = ROOT / "build" / "fuzz"
# The longest input of each.
PYTHON_TARGETS = {"builder": 64, "packed": 64, "templates": 256}
# Seconds and MiB that one input may take: each is a small part of it.
LIMITS = ("-timeout=20", "-rss_limit_mb=1024")


def command_of(target: str, folder: Path, clang: list[str]) -> list[str]:
    """Builds the target if that is to be done; returns the command that fuzzes it."""
    if target in PYTHON_TARGETS:
        most = PYTHON_TARGETS[target]
        return [sys.executable, "-m", "tests.fuzz.atheris_target", target, f"-max_len={most}"]
    program = folder / "program"
    targets.build(target, program, clang)
    command = [str(program), f"-max_len={targets.MOST_BYTES[target]}"]
    dictionary = targets.HERE / f"{target}.dict"
    return [*command, f"-dict={dictionary}"] if dictionary.exists() else command


def fuzz(target: str, seconds: int, clang: list[str]) -> bool:
    """Runs a target; whether it found nothing."""
    folder = BUILD / target
    places = [folder / "corpus", folder / "seeds", targets.HERE / "crashes" / target]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    if target not in PYTHON_TARGETS:
        for name, seed in seeds.of(target).items():
            (places[1] / name).write_bytes(seed)
    command = command_of(target, folder, clang)
    options = [f"-max_total_time={seconds}", "-print_final_stats=1", *LIMITS]
    artifacts = f"-artifact_prefix={folder}/"
    fast = {"ASAN_OPTIONS": "malloc_context_size=4:quarantine_size_mb=16"}
    done = subprocess.run(
        [*command, *options, artifacts, *map(str, places)],
        cwd=ROOT,
        env=fast | os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    (folder / "log").write_text(done.stdout)
    tried = re.search(r"number_of_executed_units: (\d+)", done.stdout)
    count = f"{int(tried[1]):,}" if tried else "an unknown number of"
    verdict = "nothing found" if done.returncode == 0 else f"FAILED, see {folder}/log"
    print(f"{target}: {count} executions in {seconds} s, {verdict}", flush=True)
    if done.returncode != 0:
        print("\n".join(done.stdout.splitlines()[-60:]), flush=True)
    return done.returncode == 0 and tried is not None


def main() -> int:
    everything = [*targets.SOURCES, *PYTHON_TARGETS]
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(everything))
    parser.add_argument("--seconds", type=int, default=20, help="of each target (20)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (1)")
    args = parser.parse_args()
    chosen = args.targets or everything
    if unknown := set(chosen) - set(everything):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    clang = targets.clang()
    if clang is None:
        parser.error("there is no clang that links libFuzzer: install clang, or set CLANG")
    with ThreadPoolExecutor(args.jobs) as jobs:
        sound = list(jobs.map(lambda target: fuzz(target, args.seconds, clang), chosen))
    return 0 if all(sound) else 1


if __name__ == "__main__":
    sys.exit(main())
