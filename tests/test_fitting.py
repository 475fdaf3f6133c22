"""Which known models fit a board: what is estimated comes near to what is planned."""

from __future__ import annotations

import json

import pytest

from nybble import board as boards
from nybble import fitting, hub
from nybble.cli import main
from nybble.hub.known import KNOWN

SHARE = 0.05  # by which an estimate may miss what is planned


@pytest.mark.parametrize("name", ["smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b"])
def test_an_estimate_is_near_the_plan(name, request, monkeypatch):
    fixtures = {"s": "smollm2_path", "g": "gemma3_path", "q": "qwen_coder_path"}
    request.getfixturevalue(fixtures[name[0]])
    rpi5 = boards.load("rpi5")
    planned = fitting.fit(KNOWN[name], rpi5)
    monkeypatch.setattr(hub, "is_pulled", lambda name: False)
    estimated = fitting.fit(KNOWN[name], rpi5)
    assert (planned.is_planned, estimated.is_planned) == (True, False)
    assert abs(estimated.total_bytes / planned.total_bytes - 1) < SHARE
    assert planned.decode_tok_s is not None
    assert estimated.decode_tok_s is not None
    assert abs(estimated.decode_tok_s / planned.decode_tok_s - 1) < SHARE


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A home without models."""
    monkeypatch.setenv("NYBBLE_HOME", str(tmp_path))


def test_ls_says_what_fits(empty, capsys):
    assert main(["ls", "--known", "--board", "rpi4", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rpi4 = boards.load("rpi4")
    assert [row["name"] for row in rows] == list(KNOWN)
    for row in rows:
        assert row["board"] == "rpi4"
        assert not row["is_planned"]
        assert row["fits"] == (row["total_bytes"] < (rpi4.memory_mib[0] - 64) << 20)
        # a token reads the file, but for an embedding table, and the cache
        most = rpi4.read_gb_s * 1e9 / (0.8 * row["nbytes"])
        assert 0.4 * most < row["decode_tok_s"] < most
    assert {row["fits"] for row in rows} == {True, False}

    assert main(["ls", "--known", "--board", "rpi4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, row in zip(lines, rows, strict=True):
        told = f"fits, at most about {row['decode_tok_s']:,.0f} tokens/s"
        assert line.endswith(told if row["fits"] else "does not fit")


def test_a_damaged_file_is_told_and_the_model_estimated(empty, tmp_path, capsys):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "smollm2-135m.nyb").write_bytes(b"GGUF" + bytes(100))
    assert main(["ls", "--known", "--board", "rpi4", "--json"]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["name"] for row in rows] == list(KNOWN)
    (damaged,) = [row for row in rows if row["here"]]
    assert (damaged["name"], damaged["is_planned"]) == ("smollm2-135m", False)
    assert damaged["total_bytes"] > KNOWN["smollm2-135m"].nbytes
    assert err.startswith("smollm2-135m is estimated, its file cannot be read: ")
    assert err.count("\n") == 1


def test_a_board_whose_memory_nobody_measured(empty, capsys):
    assert main(["ls", "--known", "--board", "android-i8mm", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["decode_tok_s"] is None
    assert main(["ls", "--known", "--board", "android-i8mm"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("fits, how fast is unknown")


def test_what_is_no_board_is_refused(empty, capsys):
    assert main(["ls", "--known", "--board", "pdp-11"]) == 2
    assert "no board 'pdp-11'" in capsys.readouterr().err
    assert main(["ls", "--board", "rpi4"]) == 2
    assert "nybble ls --known --board BOARD" in capsys.readouterr().err
