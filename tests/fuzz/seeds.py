"""What the fuzz targets start from: made from the files and tables that the other tests make,
and from the heads of the known models that are here.

`of(target)` gives name -> bytes. Nothing is kept in the repository but the inputs of past crashes.
"""

from __future__ import annotations

import struct
import sys
import tempfile
from pathlib import Path

import numpy as np

from nybble import hub
from nybble._core.gguf import GgufArray
from nybble._core.program import Program, pack_in_memory
from nybble.archs import Attention, Block, Decoder, Mlp, Rope
from nybble.formats.gguf import GgufFile
from nybble.hub.known import KNOWN
from nybble.lowering import lower
from tests.fuzz import builder
from tools import replay, tiny_model
from tools.gguf_writer import FORMATS, tensor, write_gguf

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / "formats"), str(TESTS / "tokenizer")]

import gguf_bytes  # noqa: E402
import vocabulary  # noqa: E402

MOST_BYTES = 8192  # of a hostile file that is worth a seed
FEW, LETTERS = 8, 60  # of a real file's arrays and texts


def of(target: str) -> dict[str, bytes]:
    """The seeds of a C target, by name."""
    return {"gguf": _gguf, "vocab": _vocab, "encode": _encode, "program": _program}[target]()


# -- gguf


def _gguf() -> dict[str, bytes]:
    seeds = {
        "small-2": gguf_bytes.small(2),
        "small-3": gguf_bytes.small(3),
        "empty": gguf_bytes.gguf(),
        "model": _cut_model(),
        **{f"real-{name}": cut_head(path) for name, path, _ in hub.installed() if name in KNOWN},
    }
    for n, (raw, _) in enumerate(gguf_bytes.hostile().values()):
        if len(raw) <= MOST_BYTES:
            seeds[f"hostile-{n}"] = raw
    return seeds


def cut_head(path: str) -> bytes:
    """The keys of a model's file as they are, but for long arrays and texts, of which the first
    elements and characters are taken, and the first elements of its first vectors."""
    with GgufFile(path) as file:
        keys = {}
        for name, value in file.metadata.items():
            start, at, end = file.record(name)
            type_at = start + 8 + len(name.encode())
            type = int.from_bytes(file.head[type_at : type_at + 4], "little")
            raw = bytes(file.head[type_at + 4 : end])
            if isinstance(value, GgufArray):
                raw = raw[:4] + struct.pack("<Q", min(len(value), FEW)) + _first(value)
            elif isinstance(value, str):
                text = bytes(file.head[at:end])[:LETTERS]
                raw = struct.pack("<Q", len(text)) + text
            keys[name] = builder.Key(type, raw)
        vectors = [name for name, of in file.tensors.items() if of.format == "F32"][:2]
        tensors = {
            name: builder.Part((FEW,), FORMATS["F32"].ggml_type, bytes(file.data(name))[: 4 * FEW])
            for name in vectors
        }
    return builder.serialized(builder.File(keys, tensors))


