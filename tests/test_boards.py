"""Boards: what their files may say, and plans for them, which are the same on every machine."""

import json
import os
import re
import shutil
import tomllib
from pathlib import Path

import pytest

import nybble
from nybble import board, hub, machine, packing, planning
from nybble.cli import main
from nybble.errors import FormatError, UsageError
from tools.tiny_model import tiny_model

MIB = 1 << 20
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("id", board.boards())
def test_boards_are_sound(id):
    found = board.load(id)
    assert found.id == id
    assert found.clusters[0].cores >= 1


GOOD = {
    "name": "X",
    "isa": "aarch64",
    "clusters": [{"cpu": "cortex-a53", "cores": 4, "ghz": 1.0}],
    "memory_mib": [512],
    "page_size": 4096,
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"isa": "z80"}, "isa"),
        ({"wings": 2}, "wings is unknown"),
        ({"read_gb_s": 3.0}, "come together"),
        ({"read_gb_s": -1.0, "source": "x"}, "out of range"),
        ({"clusters": []}, "clusters is to be a list, not empty"),
        ({"clusters": [{"cpu": "x"}]}, "a cluster has"),
        ({"clusters": [{"cpu": "x", "cores": 0, "ghz": 1.0}]}, "out of range"),
        ({"memory_mib": [1024, 512]}, "in order"),
        ({"page_size": 5000}, "page_size"),
        ({"page_size": 4096.0}, "page_size"),
        ({"qemu_cpu": "cortex-a53"}, "qemu_cpu and expect_level come together"),
        ({"expect_level": "neon"}, "qemu_cpu and expect_level come together"),
        ({"qemu_cpu": 53, "expect_level": "neon"}, "qemu_cpu is to be a text"),
        ({"qemu_cpu": "max", "expect_level": 1}, "expect_level is to be a text"),
        ({"qemu_cpu": "max", "expect_level": "avx2"}, "expect_level is none of its isa's"),
        ({"isa": ["aarch64"]}, "isa is to be a text"),
        ({"name": 7}, "name is to be a text"),
        ({"read_gb_s": 3.0, "source": 7}, "source is to be a text"),
        ({"read_gb_s": "3", "source": "x"}, "read_gb_s out of range"),
        ({"read_gb_s": True, "source": "x"}, "read_gb_s out of range"),
        ({"clusters": 5}, "clusters is to be a list"),
        ({"clusters": [5]}, "a cluster has"),
        ({"clusters": [{"cpu": 53, "cores": 1, "ghz": 1.0}]}, "a cluster's cpu is to be a text"),
        ({"clusters": [{"cpu": "x", "cores": "4", "ghz": 1.0}]}, "cores out of range"),
        ({"clusters": [{"cpu": "x", "cores": 1.5, "ghz": 1.0}]}, "cores out of range"),
        ({"clusters": [{"cpu": "x", "cores": True, "ghz": 1.0}]}, "cores out of range"),
        ({"clusters": [{"cpu": "x", "cores": 1, "ghz": "1"}]}, "ghz out of range"),
        ({"clusters": [{"cpu": "x", "cores": 1, "ghz": float("nan")}]}, "ghz out of range"),
        ({"memory_mib": 512}, "memory_mib is to be a list"),
        ({"memory_mib": []}, "memory_mib is to be a list"),
        ({"memory_mib": ["a"]}, "memory_mib is to be of whole numbers"),
        ({"memory_mib": [512.5]}, "memory_mib is to be of whole numbers"),
        ({"linux_mib": 416}, "memory_source comes with linux_mib or idle_mib"),
        ({"memory_source": "x"}, "memory_source comes with linux_mib or idle_mib"),
        ({"linux_mib": 416, "memory_source": 7}, "memory_source is to be a text"),
        ({"linux_mib": 416.5, "memory_source": "x"}, "linux_mib is to be a whole number"),
        ({"linux_mib": 512, "memory_source": "x"}, "linux_mib is out of range"),
        ({"idle_mib": True, "memory_source": "x"}, "idle_mib is to be a whole number"),
        ({"idle_mib": 0, "memory_source": "x"}, "idle_mib is out of range"),
    ],
)
def test_bad_boards(change, says):
    board.parsed("good", GOOD)
    with pytest.raises(FormatError, match=says):
        board.parsed("bad", {**GOOD, **change})
    for key in GOOD:
        with pytest.raises(FormatError, match=f"{key} is missing"):
            board.parsed("bad", {k: v for k, v in GOOD.items() if k != key})


