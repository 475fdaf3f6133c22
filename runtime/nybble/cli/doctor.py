"""nybble doctor: what this machine has, and what nybble makes of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from nybble import __version__, machine
from nybble.cli.terminal import megabytes, printable

_EXAMPLES = """\
examples:
  nybble doctor
  nybble doctor --json
  NYBBLE_ISA=ref nybble doctor      what the plain kernels would be chosen for
"""


def add_parser(verbs: Any) -> None:
    """Describe `nybble doctor` to argparse."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "doctor",
        help="show what this machine has and which kernels run",
        description="Show CPU, memory, threads, and the kernel chosen for each operation.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `nybble doctor`."""
    found = examine()
    if args.json:
        print(json.dumps(found))
        return 0
    for line in _as_text(found):
        print(line)
    return 0


def examine() -> dict[str, Any]:
    """Everything that doctor knows, as plain data."""
    from nybble._core import native

    have = native.cpu_bits()
    chosen: dict[tuple[str, int], dict[str, Any]] = {}
    passed_over = []
    for row in native.rows():
        operation = (row["name"].removesuffix("_" + row["level"]), row["format"])
        if row["needs"] & ~have:
            passed_over.append(row["name"])
        elif operation not in chosen:
            chosen[operation] = row
    return {
        "nybble": __version__,
        "python": sys.version.split()[0],
        "compiler": native.compiler(),
        "cpu": machine.cpu_name(),
        "architecture": os.uname().machine,
        "isa": os.environ.get("NYBBLE_ISA") or None,
        "levels": native.levels(),
        "levels_not_built": native.missing_levels(),
        "kernels": {name: row["level"] for (name, _), row in sorted(chosen.items())},
        "kernels_not_for_this_cpu": passed_over,
        "cpus": machine.cpus(),
        "clusters": [
            {"capacity": capacity, "cpus": cpus} for capacity, cpus in machine.clusters().items()
        ],
        "quota": machine.quota(),
        "threads": machine.default_threads(),
        "memory": machine.memory(),
    }


def _as_text(found: dict[str, Any]) -> list[str]:
    memory = {name: megabytes(nbytes) for name, nbytes in found["memory"].items()}
    lines = [
        f"nybble    {found['nybble']}, Python {found['python']}, built by {found['compiler']}",
        f"CPU       {printable(found['cpu'])} ({found['architecture']})",
    ]
    for cluster in found["clusters"]:
        capacity = "" if cluster["capacity"] is None else f", capacity {cluster['capacity']}"
        numbers = ", ".join(map(str, cluster["cpus"]))
        lines.append(f"          {len(cluster['cpus'])} CPUs that may be used{capacity}: {numbers}")
    if found["quota"] is not None:
        lines.append(f"quota     {found['quota']:g} CPUs' time, by the control group")
    lines.append(f"threads   {found['threads']} by default")
    lines.append("memory    " + ", ".join(f"{size} {name}" for name, size in memory.items()))
    forced = f"; NYBBLE_ISA={found['isa']} forces one" if found["isa"] else ""
    lines.append(f"levels    {', '.join(found['levels'])} are built{forced}")
    if found["levels_not_built"]:
        lines.append(f"          not built: {', '.join(found['levels_not_built'])}"
                     " (the compiler cannot)")  # fmt: skip
    by_level: dict[str, list[str]] = {}
    for name, level in found["kernels"].items():
        by_level.setdefault(level, []).append(name)
    lines.append("kernels   the fastest row that this CPU runs, for each operation and format:")
    lines += [f"          {level}: {', '.join(names)}" for level, names in by_level.items()]
    if found["kernels_not_for_this_cpu"]:
        missing = ", ".join(found["kernels_not_for_this_cpu"])
        lines.append(f"          not run here, the CPU{' or NYBBLE_ISA' if found['isa'] else ''}"
                     f" lacks what they need: {missing}")  # fmt: skip
    return lines
