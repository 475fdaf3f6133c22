"""Builds GGUF files byte by byte, sound ones and a table of hostile ones.

The pieces (`string`, `key`, `tensor`) are bytes, so that a test can put a lie into any field.
"""

from __future__ import annotations

import struct

NUMBERS = {  # GGUF type number -> struct code
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = (
    range(13)
)
F32, Q4_1 = 0, 3  # ggml's numbers

BIG = 2**63


def u32(value):
    return struct.pack("<I", value)


def u64(value):
    return struct.pack("<Q", value)


def string(text, length=None):
    """A string; `length` lies about it."""
    raw = text.encode() if isinstance(text, str) else text
    return u64(len(raw) if length is None else length) + raw


def scalar(type, value):
    return string(value) if type == STRING else struct.pack(NUMBERS[type], value)


def key(name, type, value):
    """A metadata key with a number or a string."""
    return string(name) + u32(type) + scalar(type, value)


def array(name, element_type, values, count=None):
    """A metadata key with an array; `count` lies about its length."""
    elements = b"".join(scalar(element_type, value) for value in values)
    n = len(values) if count is None else count
    return string(name) + u32(ARRAY) + u32(element_type) + u64(n) + elements


def tensor(name, dims, format=F32, offset=0, n_dims=None):
    """A line of the list of tensors; dims as the file has them, fastest first."""
    n = len(dims) if n_dims is None else n_dims
    return string(name) + u32(n) + b"".join(map(u64, dims)) + u32(format) + u64(offset)


def pad(raw, alignment=32):
    return raw + bytes(-len(raw) % alignment)


def gguf(keys=(), tensors=(), data=b"", version=3, alignment=32, n_keys=None, n_tensors=None):
    """A whole file; without tensors it ends where the list does, as tokenizer-only files do."""
    head = b"GGUF" + u32(version)
    head += u64(len(tensors) if n_tensors is None else n_tensors)
    head += u64(len(keys) if n_keys is None else n_keys)
    head += b"".join(keys) + b"".join(tensors)
    return pad(head, alignment) + data if tensors else head


def small(version=3):
    """A sound file with a bit of everything; its last 12 bytes are padding."""
    return gguf(
        keys=[
            key("general.architecture", STRING, "llama"),
            key("llama.block_count", UINT32, 1),
            key("tokenizer.ggml.add_bos_token", BOOL, True),
            array("tokenizer.ggml.tokens", STRING, ["a", "", "Ġb", "日本"]),
            array("tokenizer.ggml.scores", FLOAT32, [0.5, -1.0, 0.0, 2.0]),
            array("tokenizer.ggml.flags", BOOL, [True, False]),
        ],
        tensors=[
            tensor("token_embd.weight", [32, 4], Q4_1, 0),
            tensor("output_norm.weight", [5], F32, 96),
        ],
        data=pad(bytes(range(80))) + pad(bytes(range(20))),
        version=version,
    )


SMALL_PADDING = 12


def hostile():
    """name -> (bytes, a piece of the complaint)"""
    one = [tensor("a", [8])]
    room = bytes(32)
    overlong = [8, 1, 1, 1, 1]
    return {
        "empty": (b"", "not a GGUF file"),
        "three bytes": (b"GGU", "not a GGUF file"),
        "other magic": (b"GGML" + bytes(60), "not a GGUF file"),
        "magic only": (b"GGUF", "ends inside its header"),
        "version 0": (gguf(version=0), "too old"),
        "version 1": (gguf(version=1), "version is too old"),
        "version 4": (gguf(version=4), "version is not known"),
        "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        # counts
        "2^63 keys": (gguf(n_keys=BIG), "too short for so many metadata keys"),
        "2^64-1 keys": (gguf(n_keys=2**64 - 1), "too short for so many metadata keys"),
        "2^63 tensors": (gguf(n_tensors=BIG), "too short for so many tensors"),
        "one key too many": (
            gguf([key("k" * 40, UINT8, 1)], n_keys=2),
            "where a string's length",
        ),
        "one tensor too many": (gguf([], one, room, n_tensors=2), "name is empty or longer"),
        # strings and keys
        "empty key": (gguf([key("", UINT64, 1)]), "key is empty"),
        "long key": (gguf([key("k" * 65_536, UINT8, 1)]), "longer than 65,535"),
        "key of 2^63 bytes": (gguf([string("k", BIG) + bytes(16)]), "longer than 65,535"),
        "key past the end": (gguf([string("k", 60_000) + bytes(16)]), "string runs past the end"),
        "key of bad UTF-8": (gguf([key(b"general.\xff\xfe", UINT8, 1)]), "not plain ASCII"),
        "key with a newline": (gguf([key("a\nb", UINT8, 1)]), "not plain ASCII"),
        "key with a NUL": (gguf([key("a\0b", UINT8, 1)]), "not plain ASCII"),
        "key twice": (
            gguf([key("x", UINT8, 1), key("y", UINT8, 1), key("x", UINT8, 2)]),
            "key occurs twice",
        ),
        "1 GB string": (
            gguf([string("s") + u32(STRING) + string("short", 2**30)]),
            "string runs past the end",
        ),
        "string of 2^63 bytes": (
            gguf([string("s") + u32(STRING) + string("short", BIG)]),
            "length is not possible",
        ),
        "string of 2^64-1 bytes": (
            gguf([string("s") + u32(STRING) + string("short", 2**64 - 1)]),
            "length is not possible",
        ),
        # types and values
        "type 13": (gguf([string("t") + u32(13) + bytes(8)]), "metadata type is unknown"),
        "type 2^32-1": (gguf([string("t") + u32(2**32 - 1) + bytes(8)]), "type is unknown"),
        "no value": (gguf([string("t") + u32(FLOAT64) + bytes(7)]), "value runs past the end"),
        "bool of 2": (gguf([string("b") + u32(BOOL) + b"\2"]), "neither 0 nor 1"),
        "bool of 255 in an array": (
            gguf([string("b") + u32(ARRAY) + u32(BOOL) + u64(3) + b"\0\1\xff"]),
            "neither 0 nor 1",
        ),
        # arrays
        "array of arrays": (
            gguf([string("a") + u32(ARRAY) + u32(ARRAY) + u64(0)]),
            "arrays of arrays",
        ),
        "array of type 13": (
            gguf([string("a") + u32(ARRAY) + u32(13) + u64(0)]),
            "element type is unknown",
        ),
        "array of 2^63 bytes": (gguf([array("a", UINT8, [1], BIG)]), "value runs past the end"),
        "array whose size wraps to 8": (
            gguf([array("a", UINT64, [1], 2**61 + 1)]),
            "value runs past the end",
        ),
        "array of 2^63 strings": (
            gguf([array("a", STRING, ["x"], BIG)]),
            "array of strings runs past the end",
        ),
        "one string too many": (
            gguf([array("a", STRING, ["x" * 50, "y"], 3)]),
            "where a string's length",
        ),
        "long string in an array": (
            gguf([array("a", STRING, ["x"]) + string("y", 99)], n_keys=2),
            "string runs past the end",
        ),
        # alignment
        "alignment 0": (gguf([key("general.alignment", UINT32, 0)]), "not a power of two"),
        "alignment 4": (gguf([key("general.alignment", UINT32, 4)]), "of 8 or more"),
        "alignment 48": (gguf([key("general.alignment", UINT32, 48)]), "not a power of two"),
        "alignment as uint64": (
            gguf([key("general.alignment", UINT64, 32)]),
            "not of type uint32",
        ),
        "alignment as string": (
            gguf([key("general.alignment", STRING, "32")]),
            "not of type uint32",
        ),
        "alignment of 2 GiB": (
            gguf([key("general.alignment", UINT32, 2**31)], one, room),
            "data runs past the end",
        ),
        # tensors
        "nameless tensor": (gguf([], [tensor("", [8])], room), "name is empty"),
        "long tensor name": (gguf([], [tensor("n" * 65, [8])], room), "longer than 64"),
        "tensor name of 2^63 bytes": (
            gguf([], [string("n", BIG) + bytes(32)], room),
            "longer than 64",
        ),
        "no dimensions": (gguf([], [tensor("a", [], n_dims=0)], bytes(64)), "not 1 to 4"),
        "five dimensions": (gguf([], [tensor("a", overlong)], room), "not 1 to 4"),
        "2^32-1 dimensions": (gguf([], [tensor("a", [8], n_dims=2**32 - 1)], room), "not 1 to 4"),
        "zero dimension": (gguf([], [tensor("a", [8, 0])], room), "dimension is zero"),
        "zero first dimension": (gguf([], [tensor("a", [0])], room), "dimension is zero"),
        "dimension of 2^63": (gguf([], [tensor("a", [BIG])], room), "dimensions are too large"),
        "dimensions that wrap to 0": (
            gguf([], [tensor("a", [2**32, 2**32])], room),
            "dimensions are too large",
        ),
        "dimensions that wrap to 32 bytes": (
            gguf([], [tensor("a", [2**61 + 8, 1])], room),
            "dimensions are too large",
        ),
        "unknown format": (gguf([], [tensor("a", [32], 43)], room), "format is unknown"),
        "removed format": (gguf([], [tensor("a", [32], 4)], room), "removed from GGUF"),
        "format 2^32-1": (gguf([], [tensor("a", [32], 2**32 - 1)], room), "format is unknown"),
        "half a block": (gguf([], [tensor("a", [48], Q4_1)], room), "not whole blocks"),
        "half a block a row": (gguf([], [tensor("a", [16, 2], Q4_1)], room), "not whole blocks"),
        "misaligned offset": (gguf([], [tensor("a", [8], F32, 8)], bytes(64)), "not a multiple"),
        "offset past the end": (
            gguf([], [tensor("a", [8], F32, 32)], room),
            "data runs past the end",
        ),
        "offset of 2^63": (gguf([], [tensor("a", [8], F32, BIG)], room), "offset is too large"),
        "offset that wraps": (
            gguf([], [tensor("a", [8], F32, 2**64 - 32)], room),
            "offset is too large",
        ),
        "data cut by a byte": (gguf([], one, room[:-1]), "data runs past the end"),
        "name twice": (
            gguf([], [tensor("a", [8]), tensor("b", [8], F32, 32), tensor("a", [8], F32, 64)],
                 bytes(96)),
            "name occurs twice",
        ),
        "overlap": (
            gguf([], [tensor("a", [8], F32, 32), tensor("b", [9], F32, 0)], bytes(96)),
            "overlap",
        ),
        "same offset": (gguf([], [tensor("a", [8]), tensor("b", [8])], bytes(64)), "overlap"),
    }  # fmt: skip
