"""Tables of what was measured, and what the machine is."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nybble
from nybble import machine
from nybble._core import native

ROOT = Path(__file__).parents[2]
# Of a CPU's features, those that kernels for quantized models are written for.
FLAGS = (
    *("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"),
    *("asimd", "asimddp", "asimdhp", "i8mm", "sve", "sve2", "v", "zvfh"),
)


def machine_facts() -> dict[str, Any]:
    """What figures depend on: CPU, its flags, and nybble's version and compiler."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    return {
        "cpu": machine.cpu_name(),
        "flags": cpu_flags(Path("/proc/cpuinfo").read_text(errors="replace")),
        "cpus": len(machine.cpus()),
        "sides": {
            "nybble": {
                "version": nybble.__version__,
                "commit": commit or None,
                "compiler": native.compiler(),
            }
        },
    }


def cpu_flags(cpuinfo: str) -> list[str]:
    """Those of FLAGS that /proc/cpuinfo lists; RISC-V's are letters and words of its ISA string."""
    words: set[str] = set()
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            words |= set(value.split())
        elif key.strip() == "isa":
            base, *extensions = value.strip().split("_")
            words |= {*base[4:], *extensions}
    return [flag for flag in FLAGS if flag in words]


def table(facts: dict[str, Any], result: dict[str, Any]) -> Iterator[str]:
    """The lines of one model's figures at one number of threads."""
    threads = f"{result['threads']} thread{'s' if result['threads'] > 1 else ''}"
    if result["placement"] != "anywhere":
        threads += f" on {result['placement']}"
    yield f"{result['model']}, {threads}, {facts['cpu']}"
    yield f"  {' '.join(facts['flags'])}"
    for name, side in facts["sides"].items():
        yield f"  {name} {side['version']}, {side['compiler']}"
    for key, what, unit in (("read_gb_s", "plain read", "GB/s"), ("barrier_us", "barrier", "us")):
        if key in result["conditions"]:
            least, middle, most = result["conditions"][key]
            yield f"  {what} {middle:.2f} {unit} ({least:.2f} to {most:.2f})"
    if result["threads"] > 1 and "barrier_us" not in result["conditions"]:
        yield "  barrier not measured: the machine was busy, and one thread worked alone"
    least, middle, most = result["conditions"]["others_cpus"]
    yield f"  other programs kept {middle:.2f} CPUs busy ({least:.2f} to {most:.2f})"
    for failed in result["failed"]:
        yield f"  not measured: {failed['side']}, {failed['form']}: {failed['why'].splitlines()[0]}"
    yield ""
    names = [f"{row['side']}, {row['form']}" for row in result["rows"]]
    width = max(map(len, names))
    yield f"  {'figure':<16}{'side and form':<{width}}  {'tokens/s':>9}  {'spread':>19}  nybble is"
    figure = None
    for row, name in zip(result["rows"], names, strict=True):
        spread = f"{row['min']:.1f} to {row['max']:.1f}"
        last = f"{row['nybble_is']:.2f} times" if "nybble_is" in row else ""
        if "read_share" in row:
            last = f"at {row['read_share']:.0%} of a plain read"
        yield (
            f"  {row['figure'] if row['figure'] != figure else '':<16}"
            f"{name:<{width}}  {row['tok_s']:9.1f}  {spread:>19}  {last}"
        ).rstrip()
        figure = row["figure"]
    yield ""
    for row in result["strongest"]:
        on = "on the same file" if row["same_file"] else "in its best form"
        yield (
            f"  {row['figure']:<16}nybble is {row['nybble_is']:.2f} times the strongest peer {on}:"
            f" {row['side']}, {row['form']}"
        )
    for row in result["context"]:
        yield (
            f"  {row['from']:,} to {row['to']:,}: a token of {row['side']}, {row['form']}"
            f" takes {row['ms']:.2f} ms more for each 1,000 tokens of context"
        )
