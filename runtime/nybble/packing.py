"""From a model's file to what the engine is given, and the packed copies that make it quick.

A GGUF file is packed once: the copy goes into the cache, and later loads map that. `read(path)`
opens a model's file, or its copy, with its tree, program and tokenizer; `Reading.take_copy()` makes
the copy if there is none.

`$NYBBLE_PACK` says where copies are made: `auto` (the default) for models whose weights take 16 MiB
or more, `0` never: then weights are packed in memory each time.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Mapping

from nybble import archs, hub
from nybble._core.program import Program, Weights, pack_in_memory
from nybble.errors import FormatError, NybbleError, UsageError
from nybble.formats import packed
from nybble.formats.gguf import GgufFile, GgufLongText
from nybble.formats.packed import PackedFile
from nybble.lowering import lower
from nybble.tokenizer import Tokenizer
from nybble.tokenizer import load as load_tokenizer

Progress = Callable[[int, int], None]
WORTH_A_COPY = 16 << 20  # bytes of weights; fewer are packed within a tenth of a second on a Pi 4
_SLACK = 64 << 20  # bytes of the disk that a copy leaves free: it is a comfort, no necessity


class Reading:
    """A model's file, opened, and what is made of it before its weights are wanted.

    file      : the GGUF file or the packed one
    tree      : nybble.archs.Decoder
    program   : nybble._core.program.Program
    tokenizer : nybble.tokenizer.Tokenizer
    template  : the source of the chat template; None if there is none
    notice    : what a user should know of how the weights were read; "" for nothing

    FormatError, with the file's path, if it is no model that runs here, or damaged.
    """

    def __init__(self, file: GgufFile | PackedFile):
        self.notice = ""
        self.file = file
        self._mapped: Weights | None = None
        self.has_no_copy = False  # though it was to be one: there can be none
        tables = file.tables if isinstance(file, PackedFile) else None
        with blaming(file):
            self.tree = archs.describe(file.metadata, file.tensors, file.data)
            self.program = Program(lower(self.tree, formats(self.tree, file)))
            self.tokenizer: Tokenizer = load_tokenizer(file.metadata, tables)
            self.template = _template_of(file.metadata)
        if isinstance(file, PackedFile):
            self._mapped = file.weights(self.program)

    @property
    def is_to_be_mapped(self) -> bool:
        """Whether the weights are, or are to be, pages of a packed file."""
        is_worth_it = self.program.weights_bytes >= WORTH_A_COPY
        return self._mapped is not None or (not self.has_no_copy and is_wanted() and is_worth_it)

    @property
    def packed_nbytes(self) -> int:
        """Bytes of the packed file, be it there or not."""
        if isinstance(self.file, PackedFile):
            return self.file.nbytes
        from nybble.formats import packed_writer

        return packed_writer.size(self.file, self.program, self.tokenizer)

    def close(self) -> None:
        """Lets go of the file; weights that were handed out keep what they need."""
        self.file.close()

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def head_bytes(self) -> int:
        """Bytes of the file before its tensors."""
        return len(self.file.head)

    def take_copy(self, on_progress: Progress | None = None) -> bool:
        """Packs a GGUF file that is to be mapped into the cache, and is a reading of the copy then.
        False if there can be none, and the weights are not to be mapped any more.

        on_progress : called with (bytes of weights packed, bytes in all)
        """
        if self._mapped is not None or not self.is_to_be_mapped:
            return True
        path = self.file.path
        try:
            make_copy(self, on_progress)
            copy = copied(path)
            if copy is None:
                raise UsageError("another file has taken its name")
        except (OSError, UsageError) as error:
            self._give_up(error)
            return False
        self.file.close()
        self.file, self.program, self.tokenizer = copy.file, copy.program, copy.tokenizer
        self._mapped = copy._mapped
        return True

    def foresee_copy(self) -> None:
        """Finds out, without writing, whether `take_copy` would find room for a copy; if not, the
        weights are not to be mapped, and `notice` says why. What it would clear away before is
        not counted as room."""
        from nybble.disk import check_room

        if self._mapped is not None or not self.is_to_be_mapped:
            return
        try:
            folder = os.path.dirname(hub.copy_path(self.file.path))
            check_room(folder, self.packed_nbytes + _SLACK)
        except (OSError, UsageError) as error:
            self._give_up(error)

    def weights(self, on_progress: Progress | None = None) -> Weights:
        """The packed weights: where they lie in a packed file, or packed in memory.

        on_progress : called with (bytes of weights packed, bytes in all) if any are
        """
        return self._mapped or self._in_memory(on_progress)

    def _in_memory(self, on_progress: Progress | None) -> Weights:
        file = self.file
        assert isinstance(file, GgufFile)

        with blaming(file):
            return pack_in_memory(self.program, file.read, on_progress)

    def _give_up(self, error: OSError | UsageError) -> None:
        self.notice = self._why_in_memory(error)
        self.has_no_copy = True

    def _why_in_memory(self, error: OSError | UsageError) -> str:
        name, where = os.path.basename(self.file.path), ""
        if isinstance(error, OSError):
            full = error.errno == errno.ENOSPC
            why = "the disk is too full" if full else error.strerror or str(error)
            where = f" in {hub.cache_folder()}"
        else:
            why = str(error)
        return (
            f"{name} runs from memory ({self.program.weights_bytes / 1e6:,.0f} MB) and is packed "
            f"at each start: no copy can be kept{where} ({why})"
        )


def read(path: str, *, is_first: bool = False) -> Reading:
    """Opens a model: a packed file, or a GGUF file, or its packed copy if there is one; is_first:
    as where there is none yet."""
    copy = copied(path) if is_wanted() and not is_first else None
    return copy or Reading(open_file(path))


def _template_of(metadata: Mapping[str, object]) -> str | None:
    source = metadata.get("tokenizer.chat_template")
    if isinstance(source, GgufLongText):
        raise FormatError(f"tokenizer.chat_template is {source!r}, too long for one")
    if source is not None and not isinstance(source, str):
        raise FormatError(f"tokenizer.chat_template is {source!r:.60}; it should be text")
    return source


@contextlib.contextmanager
def blaming(file: GgufFile | PackedFile) -> Iterator[None]:
    """A FormatError in here names the file; and one that was written to while it was read is told
    of as that, whatever came of it."""
    try:
        yield
    except FormatError as error:
        if isinstance(file, GgufFile):
            file.check_unchanged()
        raise FormatError(f"{file.path}: {error}") from None
    if isinstance(file, GgufFile):
        file.check_unchanged()


def open_file(path: str) -> GgufFile | PackedFile:
    """A model's file, of the kind that its name says: what is called .nyb is mapped, and all else
    is read. FormatError as GgufFile and PackedFile have it, and if it is of the other kind."""
    if path.endswith(hub.PACKED):
        return PackedFile(path)
    file = GgufFile(path)
    if packed.is_packed(file):
        file.close()
        raise FormatError(
            f"{path} is a packed model, which is mapped and not read, and so must say what it is: "
            f"let its name end in {hub.PACKED}"
        )
    return file


def formats(tree: archs.Decoder, file: GgufFile | PackedFile) -> dict[str, str]:
    """The format of every tensor the model needs, after checking that the file has just those,
    in just those shapes."""
    arch = file.metadata["general.architecture"]
    found = {}
    for name, shape in tree.tensors():
        tensor = file.tensors.get(name)
        if tensor is None:
            raise FormatError(f"{name} is missing; {arch} needs it")
        if tuple(tensor.shape) != shape:
            raise FormatError(f"{name} is {tuple(tensor.shape)}, {arch} wants {shape}")
        found[name] = tensor.format
    for name in file.tensors:
        if name not in found:
            raise FormatError(f"{name} is there, and {arch} has no use for it")
    return found


# -- copies in the cache


def is_wanted() -> bool:
    """Whether copies are to be made and used, by $NYBBLE_PACK."""
    wish = os.environ.get("NYBBLE_PACK", "") or "auto"
    if wish not in ("auto", "1", "0"):
        raise UsageError(f"NYBBLE_PACK is {wish!r:.40}; it may be auto or 0")
    return wish != "0"


def copied(path: str) -> Reading | None:
    """A reading of the packed copy of the GGUF file at `path`. None if there is none of the file as
    it is, or if it is damaged or another version's: it is made anew then."""
    with contextlib.suppress(NybbleError):  # hub's too: a user without a home has no cache
        place = hub.copy_path(path)
        if os.path.isfile(place):
            file = PackedFile(place)
            is_of_it = file.source.path == os.path.realpath(path) and file.source.stamp is not None
            if is_of_it and file.source.is_as_it_was():
                return Reading(file)
    return None


