"""What load takes, and how it refuses a file: the right error, with the path and the numbers."""

import os
import re
import struct
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest

import nybble
from nybble._core import native
from nybble.errors import (
    ContextError,
    CpuError,
    FormatError,
    ModelNotFoundError,
    NumericError,
    UsageError,
)
from nybble.formats.gguf import GgufFile
from tools.gguf_writer import FORMATS, Array, Format, Scalar, Tensor, tensor
from tools.tiny_model import tiny_model

from .models import edited, replaced

ROOT = Path(__file__).parents[2]
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    tiny_model(path, tied=False)
    return path


@pytest.fixture
def refused(path, tmp_path):
    """refused(text, metadata, tensors): a file with these edits is a FormatError that names the
    file once and matches the text."""

    def check(text, metadata=None, tensors=list, **options):
        file = edited(path, tmp_path / "edited.gguf", metadata, tensors)
        with pytest.raises(FormatError, match=text) as caught:
            nybble.load(file, **options)
        assert str(caught.value).count(str(file)) == 1
        assert str(caught.value).startswith(f"{file}: ")
        assert len(str(caught.value)) < len(str(file)) + 200
        assert caught.value.exit_code == 4

    return check


# -- which file


def test_names_and_paths(path, tmp_path, monkeypatch):
    assert nybble.load(path).path == nybble.load(str(path)).path == str(path)
    monkeypatch.chdir(path.parent)
    assert nybble.load("tiny.gguf").vocab == 323
    odd = tmp_path / "ça va 🙂.gguf"
    odd.write_bytes(path.read_bytes())
    assert nybble.load(odd).complete("a", max_tokens=1, ignore_eos=True).stats.prompt_tokens == 1


def test_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("NYBBLE_HOME", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="get it: nybble pull smollm2-135m"):
        nybble.load("smollm2-135m")
    for name in ("nothing.gguf", str(tmp_path / "nothing.gguf"), "", "no such", str(tmp_path)):
        with pytest.raises(ModelNotFoundError, match=re.escape(repr(name))):
            nybble.load(name)


@pytest.mark.parametrize("bad", [None, 5, b"tiny.gguf", ["tiny.gguf"]])
def test_a_name_is_text(bad):
    with pytest.raises(UsageError, match="a name or a path"):
        nybble.load(bad)


def test_a_file_that_may_not_be_read(path, tmp_path):
    secret = tmp_path / "secret.gguf"
    secret.write_bytes(path.read_bytes())
    secret.chmod(0)
    if os.access(secret, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(nybble.NybbleError, match="secret"):
        nybble.load(secret)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"<html>", b"PK\x03\x04rest", bytes(5000)])
def test_what_is_no_gguf_file(tmp_path, content):
    file = tmp_path / "no.gguf"
    file.write_bytes(content)
    with pytest.raises(FormatError, match="no.gguf"):
        nybble.load(file)


