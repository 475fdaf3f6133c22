"""python -m tools.cross userland: another architecture's Debian with Python, to run under qemu.

Packages are unpacked and nothing of them is run, which takes seconds where an installation under
qemu takes minutes. The tree is read by qemu in place of the machine's own (QEMU_LD_PREFIX); no
chroot, no binfmt_misc, no root. So a program there starts no other program of its kind.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from tools.cross import AskedError
from tools.cross.platforms import Platform, Userland, load, platforms
from tools.cross.toolbox import PIP, cache, program, run, say

_EXAMPLES = """\
examples:
  python -m tools.cross userland linux-aarch64
  $(python -m tools.cross userland linux-aarch64 --shell) -c 'import os; print(os.uname().machine)'
  QEMU_CPU=cortex-a53 $(python -m tools.cross userland linux-aarch64 --shell) program.py
"""


class Tree(NamedTuple):
    """A userland on disk."""

    folder: Path
    userland: Userland
    emulator: str

    @property
    def python(self) -> Path:
        """Its Python."""
        return self.folder / f"debian/usr/bin/python{self.userland.python}"

    @property
    def site(self) -> Path:
        """The folder of its PyPI packages."""
        return self.folder / "site"

    def environment(self, cpu: str | None = None) -> dict[str, str]:
        """What qemu is told: where the tree is, and which CPU to be; for None it is the one that
        the user's QEMU_CPU says, or all that qemu can be."""
        told = {"QEMU_LD_PREFIX": str(self.folder / "debian")}
        return told if cpu is None else {**told, "QEMU_CPU": cpu}

    def command(self) -> list[str]:
        """What starts its Python, in that environment."""
        return [program(self.emulator, "qemu-user"), str(self.python)]


def add_parser(verbs: Any) -> None:
    """Describe the verb to argparse."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "userland",
        help="unpack a platform's Debian and Python, to be emulated",
        description=f"{__doc__.partition(chr(10) * 2)[2]}\nIt is made once, in the cache, and anew "
        "when the platform's file says otherwise.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("platform", metavar="PLATFORM", help=", ".join(platforms()))
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="one JSON object")
    how.add_argument("--shell", action="store_true", help="the command that starts its Python")
    parser.set_defaults(run=main, check=check_arguments)


def check_arguments(args: argparse.Namespace) -> None:
    """AskedError if there is no such platform, or it is not emulated."""
    _userland_of(load(args.platform))


def _userland_of(platform: Platform) -> Userland:
    if platform.userland is None:
        raise AskedError(f"{platform.id} has no userland: it is not emulated")
    return platform.userland


def main(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    tree = make(load(args.platform))
    command = ["env", *(f"{k}={v}" for k, v in tree.environment().items()), *tree.command()]
    if args.json:
        print(json.dumps({"folder": str(tree.folder), "command": command}))
    else:
        print(" ".join(command) if args.shell else tree.folder)
    return 0


def make(platform: Platform) -> Tree:
    """The platform's tree: from the cache, or made now. AskedError if it has no userland."""
    userland = _userland_of(platform)
    home = cache() / "userlands"
    tree = Tree(home / f"{platform.id}-{userland.key()}", userland, f"qemu-{platform.cpu}")
    if tree.python.exists():
        return tree
    started = perf_counter()
    home.mkdir(parents=True, exist_ok=True)
    # Made under another name: a tree that is there is whole, whoever else makes one meanwhile.
    scratch = Path(tempfile.mkdtemp(dir=home, prefix=f".{platform.id}-"))
    try:
        say(f"{platform.id}: unpacking Debian {userland.suite}'s Python for {userland.arch}")
        unpack(userland, scratch / "debian")
        say(f"{platform.id}: {', '.join(userland.packages)} from PyPI")
        install(platform, userland, list(userland.packages), scratch / "site")
        compile_all(userland, scratch / "debian/usr/lib", scratch / "site")
        os.chmod(scratch, 0o755)
        if not tree.folder.exists():
            scratch.rename(tree.folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    say(f"{platform.id}: {tree.folder} ({perf_counter() - started:.0f} s)")
    return tree


def unpack(userland: Userland, folder: Path) -> None:
    """Makes `folder` hold the suite's packages and what they depend on."""
    options = ["--variant=extract", "--mode=unshare", "--skip=check/qemu", "--quiet"]
    if os.geteuid() == 0:
        options[1] = "--mode=root"
    options += [f"--architectures={userland.arch}", f"--include={','.join(userland.include)}"]
    options += ["--aptopt=APT::Install-Recommends false"]
    mmdebstrap = program("mmdebstrap", "mmdebstrap")
    run([mmdebstrap, *options, userland.suite, folder, *mirrors(userland.suite)])


def mirrors(suite: str) -> list[str]:
    """Where this machine has that suite from, as lines of a sources.list; [] where it is another
    system, for which mmdebstrap knows a mirror."""
    if not shutil.which("apt-get"):
        return []
    listing = run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"]
    )
    pairs = [line.split() for line in listing.splitlines()]
    uris = dict.fromkeys(pair[0] for pair in pairs if len(pair) == 2 and pair[1] == suite)
    return [f"deb {uri} {suite} main" for uri in uris]


def install(
    platform: Platform, userland: Userland, what: Sequence[str | Path], folder: Path
) -> None:
    """Installs packages and wheels for the platform, with what they need, into `folder`: only
    binaries that its glibc loads."""
    command = [sys.executable, *PIP, "--only-binary", ":all:", "--implementation", "cp"]
    command += ["--python-version", userland.python, "--target", str(folder)]
    for tag in platform.tags(userland.glibc):
        command += ["--platform", tag]
    run([*command, *what])


def compile_all(userland: Userland, *folders: Path) -> None:
    """Compiles to bytecode here, where it is quick, if this Python's is that of the tree."""
    if userland.python == "{}.{}".format(*sys.version_info):
        # Its tests hold files that do not compile, and are not run.
        subprocess.run([sys.executable, "-m", "compileall", "-qq", *folders], check=False)


def environment(tree: Tree, cpu: str | None, site: Path) -> Mapping[str, str]:
    """What its Python runs in: qemu's, and the packages of `site` and of the tree."""
    path = f"{site}{os.pathsep}{tree.site}"
    return {**tree.environment(cpu), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
