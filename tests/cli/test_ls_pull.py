"""nybble ls and nybble pull."""

import json
import os
import select

import pytest

from nybble import hub
from nybble.cli import main
from nybble.cli.terminal import harmless, megabytes, printable
from nybble.errors import DownloadError
from nybble.known import KNOWN


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
        {"name": "a-model", "nbytes": 1_300_000_000, "path": first},
        {"name": "b", "nbytes": 999, "path": second},
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
    assert "smollm2-135m         98 MB  here  SmolLM2" in capsys.readouterr().out


def test_pull_says_that_a_model_is_there(home, capsys):
    path = put(home, "smollm2-135m", KNOWN["smollm2-135m"].nbytes)
    assert main(["pull", "smollm2-135m"]) == 0
    assert capsys.readouterr() == ("", f"smollm2-135m is already there: {path}\n")


def test_pull_says_what_it_did(home, capsys, monkeypatch):
    def pull(name, on_progress, on_wait):
        on_wait()
        on_progress(1, 2)
        return "/models/x"

    monkeypatch.setattr(hub, "pull", pull)
    assert main(["pull", "smollm2-135m"]) == 0
    assert capsys.readouterr() == (
        "",
        "another pull is running; waiting for it to end\n"
        "smollm2-135m: 98 MB, sha256 verified: /models/x\n",
    )


def test_pull_draws_a_bar_on_a_terminal(home, monkeypatch):
    def pull(name, on_progress, on_wait):
        on_progress(49_000_000, 98_000_000)
        raise DownloadError("the network is gone")

    monkeypatch.setattr(hub, "pull", pull)
    controller, terminal = os.openpty()
    with open(terminal, "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        assert main(["pull", "smollm2-135m"]) == 1
        seen = ""
        while not seen.endswith("gone\r\n") and select.select([controller], [], [], 10)[0]:
            seen += os.read(controller, 4096).decode()  # a terminal hands on what it likes
    os.close(controller)
    assert "\rsmollm2-135m [############............] 49 MB of 98 MB" in seen
    assert seen.endswith("\nnybble: the network is gone\r\n")


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
