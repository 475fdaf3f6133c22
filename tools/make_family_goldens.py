"""Makes tests/golden/families.npz: what transformers makes of a tiny model of each family.

    pip install torch transformers
    python -m tools.make_family_goldens

Each model of `CASES` is random, in float32, the same for the same seed (tools/tiny_model.py), and
is handed to transformers by way of its GGUF file, with what the converter to GGUF does undone. The
golden file holds a prompt's logits at every `STRIDE`th position and the `REPLY` tokens that follow
it greedily. Attention sees pages of 128 positions and, in gemma3, several windows.

Another program's float32 differs from transformers' in the order of sums, by some 2^-20 of a
logit; nybble also keeps K and V in half precision, whose rounding is 2^-12 of a value at most and
2^-11 / sqrt(12) = 1.4e-4 as a deviation. A score of size 4 is off by that much four times, a value
once, and averaging over positions cannot add to it: a branch is off by at most 5 * 1.4e-4 = 7e-4 of
its size, as an estimate from above. Up to 4 layers add up as squares to 1.4e-3 of the residual
stream, and logits that spread by 3 are off by 4e-3. A hundred thousand of them, as normal
deviations, stay within 4.5 of these: `BOUND` = 0.02. Seeds are tried in turn until no step of the
reply has less than twice that between its likeliest token and the next.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nybble.formats.gguf import GgufFile
from tools import oracle
from tools.gguf_writer import dequantize
from tools.tiny_model import tiny_model

OUT = Path(__file__).parents[1] / "tests" / "golden" / "families.npz"
PROMPT, REPLY, STRIDE = 100, 64, 9
WORDS = 12  # different tokens that a reply has at least: random models like to repeat themselves
BOUND = 0.02  # of the difference of a logit
CONTEXT = 256
# Llama 3.1's numbers, with a training context short enough for the tiny head to have pairs that
# turn often in it, seldom, and between.
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3_CONTEXT = 128
F32 = dict.fromkeys(("embed", "attention", "mlp", "head"), "F32")


def llama3_factors(theta: float, dims: int) -> list[float]:
    """By how much each pair turns more slowly, as the converter to GGUF computes it: (dims / 2,).

    Source: Llama 3.1's reference code, by way of transformers' "llama3" rope.
    """
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    factors = []
    for i in range(dims // 2):
        turns = LLAMA3_CONTEXT / (2 * math.pi * theta ** (2 * i / dims))  # within that context
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / LLAMA3["factor"] + smooth))
    return factors


CASES: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama", "heads": 3, "kv_heads": 1, "tied": False},
    "llama3": {
        "family": "llama",
        "heads": 4,
        "kv_heads": 2,
        "dim": 128,
        "theta": 5e5,
        "tied": False,
        "rope_factors": llama3_factors(5e5, 32),
    },
    "granite": {"family": "granite", "heads": 4, "kv_heads": 2, "dim": 128},
    "smollm3": {"family": "smollm3", "heads": 4, "kv_heads": 2, "dim": 128, "layers": 4},
    "qwen2": {"family": "qwen2", "heads": 4, "kv_heads": 2, "dim": 128, "tied": False},
    "qwen3": {"family": "qwen3", "heads": 4, "kv_heads": 2, "head_dim": 48, "tied": False},
    "gemma3": {
        "family": "gemma3",
        "heads": 4,
        "kv_heads": 1,
        "head_dim": 48,
        "layers": 4,
        "window": 20,
        "theta": 1e6,
        "rope_factor": 2.0,
    },
}


def make_tiny(path: Path, case: str, seed: int) -> None:
    """Writes a case's model."""
    tiny_model(path, **{"formats": F32, "context": CONTEXT, "seed": seed, **CASES[case]})


