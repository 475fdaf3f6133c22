"""Families: what their modules make of a file's metadata."""

import math
import struct
from itertools import groupby

import numpy as np
import pytest

from nybble import archs
from nybble._core.program import (
    BY_BLOCKS,
    ENDS_PHASE,
    ON_HIDDEN,
    ON_LOGITS,
    ON_WANTED,
    Program,
    pack_in_memory,
)
from nybble._core.sequence import Engine, Sequence, sizes
from nybble.archs import Rope
from nybble.errors import FormatError
from nybble.formats.gguf import GgufFile, GgufTensor
from nybble.lowering import lower
from tools.gguf_writer import Tensor, write_gguf
from tools.tiny_model import tiny_model

GEMMA_270M = {  # of its file
    "block_count": 18,
    "context_length": 32768,
    "embedding_length": 640,
    "feed_forward_length": 2048,
    "attention.head_count": 4,
    "attention.head_count_kv": 1,
    "attention.key_length": 256,
    "attention.value_length": 256,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.sliding_window": 512,
    "rope.freq_base": 1e6,
}
LLAMA = {
    "block_count": 2,
    "context_length": 512,
    "embedding_length": 128,
    "feed_forward_length": 160,
    "attention.head_count": 4,
    "attention.layer_norm_rms_epsilon": 1e-5,
}


def described(family, keys, tensors=None, tensor_format="F32", **changed):
    keys = {**keys, **changed}
    metadata = {"general.architecture": family, "tokenizer.ggml.tokens": ["a"] * 300}
    metadata |= {f"{family}.{key}": value for key, value in keys.items()}
    data = tensors or {}
    found = {
        name: GgufTensor(name, (len(raw) // 4,), tensor_format, 0, len(raw))
        for name, raw in data.items()
    }
    return archs.describe(metadata, found, lambda name: memoryview(data[name]))


def test_the_families_are_the_modules():
    assert archs.known() == ["gemma3", "granite", "llama", "qwen2", "qwen3", "smollm3"]


GRANITE_2B = {  # of that size, with scales such as the 3.0 models have
    "block_count": 40,
    "context_length": 4096,
    "embedding_length": 2048,
    "feed_forward_length": 8192,
    "attention.head_count": 32,
    "attention.head_count_kv": 8,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.scale": 0.015625,
    "embedding_scale": 12.0,
    "residual_scale": 0.22,
    "logit_scale": 8.0,
}


def test_granites_stream_is_larger_by_what_its_branches_are_scaled_by():
    tree = described("granite", GRANITE_2B)
    assert tree.embed_scale == pytest.approx(12 / 0.22)
    assert tree.norm_eps == pytest.approx(1e-5 / 0.22**2)
    assert tree.head_scale == 1 / 8
    attention = tree.blocks[0].attention
    assert (attention.score_scale, attention.rope.layout) == (1 / 64, "pairs")
    like_llama = {"embedding_scale": 1.0, "residual_scale": 1.0, "logit_scale": 1.0}
    plain = described("granite", LLAMA, **like_llama)
    scales = [block.attention.score_scale for block in plain.blocks]
    assert scales == [1 / math.sqrt(32)] * 2


def test_what_granite_is_refused_for():
    with pytest.raises(FormatError, match=r"granite.logit_scale: the file does not say"):
        described("granite", LLAMA)
    for bad in (0.0, -1.0, 1e9, math.nan):
        with pytest.raises(FormatError, match=r"residual_scale is .*; it should be a number from"):
            described("granite", GRANITE_2B, residual_scale=bad)
    with pytest.raises(FormatError, match="look through a window"):
        described("granite", GRANITE_2B, **{"attention.sliding_window": 128})


def test_what_no_family_knows_is_refused():
    """In llama.cpp this one turns Granite's rotation off."""
    with pytest.raises(FormatError, match="granite.rope.scaling.finetuned is False, which may"):
        described("granite", GRANITE_2B, **{"rope.scaling.finetuned": False})
    neutral = {"rope.scaling.finetuned": True, "n_deepstack_layers": 0, "attention.causal": True}
    described("llama", LLAMA, **neutral, vocab_size=5, logit_scale=1.0)
    for other in ({"attention.causal": 1}, {"n_deepstack_layers": False}, {"n_deepstack_layers": 1},
                  {"new": None}, {"new": 0}, {"logit_scale": 0.5}):  # fmt: skip
        with pytest.raises(FormatError, match="this version does not know how"):
            described("llama", LLAMA, **other)


def test_smollm3_does_not_rotate_in_every_fourth_layer():
    tree = described("smollm3", LLAMA, block_count=9)
    stands = [not any(block.attention.rope.turns()) for block in tree.blocks]
    assert stands == [False, False, False, True] * 2 + [False]
    assert {block.attention.rope.layout for block in tree.blocks} == {"pairs"}
    assert tree.blocks[0] == described("llama", LLAMA).blocks[0]


def test_gemma3_looks_through_a_window_in_five_layers_of_six():
    tree = described("gemma3", GEMMA_270M)
    windows = [block.attention.window for block in tree.blocks]
    assert windows == ([512] * 5 + [0]) * 3
    thetas = {block.attention.window: block.attention.rope.theta for block in tree.blocks}
    assert thetas == {512: 10_000.0, 0: 1e6}
    a = tree.blocks[0].attention
    assert (a.heads, a.kv_heads, a.head_dim, a.qk_norm, a.qkv_bias) == (4, 1, 256, True, False)
    assert a.score_scale == 1 / 16
    assert tree.embed_scale == math.sqrt(640)
    assert all(block.post_norms and block.mlp.act == "gelu" for block in tree.blocks)
    assert tree.tied


def test_gemma3_scales_positions_of_the_layers_that_see_everything():
    tree = described(
        "gemma3", GEMMA_270M, **{"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    )
    assert tree.blocks[0].attention.rope == Rope(1e4, 256, "halves")
    assert tree.blocks[5].attention.rope == Rope(1e6, 256, "halves", factor=8.0)


def test_the_largest_gemma3_has_a_scale_of_its_own():
    numbers = {"block_count": 62, "embedding_length": 5376, "attention.head_count": 32}
    numbers |= {"attention.key_length": 128, "attention.value_length": 128}
    tree = described("gemma3", GEMMA_270M, **numbers)
    assert tree.blocks[0].attention.score_scale == 1 / math.sqrt(168)
    absurd = described("gemma3", GEMMA_270M, **{**numbers, "attention.head_count": 9999})
    assert absurd.blocks[0].attention.score_scale == pytest.approx(1.36, abs=0.01)


def test_gemma3_with_capped_logits_is_refused():
    with pytest.raises(FormatError, match="logits that are capped"):
        described("gemma3", GEMMA_270M, final_logit_softcapping=30.0)
    described("gemma3", GEMMA_270M, final_logit_softcapping=0.0)


@pytest.mark.parametrize(
    ("keys", "factor"),
    [
        ({}, 1),
        ({"rope.scaling.factor": 4.0}, 4),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, 4),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, 1),
        ({"rope.scaling.factor": 0.0}, 1),
        ({"rope.scale_linear": 2.0}, 2),
        ({"rope.scale_linear": 2.0, "rope.scaling.factor": 4.0}, 4),
    ],
    ids=str,
)
def test_linear_scaling_has_several_spellings(keys, factor):
    assert described("llama", LLAMA, **keys).blocks[0].attention.rope.factor == factor


@pytest.mark.parametrize("kind", ["yarn", "longrope", "dynamic"])
def test_other_scalings_are_refused(kind):
    with pytest.raises(FormatError, match=f"scaled by '{kind}' are not supported; linear and"):
        described("qwen2", LLAMA, **{"rope.scaling.type": kind})


def test_llama3s_factors_come_from_a_tensor():
    factors = (1.0, 1.5, 8.0, 8.0) * 4
    tree = described("llama", LLAMA, {"rope_freqs.weight": struct.pack("<16f", *factors)})
    rope = tree.blocks[0].attention.rope
    assert rope.factors == factors
    assert ("rope_freqs.weight", (16,)) in list(tree.tensors())
    plain = rope._replace(factors=())
    for slow, fast, factor in zip(rope.turns(), plain.turns(), factors, strict=True):
        assert slow == pytest.approx(fast / factor, rel=1e-12)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, 1e-9, 1e9])