def test_every_truncation_is_refused(path, tmp_path):
    content, file = path.read_bytes(), tmp_path / "cut.gguf"
    with GgufFile(path) as whole:
        end = max(t.offset + t.nbytes for t in whole.tensors.values())  # then there is padding
    for size in [*range(0, end, end // 150), end - 1]:
        file.write_bytes(content[:size])
        with pytest.raises(FormatError, match=r"cut.gguf.*byte"):
            nybble.load(file)


def test_random_damage_is_refused_or_harmless(path, tmp_path):
    """Whatever a byte of the head becomes, it is an error of nybble's or a model that runs."""
    content, file = bytearray(path.read_bytes()), tmp_path / "bad.gguf"
    head = 2 * content.index(b"blk.0.attn_norm")  # the metadata, and tensors' names and shapes
    rng = np.random.default_rng(2)
    runs = 0
    for at in rng.integers(0, min(head, len(content)), 300):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        try:
            model = nybble.load(file, context=16)
            reply = model.complete("a", max_tokens=2)
            assert len(reply.text) >= 0
            runs += 1
        except (FormatError, UsageError, NumericError):
            pass
    assert 0 < runs < 300


# -- architecture and numbers


def test_foreign_architectures(refused):
    for name in ("qwen9", "", "turns", "__init__", "../llama"):
        refused("architecture '.*' is not known here; known: gemma3, granite, llama, qwen2, qwen3, "
                "smollm3",
                {"general.architecture": name})  # fmt: skip
    refused("architecture None is not known", {"general.architecture": None})
    refused("architecture 5 is not known", {"general.architecture": 5})
    refused("is not known", {"general.architecture": Array("string", ["llama"])})


COUNTS = ("embedding_length", "attention.head_count", "attention.head_count_kv", "block_count")


@pytest.mark.parametrize("key", [*COUNTS, "feed_forward_length", "context_length"])
@pytest.mark.parametrize(
    "bad", [0, 2**32 - 1, Scalar("int32", -1), "many", 2.0, True], ids=lambda v: str(v)[:30]
)
def test_counts_are_whole_numbers_in_range(refused, key, bad):
    refused(f"llama.{key} is .*; it should be a whole number from 1 to", {f"llama.{key}": bad})


@pytest.mark.parametrize("key", ["embedding_length", "attention.head_count", "block_count"])
def test_counts_must_be_there(refused, key):
    refused(f"llama.{key}: the file does not say", {f"llama.{key}": None})


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("attention.layer_norm_rms_epsilon", 0.0),
        ("attention.layer_norm_rms_epsilon", -1e-5),
        ("attention.layer_norm_rms_epsilon", NAN),
        ("attention.layer_norm_rms_epsilon", INF),
        ("attention.layer_norm_rms_epsilon", 2.0),
        ("attention.layer_norm_rms_epsilon", 1e-40),
        ("attention.layer_norm_rms_epsilon", "small"),
        ("rope.freq_base", 0.0),
        ("rope.freq_base", -10_000.0),
        ("rope.freq_base", NAN),
        ("rope.freq_base", INF),
        ("rope.freq_base", True),
    ],
)
def test_numbers_are_in_range_before_weights_are_read(refused, key, bad):
    def fails(*_):
        raise AssertionError("weights were read")

    refused(rf"llama.{key} is .*; it should be a number from", {f"llama.{key}": bad},
            on_progress=fails)  # fmt: skip


def test_an_absurd_number_of_blocks_is_quick_to_refuse(refused):
    started = time.perf_counter()
    refused("llama.block_count is 4000000000; .* 1,024", {"llama.block_count": 4_000_000_000})
    refused("blk.2.attn_norm.weight is missing", {"llama.block_count": 1024})
    refused("blk.1.* is there, and llama has no use for it", {"llama.block_count": 1})
    assert time.perf_counter() - started < 2


def test_heads_must_divide(refused):
    refused("embedding_length 96 does not divide among 5 heads", {"llama.attention.head_count": 5})
    refused("does not divide among 97 heads", {"llama.attention.head_count": 97})
    refused(
        r"blk.0.attn_k.weight is \(32, 96\), llama wants \(64, 96\)",
        {"llama.attention.head_count_kv": 2},
    )


def test_query_heads_must_divide_among_kv_heads(refused, tmp_path):
    def wider(tensors):
        return [
            t._replace(shape=(64, 96), data=t.data * 2) if re.search("attn_[kv]", t.name) else t
            for t in tensors
        ]

    refused("3 query heads do not divide among 2 KV heads",
            {"llama.attention.head_count_kv": 2}, wider)  # fmt: skip


