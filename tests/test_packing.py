"""Copies in the cache: when they are made, used, made anew and given up, and by whom."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import nybble
from nybble import disk, hub, packing, planning
from nybble.cli import main
from nybble.errors import BudgetError, FormatError, UsageError
from nybble.formats.packed import PackedFile
from tests.model.models import edited
from tools.tiny_model import tiny_model

IDS = [5, 6, 7]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of copies, of an empty home; models of any size are worth one."""
    monkeypatch.setenv("NYBBLE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NYBBLE_PACK", raising=False)
    monkeypatch.setattr(packing, "WORTH_A_COPY", 0)
    return tmp_path / "home" / "cache" / "packed"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tiny.gguf"
    tiny_model(path)
    return path


def load(path):
    """(whether the weights are mapped, whether they were packed, the notice, logits)"""
    packed = []
    model = nybble.load(path, on_progress=lambda *_: packed.append(_))
    return model.weights.is_mapped, bool(packed), model.notice, bytes(model.logits(IDS))


def in_memory(path, monkeypatch):
    """The logits of the model packed in memory."""
    with monkeypatch.context() as patch:
        patch.setenv("NYBBLE_PACK", "0")
        is_mapped, was_packed, notice, logits = load(path)
    assert (is_mapped, was_packed, notice) == (False, True, "")
    return logits


def copies(cache):
    return sorted(os.listdir(cache))


def test_the_first_load_packs_and_later_ones_map(path, cache, monkeypatch):
    logits = in_memory(path, monkeypatch)
    assert not cache.exists()
    assert load(path) == (True, True, "", logits)
    assert load(path) == (True, False, "", logits)
    (name,) = copies(cache)
    assert re.fullmatch(r"tiny-[0-9a-f]{8}\.nyb", name)


def test_what_is_small_is_packed_in_memory(path, cache, monkeypatch):
    monkeypatch.setattr(packing, "WORTH_A_COPY", 16 << 20)
    assert load(path)[:3] == (False, True, "")
    assert not cache.exists()


@pytest.mark.parametrize(("wish", "is_mapped"), [("auto", True), ("1", True), ("0", False)])
def test_wishes(path, monkeypatch, wish, is_mapped):
    monkeypatch.setenv("NYBBLE_PACK", wish)
    assert nybble.load(path).weights.is_mapped == is_mapped


def test_other_wishes_are_refused(path, monkeypatch):
    monkeypatch.setenv("NYBBLE_PACK", "always")
    with pytest.raises(UsageError, match=r"NYBBLE_PACK is 'always'; it may be auto or 0"):
        nybble.load(path)


def test_a_file_is_one_by_any_path(path, cache, tmp_path, monkeypatch):
    load(path)
    link = tmp_path / "elsewhere.gguf"
    link.symlink_to(path)
    monkeypatch.chdir(tmp_path)
    for name in ("tiny.gguf", "./tiny.gguf", link, f"{tmp_path}/../{tmp_path.name}/tiny.gguf"):
        assert load(name)[:2] == (True, False), name
    assert len(copies(cache)) == 1


def test_files_of_one_name_have_their_own_copies(path, cache, tmp_path):
    other = tmp_path / "folder" / path.name
    other.parent.mkdir()
    tiny_model(other, seed=1)
    logits = [load(path)[3], load(other)[3]]
    assert [load(path), load(other)] == [(True, False, "", one) for one in logits]
    assert logits[0] != logits[1]
    assert len(copies(cache)) == 2


def test_a_long_name(tmp_path, cache):
    path = tmp_path / f"{'漢' * 80}.gguf"  # three bytes each
    tiny_model(path)
    assert load(path)[2] == ""
    assert load(path)[:2] == (True, False)


@pytest.mark.parametrize("is_replaced", [True, False], ids=["replaced", "written again"])
def test_a_file_that_has_changed_is_packed_anew(path, cache, tmp_path, monkeypatch, is_replaced):
    before = load(path)[3]
    other = tmp_path / "other.gguf"
    tiny_model(other, seed=1)
    assert other.stat().st_size == path.stat().st_size
    if is_replaced:
        other.replace(path)
    else:
        path.write_bytes(other.read_bytes())
    logits = in_memory(path, monkeypatch)
    assert logits != before
    assert load(path) == (True, True, "", logits)
    assert load(path) == (True, False, "", logits)
    assert len(copies(cache)) == 1


