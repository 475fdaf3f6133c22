"""Small random models of the known families as GGUF files, for tests.

    python -m tools.tiny_model OUT.gguf --layers 2 --dim 96 --heads 3 --kv-heads 1

The file has every key that real ones of the family have (SmolLM2's are the pattern), a
byte-level BPE vocabulary that spells any text, and weights scaled so that no activation grows
with depth, attention is not flat and logits spread by about 3. The same arguments give the
same bytes.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools.gguf_writer import Array, Tensor, Value, tensor, write_gguf

FAMILIES = ("llama", "granite", "smollm3", "qwen2", "qwen3", "gemma3")
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # ids 0, 1, 2
NORMAL_TOKEN, CONTROL_TOKEN, UNUSED_TOKEN = 1, 3, 5
MERGES = 64  # at most; a small vocabulary has fewer
MIN_VOCAB = len(CONTROL) + 256
FORMATS = {"embed": "Q8_0", "attention": "Q4_1", "mlp": "Q4_1", "head": "Q8_0"}
FILE_TYPES = {  # general.file_type of mostly-X
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q4_K": 14,
    "Q5_K": 16,
    "Q6_K": 18,
    "IQ4_NL": 25,
    "BF16": 32,
    "MXFP4": 38,
}
# The scales that only Granite's files have.
GRANITE = {
    "embedding_scale": 12.0,
    "residual_scale": 0.22,
    "attention.scale": 0.25,
    "logit_scale": 6.0,
}

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# What the merges are learned from; ordinary words make them look like real ones.
_CORPUS = (
    "the cat and the hen went on in the rain and then there was another one where the river "
    "turns and the others were waiting with the rest of their things for the ferry to return "
    "at the end of the day the man on the bank said that it was not the first time and that "
    "this is how the weather turns in these parts when the wind comes in from the sea"
)


def byte_alphabet() -> list[str]:
    """The character that stands for each byte 0..255 in GPT-2's byte-level vocabularies.

    Printable Latin-1 bytes stand for themselves; the rest, in order, take U+0100 upwards.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = iter(range(0x100, 0x200))
    return [chr(b if b in printable else next(rest)) for b in range(256)]


def learn_merges(text: str, count: int) -> list[tuple[str, str]]:
    """The first `count` byte-pair merges of `text`, most frequent pair first, ties by spelling.

    A word takes the space before it. Source: Sennrich, Haddow, Birch, arXiv 1508.07909.
    """
    space = byte_alphabet()[ord(" ")]
    words = Counter(tuple(space + word) for word in text.split())
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, n in words.items():
            for pair in pairwise(word):
                pairs[pair] += n
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = Counter({_merged(word, best): n for word, n in words.items()})
    return merges


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)


def tiny_model(
    path: str | Path,
    *,
    family: str = "llama",
    layers: int = 2,
    dim: int = 96,
    heads: int = 3,
    kv_heads: int = 1,
    head_dim: int | None = None,
    hidden: int = 160,
    vocab: int = 323,
    formats: Mapping[str, str] | None = None,
    tied: bool = True,
    context: int = 512,
    theta: float = 10_000.0,
    rope_factor: float = 1.0,
    rope_factors: Sequence[float] = (),
    window: int = 32,
    eps: float = 1e-5,
    seed: int = 0,
) -> None:
    """Write a random model of a family to `path`.

    family   : one of `FAMILIES`
    dim, hidden : multiples of the blocks, 32 or 256, of the formats that they meet
    head_dim : dim / heads where it is not given
    vocab    : at least 259 (3 control tokens and 256 bytes); up to 64 merges come on top, and
               what is left is filled with unused tokens
    formats  : {"embed", "attention", "mlp", "head"} -> a key of `FILE_TYPES`; those not named
               are as in SmolLM2's Q4_1 file (`FORMATS`). Norms and biases are F32.
    tied     : the head is the embedding, and the file has no output.weight
    rope_factor  : linear scaling of positions, unless it is 1
    rope_factors : of each pair of a head, as Llama 3.1 has them
    window   : of gemma3's layers that slide; every second layer sees everything
    Raises ValueError for numbers that no model can have.
    """
    chosen = {**FORMATS, **(formats or {})}
    if set(chosen) != set(FORMATS):
        raise ValueError(f"formats are for {', '.join(FORMATS)}; got {', '.join(formats or ())}")
    if family not in FAMILIES:
        raise ValueError(f"family is {family}; there are {', '.join(FAMILIES)}")
    if (head_dim is None and dim % heads) or (head_dim or dim // heads) % 2 or heads % kv_heads:
        raise ValueError(
            f"dim {dim}, {heads} heads, {kv_heads} kv heads: a head has an even whole number of "
            "dims, a kv head a whole number of heads"
        )
    says_head_dim, head_dim = head_dim is not None, head_dim or dim // heads
    if rope_factors and len(rope_factors) != head_dim // 2:
        raise ValueError(f"{len(rope_factors)} rope_factors for {head_dim // 2} pairs")
    if vocab < MIN_VOCAB:
        raise ValueError(f"vocab is {vocab}; control tokens and bytes alone are {MIN_VOCAB}")

    own: dict[str, Value] = {
        "block_count": layers,
        "context_length": context,
        "embedding_length": dim,
        "feed_forward_length": hidden,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "rope.freq_base": theta,
        "attention.layer_norm_rms_epsilon": eps,
        "vocab_size": vocab,
        "rope.dimension_count": head_dim,
    }
    if says_head_dim:
        own |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    if rope_factor != 1:
        own |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope_factor)}
    if family == "gemma3":
        own |= {"attention.sliding_window": window, "attention.sliding_window_pattern": 2}
    if family == "granite":
        own |= GRANITE
    metadata: dict[str, Value] = {
        "general.architecture": family,
        "general.type": "model",
        "general.name": f"Tiny random {layers}x{dim}",
        "general.organization": "nybble",
        "general.finetune": "none",
        "general.basename": "tiny",
        "general.size_label": f"{dim}",
        "general.license": "mit",
        "general.languages": ["en"],
        "general.file_type": FILE_TYPES[chosen["mlp"]],
        **{f"{family}.{key}": value for key, value in own.items()},
        **vocabulary(vocab),
        "general.quantization_version": 2,
    }
    shape = _Shape(layers, dim, heads * head_dim, kv_heads * head_dim, head_dim, hidden, vocab)
    tensors = _tensors(family, shape, chosen, tied, seed)
    if rope_factors:
        factors = np.array(rope_factors, np.float32)
        tensors.insert(1, tensor("rope_freqs.weight", factors, "F32"))
    write_gguf(path, metadata, tensors)


