"""nybble doctor: what this machine has, and what nybble makes of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from typing import Any

from nybble import __version__, machine
from nybble.cli.terminal import columns, counted, fitted, megabytes, printable

_WIDTH = 100  # of a stdout that is no terminal
_INDENT = " " * 10
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
        print("\n".join(fitted(line, sys.stdout, len(_INDENT))))
    return 0


def examine() -> dict[str, Any]:
    """Everything that doctor knows, as plain data."""
    from nybble import tuning
    from nybble._core import native

    have = native.cpu_bits()
    chosen: dict[tuple[str, int], dict[str, Any]] = {}
    passed_over: dict[tuple[str, int], list[str]] = {}
    for row in native.rows():  # the best ones first
        operation = (row["name"].removesuffix("_" + row["level"]), row["format"])
        if operation in chosen:
            continue
        if row["needs"] & ~have:
            passed_over.setdefault(operation, []).append(row["level"])
        else:
            chosen[operation] = row
    return {
        "nybble": __version__,
        "python": sys.version.split()[0],
        "compiler": native.compiler(),
        "cpu": machine.cpu_name(),
        "architecture": os.uname().machine,
        "isa": native.forced_level() or None,
        "levels": native.levels(),
        "levels_not_built": native.missing_levels(),
        # which row of each, and which better ones this CPU lacks
        "kernels": {
            operation[0]: {"level": row["level"], "lacking": passed_over.get(operation, [])}
            for operation, row in sorted(chosen.items())
        },
        "cpus": machine.cpus(),
        "clusters": [
            {"capacity": capacity, "cpus": cpus} for capacity, cpus in machine.clusters().items()
        ],
        "quota": machine.quota(),
        "threads": machine.default_threads(),
        "untried": _why_untried(),
        "tunes": {name: tune._asdict() for name, tune in tuning.all_kept()},
        "memory": machine.memory(),
    }


def _why_untried() -> str | None:
    """The setting for which no model is tuned."""
    from nybble import tuning

    if tuning.is_wanted():
        return None
    names = ("NYBBLE_ISA", "NYBBLE_TUNE")
    return next(f"{name}={os.environ[name]}" for name in names if os.environ.get(name))


def _as_text(found: dict[str, Any]) -> list[str]:
    memory = {name: megabytes(nbytes) for name, nbytes in found["memory"].items()}
    lines = [
        f"nybble    {found['nybble']}, Python {found['python']}, built by {found['compiler']}",
        f"CPU       {printable(found['cpu'])} ({found['architecture']})",
    ]
    for cluster in found["clusters"]:
        capacity = "" if cluster["capacity"] is None else f", capacity {cluster['capacity']}"
        numbers = ", ".join(map(str, cluster["cpus"]))
        cpus = counted(len(cluster["cpus"]), "CPU")
        lines.append(f"{_INDENT}{cpus} that may be used{capacity}: {numbers}")
    if len(found["clusters"]) == 1:
        lines.append(f"{_INDENT}all alike: no clusters of faster and slower ones")
    quota = "none" if found["quota"] is None else f"{found['quota']:g} CPUs' time"
    lines.append(f"quota     {quota}, by the control group")
    why = f", and what is quickest is not tried ({found['untried']})" if found["untried"] else ""
    lines.append(f"threads   {found['threads']} by default{why}")
    for name, tune in found["tunes"].items():
        how = {0: "not tried, as a token takes long", 1: "by trial, once each"}
        lines.append(
            f"{_INDENT}{printable(name)}, {how.get(tune['rounds'], 'by trial')}: "
            f"decode {tune['decode_threads']}, prefill {tune['prefill_threads']}, "
            f"{tune['level']} rows"
        )
    lines.append("memory    " + ", ".join(f"{size} {name}" for name, size in memory.items()))
    forced = f"; NYBBLE_ISA={found['isa']} forces one" if found["isa"] else ""
    lines.append(f"levels    {', '.join(found['levels'])} are built{forced}")
    if found["levels_not_built"]:
        lines.append(f"          not built: {', '.join(found['levels_not_built'])}"
                     " (the compiler cannot)")  # fmt: skip
    lines.append("kernels   the best row that this CPU runs, for each operation and format:")
    reasons: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, row in found["kernels"].items():
        reasons.setdefault((row["level"], tuple(row["lacking"])), []).append(name)
    for (level, lacking), names in reasons.items():
        lines.append(f"  {level}: {_why(found, level, lacking)}")
        lines += textwrap.wrap(
            ", ".join(names),
            width=max(columns(sys.stdout) or _WIDTH, 2 * len(_INDENT)),
            initial_indent=_INDENT,
            subsequent_indent=_INDENT,
            break_long_words=False,
        )
    return lines


def _why(found: dict[str, Any], level: str, lacking: tuple[str, ...]) -> str:
    """Why it is a row of this level."""
    if lacking:
        who = f"NYBBLE_ISA={found['isa']}" if found["isa"] else "the CPU"
        return f"{who} lacks what {' and '.join(lacking)} need{'s' * (len(lacking) == 1)}"
    if level == found["levels"][0]:
        return "plain C, of which there is no faster row"
    return "the best there is"
