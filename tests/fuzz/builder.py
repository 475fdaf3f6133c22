"""The fuzz target of models: one of any metadata that passes the scanner is refused with an
error of nybble's own, or loads, encodes and runs.

An input is a list of choices, a byte each: a family's tiny file, what is changed of its metadata
and tensors, and whether the tensors are made anew to fit the metadata, so that what no real model
has comes as far as the engine. tests/fuzz/atheris_target.py drives it.
"""

from __future__ import annotations

import os
import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import nybble
from nybble import archs
from nybble._core.gguf import GgufArray
from nybble.errors import NybbleError
from nybble.formats.gguf import GgufFile
from tools.gguf_writer import FORMATS, tensor_nbytes
from tools.tiny_model import FAMILIES, tiny_model

SHAPE = {"layers": 1, "dim": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "hidden": 32}
VOCAB = 262
MOST_BYTES = 4 << 20  # of tensors that are made anew
BY_THE_ENGINE = "cannot be run so"  # in words that are nobody's who made the file: too late
UINT8, UINT16, INT32, UINT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = (
    *(0, 2, 5, 4, 6, 7, 8, 9, 10, 11),
    12,
)
NUMBERS = [
    *(0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 24, 31, 32, 33, 48, 64, 96, 127, 128, 129, 256, 512),
    *(4096, 4097, 65536, 2**24 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32),
    *(2**62, 2**63 - 1, 2**63, 2**64 - 1),
]
FLOATS = [
    *(0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-5, 1e-20, 1e-45, 1e4, 1e6, 1e20, 3e38, -3e38),
    *(float("inf"), float("-inf"), float("nan")),
]
TEXTS = ["", "linear", "none", "yarn", "longrope", "llama", "gpt2", "gemma4", "default", "smollm"]
TEXTS += [*FAMILIES, "nybble", "mamba", "\0", "llama\0", "a" * 300, "\ud800"]
# Keys that a family may ask for and tiny files do not all have.
KEYS = """attention.key_length attention.value_length attention.head_count attention.head_count_kv
attention.layer_norm_rms_epsilon attention.scale attention.sliding_window
attention.sliding_window_pattern block_count context_length embedding_length embedding_scale
expert_count feed_forward_length final_logit_softcapping logit_scale residual_scale
rope.dimension_count rope.freq_base rope.freq_base_swa rope.scale_linear rope.scaling.factor
rope.scaling.type""".split()
OTHER_KEYS = """general.alignment general.architecture general.sampling.temp general.sampling.top_k
tokenizer.ggml.add_bos_token tokenizer.ggml.add_eos_token tokenizer.ggml.add_space_prefix
tokenizer.ggml.bos_token_id tokenizer.ggml.eos_token_id tokenizer.ggml.eot_token_id
tokenizer.ggml.merges tokenizer.ggml.model tokenizer.ggml.pre tokenizer.ggml.scores
tokenizer.ggml.token_type tokenizer.ggml.tokens tokenizer.ggml.unknown_token_id""".split()


class Choices:
    """The bytes of an input, one choice each; when they are used up, the first of everything."""

    def __init__(self, data: bytes):
        self._data = data
        self._at = 0

    def below(self, n: int) -> int:
        byte = self._data[self._at] if self._at < len(self._data) else 0
        self._at += 1
        return byte % n

    def of(self, values: list[Any]) -> Any:
        return values[self.below(len(values))]

    def wide(self) -> int:
        """Two bytes' choice, below 65,536."""
        return self.below(256) << 8 | self.below(256)


class Key(NamedTuple):
    """A key's value as the file has it: the type's number, then the bytes behind that."""

    type: int
    raw: bytes


class Part(NamedTuple):
    """A tensor as the file lists it, and its bytes."""

    dims: tuple[int, ...]  # outermost first
    format: int
    data: bytes


class File(NamedTuple):
    keys: dict[str, Key]
    tensors: dict[str, Part]


def _string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw


def _array(element_type: int, count: int, raw: bytes) -> Key:
    return Key(ARRAY, struct.pack("<IQ", element_type, count) + raw)


