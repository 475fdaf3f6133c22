"""What is asked of a disk where files must be there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    from typing import BinaryIO


def free_bytes(folder: str) -> int:
    """How many bytes an ordinary user may still write there."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def check_room(folder: str, nbytes: int) -> None:
    """OSError if no file of so many bytes can be written to a folder, which need not exist yet."""
    folder = os.path.abspath(folder)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise _error(errno.ENOTDIR)
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise _error(errno.EROFS)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _error(errno.EACCES)
    if free_bytes(folder) < nbytes:
        raise _error(errno.ENOSPC)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def sync_folder(folder: str) -> None:
    """Makes a rename in the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def part_of(path: str, nbytes: int, is_there: Callable[[], bool]) -> Iterator[BinaryIO | None]:
    """An empty file with room for so many bytes, which becomes `path` when the block ends, and is
    gone if it fails. Its lock ends with its process: one that was killed leaves a file that the
    next begins anew. None if `is_there`, which is asked once no other process works on the file:
    one may just have done so."""
    partial, folder = f"{path}.part", os.path.dirname(os.path.abspath(path))
    with _locked(partial) as part:
        try:
            if is_there():
                yield None
                os.unlink(partial)
                return
            part.truncate(0)
            _reserve(part, folder, nbytes)
            yield part
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise
    sync_folder(folder)


def remove_left(partial: str) -> None:
    """Removes the `.part` file of a process that was killed; one at which somebody works stays."""
    with contextlib.suppress(OSError):
        descriptor = os.open(partial, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _has_name(descriptor, partial):  # else it became what it was to be, or was removed
                os.unlink(partial)  # who has opened it meanwhile, and waits, sees that it is gone
        finally:
            os.close(descriptor)


def _locked(path: str) -> BinaryIO:
    """The file of that name, made if there is none, that no other process works on."""
    while True:
        # No links: in a folder that others write to, one might lead to a file of this user's.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.fdopen(os.open(path, flags, 0o666), "r+b")
        fcntl.flock(file, fcntl.LOCK_EX)
        if _has_name(file.fileno(), path):
            return file
        file.close()  # who was waited for is done with it


def _has_name(descriptor: int, path: str) -> bool:
    """Whether the open file is the one of that name: the name may be another's by now, or none's.
    Who has its lock may rely on that, for names change under the lock."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _reserve(file: BinaryIO, folder: str, nbytes: int) -> None:
    """Takes so many bytes of the disk; OSError with ENOSPC if it has fewer."""
    if free_bytes(folder) < nbytes:
        raise _error(errno.ENOSPC)
    try:
        os.posix_fallocate(file.fileno(), 0, nbytes)
    except AttributeError:
        pass  # a system without it finds out while writing
    except OSError as error:  # and so does a file system without it
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
