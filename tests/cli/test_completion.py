"""nybble completion: its scripts in the shells they are for."""

import os
import shutil
import subprocess
import sys

import pytest
from pseudo_terminal import Terminal

from nybble.cli import main


@pytest.fixture
def bin(home, tmp_path):
    """A folder with a `nybble` for the shells, and a home with models of all kinds of names."""
    models = home / "models"
    (models / "hf" / "someone" / "tiny-GGUF").mkdir(parents=True)
    (models / "hf" / "someone" / "tiny-GGUF" / "tiny-Q4_0.gguf").write_bytes(b"")
    (models / "mine.gguf").write_bytes(b"")
    (models / "$(touch hacked);`touch hacked`.gguf").write_bytes(b"")
    (models / "with space.gguf").write_bytes(b"")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "nybble").write_text(f'#!/bin/sh\nexec {sys.executable} -m nybble "$@"\n')
    (folder / "nybble").chmod(0o755)
    return folder


def shell(name):
    """Where a shell is; CI has all of them, a laptop skips."""
    if (path := shutil.which(name)) is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"needs {name}")
    return path


def script(name, tmp_path, capsys):
    assert main(["completion", name]) == 0
    path = tmp_path / f"nybble.{name}"
    path.write_text(capsys.readouterr().out)
    return path


def run_shell(command, bin, tmp_path):
    environment = {**os.environ, "PATH": f"{bin}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60
    )
    assert done.stderr == ""
    assert not (tmp_path / "hacked").exists()
    return done.stdout.splitlines()


BASH = """
source {script}
COMP_LINE={line!r} COMP_POINT={point} COMP_WORDS=({line}) COMP_CWORD={word}
_nybble
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
KNOWN_QWEN3 = ["qwen3-0.6b", "qwen3-1.7b", "qwen3-4b"]
CASES = [
    ("nybble pu", ["pull"]),
    ("nybble r", ["run", "rm"]),
    ("nybble run --ma", ["--max-tokens"]),
    ("nybble run --no-t", ["--no-think"]),
    ("nybble ls --", ["--help", "--known", "--board", "--memory", "--json"]),
    ("nybble pull qwen3", KNOWN_QWEN3),
    ("nybble run mi", ["mine"]),
    ("nybble rm mi", ["mine"]),
    ("nybble completion z", ["zsh"]),
    ("nybble help sh", ["show"]),
]


@pytest.mark.parametrize(("line", "words"), CASES)
def test_bash_completes(bin, tmp_path, capsys, line, words):
    path = script("bash", tmp_path, capsys)
    code = BASH.format(script=path, line=line, point=len(line), word=len(line.split()) - 1)
    assert run_shell([shell("bash"), "--norc", "-c", code], bin, tmp_path) == words


def test_bash_completes_on_a_real_terminal(bin, tmp_path, capsys, monkeypatch):
    path = script("bash", tmp_path, capsys)
    monkeypatch.setenv("PATH", f"{bin}:{os.environ['PATH']}")
    monkeypatch.setenv("PS1", "$ ")
    monkeypatch.chdir(tmp_path)
    bash = [shell("bash"), "--norc", "--noprofile", "-i"]
    terminal = Terminal(command=bash)
    terminal.type(f"source {path}\n")
    terminal.until("$ ")
    # what follows a colon is a word of its own for bash, but not for nybble
    terminal.type("echo nothing; nybble show hf:some\t")
    terminal.until("hf:someone/tiny-GGUF/tiny-Q4_0.gguf")
    terminal.type("\x15exit\n")
    assert terminal.end() == 0
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(("line", "words"), CASES)
def test_fish_completes(bin, tmp_path, capsys, line, words):
    path = script("fish", tmp_path, capsys)
    code = f"source {path}; complete -C {line!r}"
    got = run_shell([shell("fish"), "--no-config", "-c", code], bin, tmp_path)
    assert sorted(item.split("\t")[0] for item in got) == sorted(words)


@pytest.mark.parametrize(("line", "words"), CASES)
def test_zsh_completes(bin, tmp_path, capsys, monkeypatch, line, words):
    path = script("zsh", tmp_path, capsys)
    monkeypatch.setenv("PATH", f"{bin}:{os.environ['PATH']}")
    monkeypatch.setenv("PS1", "$ ")
    monkeypatch.chdir(tmp_path)
    terminal = Terminal(command=[shell("zsh"), "-f", "-i"])
    terminal.type(f"autoload -U compinit; compinit -D; setopt LIST_AMBIGUOUS; source {path}\n")
    terminal.type("echo rea''dy\n")
    terminal.until("ready\r\n")
    terminal.type(f"{line}\t")
    for word in words if len(words) == 1 else []:
        terminal.until(f"{line.rpartition(' ')[0]} {word}")
    if len(words) > 1:
        terminal.type("\t")
        while not all(word in terminal.seen for word in words):
            assert terminal.read(30), terminal.seen
    terminal.type("\x03exit\n")
    terminal.process.kill()
    terminal.process.wait()
    assert not (tmp_path / "hacked").exists()


def test_names_are_harmless_words(bin, capsys):
    assert main(["completion", "names", "here"]) == 0
    assert capsys.readouterr().out == "hf:someone/tiny-GGUF/tiny-Q4_0.gguf\nmine\n"
    assert main(["completion", "names"]) == 0
    assert "mine\nsmollm2-135m\n" in capsys.readouterr().out


def test_an_unknown_shell_is_refused(capsys):
    assert main(["completion", "tcsh"]) == 2
    assert "choose from" in capsys.readouterr().err
