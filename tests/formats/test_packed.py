"""Packed files: what is written is the model, bit for bit; what lies in them is refused."""

from __future__ import annotations

import mmap
import os
import random
import re
import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

import nybble
from nybble import packing
from nybble.errors import FormatError, NybbleError
from nybble.formats import packed_writer
from nybble.formats.gguf import GgufArray, GgufFile, open_file
from nybble.formats.packed import TABLES, PackedFile
from tests.formats import gguf_bytes as gb
from tests.model.models import edited
from tools.gguf_writer import Scalar, tensor
from tools.tiny_model import FAMILIES, FILE_TYPES, FORMATS, tiny_model

WIDE = {"dim": 256, "heads": 4, "hidden": 256, "layers": 1}  # columns for blocks of 256
MODELS = {
    **{family: {"family": family} for family in FAMILIES},
    **{
        format: {**WIDE, "formats": dict.fromkeys(FORMATS, format), "tied": False}
        for format in FILE_TYPES
    },
    "a head of its own": {"tied": False, "formats": {"head": "F16"}},
    "granite with a head of its own": {"family": "granite", "tied": False},
    "heads of their own size": {"family": "qwen3", "head_dim": 64},
    "positions scaled": {"rope_factor": 4.0},
    "factors of pairs": {"rope_factors": [1.0, 2.0, *[8.0] * 14]},
    "rows in pieces": {"layers": 1, "hidden": 16_384, "formats": {"mlp": "F32"}},
}


def pack(path, out=None, on_progress=None):
    """Packs the GGUF file at `path`; returns the packed file's path."""
    out = out or path.with_suffix(".nyb")
    with GgufFile(path) as file:
        reading = packing.Reading(file)
        with packing.blaming(file):
            packed_writer.write(
                os.fspath(out), file, reading.program, reading.tokenizer, on_progress
            )
    return out


def differences(path, source):
    with PackedFile(path) as mine, GgufFile(source) as file:
        reading = packing.Reading(file)
        return packed_writer.differences(mine, file, reading.program, reading.tokenizer)


