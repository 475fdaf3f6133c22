"""From a model's file to what the engine is given, and the packed copies that make it quick.

A GGUF file is packed once: the copy goes into the cache, and later loads map that. `read(path)`
finds out which file is to be read and opens it, with its tree, program and tokenizer;
`Reading.weights()` makes the copy if there is none.

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
from nybble.errors import FormatError, UsageError
from nybble.formats import packed
from nybble.formats.gguf import GgufFile
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
    """

    def __init__(self, file: GgufFile | PackedFile):
        self.notice = ""
        self.file = file
        tables = file.tables if isinstance(file, PackedFile) else None
        with _blaming(file):
            self.tree = archs.describe(file.metadata, file.tensors, file.data)
            self.program = Program(lower(self.tree, formats(self.tree, file)))
            self.tokenizer: Tokenizer = load_tokenizer(file.metadata, tables)
            self.template = _template_of(file.metadata)

    @property
    def is_to_be_mapped(self) -> bool:
        """Whether the weights are, or are to be, pages of a packed file."""
        is_worth_it = self.program.weights_bytes >= WORTH_A_COPY
        return isinstance(self.file, PackedFile) or (is_wanted() and is_worth_it)

    @property
    def packed_nbytes(self) -> int:
        """Bytes of the packed file, be it there or not."""
        if isinstance(self.file, PackedFile):
            return self.file.nbytes
        return packed.size(self.file, self.program, self.tokenizer)

    @property
    def head_bytes(self) -> int:
        """Bytes of the file before its tensors."""
        return len(self.file.head)

    def weights(self, on_progress: Progress | None = None) -> Weights:
        """The packed weights: where they lie in a packed file. Those of a GGUF file are packed into
        the cache and mapped, if they are worth it, and that is the reading's file then; else, and
        where the disk does not take them, they are packed in memory.

        on_progress : called with (bytes of weights packed, bytes in all) if any are
        """
        if isinstance(self.file, PackedFile):
            return self.file.weights(self.program)
        if self.is_to_be_mapped:
            try:
                with _blaming(self.file):
                    place = make_copy(self.file, self, on_progress)
                copy = Reading(PackedFile(place))
            except OSError as error:
                self.notice = self._why_in_memory(error)
            else:
                self.file.close()
                self.file, self.program, self.tokenizer = copy.file, copy.program, copy.tokenizer
                return copy.weights()
        return self._in_memory(self.file, on_progress)

    def _in_memory(self, file: GgufFile, on_progress: Progress | None) -> Weights:
        with _blaming(file):
            return pack_in_memory(self.program, file.read, on_progress)

    def _why_in_memory(self, error: OSError) -> str:
        why = "the disk is too full" if error.errno == errno.ENOSPC else error.strerror or error
        return (
            f"{os.path.basename(self.file.path)} runs from memory "
            f"({self.program.weights_bytes / 1e6:,.0f} MB) and is packed at each start: no copy "
            f"can be kept in {hub.cache_folder()} ({why})"
        )


def read(path: str) -> Reading:
    """Opens a model: a packed file, or a GGUF file, or its packed copy if there is one."""
    if is_wanted() and (copy := copy_of(path)) is not None:
        with contextlib.suppress(FormatError):  # damaged, or another version's: made anew later
            reading = Reading(PackedFile(copy))
            reading.weights()
            return reading
    return Reading(open_file(path))


def _template_of(metadata: Mapping[str, object]) -> str | None:
    source = metadata.get("tokenizer.chat_template")
    if source is not None and not isinstance(source, str):
        raise FormatError(f"tokenizer.chat_template is {source!r:.60}; it should be text")
    return source


@contextlib.contextmanager
def _blaming(file: GgufFile | PackedFile) -> Iterator[None]:
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
    """A model's file, of whichever kind it is."""
    file = GgufFile(path)
    if not packed.is_packed(file):
        return file
    file.close()
    return PackedFile(path)


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
    if wish not in ("auto", "0"):
        raise UsageError(f"NYBBLE_PACK is {wish!r:.40}; it may be auto or 0")
    return wish == "auto"


def copy_of(path: str) -> str | None:
    """The packed copy of the GGUF file at `path`; None if there is none of the file as it is."""
    place = hub.copy_path(path)
    if not os.path.isfile(place):
        return None
    try:
        with PackedFile(place) as copy:
            is_its = copy.source.path == os.path.realpath(path) and copy.source.is_as_it_was()
    except FormatError:
        return None
    return place if is_its else None


def make_copy(file: GgufFile, reading: Reading, on_progress: Progress | None = None) -> str:
    """Packs a GGUF file, of which there is a reading, into the cache; returns the copy's path.
    Copies of files that are no more are removed. OSError if there is no room for it, or it cannot
    be written."""
    place = hub.copy_path(file.path)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    for orphan in orphans():
        os.unlink(orphan)
    packed.write(
        place,
        file,
        reading.program,
        reading.tokenizer,
        on_progress,
        spare=_SLACK,
        is_there=lambda: copy_of(file.path) is not None,
    )
    return place


def orphans() -> Iterator[str]:
    """Copies of files that are gone, or have changed; and those that no nybble reads any more."""
    with contextlib.suppress(FileNotFoundError):
        folder = os.path.join(hub.cache_folder(), "packed")
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if not entry.name.endswith(hub.PACKED):
                continue
            try:
                with PackedFile(entry.path) as copy:
                    is_orphan = not copy.source.is_as_it_was()
            except FormatError:
                is_orphan = True
            if is_orphan:
                yield entry.path
