"""The oracle against loops, the writer against what it wrote, the formula against algebra."""

from __future__ import annotations

import hashlib
import math
import struct

import numpy as np
import pytest

import nybble
from nybble.formats.gguf import GgufFile
from tools import fidelity, gguf_writer, oracle, tiny_model

EPS32 = 2.0**-24  # half a unit in the last place of float32, relative
EPS16 = 2.0**-11  # of float16
TINY16 = 2.0**-25  # half the spacing of its subnormals

SHAPES = {
    "gqa-tied": {"layers": 2, "dim": 96, "heads": 6, "kv_heads": 2, "hidden": 160},
    "mha-untied": {
        "layers": 1,
        "dim": 64,
        "heads": 2,
        "kv_heads": 2,
        "hidden": 96,
        "tied": False,
        "vocab": 333,
        "formats": {"embed": "F16", "attention": "Q8_0", "mlp": "F32", "head": "Q4_1"},
    },
}
IDS = [1, 40, 7, 7, 290, 2, 133]


@pytest.fixture(params=SHAPES, name="tiny")
def fixture_tiny(request, tmp_path):
    path = tmp_path / "tiny.gguf"
    tiny_model.tiny_model(path, seed=3, **SHAPES[request.param])
    return path


def decoded_by_hand(data, format, shape):
    """A tensor's weights as nested lists of Python floats, block by block, not in NumPy."""
    flat = []
    if format == "F32":
        flat = list(struct.unpack(f"<{len(data) // 4}f", data))
    elif format == "F16":
        flat = list(struct.unpack(f"<{len(data) // 2}e", data))
    elif format == "Q8_0":
        for at in range(0, len(data), 34):
            d, *q = struct.unpack_from("<e32b", data, at)
            flat += [d * v for v in q]
    elif format == "Q4_1":
        for at in range(0, len(data), 20):
            d, m, *packed = struct.unpack_from("<ee16B", data, at)
            q = [byte % 16 for byte in packed] + [byte // 16 for byte in packed]
            flat += [struct.unpack("<f", struct.pack("<f", d * v + m))[0] for v in q]
    width = shape[-1]
    rows = [flat[i : i + width] for i in range(0, len(flat), width)]
    return rows if len(shape) == 2 else rows[0]


def logits_by_loops(path, ids):
    """The forward pass in Python floats, one token, one head and one dim at a time."""
    file = GgufFile(path)
    m = file.metadata
    dim, heads = m["llama.embedding_length"], m["llama.attention.head_count"]
    kv_heads, size = m["llama.attention.head_count_kv"], dim // heads
    weights = {
        name: decoded_by_hand(bytes(file.data(name)), info.format, info.shape)
        for name, info in file.tensors.items()
    }

    def times(matrix, x):
        return [math.fsum(a * b for a, b in zip(row, x, strict=True)) for row in matrix]

    def norm(x, w):
        mean = math.fsum(v * v for v in x) / len(x)
        scale = math.sqrt(mean + m["llama.attention.layer_norm_rms_epsilon"])
        return [v / scale * g for v, g in zip(x, w, strict=True)]

    def turned(x, position):
        out = []
        for start in range(0, len(x), size):
            for i in range(size // 2):
                angle = position / m["llama.rope.freq_base"] ** (2 * i / size)
                z = complex(x[start + 2 * i], x[start + 2 * i + 1])
                z *= complex(math.cos(angle), math.sin(angle))
                out += [z.real, z.imag]
        return out

    cache = [([], []) for _ in range(m["llama.block_count"])]
    rows = []
    for position, token in enumerate(ids):
        x = weights["token_embd.weight"][token]
        for layer, (keys, values) in enumerate(cache):

            def w(part, layer=layer):
                return weights[f"blk.{layer}.{part}.weight"]

            h = norm(x, w("attn_norm"))
            q = turned(times(w("attn_q"), h), position)
            keys.append(turned(times(w("attn_k"), h), position))
            values.append(times(w("attn_v"), h))
            mixed = []
            for head in range(heads):
                at = head // (heads // kv_heads) * size
                mine = q[head * size : (head + 1) * size]
                scores = [
                    math.fsum(a * b for a, b in zip(mine, k[at : at + size], strict=True))
                    / math.sqrt(size)
                    for k in keys
                ]
                p = [math.exp(s - max(scores)) for s in scores]
                mixed += [
                    math.fsum(a * v[at + i] for a, v in zip(p, values, strict=True)) / math.fsum(p)
                    for i in range(size)
                ]
            x = [a + b for a, b in zip(x, times(w("attn_output"), mixed), strict=True)]
            h = norm(x, w("ffn_norm"))
            gate, up = times(w("ffn_gate"), h), times(w("ffn_up"), h)
            act = [g / (1 + math.exp(-g)) * u for g, u in zip(gate, up, strict=True)]
            x = [a + b for a, b in zip(x, times(w("ffn_down"), act), strict=True)]
        head = weights.get("output.weight", weights["token_embd.weight"])
        rows.append(times(head, norm(x, weights["output_norm.weight"])))
    return np.array(rows)


def test_oracle_in_float64_equals_plain_loops(tiny):
    got = oracle.logits(tiny, IDS, dtype=np.float64)
    want = logits_by_loops(tiny, IDS)
    # Both are float64 with sums of at most 160 terms through at most 2 layers; 2^-53 times some
    # thousand roundings of numbers around 10 is 1e-12, and a wrong formula is off by 1e-3.
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-10)
    assert want.std() > 1, "a flat row of logits would not show a mistake"


def test_oracle_in_float32_is_near_float64(tiny):
    near = oracle.logits(tiny, IDS)
    assert near.dtype == np.float32
    exact = oracle.logits(tiny, IDS, dtype=np.float64)
    assert 0 < np.abs(near - exact).max() < 1e-4


def test_oracle_splits_head_and_queries_without_effect(tiny, monkeypatch):
    whole = oracle.logits(tiny, IDS, dtype=np.float64)
    monkeypatch.setattr(oracle, "HEAD_ROWS", 50)
    monkeypatch.setattr(oracle, "QUERIES", 2)
    np.testing.assert_allclose(oracle.logits(tiny, IDS, dtype=np.float64), whole, atol=1e-11)


def test_oracle_sees_only_the_past(tiny):
    whole = oracle.logits(tiny, IDS, dtype=np.float64)
    first = oracle.logits(tiny, IDS[:3], dtype=np.float64)
    np.testing.assert_allclose(first, whole[:3], atol=1e-11)


def test_oracle_half_kv_differs_by_halves_rounding(tiny):
    full = oracle.logits(tiny, IDS, dtype=np.float64)
    half = oracle.logits(tiny, IDS, dtype=np.float64, kv="f16")
    # Of one relative rounding of K and V by 2^-11; logits are near 10, gains near 1.
    assert 1e-6 < np.abs(half - full).max() < 100 * EPS16


@pytest.mark.parametrize("head_dim", [16, 48, 64])
def test_what_oracle_stores_is_off_by_half_a_step(head_dim):
    """Rotated, 32 numbers keep their norm, so a step is at most that over 127; errors of half a
    step have together a norm of sqrt(32) halves, and no more has the largest, rotated back."""
    k, v = np.random.default_rng(head_dim).standard_normal((2, 20, 2, head_dim))
    assert all(a is b for a, b in zip(oracle.stored(k, v, "f32"), (k, v), strict=True))
    norm = max(np.linalg.norm(x[..., d : d + 32], axis=-1).max() for x in (k, v) for d in (0, 32))
    for kv, is_int8 in (("f16", (False, False)), ("v8", (False, True)), ("int8", (True, True))):
        for stored, exact, rough in zip(oracle.stored(k, v, kv), (k, v), is_int8, strict=True):
            error = np.abs(stored - exact).max()
            assert error <= (np.sqrt(32) / 2 * norm / 127 * 1.01 if rough else 5 * EPS16)
            assert error > (5 if rough else 0.1) * EPS16, "it is stored"


def test_oracle_refuses_a_tensor_that_it_would_ignore(tmp_path):
    plain, path = tmp_path / "plain.gguf", tmp_path / "biased.gguf"
    tiny_model.tiny_model(plain, layers=1)
    file = GgufFile(plain)
    tensors = [
        gguf_writer.Tensor(name, info.shape, info.format, bytes(file.data(name)))
        for name, info in file.tensors.items()
    ]
    tensors.append(gguf_writer.tensor("blk.0.attn_q.bias", np.ones(96, np.float32), "F32"))
    metadata = {k: v for k, v in file.metadata.items() if k.split(".")[0] in ("general", "llama")}
    gguf_writer.write_gguf(path, metadata, tensors)
    with pytest.raises(ValueError, match=r"blk\.0\.attn_q\.bias"):
        oracle.logits(path, IDS)


def rows_with_edges(rng):
    """(6, 64): ordinary, wide, shifted, constant, zero and half-subnormal rows."""
    x = rng.standard_normal((6, 64)).astype(np.float32)
    x[1] *= 1000
    x[2] += 50
    x[3] = np.float32(0.1)
    x[4] = 0
    x[5] *= np.float32(2.0**-20)
    return x


@pytest.mark.parametrize("format", ["F32", "F16", "Q8_0", "Q4_1"])
def test_quantizers_round_trip_within_their_bound(format):
    x = rows_with_edges(np.random.default_rng(1))
    data = gguf_writer.quantize(x, format)
    assert len(data) == gguf_writer.tensor_nbytes(x.shape, format)
    error = np.abs(gguf_writer.dequantize(data, format, x.shape).astype(np.float64) - x)

    block = x.reshape(6, 2, 32).astype(np.float64)
    top = np.abs(block).max(axis=2, keepdims=True)
    span = block.max(axis=2, keepdims=True) - block.min(axis=2, keepdims=True)
    # Half a step of the rounded scale; and where the scale or the minimum was rounded so that
    # the range ends short of a value, by how much it may end short. A 2^-20 more for float32.
    bound = {
        "F32": 0 * top,
        "F16": np.abs(block) * EPS16 + TINY16,
        "Q8_0": (top / 127 * (1 + EPS16) + TINY16) / 2 + top * EPS16 + 127 * TINY16,
        "Q4_1": (span / 15 * (1 + EPS16) + TINY16) / 2
        + span * EPS16
        + 15 * TINY16
        + top * EPS16
        + TINY16,
    }[format]
    bound = np.broadcast_to(bound + top * 2.0**-20 * (format != "F32"), block.shape)
    worst = np.argmax(error - bound.reshape(x.shape))
    assert (error <= bound.reshape(x.shape)).all(), (
        f"value {x.flat[worst]}: off by {error.flat[worst]}, bound {bound.flat[worst]}"
    )


@pytest.mark.parametrize("format", ["F16", "Q8_0", "Q4_1"])
def test_dequantize_equals_decoding_by_hand(format):
    x = rows_with_edges(np.random.default_rng(2))
    data = gguf_writer.quantize(x, format)
    want = decoded_by_hand(data, format, x.shape)
    assert gguf_writer.dequantize(data, format, x.shape).tolist() == want


def test_quantized_nibbles_lie_as_the_format_says():
    row = np.arange(32, dtype=np.float32).reshape(1, 32) % 16
    data = gguf_writer.quantize(row, "Q4_1")
    assert data[:4] == struct.pack("<ee", 1.0, 0.0)
    assert data[4:] == bytes(q | q << 4 for q in range(16))
    row[0, 16:] = 15
    assert gguf_writer.quantize(row, "Q4_1")[4:] == bytes(q | 0xF0 for q in range(16))


@pytest.mark.parametrize("format", ["F16", "Q8_0", "Q4_1"])
def test_quantize_refuses_what_does_not_fit_a_half(format):
    x = np.zeros((1, 32), np.float32)
    x[0, 0] = 1e38
    with pytest.raises(ValueError, match="half-precision"):
        gguf_writer.quantize(x, format)
    x[0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        gguf_writer.quantize(x, format)


def test_quantize_refuses_a_row_that_is_not_whole_blocks():
    with pytest.raises(ValueError, match="in 32s of weights, got 48"):
        gguf_writer.quantize(np.zeros((2, 48), np.float32), "Q8_0")


def test_writer_keeps_metadata_of_every_type(tmp_path):
    scalar, array = gguf_writer.Scalar, gguf_writer.Array
    values = {
        "uint8": 255,
        "int8": -128,
        "uint16": 65535,
        "int16": -32768,
        "uint32": 2**32 - 1,
        "int32": -(2**31),
        "uint64": 2**64 - 1,
        "int64": -(2**63),
        "float32": 0.5,
        "float64": 0.1,
        "bool": True,
    }
    metadata = {f"one.{kind}": scalar(kind, v) for kind, v in values.items()}
    metadata |= {f"some.{kind}": array(kind, [v, v]) for kind, v in values.items()}
    metadata |= {
        "text": "naïve \N{SNOWMAN}",
        "empty": "",
        "texts": ["a", "", "\N{SNOWMAN}"],
        "none": array("float32", []),
    }
    path = tmp_path / "all.gguf"
    gguf_writer.write_gguf(path, metadata)
    read = GgufFile(path).metadata
    for kind, v in values.items():
        assert read[f"one.{kind}"] == v
        assert list(read[f"some.{kind}"]) == [v, v]
    assert list(read) == list(metadata)
    assert read["text"] == metadata["text"]
    assert read["empty"] == ""
    assert list(read["texts"]) == metadata["texts"]
    assert list(read["none"]) == []


def test_writer_writes_the_bytes_of_the_specification(tmp_path):
    path = tmp_path / "one.gguf"
    data = struct.pack("<3f", 1, 2, 3)
    t = gguf_writer.Tensor("t", (1, 3), "F32", data)
    gguf_writer.write_gguf(path, {"k": "v"}, [t])
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
    head += struct.pack("<Q1sIQ1s", 1, b"k", 8, 1, b"v")
    head += struct.pack("<Q1sIQQIQ", 1, b"t", 2, 3, 1, 0, 0)
    assert path.read_bytes() == head + bytes(-len(head) % 32) + data + bytes(20)


def test_writer_nests_arrays(tmp_path):
    path = tmp_path / "nested.gguf"
    array = gguf_writer.Array
    nested = array("array", [array("uint8", [1, 2]), array("string", ["x"])])
    gguf_writer.write_gguf(path, {"k": nested}, version=2)
    want = b"GGUF" + struct.pack("<IQQ", 2, 0, 1) + struct.pack("<Q1sI", 1, b"k", 9)
    want += struct.pack("<IQ", 9, 2)
    want += struct.pack("<IQ2B", 0, 2, 1, 2) + struct.pack("<IQQ1s", 8, 1, 1, b"x")
    assert path.read_bytes() == want + bytes(-len(want) % 32)


@pytest.mark.parametrize("alignment", [32, 64])
def test_writer_aligns_every_tensor(tmp_path, alignment):
    path = tmp_path / "two.gguf"
    arrays = {"a": np.arange(3, dtype=np.float32), "b": np.full((2, 5), 7, np.float32)}
    tensors = [gguf_writer.tensor(name, x, "F32") for name, x in arrays.items()]
    gguf_writer.write_gguf(path, {"general.alignment": alignment}, tensors)
    file = GgufFile(path)
    for name, x in arrays.items():
        info = file.tensors[name]
        assert (info.shape, info.format, info.nbytes) == (x.shape, "F32", x.nbytes)
        assert bytes(file.data(name)) == x.tobytes()
    nbytes = path.stat().st_size
    assert nbytes % alignment == 0
    assert path.read_bytes().index(arrays["b"].tobytes()) % alignment == 0


def test_writer_refuses_bytes_that_do_not_fit_the_shape(tmp_path):
    t = gguf_writer.Tensor("t", (2, 32), "Q8_0", bytes(67))
    with pytest.raises(ValueError, match="68 bytes, got 67"):
        gguf_writer.write_gguf(tmp_path / "bad.gguf", {}, [t])


@pytest.mark.parametrize("vocab", [259, 260, 300, 323, 333])
def test_tiny_vocabulary_is_whole(vocab):
    v = tiny_model.vocabulary(vocab)
    tokens = v["tokenizer.ggml.tokens"]
    assert len(tokens) == len(set(tokens)) == vocab == len(v["tokenizer.ggml.token_type"].values)
    assert set(tiny_model.byte_alphabet()) <= set(tokens)
    for merge in v["tokenizer.ggml.merges"]:
        left, right = merge.split(" ")
        assert {left, right, left + right} <= set(tokens)


def test_tiny_model_is_the_same_for_the_same_seed(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    for path, seed in zip(paths, (5, 5, 6), strict=True):
        tiny_model.tiny_model(path, layers=1, seed=seed)
    a, b, c = (path.read_bytes() for path in paths)
    assert a == b != c
    assert len(a) == len(c)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"dim": 97}, "even whole number"),
        ({"heads": 3, "kv_heads": 2}, "whole number of heads"),
        ({"vocab": 258}, "are 259"),
        ({"hidden": 100}, "in 32s"),
        ({"formats": {"mpl": "F16"}}, "mpl"),
    ],
)
def test_tiny_model_refuses_numbers_that_no_model_has(tmp_path, wrong, says):
    with pytest.raises(ValueError, match=says):
        tiny_model.tiny_model(tmp_path / "no.gguf", **wrong)
    assert not (tmp_path / "no.gguf").exists()


