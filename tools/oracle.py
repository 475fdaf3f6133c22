"""What a llama-family GGUF file says, in NumPy: the truth that nybble is measured against.

Weights are dequantized, activations stay float32 and no step is quantized, so what differs
from this in another program is that program's own error. `dtype=np.float64` computes in double
on the same weights and so tells how far float32 itself can be trusted.

    python -m tools.oracle MODEL.gguf 504 3575 282        # the likeliest next ids, with logits

The family: RMSNorm (arXiv 1910.07467); grouped-query attention (2305.13245) with rotary
positions (2104.09864) on the pairs (2i, 2i + 1) of a head, which is how GGUF files of this
family hold q and k; a SiLU-gated MLP (2002.05202); a head of its own or the embedding.

Memory: the weights of one layer, `HEAD_ROWS` rows of the head, the activations of all tokens of
one layer, and the logits; 600 tokens of SmolLM2-135M stay below 0.5 GB.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from nybble.formats.gguf import GgufFile
from tools.gguf_writer import FORMATS, dequantize

HEAD_ROWS = 8192  # of the head, dequantized at a time
QUERIES = 256  # rows of attention scores held at a time

KvType = Literal["f32", "f16"]


class Shape(NamedTuple):
    """The numbers of a model, from its file's `llama.*` keys."""

    layers: int
    dim: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_dim: int  # of a head's dims, the first that rotate
    theta: float
    eps: float


class Model:
    """An open file: its numbers, and its tensors as arrays of `dtype`."""

    def __init__(self, path: str | Path, dtype: type[np.floating] = np.float32) -> None:
        self.file = GgufFile(path)
        self.dtype = dtype
        m = self.file.metadata
        if m["general.architecture"] != "llama":
            raise ValueError(f"{path} is of family {m['general.architecture']}, not llama")
        dim, heads = m["llama.embedding_length"], m["llama.attention.head_count"]
        head_dim = m.get("llama.attention.key_length", dim // heads)
        self.shape = Shape(
            layers=m["llama.block_count"],
            dim=dim,
            heads=heads,
            kv_heads=m.get("llama.attention.head_count_kv", heads),
            head_dim=head_dim,
            rope_dim=m.get("llama.rope.dimension_count", head_dim),
            theta=m.get("llama.rope.freq_base", 10_000.0),
            eps=m["llama.attention.layer_norm_rms_epsilon"],
        )
        self._refuse_unknown()

    def _refuse_unknown(self) -> None:
        """Raises ValueError where the file says something that `hidden` would not obey."""
        parts = "attn_norm attn_q attn_k attn_v attn_output ffn_norm ffn_gate ffn_up ffn_down"
        known = {"token_embd.weight", "output_norm.weight", "output.weight"}
        known |= {
            f"blk.{i}.{part}.weight" for i in range(self.shape.layers) for part in parts.split()
        }
        if extra := set(self.file.tensors) - known:
            raise ValueError(f"tensors outside the family: {', '.join(sorted(extra))}")
        if scaled := [k for k in self.file.metadata if k.startswith("llama.rope.scaling.")]:
            raise ValueError(f"scaled rotation is not written here: {', '.join(scaled)}")

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
        data = self.file.data(name)[start * row : stop * row]
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

    kv : "f16" rounds K (rotated) and V to half precision, as a cache of halves does.
    """
    model = Model(path, dtype)
    x = hidden(model, ids, kv)
    vocab = model.file.tensors[model.head].shape[0]
    out = np.empty((len(ids), vocab), dtype)
    for start in range(0, vocab, HEAD_ROWS):
        out[:, start : start + HEAD_ROWS] = x @ model.rows(model.head, start, start + HEAD_ROWS).T
    return out


def hidden(model: Model, ids: Sequence[int], kv: KvType = "f32") -> np.ndarray:
    """What the head is given: (len(ids), dim), normed."""
    s = model.shape
    cos, sin = rotation(len(ids), s.rope_dim, s.theta, model.dtype)
    x = np.concatenate([model.rows("token_embd.weight", i, i + 1) for i in ids])
    for i in range(s.layers):

        def w(part: str, i: int = i) -> np.ndarray:
            return model.tensor(f"blk.{i}.{part}.weight")

        h = rms_norm(x, w("attn_norm"), s.eps)
        q = rotate((h @ w("attn_q").T).reshape(-1, s.heads, s.head_dim), cos, sin)
        k = rotate((h @ w("attn_k").T).reshape(-1, s.kv_heads, s.head_dim), cos, sin)
        v = (h @ w("attn_v").T).reshape(-1, s.kv_heads, s.head_dim)
        if kv == "f16":
            k, v = (a.astype(np.float16).astype(model.dtype) for a in (k, v))
        x = x + attention(q, k, v).reshape(len(ids), -1) @ w("attn_output").T

        h = rms_norm(x, w("ffn_norm"), s.eps)
        x = x + (silu(h @ w("ffn_gate").T) * (h @ w("ffn_up").T)) @ w("ffn_down").T
    return rms_norm(x, model.tensor("output_norm.weight"), s.eps)


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """weight * x / sqrt(mean(x^2) + eps) over the last axis."""
    mean = np.mean(x * x, axis=-1, keepdims=True)
    return x / np.sqrt(mean + x.dtype.type(eps)) * weight


def silu(x: np.ndarray) -> np.ndarray:
    """x / (1 + exp(-x)); exp's overflow to infinity gives the right limit, 0."""
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-x))


