"""Tiny models for tests of the surface, and files that differ from them in one thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

import nybble
from nybble._core.sequence import Sequence
from nybble.formats.gguf import GgufArray, GgufFile
from tools import fidelity
from tools.gguf_writer import Array, Tensor, dequantize, tensor, write_gguf
from tools.tiny_model import tiny_model

# A token that makes the logits NaN in the model of `with_poison`, and how it is written.
POISON_ID, POISON = 3 + ord("~"), "~"  # bytes come after three control tokens
END_ID = 2  # <|im_end|>
CONTROL, USER_DEFINED = 3, 4  # types of tokens
EXACT = dict.fromkeys(("embed", "attention", "mlp", "head"), "Q8_0")
_DIM = 5  # of the residual stream: only that token has something there


def fidelity_golden(name: str) -> fidelity.Golden:
    """Real text in the ids of that known model, with float32's distributions over it."""
    return fidelity.load_golden(Path(__file__).parents[1] / f"golden/{name}-fidelity.npz")


def edited(
    source: Path,
    out: Path,
    metadata: Mapping[str, object] | None = None,
    tensors: Callable[[list[Tensor]], list[Tensor]] = list,
) -> Path:
    """Writes `source` again with other metadata (None takes a key out) and edited tensors."""
    with GgufFile(source) as file:
        merged = {key: _value(value) for key, value in file.metadata.items()}
        for key, value in (metadata or {}).items():
            merged[key] = value
        merged = {key: value for key, value in merged.items() if value is not None}
        listed = [
            Tensor(name, tuple(info.shape), info.format, bytes(file.data(name)))
            for name, info in file.tensors.items()
        ]
    write_gguf(out, merged, tensors(listed))
    return out


def _value(value: object) -> object:
    if isinstance(value, GgufArray):
        return Array(value.element_type, list(value))
    return value


def replaced(name: str, values: Callable[[np.ndarray], np.ndarray]) -> Callable:
    """An edit of tensors: `name` with other values, in its own format."""

    def edit(tensors: list[Tensor]) -> list[Tensor]:
        names = [t.name for t in tensors]
        at = names.index(name)
        old = tensors[at]
        new = values(dequantize(old.data, old.format, old.shape).copy())
        return [*tensors[:at], tensor(name, new, old.format), *tensors[at + 1 :]]

    return edit


def speaking(folder: Path, text: str, *, loops: bool = False, **tiny: object) -> Path:
    """A model that after a line's end says `text`, a byte a token, and then ends, or with `loops`
    begins again. The bytes must differ from each other and from the line's end."""
    ids = [3 + byte for byte in ("\n" + text).encode()]
    return _chain(folder, [*ids, ids[1] if loops else END_ID], **tiny)


# Tokens of the models that think.
OPEN_ID, CLOSE_ID, BREAK_ID = 323, 324, 325


def thinking(
    folder: Path,
    thoughts: str,
    text: str,
    *,
    template: str,
    opens: bool = True,
    type: int = USER_DEFINED,
    **tiny: object,
) -> Path:
    """A model that after a line's end opens its thoughts, thinks, closes them and says `text` after
    an empty line; after an empty line alone it says `text` at once. With opens=False the prompt has
    opened its thoughts. The bytes must differ from each other.

    type : the marks' in the file, USER_DEFINED or CONTROL
    """
    ids = [3 + byte for byte in (thoughts + text).encode()]
    n = len(thoughts.encode())
    chain = [3 + ord("\n"), *([OPEN_ID] if opens else []), *ids[:n], CLOSE_ID, BREAK_ID, *ids[n:]]
    path = _chain(folder, [*chain, END_ID], vocab=326, **tiny)
    with GgufFile(path) as file:
        tokens = list(file.metadata["tokenizer.ggml.tokens"])
        types = list(file.metadata["tokenizer.ggml.token_type"])
        merges = list(file.metadata["tokenizer.ggml.merges"])
    tokens[OPEN_ID:], types[OPEN_ID:] = ["<think>", "</think>", "ĊĊ"], [type, type, 1]
    vocabulary = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": Array("int32", types),
        "tokenizer.ggml.merges": [*merges, "Ċ Ċ"],
        "tokenizer.chat_template": template,
    }
    return edited(path, folder / "thinking.gguf", vocabulary)


def _chain(folder: Path, ids: list[int], *, vocab: int = 323, **tiny: object) -> Path:
    """A model in which each of `ids` is followed by the next. They must differ but for the last.

    Both branches of its layers are zero, so the next token depends on the last alone: the head's
    row of a token is the embedding of the one before.
    """
    assert len(set(ids[:-1])) == len(ids) - 1, "a byte comes twice"
    numbers = {"layers": 1, "tied": False, "formats": EXACT, "vocab": vocab, **tiny}
    tiny_model(folder / "plain.gguf", **numbers)
    signs = np.random.default_rng(1).choice([-1.0, 1.0], (vocab, 96)).astype(np.float32)

    def head(w: np.ndarray) -> np.ndarray:
        w[:] = 0
        for last, follower in pairwise(ids):
            w[follower] += signs[last] / 4  # a logit of 24, where others' are below 10
        return w

    def edit(tensors: list[Tensor]) -> list[Tensor]:
        tensors = replaced("token_embd.weight", lambda _: signs)(tensors)
        tensors = replaced("output_norm.weight", np.ones_like)(tensors)
        for i in range(numbers["layers"]):
            tensors = replaced(f"blk.{i}.attn_output.weight", np.zeros_like)(tensors)
            tensors = replaced(f"blk.{i}.ffn_down.weight", np.zeros_like)(tensors)
        return replaced("output.weight", head)(tensors)

    return edited(folder / "plain.gguf", folder / "speaking.gguf", tensors=edit)


def feed(sequence: Sequence, ids: list[int], piece: int | None = None) -> np.ndarray:
    """Feeds what is not in the cache yet, at most `piece` tokens at once; the last logits."""
    done = sequence.reuse(ids)
    out = np.empty(sequence.vocab, np.float32)
    while done < len(ids):
        n = min(piece or len(ids), sequence.next_chunk(len(ids) - done))
        sequence.feed(ids[done : done + n], out if done + n == len(ids) else None)
        done += n
    return out


def cached(model: nybble.Model) -> list[int]:
    """The tokens that the model's first sequence holds: [] as long as nothing has run."""
    return model._sequences._sequences[0].ids


def with_poison(folder: Path) -> Path:
    """A model that works, but whose logits are NaN from POISON on.

    One dim of the residual stream is 0 but in that token's embedding, and the MLP's norm makes of
    it a number whose products overflow. Keys and values of the second layer are NaN then.
    """
    tiny_model(folder / "plain.gguf", layers=2, seed=7)

    def embedding(w: np.ndarray) -> np.ndarray:
        w[:, _DIM] = 0
        w[POISON_ID, _DIM] = 3
        return w

    def norm(w: np.ndarray) -> np.ndarray:
        w[_DIM] = 3e38
        return w

    def edit(tensors: list[Tensor]) -> list[Tensor]:
        tensors = replaced("token_embd.weight", embedding)(tensors)
        tensors = replaced("blk.0.ffn_norm.weight", norm)(tensors)
        return replaced("blk.0.attn_output.weight", np.zeros_like)(tensors)

    return edited(folder / "plain.gguf", folder / "poison.gguf", tensors=edit)
