"""Platforms: what wheels are built for, from targets/platforms/*.toml.

A file has the compiler's target (`zig`), and what a library built for it must look like: `machine`
of its ELF header, the newest `glibc` version that it may ask for, the least `page_align` of its
segments in bytes, the libraries that it may have `needed`. Where a platform is emulated, its
`userland` says which Debian `suite` (with its `glibc`) and `arch`, Python (as in "3.11"), Debian
packages (`include`) and PyPI `packages` make it.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from typing import Any, NamedTuple

from tools.cross import ROOT, AskedError, CrossError

FOLDER = ROOT / "targets/platforms"


class Userland(NamedTuple):
    """An unpacked Debian of another architecture; the fields are those of the file."""

    arch: str
    suite: str
    glibc: tuple[int, int]
    python: str
    include: tuple[str, ...]
    packages: tuple[str, ...]

    def key(self) -> str:
        """Twelve hex digits that stand for all fields."""
        return hashlib.sha256(json.dumps(self).encode()).hexdigest()[:12]


class Platform(NamedTuple):
    """What wheels are built for; the fields are those of its file, and its id, the file's name."""

    id: str
    zig: str
    machine: str
    glibc: tuple[int, int]
    page_align: int
    needed: tuple[str, ...]
    userland: Userland | None

    @property
    def cpu(self) -> str:
        """The architecture as tags of wheels have it."""
        return self.id.removeprefix("linux-")

    def tags(self, glibc: tuple[int, int]) -> list[str]:
        """Those of wheels that this glibc can load, the oldest first."""
        major, newest = glibc
        return [f"manylinux_{major}_{minor}_{self.cpu}" for minor in range(17, newest + 1)]


def platforms() -> list[str]:
    """The ids of all platforms."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(id: str) -> Platform:
    """The platform of that id. AskedError if there is none."""
    if id not in platforms():
        raise AskedError(f"there is no platform {id!r:.40}; known: {', '.join(platforms())}")
    with (FOLDER / f"{id}.toml").open("rb") as file:
        return parsed(id, tomllib.load(file))


def parsed(id: str, fields: dict[str, Any]) -> Platform:
    """A platform from the fields of its file; CrossError if one is missing, unknown or wrong."""
    where = f"platforms/{id}.toml"
    kinds = {"zig": str, "machine": str, "glibc": str, "page_align": int, "needed": list}
    values = {name: value for name, value in fields.items() if name != "userland"}
    _check_fields(where, values, kinds)
    page = fields["page_align"]
    if page < 4096 or page & (page - 1):
        raise CrossError(f"{where}: page_align is {page}, no power of two from 4096 on")
    if not fields["zig"].endswith(f".{fields['glibc']}"):
        raise CrossError(f"{where}: zig is {fields['zig']}, not for glibc {fields['glibc']}")
    return Platform(
        id=id,
        zig=fields["zig"],
        machine=fields["machine"],
        glibc=_version(where, fields["glibc"]),
        page_align=page,
        needed=tuple(fields["needed"]),
        userland=_userland(f"{where} [userland]", fields["userland"])
        if "userland" in fields
        else None,
    )


def _userland(where: str, fields: dict[str, Any]) -> Userland:
    kinds = dict.fromkeys(("arch", "suite", "glibc", "python"), str)
    _check_fields(where, fields, {**kinds, "include": list, "packages": list})
    _version(where, fields["python"])
    for package in fields["packages"]:
        if "==" not in package:
            raise CrossError(f"{where}: {package} has no version; write {package}==...")
    return Userland(
        arch=fields["arch"],
        suite=fields["suite"],
        glibc=_version(where, fields["glibc"]),
        python=fields["python"],
        include=tuple(fields["include"]),
        packages=tuple(fields["packages"]),
    )


def _check_fields(where: str, fields: dict[str, Any], kinds: dict[str, type]) -> None:
    """That they are these fields, of these kinds; a list is one of texts and not empty."""
    for name in kinds.keys() - fields.keys():
        raise CrossError(f"{where}: {name} is missing")
    for name in fields.keys() - kinds.keys():
        raise CrossError(f"{where}: {name} is unknown")
    for name, kind in kinds.items():
        value = fields[name]
        texts = value if kind is list else [value] if kind is str else ["x"]
        if type(value) is not kind or not texts:
            raise CrossError(f"{where}: {name} is {value!r:.40}, not a filled {kind.__name__}")
        if not all(isinstance(text, str) and text for text in texts):
            raise CrossError(f"{where}: {name} is {value!r:.40}, not made of texts")


def _version(where: str, text: str) -> tuple[int, int]:
    major, dot, minor = text.partition(".")
    if not (dot and major.isdigit() and minor.isdigit()):
        raise CrossError(f"{where}: {text!r:.20} is no version of two numbers")
    return int(major), int(minor)