def test_kl_of_equal_logits_is_zero():
    logits = np.random.default_rng(4).normal(0, 3, (4, 1000)).astype(np.float32)
    p = fidelity.reference(logits)
    # Exact but for keeping log P as float32: at most log(vocab) * 2^-24 in all.
    for t, row in enumerate(logits):
        assert abs(fidelity.kl_divergence(p, t, row)) < math.log(1000) * 2 * EPS32
        assert abs(fidelity.kl_divergence(p, t, row + np.float32(8))) < 1e-5  # shifts cancel


def test_kl_without_a_tail_is_the_textbook_one():
    logits = np.log(np.array([[0.5, 0.25, 0.25]]))
    p = fidelity.reference(logits)
    assert p.ids.tolist() == [[0, 1, 2]]
    assert p.log_tail.tolist() == [-math.inf]
    got = fidelity.kl_divergence(p, 0, np.log([0.25, 0.25, 0.5]))
    # 1/2 log 2 + 0 + 1/4 log 1/2
    assert got == pytest.approx(0.25 * math.log(2), abs=1e-7)


def test_kl_puts_all_other_ids_into_one_bucket():
    p = fidelity.reference(np.log(np.array([[0.1, 0.6, 0.1, 0.2]])), top=2)
    assert p.ids.tolist() == [[1, 3]]
    assert math.exp(p.log_tail[0]) == pytest.approx(0.2, rel=1e-6)
    moved_inside_the_tail = np.log([0.15, 0.6, 0.05, 0.2])
    assert fidelity.kl_divergence(p, 0, moved_inside_the_tail) == pytest.approx(0, abs=1e-6)
    want = 0.6 * math.log(0.6 / 0.3) + 0.2 * math.log(0.2 / 0.3) + 0.2 * math.log(0.2 / 0.4)
    got = fidelity.kl_divergence(p, 0, np.log([0.2, 0.3, 0.2, 0.3]))
    assert got == pytest.approx(want, abs=1e-6)


