"""What other projects publish and tests compare with: fetched once, never committed."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

from tools.peers.build import PEERS, BuildError, download, extract

LLAMA_CPP = PEERS["llama.cpp"]


def cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "nybble-tests"


@functools.cache
def llama_cpp_sdist() -> Path:
    """The folder of llama.cpp's models/ from llama-cpp-python's source package: vocabularies
    (ggml-vocab-*.gguf) with strings (.inp) and their ids (.out), and templates/.

    77 MB are downloaded when it is first asked for. Where that fails, CI fails and a laptop skips.
    """
    folder = cache() / f"{LLAMA_CPP.package}-{LLAMA_CPP.version}"
    if not folder.exists():
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache()) as scratch:
            try:
                archive = download(LLAMA_CPP, Path(scratch))
            except BuildError as error:
                give_up(f"needs the sources of {LLAMA_CPP.package}: {error}")
            extract(archive, f"{LLAMA_CPP.tree}/models", folder)
    return folder


def give_up(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