def test_absurd_factors_are_refused(bad):
    data = struct.pack("<16f", *[1.0] * 15, bad)
    with pytest.raises(FormatError, match=r"rope_freqs.weight\[15\] is"):
        described("llama", LLAMA, {"rope_freqs.weight": data})


@pytest.mark.parametrize("n", [0, 1, 15, 17])
def test_factors_of_another_number_are_refused(n):
    with pytest.raises(FormatError, match=rf"weight is \({n},\); 16 floats expected"):
        described("llama", LLAMA, {"rope_freqs.weight": bytes(4 * n)})


def test_the_deepest_model_is_one_that_the_engine_runs():
    """A file may have so many layers, of the kind that is the most steps."""
    part = archs.Attention(1, 1, 32, Rope(1e4, 32, "pairs"), qkv_bias=True, qk_norm=True)
    block = archs.Block(part, archs.Mlp(32), post_norms=True)
    tree = archs.Decoder(32, 300, 512, 1e-5, (block,) * archs.MOST_LAYERS, tied=True)
    formats = {name: "F32" for name, _ in tree.tensors()}
    assert sizes(Program(lower(tree, formats)), 512)


def test_behind_the_last_keys_and_values_goes_on_what_is_wanted():
    block = archs.Block(archs.Attention(2, 1, 32, Rope(1e4, 32, "pairs")), archs.Mlp(64))
    tree = archs.Decoder(64, 300, 512, 1e-5, (block,) * 3, tied=True)
    steps = lower(tree, {name: "F32" for name, _ in tree.tensors()}).steps
    last = max(at for at, step in enumerate(steps) if step["op"] == "append")
    moved = [step["out"] for step in steps if step["op"] == "keep"]
    assert moved == [steps[0]["out"], next(s["out"] for s in steps if s["op"] == "matmul32")]
    kinds = [step.get("flags", 0) & ~ENDS_PHASE for step in steps]
    behind = last + 1 + len(moved)
    assert not any(kinds[:behind])
    assert [kind for kind, _ in groupby(kinds[behind:])] == [ON_WANTED, ON_LOGITS, ON_HIDDEN]


