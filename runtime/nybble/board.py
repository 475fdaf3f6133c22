"""Boards: what is known of the machines that models are planned for, from targets/boards/*.toml.

A board's file has its name, its `isa`, its `clusters` of cores, strongest first (`cpu`, as
compilers name it, `cores`, `ghz`), the sizes it is sold with (`memory_mib`, least first), its
`page_size` in bytes, and, where somebody measured it, how much of the least size Linux sees
(`linux_mib`, its MemTotal) and how much of that is not available in an idle system without a
desktop (`idle_mib`) with the `memory_source` of both, and how fast its CPUs read memory
(`read_gb_s`, all of the strongest cluster's together) with the `source` of that. A board that
`tools/cross` tries has the CPU that qemu is to be (`qemu_cpu`) and the level of the best kernels
that it is to be found fit for (`expect_level`). What is not known is not there.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from nybble.errors import FormatError, UsageError

FOLDER = os.path.join(os.path.dirname(__file__), "boards")
# The ISA levels whose kernels a board may run, least first, by isa; and the bytes that each level's
# matrix products take of a panel for a block, as the rooms' kernels.def have them.
LEVELS = {
    "aarch64": ("ref", "neon", "dotprod", "i8mm"),
    "armv7": ("ref",),
    "riscv64": ("ref",),
    "x86_64": ("ref", "avx2", "avxvnni", "avx512vnni"),
}
PANEL_BYTES = {
    "ref": 576,
    "neon": 352,
    "dotprod": 352,
    "i8mm": 3520,
    "avx2": 320,
    "avxvnni": 320,
    "avx512vnni": 1280,
}


class Cluster(NamedTuple):
    """Cores of one kind."""

    cpu: str
    cores: int
    ghz: float


class Board(NamedTuple):
    """A machine; the fields are those of its file, and its id, the file's name."""

    id: str
    name: str
    isa: str
    clusters: tuple[Cluster, ...]
    memory_mib: tuple[int, ...]
    page_size: int
    linux_mib: int | None
    idle_mib: int | None
    memory_source: str
    read_gb_s: float | None
    source: str
    qemu_cpu: str
    expect_level: str

    @property
    def panel_bytes(self) -> int:
        """The most bytes of a panel's block that its kernels need: those of its level and below;
        where that is not known, of all levels of its isa."""
        levels = LEVELS[self.isa]
        if self.expect_level:
            levels = levels[: levels.index(self.expect_level) + 1]
        return max(PANEL_BYTES[level] for level in levels)


def boards() -> list[str]:
    """The ids of all boards."""
    return sorted(name[:-5] for name in os.listdir(FOLDER) if name.endswith(".toml"))


def load(id: str) -> Board:
    """The board of that id. UsageError if there is none."""
    known = boards()
    if id not in known:
        raise UsageError(f"there is no board {id!r:.40}; known: {', '.join(known)}")
    import tomllib

    with open(os.path.join(FOLDER, f"{id}.toml"), "rb") as file:
        return parsed(id, tomllib.load(file))


def parsed(id: str, fields: dict[str, Any]) -> Board:
    """A board from the fields of its file; FormatError if one is missing, unknown or wrong."""

    def check(holds: bool, what: str) -> None:
        if not holds:
            raise FormatError(f"boards/{id}.toml: {what}")

    needed = {"name", "isa", "clusters", "memory_mib", "page_size"}
    for key in needed - fields.keys():
        check(False, f"{key} is missing")
    may_be = {"linux_mib", "idle_mib", "memory_source", "read_gb_s", "source"}
    for key in fields.keys() - needed - may_be - {"qemu_cpu", "expect_level"}:
        check(False, f"{key} is unknown")
    for key in ("name", "isa", "memory_source", "source", "qemu_cpu", "expect_level"):
        check(isinstance(fields.get(key, ""), str), f"{key} is to be a text")
    check(fields["isa"] in LEVELS, "no such isa")
    clusters, memory = fields["clusters"], fields["memory_mib"]
    for key in ("clusters", "memory_mib"):
        is_list = isinstance(fields[key], list) and fields[key] != []
        check(is_list, f"{key} is to be a list, not empty")
    for cluster in clusters:
        is_one = isinstance(cluster, dict) and cluster.keys() == {"cpu", "cores", "ghz"}
        check(is_one, "a cluster has cpu, cores and ghz")
        check(isinstance(cluster["cpu"], str), "a cluster's cpu is to be a text")
        check(_is_whole(cluster["cores"]) and 1 <= cluster["cores"] <= 64, "cores out of range")
        check(_is_number(cluster["ghz"]) and 0 < cluster["ghz"] < 10, "ghz out of range")
    check(all(map(_is_whole, memory)), "memory_mib is to be of whole numbers")
    check(sorted(memory) == memory and memory[0] > 0, "memory_mib is to be in order")
    linux, idle = fields.get("linux_mib"), fields.get("idle_mib")
    is_said = linux is not None or idle is not None
    check(is_said == ("memory_source" in fields), "memory_source comes with linux_mib or idle_mib")
    for key, amount in (("linux_mib", linux), ("idle_mib", idle)):
        check(amount is None or _is_whole(amount), f"{key} is to be a whole number")
        check(amount is None or 0 < amount < memory[0], f"{key} is out of range")
    page = fields["page_size"]
    check(_is_whole(page) and page in (4096, 16384, 65536), "page_size is 4096, 16384 or 65536")
    read = fields.get("read_gb_s")
    check((read is None) == ("source" not in fields), "read_gb_s and source come together")
    check(read is None or (_is_number(read) and 0 < read < 1000), "read_gb_s out of range")
    cpu, level = fields.get("qemu_cpu", ""), fields.get("expect_level", "")
    check(bool(cpu) == bool(level), "qemu_cpu and expect_level come together")
    check(not level or level in LEVELS[fields["isa"]], "expect_level is none of its isa's")
    return Board(
        id=id,
        name=fields["name"],
        isa=fields["isa"],
        clusters=tuple(Cluster(**cluster) for cluster in clusters),
        memory_mib=tuple(memory),
        page_size=page,
        linux_mib=linux,
        idle_mib=idle,
        memory_source=fields.get("memory_source", ""),
        read_gb_s=read,
        source=fields.get("source", ""),
        qemu_cpu=cpu,
        expect_level=level,
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or _is_whole(value)
