"""Model families: from a file's metadata to a tree of parts.

A family is a module here, named as GGUF's `general.architecture` names it, with one function
`describe(m: Metadata) -> Decoder`. The parts below are implemented once, in `nybble.lowering` and
the engine; a family says which, with what numbers. Names and shapes of tensors follow from the
tree and are checked against the file before a byte of weights is read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import NamedTuple, Protocol

from nybble.archs.turns import rope_turns
from nybble.errors import FormatError

ROPE_FACTORS = "rope_freqs.weight"
# What the engine takes (check() in bind.c), told before anything is made of a file's numbers.
MOST = (1 << 24) - 1  # of any count or dimension
MOST_HEAD_DIM = 4096
MOST_LAYERS = 1024  # each is less than 64 of its 65,536 steps; the deepest model known has 126

# Keys of a family that no family asks for. Any other that is left over is refused: what it says of
# the model would not be done.
INFORMATIVE = frozenset(
    # the third is of the scalings that are refused by their type, the last of mixtures
    "vocab_size tensor_data_layout rope.scaling.original_context_length expert_used_count".split()
)
NEUTRAL: dict[str, object] = {  # the value with which a key changes nothing
    "attention.causal": True,
    "attention.clamp_kqv": 0,
    "attention.max_alibi_bias": 0,
    "attention.sliding_window": 0,
    "attn_logit_softcapping": 0,
    "embedding_scale": 1,
    "expert_shared_count": 0,
    "final_logit_softcapping": 0,
    "leading_dense_block_count": 0,
    "logit_scale": 1,
    "n_deepstack_layers": 0,
    "nextn_predict_layers": 0,
    "pooling_type": 0,
    "residual_scale": 1,
    "rope.scaling.attn_factor": 1,
    "rope.scaling.finetuned": True,  # False: Granite's layers know no positions then
    "use_parallel_residual": False,
}


class Rope(NamedTuple):
    """Rotary position embedding (Su et al., "RoFormer", 2021): pair i of `dims` / 2 turns by
    theta ** (-2 i / dims) radians a position. `layout` says which dimensions are a pair in the
    file's rows: "pairs" (2i, 2i + 1) or "halves" (i, i + dims / 2).

    factor  : by which all pairs turn more slowly: positions interpolated linearly (Chen et al.,
              "Extending Context Window of Large Language Models", 2023); math.inf: no pair turns
    factors : and those of each pair, () for none: Llama 3.1's, which slow the slow pairs down
    """

    theta: float
    dims: int
    layout: str
    factor: float = 1.0
    factors: tuple[float, ...] = ()

    def turns(self) -> tuple[int, ...]:
        """Turns a position of each pair, times 2^64, rounded to nearest: (dims / 2,)."""
        return rope_turns(self.theta, self.dims, self.factor, self.factors)


class Attention(NamedTuple):
    """Grouped-query attention (Ainslie et al., 2023): heads / kv_heads query heads share a key
    and a value head.

    scale     : of the scores; None: 1 / sqrt(head_dim)
    window    : a token sees so many positions, its own the last of them; 0: all
    qkv_bias  : q, k and v have a vector added
    qk_norm   : each head of q and k is RMS-normed before it is rotated
    """

    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope
    scale: float | None = None
    window: int = 0
    qkv_bias: bool = False
    qk_norm: bool = False

    @property
    def score_scale(self) -> float:
        return 1 / math.sqrt(self.head_dim) if self.scale is None else self.scale


class Mlp(NamedTuple):
    """Gated MLP (Shazeer, "GLU Variants Improve Transformer", 2020): down(act(gate) * up), where
    act is "silu" or "gelu", the latter with tanh (Hendrycks, Gimpel, 2016)."""

    hidden: int
    act: str = "silu"


class Block(NamedTuple):
    """One pre-norm layer: x += attention(norm(x)); x += mlp(norm(x)). With `post_norms` what is
    added is normed too."""

    attention: Attention
    mlp: Mlp
    post_norms: bool = False


class Decoder(NamedTuple):
    """A whole model. `tied`: the output head is the embedding, whose rows are multiplied by
    `embed_scale` where they enter. Logits are multiplied by `head_scale`."""

    dim: int
    vocab: int
    context: int
    norm_eps: float
    blocks: tuple[Block, ...]
    tied: bool
    embed_scale: float = 1.0
    head_scale: float = 1.0

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape (rows, columns) of every tensor that the file must hold, in the order
        in which a token reads them."""
        yield "token_embd.weight", (self.vocab, self.dim)
        ropes = {block.attention.rope for block in self.blocks}
        for dims in {rope.dims for rope in ropes if rope.factors}:
            yield ROPE_FACTORS, (dims // 2,)
        for i, block in enumerate(self.blocks):
            a, hidden, at = block.attention, block.mlp.hidden, f"blk.{i}."
            q_rows, kv_rows = a.heads * a.head_dim, a.kv_heads * a.head_dim
            yield at + "attn_norm.weight", (self.dim,)
            for part, rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
                yield f"{at}attn_{part}.weight", (rows, self.dim)
            if a.qkv_bias:
                for part, rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
                    yield f"{at}attn_{part}.bias", (rows,)
            if a.qk_norm:
                yield at + "attn_q_norm.weight", (a.head_dim,)
                yield at + "attn_k_norm.weight", (a.head_dim,)
            yield at + "attn_output.weight", (self.dim, q_rows)
            if block.post_norms:
                yield at + "post_attention_norm.weight", (self.dim,)
            yield at + "ffn_norm.weight", (self.dim,)
            yield at + "ffn_gate.weight", (hidden, self.dim)
            yield at + "ffn_up.weight", (hidden, self.dim)
            yield at + "ffn_down.weight", (self.dim, hidden)
            if block.post_norms:
                yield at + "post_ffw_norm.weight", (self.dim,)
        yield "output_norm.weight", (self.dim,)
        if not self.tied:
            yield "output.weight", (self.vocab, self.dim)


class Tensor(Protocol):
    """What is asked of a file's tensor: its type, as GGUF names it, and its shape."""

    @property
    def format(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


class Metadata:
    """What a family may ask of a file: its own keys, checked, and which tensors there are."""

    def __init__(
        self,
        arch: str,
        metadata: Mapping[str, object],
        tensors: Mapping[str, Tensor],
        data: Callable[[str], memoryview],
    ):
        self.arch = arch
        self._metadata = metadata
        self._tensors = tensors
        self._data = data
        self._asked: set[str] = set()

    def has(self, key: str) -> bool:
        return f"{self.arch}.{key}" in self._metadata

    def refuse_unknown(self) -> None:
        """FormatError for a key of the family that has not been asked for, unless it is known to
        change nothing."""
        start = f"{self.arch}."
        for name in self._metadata:
            key = name.removeprefix(start)
            if key == name or key in self._asked or key in INFORMATIVE:
                continue
            value, neutral = self._metadata[name], NEUTRAL.get(key)
            is_neutral = key in NEUTRAL and value == neutral
            if not is_neutral or isinstance(value, bool) != isinstance(neutral, bool):
                raise FormatError(
                    f"{name:.80} is {_shown(value)}, which may change what the model computes;"
                    " this version does not know how"
                )

    def count(self, key: str, default: int | None = None, least: int = 1, most: int = MOST) -> int:
        """A whole number from `least` to `most`."""
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

    def rope(self, dims: int, layout: str) -> Rope:
        """The rotation that the file tells, of heads of `dims` dimensions."""
        dims = self.count("rope.dimension_count", dims, most=MOST_HEAD_DIM)
        kind = self.text("rope.scaling.type", "linear")
        if kind not in ("none", "linear"):
            raise self.refuse(
                f"rotary embeddings scaled by {kind!r:.60} are not supported; linear and "
                "Llama 3.1's factors are"
            )
        older = self.number("rope.scale_linear", 1.0, least=0)
        factor = self.number("rope.scaling.factor", older, least=0)  # 0 where there is none
        return Rope(
            theta=self.number("rope.freq_base", 10_000.0),
            dims=dims,
            layout=layout,
            factor=1.0 if kind == "none" else factor or 1.0,
            factors=self._rope_factors(dims),
        )

    def attention(self, layout: str) -> Attention:
        """Attention with the numbers where most families have them; `layout` of its rope."""
        dim, heads = self.count("embedding_length"), self.count("attention.head_count")
        if dim % heads and not self.has("attention.key_length"):
            raise self.refuse(f"embedding_length {dim} does not divide among {heads} heads")
        head_dim = self.count("attention.key_length", dim // heads)
        if head_dim > MOST_HEAD_DIM:
            raise self.refuse(f"heads of {head_dim:,} dimensions; {MOST_HEAD_DIM:,} are the most")
        if self.count("attention.value_length", head_dim) != head_dim:
            raise self.refuse("keys and values of different lengths are not supported")
        return Attention(
            heads=heads,
            kv_heads=self.count("attention.head_count_kv", heads),
            head_dim=head_dim,
            rope=self.rope(head_dim, layout),
        )

    def decoder(self, block: Callable[[int], Block], embed_scale: float = 1.0) -> Decoder:
        """The whole model with the numbers where most families have them; `block(i)` is layer i."""
        if self.count("expert_count", 0, least=0):
            raise self.refuse("mixtures of experts are not supported yet")
        return Decoder(
            dim=self.count("embedding_length"),
            vocab=self.vocab,
            context=self.count("context_length"),
            norm_eps=self.number("attention.layer_norm_rms_epsilon", most=1.0),
            blocks=tuple(map(block, range(self.count("block_count", most=MOST_LAYERS)))),
            tied=not self.has_tensor("output.weight"),
            embed_scale=embed_scale,
        )

    def _rope_factors(self, dims: int) -> tuple[float, ...]:
        """Llama 3.1's: what the converter made of the model's numbers; () if the file has none."""
        if not self.has_tensor(ROPE_FACTORS):
            return ()
        found = self._tensors[ROPE_FACTORS].format
        if found != "F32":
            raise FormatError(f"{ROPE_FACTORS} is {found}; it should be F32")
        shape = tuple(self._tensors[ROPE_FACTORS].shape)
        if shape != (dims // 2,):  # before it is read: it may be larger than all memory
            raise FormatError(f"{ROPE_FACTORS} is {shape}; {dims // 2} floats expected")
        factors = tuple(self._data(ROPE_FACTORS).cast("f"))
        for i, factor in enumerate(factors):
            if not 1e-3 <= factor <= 1e6:
                raise FormatError(f"{ROPE_FACTORS}[{i}] is {factor}; it should be 0.001 to 1e+06")
        return factors

    @property
    def vocab(self) -> int:
        """The number of tokens in the file's vocabulary."""
        tokens = self._metadata.get("tokenizer.ggml.tokens")
        if not hasattr(tokens, "__len__") or isinstance(tokens, str) or not len(tokens):
            raise FormatError("tokenizer.ggml.tokens: the file has no vocabulary")
        if len(tokens) > MOST:
            raise FormatError(f"tokenizer.ggml.tokens: {len(tokens):,}; {MOST:,} are the most")
        return len(tokens)

    def refuse(self, reason: str) -> FormatError:
        """The error for a model of this family that nybble cannot run."""
        return FormatError(f"{self.arch}: {reason}")

    def _get(self, key: str, default: object) -> object:
        self._asked.add(key)
        value = self._metadata.get(f"{self.arch}.{key}", default)
        if value is None:
            raise FormatError(f"{self.arch}.{key}: the file does not say")
        return value

    def _bad(self, key: str, value: object, wanted: str) -> FormatError:
        return FormatError(f"{self.arch}.{key} is {_shown(value)}; it should be {wanted}")


def _shown(value: object) -> str:
    """A value from a file, for an error text."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def known() -> list[str]:
    """The families that nybble runs: the modules of this package that describe one."""
    not_a_family = ("__init__.py", "turns.py")
    here = os.listdir(os.path.dirname(__file__))
    return sorted(n[:-3] for n in here if n.endswith(".py") and n not in not_a_family)


def describe(
    metadata: Mapping[str, object],
    tensors: Mapping[str, Tensor],
    data: Callable[[str], memoryview],
) -> Decoder:
    """The tree of a file's model; `data` gives the bytes of a tensor, for the few that are numbers
    of the tree. FormatError if the family is unknown or its numbers are not those of a model that
    can be run."""
    arch = metadata.get("general.architecture")
    if arch not in known():
        raise FormatError(
            f"architecture {arch!r:.60} is not known here; known: {', '.join(known())}"
        )
    m = Metadata(str(arch), metadata, tensors, data)
    decoder: Decoder = import_module(f"nybble.archs.{arch}").describe(m)
    m.refuse_unknown()
    return decoder