@pytest.mark.parametrize(("format", "is_quantized"), [("F16", False), ("Q4_1", True)])
def test_a_thread_quantizes_what_it_activates(format, is_quantized):
    """If down is quantized: its phase has no row step left, and gate, up and activation are divided
    where blocks end."""
    block = archs.Block(archs.Attention(2, 1, 32, Rope(1e4, 32, "pairs")), archs.Mlp(64))
    tree = archs.Decoder(64, 300, 512, 1e-5, (block,) * 2, tied=True)
    formats = {name: "Q8_0" if len(shape) == 2 else "F32" for name, shape in tree.tensors()}
    steps = lower(tree, formats | {"blk.0.ffn_down.weight": format}).steps
    at = next(at for at, step in enumerate(steps) if step["op"] == "silu_mul")
    assert steps[at + 1 + is_quantized]["op"] == ("matmul" if is_quantized else "matmul32")
    for step in steps[at - 2 : at + 1]:
        assert bool(step["flags"] & BY_BLOCKS) == is_quantized


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_matrices_with_one_input_are_one_in_memory(qkv_bias):
    """Their weights and what they give, so that a token reads them in one call."""
    part = archs.Attention(2, 1, 32, Rope(1e4, 32, "pairs"), qkv_bias=qkv_bias)
    tree = archs.Decoder(64, 300, 512, 1e-5, (archs.Block(part, archs.Mlp(64)),) * 2, tied=True)
    tensors = list(tree.tensors())
    low = lower(tree, {name: "Q4_1" if len(shape) == 2 else "F32" for name, shape in tensors})
    assert list(low.placements) == [name for name, _ in tensors[1:]] + [tensors[0][0]]
    outs = {step["weights"]: step["out"] for step in low.steps if step["op"] == "matmul"}
    for first, second in (("attn_q", "attn_k"), ("attn_k", "attn_v"), ("ffn_gate", "ffn_up")):
        a, b = (low.placements[f"blk.1.{part}.weight"] for part in (first, second))
        assert a.offset + a.nbytes == b.offset
        a_out, b_out = (low.buffers[outs[matrix.offset]] for matrix in (a, b))
        assert a_out.part_of == b_out.part_of > 0
        assert a_out.offset + 4 * a.rows == b_out.offset


def test_factors_of_another_type_are_refused():
    data = struct.pack("<16i", *[1] * 16)
    with pytest.raises(FormatError, match="is I32; it should be F32"):
        described("llama", LLAMA, {"rope_freqs.weight": data}, tensor_format="I32")


def weights_of(path, **attention):
    """Packed weights of a file whose attention is told to be otherwise."""
    with GgufFile(path) as file:
        tree = archs.describe(file.metadata, file.tensors, file.data)
        blocks = [b._replace(attention=b.attention._replace(**attention)) for b in tree.blocks]
        tree = tree._replace(blocks=tuple(blocks))
        lowered = lower(tree, {name: tensor.format for name, tensor in file.tensors.items()})
        return pack_in_memory(Program(lowered), file.read)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_pairs_are_packed_as_halves_and_their_vectors_with_them(tmp_path, family):
    """A file whose heads come in pairs gives the same bits as one in halves."""
    tiny_model(tmp_path / "halves.gguf", family=family, dim=64, heads=2, seed=4)

    def paired(t):
        """Rows (elements, of a vector) of q and k reordered within each head of 32."""
        if not any(part in t.name for part in ("attn_q", "attn_k")):
            return t
        rows = np.frombuffer(t.data, np.uint8).reshape(-1, 2, 16, len(t.data) // t.shape[0])
        return Tensor(t.name, t.shape, t.format, rows.transpose(0, 2, 1, 3).tobytes())

    with GgufFile(tmp_path / "halves.gguf") as file:
        tensors = [
            Tensor(name, tuple(t.shape), t.format, bytes(file.data(name)))
            for name, t in file.tensors.items()
        ]
        metadata = {k: v for k, v in file.metadata.items() if k.startswith(f"{family}.")}
        metadata["general.architecture"] = family
        metadata["tokenizer.ggml.tokens"] = list(file.metadata["tokenizer.ggml.tokens"])
        rope = archs.describe(file.metadata, file.tensors, file.data).blocks[0].attention.rope
    write_gguf(tmp_path / "pairs.gguf", metadata, map(paired, tensors))

    def logits(weights):
        out = np.empty((9, 323), np.float32)
        Sequence(Engine(weights, 128)).logits_of([5, 3, 99, 300, 7, 7, 64, 2, 1], out)
        return out.tobytes()

    pairs = weights_of(tmp_path / "pairs.gguf", rope=rope._replace(layout="pairs"))
    assert logits(pairs) == logits(weights_of(tmp_path / "halves.gguf"))
    assert logits(weights_of(tmp_path / "pairs.gguf")) != logits(pairs)