def vocabulary(vocab: int) -> dict[str, Value]:
    """The `tokenizer.*` metadata of a byte-level BPE vocabulary of `vocab` tokens."""
    merges = learn_merges(_CORPUS, min(MERGES, vocab - MIN_VOCAB))
    # Two merges may spell one token.
    spellings = [*CONTROL, *byte_alphabet(), *(left + right for left, right in merges)]
    tokens = list(dict.fromkeys(spellings))
    types = [CONTROL_TOKEN] * len(CONTROL) + [NORMAL_TOKEN] * (len(tokens) - len(CONTROL))
    unused = vocab - len(tokens)
    tokens += [f"<unused{i}>" for i in range(unused)]
    types += [UNUSED_TOKEN] * unused
    return {
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": Array("int32", types),
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in merges],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.chat_template": TEMPLATE,
    }


class _Shape(NamedTuple):
    layers: int
    dim: int
    q_rows: int
    kv_rows: int
    head_dim: int
    hidden: int
    vocab: int


def _tensors(
    family: str, shape: _Shape, formats: Mapping[str, str], tied: bool, seed: int
) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    dim, hidden = shape.dim, shape.hidden

    def matrix(name: str, rows: int, columns: int, kind: str, gain: float = 1.0) -> Tensor:
        # Normed inputs have elements of size 1, so outputs have elements of size `gain`.
        w = rng.standard_normal((rows, columns), np.float32) * np.float32(gain / columns**0.5)
        return tensor(f"{name}.weight", w, formats[kind])

    def norm(name: str, n: int = dim, gain: float = 1.0) -> Tensor:
        w = rng.uniform(0.5, 1.5, n).astype(np.float32) * np.float32(gain)
        return tensor(f"{name}.weight", w, "F32")

    def bias(name: str, n: int) -> Tensor:
        return tensor(f"{name}.bias", rng.standard_normal(n, np.float32), "F32")

    # Gemma and Granite multiply embeddings; they enter as small beside the branches as in the other
    # families, so that those have a say, and the last norm makes up for it.
    embed_gain = last_gain = 1.0
    if family == "gemma3":
        embed_gain = last_gain = dim**0.5
    if family == "granite":
        embed_gain = GRANITE["embedding_scale"] / GRANITE["residual_scale"]
        last_gain = embed_gain * GRANITE["logit_scale"]
    out = [matrix("token_embd", shape.vocab, dim, "embed", 3.0 / embed_gain)]
    for i in range(shape.layers):
        blk = f"blk.{i}"
        out += [
            norm(f"{blk}.attn_norm"),
            matrix(f"{blk}.ffn_down", dim, hidden, "mlp"),
            matrix(f"{blk}.ffn_gate", hidden, dim, "mlp"),
            matrix(f"{blk}.ffn_up", hidden, dim, "mlp"),
            norm(f"{blk}.ffn_norm"),
            matrix(f"{blk}.attn_k", shape.kv_rows, dim, "attention"),
            matrix(f"{blk}.attn_output", dim, shape.q_rows, "attention"),
            matrix(f"{blk}.attn_q", shape.q_rows, dim, "attention", 2.0),
            matrix(f"{blk}.attn_v", shape.kv_rows, dim, "attention"),
        ]
        if family == "qwen2":
            rows = {"q": shape.q_rows, "k": shape.kv_rows, "v": shape.kv_rows}
            out += [bias(f"{blk}.attn_{part}", n) for part, n in rows.items()]
        if family in ("qwen3", "gemma3"):
            out += [norm(f"{blk}.attn_{part}_norm", shape.head_dim) for part in "qk"]
        if family == "gemma3":
            out += [norm(f"{blk}.post_{part}_norm") for part in ("attention", "ffw")]
    out.append(norm("output_norm", gain=last_gain))
    if not tied:
        out.append(matrix("output", shape.vocab, dim, "head", 3.0 / embed_gain))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--family", choices=FAMILIES, default="llama")
    parser.add_argument("--head-dim", type=int)
    defaults = tiny_model.__kwdefaults__ or {}
    counts = "layers dim heads kv_heads hidden vocab context window seed"
    for name in counts.split():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=defaults[name])
    for name in ("theta", "rope_factor", "eps"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=defaults[name])
    for kind, format in FORMATS.items():
        parser.add_argument(f"--{kind}", choices=FILE_TYPES, default=format)
    parser.add_argument("--untied", action="store_true", help="write a head of its own")
    args = vars(parser.parse_args())
    formats = {kind: args.pop(kind) for kind in FORMATS}
    try:
        tiny_model(args.pop("out"), tied=not args.pop("untied"), formats=formats, **args)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
