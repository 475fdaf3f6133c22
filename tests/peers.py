"""What other projects publish and tests compare with: fetched once, never committed."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

LLAMA_CPP = "llama-cpp-python"
LLAMA_CPP_VERSION = "0.3.36"


def cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "nybble-tests"


@functools.cache
def llama_cpp_sdist() -> Path:
    """The folder of llama.cpp's models/ from llama-cpp-python's source package: vocabularies
    (ggml-vocab-*.gguf) with strings (.inp) and their ids (.out), and templates/.

    77 MB are downloaded when it is first asked for. Where that fails, CI fails and a laptop skips.
    """
    folder = cache() / f"{LLAMA_CPP}-{LLAMA_CPP_VERSION}"
    if not folder.exists():
        package = f"{LLAMA_CPP}=={LLAMA_CPP_VERSION}"
        command = [sys.executable, "-m", "pip", "download", "--no-deps"]
        command += ["--no-binary", LLAMA_CPP, package]
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache()) as scratch:
            done = subprocess.run(
                [*command, "-d", scratch], capture_output=True, text=True, check=False
            )
            archives = list(Path(scratch).glob("*.tar.gz"))
            if done.returncode != 0 or not archives:
                give_up(f"needs the sources of {package}; run: {' '.join(command)}\n{done.stderr}")
            extract(archives[0], Path(scratch) / "models")
            try:
                shutil.move(Path(scratch) / "models", folder)
            except FileExistsError:  # another run was faster
                pass
    return folder


def extract(archive: Path, folder: Path) -> None:
    """Only the files of vendor/llama.cpp/models, at their paths under it."""
    with tarfile.open(archive) as tar:
        for member in tar:
            _, found, path = member.name.partition("/vendor/llama.cpp/models/")
            source = tar.extractfile(member) if found and member.isfile() else None
            if source is None or ".." in path:
                continue
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with source, target.open("wb") as out:
                shutil.copyfileobj(source, out)


def give_up(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