def transformers_model(path: Path) -> Any:
    """A GGUF file's model in transformers, in float32: a PreTrainedModel."""
    import torch
    import transformers

    file = GgufFile(path)
    family = str(file.metadata["general.architecture"])
    m = {key.removeprefix(f"{family}."): file.metadata[key] for key in file.metadata}
    heads, head_dim = m["attention.head_count"], oracle.Model(path).shape.head_dim
    theta = m["rope.freq_base"]
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if oracle.ROPE_FACTORS in file.tensors:
        rope |= {"rope_type": "llama3", **LLAMA3}
        rope["original_max_position_embeddings"] = LLAMA3_CONTEXT
    elif "rope.scaling.factor" in m:
        rope |= {"rope_type": "linear", "factor": m["rope.scaling.factor"]}
    config: dict[str, Any] = {
        "hidden_size": m["embedding_length"],
        "intermediate_size": m["feed_forward_length"],
        "num_hidden_layers": m["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": m["attention.head_count_kv"],
        "head_dim": head_dim,
        "vocab_size": len(m["tokenizer.ggml.tokens"]),
        "max_position_embeddings": m["context_length"],
        "rms_norm_eps": m["attention.layer_norm_rms_epsilon"],
        "rope_parameters": rope,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "pad_token_id": None,
        "attn_implementation": "eager",
        "dtype": torch.float32,
    }
    if family == "gemma3":
        period = m.get("attention.sliding_window_pattern", 6)
        near = {"rope_type": "default", "rope_theta": m.get("rope.freq_base_swa", 1e4)}
        kinds = ["full_attention", *["sliding_attention"] * (period - 1)]
        config |= {
            "query_pre_attn_scalar": head_dim,
            "sliding_window": m["attention.sliding_window"],
            "layer_types": [kinds[(i + 1) % period] for i in range(m["block_count"])],
            "rope_parameters": {"full_attention": rope, "sliding_attention": near},
        }
    if family == "granite":
        config |= {
            "embedding_multiplier": m["embedding_scale"],
            "residual_multiplier": m["residual_scale"],
            "attention_multiplier": m["attention.scale"],
            "logits_scaling": m["logit_scale"],
        }
    make_config, make_model = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "granite": (transformers.GraniteConfig, transformers.GraniteForCausalLM),
        "smollm3": (transformers.SmolLM3Config, transformers.SmolLM3ForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "gemma3": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
    }[family]
    model = make_model(make_config(**config)).eval()
    weights = {}
    for name, info in file.tensors.items():
        if name == oracle.ROPE_FACTORS:
            continue  # transformers computes them from LLAMA3
        w = dequantize(file.data(name), info.format, info.shape)
        if family == "gemma3" and "norm" in name:
            w = w - np.float32(1)
        if family in oracle.PAIRS and name.endswith(("attn_q.weight", "attn_k.weight")):
            w = w.reshape(-1, head_dim // 2, 2, w.shape[-1]).swapaxes(1, 2).reshape(w.shape)
        weights[_their_name(name, family)] = torch.from_numpy(np.array(w, np.float32))
    if config["tie_word_embeddings"]:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    return model


def _their_name(name: str, family: str) -> str:
    """GGUF's name of a tensor as transformers has it."""
    outer = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    if name in outer:
        return outer[name]
    _, i, part, kind = name.split(".")
    before_mlp = "pre_feedforward" if family == "gemma3" else "post_attention"
    theirs = {
        "attn_norm": "input_layernorm",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": f"{before_mlp}_layernorm",
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
        **{f"attn_{p}": f"self_attn.{p}_proj" for p in "qkv"},
        **{f"attn_{p}_norm": f"self_attn.{p}_norm" for p in "qk"},
        **{f"ffn_{p}": f"mlp.{p}_proj" for p in ("gate", "up", "down")},
    }
    return f"model.layers.{i}.{theirs[part]}.{kind}"


def transformers_logits(model: Any, ids: Sequence[int]) -> np.ndarray:
    """(len(ids), vocab) float32."""
    import torch

    with torch.no_grad():
        out: np.ndarray = model(torch.tensor([list(ids)]), use_cache=False).logits[0].numpy()
    return out


def reply(model: Any, prompt: Sequence[int]) -> tuple[list[int], float]:
    """REPLY tokens that follow greedily, and the least margin of their choices; fewer if that is
    below what may be used."""
    import torch

    ids: list[int] = []
    fed, cache, least = list(prompt), None, math.inf
    while len(ids) < REPLY and least >= 2 * BOUND:
        with torch.no_grad():
            step = model(torch.tensor([fed]), past_key_values=cache, use_cache=True)
        cache, row = step.past_key_values, step.logits[0, -1].numpy()
        second, first = np.sort(row)[-2:]
        least = min(least, float(first - second))
        fed = [int(row.argmax())]
        ids += fed
    return ids, least


def make(case: str) -> dict[str, Any]:
    """A case's arrays."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tiny.gguf")
        for seed in range(1000):
            make_tiny(path, case, seed)
            model = transformers_model(path)
            prompt = np.random.default_rng(seed).integers(3, 259, PROMPT).tolist()
            ids, least = reply(model, prompt)
            if least >= 2 * BOUND and len(set(ids)) >= WORDS:
                break
        logits = transformers_logits(model, prompt)
        truth = oracle.logits(path, prompt, dtype=np.float64)
        half = oracle.logits(path, prompt, dtype=np.float64, kv="f16")
    print(
        f"{case}: seed {seed}, margins from {least:.3f}, logits spread by {logits.std():.2f}; the "
        f"oracle differs by {np.abs(logits - truth).max():.1e}, half K and V move it by "
        f"{np.abs(half - truth).max():.1e}, {len(set(ids))} words",
        flush=True,
    )
    return {
        "seed": np.array(seed),
        "prompt": np.array(prompt, np.uint16),
        "logits": logits[::STRIDE],
        "reply": np.array(ids, np.uint16),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(arguments)
    arrays = {f"{case}.{key}": value for case in CASES for key, value in make(case).items()}
    about = {"made_by": "tools/make_family_goldens.py"}
    about |= {name: version(name) for name in ("transformers", "torch", "numpy")}
    np.savez_compressed(args.out, about=np.array(json.dumps(about, indent=1)), **arrays)
    sys.stdout.write(f"{args.out.name}: {args.out.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
