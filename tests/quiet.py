"""Benchmarks that say nothing on a machine that does something else meanwhile."""

from time import monotonic, perf_counter, sleep

import pytest

from tools.peers.measure import busy_cpu_seconds

MOST_BUSY = 0.25  # CPUs
PATIENCE_S = 60


def busy_cpus() -> float:
    """How many CPUs work, on the mean over a second."""
    before, start = busy_cpu_seconds(), perf_counter()
    sleep(1)
    return (busy_cpu_seconds() - before) / (perf_counter() - start)


def wait_until_quiet() -> None:
    """Waits a minute for other programs to end; skips, with the reason, if they do not."""
    deadline = monotonic() + PATIENCE_S
    while (busy := busy_cpus()) > MOST_BUSY:
        if monotonic() > deadline:
            pytest.skip(f"needs a quiet machine: other programs keep {busy:.1f} CPUs busy")