@pytest.fixture(autouse=True)
def in_memory(monkeypatch):
    """GGUF files have no copies here."""
    monkeypatch.setenv("NYBBLE_PACK", "0")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model, with what belongs to no family in its metadata."""
    folder = tmp_path_factory.mktemp("packed")
    tiny_model(folder / "plain.gguf")
    more = {"general.alignment": Scalar("uint32", 128), "a.nan": float("nan"), "a.text": "日本"}
    return edited(folder / "plain.gguf", folder / "tiny.gguf", more)


@pytest.fixture(scope="module")
def whole(model):
    """The same packed."""
    return pack(model)


@pytest.fixture
def copy(whole, tmp_path):
    """One that may be damaged."""
    path = tmp_path / "copy.nyb"
    path.write_bytes(whole.read_bytes())
    return path


# -- the same model


@pytest.mark.parametrize("name", MODELS)
def test_a_packed_model_is_the_model(tmp_path, name):
    path = tmp_path / "tiny.gguf"
    tiny_model(path, **MODELS[name])
    whole = pack(path)
    with PackedFile(whole) as file:
        file.check_sum()
    assert differences(whole, path) == []
    there, here = nybble.load(path), nybble.load(whole)
    assert (there.weights.is_mapped, here.weights.is_mapped) == (False, True)
    assert bytes(here.weights.view()) == bytes(there.weights.view())
    ids = there.tokenize("the other things <|im_end|>", special=True)
    assert here.tokenize("the other things <|im_end|>", special=True) == ids
    assert bytes(here.logits(ids, all=True)) == bytes(there.logits(ids, all=True))
    assert here.ask("the").text == there.ask("the").text


def test_what_a_user_sees_of_it_is_the_models_own(model, whole):
    with GgufFile(model) as there, PackedFile(whole) as here:
        assert list(here.metadata)[0] == "general.architecture"
        assert set(here.metadata) == set(there.metadata) - {"general.alignment"}
        assert len(here.metadata) == len(list(here.metadata))
        assert "nybble.version" not in here.metadata
        with pytest.raises(KeyError):
            here.metadata["nybble.version"]
        for key, value in here.metadata.items():
            if isinstance(value, GgufArray):
                assert list(value) == list(there.metadata[key])
            else:
                assert repr(value) == repr(there.metadata[key])
        assert list(here.tensors) != list(there.tensors), "they lie as a token reads them"
        assert {name: (t.shape, t.format) for name, t in here.tensors.items()} == {
            name: (t.shape, t.format) for name, t in there.tensors.items()
        }
        assert (here.source.path, here.source.nbytes) == (model.name, model.stat().st_size)
        assert here.source.is_at(model)
        assert not here.source.is_as_it_was(), "where it was is not told"


def test_other_programs_read_it_as_gguf_of_another_architecture(whole):
    reader = gguf.GGUFReader(whole)
    assert bytes(reader.fields["general.architecture"].parts[-1]) == b"nybble"
    offsets = {t.name: t.data_offset for t in reader.tensors}
    with PackedFile(whole) as file:
        assert {name: offsets[name] for name in file.tensors} == {
            name: t.offset for name, t in file.tensors.items()
        }
        matrices = [at for name, at in offsets.items() if name != TABLES]
    assert min(matrices) % 4096 == 0
    assert all(at % 64 == 0 for at in offsets.values())


def test_packing_twice_gives_the_same_bytes(model, whole, tmp_path):
    assert pack(model, tmp_path / "again.nyb").read_bytes() == whole.read_bytes()


def test_it_is_written_by_two_mib(tmp_path, monkeypatch):
    """What is written at once can be mapped as one huge page."""
    path = tmp_path / "tiny.gguf"
    tiny_model(path, layers=1, hidden=16_384, formats={"mlp": "F32"})
    written = []

    class Recorded(packed_writer._Summed):
        def flush(self):
            written.append((self._file.tell(), self._n_waiting))
            super().flush()

    monkeypatch.setattr(packed_writer, "_Summed", Recorded)
    whole = pack(path)
    assert len(written) > 2
    assert [at for at, _ in written] == [i * 2**21 for i in range(len(written))]
    assert {nbytes for _, nbytes in written[:-1]} == {2**21}
    assert sum(nbytes for _, nbytes in written) == whole.stat().st_size
    assert differences(whole, path) == []


def advised(path):
    """What of the file is mapped, and huge pages were asked for: (begin, end) in bytes."""
    blocks = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
    spans = []
    for block in blocks:
        if os.fspath(path) in block.split("\n")[0] and " hg" in block:
            place, _, offset = block.split()[:3]
            begin, end = (int(word, 16) for word in place.split("-"))
            spans.append((int(offset, 16), int(offset, 16) + end - begin))
    return spans


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="the kernel has no huge pages"
)
@pytest.mark.parametrize("is_tied", [True, False])
def test_huge_pages_are_asked_for_what_every_token_reads(tmp_path, is_tied):
    """Not for an embedding that is no head: of that a token reads a row."""
    path = tmp_path / "tiny.gguf"
    tiny_model(path, tied=is_tied, formats={"head": "F16"})
    with PackedFile(pack(path)) as file, GgufFile(path) as source:
        program = packing.Reading(source).program
        weights = file.weights(program)
        first, *others = program.placements
        begin = 0 if is_tied else first.nbytes
        assert (first.name == "token_embd.weight") == (not is_tied)
        assert program.read_from == begin
        read = program.placements if is_tied else others
        assert program.read_bytes == sum(placed.nbytes for placed in read)
        at = file.nbytes - len(weights.view()) + begin
        page = mmap.PAGESIZE
        assert advised(file.path) == [(-(-at // page) * page, -(-file.nbytes // page) * page)]


def test_a_source_with_keys_of_nybbles_own(tmp_path):
    """Whoever wrote them: they are no news of this packed file."""
    tiny_model(tmp_path / "plain.gguf", layers=1)
    lies = {"nybble.version": 99, "nybble.sha256": "0", "nybble.other": "x"}
    path = edited(tmp_path / "plain.gguf", tmp_path / "lies.gguf", lies)
    whole = pack(path)
    assert differences(whole, path) == []
    with PackedFile(whole) as file:
        file.check_sum()
        assert not any(key.startswith("nybble.") for key in file.metadata)


def test_a_name_that_is_no_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.gguf")
    tiny_model(path, layers=1)
    with PackedFile(pack(path)) as file:
        assert file.source.path == path.name
        assert file.source.is_at(path)


@pytest.mark.parametrize("change", ["weights", "metadata", "vocabulary"])
def test_differences_are_told(model, whole, tmp_path, change):
    other = tmp_path / "other.gguf"
    if change == "weights":
        nothing = tensor("blk.1.ffn_up.weight", np.zeros((160, 96), np.float32), "Q4_1")
        edited(
            model,
            other,
            tensors=lambda old: [nothing if t.name == nothing.name else t for t in old],
        )
        assert differences(whole, other) == ["blk.1.ffn_up.weight"]
    if change == "metadata":
        edited(model, other, {"a.text": "other", "a.nan": None, "a.new": 1})
        assert sorted(differences(whole, other)) == ["a.nan", "a.new", "a.text"]
    if change == "vocabulary":
        with GgufFile(model) as file:
            merges = list(file.metadata["tokenizer.ggml.merges"])
        edited(model, other, {"tokenizer.ggml.merges": [*merges[1::-1], *merges[2:]]})
        assert differences(whole, other) == ["tokenizer.ggml.merges", TABLES]


def test_differences_of_what_is_not_in_the_weights(tmp_path):
    """The factors of Llama 3.1's rotation are numbers of the tree, and are kept as they were."""
    for name, last in (("one", 8.0), ("other", 4.0)):
        tiny_model(tmp_path / f"{name}.gguf", rope_factors=[1.0] * 15 + [last])
    whole = pack(tmp_path / "one.gguf")
    assert differences(whole, tmp_path / "one.gguf") == []
    assert "rope_freqs.weight" in differences(whole, tmp_path / "other.gguf")


