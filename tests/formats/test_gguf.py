"""GGUF files, sound and hostile, through the door that nybble.load uses."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import struct
import time
import tracemalloc

import gguf_bytes as gb
import pytest

from nybble._core.gguf import GgufArray, GgufIndex, wanted
from nybble.errors import FormatError, ModelNotFoundError, NybbleError, UsageError
from nybble.formats.gguf import READ, GgufFile

HOSTILE = gb.hostile()


@pytest.fixture
def write(tmp_path):
    """Writes bytes to a file and returns its path."""

    def write(raw, name="model.gguf"):
        path = tmp_path / name
        path.write_bytes(raw)
        return path

    return write


# --- metadata ---

EDGES = {  # type number -> (name, values at its edges)
    gb.UINT8: ("uint8", [0, 1, 255]),
    gb.INT8: ("int8", [-128, -1, 127]),
    gb.UINT16: ("uint16", [0, 65535]),
    gb.INT16: ("int16", [-32768, -1, 32767]),
    gb.UINT32: ("uint32", [0, 2**32 - 1]),
    gb.INT32: ("int32", [-(2**31), -1, 2**31 - 1]),
    gb.FLOAT32: ("float32", [0.0, -1.5, 2.0**-149, -math.inf]),
    gb.BOOL: ("bool", [False, True]),
    gb.STRING: ("string", ["", "plain", "Ġ日本🎉", "two\nlines\0"]),
    gb.UINT64: ("uint64", [0, 2**64 - 1]),
    gb.INT64: ("int64", [-(2**63), -1, 2**63 - 1]),
    gb.FLOAT64: ("float64", [0.1, -(2.0**-1074), math.inf]),
}
BY_TYPE = pytest.mark.parametrize("type", EDGES, ids=[name for name, _ in EDGES.values()])
BY_VERSION = pytest.mark.parametrize("version", [2, 3])


@BY_VERSION
@BY_TYPE
def test_value_is_what_was_written(write, type, version):
    _, values = EDGES[type]
    keys = [gb.key(f"k.{i}", type, value) for i, value in enumerate(values)]
    with GgufFile(write(gb.gguf(keys, version=version))) as file:
        assert file.version == version
        read = [file.metadata[f"k.{i}"] for i in range(len(values))]
    assert read == values
    assert [v.__class__ for v in read] == [v.__class__ for v in values]


@BY_VERSION
@BY_TYPE
def test_array_is_what_was_written(write, type, version):
    name, values = EDGES[type]
    with GgufFile(write(gb.gguf([gb.array("a", type, values)], version=version))) as file:
        array = file.metadata["a"]
        assert isinstance(array, GgufArray)
        assert array.element_type == name
        assert len(array) == len(values)
        assert list(array) == values
        assert [array[i] for i in range(len(values))] == values
        assert array[-1] == values[-1]
        assert array[::-1] == values[::-1]
        assert array.raw == b"".join(gb.scalar(type, v) for v in values)
        assert array.raw.readonly
        for outside in (len(values), -len(values) - 1):
            with pytest.raises(IndexError):
                array[outside]


@BY_TYPE
def test_empty_array_is_empty(write, type):
    with GgufFile(
        write(gb.gguf([gb.array("a", type, []), gb.key("b", type, EDGES[type][1][0])]))
    ) as f:
        array = f.metadata["a"]
        assert (len(array), list(array), array[:], bytes(array.raw)) == (0, [], [], b"")
        with pytest.raises(IndexError):
            array[0]
        assert f.metadata["b"] == EDGES[type][1][0]


def test_float_nan_stays_one(write):
    keys = [gb.key("f", gb.FLOAT32, math.nan), gb.key("d", gb.FLOAT64, math.nan)]
    with GgufFile(write(gb.gguf(keys))) as file:
        assert math.isnan(file.metadata["f"])
        assert math.isnan(file.metadata["d"])


def test_string_array_is_indexed_in_any_order(write):
    """More strings than lie between two marks, of every length, read forwards and backwards."""
    words = ["x" * (i % 7) + str(i) for i in range(1000)]
    with GgufFile(write(gb.gguf([gb.array("words", gb.STRING, words)]))) as file:
        array = file.metadata["words"]
        assert [array[i] for i in reversed(range(1000))] == words[::-1]
        assert [array[i] for i in (0, 63, 64, 65, 127, 128, 999, -1000)] == [
            words[i] for i in (0, 63, 64, 65, 127, 128, 999, 0)
        ]
        assert array[60:70] == words[60:70]
        assert list(array) == words


def test_text_that_is_no_utf8_survives(write):
    raw = b"\xff\xfea\x80"
    keys = [gb.key("s", gb.STRING, raw), gb.array("a", gb.STRING, [b"ok", raw])]
    with GgufFile(write(gb.gguf(keys))) as file:
        for text in (file.metadata["s"], file.metadata["a"][1]):
            assert text.encode("utf-8", "surrogateescape") == raw


def test_metadata_is_a_mapping_in_file_order(write):
    with GgufFile(write(gb.small())) as file:
        metadata = file.metadata
        assert list(metadata) == [
            "general.architecture",
            "llama.block_count",
            "tokenizer.ggml.add_bos_token",
            "tokenizer.ggml.tokens",
            "tokenizer.ggml.scores",
            "tokenizer.ggml.flags",
        ]
        assert len(metadata) == 6
        assert "llama.block_count" in metadata
        assert "llama.nothing" not in metadata
        assert metadata.get("llama.nothing", 7) == 7
        with pytest.raises(KeyError):
            metadata["llama.nothing"]


# --- tensors ---


@BY_VERSION
def test_tensors_are_where_the_file_says(write, version):
    raw = gb.small(version)
    with GgufFile(write(raw)) as file:
        assert list(file.tensors) == ["token_embd.weight", "output_norm.weight"]
        embedding, norm = file.tensors.values()
        assert (embedding.shape, embedding.format, embedding.nbytes) == ((4, 32), "Q4_1", 80)
        assert (norm.shape, norm.format, norm.nbytes) == ((5,), "F32", 20)
        assert norm.offset - embedding.offset == 96
        assert embedding.offset % file.alignment == 0
        assert file.data("token_embd.weight") == bytes(range(80))
        assert file.data("output_norm.weight") == raw[norm.offset : norm.offset + 20]
        assert file.data("output_norm.weight").readonly
        assert (file.nbytes, file.alignment) == (len(raw), 32)
        with pytest.raises(KeyError):
            file.data("nothing.weight")


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_alignment_of_the_file_is_used(write, alignment):
    raw = gb.gguf(
        [gb.key("general.alignment", gb.UINT32, alignment)],
        [gb.tensor("a", [1]), gb.tensor("b", [1], gb.F32, alignment)],
        gb.pad(b"aaaa", alignment) + b"bbbb",
        alignment=alignment,
    )
    with GgufFile(write(raw)) as file:
        assert file.alignment == alignment
        assert (file.data("a"), file.data("b")) == (b"aaaa", b"bbbb")


def test_shape_has_as_many_dimensions_as_the_file(write):
    dims = [[2], [2, 3], [2, 3, 4], [2, 3, 4, 5]]
    listed = [gb.tensor(str(i), d, gb.F32, 512 * i) for i, d in enumerate(dims)]
    with GgufFile(write(gb.gguf([], listed, bytes(2048)))) as file:
        assert [t.shape for t in file.tensors.values()] == [(2,), (3, 2), (4, 3, 2), (5, 4, 3, 2)]
        assert [t.nbytes for t in file.tensors.values()] == [8, 24, 96, 480]


# ggml's number, name, weights a block, and the block's fields in bytes: scales, then quants.
FORMATS = [
    (0, "F32", 1, [4]),
    (1, "F16", 1, [2]),
    (2, "Q4_0", 32, [2, 32 / 2]),
    (3, "Q4_1", 32, [2, 2, 32 / 2]),
    (6, "Q5_0", 32, [2, 32 / 8, 32 / 2]),
    (7, "Q5_1", 32, [2, 2, 32 / 8, 32 / 2]),
    (8, "Q8_0", 32, [2, 32]),
    (9, "Q8_1", 32, [2, 2, 32]),
    (10, "Q2_K", 256, [2, 2, 256 / 16, 256 / 4]),
    (11, "Q3_K", 256, [2, 12, 256 / 8, 256 / 4]),
    (12, "Q4_K", 256, [2, 2, 12, 256 / 2]),
    (13, "Q5_K", 256, [2, 2, 12, 256 / 8, 256 / 2]),
    (14, "Q6_K", 256, [2, 256 / 16, 256 / 4, 256 / 2]),
    (15, "Q8_K", 256, [4, 2 * 256 / 16, 256]),
    (16, "IQ2_XXS", 256, [2, 2 * 256 / 8]),
    (17, "IQ2_XS", 256, [2, 256 / 32, 2 * 256 / 8]),
    (18, "IQ3_XXS", 256, [2, 3 * 256 / 8]),
    (19, "IQ1_S", 256, [2, 256 / 16, 256 / 8]),
    (20, "IQ4_NL", 32, [2, 32 / 2]),
    (21, "IQ3_S", 256, [2, 256 / 64, 13 * 256 / 32]),
    (22, "IQ2_S", 256, [2, 256 / 16, 256 / 4]),
    (23, "IQ4_XS", 256, [2, 2, 256 / 64, 256 / 2]),
    (24, "I8", 1, [1]),
    (25, "I16", 1, [2]),
    (26, "I32", 1, [4]),
    (27, "I64", 1, [8]),
    (28, "F64", 1, [8]),
    (29, "IQ1_M", 256, [256 / 32, 256 / 16, 256 / 8]),
    (30, "BF16", 1, [2]),
    (34, "TQ1_0", 256, [2, 256 / 64, (256 - 16) / 5]),
    (35, "TQ2_0", 256, [2, 256 / 4]),
    (39, "MXFP4", 32, [1, 32 / 2]),
    (40, "NVFP4", 64, [64 / 16, 64 / 2]),
    (41, "Q1_0", 128, [2, 128 / 8]),
    (42, "Q2_0", 64, [2, 64 / 4]),
]


@pytest.mark.parametrize(
    ("number", "name", "weights", "fields"), FORMATS, ids=[row[1] for row in FORMATS]
)
def test_format_has_name_and_size(number, name, weights, fields):
    nbytes = int(sum(fields)) * 3 * 2
    raw = gb.gguf([], [gb.tensor("a", [3 * weights, 2], number)], bytes(nbytes))
    index = GgufIndex(raw, "a.gguf")
    assert index.tensor(0)[:3] == ("a", (2, 3 * weights), name)
    assert index.tensor(0)[4] == nbytes
    if weights > 1:
        halved = gb.gguf([], [gb.tensor("a", [weights // 2, 2], number)], bytes(nbytes))
        with pytest.raises(FormatError, match="not whole blocks"):
            GgufIndex(halved, "a.gguf")


@pytest.mark.parametrize("number", [4, 5, 31, 32, 33, 36, 37, 38, 43])
def test_formats_that_are_gone_or_unknown_are_refused(number):
    raw = gb.gguf([], [gb.tensor("a", [256], number)], bytes(2048))
    with pytest.raises(FormatError, match=rf"format is unknown or .* value {number}\)"):
        GgufIndex(raw, "a.gguf")


# --- hostile files ---


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file_is_refused(case):
    raw, complaint = HOSTILE[case]
    place = r'"GGUF"; give a model in GGUF$' if b"GGUF" != raw[:4] else r"\(byte \d+, value \d+\)"
    with pytest.raises(FormatError, match=rf"^a\.gguf: .* ?{place}") as caught:
        GgufIndex(raw, "a.gguf")
    assert complaint in str(caught.value)


@BY_VERSION
def test_file_cut_anywhere_is_refused(version):
    raw = gb.small(version)
    opened = []
    for length in range(len(raw) + 1):
        try:
            GgufIndex(raw[:length], "a.gguf")
        except FormatError:
            continue
        opened.append(length)
    assert opened == list(range(len(raw) - gb.SMALL_PADDING, len(raw) + 1))


def test_cut_off_file_says_how_many_bytes_are_missing(write):
    raw = gb.small()
    whole = len(raw) - gb.SMALL_PADDING
    with pytest.raises(FormatError) as caught:
        GgufFile(write(raw[: whole - 100]))
    assert f"{whole - 100} of {whole} bytes, 100 are missing: download it again" in str(
        caught.value
    )


def test_error_points_at_the_field():
    """Worked out by hand: 24 bytes of header, then a key of 1 byte, its type, its length."""
    raw = gb.gguf([gb.string("s") + gb.u32(gb.STRING) + gb.string("short", 2**30)])
    with pytest.raises(FormatError, match=r"byte 37, value 1073741824"):
        GgufIndex(raw, "a.gguf")
    raw = gb.gguf([gb.key("x", gb.UINT8, 1), gb.key("x", gb.UINT8, 1)])
    with pytest.raises(FormatError, match=r"byte 46, value 32"):
        GgufIndex(raw, "a.gguf")


def test_tokenizer_only_file_may_end_before_the_data_offset(write):
    raw = gb.gguf([gb.key("general.architecture", gb.STRING, "llama")])
    assert len(raw) % 32 != 0
    with GgufFile(write(raw)) as file:
        assert dict(file.tensors) == {}
        assert dict(file.metadata) == {"general.architecture": "llama"}


def test_file_without_anything_opens(write):
    with GgufFile(write(gb.gguf())) as file:
        assert (len(file.metadata), len(file.tensors)) == (0, 0)


def test_many_keys_and_tensors_are_checked_in_time():
    """Long common prefixes, the worst order, one lie at the far end: seconds if quadratic."""
    n = 60_000
    keys = [gb.key(f"{'k' * 80}{n - i:08}", gb.UINT8, 0) for i in range(n)]
    tensors = [gb.tensor(f"{'t' * 50}{i:08}", [8], gb.F32, 32 * (n - 1 - i)) for i in range(n)]
    data = bytes(32 * n)
    cases = [
        (keys, tensors, None),
        ([*keys, keys[0]], tensors, "key occurs twice"),
        (keys, [*tensors[:-1], gb.tensor(f"{'t' * 50}{0:08}", [8])], "name occurs twice"),
        (keys, [*tensors[:-1], gb.tensor("last", [9])], "overlap"),
    ]
    for some_keys, some_tensors, complaint in cases:
        raw = gb.gguf(some_keys, some_tensors, data)
        started = time.process_time()
        if complaint is None:
            assert GgufIndex(raw, "a.gguf").n_tensors == n
        else:
            with pytest.raises(FormatError, match=complaint):
                GgufIndex(raw, "a.gguf")
        assert time.process_time() - started < 5.0


# --- the file itself ---


def test_missing_file(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"nothing\.gguf: no such file"):
        GgufFile(tmp_path / "nothing.gguf")


def test_empty_file(write):
    with pytest.raises(FormatError, match=r"model\.gguf is empty \(0 bytes\): download it again"):
        GgufFile(write(b""))


def test_directory(tmp_path):
    with pytest.raises(FormatError, match="is a directory"):
        GgufFile(tmp_path)


def test_fifo_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(FormatError, match="not a regular file"):
        GgufFile(tmp_path / "pipe.gguf")


def test_unreadable_file(tmp_path):
    loop = tmp_path / "loop.gguf"
    loop.symlink_to(loop)
    with pytest.raises(NybbleError, match=r"loop\.gguf cannot be read: Too many levels"):
        GgufFile(loop)
    with pytest.raises(NybbleError, match="cannot be read"):
        GgufFile(str(tmp_path) + "/a\0b.gguf")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file(write):
    path = write(gb.small())
    path.chmod(0)
    with pytest.raises(NybbleError, match="cannot be read: Permission denied"):
        GgufFile(path)


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!doctype html><html></html>", "web page"),
        (b"PK\x03\x04" + bytes(40), "zip archive"),
        (b"tjgg" + bytes(40), "before GGUF"),
        (b"\x7fELF" + bytes(40), "not a GGUF file"),
        (b"G", "not a GGUF file"),
    ],
    ids=["lfs", "html", "zip", "ggjt", "elf", "one byte"],
)
def test_another_kind_of_file_is_named(write, raw, what):
    with pytest.raises(FormatError, match=what):
        GgufFile(write(raw))


def test_hostile_file_names_its_path(write):
    path = write(HOSTILE["overlap"][0])
    with pytest.raises(FormatError) as caught:
        GgufFile(path)
    assert str(caught.value).startswith(f"{path}: two tensors overlap")
    assert caught.value.exit_code == 4


def test_what_was_handed_out_outlives_close(write):
    file = GgufFile(write(gb.small()))
    data, tokens = file.data("token_embd.weight"), file.metadata["tokenizer.ggml.tokens"]
    raw = tokens.raw
    file.close()
    file.close()
    gc.collect()
    assert data == bytes(range(80))
    assert list(tokens) == ["a", "", "Ġb", "日本"]
    assert raw[:9] == gb.string("a")
    for use in (lambda: file.metadata, lambda: file.tensors, lambda: file.data("x")):
        with pytest.raises(UsageError, match="has been closed"):
            use()


def test_a_file_is_let_go_of(write):
    path = write(gb.small())

    def is_open():
        with open("/proc/self/maps") as maps:
            assert str(path) not in maps.read()
        targets = []
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the listing's own is closed by now
                targets.append(os.readlink(f"/proc/self/fd/{fd}"))
        return str(path) in targets

    file = GgufFile(path)
    assert is_open()
    file.close()
    assert not is_open()
    kept = GgufFile(path).metadata["tokenizer.ggml.tokens"]
    assert not is_open()
    assert list(kept) == ["a", "", "Ġb", "日本"]
    path.write_bytes(gb.gguf(version=9))
    with pytest.raises(FormatError):
        GgufFile(path)
    assert not is_open()


def test_a_buffer_that_changes_cannot_lead_outside():
    raw = bytearray(gb.small())
    index = GgufIndex(raw, "a.gguf")
    keys = [index.key(i) for i in range(index.n_keys)]
    tokens = index.value(keys.index("tokenizer.ggml.tokens"))
    at = raw.index(gb.string("a"))
    for lie in (2**20, 2**63, 2**64 - 8):
        raw[at : at + 8] = struct.pack("<Q", lie)
        with pytest.raises(FormatError, match="was changed while it was open"):
            list(tokens)
        with pytest.raises(FormatError, match="was changed while it was open"):
            tokens[1]


def test_the_head_is_enough_and_is_found_by_trying():
    raw = gb.gguf(
        [gb.array("words", gb.STRING, ["word"] * 1000), gb.key("last", gb.UINT8, 7)],
        [gb.tensor("a", [8])],
        bytes(10**6),
    )
    have = wanted(b"", len(raw))
    seen = [have]
    while more := wanted(raw[:have], len(raw)):
        assert more > have
        have = more
        seen.append(have)
    assert 1000 < len(seen) < 1100  # string by string, if nobody reads ahead
    assert have < len(raw) - 10**6
    index = GgufIndex(raw[:have], "a.gguf", len(raw))
    assert (index.key(1), index.value(1)) == ("last", 7)
    assert index.tensor(0)[4] == 32
    with pytest.raises(FormatError, match="more of the file has to be read"):
        GgufIndex(raw[: have - 1], "a.gguf", len(raw))
    with pytest.raises(ValueError, match="of a file of 5"):
        GgufIndex(raw, "a.gguf", 5)


@pytest.mark.parametrize("n", [1, 20_000, 500_000])
def test_a_head_of_any_length_is_read_whole(write, n):
    """Below a piece, more than one, and more than the first scans ask for."""
    words = [str(i) for i in range(n)]
    raw = gb.gguf(
        [gb.array("words", gb.STRING, words), gb.key("last", gb.UINT8, 7)],
        [gb.tensor("a", [2**20])],
        bytes(4 * 2**20 - 1) + b"z",
    )
    with GgufFile(write(raw)) as file:
        assert file.metadata["words"][n - 1] == str(n - 1)
        assert file.metadata["last"] == 7
        assert file.data("a")[-1] == ord("z")
        assert file.nbytes == len(raw)
        out = memoryview(bytearray(2))
        file.read("a", 4 * 2**20 - 2, out)
        assert bytes(out) == b"\0z"
        with pytest.raises(FormatError, match="a has 4194304 bytes, 4194305 expected"):
            file.read("a", 4 * 2**20 - 1, out)


def test_a_file_that_shrinks_or_changes_is_told(write):
    raw = gb.small()
    path = write(raw)
    for change in (lambda: os.truncate(path, 100), lambda: path.write_bytes(raw + b"more")):
        path.write_bytes(raw)
        with GgufFile(path) as file:
            file.check_unchanged()
            change()
            with pytest.raises(FormatError, match="was changed while it was being read"):
                file.check_unchanged()
    path.write_bytes(raw)
    with GgufFile(path) as file:
        os.truncate(path, 100)
        with pytest.raises(FormatError, match="was changed while it was being read"):
            file.data("token_embd.weight")
        assert list(file.metadata["tokenizer.ggml.tokens"]) == ["a", "", "Ġb", "日本"]


def test_opening_decodes_no_vocabulary(write):
    raw = gb.gguf([gb.array("words", gb.STRING, [f"word{i}" for i in range(50_000)])])
    path = write(raw)
    tracemalloc.start()
    try:
        with GgufFile(path) as file:
            words = file.metadata["words"]
            assert words[49_999] == "word49999"
            _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(raw) + READ + 50_000  # the file as it is, and a piece of it


def test_array_made_by_hand_is_empty():
    array = GgufArray()
    assert (len(array), list(array), bytes(array.raw)) == (0, [], b"")