def test_kl_keeps_a_small_tail():
    logits = np.zeros((1, 4))
    logits[0, 0] = 60  # the rest's mass, 3 e^-60, would vanish in 1 - P
    p = fidelity.reference(logits, top=1)
    assert p.log_tail[0] == pytest.approx(math.log(3) - 60, abs=1e-5)


def test_reference_orders_equal_logits_by_id():
    logits = np.zeros((1, 300))
    logits[0, 200] = 1
    assert fidelity.reference(logits).ids[0].tolist() == [200, *range(127)]


def test_ratio_interval_contains_a_known_ratio():
    rng = np.random.default_rng(7)
    other = rng.gamma(0.5, 0.006, 600)
    noisy = other * 0.7 * rng.uniform(0.6, 1.4, 600)
    low, high = fidelity.ratio_interval(noisy, other)
    assert low < 0.7 < high
    assert low < noisy.mean() / other.mean() < high
    assert 0.01 < high - low < 0.15
    assert fidelity.ratio_interval(noisy, other) == (low, high)


def test_ratio_interval_is_a_point_for_a_fixed_factor():
    other = np.random.default_rng(8).gamma(0.5, 0.006, 100)
    assert fidelity.ratio_interval(other * 0.5, other) == pytest.approx((0.5, 0.5))