# -- packing that fails


def failing(path, error, match, **options):
    """Packs over a file; it must stay as it was, with nothing beside it."""
    out = path.with_suffix(".nyb")
    out.write_bytes(b"what was there")
    there = sorted(os.listdir(path.parent))
    with pytest.raises(error, match=match):
        pack(path, **options)
    assert out.read_bytes() == b"what was there"
    assert sorted(os.listdir(path.parent)) == there


def test_scales_that_are_not_finite(tmp_path):
    path = tmp_path / "tiny.gguf"
    tiny_model(path)
    with GgufFile(path) as file:
        at = file.tensors["blk.1.attn_q.weight"].offset
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\x00\x7c")
    failing(path, FormatError, r"tiny\.gguf: blk\.1\.attn_q\.weight: a number in row 0")


def test_a_source_that_changes_meanwhile(tmp_path):
    path = tmp_path / "tiny.gguf"
    tiny_model(path)

    def touch(*_):
        os.utime(path, ns=(1, 1))

    failing(path, FormatError, "was changed while it was being read", on_progress=touch)


def test_packing_that_is_stopped(tmp_path):
    path = tmp_path / "tiny.gguf"
    tiny_model(path)

    def stop(done, total):
        raise KeyboardInterrupt

    failing(path, KeyboardInterrupt, None, on_progress=stop)


def test_a_full_disk_is_found_out_before_a_byte_is_written(tmp_path, monkeypatch):
    path = tmp_path / "tiny.gguf"
    tiny_model(path)
    monkeypatch.setattr("nybble.disk.free_bytes", lambda folder: 100_000)
    failing(path, OSError, "No space left", on_progress=lambda *_: pytest.fail("it began"))


def test_a_link_in_place_of_the_part_is_not_followed(tmp_path):
    path, precious = tmp_path / "tiny.gguf", tmp_path / "precious"
    tiny_model(path)
    precious.write_text("precious")
    (tmp_path / "tiny.nyb.part").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        pack(path)
    assert precious.read_text() == "precious"


# -- damage and lies


def use(path):
    """All of what a model's file is for."""
    model = nybble.load(path, context=16)
    model.complete("the other", max_tokens=3).text  # noqa: B018
    model.tokenize("the <|im_end|>  other", special=True)


def place_of(path, key):
    with GgufFile(path) as file:
        return file.record(key)