def _first(array: GgufArray) -> bytes:
    """The bytes of its first elements."""
    raw = bytes(array.raw)
    if len(array) <= FEW:
        return raw
    if array.element_type != "string":
        return raw[: len(raw) // len(array) * FEW]
    at = 0
    for _ in range(FEW):
        at += 8 + int.from_bytes(raw[at : at + 8], "little")
    return raw[:at]


def _cut_model() -> bytes:
    """A model's file with all its keys, a few tokens of its vocabulary and small tensors."""
    metadata = {"general.architecture": "llama", "general.name": "tiny"}
    for key, value in tiny_model.vocabulary(tiny_model.MIN_VOCAB + 9).items():
        cut = isinstance(value, list) or hasattr(value, "values")
        metadata[key] = _cut(value) if cut else value
    tensors = [
        tensor("token_embd.weight", np.ones((8, 32), np.float32), "Q4_0"),
        tensor("blk.0.attn_norm.weight", np.ones(32, np.float32), "F32"),
        tensor("output_norm.weight", np.ones(32, np.float32), "F32"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.gguf")
        write_gguf(path, metadata, tensors)
        return path.read_bytes()


def _cut(value: object) -> object:
    if isinstance(value, list):
        return value[:8]
    return value._replace(values=value.values[:8])  # type: ignore[attr-defined]


# -- vocab: five bytes, then fields between 0xFF, by their first byte (vocab.c)

TOKEN, MERGE, TEXT, PATCH = 0, 2, 3, 0x83
HAS_BYTES, WHOLE_WORDS, SPACE_PREFIX, NO_TYPES = 4, 8, 16, 32
WORDS = "the lower other <|end|> a <|x|>   it's 1234\n\n" + "a" * 42 + "漢"


def _token(spelling: str, type: int = vocabulary.NORMAL, score: int = 0) -> bytes:
    """`score` is an index of SCORES in vocab.c."""
    return bytes([TOKEN | type << 2 | score << 5]) + spelling.encode()


def _vocab() -> dict[str, bytes]:
    def file(kind: int, flags: int, *fields: bytes, pre: int = 1, damage: int = 0) -> bytes:
        head = bytes([kind | flags, pre, 0xFF, damage, 1])
        return head + b"\xff".join(fields)

    texts = [bytes([TEXT]) + part.encode() for part in (WORDS, "<|", "x|> the")]
    specials = [
        _token(spelling, type)
        for type in (vocabulary.CONTROL, vocabulary.USER_DEFINED)
        for spelling in (("<|end|>", "<|im_end|>", "</s>"), ("<|x|>", "<|", "th"))[type - 3]
    ]
    merges = vocabulary.SMALL_MERGES
    products = [_token(merge.replace(" ", "")) for merge in merges if merge != "t h"]
    lines = [bytes([MERGE]) + merge.encode() for merge in merges if merge != "t h"]
    # "th" is a special token above, and a merge may make it all the same.
    lines.insert(0, bytes([MERGE]) + b"t h")
    pieces = [
        _token(spelling, score=n % 7)
        for n, spelling in enumerate(
            ["\u2581", *"thelowra>", "he", "the", "\u2581the", "lo", "low", "aa", "aaaa", ">\u2581"]
        )
    ]
    chars = [_token(c) for c in ("\u2581", *"thealower>", "\n", "\n\n", "\n\n\n")]
    seeds = {
        "bytes": file(0, HAS_BYTES, *products, *specials, *lines, *texts),
        "bytes-backwards": file(0, HAS_BYTES, *products, *specials, *lines[::-1], *texts, pre=4),
        "bytes-whole": file(0, HAS_BYTES | WHOLE_WORDS, *products, *specials, *lines, *texts),
        "bytes-few": file(0, NO_TYPES, _token("a"), _token("aa"), bytes([MERGE]) + b"a a", *texts),
        "chars": file(
            1,
            HAS_BYTES,
            *chars,
            *products,
            *specials,
            *(line.replace("Ġ".encode(), "\u2581".encode()) for line in lines),
            *texts,
        ),
        "pieces": file(2, HAS_BYTES | SPACE_PREFIX, *pieces, *specials, *texts),
        "pieces-few": file(2, 0, *pieces, *texts),
    }
    for at in range(0, 1500, 25):  # some numbers of the tables, here and there
        patch = bytes([PATCH, at % 250, at // 250, 0, (at // 25 * 37) % 255])
        name = ("bytes", "chars", "pieces")[at // 25 % 3]
        seeds[f"patched-{at}"] = seeds[name] + b"\xff" + patch
    for damage in range(1, 9):
        seeds[f"damaged-{damage}"] = file(
            2 * (damage % 2), 0, *pieces, *products, *lines, *texts, damage=damage
        )
    return seeds


# -- encode: three bytes, then a text (encode.c)

TEXTS = [
    "  the lower 漢字 <|end|> <|x|> it's 1234 ½\n\n \n\n\n    \t> a\u2581。\r\n",
    "a" * 140 + "bthe" + "a" * 30,
    "<|im_start|>user\nWhy do geese fly in a V?<|im_end|>\n",
    "ÀÉÎõü Ωμέγα Привет мир שלום नमस्ते 한국어 👩‍🚀 𝔘𝔫𝔦",
    "def f(x):\n\treturn [x ** 2 for x in range(10_000)]  # 3.14e-10\r\n",
    "I'll we're they've DON'T it's\u00a0o\u2003k",
    "th th the the<|<|e<|end the|>aaaaaaaaaaa    aaaa     ",
]
N_VOCABULARIES = 22


def _encode() -> dict[str, bytes]:
    seeds = {}
    for n, text in enumerate(TEXTS):
        for choice in range(N_VOCABULARIES):
            head = bytes([choice, choice % 2, (0, 5)[n % 2]])
            seeds[f"{n}-{choice}"] = head + text.encode()
    seeds["no-text"] = bytes(3)
    seeds["not-utf-8"] = bytes([18, 0, 0]) + bytes(range(256))
    return seeds


# -- program: a dump, whose header says how it is run (program.c)


def _tree(dim: int = 32, tied: bool = True, act: str = "silu", **attention: object) -> Decoder:
    rope = Rope(10_000.0, 16, "halves")
    numbers = {"heads": 2, "kv_heads": 1, "head_dim": 16, "rope": rope} | attention
    window = numbers.pop("window", 0)
    far = Attention(**numbers)  # type: ignore[arg-type]
    blocks = [Block(far, Mlp(32, act), act == "gelu")]
    if window:
        blocks.append(blocks[0]._replace(attention=far._replace(window=window)))  # type: ignore[arg-type]
    return Decoder(dim, 8, 512, 1e-5, tuple(blocks), tied)


def _dumped(
    tree: Decoder, format: str, how: dict[int, int], ids: list[int], kv: str = "f16"
) -> bytes:
    """A program of random weights, dumped, with the numbers of `enum how`."""
    rng = np.random.default_rng(len(ids))
    tensors = {}
    for name, shape in tree.tensors():
        values = rng.standard_normal(shape, np.float32) / np.float32(4)
        fits = len(shape) == 2 and shape[1] % 256 == 0
        kind = "F32" if len(shape) == 1 else format if fits or "K" not in format else "Q4_0"
        tensors[name] = tensor(name, values, kind)
    low = lower(tree, {name: made.format for name, made in tensors.items()})

    def read(name: str, at: int, out: memoryview) -> None:
        out[:] = tensors[name].data[at : at + len(out)]

    weights = pack_in_memory(Program(low), read)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "dumped")
        replay.dump(weights, ids, 1, path, kv)
        raw = bytearray(path.read_bytes())
    numbers = [2, 3, 2, low.hidden, low.dim, 0, 2]
    for place, number in how.items():
        numbers[place] = number
    raw[36:64] = struct.pack("<7I", *numbers)
    return bytes(raw)


def _program() -> dict[str, bytes]:
    threads, chunk, logits, level, want = 0, 1, 2, 5, 6
    short, long = [1, 2, 3, 4, 5], [i % 8 for i in range(131)]
    seeds = {
        "llama": _dumped(_tree(), "Q4_0", {}, short),
        "one-thread": _dumped(_tree(), "Q8_0", {threads: 1, chunk: 1, logits: 1}, short),
        "pages": _dumped(_tree(), "Q4_1", {chunk: 16}, long),
        "qwen2": _dumped(_tree(tied=False, qkv_bias=True), "Q5_0", {want: 1}, short),
        "gemma3": _dumped(_tree(act="gelu", qk_norm=True, window=4), "Q4_0", {chunk: 16}, long),
        "floats": _dumped(_tree(), "F16", {chunk: 5}, short),
        "k-quants": _dumped(_tree(dim=256), "Q4_K", {}, short),
        "q6": _dumped(_tree(dim=256), "Q6_K", {chunk: 8}, short),
        "v8": _dumped(_tree(), "Q4_0", {chunk: 8}, short, "v8"),
        "int8": _dumped(_tree(head_dim=48, window=4), "Q8_0", {chunk: 16}, long, "int8"),
        "mxfp4": _dumped(_tree(), "MXFP4", {chunk: 8}, short),
    }
    for number in range(1, 4):
        how = {level: number, chunk: 7}
        seeds[f"level-{number}"] = _dumped(_tree(qk_norm=True), "Q4_0", how, short)
    return seeds
