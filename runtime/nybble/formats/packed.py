"""Packed models, `.nyb` files: mapped, and run where they lie.

A packed model is a GGUF file (version 3) whose tensors are in the layout that the kernels read, in
the order in which a token reads them, with the tokenizer's tables built. docs/formats.md, "Packed
files", says what is where.

    write("model.nyb", gguf, program, tokenizer)
    with PackedFile("model.nyb") as file:
        file.metadata, file.tensors      # as in the GGUF file it was packed from
        file.tables                      # for nybble.tokenizer.load
        file.weights(program)            # nybble._core.program.Weights, in place
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from zlib import crc32

from nybble._core.gguf import GgufIndex
from nybble._core.native import formats as packable
from nybble._core.program import Program, Weights, packed
from nybble.disk import free_bytes, sync_folder
from nybble.errors import FormatError, NybbleError
from nybble.formats.gguf import Gguf, GgufArray, GgufFile, GgufTensor, open_file

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    from typing import BinaryIO

    from nybble.lowering import Placement
    from nybble.tokenizer import Tokenizer

ARCHITECTURE = "nybble"  # so that no other program takes the tensors for what their types say
VERSION = 1  # of the file
LAYOUT = "tiles 1"  # of its matrices
TABLES = "nybble.tokenizer"  # the tensor that holds the tokenizer's tables
_ALIGNMENT = 64
_PAGE = 4096  # where weights begin
_PIECE = 4 << 20  # bytes summed at a time
_REPLACED = ("general.architecture", "general.alignment")
_U32, _U64, _STRING, _ARRAY = 4, 10, 8, 9  # GGUF's value types
_I8, _F32 = 24, 0  # and formats
_NO_SUM = "0" * 64


class Source:
    """By which a GGUF file is known again: its path, size, time of change, and the CRC-32 of what
    is before its tensors."""

    __slots__ = ("crc32", "mtime_ns", "nbytes", "path")

    def __init__(self, path: str, nbytes: int, mtime_ns: int, crc32: int):
        self.path = path
        self.nbytes = nbytes
        self.mtime_ns = mtime_ns
        self.crc32 = crc32

    def is_as_it_was(self) -> bool:
        """Whether the file at `path` still has this size and time."""
        try:
            now = os.stat(self.path)
        except OSError:
            return False
        return (now.st_size, now.st_mtime_ns) == (self.nbytes, self.mtime_ns)


class _Metadata(Mapping[str, object]):
    """The metadata of a packed file as its GGUF file had it."""

    def __init__(self, own: Mapping[str, object], architecture: str):
        self._own = own
        self._architecture = architecture
        self._keys = [
            key for key in own if not key.startswith("nybble.") and key != "general.alignment"
        ]

    def __getitem__(self, key: str) -> object:
        if key == "general.architecture":
            return self._architecture
        if key == "general.alignment" or key.startswith("nybble."):
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
        fd = open_file(path)
        try:
            self._map: mmap.mmap | None = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
        except (OSError, OverflowError) as error:
            raise NybbleError(f"{path} cannot be mapped: {error}") from error
        finally:
            os.close(fd)
        index = GgufIndex(memoryview(self._map), path)
        super().__init__(path, len(self._map), index)
        self.bytes = index.whole

    def data(self, name: str) -> memoryview:
        tensor = self.tensors[name]
        return self.bytes[tensor.offset : tensor.offset + tensor.nbytes]

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
        own = self._file.metadata
        if not is_packed(self._file):
            raise FormatError(f"{self.path} is a GGUF file as others are, not a packed one")
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
        )
        self.metadata: Mapping[str, object] = _Metadata(own, self._text("architecture"))
        self.tensors: Mapping[str, GgufTensor] = {
            name: tensor for name, tensor in self._file.tensors.items() if name != TABLES
        }

    @property
    def tables(self) -> memoryview:
        """The tokenizer's tables (`nybble.tokenizer.load` checks them)."""
        if TABLES not in self._file.tensors:
            raise self._damaged(f"it has no {TABLES}")
        return self._file.data(TABLES)

    @property
    def head(self) -> memoryview:
        """The bytes before the tensors' data."""
        return self._file.head

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
            tensor = self.tensors[placement.name]
            if tensor.offset != base + placement.offset or how != _how(placement):
                raise FormatError(
                    f"{self.path}: {placement.name} is packed as {how!r:.60} at {tensor.offset}, "
                    f"and this nybble reads {_how(placement)!r} at {base + placement.offset}: "
                    "another version of it packed the file; pack it again (nybble pack)"
                )
        end = base + program.weights_bytes
        if end > self.nbytes:
            raise self._damaged(f"it has {self.nbytes:,} of {end:,} bytes")
        if base % _ALIGNMENT:
            raise self._damaged(f"its weights begin at {base}, which is not a multiple of 64")
        return Weights(program, self._file.bytes[base:end])

    def check_sum(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Reads all of the file; FormatError if it is not what was written, by its SHA-256."""
        import hashlib

        expected = self._text("sha256")
        _, at, _ = self._file.record("nybble.sha256")
        digest = hashlib.sha256(self._file.bytes[:at])
        digest.update(_NO_SUM.encode())
        done = at + len(_NO_SUM)
        while done < self.nbytes:
            end = min(done + _PIECE, self.nbytes)
            digest.update(self._file.bytes[done:end])
            self._file.let_go(done, end)
            done = end
            if on_progress is not None:
                on_progress(done, self.nbytes)
        if digest.hexdigest() != expected:
            raise self._damaged(f"its sha256 is {digest.hexdigest()}, not {expected}")

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

    def _damaged(self, what: str) -> FormatError:
        return FormatError(
            f"{self.path}: {what}; the packed file is damaged, pack the model again (nybble pack)"
        )


def is_packed(file: Gguf) -> bool:
    """Whether a GGUF file is a packed model."""
    return file.metadata.get("general.architecture") == ARCHITECTURE


def write(
    path: str,
    file: GgufFile,
    program: Program,
    tokenizer: Tokenizer,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    spare: int = 0,
    is_there: Callable[[], bool] = lambda: False,
) -> None:
    """Packs the model in `file` into `path`, which is there whole afterwards or as it was before.

    program, tokenizer : made of the file's metadata
    on_progress        : called with (bytes of weights packed, bytes in all)
    spare              : bytes that must be free on the disk besides
    is_there           : asked when another process that packed the same path has been waited for,
                         whether what it left is what is wanted

    It takes the memory of a few MiB, and on the disk a file `path`.part until it is done. OSError
    if it cannot be written, with ENOSPC before a byte is, where there is not enough space;
    FormatError as `nybble._core.program.pack`.
    """
    header = _Header(file, program, tokenizer)
    with _part_of(path, header.nbytes + spare, is_there) as part:
        if part is None:
            return
        part.truncate(header.nbytes)
        out = _Summed(part)
        out.write(header.bytes)
        out.write(tokenizer.vocabulary.tables)
        for name in header.plain:
            out.pad_to(header.offsets[name])
            out.write(file.data(name))
        for placement in program.placements:
            out.pad_to(header.offsets[placement.name])
            for piece in packed(placement, file.read):
                out.write(piece)
            if on_progress is not None:
                on_progress(placement.offset + placement.nbytes, program.weights_bytes)
        out.pad_to(header.nbytes)
        file.check_unchanged()
        part.seek(header.sum_at)
        part.write(out.hexdigest().encode())
        part.flush()
        os.fsync(part.fileno())


def size(file: GgufFile, program: Program, tokenizer: Tokenizer) -> int:
    """Bytes of the file that `write` makes."""
    return _Header(file, program, tokenizer).nbytes


def differences(mine: PackedFile, file: GgufFile, program: Program) -> list[str]:
    """What of a packed model is not what packing `file` gives: names of tensors and metadata keys;
    [] if it is the same model, bit for bit."""
    found = [
        key
        for key in {**mine.metadata, **file.metadata}
        if key != "general.alignment"
        and _plain(mine.metadata.get(key)) != _plain(file.metadata.get(key))
    ]
    weights = mine.weights(program).view()
    for placement in program.placements:
        at = placement.offset
        for piece in packed(placement, file.read):
            if weights[at : at + len(piece)] != piece:
                found.append(placement.name)
                break
            at += len(piece)
    return found


class _Header:
    """What comes before the tensors' data, and where everything goes.

    bytes      : the header, its sum still zeros
    offsets    : tensor name -> where it begins in the file
    plain      : names of tensors that are as in the GGUF file: numbers of the model's tree
    weights_at : where the weights begin
    sum_at     : where the sum stands
    nbytes     : of the whole file
    """

    def __init__(self, file: GgufFile, program: Program, tokenizer: Tokenizer):
        placed = program.placements
        names = {placement.name for placement in placed}
        self.plain = [name for name in file.tensors if name not in names]
        n_tables = len(tokenizer.vocabulary.tables)
        keys = self._keys(file, placed)
        length = len(self._tensors(file, placed, n_tables, dict.fromkeys(file.tensors, 0), 0))
        data_at = _aligned(len(keys) + length)

        at = _aligned(data_at + n_tables)
        self.offsets: dict[str, int] = {}
        for name in self.plain:
            self.offsets[name] = at
            at = _aligned(at + file.tensors[name].nbytes)
        self.weights_at = at = _aligned(at, _PAGE)
        for placement in placed:
            self.offsets[placement.name] = at + placement.offset
        self.nbytes = at + program.weights_bytes
        whole = keys + self._tensors(file, placed, n_tables, self.offsets, data_at)
        self.bytes = whole + bytes(data_at - len(whole))
        self.sum_at = len(keys) - len(_NO_SUM)

    def _keys(self, file: GgufFile, placed: list[Placement]) -> bytes:
        """The header up to and with the metadata; the sum is the last of it."""
        status = os.stat(file.path)
        kept = [key for key in file.metadata if key not in _REPLACED]
        own = [
            _text("general.architecture", ARCHITECTURE),
            _number("general.alignment", _U32, _ALIGNMENT),
            _number("nybble.version", _U32, VERSION),
            _text("nybble.architecture", str(file.metadata["general.architecture"])),
            _text("nybble.source.path", os.path.realpath(file.path)),
            _number("nybble.source.nbytes", _U64, file.nbytes),
            _number("nybble.source.mtime_ns", _U64, status.st_mtime_ns),
            _number("nybble.source.crc32", _U32, crc32(file.head)),
            _texts("nybble.tensors", [_how(placement) for placement in placed]),
            _text("nybble.sha256", _NO_SUM),
        ]
        n_tensors = 1 + len(self.plain) + len(placed)
        start = struct.pack("<4sIQQ", b"GGUF", 3, n_tensors, len(kept) + len(own))
        records = [file.record(key) for key in kept]
        return start + b"".join([*(file.head[at:end] for at, _, end in records), *own])

    def _tensors(
        self,
        file: GgufFile,
        placed: list[Placement],
        n_tables: int,
        offsets: Mapping[str, int],
        data_at: int,
    ) -> bytes:
        """The list of tensors. Shapes are those of the GGUF file: a packed matrix fills up its last
        tile beyond what they say."""
        known = packable()
        listed = [_tensor(TABLES, (n_tables,), _I8, 0)]
        for name in [*self.plain, *(placement.name for placement in placed)]:
            tensor = file.tensors[name]
            number = known[tensor.format][0] if tensor.format in known else _F32
            listed.append(_tensor(name, tensor.shape, number, offsets[name] - data_at))
        return b"".join(listed)


class _Summed:
    """A file that is written from its beginning, with the sum of its bytes."""

    def __init__(self, file: BinaryIO):
        import hashlib

        self._file = file
        self._digest = hashlib.sha256()
        self._at = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._at += len(data)

    def pad_to(self, at: int) -> None:
        """Writes zeros up to there."""
        self.write(bytes(at - self._at))

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _how(placement: Placement) -> str:
    """How a tensor is packed, in words: what two versions of nybble must agree on."""
    words = ["float32" if placement.rows == 0 else LAYOUT]
    if placement.rope_dims:
        words.append(f"halves {placement.rope_dims} of {placement.head_dim}")
    if placement.scale != 1.0:
        words.append(f"times {placement.scale!r}")
    return ", ".join(words)


@contextlib.contextmanager
def _part_of(path: str, nbytes: int, is_there: Callable[[], bool]) -> Iterator[BinaryIO | None]:
    """An empty file with room for so many bytes, which becomes `path` when the block ends, and is
    gone if it fails. Its lock ends with its process: one that was killed leaves a file that the
    next begins anew. None if another process was waited for and `is_there` says that is enough."""
    partial, folder = f"{path}.part", os.path.dirname(os.path.abspath(path))
    part, has_waited = _locked(partial)
    with part:
        try:
            if has_waited and is_there():
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


def _locked(path: str) -> tuple[BinaryIO, bool]:
    """The file of that name, made if there is none, that no other process works on; and whether
    one had to be waited for."""
    has_waited = False
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            has_waited = True
            fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file, has_waited
        file.close()  # who was waited for is done with it: the name is another file's, or none's


def _reserve(file: BinaryIO, folder: str, nbytes: int) -> None:
    """Takes so many bytes of the disk; OSError with ENOSPC if it has fewer."""
    if free_bytes(folder) < nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with contextlib.suppress(AttributeError):  # a system without it finds out while writing
        os.posix_fallocate(file.fileno(), 0, nbytes)


def _aligned(n: int, to: int = _ALIGNMENT) -> int:
    return -(-n // to) * to


# -- pieces of GGUF


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _number(key: str, kind: int, value: int) -> bytes:
    return _string(key) + struct.pack("<II" if kind == _U32 else "<IQ", kind, value)


def _text(key: str, value: str) -> bytes:
    return _string(key) + struct.pack("<I", _STRING) + _string(value)


def _texts(key: str, values: list[str]) -> bytes:
    head = struct.pack("<IIQ", _ARRAY, _STRING, len(values))
    return _string(key) + head + b"".join(map(_string, values))


def _tensor(name: str, shape: tuple[int, ...], format: int, offset: int) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return _string(name) + dims + struct.pack("<IQ", format, offset)


def _plain(value: object) -> object:
    """A metadata value that can be compared: an array by its type and bytes."""
    if isinstance(value, GgufArray):
        return value.element_type, len(value), bytes(value.raw)
    return repr(value)  # NaN is as it is
