"""GGUF files: their head scanned in C, and decoded only where somebody looks; their tensors read.

    with GgufFile("model.gguf") as file:
        file.metadata["general.architecture"]           # "llama"
        file.metadata["tokenizer.ggml.tokens"][5]       # a GgufArray: decodes this string only
        file.tensors["token_embd.weight"].shape         # (49152, 576)
        file.data("token_embd.weight")                  # read-only memoryview

A file is read, not mapped: one that is cut short while it is mapped ends the process with a
signal, and one that is overwritten changes under whoever has checked it. What is read stays.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
import stat
from binascii import crc32
from collections.abc import Iterator, Mapping

from nybble._core.gguf import GgufArray, GgufIndex, wanted
from nybble.errors import (
    BudgetError,
    FormatError,
    ModelNotFoundError,
    NybbleError,
    UsageError,
)

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    from typing import Self

__all__ = ["Gguf", "GgufArray", "GgufFile", "GgufLongText", "GgufTensor"]

READ = 1 << 20  # bytes at once
N_PIECES, PIECE = 64, 4096  # of a sample
MAX_HEAD = 1 << 26  # bytes before the tensors' data; a quarter of a million tokens take 16 MB
MAX_TEXT = 1 << 20  # bytes of a text that is decoded; a long chat template has 20 thousand
_STRING = 8  # GGUF's number of that type

# What people have in a file called .gguf that is none: how it begins, what it is, what to do.
MISTAKEN = (
    (b"version https://git-lfs", "a Git LFS pointer, not the model itself", "run `git lfs pull`"),
    (b"<", "a web page, not a model", "download the file itself, not its page"),
    (b"PK\x03\x04", "a zip archive (a PyTorch file?)", "convert the model to GGUF"),
    (b"lmgg", "a GGML file from before GGUF", "get the model as GGUF"),
    (b"fmgg", "a GGML file from before GGUF", "get the model as GGUF"),
    (b"tjgg", "a GGML file from before GGUF", "get the model as GGUF"),
)


class GgufTensor:
    """One tensor as the file lists it.

    shape is outermost first, as NumPy has it: a matrix is (rows, columns), and the columns of a
    row are next to each other. format is ggml's name, such as "Q4_1". offset is in bytes from
    the start of the file.
    """

    __slots__ = ("format", "name", "nbytes", "offset", "shape")

    def __init__(self, name: str, shape: tuple[int, ...], format: str, offset: int, nbytes: int):
        self.name = name
        self.shape = shape
        self.format = format
        self.offset = offset
        self.nbytes = nbytes

    def __repr__(self) -> str:
        return f"<GgufTensor {self.name} {self.shape} {self.format}>"


class GgufLongText:
    """A text of more than MAX_TEXT bytes: no name, and not decoded, which would take as much memory
    again, or four times as much. raw is its bytes."""

    __slots__ = ("raw",)

    def __init__(self, raw: memoryview):
        self.raw = raw

    def __eq__(self, other: object) -> bool:
        return self.raw == other.raw if isinstance(other, GgufLongText) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"a text of {len(self.raw):,} bytes"


class _Metadata(Mapping[str, object]):
    """Keys in file order; a value is decoded when it is first asked for."""

    def __init__(self, index: GgufIndex):
        self._index = index
        self._places = {index.key(i): i for i in range(index.n_keys)}
        self._values: dict[str, object] = {}

    def __getitem__(self, key: str) -> object:
        if key not in self._values:
            self._values[key] = self._value(self._places[key])
        return self._values[key]

    def _value(self, place: int) -> object:
        start, at, end = self._index.record(place)
        if end - at > MAX_TEXT:
            whole = self._index.whole
            type_at = start + 8 + int.from_bytes(whole[start : start + 8], "little")
            if whole[type_at] == _STRING:
                return GgufLongText(whole[at:end])
        return self._index.value(place)

    def record(self, key: str) -> tuple[int, int, int]:
        """Where the key stands with its value, as GgufIndex has it."""
        return self._index.record(self._places[key])

    def __contains__(self, key: object) -> bool:  # Mapping's own would decode the value
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class Gguf:
    """What is common to GGUF files that are read and those that are mapped: what their head says.

    path    str
    nbytes  int, the file's size
    version, alignment

    Arrays handed out stay valid after close(), and closing twice is fine. Works as a context
    manager.
    """

    def __init__(self, path: str, nbytes: int, index: GgufIndex):
        self.path = path
        self.nbytes = nbytes
        self.version = index.version
        self.alignment = index.alignment
        self._index: GgufIndex | None = index
        self._metadata: _Metadata | None = None
        self._tensors: dict[str, GgufTensor] | None = None

    @property
    def metadata(self) -> Mapping[str, object]:
        """Key to int, float, bool, str, GgufLongText or GgufArray, in file order; decoded on
        access."""
        return self._known()

    @property
    def tensors(self) -> Mapping[str, GgufTensor]:
        """Name to GgufTensor, in file order."""
        if self._tensors is None:
            index = self._opened()
            listed = (GgufTensor(*index.tensor(i)) for i in range(index.n_tensors))
            self._tensors = {tensor.name: tensor for tensor in listed}
        return self._tensors

    @property
    def head(self) -> memoryview:
        """The bytes before the tensors' data."""
        index = self._opened()
        return index.whole[: index.data_at]

    def record(self, key: str) -> tuple[int, int, int]:
        """Where in the file a metadata key stands with its value: where its length begins, where
        the value does (of a string the text, of an array the elements), and the end."""
        return self._known().record(key)

    def close(self) -> None:
        """Lets go of the file."""
        self._index = self._metadata = self._tensors = None

    def _known(self) -> _Metadata:
        if self._metadata is None:
            self._metadata = _Metadata(self._opened())
        return self._metadata

    def _opened(self) -> GgufIndex:
        if self._index is None:
            raise UsageError(f"{self.path} has been closed")
        return self._index

    def __enter__(self) -> Self:
        self._opened()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"


