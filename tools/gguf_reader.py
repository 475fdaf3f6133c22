"""Reads GGUF files that are trusted, for tools that must run before nybble is built.

Nothing is checked against the file's length: for files of other people there is
`nybble.formats.gguf`, whose interface this has.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

from tools.gguf_writer import ALIGNMENT, FORMATS, tensor_nbytes

_SCALARS = dict(enumerate("B b H h I i f ?".split())) | {10: "Q", 11: "q", 12: "d"}
_STRING = 8
_ARRAY = 9


class TensorInfo(NamedTuple):
    shape: tuple[int, ...]  # outermost first
    format: str
    nbytes: int


class GgufFile:
    """metadata: {key: value}; tensors: {name: TensorInfo}; data(name): its bytes, mapped."""

    def __init__(self, path: str | Path) -> None:
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 8  # behind the magic and the version
        tensor_count, key_count = self._take("QQ")
        self.metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self._string()
            self.metadata[key] = self._value(*self._take("I"))
        self.tensors: dict[str, TensorInfo] = {}
        offsets = {}
        names = {row.ggml_type: name for name, row in FORMATS.items()}
        for _ in range(tensor_count):
            name = self._string()
            shape = self._take(f"{self._take('I')[0]}Q")[::-1]
            ggml_type, offsets[name] = self._take("IQ")
            if ggml_type not in names:
                raise ValueError(f"{name} has ggml type {ggml_type}; known are {names}")
            format = names[ggml_type]
            self.tensors[name] = TensorInfo(shape, format, tensor_nbytes(shape, format))
        start = self._at + -self._at % self.metadata.get("general.alignment", ALIGNMENT)
        self._offsets = {name: start + offset for name, offset in offsets.items()}

    def data(self, name: str) -> memoryview:
        start = self._offsets[name]
        return memoryview(self._map)[start : start + self.tensors[name].nbytes]

    def _take(self, layout: str) -> tuple:
        values = struct.unpack_from("<" + layout, self._map, self._at)
        self._at += struct.calcsize("<" + layout)
        return values

    def _string(self) -> str:
        (nbytes,) = self._take("Q")
        self._at += nbytes
        return self._map[self._at - nbytes : self._at].decode()

    def _value(self, type: int) -> Any:
        if type == _STRING:
            return self._string()
        if type != _ARRAY:
            return self._take(_SCALARS[type])[0]
        element, count = self._take("IQ")
        if element in _SCALARS:
            return list(self._take(f"{count}{_SCALARS[element]}"))
        return [self._value(element) for _ in range(count)]