def with_the_time_of(path, other):
    """Gives the file at `other` the name of `path`, whose time it takes, as `cp -p` may have it."""
    was = path.stat()
    os.utime(other, ns=(was.st_atime_ns, was.st_mtime_ns))
    other.replace(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (was.st_size, was.st_mtime_ns)


def test_other_weights_of_the_same_size_and_time_are_packed_anew(
    path, cache, tmp_path, monkeypatch
):
    before = load(path)[3]
    tiny_model(tmp_path / "other.gguf", seed=1)
    with_the_time_of(path, tmp_path / "other.gguf")
    logits = in_memory(path, monkeypatch)
    assert logits != before
    assert load(path) == (True, True, "", logits)
    assert load(path) == (True, False, "", logits)
    assert len(copies(cache)) == 1


def test_a_file_that_was_moved_here_and_there_keeps_its_copy(path, cache, tmp_path, monkeypatch):
    """Its ctime is another then; the sample of its bytes is the same."""
    logits = load(path)[3]
    ctime = path.stat().st_ctime_ns
    (tmp_path / "restored.gguf").write_bytes(path.read_bytes())
    with_the_time_of(path, tmp_path / "restored.gguf")
    assert path.stat().st_ctime_ns != ctime
    assert load(path) == (True, False, "", logits)
    path.chmod(0o600)
    assert load(path) == (True, False, "", logits)


def test_a_file_that_nobody_has_touched_is_not_read(path, cache, tmp_path, monkeypatch):
    os.utime(path, ns=(1, 1))
    load(path)
    monkeypatch.setattr("nybble.formats.packed.sampled", lambda *_: pytest.fail("it was read"))
    assert load(path)[:2] == (True, False)


def test_a_copy_without_a_stamp_is_made_anew(path, cache, tmp_path):
    """One that an earlier nybble has made."""
    logits = load(path)[3]
    (copy,) = cache.iterdir()
    whole = copy.read_bytes()
    copy.write_bytes(whole.replace(b"nybble.source.sample", b"nybble.source.simple"))
    assert load(path) == (True, True, "", logits)
    assert copy.read_bytes() == whole


def cut(content):
    return content[: len(content) // 2]


def of_another_version(content):
    at = content.index(b"nybble.version") + len("nybble.version") + 4
    return content[:at] + b"\x63" + content[at + 1 :]


def of_another_layout(content):
    return content.replace(b"tiles 1", b"tiles 9")


def of_nothing(content):
    return b"nothing of the kind"


@pytest.mark.parametrize("damage", [cut, of_another_version, of_another_layout, of_nothing])
def test_a_damaged_copy_is_made_anew(path, cache, damage):
    logits = load(path)[3]
    (name,) = copies(cache)
    whole = (cache / name).read_bytes()
    damaged = damage(whole)
    assert damaged != whole
    (cache / name).write_bytes(damaged)
    assert load(path) == (True, True, "", logits)
    assert (cache / name).read_bytes() == whole


def test_a_copy_whose_tables_are_damaged_is_made_anew(path, cache):
    logits = load(path)[3]
    (copy,) = cache.iterdir()
    whole = copy.read_bytes()
    with PackedFile(copy) as file:
        at = file._file.tensors["nybble.tokenizer"].offset
    copy.write_bytes(whole[:at] + b"\xff" * 64 + whole[at + 64 :])
    assert load(path) == (True, True, "", logits)
    assert copy.read_bytes() == whole


def test_the_cache_may_be_deleted_at_any_time(path, cache):
    model = nybble.load(path)
    before = bytes(model.logits(IDS))
    for copy in cache.iterdir():
        copy.unlink()
    cache.rmdir()
    model.forget()
    assert bytes(model.logits(IDS)) == before
    assert load(path)[:2] == (True, True)


def test_copies_of_what_is_no_more_are_removed(path, cache, tmp_path):
    gone, changed, kept = (tmp_path / f"{name}.gguf" for name in ("gone", "changed", "kept"))
    for one in (gone, changed, kept):
        tiny_model(one, layers=1)
        load(one)
    gone.unlink()
    os.utime(changed, ns=(1, 1))
    (cache / "old-00000000.nyb").write_bytes(b"GGUF, but not one")
    (cache / "left-00000000.nyb.part").write_bytes(b"by a process that was killed")
    (cache / "notes.txt").write_text("of somebody else")
    with (cache / "busy-00000000.nyb.part").open("wb") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        load(path)
    assert [re.sub("-[0-9a-f]{8}", "", name) for name in copies(cache)] == [
        "busy.nyb.part",
        "kept.nyb",
        "notes.txt",
        "tiny.nyb",
    ]


# -- where no copy can be kept


def test_a_full_disk(path, cache, monkeypatch):
    logits = in_memory(path, monkeypatch)
    monkeypatch.setattr("nybble.disk.free_bytes", lambda folder: packing._SLACK)
    is_mapped, was_packed, notice, got = load(path)
    assert (is_mapped, was_packed, got) == (False, True, logits)
    assert notice == (
        "tiny.gguf runs from memory (0 MB) and is packed at each start: no copy can be kept in "
        f"{cache.parent} (the disk is too full)"
    )
    assert copies(cache) == []


@pytest.mark.parametrize("is_begun", [False, True])
def test_what_is_in_memory_after_all_is_planned_as_that(path, cache, monkeypatch, is_begun):
    """With what packing leaves, where it was begun; and it is refused where that does not fit,
    though a copy would have."""
    loaded = {"hashlib"} if is_begun else set()
    monkeypatch.setattr(planning, "is_loaded", loaded.__contains__)
    monkeypatch.setenv("NYBBLE_PACK", "0")
    lines = nybble.load(path).plan.lines[1:]
    monkeypatch.delenv("NYBBLE_PACK")
    monkeypatch.setattr("nybble.disk.free_bytes", lambda folder: packing._SLACK)
    before = planning.held_bytes()
    model = nybble.load(path)
    left = planning.Line("what packing the file leaves", planning.PACKING)
    assert model.plan.lines[1:] == [*lines[:2], *[left] * is_begun, *lines[2:]]
    assert planning.held_bytes() == before + model.plan.total_bytes - model.plan.lines[0].nbytes

    whole, plan = [], planning.plan

    def less_for_memory(reading, *, budget, **how):
        if not reading.is_to_be_mapped:
            budget = budget._replace(nbytes=1 << 20)
        whole.append(plan(reading, budget=budget, **how))
        return whole[-1]

    monkeypatch.setattr(planning, "plan", less_for_memory)
    with pytest.raises(BudgetError, match=r"may take 1.0 MiB .*; .*the disk is too full"):
        nybble.load(path)
    (mapped,) = whole
    assert mapped.lines[1].what == "packed file, mapped"


def test_a_cache_that_cannot_be_written(path, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("no folder")
    is_mapped, was_packed, notice, _ = load(path)
    assert (is_mapped, was_packed) == (False, True)
    assert "no copy can be kept in" in notice
    assert notice.endswith("(Not a directory)")


@pytest.mark.parametrize(
    ("nbytes", "why"), [(packing._SLACK, "the disk is too full"), (None, "Not a directory")]
)
def test_plan_foresees_that_no_copy_can_be_kept(path, tmp_path, monkeypatch, capsys, nbytes, why):
    """The plan is that of a load here, and nothing is written to find out."""
    if nbytes is None:
        (tmp_path / "home").write_text("no folder")
    else:
        monkeypatch.setattr("nybble.disk.free_bytes", lambda folder: nbytes)
    assert main(["plan", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert main(["plan", str(path)]) == 0
    assert said["notice"] in " ".join(capsys.readouterr().out.split())
    assert said["notice"].endswith(f"({why})")
    assert (tmp_path / "home").exists() == (nbytes is None)
    model = nybble.load(path)
    assert model.notice == said["notice"]
    assert [line["what"] for line in said["lines"]] == [line.what for line in model.plan.lines]


def test_a_folder_that_may_not_be_written_has_no_room(tmp_path, monkeypatch):
    """Whether it is there yet or not."""
    disk.check_room(str(tmp_path / "a" / "b"), 1)
    monkeypatch.setattr(os, "access", lambda folder, mode: folder != str(tmp_path))
    with pytest.raises(PermissionError):
        disk.check_room(str(tmp_path / "a" / "b"), 1)


def test_a_user_without_a_home(path, monkeypatch):
    for name in ("NYBBLE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    is_mapped, _, notice, _ = load(path)
    assert not is_mapped
    assert notice.endswith(
        "no copy can be kept (this user has no home folder; set NYBBLE_HOME to a folder for models)"
    )


def test_where_the_cache_is(monkeypatch):
    assert hub.cache_folder() == f"{os.environ['NYBBLE_HOME']}/cache"
    monkeypatch.delenv("NYBBLE_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/tmp/cache")
    assert hub.cache_folder() == "/var/tmp/cache/nybble"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert hub.cache_folder() == os.path.expanduser("~/.cache/nybble")


def test_a_model_that_cannot_be_packed_is_refused_as_in_memory(path, cache, monkeypatch):
    with open(path, "r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(b"\xff" * 64)  # the last tensor is a norm
    said = []
    for wish in ("auto", "0"):
        monkeypatch.setenv("NYBBLE_PACK", wish)
        with pytest.raises(FormatError, match="is not finite") as caught:
            nybble.load(path)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert copies(cache) == []


# -- processes


LOAD = """
import sys, nybble
from nybble import packing
packing.WORTH_A_COPY = 0
packed = []
model = nybble.load(sys.argv[1], context=64, threads=1, on_progress=lambda *_: packed.append(_))
logits = bytes(model.logits([5, 6, 7])).hex()
print(bool(packed), model.weights.is_mapped, logits[:64], model.notice)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model whose packing takes a moment, most of it one matrix of 27 MB."""
    path = tmp_path_factory.mktemp("large") / "large.gguf"
    tiny_model(path, layers=1, dim=512, heads=8, hidden=1024, vocab=50_000)
    return path


def start(program, *arguments):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_that_load_at_once_pack_once(large, cache):
    processes = [start(LOAD, large) for _ in range(4)]
    said = [process.communicate(timeout=120)[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert sorted(packed for packed, *_ in said) == ["False", "False", "False", "True"]
    assert {tuple(rest) for _, *rest in said} == {("True", said[0][2])}
    assert len(copies(cache)) == 1


def test_a_kill_at_any_moment_leaves_nothing_half(large, cache):
    whole = start(LOAD, large)
    began = time.monotonic()
    logits = whole.communicate(timeout=120)[0].split()[2]
    took = time.monotonic() - began
    (copy,) = cache.iterdir()
    expected = copy.read_bytes()
    rng, was_there = random.Random(1), 0
    for _ in range(20):
        copy.unlink(missing_ok=True)
        process = start(LOAD, large)
        time.sleep(rng.uniform(0.1, 1) * took)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert {path.name for path in cache.iterdir()} <= {copy.name, f"{copy.name}.part"}
        if copy.exists():
            was_there += 1
            assert copy.read_bytes() == expected
    copy.unlink(missing_ok=True)
    packed, is_mapped, got = start(LOAD, large).communicate(timeout=120)[0].split()
    assert (packed, is_mapped, got) == ("True", "True", logits)
    assert copies(cache) == [copy.name], "what was left is gone"
    assert copy.read_bytes() == expected
    assert was_there < 20, "none was killed before it was done"


def test_what_was_left_is_not_removed_in_anothers_place(cache, monkeypatch):
    """A packer is done, and another begins, between the opening and the removal of the part."""
    cache.mkdir(parents=True)
    copy, part = cache / "one.nyb", cache / "one.nyb.part"
    part.write_bytes(b"first")
    opened = os.open

    def open_late(path, *arguments):
        descriptor = opened(path, *arguments)
        part.rename(copy)
        part.write_bytes(b"second")
        return descriptor

    monkeypatch.setattr(os, "open", open_late)
    disk.remove_left(str(part))
    monkeypatch.setattr(os, "open", opened)
    assert (copy.read_bytes(), part.read_bytes()) == (b"first", b"second")
    disk.remove_left(str(part))
    assert copies(cache) == ["one.nyb"]


LIMITED = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
{LOAD}
"""


def test_a_file_that_may_not_grow(large, cache):
    """As on a file system with small files, or a quota: it is found out while writing."""
    said = start(LIMITED, large).communicate(timeout=120)[0]
    assert said.startswith("True False ")
    assert "no copy can be kept in" in said
    assert said.endswith("(File too large)\n")
    assert copies(cache) == []


PEAK = """
import sys
from nybble import packing

def status(key):
    text = open("/proc/self/status").read()
    return 1024 * int(text.split(key + ":")[1].split()[0])

reading = packing.Reading(packing.open_file(sys.argv[1]))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = status("VmRSS")
packing.make_copy(reading)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resets VmHWM")
def test_packing_takes_little_memory(large, cache):
    """Whatever the size of the model: pieces, and the head with the tokenizer's tables."""
    grown = int(start(PEAK, large).communicate(timeout=120)[0])
    assert large.stat().st_size > 29e6
    assert grown < 16e6


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resets VmHWM")
def test_packing_takes_no_copy_of_the_metadata(path, tmp_path):
    long = edited(path, tmp_path / "long.gguf", {"a.text": "x" * 16_000_000})
    grown = int(start(PEAK, long).communicate(timeout=120)[0])
    assert grown < 12e6