class GgufFile(Gguf):
    """A GGUF file (version 2 or 3, little-endian), open for reading.

    Opening reads the file's head (metadata and the list of tensors) into memory and checks every
    count, length and offset in it. Raises ModelNotFoundError if there is no such file, FormatError
    (what is wrong, at which byte, with which value, what to do) if it is not a sound GGUF file,
    BudgetError if there is no memory for its head, NybbleError if it cannot be read.

    mtime_ns  int, when the file was last written to, in nanoseconds since 1970
    ctime_ns  int, when anything of it was last changed: its name, its owner, or its bytes, whatever
              mtime was set to afterwards
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._fd = -1
        self.path = os.fspath(path)
        self._fd = open_file(self.path)
        try:
            self._status = os.fstat(self._fd)
            self.nbytes, self.mtime_ns = self._status.st_size, self._status.st_mtime_ns
            self.ctime_ns = self._status.st_ctime_ns
            super().__init__(self.path, self.nbytes, self._read_index())
        except BaseException:
            self.close()
            raise

    def data(self, name: str) -> memoryview:
        """The bytes of a tensor, read-only; KeyError if the file has none of that name."""
        out = memoryview(bytearray(self.tensors[name].nbytes))
        self.read(name, 0, out)
        return out.toreadonly()

    def read(self, name: str, at: int, out: memoryview) -> None:
        """Fills `out` with the bytes of a tensor from its byte `at` on. FormatError if it has not
        so many, or the file has been cut short."""
        tensor = self.tensors[name]
        if at + len(out) > tensor.nbytes:
            raise FormatError(f"{name} has {tensor.nbytes} bytes, {at + len(out)} expected")
        self._read_at(tensor.offset + at, out)

    def sample(self) -> int:
        """As `sampled` has it."""
        try:
            return sampled(self._fd, self.nbytes)
        except OSError as error:
            raise NybbleError(f"{self.path} cannot be read: {error.strerror}") from error

    def check_unchanged(self) -> None:
        """FormatError if the file has been written to since it was opened, by its length and the
        times: what has been read may be of both. It is asked when all has been read."""
        before, now = self._status, os.fstat(self._fd)
        is_same = (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        # Who puts st_mtime back changes st_ctime. So does another file that takes this one's name,
        # and then what is read here is still whole: this one has a name less.
        if not is_same or (
            now.st_nlink == before.st_nlink and now.st_ctime_ns != before.st_ctime_ns
        ):
            raise changed(self.path)

    def close(self) -> None:
        super().close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def _read_index(self) -> GgufIndex:
        return GgufIndex(self._read_head(), self.path, self.nbytes)

    def _read_head(self) -> bytearray:
        """The file's head, and what comes with it when it is read in pieces; of a file that is
        refused, as much as tells why."""
        head = bytearray()
        want = READ
        while want:
            if want > MAX_HEAD:
                raise FormatError(
                    f"{self.path}: the metadata take {want / 2**20:,.0f} MiB or more; "
                    f"{MAX_HEAD >> 20} are the most"
                )
            try:
                self._read_more(head, min(want, self.nbytes))
            except MemoryError:
                raise BudgetError(
                    f"{self.path}: the metadata take {want / 2**20:,.0f} MiB or more, and the "
                    "system does not give that much"
                ) from None
            if len(head) <= READ:
                _refuse_mistaken(self.path, head)
            want = wanted(head, self.nbytes)
            if want:  # a third more at least, so that scanning again from the start is not felt
                want = max(want, len(head) + len(head) // 3)
        return head

    def _read_more(self, head: bytearray, size: int) -> None:
        while len(head) < size:
            piece = bytearray(min(READ, size - len(head)))
            self._read_at(len(head), memoryview(piece))
            head += piece

    def _read_at(self, at: int, out: memoryview) -> None:
        done = 0
        while done < len(out):
            try:
                n = os.preadv(self._fd, [out[done:]], at + done)
            except OSError as error:
                raise NybbleError(f"{self.path} cannot be read: {error.strerror}") from error
            if n == 0:
                raise changed(self.path)
            done += n


def open_file(path: str, remedy: str = "download it again") -> int:
    """A descriptor of a regular file that is not empty. remedy: what to do about one that is."""
    try:
        # Not blocking: a FIFO called model.gguf must not hang the caller. Files do not care.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ModelNotFoundError(
            f"{path}: no such file; `nybble ls` lists the models here"
        ) from None
    except (OSError, ValueError) as error:  # the second for a NUL in the path
        why = getattr(error, "strerror", None) or error
        raise NybbleError(f"{path} cannot be read: {why}") from error
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_size > 0:
        return fd
    os.close(fd)
    if stat.S_ISDIR(status.st_mode):
        raise FormatError(f"{path} is a directory: give the model file in it")
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(f"{path} is not a regular file: a model is a file on a disk")
    raise FormatError(f"{path} is empty (0 bytes): {remedy}")


def sampled(fd: int, nbytes: int) -> int:
    """The CRC-32 of 64 pieces of 4096 bytes that lie evenly from a file's first byte to its last:
    other weights have another one, in a file of the same size too. It takes a quarter of a
    millisecond, where that of the whole file takes a tenth of a second or more."""
    crc, last = 0, max(nbytes - PIECE, 0)
    for i in range(N_PIECES):
        crc = crc32(os.pread(fd, PIECE, last * i // (N_PIECES - 1)), crc)
    return crc


def changed(path: str) -> FormatError:
    return FormatError(f"{path} was changed while it was being read: load it again")


def _refuse_mistaken(path: str, head: bytearray) -> None:
    for start, what, remedy in MISTAKEN:
        if head.startswith(start):
            raise FormatError(f"{path} is {what}: {remedy}")