def rotation(
    positions: int, rope_dim: int, theta: float, dtype: type[np.floating]
) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin (positions, 1, rope_dim / 2) of p * theta^(-2i / rope_dim).

    The angles are float64 whatever `dtype` is: in float32 they would be wrong by 2^-24 of
    a position's whole number of radians.
    """
    frequency = theta ** (-np.arange(0, rope_dim, 2, dtype=np.float64) / rope_dim)
    angle = np.arange(positions, dtype=np.float64)[:, None, None] * frequency
    return np.cos(angle).astype(dtype), np.sin(angle).astype(dtype)


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """(T, H, D): the pair (2i, 2i + 1) turned by the i-th angle of its position."""
    turned = 2 * cos.shape[-1]
    even, odd = x[..., 0:turned:2], x[..., 1:turned:2]
    out = x.copy()
    out[..., 0:turned:2] = even * cos - odd * sin
    out[..., 1:turned:2] = even * sin + odd * cos
    return out


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Causal softmax(q k^T / sqrt(D)) v: q (T, H, D), k and v (T, KV, D) -> (T, H, D).

    Query head h reads KV head h // (H / KV).
    """
    positions, heads, head_dim = q.shape
    group = heads // k.shape[1]
    out = np.empty_like(q)
    scale = q.dtype.type(1 / np.sqrt(head_dim))
    for h in range(heads):
        for start in range(0, positions, QUERIES):
            rows = slice(start, min(start + QUERIES, positions))
            scores = q[rows, h] @ k[: rows.stop, h // group].T * scale
            future = np.arange(rows.stop) > np.arange(rows.start, rows.stop)[:, None]
            scores[future] = -np.inf
            p = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[rows, h] = p @ v[: rows.stop, h // group] / p.sum(axis=1, keepdims=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("ids", type=int, nargs="+")
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--kv", choices=("f32", "f16"), default="f32")
    parser.add_argument("--float64", action="store_true")
    args = parser.parse_args()
    dtype = np.float64 if args.float64 else np.float32
    row = logits(args.model, args.ids, dtype=dtype, kv=args.kv)[-1]
    tokens = GgufFile(args.model).metadata["tokenizer.ggml.tokens"]
    for id in np.argsort(-row, kind="stable")[: args.top]:
        print(f"{id:>7} {row[id]:10.6f} {tokens[id]}")


if __name__ == "__main__":
    main()