def write_at(path, at, data):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def test_every_truncation_is_refused(copy):
    content = copy.read_bytes()
    for n in [*range(200), *range(200, len(content), 997), len(content) - 1]:
        copy.write_bytes(content[:n])
        with pytest.raises(FormatError, match=r"copy\.nyb") as caught:
            nybble.load(copy)
        said = str(caught.value)
        assert said.endswith(": copy it again, or pack the model again (nybble pack)")
        assert "download" not in said
        assert "GGUF" not in said


def test_a_file_with_more_behind_it_is_refused(copy):
    nbytes = copy.stat().st_size
    with copy.open("ab") as file:
        file.write(bytes(100))
    with pytest.raises(FormatError, match=f"it has {nbytes + 100:,} of {nbytes:,} bytes"):
        nybble.load(copy)


def test_a_file_that_is_emptied_before_it_is_mapped(copy, monkeypatch):
    def opened(path, *remedy):
        fd = open_file(path, *remedy)
        os.truncate(path, 0)
        return fd

    monkeypatch.setattr("nybble.formats.packed.open_file", opened)
    with pytest.raises(FormatError, match=r"copy\.nyb was changed while it was being read"):
        nybble.load(copy)


@pytest.mark.parametrize("region", ["keys", "tensors", "tables", "weights"])
def test_damage_is_refused_or_harmless(copy, region):
    """Whatever is turned over, nothing worse than an error comes of it; and the sum finds it."""
    with PackedFile(copy) as file:
        tables = file._file.tensors[TABLES]
        weights = min(t.offset for t in file.tensors.values())
        _, _, keys_end = file._file.record("nybble.sha256")
        begin, end = {
            "keys": (0, keys_end),
            "tensors": (keys_end, tables.offset),
            "tables": (tables.offset, tables.offset + tables.nbytes),
            "weights": (weights, file.nbytes),
        }[region]
    content, rng, refused, rounds = copy.read_bytes(), random.Random(region), 0, 250
    for _ in range(rounds):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(begin, end)] ^= 1 << rng.randrange(8)
        if damaged == content:
            continue
        copy.write_bytes(damaged)
        try:
            use(copy)
        except NybbleError:
            refused += 1
        with pytest.raises(FormatError), PackedFile(copy) as file:
            file.check_sum()
    assert refused > 0 if region != "weights" else refused < rounds


def test_a_file_from_the_future(copy):
    write_at(copy, place_of(copy, "nybble.version")[1], struct.pack("<I", 2))
    with pytest.raises(FormatError, match=r"version 2, and this nybble reads version 1: update"):
        nybble.load(copy)


def test_a_file_from_the_past(copy):
    write_at(copy, place_of(copy, "nybble.version")[1], struct.pack("<I", 0))
    with pytest.raises(FormatError, match=r"version 0.*version 1: pack it again"):
        nybble.load(copy)


def test_a_layout_of_another_version(copy):
    at = copy.read_bytes().index(b"tiles 1")
    write_at(copy, at, b"tiles 2")
    with pytest.raises(FormatError, match="is packed as 'tiles 2.* and this nybble reads 'tiles 1"):
        nybble.load(copy)


def test_an_ordinary_model_called_nyb(model, tmp_path):
    path = tmp_path / "model.nyb"
    path.write_bytes(model.read_bytes())
    with pytest.raises(FormatError, match=r"is a GGUF file as others are.*nybble pack.*\.gguf"):
        nybble.load(path)


