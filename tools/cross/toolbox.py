"""What the tool works with: its Python packages in .venv/cross, its cache, and commands.

The packages are those of the extra `cross` in pyproject.toml, pinned there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.cross import ROOT, CrossError

HOME = ROOT / ".venv/cross"
PIP = ("-m", "pip", "--disable-pip-version-check", "install", "-q")
# Variables that compilers, setuptools, Python, pytest, qemu and nybble listen to; not where models
# are, nor how pip is set up.
_CHANGING = re.compile(
    r"CC|CXX|CPP|AR|LD|RANLIB|[A-Z]*FLAGS|[A-Z]*SHARED|CPATH|[A-Z_]*INCLUDE_PATH|LIBRARY_PATH"
    r"|_?(PYTHON|PYTEST|CYTHON|SETUPTOOLS|DISTUTILS|QEMU|ZIG)_?[A-Z_]*|NYBBLE_(?!HOME$)\w*"
)
TAIL = 15  # lines of a failed command's output that are shown


def say(line: str) -> None:
    """Progress, beside the results."""
    print(f"cross: {line}", file=sys.stderr, flush=True)


def cache() -> Path:
    """Where trees and the compiler's files are kept; may be deleted."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nybble"


def install() -> Path:
    """The Python of .venv/cross, which is made if it is not there or has other packages."""
    fields = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = fields["project"]["optional-dependencies"]["cross"]
    stamp, python = HOME / ".installed", HOME / "bin/python"
    if not stamp.exists() or stamp.read_text().splitlines() != packages:
        say(f"installing {len(packages)} packages in {HOME.relative_to(ROOT)} (100 MB, once)")
        venv.create(HOME, with_pip=True, clear=True)
        run([python, *PIP, *packages])
        # The tool reads boards by nybble's own module, which needs nothing that is compiled.
        for folder in HOME.glob("lib/python*/site-packages"):
            (folder / "runtime.pth").write_text(f"{ROOT / 'runtime'}\n")
        stamp.write_text("\n".join(packages))
    return python


def enter(arguments: Sequence[str]) -> None:
    """Goes on in .venv/cross: returns only if this process runs in it."""
    python = install()
    if Path(sys.prefix).resolve() != HOME.resolve():
        os.chdir(ROOT)
        os.execv(python, [str(python), "-m", "tools.cross", *arguments])


def program(name: str, package: str) -> str:
    """The path of a program; CrossError says which Debian package has it."""
    found = shutil.which(name)
    if found is None:
        raise CrossError(f"{name} is missing; on Debian and Ubuntu: apt-get install {package}")
    return found


def inherited() -> dict[str, str]:
    """The caller's environment, without what would change what is built and how it runs."""
    return {name: value for name, value in os.environ.items() if not _CHANGING.fullmatch(name)}


def run(
    command: Sequence[str | Path], *, cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> str:
    """Runs a command with what is inherited and `env`, and returns its stdout; CrossError with the
    end of its output if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**inherited(), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        tail = "\n".join(f"{done.stdout}\n{done.stderr}".splitlines()[-TAIL:])
        line = " ".join(str(part) for part in command)
        raise CrossError(f"exit status {done.returncode} of: {line:.300}\n{tail}")
    return done.stdout
