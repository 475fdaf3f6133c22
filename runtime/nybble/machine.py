"""What this machine lets a process use: CPUs, clusters, quotas, memory."""

from __future__ import annotations

import os
from collections.abc import Iterable

MAX_THREADS = 64  # NYB_MAX_THREADS
_RESERVE = 50  # a 50th of a control group's limit is left alone


def cpus() -> list[int]:
    """The CPUs that this process may run on, by its affinity mask."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def capacity(cpu: int) -> int | None:
    """How much a CPU can do, 1,024 for the machine's strongest; None where the kernel does not
    say, as where all are equal."""
    return _number(f"/sys/devices/system/cpu/cpu{cpu}/cpu_capacity")


def clusters() -> dict[int | None, list[int]]:
    """The usable CPUs by capacity, strongest first."""
    found: dict[int | None, list[int]] = {}
    for cpu in cpus():
        found.setdefault(capacity(cpu), []).append(cpu)
    return dict(sorted(found.items(), key=lambda item: -(item[0] or 0)))


def quota() -> float | None:
    """How many CPUs' time the control group may use, version 2 or 1; None if all."""
    for folder in _cgroup_folders():
        limit = _words(f"{folder}/cpu.max")
        if len(limit) == 2 and limit[0].isdigit() and limit[1].isdigit() and int(limit[1]):
            return int(limit[0]) / int(limit[1])
    share = _number("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = _number("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    return share / period if share and share > 0 and period else None


def default_threads() -> int:
    """Threads of the engine where the user does not say: the strongest cluster's CPUs, within
    the affinity mask and the control group's quota."""
    strongest = next(iter(clusters().values()))
    limit = quota()
    threads = len(strongest) if limit is None else min(len(strongest), int(limit))
    return min(max(threads, 1), MAX_THREADS)


def cpu_name() -> str:
    """What the kernel calls the CPU; the architecture where it has no name for it. An emulator may
    show the CPU below it: `vendor_id` is a word of x86 kernels."""
    found: dict[str, str] = {}
    for line in _lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    names = [found[key] for key in ("model name", "uarch", "Model") if key in found]
    name = names[0] if names else os.uname().machine
    is_shown_below = "vendor_id" in found and os.uname().machine in ("aarch64", "armv7l", "riscv64")
    return f"emulated on {name}" if is_shown_below else name


def memory() -> dict[str, int]:
    """Bytes of memory: total and available (which counts what the kernel would give back), and
    the control group's limit if there is one."""
    found = {}
    for line in _lines("/proc/meminfo"):
        key, _, value = line.partition(":")
        if key in ("MemTotal", "MemAvailable"):
            found["total" if key == "MemTotal" else "available"] = int(value.split()[0]) * 1024
    names = ("memory.max", "memory.high")
    limits = [_number(f"{folder}/{name}") for folder in _cgroup_folders() for name in names]
    limits += [_number(f"{folder}/memory.limit_in_bytes") for folder in _memory_folders()]
    real = [n for n in limits if n is not None and n < found.get("total", 1 << 62)]
    if real:
        found["limit"] = min(real)
    return found


def may_hold(held: int, headroom: int) -> tuple[int, str, str]:
    """How many bytes this process may hold in all, who says so, and how there could be more: the
    machine (what is available, less `headroom` for others), its control group, less a reserve, or
    its own limit (RLIMIT_AS).

    held : bytes that it holds, or has been promised, pages of files included

    Machine and groups count pages of files as what can be had, those that this process has mapped
    too: only its own memory comes on top of that.
    """
    import resource

    own = _status("VmRSS") - _status("RssFile")
    available = memory().get("available", 1 << 50)
    found = [(own + available - headroom, "what the machine has available", "close other programs")]
    for folder in _cgroup_folders():
        for name in ("memory.max", "memory.high"):
            most = _group(folder, name, "memory.current", "")
            if most is not None:
                found.append((own + most, f"its control group's {name}", "raise that limit"))
    for folder in _memory_folders():
        name = "memory.limit_in_bytes"
        most = _group(folder, name, "memory.usage_in_bytes", "total_")
        if most is not None:
            found.append((own + most, f"its control group's {name}", "raise that limit"))
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY:
        pages = _words("/proc/self/statm")
        used = int(pages[0]) * resource.getpagesize() if pages else 0
        found.append(
            (held + most - used, "its limit of address space (ulimit -v)", "raise that limit")
        )
    nbytes, who, way_out = min(found)
    return max(nbytes, 0), who, way_out


def held_bytes() -> int:
    """The memory that this process holds: VmRSS, file pages included; 0 where it is not known."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most memory that this process has held: the kernel's VmHWM, file pages included."""
    if peak := _status("VmHWM"):
        return peak
    import resource  # elsewhere; it also counts what was held before an exec

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(key: str) -> int:
    """Bytes of this process, as the kernel counts them; 0 where it does not."""
    for line in _lines("/proc/self/status"):
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0


def _group(folder: str, limit: str, usage: str, prefix: str) -> int | None:
    """The bytes that a control group leaves, pages of files counted as what can be had, and a
    reserve kept: it kills, and what the kernel keeps for a process is charged too. None if it has
    no such limit."""
    most, used = _number(f"{folder}/{limit}"), _number(f"{folder}/{usage}")
    if most is None or used is None:
        return None
    files = sum(
        _stat(f"{folder}/memory.stat", f"{prefix}{of}_file") for of in ("inactive", "active")
    )
    return most - most // _RESERVE - used + files


def _cgroup_folders() -> Iterable[str]:
    """The folders of this process's version 2 control group and of those above it."""
    for line in _lines("/proc/self/cgroup"):
        if line.startswith("0::"):
            yield from _upwards("/sys/fs/cgroup", line[3:])


def _memory_folders() -> Iterable[str]:
    """The folders of this process's version 1 control group for memory and of those above it. In a
    container the path may be the host's, and only the last of them there."""
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if "memory" in controllers.split(","):
            yield from _upwards("/sys/fs/cgroup/memory", path)


def _upwards(root: str, path: str) -> Iterable[str]:
    parts = [part for part in path.strip().split("/") if part]
    for n in range(len(parts), -1, -1):
        yield "/".join([root, *parts[:n]])


def _stat(path: str, key: str) -> int:
    for line in _lines(path):
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _words(path: str) -> list[str]:
    lines = _lines(path)
    return lines[0].split() if lines else []


def _number(path: str) -> int | None:
    words = _words(path)
    return int(words[0]) if words and words[0].lstrip("-").isdigit() else None