def _key(value: object) -> Key:
    if isinstance(value, GgufArray):
        types = {"string": STRING, "int32": INT32, "float32": FLOAT32, "uint32": UINT32}
        return _array(types[value.element_type], len(value), bytes(value.raw))
    if isinstance(value, bool):
        return Key(BOOL, bytes([value]))
    if isinstance(value, int):
        return Key(UINT32, struct.pack("<I", value))
    if isinstance(value, float):
        return Key(FLOAT32, struct.pack("<f", value))
    assert isinstance(value, str)
    return Key(STRING, _string(value))


@cache
def tiny(family: str) -> File:
    """The parts of a family's tiny file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tiny.gguf")
        tiny_model(path, family=family, vocab=VOCAB, **SHAPE)
        with GgufFile(path) as file:
            keys = {name: _key(value) for name, value in file.metadata.items()}
            tensors = {
                name: Part(t.shape, FORMATS[t.format].ggml_type, bytes(file.data(name)))
                for name, t in file.tensors.items()
            }
    return File(keys, tensors)


def serialized(file: File) -> bytes:
    """The file's bytes; tensors lie one after another, whatever they say of themselves."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(file.tensors), len(file.keys))
    for name, key in file.keys.items():
        head += _string(name) + struct.pack("<I", key.type) + key.raw
    body = bytearray()
    for name, part in file.tensors.items():
        n = len(part.dims)
        head += _string(name) + struct.pack(f"<I{n}QIQ", n, *reversed(part.dims), part.format,
                                            len(body))  # fmt: skip
        body += part.data + bytes(-len(part.data) % 32)
    return head + bytes(-len(head) % 32) + bytes(body)


# -- changes


def _number(choices: Choices) -> Key:
    n = choices.of(NUMBERS)
    formats = {UINT32: "<I", UINT64: "<Q", INT32: "<i", INT64: "<q", UINT8: "<B", UINT16: "<H"}
    type = choices.of(list(formats))
    size = struct.calcsize(formats[type])
    return Key(type, n.to_bytes(8, "little")[:size])


def _value(choices: Choices) -> Key:
    kind = choices.below(6)
    if kind <= 1:
        return _number(choices)
    if kind == 2:
        return Key(FLOAT32, struct.pack("<f", choices.of(FLOATS)))
    if kind == 3:
        return Key(STRING, _string(choices.of(TEXTS)))
    if kind == 4:
        return Key(BOOL, bytes([choices.below(2)]))
    count = choices.of([0, 1, 2, VOCAB])
    if choices.below(2):
        return _array(FLOAT32, count, struct.pack("<f", choices.of(FLOATS)) * count)
    return _array(INT32, count, struct.pack("<i", choices.below(8)) * count)


def _change_key(choices: Choices, file: File, family: str) -> None:
    name = f"{family}.{choices.of(KEYS)}" if choices.below(4) else choices.of(OTHER_KEYS)
    if choices.below(6) == 5:
        file.keys.pop(name, None)
    else:
        file.keys[name] = _value(choices)


def _change_array(choices: Choices, file: File) -> None:
    """Another number of elements, or one of them another."""
    name = "tokenizer.ggml." + choices.of(["tokens", "merges", "token_type"])
    key = file.keys.get(name)
    if key is None or key.type != ARRAY:
        return
    type, count = struct.unpack_from("<IQ", key.raw)
    raw = key.raw[12:]
    if type != STRING:
        cut = min(choices.of([0, 1, 4, VOCAB - 1, VOCAB]), count)
        at = choices.below(256) * 4
        changed = raw[:at] + struct.pack("<i", choices.below(9) - 1) + raw[at + 4 :]
        file.keys[name] = _array(type, cut or count, changed[: 4 * (cut or count)])
        return
    strings, at = [], 0
    for _ in range(count):
        n = int.from_bytes(raw[at : at + 8], "little")
        strings.append(raw[at + 8 : at + 8 + n])
        at += 8 + n
    if strings:
        at = choices.below(256) % len(strings)
        other = choices.of([b"", b"a", b"a b", b"<s>", b"\xff", b"x" * 2000, strings[0]])
        strings[at] = other
    strings = strings[: choices.of([VOCAB, 1, 0, 5, 200])]
    packed = b"".join(struct.pack("<Q", len(s)) + s for s in strings)
    file.keys[name] = _array(STRING, len(strings), packed)