@pytest.fixture(name="golden")
def fixture_golden():
    """Five positions, of which llama.cpp's part has argmax wrong once and a KL of 0.01."""
    logits = np.random.default_rng(9).normal(0, 3, (5, 400)).astype(np.float32)
    p = fidelity.reference(logits)
    argmax = p.ids[:, 0].copy()
    argmax[2] = p.ids[2, 1]
    about = {"formula": fidelity.FORMULA, "model_file": "a.gguf", "texts": ["a.txt", "b.c"]}
    return fidelity.Golden(
        np.arange(5), np.array([0, 2]), p, np.full(5, 0.01), argmax, about
    ), logits


def test_compare_says_how_logits_stand_beside_llama_cpps(golden):
    golden, logits = golden
    same = fidelity.compare(golden, logits)
    assert same.top1 == 1
    assert same.llama_cpp_top1 == 0.8
    assert abs(same.kl_mean) < 1e-6
    assert same.llama_cpp_kl_mean == pytest.approx(0.01)

    worse = logits.copy()
    for t in (0, 1, 3):
        worse[t, golden.reference.ids[t, 0]] -= 10
    got = fidelity.compare(golden, (memoryview(row) for row in worse))
    assert got.top1 == 0.4
    assert got.kl_mean == pytest.approx(got.kl.sum() / 5)
    assert got.kl_mean > 0.1
    assert got.ratio == pytest.approx(got.kl_mean / 0.01)
    low, high = got.ratio_interval
    assert low < got.ratio < high