def test_panels_are_those_of_the_kernels():
    found = {}
    for rows in sorted(ROOT.glob("kernels_*/kernels.def")):
        gemm = r"^NYB_QUANTIZED_ROWS\(gemm, (\w+), .*, (\w+)\)$"
        found |= re.findall(gemm, rows.read_text(), re.MULTILINE)
    header = (ROOT / "kernels_ref/nyb_kernels.h").read_text()
    found["ref"] = re.search(r"NYB_REF_PANEL_BYTES = (\d+)", header)[1]
    assert {level: int(nbytes) for level, nbytes in found.items()} == board.PANEL_BYTES
    levels = set(tomllib.loads((ROOT / "targets/levels.toml").read_text()))
    assert {level for of_isa in board.LEVELS.values() for level in of_isa} == {"ref", *levels}


def test_a_board_has_room_for_the_panels_of_all_levels_it_may_have():
    levels = {"qemu_cpu": "max"}
    assert board.parsed("good", GOOD).panel_bytes == 3520
    assert board.parsed("good", GOOD | levels | {"expect_level": "dotprod"}).panel_bytes == 576
    assert board.parsed("good", GOOD | levels | {"expect_level": "i8mm"}).panel_bytes == 3520
    assert board.parsed("good", GOOD | {"isa": "riscv64"}).panel_bytes == 576


@pytest.mark.parametrize("id", board.boards())
def test_a_board_has_no_more_to_give_than_load_would_find_there(id, monkeypatch):
    """MemAvailable of an idle system, less what is left to others."""
    there = board.load(id)
    budget = planning.on_board(there, None)
    linux = there.linux_mib or there.memory_mib[0] * 13 // 16
    idle = there.idle_mib or there.memory_mib[0] // 4
    monkeypatch.delenv("NYBBLE_MEMORY", raising=False)
    monkeypatch.setattr(machine, "_lines", lambda path: {
        "/proc/meminfo": [f"MemTotal: {linux << 10} kB", f"MemAvailable: {linux - idle << 10} kB"],
    }.get(path, []))  # fmt: skip
    assert budget.nbytes == planning.budget_of(None, 0).nbytes > 64 * MIB
    assert ("Linux sees" in budget.who) == bool(there.linux_mib)
    assert ("an idle system takes" in budget.who) == bool(there.idle_mib)


def test_an_unknown_board():
    with pytest.raises(UsageError, match="no board 'toaster'; known: android-a76"):
        board.load("toaster")


@pytest.fixture
def tiny(tmp_path):
    tiny_model(tmp_path / "tiny.gguf")
    return str(tmp_path / "tiny.gguf")


@pytest.fixture
def copied(tiny, tmp_path, monkeypatch):
    """A model that has a packed copy in the cache; its path."""
    monkeypatch.setenv("NYBBLE_HOME", str(tmp_path))
    monkeypatch.setattr(packing, "WORTH_A_COPY", 0)
    nybble.load(tiny, threads=1)
    return tiny


def on_board(id, path, capsys, *flags):
    assert main(["plan", path, "--board", id, "--json", *flags]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_plan_for_a_board_is_the_same_on_every_machine(copied, capsys, monkeypatch):
    plan = on_board("rpi5", copied, capsys)
    assert "what packing the file leaves" in lines_of(plan)
    monkeypatch.setenv("NYBBLE_ISA", "ref")
    assert on_board("rpi5", copied, capsys) == plan
    os.unlink(hub.copy_path(copied))
    assert on_board("rpi5", copied, capsys) == plan
    wide = on_board("android-i8mm", copied, capsys, "--threads", "4")
    work = "working memory for 128 tokens at once"
    assert lines_of(wide)[work] > lines_of(plan)[work]  # its panels are larger


def test_a_packed_file_is_planned_for_a_board_as_it_is(copied, tmp_path, capsys):
    path = str(tmp_path / "tiny.nyb")
    shutil.copy(hub.copy_path(copied), path)
    assert lines_of(on_board("rpi5", path, capsys)).keys() == {
        "Python, and what it holds already",
        "packed file, mapped",
        "templates and replies",
        "KV cache of 512 tokens, float16",
        "working memory for 128 tokens at once",
    }


def test_a_plan_is_in_whole_pages_of_the_board(copied, capsys):
    for id, page in (("rpi4", 4096), ("rpi5", 16384)):
        lines = lines_of(on_board(id, copied, capsys))
        assert {nbytes % page for nbytes in lines.values()} == {0}, lines


def lines_of(plan):
    return {line["what"]: line["nbytes"] for line in plan["lines"]}


def test_plan_json_on_a_board(tiny, capsys):
    assert main(["plan", tiny, "--board", "rpi5", "--sequences", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["total_bytes"] == sum(line["nbytes"] for line in said["lines"])
    assert (said["board"], said["sequences"], said["fits"]) == ("rpi5", 2, True)
    assert said["decode_tok_s"] == round(11.8e9 / said["read_bytes"], 1)
    assert main(["plan", tiny, "--board", "rpi3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decode_tok_s"] is None