def _change_tensor(choices: Choices, file: File) -> None:
    if not file.tensors:
        return
    name = choices.of(list(file.tensors))
    part = file.tensors[name]
    how = choices.below(5)
    if how == 0:
        del file.tensors[name]
    elif how == 1:
        other = choices.of(["output.weight", "rope_freqs.weight", "blk.1.attn_q.weight", "x"])
        file.tensors[other] = part
    elif how == 2:
        format = choices.of(list(FORMATS))
        file.tensors[name] = _empty(part.dims, format) or part
    elif how == 3:
        dims = tuple(choices.of([1, 8, 16, 32, 64, 256]) for _ in part.dims)
        file.tensors[name] = _empty(dims, "F32") or part
    else:  # numbers that no tensor should have
        bad = choices.of([b"\xff", b"\x7f", b"\x80", b"\x00", b"\x01"])
        file.tensors[name] = part._replace(data=bad * len(part.data))


def _empty(dims: tuple[int, ...], format: str) -> Part | None:
    """A tensor of zeros, unless its rows are no whole blocks or it is too large."""
    try:
        nbytes = tensor_nbytes(dims, format)
    except ValueError:
        return None
    data = bytes(nbytes) if 0 < nbytes <= MOST_BYTES else b""
    return Part(dims, FORMATS[format].ggml_type, data) if data else None


def _fit_tensors(choices: Choices, file: File, folder: str) -> None:
    """Makes the tensors anew that the metadata asks for, if it describes a small model."""
    with GgufFile(_written(file, folder)) as opened:
        tree = archs.describe(opened.metadata, opened.tensors, opened.data)
    format = choices.of(list(FORMATS))
    made, total = {}, 0
    for name, shape in tree.tensors():
        part = _empty(shape, format if len(shape) > 1 else "F32")
        part = part or _empty(shape, "F32")
        total += len(part.data) if part else MOST_BYTES
        if part is None or total > MOST_BYTES:
            return
        made[name] = part
    file.tensors.clear()
    file.tensors.update(made)


def _written(file: File, folder: str) -> str:
    path = os.path.join(folder, "model.gguf")
    if os.path.exists(path):
        os.unlink(path)  # the bytes of one that is mapped stay as they are
    with open(path, "wb") as out:
        out.write(serialized(file))
    return path


# -- the target


def change(choices: Choices, file: File, family: str) -> None:
    for _ in range(choices.below(6)):
        how = choices.below(8)
        if how < 5:
            _change_key(choices, file, family)
        elif how == 5:
            _change_array(choices, file)
        else:
            _change_tensor(choices, file)


def folder_in_memory() -> tempfile.TemporaryDirectory[str]:
    """A folder whose files touch no disk, where there is such a place."""
    return tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)


def use(model: nybble.Model) -> None:
    """What a model that loads must be good for."""
    text = "the cat <|im_end|> \u00e9\n"
    ids = model.tokenize(text, special=True, add_bos=True)
    model.detokenize(ids)
    if ids:
        model.logits(ids[: model.context - 1] or ids[:1])
    str(model.complete("a", max_tokens=2))


def try_one(data: bytes) -> bool:
    """Builds what an input says; whether it ran. Any exception but nybble's own is a finding."""
    choices = Choices(data)
    family = choices.of(list(FAMILIES))
    base = tiny(family)
    file = File(dict(base.keys), dict(base.tensors))
    with folder_in_memory() as folder:
        try:
            fits = choices.below(2)
            change(choices, file, family)
            if fits:
                _fit_tensors(choices, file, folder)
            use(nybble.load(_written(file, folder), threads=1))
        except NybbleError as error:
            refused = str(error)
        else:
            return True
    assert refused, "an error without a word"
    assert BY_THE_ENGINE not in refused, refused
    return False
