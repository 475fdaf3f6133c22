"""Model families: from a file's metadata to a tree of parts.

A family is a module here, named as GGUF's `general.architecture` names it, with one function
`describe(m: Metadata) -> Decoder`. The parts below are implemented once, in `nybble._core`; a
family says which, with what numbers. Names and shapes of tensors follow from the tree and are
checked against the file before a byte of weights is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import NamedTuple

from nybble.archs.turns import rope_turns
from nybble.errors import FormatError


class Rope(NamedTuple):
    """Rotary position embedding (Su et al., "RoFormer", 2021): pair i of `dims` / 2 turns by
    theta ** (-2 i / dims) radians a position. `layout` says which dimensions are a pair in the
    file's rows: "pairs" (2i, 2i + 1) or "halves" (i, i + dims / 2)."""

    theta: float
    dims: int
    layout: str

    def turns(self) -> tuple[int, ...]:
        """Turns a position of each pair, times 2^64, rounded to nearest: (dims / 2,)."""
        return rope_turns(self.theta, self.dims)


class Attention(NamedTuple):
    """Grouped-query attention (Ainslie et al., 2023): heads / kv_heads query heads share a key
    and a value head."""

    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope


class Mlp(NamedTuple):
    """Gated MLP (Shazeer, "GLU Variants Improve Transformer", 2020): down(silu(gate) * up)."""

    hidden: int


class Block(NamedTuple):
    """One pre-norm layer: x += attention(norm(x)); x += mlp(norm(x))."""

    attention: Attention
    mlp: Mlp


class Decoder(NamedTuple):
    """A whole model. `tied`: the output head is the embedding."""

    dim: int
    vocab: int
    context: int
    norm_eps: float
    blocks: tuple[Block, ...]
    tied: bool

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape (rows, columns) of every tensor that the file must hold, in the order
        in which a token reads them."""
        yield "token_embd.weight", (self.vocab, self.dim)
        for i, block in enumerate(self.blocks):
            a, hidden, at = block.attention, block.mlp.hidden, f"blk.{i}."
            yield at + "attn_norm.weight", (self.dim,)
            yield at + "attn_q.weight", (a.heads * a.head_dim, self.dim)
            yield at + "attn_k.weight", (a.kv_heads * a.head_dim, self.dim)
            yield at + "attn_v.weight", (a.kv_heads * a.head_dim, self.dim)
            yield at + "attn_output.weight", (self.dim, a.heads * a.head_dim)
            yield at + "ffn_norm.weight", (self.dim,)
            yield at + "ffn_gate.weight", (hidden, self.dim)
            yield at + "ffn_up.weight", (hidden, self.dim)
            yield at + "ffn_down.weight", (self.dim, hidden)
        yield "output_norm.weight", (self.dim,)
        if not self.tied:
            yield "output.weight", (self.vocab, self.dim)


class Metadata:
    """What a family may ask of a file: its own keys, checked, and which tensors there are."""

    def __init__(self, arch: str, metadata: Mapping[str, object], tensors: Mapping[str, object]):
        self.arch = arch
        self._metadata = metadata
        self._tensors = tensors

    def has(self, key: str) -> bool:
        return f"{self.arch}.{key}" in self._metadata

    def count(
        self, key: str, default: int | None = None, least: int = 1, most: int = (1 << 24) - 1
    ) -> int:
        """A whole number from `least` to `most`; every shape is below 2^24."""
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self._bad(key, value, f"a whole number from {least:,} to {most:,}")
        return value

    def number(
        self, key: str, default: float | None = None, least: float = 1e-20, most: float = 1e20
    ) -> float:
        """A number from `least` to `most`."""
        value = self._get(key, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not least <= value <= most
        ):
            raise self._bad(key, value, f"a number from {least:g} to {most:g}")
        return float(value)

    def text(self, key: str, default: str) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._bad(key, value, "a string")
        return value

    def has_tensor(self, name: str) -> bool:
        return name in self._tensors

    @property
    def vocab(self) -> int:
        """The number of tokens in the file's vocabulary."""
        tokens = self._metadata.get("tokenizer.ggml.tokens")
        if not hasattr(tokens, "__len__") or isinstance(tokens, str) or not len(tokens):
            raise FormatError("tokenizer.ggml.tokens: the file has no vocabulary")
        return len(tokens)

    def refuse(self, reason: str) -> FormatError:
        """The error for a model of this family that nybble cannot run."""
        return FormatError(f"{self.arch}: {reason}")

    def _get(self, key: str, default: object) -> object:
        value = self._metadata.get(f"{self.arch}.{key}", default)
        if value is None:
            raise FormatError(f"{self.arch}.{key}: the file does not say")
        return value

    def _bad(self, key: str, value: object, wanted: str) -> FormatError:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return FormatError(f"{self.arch}.{key} is {shown}; it should be {wanted}")


def known() -> list[str]:
    """The families that nybble runs: the modules of this package that describe one."""
    not_a_family = ("__init__.py", "turns.py")
    here = os.listdir(os.path.dirname(__file__))
    return sorted(n[:-3] for n in here if n.endswith(".py") and n not in not_a_family)


def describe(metadata: Mapping[str, object], tensors: Mapping[str, object]) -> Decoder:
    """The tree of a file's model. FormatError if the family is unknown or its numbers are not
    those of a model that can be run."""
    arch = metadata.get("general.architecture")
    if arch not in known():
        raise FormatError(f"architecture {arch!r} is not known here; known: {', '.join(known())}")
    decoder: Decoder = import_module(f"nybble.archs.{arch}").describe(
        Metadata(str(arch), metadata, tensors)
    )
    return decoder
