"""What the tests of the command line share."""

import io
import os
import sys

import fake_model
import pytest
from pseudo_terminal import Terminal

import nybble


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty $NYBBLE_HOME."""
    monkeypatch.setenv("NYBBLE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def calls(home, monkeypatch):
    """The fake model as `smollm2-135m`; the list of what is asked of it."""
    (home / "models").mkdir(parents=True)
    (home / "models" / "smollm2-135m.gguf").write_bytes(b"")
    monkeypatch.setattr(nybble, "load", fake_model.load, raising=False)
    monkeypatch.setattr(fake_model, "calls", [])
    return fake_model.calls


@pytest.fixture(autouse=True)
def stdin(monkeypatch):
    """Call it with bytes to pipe them in; without, standard input is an open terminal."""

    def pipe(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    controller, terminal = os.openpty()
    with open(terminal) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        yield pipe
    os.close(controller)


@pytest.fixture
def open_terminal():
    """Call it like Terminal; what a failed test left running is killed."""
    terminals = []

    def open_(*argv, **options):
        terminals.append(Terminal(*argv, **options))
        return terminals[-1]

    yield open_
    for terminal in terminals:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()
