"""nybble ls, pull and rm."""

import fcntl
import hashlib
import json
import os
import select
import struct
import termios
from pathlib import Path

import pytest

from nybble import hub
from nybble.cli import main
from nybble.cli.terminal import harmless, megabytes, printable
from nybble.errors import DownloadError
from nybble.hub.known import KNOWN, KnownModel


def put(home, name, nbytes):
    (home / "models").mkdir(parents=True, exist_ok=True)
    path = home / "models" / f"{name}.gguf"
    with open(path, "wb") as file:
        file.truncate(nbytes)
    return str(path)


def test_ls_lists_what_is_there(home, capsys):
    assert main(["ls"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "no models here; nybble pull smollm2-135m gets one (98 MB),"
        " nybble ls --known lists all that can be pulled\n"
    )
    assert main(["ls", "--json"]) == 0
    assert capsys.readouterr() == ("", "")
    first = put(home, "a-model", 1_300_000_000)
    second = put(home, "b", 999)
    (home / "models" / ".pull-x").mkdir()
    (home / "models" / "notes.txt").write_text("")
    assert main(["ls"]) == 0
    assert capsys.readouterr().out == f"a-model  1.3 GB  {first}\nb         999 B  {second}\n"
    assert main(["ls", "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"name": "a-model", "nbytes": 1_300_000_000, "packed_nbytes": 0, "path": first},
        {"name": "b", "nbytes": 999, "packed_nbytes": 0, "path": second},
    ]


def test_ls_escapes_names(home, capsys):
    put(home, "evil\x1b[2J\u202e", 1)
    assert main(["ls"]) == 0
    out = capsys.readouterr().out
    assert "evil\\x1b[2J\\u202e" in out
    assert "\x1b" not in out


def test_ls_known_says_what_is_here(home, capsys):
    assert main(["ls", "--known", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == list(KNOWN)
    assert not any(row["here"] for row in rows)
    put(home, "smollm2-135m", KNOWN["smollm2-135m"].nbytes)
    assert main(["ls", "--known"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:5] == ["smollm2-135m", "98", "MB", "here", "SmolLM2"]
    assert len(lines) == len(KNOWN) >= 13
    assert len({line.index(" MB") for line in lines if " MB" in line}) == 1  # a table
    for line, row in zip(lines, KNOWN.values(), strict=True):
        assert ("about" in line.partition("B")[0]) == (row.sha256 is None)
        assert ("not tried" in line) == (not row.tested)
        tried = "" if row.tested else ", not tried"
        assert line.endswith(f"({row.licence}{tried}); {row.origin}")


class Pulled:
    name = "smollm2-135m"
    path = "/models/x"
    nbytes = 98_362_432
    sha256 = "5" * 64
    is_new = is_verified = True
    was_damaged = False


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, ["smollm2-135m: 98 MB, sha256 verified: /models/x"]),
        ({"is_new": False}, ["smollm2-135m is already there, sha256 verified: /models/x"]),
        (
            {"is_verified": False},
            [f"smollm2-135m: 98 MB, sha256 {'5' * 64}, with nothing to compare it with: /models/x"],
        ),
        (
            {"was_damaged": True},
            [
                "smollm2-135m was damaged: its sum was wrong, and it was fetched again",
                "smollm2-135m: 98 MB, sha256 verified: /models/x",
            ],
        ),
    ],
)
def test_pull_says_what_it_did(home, capsys, monkeypatch, changes, lines):
    def pull(name, on_progress, on_wait, on_check):
        on_wait()
        on_check(1, 2)
        on_progress(1, 2)
        return type("", (Pulled,), changes)

    monkeypatch.setattr(hub, "pull", pull)
    assert main(["pull", "smollm2-135m"]) == 0
    waits = "another pull is running; waiting for it to end"
    assert capsys.readouterr() == ("", "\n".join([waits, *lines, ""]))


def test_pull_that_is_stopped_says_what_is_kept(home, capsys, monkeypatch):
    def pull(name, on_progress, on_wait, on_check):
        folder = home / "models" / ".pull-smollm2-135m"
        folder.mkdir(parents=True)
        (folder / "smollm2-135m.gguf").write_bytes(bytes(3_000_000))
        raise KeyboardInterrupt

    monkeypatch.setattr(hub, "pull", pull)
    assert main(["pull", "smollm2-135m"]) == 130
    kept = "stopped; 3 MB are kept, and nybble pull goes on behind them\n"
    assert capsys.readouterr() == ("", kept)


def test_pull_of_what_is_there_is_verified(home, capsys, monkeypatch):
    path = put(home, "tiny", 0)
    sha256 = hashlib.sha256(b"").hexdigest()
    row = KnownModel(name="tiny", sha256=sha256, origin="hf:o/r/x.gguf", about="t", licence="MIT")
    monkeypatch.setitem(KNOWN, "tiny", row)
    assert main(["pull", "tiny"]) == 0
    assert capsys.readouterr() == ("", f"tiny is already there, sha256 verified: {path}\n")


def drawn(home, monkeypatch, columns, total=98_000_000):
    """What a terminal of so many columns shows of a pull that fails half way."""

    def pull(name, on_progress, on_wait, on_check):
        on_progress(49_000_000, total)
        raise DownloadError("the network is gone")

    monkeypatch.setattr(hub, "pull", pull)
    controller, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with open(terminal, "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        assert main(["pull", "smollm2-135m"]) == 1
        seen = ""
        while not seen.endswith("gone\r\n") and select.select([controller], [], [], 10)[0]:
            seen += os.read(controller, 4096).decode()  # a terminal hands on what it likes
    os.close(controller)
    return seen


def test_pull_draws_a_bar_on_a_terminal(home, monkeypatch):
    seen = drawn(home, monkeypatch, 80)
    assert "\rsmollm2-135m [############............] 49 MB of 98 MB" in seen
    assert seen.endswith("\r\nnybble: the network is gone\r\n")


def test_a_bar_fits_a_narrow_terminal(home, monkeypatch):
    assert "\rsmollm2-135m [####.....] 49 MB of 98 MB\r\n" in drawn(home, monkeypatch, 40)
    assert "\rsmollm... 49 MB of 98 MB\r\n" in drawn(home, monkeypatch, 25)


def test_a_bar_without_a_total_counts(home, monkeypatch):
    assert "\rsmollm2-135m 49 MB\r\n" in drawn(home, monkeypatch, 40, total=0)


def test_ls_fits_a_narrow_terminal(home, open_terminal):
    name = "hf:someone/a-repository-GGUF/a-model-Q4_0.gguf"
    folder = home / "models" / "hf" / "someone" / "a-repository-GGUF"
    folder.mkdir(parents=True)
    (folder / "a-model-Q4_0.gguf").write_bytes(b"x")
    for flags in ([], ["--known"]):
        terminal = open_terminal("ls", *flags, columns=40)
        assert terminal.end() == 0
        lines = [line.rstrip() for line in terminal.seen.splitlines()]
        assert len(lines) > 2
        for line in lines:
            assert len(line) <= 40 or " " not in line.strip()  # a path, which must stay whole
    assert any(line.startswith("qwen3-0.6b") for line in lines)
    assert main(["show", name]) == 4  # it is found by that name, and is no model


def test_ls_tells_of_pulls_that_broke_off(home, capsys):
    folder = home / "models" / ".pull-https%3A%2F%2Fhost%2Fx.gguf"
    folder.mkdir(parents=True)
    (folder / "x.gguf").write_bytes(bytes(2_000_000))
    assert main(["ls"]) == 0
    assert (
        "https://host/x.gguf: a pull broke off after 2 MB; nybble pull goes on,"
        " nybble rm gives it up\n"
    ) in capsys.readouterr().err


def test_rm_removes_what_it_is_told(home, capsys):
    put(home, "a", 2_000_000)
    put(home, "b", 1)
    put(home, "c", 1)
    (home / "models" / "a.gguf.sha256").write_text("0" * 64)
    assert main(["rm", "a", "b", "a", "--yes"]) == 0
    assert capsys.readouterr() == ("", "removed a: 2 MB\nremoved b: 1 B\n")
    assert sorted(path.name for path in (home / "models").iterdir()) == [".lock", "c.gguf"]


def test_rm_takes_every_kind_of_name(home, capsys):
    for name in ("hf:o/r/x-Q4_0.gguf", "https://host/y.gguf"):
        os.makedirs(os.path.dirname(hub.path_of(name)))
        Path(hub.path_of(name)).write_bytes(b"x")
    (home / "models" / ".pull-qwen3-4b").mkdir()
    (home / "models" / ".pull-qwen3-4b" / "qwen3-4b.gguf").write_bytes(b"12345")
    assert main(["rm", "-y", "hf:o/r:Q4_0", "https://host/y.gguf", "qwen3-4b"]) == 0
    assert "removed qwen3-4b: 5 B\n" in capsys.readouterr().err
    assert [path.name for path in (home / "models").iterdir()] == [".lock"]


def test_rm_of_one_that_is_not_there_removes_none(home, capsys):
    path = put(home, "a", 1)
    outside = home / "x.gguf"
    outside.write_bytes(b"mine")
    for wrong in ("b", "../x", str(outside), "."):
        assert main(["rm", "--yes", "a", wrong]) == 2
        assert f"there is no model {wrong!r} to remove" in capsys.readouterr().err
    assert os.path.exists(path)
    assert outside.exists()


def test_rm_without_a_terminal_wants_yes(home, stdin, capsys):
    path = put(home, "a", 1)
    stdin(b"y\n")
    assert main(["rm", "a"]) == 2
    assert "give --yes" in capsys.readouterr().err
    assert os.path.exists(path)


def test_rm_asks_on_a_terminal(home, open_terminal):
    put(home, "a", 1)
    put(home, "b", 1)
    terminal = open_terminal("rm", "a", "b")
    terminal.until("remove a (1 B)? [y/N] ")
    terminal.type("\n")
    terminal.until("a stays")
    terminal.until("remove b (1 B)? [y/N] ")
    terminal.type("y\n")
    terminal.until("removed b")
    assert terminal.end() == 0
    assert [name for name, _, _ in hub.installed()] == ["a"]


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (98_362_432, "98 MB"),
        (999_999_999, "1000 MB"),
        (1_250_000_000, "1.2 GB"),
    ],
)
def test_megabytes_is_short(nbytes, text):
    assert megabytes(nbytes) == text


def test_printable_and_harmless_escape_what_they_say():
    text = "a\tb\nc\x1b\x7f\x9b\u202e\u200d\u00e9"
    assert printable(text) == r"a\tb\nc\x1b\x7f\x9b\u202e\u200d" + "\u00e9"
    assert harmless(text) == "a\tb\nc\\x1b\\x7f\\x9b\u202e\u200d\u00e9"
