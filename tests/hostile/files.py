"""Hostile model files: a table, each row with the exception that it has to give and its words.

Rows of `scanned()` lie about the file itself, and no reader gets further than the scan; rows of
`models()` are sound files of models that are none, made of a sound one by one change.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nybble import errors
from nybble.formats.gguf import GgufFile
from tests.formats import gguf_bytes as gb
from tests.model.models import edited
from tests.tokenizer.vocabulary import crowded_merges
from tools.gguf_writer import Array, Scalar, Tensor, tensor
from tools.tiny_model import byte_alphabet, tiny_model

NAN, INF = math.nan, math.inf
MIB = 1 << 20


class Row(NamedTuple):
    """A file: `write` makes it at a path; `words` are a regular expression for the error's text."""

    name: str
    write: Callable[[Path], object]
    words: str
    error: type[errors.NybbleError] = errors.FormatError
    shows: bool = True  # whether `nybble show` can say what is in it


def table(folder: Path) -> list[Row]:
    """All rows; `folder` is for the sound file that they are made of."""
    source = folder / "sound.gguf"
    tiny_model(source, tied=False)
    rows = [*scanned(source.read_bytes()), *cut(source), *models(source)]
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    return rows


def written(raw: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(raw)


# -- what the scan refuses


def scanned(sound: bytes) -> Iterator[Row]:
    for name, (raw, complaint) in gb.hostile().items():
        if raw:
            yield Row(f"scan: {name}", written(raw), complaint, shows=False)
    yield Row("scan: an empty file", written(b""), r"is empty \(0 bytes\)", shows=False)
    yield Row("scan: a web page", written(b"<html>"), "web page", shows=False)

    counts = sound[:8] + struct.pack("<QQ", 2**63, 2**63) + sound[24:]
    yield Row("scan: counts of 2^63", written(counts), "too short for so many metadata keys",
              shows=False)  # fmt: skip
    yield Row("scan: a million tiny keys", written(many_keys(10**6)),
              r"no model has so many metadata keys .* value 1000000\)", shows=False)  # fmt: skip
    tensors = [gb.tensor(f"t{i}", [8], gb.F32, 32 * i) for i in range(65_536)]
    yield Row("scan: 65,536 tensors", written(gb.gguf([], tensors, bytes(32 * 65_536))),
              r"no model has so many .* value 65536\)", shows=False)  # fmt: skip
    for size, words, error in (
        (2**30, "metadata take 1,024 MiB or more; 64 are the most", errors.FormatError),
        (2**26, "metadata take 64 MiB or more; 64 are the most", errors.FormatError),
        (60 << 20, "metadata take 60 MiB or more, and the system does not", errors.BudgetError),
    ):
        head = gb.gguf([gb.string("s") + gb.u32(gb.STRING) + gb.u64(size)], n_keys=2)
        yield Row(f"scan: a string of {size >> 20} MiB, all of it there",
                  sparse(head, size + 1000), words, error, shows=False)  # fmt: skip


def many_keys(n: int) -> bytes:
    keys = b"".join(gb.string(f"{i:06}") + gb.u32(gb.UINT8) + b"\0" for i in range(n))
    return gb.gguf([keys], n_keys=n)


def sparse(head: bytes, size: int) -> Callable[[Path], object]:
    """A file that is large and takes no room on the disk."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.write(head)
            file.truncate(size)

    return write


def cut(source: Path) -> Iterator[Row]:
    """The sound file, cut in each of its sections."""
    raw = source.read_bytes()
    with GgufFile(source) as file:
        first = min(t.offset for t in file.tensors.values())
        last = max(file.tensors.values(), key=lambda t: t.offset)
    places = {
        "the magic": (3, "not a GGUF file"),
        "the version": (6, "inside its header"),
        "the counts": (20, "inside its header"),
        "the first key": (30, "too short for so many metadata keys"),
        "the keys": (raw.index(b"llama.embedding_length") + 10, "too short for so many tensors"),
        "a number": (raw.index(b"general.quantization_version") + 34, "past the end of the file"),
        "the tokens": (raw.index(b"tokenizer.ggml.tokens") + 1000, "past the end|length should be"),
        "the types": (raw.index(b"tokenizer.ggml.token_type") + 99, "past the end of the file"),
        "the template": (raw.index(b"chat_template") + 60, "a string runs past the end"),
        "the list of tensors": (raw.index(b"blk.1.attn_k.weight") + 30, "inside its list of ten"),
        "the padding": (first - 1, "are missing: download it again"),
        "the first tensor": (first + 5, "are missing: download it again"),
        "the last tensor": (last.offset + last.nbytes - 1, "1 are missing: download it again"),
    }
    for name, (at, words) in places.items():
        yield Row(f"cut in {name}", written(raw[:at]), words, shows=False)


# -- what is sound as a file and none of a model


def models(source: Path) -> Iterator[Row]:
    def keys(name: str, words: str, **values: object) -> Row:
        """Metadata changed: `__` in a keyword is a dot; of llama unless it names another."""
        changed = {}
        for key, value in values.items():
            dotted = key.replace("__", ".")
            whole = dotted.startswith(("general.", "tokenizer.", "llama."))
            changed[dotted if whole else f"llama.{dotted}"] = value
        return Row(name, lambda path: edited(source, path, changed), words)

    def weights(name: str, words: str, edit: Callable[[list[Tensor]], list[Tensor]]) -> Row:
        return Row(name, lambda path: edited(source, path, None, edit), words)

    yield from numbers(keys)
    yield from vocabularies(source, keys)
    yield from tensors(weights)
    yield from too_large(source)


def numbers(keys: Callable[..., Row]) -> Iterator[Row]:
    count = "it should be a whole number from 1 to"
    for key in ("block_count", "embedding_length", "feed_forward_length", "context_length"):
        for label, bad in (("0", 0), ("-1", Scalar("int32", -1)), ("2^31", 2**31),
                           ("2^64-1", Scalar("uint64", 2**64 - 1)), ("text", "many"),
                           ("an array", Array("int32", [1, 2]))):  # fmt: skip
            yield keys(f"{key} is {label}", rf"llama.{key} is .*; {count}", **{key: bad})
        yield keys(f"{key} is not there", f"llama.{key}: the file does not say", **{key: None})
    heads = "attention__head_count"
    yield keys("no heads", f"head_count is 0; {count}", **{heads: 0})
    yield keys("heads that do not divide", "96 does not divide among 5 heads", **{heads: 5})
    yield keys("more heads than dims", "does not divide among 192 heads", **{heads: 192})
    yield keys("2^24-1 heads", "does not divide among 16777215", **{heads: 2**24 - 1})
    yield keys("KV heads that do not divide", r"attn_k.weight is \(32, 96\), llama wants \(64,",
               attention__head_count_kv=2)  # fmt: skip
    yield keys("KV heads an array", f"head_count_kv is .*; {count}",
               attention__head_count_kv=Array("int32", [1, 1]))  # fmt: skip
    yield keys("heads of 2^24-1", "heads of 16,777,215 dimensions", attention__key_length=2**24 - 1,
               attention__value_length=2**24 - 1)  # fmt: skip
    yield keys("values of another length", "different lengths", attention__value_length=16)
    for dims in (1, 15, 31, 4096):
        yield keys(f"rotation of {dims} dims", f"of which {dims} rotate",
                   rope__dimension_count=dims)  # fmt: skip
    for dims in (0, 4097, 2**20):
        yield keys(f"rotation of {dims} dims", f"dimension_count is {dims}; {count}",
                   rope__dimension_count=dims)  # fmt: skip
    for label, bad in (("NaN", NAN), ("inf", INF), ("0", 0.0), ("-1", -1.0), ("text", "x")):
        number = "it should be a number from"
        yield keys(f"epsilon is {label}", f"epsilon is .*; {number}",
                   attention__layer_norm_rms_epsilon=bad)  # fmt: skip
        yield keys(f"rope base is {label}", f"freq_base is .*; {number}", rope__freq_base=bad)
        if bad != 0.0:
            yield keys(f"rope factor is {label}", f"factor is .*; {number}",
                       rope__scaling__factor=bad)  # fmt: skip
    yield keys("rope scaled otherwise", "scaled by 'yarn' are not", rope__scaling__type="yarn")
    yield keys("rope scaled by a number", "type is 5; it should be a string",
               rope__scaling__type=5)  # fmt: skip
    unknown = "may change what the model computes; this version does not know how"
    for key, bad in (("rope__scaling__finetuned", False), ("n_deepstack_layers", 3),
                     ("attn_logit_softcapping", 30.0), ("final_logit_softcapping", 30.0),
                     ("attention__causal", False), ("attention__sliding_window", 64),
                     ("rope__dimension_sections", Array("int32", [16, 24, 24])),
                     ("logit_scale", 0.1), ("residual_scale", "1"), ("something_new", 1),
                     ("attention__max_alibi_bias", 8.0), ("use_parallel_residual", True),
                     ("pooling_type", 3)):  # fmt: skip
        yield keys(f"{key} is {bad!r:.20}", f"llama.{key.replace('__', '.')} is .*{unknown}",
                   **{key: bad})  # fmt: skip
    yield keys("experts", "mixtures of experts", expert_count=8)
    for label, bad in (("unknown", "qwen9"), ("a path", "../../etc/passwd"), ("a module", "turns"),
                       ("empty", ""), ("long", "x" * 10**6),
                       ("30 MB", "x" * 30_000_000), ("a number", 7), ("not there", None),
                       ("an array", Array("string", ["llama"]))):  # fmt: skip
        yield keys(f"architecture is {label}", "architecture .{0,70} is not known here",
                   general__architecture=bad)  # fmt: skip


def vocabularies(source: Path, keys: Callable[..., Row]) -> Iterator[Row]:
    with GgufFile(source) as file:
        tokens = list(file.metadata["tokenizer.ggml.tokens"])
        merges = list(file.metadata["tokenizer.ggml.merges"])
    n, bad = len(tokens), "bad vocabulary: "

    def row(name: str, words: str, **values: object) -> Row:
        changed = {f"tokenizer__ggml__{key}": value for key, value in values.items()}
        return keys(f"tokenizer: {name}", words, **changed)

    def types(last: int) -> Array:
        return Array("int32", [1] * (n - 1) + [last])

    yield row("no tokens", "the file has no vocabulary", tokens=Array("string", []))
    yield row("tokens not there", "the file has no vocabulary", tokens=None)
    yield row("tokens are text", "the file has no vocabulary", tokens="abc")
    yield row("tokens are numbers", "array of string, the file has int32",
              tokens=Array("int32", list(range(n))), token_type=None)  # fmt: skip
    yield row("fewer tokens than rows", rf"embd.weight is \({n}, 96\), llama wants \({n - 1}, 96\)",
              tokens=tokens[:-1], token_type=None)  # fmt: skip
    yield row("more tokens than rows", rf"llama wants \({n + 1}, 96\)",
              tokens=[*tokens, "more"], token_type=None)  # fmt: skip
    yield row("a token twice", bad + "two tokens have the same spelling",
              tokens=[*tokens[:-1], tokens[5]])  # fmt: skip
    yield row("all tokens empty", bad + "no byte has a token", tokens=[""] * n,
              merges=Array("string", []))  # fmt: skip
    yield row("no byte a token", bad + "no byte has a token",
              tokens=[f"word{i}" for i in range(n)], merges=Array("string", []))  # fmt: skip
    yield row("a token of 10 MB", bad + "a special token's spelling is too long",
              tokens=[*tokens[:-1], "x" * 10**7], token_type=types(3))  # fmt: skip
    yield row("a type that does not exist", bad + "a token is of a type", token_type=types(9))
    yield row("a type too few", bad + "the vocabulary has another number of types",
              token_type=Array("int32", [1] * (n - 1)))  # fmt: skip
    yield row("types are floats", "array of int32, the file has float32",
              token_type=Array("float32", [1.0] * n))  # fmt: skip
    yield row("merges not there", "no tokenizer.ggml.merges", merges=None)
    yield row("a merge of no token", bad + "a merge names a part that is no token",
              merges=[*merges, "nothing here"])  # fmt: skip
    yield row("a merge into no token", bad + "a merge makes something that is no token",
              merges=[*merges, f"{tokens[-1]} {tokens[-1]}"])  # fmt: skip
    yield row("a merge without a space", bad + "a merge has no space", merges=[*merges, "ab"])
    yield row("a merge of nothing", bad + "a merge", merges=[*merges, " "])
    yield row("merges are numbers", "array of string, the file has int32",
              merges=Array("int32", [1]))  # fmt: skip
    yield Row("tokenizer: merges that collide", crowded, bad + "the merges were made to collide")
    yield row("kind unknown", "tokenizer is of kind 'bert'", model="bert")
    yield row("kind a number", "tokenizer is of kind 5", model=5)
    yield row("kind not there", "tokenizer is of kind None", model=None)
    yield row("pre-tokenizer unknown", "pre-tokenizer is 'tekken'", pre="tekken")
    yield row("pre-tokenizer a number", "pre-tokenizer is 7", pre=7)
    yield row("no scores", "no tokenizer.ggml.scores", model="llama")
    for label, score in (("NaN", NAN), ("too few", None)):
        scores = [0.0] * (n - 1) + ([] if score is None else [score])
        yield row(f"scores {label}", bad + "(a token's score is not a number|.*number of scores)",
                  model="llama", scores=Array("float32", scores))  # fmt: skip
    for name in ("bos", "eos", "eot", "eom"):
        yield row(f"{name} out of range", f"{name}_token_id is {n}; the vocabulary has tokens 0 to",
                  **{f"{name}_token_id": n})  # fmt: skip
    yield row("eos is -2", "eos_token_id is -2; the vocabulary", eos_token_id=Scalar("int32", -2))
    yield row("eos is text", "eos_token_id is '2'; it should be", eos_token_id="2")
    yield row("add_bos is a number", "add_bos_token is 1; it should be true or", add_bos_token=1)
    yield keys("template a number", "tokenizer.chat_template is 5; it should be text",
               tokenizer__chat_template=5)  # fmt: skip
    yield keys("template of 2 MB", "template is a text of 2,000,000 bytes, too long for one",
               tokenizer__chat_template="x" * 2_000_000)  # fmt: skip
    yield keys("template an array", "tokenizer.chat_template is .*; it should be text",
               tokenizer__chat_template=Array("string", ["a"]))  # fmt: skip


def crowded(path: Path) -> None:
    """Merges whose places in the hash table are its first ones; tokens for what they make."""
    merges = crowded_merges(600)
    tokens = [*byte_alphabet(), *(merge.replace(" ", "") for merge in merges)]
    changed = {"tokens": tokens, "merges": merges, "token_type": None}
    tiny_model(path, vocab=len(tokens))
    edited(path, path, {f"tokenizer.ggml.{key}": value for key, value in changed.items()})


def tensors(weights: Callable[..., Row]) -> Iterator[Row]:
    up, ones = "blk.1.ffn_up.weight", np.ones

    def without(name: str) -> Callable:
        return lambda tensors: [t for t in tensors if t.name != name]

    def instead(name: str, shape: tuple[int, ...], format: str = "F32") -> Callable:
        new = tensor(name, np.zeros(shape, np.float32), format)
        return lambda tensors: [new if t.name == name else t for t in tensors]

    def bytes_at(name: str, at: int, new: bytes) -> Callable:
        def change(t: Tensor) -> Tensor:
            return t._replace(data=t.data[:at] + new + t.data[at + len(new) :])

        return lambda tensors: [change(t) if t.name == name else t for t in tensors]

    for name in ("token_embd.weight", "output_norm.weight", "blk.0.attn_q.weight", up):
        yield weights(f"{name} is missing", f"{name} is missing; llama needs it", without(name))
    yield weights("no tensors", "token_embd.weight is missing", lambda _: [])
    yield weights("a bias that llama has not", "attn_q.bias is there, and llama has no use for it",
                  lambda t: [*t, tensor("blk.0.attn_q.bias", np.zeros(96), "F32")])  # fmt: skip
    yield weights("a layer too many", "blk.2.attn_norm.weight is there",
                  lambda t: [*t, tensor("blk.2.attn_norm.weight", ones(96), "F32")])  # fmt: skip
    for shape in ((96, 160), (160, 96, 1), (15360,), (1, 1), (161, 96), (160, 128)):
        yield weights(f"{up} is {shape}", r"ffn_up.weight is \(.*\), llama wants \(160, 96\)",
                      instead(up, shape))  # fmt: skip
    yield weights("a norm too short", r"attn_norm.weight is \(32,\), llama wants \(96,\)",
                  instead("blk.0.attn_norm.weight", (32,)))  # fmt: skip
    yield weights("a norm in F16", "ffn_norm.weight is F16; vectors must be F32",
                  instead("blk.1.ffn_norm.weight", (96,), "F16"))  # fmt: skip
    halves = {"inf": 0x7C00, "-inf": 0xFC00, "NaN": 0x7E00, "signalling NaN": 0x7D01}
    for label, bits in halves.items():
        half = struct.pack("<H", bits)
        yield weights(f"a scale is {label}", f"{up}: a number in row 2, block 1, is not finite",
                      bytes_at(up, (2 * 3 + 1) * 20, half))  # fmt: skip
        yield weights(f"a minimum is {label}", f"{up}: a number in row 159, block 2, is not finite",
                      bytes_at(up, 479 * 20 + 2, half))  # fmt: skip
    for label, value in (("inf", INF), ("NaN", NAN)):
        single = struct.pack("<f", value)
        yield weights(f"a norm's weight is {label}", "attn_norm.weight: element 70 is not finite",
                      bytes_at("blk.0.attn_norm.weight", 280, single))  # fmt: skip
        factors = tensor("rope_freqs.weight", np.ones(16), "F32")
        yield weights(
            f"a rope factor is {label}", r"rope_freqs.weight\[3\] is (inf|nan)",
            lambda t, f=factors, b=single: [*t, f._replace(data=f.data[:12] + b + f.data[16:])],
        )  # fmt: skip
    yield weights("rope factors too few", r"rope_freqs.weight is \(4,\); 16 floats expected",
                  lambda t: [*t, tensor("rope_freqs.weight", np.ones(4), "F32")])  # fmt: skip
    yield weights("rope factors in F16", "rope_freqs.weight is F16",
                  lambda t: [*t, tensor("rope_freqs.weight", np.ones(16), "F16")])  # fmt: skip


def too_large(source: Path) -> Iterator[Row]:
    """Files in which all is there that they say, and more than may be: each is sound otherwise, and
    its zeros take no room on the disk."""

    def weights(path: Path) -> None:
        hidden = 65_536
        tiny_model(path, layers=1, dim=1024, heads=8, hidden=64, formats={"mlp": "F16"})
        relisted(path, {"feed_forward_length": hidden},
                 lambda name, n: hidden if n == 64 and ".ffn_" in name else n)  # fmt: skip

    yield Row("384 MiB of weights", weights, r"packed weights: \d\d\d.* MiB, and the system does",
              errors.BudgetError)  # fmt: skip

    def heads(n_heads: int, head_dim: int) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            tiny_model(path, layers=1, dim=32, heads=1, head_dim=64, hidden=32)
            keys = dict.fromkeys(
                ("attention.key_length", "attention.value_length", "rope.dimension_count"), head_dim
            )
            rows = {"attn_q": n_heads * head_dim, "attn_output": n_heads * head_dim,
                    "attn_k": head_dim, "attn_v": head_dim}  # fmt: skip
            relisted(path, {"attention.head_count": n_heads, **keys},
                     lambda name, n: rows[name.split(".")[2]] if n == 64 else n)  # fmt: skip

        return write

    yield Row("a head of 2^17 dims", heads(1, 2**17), "heads of 131,072 dimensions; 4,096 are")
    yield Row("heads of 2^24 dims", heads(4096, 4096), "heads: 16777216 columns, not .* at most")

    def layers(path: Path) -> None:
        tiny_model(path, layers=1, dim=32, heads=1, head_dim=32, hidden=32)
        relisted(path, {"block_count": 1025}, copies=1025)

    yield Row("1,025 layers", layers, "block_count is 1025; .* from 1 to 1,024")

    def factors(path: Path) -> None:
        more = tensor("rope_freqs.weight", np.ones(16), "F32")
        edited(source, path, None, lambda tensors: [*tensors, more])
        relisted(path, {}, lambda name, n: 750_000_000 if name == more.name else n)

    yield Row("rope factors of 3 GB", factors, r"weight is \(750000000,\); 16 floats expected")


def relisted(
    path: Path,
    keys: dict[str, int],
    size: Callable[[str, int], int] = lambda name, n: n,
    copies: int = 1,
) -> None:
    """Writes a file again with other numbers of llama, tensors of other sizes (`size` is given a
    tensor's name and each of its dimensions) and `copies` of layer 0; all tensors are zeros."""
    edited(path, path, {f"llama.{key}": value for key, value in keys.items()})
    raw = path.read_bytes()
    with GgufFile(path) as file:
        listed = list(file.tensors.values())
    head = raw[: raw.index(gb.string(listed[0].name))]
    at, lines, n_tensors = 0, [], 0
    numbers = {"F32": 0, "F16": 1, "Q4_1": 3, "Q8_0": 8}
    for t in listed:
        shape = [size(t.name, n) for n in t.shape]
        nbytes = t.nbytes * math.prod(shape) // math.prod(t.shape)
        for i in range(copies if t.name.startswith("blk.0.") else 1):
            name = t.name.replace("blk.0.", f"blk.{i}.")
            lines.append(gb.tensor(name, shape[::-1], numbers[t.format], at))
            at += -(-nbytes // 32) * 32
            n_tensors += 1
    head = gb.pad(head[:8] + struct.pack("<Q", n_tensors) + head[16:] + b"".join(lines))
    sparse(head, len(head) + at)(path)