def make_copy(reading: Reading, on_progress: Progress | None = None) -> str:
    """Packs the GGUF file of a reading into the cache; returns the copy's path. Copies of files
    that are no more are removed. OSError if there is no room for it, or it cannot be written;
    FormatError if the file's weights cannot be packed, or it has changed since it was opened;
    UsageError if there is no cache folder, as this user has no home."""
    from nybble.formats import packed_writer

    file = reading.file
    assert isinstance(file, GgufFile)
    place = hub.copy_path(file.path)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    _remove_orphans(os.path.dirname(place))
    with blaming(file):
        packed_writer.write(
            place,
            file,
            reading.program,
            reading.tokenizer,
            on_progress,
            is_copy=True,
            spare=_SLACK,
            is_there=lambda: copied(file.path) is not None,
        )
    return place


def _remove_orphans(folder: str) -> None:
    """Removes copies of files that are gone or have changed, those of another version of the file,
    what was found by trying models that are gone, and what processes left that were killed."""
    from nybble import tuning
    from nybble.disk import remove_left

    for entry in _entries(folder):
        if entry.endswith((f"{hub.PACKED}.part", f"{hub.TUNE}.part")):
            remove_left(entry)
        is_left = entry.endswith(hub.PACKED) and not _is_of_use(entry)
        if is_left or (entry.endswith(hub.TUNE) and not tuning.is_of_use(entry)):
            with contextlib.suppress(OSError):  # another process was faster
                os.unlink(entry)


def _entries(folder: str) -> Iterator[str]:
    with contextlib.suppress(OSError):
        yield from sorted(entry.path for entry in os.scandir(folder))


def _is_of_use(copy: str) -> bool:
    try:
        with PackedFile(copy) as file:
            return file.source.is_as_it_was()
    except NybbleError:
        return False
