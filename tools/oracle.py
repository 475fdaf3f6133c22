"""What a GGUF file of a known family says, in NumPy: the truth that nybble is measured against.

Weights are dequantized, activations stay float32 and no step is quantized, so what differs
from this in another program is that program's own error. `dtype=np.float64` computes in double
on the same weights and so tells how far float32 itself can be trusted.

    python -m tools.oracle MODEL.gguf 504 3575 282        # the likeliest next ids, with logits

All have RMSNorm (arXiv 1910.07467); grouped-query attention (2305.13245) with rotary positions
(2104.09864), in the families `PAIRS` on the pairs (2i, 2i + 1) of a head, because their files hold
q and k so, else on (i, i + D / 2); a gated MLP (2002.05202); a head of its own or the embedding.
SmolLM 3 does not rotate in every fourth layer. Granite 3 scales embeddings, scores, what a branch
adds, and logits. Qwen 2 adds biases to q, k and v; Qwen 3 norms their
heads, as Gemma 3 does, which also norms what a branch adds, scales its embeddings, gates by GELU
and looks through a window in all layers but some.

Memory: the weights of one layer, `HEAD_ROWS` rows of the head, the activations of all tokens of
one layer, and the logits; 600 tokens of SmolLM2-135M stay below 0.5 GB.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from nybble.formats.gguf import GgufFile
from tools.gguf_writer import FORMATS, dequantize

FAMILIES = ("llama", "granite", "smollm3", "qwen2", "qwen3", "gemma3")
PARTS = {  # of a layer, beyond those that all families have
    "llama": [],
    "granite": [],
    "smollm3": [],
    "qwen2": [],
    "qwen3": ["attn_q_norm", "attn_k_norm"],
    "gemma3": ["attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm"],
}
PAIRS = ("llama", "granite", "smollm3")  # whose rotated dims lie in pairs
ROPE_FACTORS = "rope_freqs.weight"
HEAD_ROWS = 8192  # of the head, dequantized at a time
QUERIES = 256  # rows of attention scores held at a time

BLOCK = 32  # numbers of a key or value that share a scale
KvType = Literal["f32", "f16", "v8", "int8"]


class Layer(NamedTuple):
    """What one layer's attention does differently from another's."""

    theta: float
    rope_factor: float  # by which positions are divided; infinite: nothing rotates
    window: int  # positions seen, the token's own among them; 0: all


class Shape(NamedTuple):
    """The numbers of a model, from its file's keys."""

    layers: tuple[Layer, ...]
    dim: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_dim: int  # of a head's dims, the first that rotate
    scale: float  # of the scores
    embed_scale: float
    branch_scale: float
    logit_divisor: float
    eps: float


