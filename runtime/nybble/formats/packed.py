"""Packed models, `.nyb` files: mapped, and run where they lie.

A packed model is a GGUF file (version 3) whose tensors are in the layout that the kernels read, in
the order in which a token reads them, with the tokenizer's tables built; what is where is in
docs/formats.md, "Packed files".

    with PackedFile("model.nyb") as file:
        file.metadata, file.tensors      # as in the GGUF file it was packed from
        file.tables                      # for nybble.tokenizer.load
        file.weights(program)            # nybble._core.program.Weights, in place

`nybble.formats.packed_writer` writes them.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from binascii import crc32
from collections.abc import Callable, Iterator, Mapping

from nybble._core.gguf import GgufIndex
from nybble._core.program import Program, Weights
from nybble.errors import FormatError, NybbleError
from nybble.formats.gguf import (
    MAX_HEAD,
    Gguf,
    GgufArray,
    GgufFile,
    GgufTensor,
    changed,
    open_file,
    sampled,
)

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    from nybble.lowering import Placement

ARCHITECTURE = "nybble"  # so that no other program takes the tensors for what their types say
VERSION = 1  # of the file
LAYOUT = "tiles 1"  # of its matrices
TABLES = "nybble.tokenizer"  # the tensor that holds the tokenizer's tables
ALIGNMENT = 64  # of all that lies behind the header
NO_SUM = "0" * 64  # stands for the sum while it is made
_PIECE = 4 << 20  # bytes summed at a time


class Source:
    """By which a GGUF file is known again.

    path     : of a copy in the cache the file's, all links resolved; else its name, for packed
               files are handed on
    nbytes   : its size
    mtime_ns : when it was last written to
    crc32    : of what is before its tensors
    stamp    : of a copy in the cache its ctime_ns, and its `sampled`; else None
    """

    __slots__ = ("crc32", "mtime_ns", "nbytes", "path", "stamp")

    def __init__(
        self, path: str, nbytes: int, mtime_ns: int, crc32: int, stamp: tuple[int, int] | None
    ):
        self.path = path
        self.nbytes = nbytes
        self.mtime_ns = mtime_ns
        self.crc32 = crc32
        self.stamp = stamp

    @property
    def has_place(self) -> bool:
        """Whether it says where the file was."""
        return os.path.isabs(self.path)

    def is_as_it_was(self) -> bool:
        """Whether the file is at `path`, and is the same by all that is known of it."""
        return self.has_place and self.is_at(self.path)

    def is_at(self, path: str) -> bool:
        """Whether it is the file at `path`: one of this size and time, and, where there is a stamp,
        untouched since; else the sample of its bytes tells."""
        try:
            now = os.stat(path)
            if (now.st_size, now.st_mtime_ns) != (self.nbytes, self.mtime_ns):
                return False
            # (A file system that keeps no ctime tells mtime in its place.)
            if self.stamp is None or now.st_mtime_ns != now.st_ctime_ns == self.stamp[0]:
                return True
            fd = open_file(path)
            try:
                return sampled(fd, self.nbytes) == self.stamp[1]
            finally:
                os.close(fd)
        except (OSError, ValueError, NybbleError):  # a packed file may say any path, with a NUL too
            return False

    def is_like(self, path: str) -> bool:
        """Whether the file at `path` may be it, fetched again: one of this size and head, of
        another time."""
        try:
            if os.stat(path).st_size != self.nbytes:
                return False
            with GgufFile(path) as file:
                return crc32(file.head) == self.crc32
        except (OSError, ValueError, NybbleError):
            return False


class _Metadata(Mapping[str, object]):
    """The metadata of a packed file as its GGUF file had it."""

    def __init__(self, own: Mapping[str, object], architecture: str):
        self._own = own
        self._architecture = architecture
        self._keys = dict.fromkeys(["general.architecture", *filter(is_kept, own)])

    def __getitem__(self, key: str) -> object:
        if key == "general.architecture":
            return self._architecture
        if key not in self._keys:
            raise KeyError(key)
        return self._own[key]

    def __contains__(self, key: object) -> bool:  # Mapping's own would decode the value
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class _Mapped(Gguf):
    """A GGUF file, mapped read-only: its bytes stay valid, and mapped, as long as anybody has any.

    bytes : all of it
    """

    def __init__(self, path: str):
        fd = open_file(path, "copy it again, or pack the model again (nybble pack)")
        try:
            self._map: mmap.mmap | None = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
        except ValueError:  # as for a file that has no bytes: it had some when it was opened
            raise changed(path) from None
        except (OSError, OverflowError) as error:
            raise NybbleError(f"{path} cannot be mapped: {error}") from error
        finally:
            os.close(fd)
        whole = memoryview(self._map)
        # As of a file that is read, no more is walked: there are files of terabytes that take no
        # room on a disk.
        index = GgufIndex(whole[:MAX_HEAD], path, len(whole), is_packed=True)
        super().__init__(path, len(whole), index)
        self.bytes = whole.toreadonly()

    def data(self, name: str) -> memoryview:
        tensor = self.tensors[name]
        return self.bytes[tensor.offset : tensor.offset + tensor.nbytes]

    def ask_for_huge_pages(self, start: int) -> None:
        """From byte `start` to the end, for what is read from there is read often: with huge pages
        looking up addresses costs less. The system reads ahead by as much then, and maps what it
        keeps in large folios in huge pages; where it has none of that, nothing changes."""
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._map is not None and first < self.nbytes and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):
                self._map.madvise(mmap.MADV_HUGEPAGE, first, self.nbytes - first)

    def let_go(self, start: int, end: int) -> None:
        """Gives the memory of the whole pages from byte `start` to `end` back."""
        page = mmap.PAGESIZE
        first, last = -(-start // page) * page, end // page * page
        if self._map is not None and last > first and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def close(self) -> None:
        super().close()
        self._map = None
        self.bytes = memoryview(b"")


class PackedFile:
    """A packed model, mapped read-only; has the parts of a GgufFile that loading a model takes.

    Opening checks its version and every count, length and offset in it. FormatError if it is
    damaged, is no packed file, or is of another version of nybble.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._file = _Mapped(os.fspath(path))
        self.path = self._file.path
        self.nbytes = self._file.nbytes
        self.version, self.alignment = self._file.version, self._file.alignment  # as GGUF
        own = self._file.metadata
        if not is_packed(self._file):
            raise FormatError(
                f"{self.path} is a GGUF file as others are, not a packed one: pack it (nybble pack)"
                f", or let its name end in .gguf"
            )
        version = own.get("nybble.version")
        if version != VERSION:
            is_newer = isinstance(version, int) and version > VERSION
            way_out = "update nybble, or pack the model again" if is_newer else "pack it again"
            raise FormatError(
                f"{self.path} is a packed file of version {version!r:.20}, and this nybble reads "
                f"version {VERSION}: {way_out} (nybble pack)"
            )
        self.source = Source(
            self._text("source.path"),
            self._number("source.nbytes"),
            self._number("source.mtime_ns"),
            self._number("source.crc32"),
            self._stamp(own),
        )
        self.metadata: Mapping[str, object] = _Metadata(own, self._text("architecture"))
        self.tensors: Mapping[str, GgufTensor] = {
            name: tensor for name, tensor in self._file.tensors.items() if name != TABLES
        }

    @property
    def head(self) -> memoryview:
        """The bytes before the tensors' data."""
        return self._file.head

    @property
    def tables(self) -> memoryview:
        """The tokenizer's tables (`nybble.tokenizer.load` checks them)."""
        if TABLES not in self._file.tensors:
            raise self._damaged(f"it has no {TABLES}")
        return self._file.data(TABLES)

    def data(self, name: str) -> memoryview:
        """A tensor's bytes, in place; a matrix's are packed."""
        return self._file.data(name)

    def weights(self, program: Program) -> Weights:
        """The weights where they lie, for the program that this file's metadata lowers to.
        FormatError if they are not what that program reads."""
        hows = self._file.metadata.get("nybble.tensors")
        if not isinstance(hows, GgufArray) or len(hows) != len(program.placements):
            raise self._damaged("nybble.tensors does not say how its tensors are packed")
        base = self.tensors[program.placements[0].name].offset
        for placement, how in zip(program.placements, hows, strict=True):
            at, expected = self.tensors[placement.name].offset, how_packed(placement)
            difference = None
            if at != base + placement.offset:
                difference = f"lies at {at}, and this nybble reads it at {base + placement.offset}"
            elif how != expected:
                difference = f"is packed as {how!r:.60}, and this nybble reads {expected!r}"
            if difference is not None:
                raise FormatError(
                    f"{self.path}: {placement.name} {difference}: another version of it packed the "
                    "file, or it is damaged; pack the model again (nybble pack, or nybble pull for "
                    "one that was pulled)"
                )
        end = base + program.weights_bytes
        if end != self.nbytes:  # the weights are the last of it
            raise self._damaged(f"it has {self.nbytes:,} of {end:,} bytes")
        if base % ALIGNMENT:
            raise self._damaged(f"its weights begin at {base}, which is not a multiple of 64")
        self._file.ask_for_huge_pages(base + program.read_from)
        return Weights(program, self._file.bytes[base:end])

    @property
    def sum(self) -> str:
        """The SHA-256 of what was written, in hex (`check_sum` compares)."""
        return self._text("sha256")

    def check_sum(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Reads all of the file; FormatError if it is not what was written, by its SHA-256."""
        from nybble.hashing import sha256

        expected = self.sum
        _, at, _ = self._file.record("nybble.sha256")
        digest = sha256(self._file.bytes[:at])
        digest.update(NO_SUM.encode())
        done = at + len(NO_SUM)
        while done < self.nbytes:
            end = min(done + _PIECE, self.nbytes)
            digest.update(self._file.bytes[done:end])
            self._file.let_go(done, end)
            done = end
            if on_progress is not None:
                on_progress(done, self.nbytes)
        if digest.hexdigest() != expected:
            raise self._damaged(f"its sha256 is {digest.hexdigest()}, not {expected:.80}")

    def close(self) -> None:
        """Lets go of the mapping; weights and tables that were handed out keep it."""
        self._file.close()

    def __enter__(self) -> PackedFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _text(self, key: str) -> str:
        value = self._file.metadata.get(f"nybble.{key}")
        if not isinstance(value, str):
            raise self._damaged(f"nybble.{key} is {value!r:.60}")
        return value

    def _number(self, key: str) -> int:
        value = self._file.metadata.get(f"nybble.{key}")
        if not isinstance(value, int):
            raise self._damaged(f"nybble.{key} is {value!r:.60}")
        return value

    def _stamp(self, own: Mapping[str, object]) -> tuple[int, int] | None:
        if "nybble.source.sample" not in own:
            return None
        return self._number("source.ctime_ns"), self._number("source.sample")

    def _damaged(self, what: str) -> FormatError:
        return FormatError(
            f"{self.path}: {what}; the packed file is damaged: copy it again, or pack the model"
            " again (nybble pack)"
        )


def is_packed(file: Gguf) -> bool:
    """Whether a GGUF file is a packed model."""
    return file.metadata.get("general.architecture") == ARCHITECTURE


def is_kept(key: str) -> bool:
    """Whether a key of the GGUF file is found under the same name in the packed one."""
    is_own = key in ("general.architecture", "general.alignment")
    return not is_own and not key.startswith("nybble.")


def how_packed(placement: Placement) -> str:
    """How a tensor is packed, in words: what two versions of nybble must agree on."""
    words = ["float32" if placement.rows == 0 else LAYOUT]
    if placement.rope_dims:
        words.append(f"halves {placement.rope_dims} of {placement.head_dim}")
    if placement.scale != 1.0:
        words.append(f"times {placement.scale!r}")
    return ", ".join(words)