@pytest.mark.parametrize("dims", [1, 15, 24, 48, 4096])
def test_rotation_has_its_limits(refused, dims):
    refused(f"heads of 32 dimensions of which {dims} rotate; .* multiples of 8 and 16",
            {"llama.rope.dimension_count": dims})  # fmt: skip


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"llama.rope.scaling.type": "yarn"}, "scaled by 'yarn' are not supported; linear and"),
        ({"llama.rope.scaling.factor": -1.0}, "factor is -1.0"),
        ({"llama.expert_count": 8}, "mixtures of experts"),
        ({"llama.attention.value_length": 64}, "keys and values of different lengths"),
        ({"llama.attention.key_length": 0}, "key_length is 0"),
        ({"tokenizer.ggml.tokens": None}, "no vocabulary"),
        ({"tokenizer.ggml.tokens": "abc"}, "no vocabulary"),
        ({"tokenizer.ggml.merges": None}, "no tokenizer.ggml.merges"),
        ({"tokenizer.ggml.model": "bert"}, "tokenizer is of kind 'bert'"),
        ({"tokenizer.ggml.model": "llama"}, "no tokenizer.ggml.scores"),
        ({"tokenizer.ggml.pre": "tekken"}, "pre-tokenizer is 'tekken'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_not_supported_is_refused_by_name(refused, metadata, text):
    refused(text, metadata)


def test_a_vocabulary_of_another_size(refused, path):
    tokens = [f"t{i}" for i in range(300)]
    refused(r"token_embd.weight is \(323, 96\), llama wants \(300, 96\)",
            {"tokenizer.ggml.tokens": tokens})  # fmt: skip


# -- tensors


def test_missing_and_surplus_tensors(refused):
    def without(name):
        return lambda tensors: [t for t in tensors if t.name != name]

    refused("blk.1.ffn_up.weight is missing; llama needs it", None, without("blk.1.ffn_up.weight"))
    refused("output_norm.weight is missing", None, without("output_norm.weight"))
    refused("token_embd.weight is missing", None, without("token_embd.weight"))
    bias = tensor("blk.0.attn_q.bias", np.zeros(96, np.float32), "F32")
    refused("blk.0.attn_q.bias is there, and llama has no use for it", None, lambda t: [*t, bias])
    factors = bias._replace(name="rope_freqs.weight")
    refused(r"weight is \(96,\); 16 floats expected", None, lambda t: [*t, factors])


@pytest.mark.parametrize("shape", [(96, 160), (160, 96, 1), (15360,), (160, 64), (161, 96)])
def test_shapes(refused, shape):
    def edit(tensors):
        new = tensor("blk.1.ffn_up.weight", np.ones(shape, np.float32), "F32")
        return [new if t.name == new.name else t for t in tensors]

    shown = re.escape(str(shape))
    refused(rf"blk.1.ffn_up.weight is {shown}, llama wants \(160, 96\)", None, edit)


def test_formats_of_matrices(refused, monkeypatch):
    monkeypatch.setitem(FORMATS, "Q8_1", Format(9, 32, 36))

    def edit(tensors):
        new = Tensor("blk.1.ffn_up.weight", (160, 96), "Q8_1", bytes(160 * 96 // 32 * 36))
        return [new if t.name == new.name else t for t in tensors]

    refused("blk.1.ffn_up.weight is Q8_1; this version runs .*Q4_1.*Q8_0", None, edit)


def test_formats_of_vectors(refused):
    def edit(tensors):
        new = tensor("blk.1.ffn_norm.weight", np.ones(96, np.float32), "F16")
        return [new if t.name == new.name else t for t in tensors]

    refused("blk.1.ffn_norm.weight is F16; vectors must be F32", None, edit)


def test_columns_are_whole_blocks(tmp_path):
    formats = dict.fromkeys(("embed", "attention", "mlp", "head"), "F32")
    tiny_model(tmp_path / "odd.gguf", dim=48, heads=3, hidden=100, formats=formats)
    with pytest.raises(FormatError, match="odd.gguf: embedding_length 48 is not a multiple of 32"):
        nybble.load(tmp_path / "odd.gguf")
    tiny_model(tmp_path / "odd.gguf", dim=96, heads=3, hidden=100, formats=formats)
    with pytest.raises(FormatError, match="odd.gguf: MLP: 100 columns, not a multiple of 32"):
        nybble.load(tmp_path / "odd.gguf")


def with_bytes(name, at, new):
    """An edit of tensors: from byte `at` of a tensor on there are these."""

    def change(t):
        return t._replace(data=t.data[:at] + new + t.data[at + len(new) :])

    return lambda tensors: [change(t) if t.name == name else t for t in tensors]


@pytest.mark.parametrize(
    "bits", [0x7C00, 0xFC00, 0x7E00, 0x7D01], ids=["inf", "-inf", "nan", "signalling nan"]
)
def test_scales_that_are_not_finite(refused, bits):
    half = struct.pack("<H", bits)
    second_block = 17 * 5 * 20 + 20  # of row 17; Q4_1, 5 blocks a row of 20 bytes
    for at in (second_block, second_block + 2):  # the scale and the minimum
        edit = with_bytes("blk.1.ffn_down.weight", at, half)
        refused("ffn_down.weight: a number in row 17, block 1, is not finite; .* again", None, edit)
    edit = with_bytes("token_embd.weight", 322 * 3 * 34, half)  # Q8_0, 3 blocks a row of 34 bytes
    refused("token_embd.weight: a number in row 322, block 0, is not finite", None, edit)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_vectors_that_are_not_finite(refused, bad):
    edit = with_bytes("blk.0.attn_norm.weight", 4 * 70, struct.pack("<f", bad))
    refused("blk.0.attn_norm.weight: element 70 is not finite; .* again", None, edit)


def test_a_model_whose_logits_are_nan(path, tmp_path):
    """Every number in the file is finite, and what comes out is not."""
    huge = replaced("blk.0.ffn_norm.weight", lambda w: w * 0 + np.float32(3e38))
    model = nybble.load(edited(path, tmp_path / "huge.gguf", tensors=huge))
    for _ in range(2):
        with pytest.raises(NumericError, match="the logit of token 0 is not a number"):
            print(model.ask("Hello"))
        with pytest.raises(NumericError):
            model.logits([5, 6])


# -- options of load


@pytest.mark.parametrize("bad", [0, -1, 65, 1.0, "2", True, 2**40])
def test_threads_are_checked(path, bad):
    with pytest.raises(UsageError, match="^threads must be "):
        nybble.load(path, threads=bad)


@pytest.mark.parametrize("bad", [0, -1, 64.0, "64", True, 2**40])
def test_context_is_checked(path, bad):
    with pytest.raises(UsageError, match="^context must be "):
        nybble.load(path, context=bad)


def test_the_context_is_the_models_or_less(path, tmp_path):
    assert nybble.load(path).context == 512
    assert nybble.load(path, context=np.int64(100), threads=np.int8(2)).context == 100
    with pytest.raises(ContextError, match="context 513 is beyond the model's 512"):
        nybble.load(path, context=513)
    long = edited(path, tmp_path / "long.gguf", {"llama.context_length": 100_000})
    assert nybble.load(long).context == 2048
    assert nybble.load(long, context=100_000).context == 100_000


def test_a_context_that_memory_does_not_hold(path, tmp_path):
    """2^24 positions of 256 bytes are 4 GiB; the process may have 2."""
    file = edited(path, tmp_path / "long.gguf", {"llama.context_length": (1 << 24) - 1})
    program = (
        "import resource, sys, nybble\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, resource.RLIM_INFINITY))\n"
        "for memory in (None, '8GiB'):\n"
        "    try:\n"
        "        nybble.load(sys.argv[1], context=(1 << 24) - 1, memory=memory)\n"
        "    except nybble.NybbleError as error:\n"
        "        print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", program, str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    text = r"BudgetError keys and values of a context of 16,777,215 tokens: 4,096.0 MiB, .* smaller"
    planned, tried = done.stdout.splitlines()
    assert "(its limit of address space (ulimit -v)); a context of " in planned, done.stderr
    assert re.match(text, tried)


@pytest.fixture
def unpacked(path, monkeypatch):
    """The model, of which no packed copy is used."""
    monkeypatch.setenv("NYBBLE_PACK", "0")
    return path


def test_progress_ends_at_the_whole(unpacked):
    seen = []
    model = nybble.load(unpacked, on_progress=lambda done, total: seen.append((done, total)))
    assert len(seen) == 2 * 9 + 3
    assert seen == sorted(seen)
    total = model.weights.program.weights_bytes
    assert {t for _, t in seen} == {total}
    assert 0 < seen[0][0] < seen[-1][0] <= total < seen[-1][0] + 64


def test_progress_may_stop_the_load(unpacked):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nybble.load(unpacked, on_progress=stop)


def test_a_level_that_nobody_has(path, monkeypatch):
    monkeypatch.setenv("NYBBLE_ISA", "z80")
    with pytest.raises(
        UsageError, match="NYBBLE_ISA is 'z80', which is no level: this build has ref"
    ):
        nybble.load(path)


@pytest.mark.parametrize("level", ["neon", "dotprod", "i8mm", "avx2", "avxvnni", "avx512vnni"])
def test_a_level_that_runs_or_not(path, monkeypatch, level):
    monkeypatch.setenv("NYBBLE_ISA", level.upper())
    if all(row["runs"] for row in native.rows() if row["level"] == level) and (
        level in native.levels()
    ):
        assert native.cpu_bits() == native.level_bits(level)
    else:
        says = "which this machine's CPU lacks" if level in native.levels() else "a level of "
        with pytest.raises(CpuError, match=f"NYBBLE_ISA is '{level}', {says}"):
            nybble.load(path)


def test_levels_are_those_of_the_rooms():
    known = set(tomllib.loads((ROOT / "targets/levels.toml").read_text()))
    assert {level for its in native.LEVELS.values() for level in its} == known


def test_a_model_may_be_used_in_with(path):
    with nybble.load(path) as model:
        assert model.vocab == 323
    assert repr(model) == f"<nybble.Model {str(path)!r}, context 512>"
