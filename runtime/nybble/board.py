"""Boards: what is known of the machines that models are planned for, from targets/boards/*.toml.

A board's file has its name, its `isa`, its `clusters` of cores, strongest first (`cpu`, as
compilers name it, `cores`, `ghz`), the sizes it is sold with (`memory_mib`, least first), its
`page_size` in bytes, and, where somebody measured it, how fast its CPUs read memory (`read_gb_s`,
all of the strongest cluster's together) with the `source` of that. A board that `tools/cross` tries
has the CPU that qemu is to be (`qemu_cpu`) and the level of the best kernels that it is to be found
fit for (`expect_level`). What is not known is not there.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from nybble.errors import FormatError, UsageError

FOLDER = os.path.join(os.path.dirname(__file__), "boards")


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
    read_gb_s: float | None
    source: str
    qemu_cpu: str
    expect_level: str


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
    for key in fields.keys() - needed - {"read_gb_s", "source", "qemu_cpu", "expect_level"}:
        check(False, f"{key} is unknown")
    check(fields["isa"] in ("aarch64", "armv7", "riscv64", "x86_64"), "no such isa")
    check(bool(fields["clusters"]) and bool(fields["memory_mib"]), "clusters or memory are empty")
    for cluster in fields["clusters"]:
        check(cluster.keys() == {"cpu", "cores", "ghz"}, "a cluster has cpu, cores and ghz")
        check(1 <= cluster["cores"] <= 64 and 0 < cluster["ghz"] < 10, "cores or ghz out of range")
    memory = fields["memory_mib"]
    check(sorted(memory) == memory and memory[0] > 0, "memory_mib is to be in order")
    check(fields["page_size"] in (4096, 16384, 65536), "page_size is 4096, 16384 or 65536")
    read = fields.get("read_gb_s")
    check((read is None) == ("source" not in fields), "read_gb_s and source come together")
    check(read is None or 0 < read < 1000, "read_gb_s out of range")
    cpu, level = fields.get("qemu_cpu", ""), fields.get("expect_level", "")
    check(isinstance(cpu, str) and isinstance(level, str), "qemu_cpu and expect_level are texts")
    check(bool(cpu) == bool(level), "qemu_cpu and expect_level come together")
    return Board(
        id=id,
        name=fields["name"],
        isa=fields["isa"],
        clusters=tuple(Cluster(**cluster) for cluster in fields["clusters"]),
        memory_mib=tuple(memory),
        page_size=fields["page_size"],
        read_gb_s=read,
        source=fields.get("source", ""),
        qemu_cpu=cpu,
        expect_level=level,
    )