def test_a_packed_model_called_gguf(whole, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(whole.read_bytes())
    with pytest.raises(FormatError, match=r"model.gguf is a packed model.*name end in \.nyb") as e:
        nybble.load(path)
    assert str(e.value).count(str(path)) == 1


def test_a_list_of_half_a_terabyte_is_not_walked(tmp_path):
    """Of a file that takes no room. (A GGUF file's head has the same limit.)"""
    path, n = tmp_path / "large.nyb", 1 << 39
    listed = gb.string("a.list") + gb.u32(gb.ARRAY) + gb.u32(gb.BOOL) + gb.u64(n)
    if hasattr(os, "memfd_create"):  # not every file system has files of that size
        number = os.memfd_create("large")
        path.symlink_to(f"/proc/{os.getpid()}/fd/{number}")
    else:
        number = os.open(path, os.O_RDWR | os.O_CREAT)
    with open(number, "wb") as file:
        file.write(gb.gguf([listed]))
        file.truncate(n + 1000)
        started = time.process_time()
        with pytest.raises(FormatError, match=r"more of the file has to be read .*damaged"):
            PackedFile(path)
        assert time.process_time() - started < 5  # of the whole: minutes


def test_what_is_no_model_at_all(tmp_path):
    path = tmp_path / "page.nyb"
    path.write_bytes(b"<html>" + bytes(100))
    with pytest.raises(
        FormatError, match="page.nyb does not begin as a packed model does: copy it"
    ):
        nybble.load(path)


def test_where_it_is_damaged_is_told_without_the_number_there(copy):
    write_at(copy, 8, b"\xff" * 6)
    with pytest.raises(FormatError) as caught:
        nybble.load(copy)
    assert str(caught.value) == (
        f"{copy}: the file is too short for so many tensors (at byte 8 of"
        f" {copy.stat().st_size:,}); the packed file is damaged: copy it again, or pack the model"
        " again (nybble pack)"
    )


def test_tables_of_other_merges(model, copy, tmp_path):
    """They are sound, and lead to tokens of this vocabulary: which they are, the sum tells."""
    with GgufFile(model) as file:
        merges = list(file.metadata["tokenizer.ggml.merges"])
    other = {"tokenizer.ggml.merges": [*merges[1::-1], *merges[2:]]}
    with PackedFile(pack(edited(model, tmp_path / "other.gguf", other))) as file:
        swapped = bytes(file.tables)
    with GgufFile(copy) as file:
        tables = file.tensors[TABLES]
    assert len(swapped) == tables.nbytes
    write_at(copy, tables.offset, swapped)
    use(copy)
    with PackedFile(copy) as file, pytest.raises(FormatError, match="sha256"):
        file.check_sum()
    assert differences(copy, model) == [TABLES]


def test_tables_of_fewer_tokens(copy, tmp_path):
    with GgufFile(copy) as file:
        tables = file.tensors[TABLES]
        n = file.metadata["tokenizer.ggml.tokens"]
    at = tables.offset + copy.read_bytes()[tables.offset :].index(struct.pack("<I", len(n)))
    write_at(copy, at, struct.pack("<I", len(n) - 1))
    with pytest.raises(FormatError, match=r"copy\.nyb: bad vocabulary: the tables are of another"):
        nybble.load(copy)


def test_tensors_that_lie_in_another_order(copy):
    """Two of one shape have changed places in the list, whose offsets are sound."""
    content = copy.read_bytes()
    places = {}
    for name in (b"blk.0.ffn_gate.weight", b"blk.0.ffn_up.weight"):
        at = content.index(name) + len(name) + 4 + 16 + 4  # behind dimensions and format
        places[at] = content[at : at + 8]
    for at, offset in zip(places, [*places.values()][::-1], strict=True):
        write_at(copy, at, offset)
    with pytest.raises(FormatError, match=r"blk\.0\.ffn_\w+\.weight lies at \d+, and"):
        nybble.load(copy)


def test_a_file_that_is_handed_on_does_not_say_where_it_was_made(model, whole):
    assert os.fsencode(model.parent) not in whole.read_bytes()


def test_a_source_that_cannot_be_a_path(copy):
    at, _, _ = place_of(copy, "nybble.source.path")
    begin = copy.read_bytes().index(b"nybble.source.path") + len("nybble.source.path") + 4 + 8
    assert begin > at
    write_at(copy, begin, b"\x00")
    with PackedFile(copy) as file:
        assert "\x00" in file.source.path
        assert not file.source.is_at(file.source.path)


def test_a_file_without_its_sum_is_damaged(tmp_path):
    tiny_model(tmp_path / "tiny.gguf")
    path = pack(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes().replace(b"nybble.sha256", b"nybble.sha255"))
    with PackedFile(path) as file, pytest.raises(FormatError, match=r"nybble\.sha256 is None"):
        file.check_sum()
