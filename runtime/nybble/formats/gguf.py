"""GGUF files: mapped, scanned in C, and decoded only where somebody looks.

    with GgufFile("model.gguf") as file:
        file.metadata["general.architecture"]           # "llama"
        file.metadata["tokenizer.ggml.tokens"][5]       # a GgufArray: decodes this string only
        file.tensors["token_embd.weight"].shape         # (49152, 576)
        file.data("token_embd.weight")                  # read-only memoryview, in place

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator, Mapping

from nybble._core.gguf import GgufArray, GgufIndex
from nybble.errors import FormatError, ModelNotFoundError, NybbleError, UsageError

__all__ = ["GgufArray", "GgufFile", "GgufTensor"]

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


class _Metadata(Mapping[str, object]):
    """Keys in file order; a value is decoded when it is first asked for."""

    def __init__(self, index: GgufIndex):
        self._index = index
        self._places = {index.key(i): i for i in range(index.n_keys)}
        self._values: dict[str, object] = {}

    def __getitem__(self, key: str) -> object:
        if key not in self._values:
            self._values[key] = self._index.value(self._places[key])
        return self._values[key]

    def __contains__(self, key: object) -> bool:  # Mapping's own would decode the value
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class GgufFile:
    """A GGUF file (version 2 or 3, little-endian), mapped read-only.

    path    str
    nbytes  int, the file's size
    version, alignment

    Opening checks every count, length and offset in the file and reads no weights. Raises
    ModelNotFoundError if there is no such file, FormatError (what is wrong, at which byte, with
    which value, what to do) if it is not a sound GGUF file, NybbleError if it cannot be read.

    The mapping goes with its last user: arrays and memoryviews handed out stay valid after
    close(), and closing twice is fine. Works as a context manager.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        data = _map(self.path)
        _refuse_mistaken(self.path, data)
        index = GgufIndex(data, self.path)
        self._map: mmap.mmap | None = data
        self.nbytes = len(data)
        self.version = index.version
        self.alignment = index.alignment
        self._index: GgufIndex | None = index
        self._metadata: _Metadata | None = None
        self._tensors: dict[str, GgufTensor] | None = None

    @property
    def metadata(self) -> Mapping[str, object]:
        """Key to int, float, bool, str or GgufArray, in file order; decoded on access."""
        if self._metadata is None:
            self._metadata = _Metadata(self._opened())
        return self._metadata

    @property
    def tensors(self) -> Mapping[str, GgufTensor]:
        """Name to GgufTensor, in file order."""
        if self._tensors is None:
            index = self._opened()
            listed = (GgufTensor(*index.tensor(i)) for i in range(index.n_tensors))
            self._tensors = {tensor.name: tensor for tensor in listed}
        return self._tensors

    def data(self, name: str) -> memoryview:
        """The bytes of a tensor in the file, in place and read-only; KeyError if it has none."""
        tensor = self.tensors[name]
        return self._opened().whole[tensor.offset : tensor.offset + tensor.nbytes]

    def forget(self, name: str) -> None:
        """Gives the memory of a tensor's pages back: they are read from the file again if they are
        looked at again."""
        tensor = self.tensors[name]
        self.let_go(tensor.offset, tensor.offset + tensor.nbytes)

    def let_go(self, start: int, end: int) -> None:
        """Gives the memory of the whole pages from byte `start` to `end` back."""
        page = mmap.PAGESIZE
        first, last = -(-start // page) * page, end // page * page
        if self._map is not None and last > first and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)

    @property
    def head(self) -> memoryview:
        """What comes before the tensors' data."""
        return self._opened().whole[: self._opened().data_at]

    @property
    def whole(self) -> memoryview:
        """All of the file's bytes."""
        return self._opened().whole

    def record(self, key: str) -> memoryview:
        """A metadata key with its value, as the file has them."""
        index = self._opened()
        at, _, end = index.record(self._keys()[key])
        return index.whole[at:end]

    def place_of(self, key: str) -> int:
        """Where in the file the value of a metadata key begins: a string's text."""
        return self._opened().record(self._keys()[key])[1]

    def close(self) -> None:
        """Lets go of the mapping."""
        self._index = self._metadata = self._tensors = self._map = None

    def _keys(self) -> dict[str, int]:
        index = self._opened()
        return {index.key(i): i for i in range(index.n_keys)}

    def _opened(self) -> GgufIndex:
        if self._index is None:
            raise UsageError(f"{self.path} has been closed")
        return self._index

    def __enter__(self) -> GgufFile:
        self._opened()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<GgufFile {self.path}>"


def _map(path: str) -> mmap.mmap:
    """The whole of a regular file, mapped read-only."""
    try:
        # Not blocking: a FIFO called model.gguf must not hang the caller. Files do not care.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            if stat.S_ISDIR(status.st_mode):
                raise FormatError(f"{path} is a directory: give the GGUF file in it")
            if not stat.S_ISREG(status.st_mode):
                raise FormatError(f"{path} is not a regular file: a model is mapped, not streamed")
            if status.st_size == 0:
                raise FormatError(f"{path} is empty (0 bytes): download it again")
            return mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise ModelNotFoundError(
            f"{path}: no such file; `nybble ls` lists the models here"
        ) from None
    except (OSError, OverflowError, ValueError) as error:  # mmap's own, or a NUL in the path
        why = getattr(error, "strerror", None) or error
        raise NybbleError(f"{path} cannot be read: {why}") from error


def _refuse_mistaken(path: str, data: mmap.mmap) -> None:
    for start, what, remedy in MISTAKEN:
        if data[: len(start)] == start:
            raise FormatError(f"{path} is {what}: {remedy}")
