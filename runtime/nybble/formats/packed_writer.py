"""Writing packed models, and comparing them with what they were packed from.

    write("model.nyb", gguf, program, tokenizer)
    differences(packed, gguf, program, tokenizer)    # [] if it is the same model, bit for bit

docs/formats.md, "Packed files", says what is where.
"""

from __future__ import annotations

import mmap
import os
import struct
from binascii import crc32
from collections.abc import Callable, Mapping

from nybble._core.native import formats as packable
from nybble._core.program import Program, packed
from nybble.disk import part_of
from nybble.formats.gguf import GgufArray, GgufFile
from nybble.formats.packed import (
    ALIGNMENT,
    ARCHITECTURE,
    NO_SUM,
    TABLES,
    VERSION,
    PackedFile,
    Source,
    how_packed,
    is_kept,
)

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    from typing import BinaryIO

    from nybble.lowering import Placement
    from nybble.tokenizer import Tokenizer

_PAGE = 4096  # where weights begin
_HUGE_PAGE = 2 * 2**20
_U32, _U64, _I64, _STRING, _ARRAY = 4, 10, 11, 8, 9  # GGUF's value types
_I8, _F32 = 24, 0  # and formats


def write(
    path: str,
    file: GgufFile,
    program: Program,
    tokenizer: Tokenizer,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    is_copy: bool = False,
    spare: int = 0,
    is_there: Callable[[], bool] = lambda: False,
) -> None:
    """Packs the model in `file` into `path`, which is there whole afterwards or as it was before.

    program, tokenizer : made of the file's metadata
    on_progress        : called with (bytes of weights packed, bytes in all)
    is_copy            : for the cache, where the GGUF file is to be known again: with its whole
                         path, which is nobody's business in a file that is handed on, and stamp
    spare              : bytes that must be free on the disk besides
    is_there           : asked once no other process packs the same path, whether what one may have
                         left there is what is wanted: then nothing is written

    It takes the memory of a few MiB and of the tokenizer's tables, and on the disk a file
    `path`.part until it is done. OSError if it cannot be written, with ENOSPC before a byte is,
    where there is not enough space; FormatError, without the file's path, if a scale is not finite,
    and with it if the file has been written to since it was opened.
    """
    header = _Header(file, program, tokenizer, is_copy)
    with part_of(path, header.nbytes + spare, is_there) as part:
        if part is None:
            return
        part.truncate(header.nbytes)
        out = _Summed(part)
        for piece in header.pieces:
            out.write(piece)
        out.pad_to(header.data_at)
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
        out.flush()
        file.check_unchanged()
        part.seek(header.sum_at)
        part.write(out.hexdigest().encode())
        part.flush()
        os.fsync(part.fileno())


def size(file: GgufFile, program: Program, tokenizer: Tokenizer) -> int:
    """Bytes of the copy that `write` makes."""
    return _Header(file, program, tokenizer, is_copy=True).nbytes