class Model:
    """An open file: its numbers, and its tensors as arrays of `dtype`. Which of the families' parts
    a layer has is told by its tensors."""

    def __init__(self, path: str | Path, dtype: type[np.floating] = np.float32) -> None:
        self.file = GgufFile(path)
        self.dtype = dtype
        self.family = family = str(self.file.metadata["general.architecture"])
        if family not in FAMILIES:
            raise ValueError(f"{path} is of family {family}; there are {', '.join(FAMILIES)}")
        m = {
            key.removeprefix(f"{family}."): self.file.metadata[key]
            for key in self.file.metadata
            if key.startswith(f"{family}.")
        }
        dim, heads = m["embedding_length"], m["attention.head_count"]
        head_dim = m.get("attention.key_length", dim // heads)
        is_gemma, layers = family == "gemma3", m["block_count"]
        is_27b = is_gemma and layers == 62
        far = Layer(m.get("rope.freq_base", 10_000.0), m.get("rope.scaling.factor", 1.0), 0)
        near = Layer(
            m.get("rope.freq_base_swa", 10_000.0), 1.0, m.get("attention.sliding_window", 0)
        )
        still = far._replace(rope_factor=math.inf)
        scales = m if family == "granite" else {}
        usual = (dim // heads if is_27b else head_dim) ** -0.5
        if is_gemma:
            kinds = [near] * (m.get("attention.sliding_window_pattern", 6) - 1) + [far]
        else:
            kinds = [far, far, far, still] if family == "smollm3" else [far]
        self.shape = Shape(
            layers=tuple(kinds[i % len(kinds)] for i in range(layers)),
            dim=dim,
            heads=heads,
            kv_heads=m.get("attention.head_count_kv", heads),
            head_dim=head_dim,
            rope_dim=m.get("rope.dimension_count", head_dim),
            scale=scales.get("attention.scale", usual),
            embed_scale=dim**0.5 if is_gemma else scales.get("embedding_scale", 1.0),
            branch_scale=scales.get("residual_scale", 1.0),
            logit_divisor=scales.get("logit_scale", 1.0),
            eps=m["attention.layer_norm_rms_epsilon"],
        )
        self._refuse_unknown(m)

    def _refuse_unknown(self, metadata: Mapping[str, object]) -> None:
        """Raises ValueError where the file says something that `hidden` would not obey."""
        parts = "attn_norm attn_q attn_k attn_v attn_output ffn_norm ffn_gate ffn_up ffn_down"
        suffixes = [f"{part}.weight" for part in parts.split() + PARTS[self.family]]
        if self.family == "qwen2":
            suffixes += [f"attn_{part}.bias" for part in "qkv"]
        known = {"token_embd.weight", "output_norm.weight", "output.weight", ROPE_FACTORS}
        known |= {f"blk.{i}.{part}" for i in range(len(self.shape.layers)) for part in suffixes}
        if extra := set(self.file.tensors) - known:
            raise ValueError(f"tensors outside the family: {', '.join(sorted(extra))}")
        scaled = [key for key in metadata if key.startswith("rope.scaling.")]
        if scaled and metadata.get("rope.scaling.type") != "linear":
            raise ValueError(f"scaled rotation is not written here: {', '.join(scaled)}")

    def has(self, name: str) -> bool:
        return name in self.file.tensors

    def tensor(self, name: str) -> np.ndarray:
        info = self.file.tensors[name]
        return self._decode(self.file.data(name), info.format, info.shape)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start..stop of a matrix; no others are dequantized."""
        info = self.file.tensors[name]
        rows, columns = info.shape
        stop = min(stop, rows)
        _, block, block_bytes = FORMATS[info.format]
        row = columns // block * block_bytes
        data = memoryview(bytearray((stop - start) * row))
        self.file.read(name, start * row, data)
        return self._decode(data, info.format, (stop - start, columns))

    @property
    def head(self) -> str:
        return "output.weight" if "output.weight" in self.file.tensors else "token_embd.weight"

    def _decode(self, data: memoryview, format: str, shape: Sequence[int]) -> np.ndarray:
        return dequantize(data, format, shape).astype(self.dtype, copy=False)


def logits(
    path: str | Path,
    ids: Sequence[int],
    *,
    dtype: type[np.floating] = np.float32,
    kv: KvType = "f32",
) -> np.ndarray:
    """The logits after each of `ids`, from position 0: (len(ids), vocab) of `dtype`.

    kv : how K (rotated by its position) and V are stored, as in nybble's cache; "f32" leaves them.
    """
    model = Model(path, dtype)
    x = hidden(model, ids, kv)
    vocab = model.file.tensors[model.head].shape[0]
    out = np.empty((len(ids), vocab), dtype)
    for start in range(0, vocab, HEAD_ROWS):
        out[:, start : start + HEAD_ROWS] = x @ model.rows(model.head, start, start + HEAD_ROWS).T
    return out / dtype(model.shape.logit_divisor)


def hidden(model: Model, ids: Sequence[int], kv: KvType = "f32") -> np.ndarray:
    """What the head is given: (len(ids), dim), normed."""
    s = model.shape
    x = np.concatenate([model.rows("token_embd.weight", i, i + 1) for i in ids])
    x = x * model.dtype(s.embed_scale)
    for i in range(len(s.layers)):
        for branch, post_norm in ((_attention, "post_attention_norm"), (_mlp, "post_ffw_norm")):
            y = branch(model, i, x, kv)
            y = _normed(model, f"blk.{i}.{post_norm}.weight", y)
            x = x + y * model.dtype(s.branch_scale)
    return rms_norm(x, model.tensor("output_norm.weight"), s.eps)


def _normed(model: Model, name: str, x: np.ndarray) -> np.ndarray:
    """x under that norm, if the file has it."""
    return rms_norm(x, model.tensor(name), model.shape.eps) if model.has(name) else x


def _attention(model: Model, i: int, x: np.ndarray, kv: KvType) -> np.ndarray:
    s, layer, at = model.shape, model.shape.layers[i], f"blk.{i}."
    h = _normed(model, at + "attn_norm.weight", x)
    cos, sin = rotation(len(x), s.rope_dim, layer, model)

    def heads(part: str, n: int) -> np.ndarray:
        y = h @ model.tensor(f"{at}attn_{part}.weight").T
        if model.has(f"{at}attn_{part}.bias"):
            y = y + model.tensor(f"{at}attn_{part}.bias")
        y = y.reshape(-1, n, s.head_dim)
        if part == "v":
            return y
        turn = rotate_pairs if model.family in PAIRS else rotate_halves
        return turn(_normed(model, f"{at}attn_{part}_norm.weight", y), cos, sin)

    q, k, v = heads("q", s.heads), heads("k", s.kv_heads), heads("v", s.kv_heads)
    k, v = stored(k, v, kv)
    seen = attention(q, k, v, s.scale, layer.window)
    return seen.reshape(len(x), -1) @ model.tensor(at + "attn_output.weight").T


def _mlp(model: Model, i: int, x: np.ndarray, _: KvType) -> np.ndarray:
    at = f"blk.{i}."
    act = gelu if model.family == "gemma3" else silu
    h = _normed(model, at + "ffn_norm.weight", x)
    gate, up = (h @ model.tensor(f"{at}ffn_{part}.weight").T for part in ("gate", "up"))
    return (act(gate) * up) @ model.tensor(at + "ffn_down.weight").T


def stored(k: np.ndarray, v: np.ndarray, kv: KvType) -> tuple[np.ndarray, np.ndarray]:
    """K and V (T, KV, D) as they come back from a cache of this type (docs/arithmetic.md)."""
    if kv == "f32":
        return k, v
    k = _turned(as_bytes(_turned(k))) if kv == "int8" else as_halves(k)
    return k, as_halves(v) if kv == "f16" else _turned(as_bytes(_turned(v)))


def as_halves(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16).astype(x.dtype)


def as_bytes(x: np.ndarray) -> np.ndarray:
    """Rounded to 8 bits, with a half as the scale of each 32 of the last axis or what is left."""
    out = np.empty_like(x)
    for d in range(0, x.shape[-1], BLOCK):
        block = x[..., d : d + BLOCK]
        scale = as_halves(np.abs(block).max(axis=-1, keepdims=True) / 127)
        q = np.divide(block, scale, out=np.zeros_like(block), where=scale > 0)
        out[..., d : d + BLOCK] = np.clip(np.rint(q), -127, 127) * scale
    return out


def _turned(x: np.ndarray) -> np.ndarray:
    """The last axis times the orthonormal Hadamard matrix, in blocks of 32 or of the largest power
    of two that divides it; its own inverse."""
    size = x.shape[-1]
    n = min(BLOCK, size & -size)
    matrix = np.ones((1, 1))
    while len(matrix) < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    blocks = x.reshape(*x.shape[:-1], size // n, n)
    return (blocks @ (matrix / np.sqrt(n)).astype(x.dtype)).reshape(x.shape)


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """weight * x / sqrt(mean(x^2) + eps) over the last axis."""
    mean = np.mean(x * x, axis=-1, keepdims=True)
    return x / np.sqrt(mean + x.dtype.type(eps)) * weight


def silu(x: np.ndarray) -> np.ndarray:
    """x / (1 + exp(-x)); exp's overflow to infinity gives the right limit, 0."""
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    """The approximation by tanh, with which Gemma was trained."""
    return x / 2 * (1 + np.tanh(x.dtype.type(np.sqrt(2 / np.pi)) * (x + 0.044715 * x**3)))


def rotation(
    positions: int, rope_dim: int, layer: Layer, model: Model
) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin (positions, 1, rope_dim / 2) of p * theta^(-2i / rope_dim) over the factors.

    The angles are float64 whatever the model's dtype is: in float32 they would be wrong by 2^-24 of
    a position's whole number of radians.
    """
    frequency = layer.theta ** (-np.arange(0, rope_dim, 2, dtype=np.float64) / rope_dim)
    frequency /= layer.rope_factor
    if model.has(ROPE_FACTORS):
        frequency /= model.tensor(ROPE_FACTORS)
    angle = np.arange(positions, dtype=np.float64)[:, None, None] * frequency
    return np.cos(angle).astype(model.dtype), np.sin(angle).astype(model.dtype)


def rotate_pairs(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """(T, H, D): the pair (2i, 2i + 1) turned by the i-th angle of its position."""
    turned = 2 * cos.shape[-1]
    even, odd = x[..., 0:turned:2], x[..., 1:turned:2]
    out = x.copy()
    out[..., 0:turned:2] = even * cos - odd * sin
    out[..., 1:turned:2] = even * sin + odd * cos
    return out


def rotate_halves(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """(T, H, D): the pair (i, i + n) of n angles turned by the i-th of its position."""
    n = cos.shape[-1]
    first, second = x[..., :n], x[..., n : 2 * n]
    out = x.copy()
    out[..., :n] = first * cos - second * sin
    out[..., n : 2 * n] = first * sin + second * cos
    return out


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, window: int = 0
) -> np.ndarray:
    """Causal softmax(scale q k^T) v: q (T, H, D), k and v (T, KV, D) -> (T, H, D).

    Query head h reads KV head h // (H / KV); a token sees the last `window` positions up to its
    own, 0: all.
    """
    positions, heads, _ = q.shape
    group = heads // k.shape[1]
    out = np.empty_like(q)
    for h in range(heads):
        for start in range(0, positions, QUERIES):
            rows = slice(start, min(start + QUERIES, positions))
            scores = q[rows, h] @ k[: rows.stop, h // group].T * q.dtype.type(scale)
            behind = np.arange(rows.start, rows.stop)[:, None] - np.arange(rows.stop)
            scores[(behind < 0) | (behind >= (window or positions))] = -np.inf
            p = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[rows, h] = p @ v[: rows.stop, h // group] / p.sum(axis=1, keepdims=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("ids", type=int, nargs="+")
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--kv", choices=get_args(KvType), default="f32")
    parser.add_argument("--float64", action="store_true")
    args = parser.parse_args()
    dtype = np.float64 if args.float64 else np.float32
    row = logits(args.model, args.ids, dtype=dtype, kv=args.kv)[-1]
    tokens = GgufFile(args.model).metadata["tokenizer.ggml.tokens"]
    for id in np.argsort(-row, kind="stable")[: args.top]:
        print(f"{id:>7} {row[id]:10.6f} {tokens[id]}")


if __name__ == "__main__":
    main()
