"""Benchmarks that say nothing on a machine that does something else meanwhile."""

import os
from pathlib import Path
from time import monotonic, perf_counter, sleep

import pytest

MOST_BUSY = 0.25  # CPUs
PATIENCE_S = 60


def busy_cpus(seconds: float = 1.0) -> float:
    """How many CPUs work, on the mean over that time."""

    def ticks() -> int:
        user, nice, system, _, _, irq, softirq = map(
            int, Path("/proc/stat").read_text().split(maxsplit=8)[1:8]
        )
        return user + nice + system + irq + softirq

    before, start = ticks(), perf_counter()
    sleep(seconds)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / (perf_counter() - start)


def wait_until_quiet() -> None:
    """Waits a minute for other programs to end; skips, with the reason, if they do not."""
    deadline = monotonic() + PATIENCE_S
    while (busy := busy_cpus()) > MOST_BUSY:
        if monotonic() > deadline:
            pytest.skip(f"needs a quiet machine: other programs keep {busy:.1f} CPUs busy")
