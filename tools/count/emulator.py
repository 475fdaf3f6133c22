"""How many instructions a static program executes under qemu, by function and by run.

A run is what lies between two calls of the program's function `count_mark`: tools/replay and the
peer's driver call it around what is to be counted. plugin.c does the counting; it is compiled on
demand against qemu's header, which Debian has in qemu's source package only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tools.aarch64 import QEMU
from tools.peers.build import Say, digest, run

SOURCE = Path(__file__).with_name("plugin.c")
MARK = "count_mark"
HEADER = "include/qemu/qemu-plugin.h"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class CountError(Exception):
    """The emulator or a program in it failed, or what it did cannot be counted exactly."""


class Executed(NamedTuple):
    """What a program printed, and the instructions of each of its runs by function."""

    stdout: str
    runs: list[Counter[str]]


def execute(plugin: Path, cpu: str, command: Sequence[str | Path]) -> Executed:
    """Runs a static program on an emulated CPU. Raises CountError where it fails, or has threads:
    counts of more than one are not exact."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "counts")
        emulated = [qemu(), "-cpu", cpu, "-plugin", f"{plugin},out={out},mark={MARK}"]
        done = subprocess.run(
            [*emulated, *map(str, command)], capture_output=True, text=True, env={}
        )
        if done.returncode != 0:
            why = done.stderr.strip() or done.stdout.strip() or "no word of why"
            raise CountError(f"exit status {done.returncode} on {cpu} of: {command[0]}\n{why}")
        return Executed(done.stdout, read_runs(out.read_text()))


def read_runs(text: str) -> list[Counter[str]]:
    """The runs in what plugin.c wrote: every second section, for one mark opens a run and the next
    one closes it."""
    *lines, end = text.splitlines()
    if end != "end vcpus 1":
        raise CountError(f"not the counts of one thread: {end}")
    sections: dict[int, Counter[str]] = {}
    for line in lines:
        section, name, count = line.split(" ")
        sections.setdefault(int(section), Counter())[name] += int(count)
    return [sections[i] for i in range(1, max(sections), 2)]


def qemu() -> str:
    """Where the emulator is. Raises CountError where there is none."""
    path = shutil.which(QEMU)
    if path is None:
        raise CountError(f"{QEMU} is missing; Debian has it in qemu-user")
    return path


def version() -> str:
    """The emulator's version. Raises CountError where there is none."""
    first = subprocess.run([qemu(), "--version"], capture_output=True, text=True, check=True).stdout
    return first.split()[2]


def build_plugin(cache: Path, say: Say) -> Path:
    """The plugin for the installed qemu, compiled if it is not in the cache."""
    folder = cache / f"qemu-{version()}"
    plugin = folder / f"{digest(SOURCE)[:16]}.so"
    if not plugin.exists():
        header = folder / Path(HEADER).name
        if not header.exists():
            say("fetching qemu's source package for its plugin header (24 MB)")
            fetch_header(header, folder / "apt.log")
        part = plugin.with_suffix(".part")
        flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{folder}"]
        run(["cc", *flags, str(SOURCE), "-o", str(part)], folder / "plugin.log")
        part.replace(plugin)
    return plugin


def fetch_header(out: Path, log: Path) -> None:
    """qemu-plugin.h from the source package of this Debian, checked by apt: with a list of sources
    and folders of its own, so neither root nor a changed system is needed."""
    if not shutil.which("apt-get"):
        raise CountError(f"there is no apt-get to fetch qemu's sources; put {out.name} at {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        for folder in ("lists/partial", "archives/partial"):
            Path(scratch, folder).mkdir(parents=True)
        Path(scratch, "sources.list").write_text(source_lines())
        apt = ["apt-get", "-q"]
        for key, value in {
            "Dir::Etc::sourcelist": f"{scratch}/sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": f"{scratch}/lists",
            "Dir::Cache::archives": f"{scratch}/archives",
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "APT::Sandbox::User": "",
        }.items():
            apt += ["-o", f"{key}={value}"]
        run([*apt, "update"], log)
        fetch = [*apt, "source", "--download-only", "qemu"]
        run(["env", "-C", scratch, *fetch], log)
        (archive,) = Path(scratch).glob("*.orig.tar.*")
        with tarfile.open(archive) as tar:
            name = next(m.name for m in tar if m.name.endswith(f"/{HEADER}"))
            tar.extract(name, scratch, filter="data")
        os.replace(Path(scratch, name), out)


def source_lines() -> str:
    """deb-src lines for where this machine gets its Debian packages from."""
    signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    line = f"deb-src {signed}$(REPO_URI) $(RELEASE) $(COMPONENT)"
    command = ["apt-get", "indextargets", "--format", line]
    found = subprocess.run(
        [*command, "Created-By: Packages", "Origin: Debian"], capture_output=True, text=True
    ).stdout
    if not found:
        raise CountError("apt knows no Debian mirror to get qemu's sources from")
    return "".join(sorted({f"{line}\n" for line in found.splitlines()}))