def differences(
    mine: PackedFile, file: GgufFile, program: Program, tokenizer: Tokenizer
) -> list[str]:
    """What of a packed model is not what packing `file`, of whose metadata program and tokenizer
    are made, gives: names of tensors and metadata keys; [] if it is the same model, bit for bit."""
    found = [
        key
        for key in {**mine.metadata, **file.metadata}
        if (is_kept(key) or key == "general.architecture")
        and _plain(mine.metadata.get(key)) != _plain(file.metadata.get(key))
    ]
    if mine.tables != tokenizer.vocabulary.tables:
        found.append(TABLES)
    placed = {placement.name for placement in program.placements}
    for name in {**mine.tensors, **file.tensors}:
        here, there = (
            tensor and (tensor.shape, tensor.format)
            for tensor in (mine.tensors.get(name), file.tensors.get(name))
        )
        if here != there:
            return [*found, name]
        if name not in placed and mine.data(name) != file.data(name):
            found.append(name)
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

    pieces     : the header, its sum still zeros; the model's own keys where they lie in the GGUF
                 file's head, which is large
    data_at    : where it ends, padded, and the tensors' data begin
    source     : what it says of the GGUF file
    offsets    : tensor name -> where it begins in the file
    plain      : names of tensors that are as in the GGUF file: numbers of the model's tree
    weights_at : where the weights begin
    sum_at     : where the sum stands
    nbytes     : of the whole file
    """

    def __init__(self, file: GgufFile, program: Program, tokenizer: Tokenizer, is_copy: bool):
        placed = program.placements
        names = {placement.name for placement in placed}
        self.plain = [name for name in file.tensors if name not in names]
        place = os.path.realpath(file.path)
        self.source = Source(
            place if is_copy else os.path.basename(place),
            file.nbytes,
            file.mtime_ns,
            crc32(file.head),
            (file.ctime_ns, file.sample()) if is_copy else None,
        )
        n_tables = tokenizer.vocabulary.nbytes
        keys = self._keys(file, placed)
        keys_end = sum(map(len, keys))
        length = len(self._tensors(file, placed, n_tables, dict.fromkeys(file.tensors, 0), 0))
        self.data_at = _aligned(keys_end + length)

        at = _aligned(self.data_at + n_tables)
        self.offsets: dict[str, int] = {}
        for name in self.plain:
            self.offsets[name] = at
            at = _aligned(at + file.tensors[name].nbytes)
        self.weights_at = at = _aligned(at, _PAGE)
        for placement in placed:
            self.offsets[placement.name] = at + placement.offset
        self.nbytes = at + program.weights_bytes
        tensors = self._tensors(file, placed, n_tables, self.offsets, self.data_at)
        self.pieces = [*keys, tensors]
        self.sum_at = keys_end - len(NO_SUM)

    def _keys(self, file: GgufFile, placed: list[Placement]) -> list[bytes | memoryview]:
        """The header up to and with the metadata; the sum is the last of it."""
        kept = list(filter(is_kept, file.metadata))
        own = [
            _text("general.architecture", ARCHITECTURE),
            _number("general.alignment", _U32, ALIGNMENT),
            _number("nybble.version", _U32, VERSION),
            _text("nybble.architecture", str(file.metadata["general.architecture"])),
            _text("nybble.source.path", self.source.path),
            _number("nybble.source.nbytes", _U64, self.source.nbytes),
            _number("nybble.source.mtime_ns", _I64, self.source.mtime_ns),
            _number("nybble.source.crc32", _U32, self.source.crc32),
            *self._stamp(),
            _texts("nybble.tensors", [how_packed(placement) for placement in placed]),
            _text("nybble.sha256", NO_SUM),
        ]
        n_tensors = 1 + len(self.plain) + len(placed)
        start = struct.pack("<4sIQQ", b"GGUF", 3, n_tensors, len(kept) + len(own))
        head, records = file.head, [file.record(key) for key in kept]
        return [start, *(head[at:end] for at, _, end in records), *own]

    def _stamp(self) -> list[bytes]:
        if self.source.stamp is None:
            return []
        ctime_ns, sample = self.source.stamp
        return [
            _number("nybble.source.ctime_ns", _I64, ctime_ns),
            _number("nybble.source.sample", _U32, sample),
        ]

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
    """A file that is written from its beginning, with the sum of its bytes. It is written by 2 MiB,
    for what is written at once can lie in one huge page, and be mapped as one."""

    def __init__(self, file: BinaryIO):
        from nybble.hashing import sha256

        self._file = file
        self._digest = sha256()
        self._at = 0
        # Mapped, because malloc would keep it afterwards.
        self._waiting = memoryview(mmap.mmap(-1, _HUGE_PAGE))
        self._n_waiting = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        self._digest.update(rest)
        self._at += len(rest)
        while len(rest):
            n = min(len(rest), _HUGE_PAGE - self._n_waiting)
            self._waiting[self._n_waiting : self._n_waiting + n] = rest[:n]
            self._n_waiting += n
            rest = rest[n:]
            if self._n_waiting == _HUGE_PAGE:
                self.flush()

    def flush(self) -> None:
        self._file.write(self._waiting[: self._n_waiting])
        self._n_waiting = 0

    def pad_to(self, at: int) -> None:
        """Writes zeros up to there."""
        self.write(bytes(at - self._at))

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _aligned(n: int, to: int = ALIGNMENT) -> int:
    return -(-n // to) * to


# -- pieces of GGUF


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _number(key: str, kind: int, value: int) -> bytes:
    return _string(key) + struct.pack({_U32: "<II", _U64: "<IQ", _I64: "<Iq"}[kind], kind, value)


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
