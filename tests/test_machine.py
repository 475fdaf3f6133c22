"""What this machine lets a process hold, by the kernel's files."""

import resource

import pytest

from nybble import machine

MIB = 1 << 20
HEADROOM = 64 * MIB
GROUP, OLD_GROUP = "/sys/fs/cgroup/a", "/sys/fs/cgroup/memory/a"


@pytest.fixture
def kernel(monkeypatch):
    """The files that are there: path -> text. A process of 30 MiB of its own and 300 of files, on a
    machine that can give 1,000."""
    files = {
        "/proc/meminfo": f"MemTotal: {4000 * 1024} kB\nMemAvailable: {1000 * 1024} kB",
        "/proc/self/status": (
            f"VmHWM: {400 * 1024} kB\nVmRSS: {330 * 1024} kB\n"
            f"RssAnon: {29 * 1024} kB\nRssFile: {300 * 1024} kB\nRssShmem: {1 * 1024} kB"
        ),
        "/proc/self/statm": f"{500 * MIB // resource.getpagesize()} 0 0 0 0 0 0",
    }
    monkeypatch.setattr(machine, "_lines", lambda path: files.get(path, "").splitlines())
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    return files


def may_hold(held=330 * MIB):
    nbytes, who, _ = machine.may_hold(held, HEADROOM)
    return nbytes / MIB, who


def test_pages_of_files_that_are_mapped_are_available_already(kernel):
    assert may_hold() == (30 + 1000 - 64, "what the machine has available")
    assert machine.held_bytes() == 330 * MIB
    assert machine.peak_bytes() == 400 * MIB


def in_group(kernel, **limits):
    kernel["/proc/self/cgroup"] = "0::/a"
    kernel[f"{GROUP}/memory.current"] = str(250 * MIB)
    kernel[f"{GROUP}/memory.stat"] = (
        f"anon {50 * MIB}\ninactive_file {120 * MIB}\nactive_file {80 * MIB}"
    )
    for name, limit in limits.items():
        kernel[f"{GROUP}/memory.{name}"] = limit


def test_a_control_group_keeps_a_reserve(kernel):
    in_group(kernel, max=str(500 * MIB), high="max")
    assert may_hold() == (30 + 500 - 10 - 50, "its control group's memory.max")


def test_a_control_group_that_slows_down_before_it_kills(kernel):
    in_group(kernel, max=str(500 * MIB), high=str(400 * MIB))
    assert may_hold() == (30 + 400 - 8 - 50, "its control group's memory.high")
    assert machine.memory()["limit"] == 400 * MIB


def test_a_control_group_of_version_1(kernel):
    kernel["/proc/self/cgroup"] = "4:memory:/a"
    kernel[f"{OLD_GROUP}/memory.limit_in_bytes"] = str(500 * MIB)
    kernel[f"{OLD_GROUP}/memory.usage_in_bytes"] = str(250 * MIB)
    kernel[f"{OLD_GROUP}/memory.stat"] = (
        f"total_inactive_file {120 * MIB}\ntotal_active_file {80 * MIB}"
    )
    assert may_hold() == (30 + 500 - 10 - 50, "its control group's memory.limit_in_bytes")


def test_address_space_has_the_pages_of_files_in_it(kernel, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (600 * MIB,) * 2)
    assert may_hold() == (330 + 600 - 500, "its limit of address space (ulimit -v)")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (100 * MIB,) * 2)
    assert may_hold(0)[0] == 0