def test_compare_refuses_rows_that_do_not_fit(golden):
    golden, logits = golden
    with pytest.raises(ValueError, match="4 rows of logits for 5 tokens"):
        fidelity.compare(golden, logits[:4])
    with pytest.raises(ValueError, match="more than the golden file's 5 rows"):
        fidelity.compare(golden, [*logits, logits[0]])
    logits[3, 77] = np.nan
    with pytest.raises(ValueError, match="position 3 is not finite"):
        fidelity.compare(golden, logits)


def test_report_has_a_line_for_each_text(golden):
    golden, logits = golden
    assert [ids.tolist() for ids in golden.texts()] == [[0, 1], [2, 3, 4]]
    worse = logits.copy()
    worse[2:] *= 0.5
    got = fidelity.compare(golden, worse)
    lines = fidelity.report(golden, got).splitlines()
    assert lines[0] == "5 positions of 2 texts, a.gguf"
    assert f"ratio     {got.ratio:.3f} (" in lines[4]
    assert lines[5].startswith("  a.txt: 0.000000 / 0.010000 = ")
    assert lines[6].startswith(f"  b.c: {got.kl[2:].mean():.6f} / 0.010000 = ")
    assert len(lines) == 7


def test_command_runs_each_text_from_position_0(tmp_path, capsys):
    path = tmp_path / "tiny.gguf"
    tiny_model.tiny_model(path, seed=3, **SHAPES["gqa-tied"])
    texts = [IDS, IDS[2:]]
    rows = np.concatenate([oracle.logits(path, ids) for ids in texts])
    golden = fidelity.Golden(
        tokens=np.concatenate(texts),
        starts=np.array([0, len(IDS)]),
        reference=fidelity.reference(rows),
        llama_cpp_kl=np.full(len(rows), 0.01),
        llama_cpp_argmax=rows.argmax(axis=1),
        about={
            "formula": fidelity.FORMULA,
            "model_file": path.name,
            "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "texts": ["a", "b"],
        },
    )
    fidelity.save_golden(tmp_path / "golden.npz", golden)
    fidelity.main([str(tmp_path / "golden.npz"), str(path)])
    said = capsys.readouterr().out

    model = nybble.load(path)
    rows = np.concatenate([np.asarray(model.logits(ids, all=True)) for ids in texts])
    got = fidelity.compare(golden, rows)
    assert said == fidelity.report(golden, got) + "\n"
    joined = fidelity.compare(golden, np.asarray(model.logits(golden.tokens, all=True)))
    assert joined.kl_mean > 2 * got.kl_mean

    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match="is not the golden file's tiny.gguf"):
        fidelity.main([str(tmp_path / "golden.npz"), str(path)])


def test_golden_file_round_trips(golden, tmp_path):
    golden, _ = golden
    path = tmp_path / "golden.npz"
    fidelity.save_golden(path, golden)
    read = fidelity.load_golden(path)
    for got, want in zip(
        [*read[:2], *read[2], *read[3:5]], [*golden[:2], *golden[2], *golden[3:5]], strict=True
    ):
        np.testing.assert_array_equal(got, want)
    assert read.about == golden.about
    fidelity.save_golden(path, golden._replace(about={"formula": "another"}))
    with pytest.raises(ValueError, match="another"):
        fidelity.load_golden(path)
