"""Hostile model files: each is an error that says what and where, in little memory and time, and
nothing else happens."""

from __future__ import annotations

import re

import pytest

from nybble import errors
from tools.tiny_model import tiny_model

from . import files
from .warden import LIMIT


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return files.table(tmp_path_factory.mktemp("sound"))


def complaints(row, path, warden):
    """What is wrong with how nybble meets a file, by load, show and run."""
    loaded = warden.does("load", path)
    if loaded["error"] is None:
        yield "it loads"
        return
    kind = getattr(errors, loaded["error"], None)
    if kind is None or not issubclass(kind, row.error):
        yield f"load: {loaded['error']}, not {row.error.__name__}"
    text = loaded["text"]
    if not text.startswith(str(path)) and row.error is errors.FormatError:
        yield "load: the file is not named"
    if text.count(str(path)) > 1:
        yield "load: the file is named twice"
    if not re.search(row.words, text):
        yield "load: other words"
    if len(text) > 400 or not text.isprintable():
        yield "load: no line of text"

    shown = warden.does("shell", "show", path)
    if shown["code"] != (0 if row.shows else row.error.exit_code):
        yield f"show: exit code {shown['code']}"
    if not row.shows and not re.search(row.words, shown["err"]):
        yield f"show: {shown['err']!r}"
    if row.shows and shown["err"]:
        yield f"show: {shown['err']!r}"

    ran = warden.does("shell", "run", path, "Hello", "--max-tokens", "2")
    if ran["code"] != (kind or row.error).exit_code or ran["out"]:
        yield f"run: exit code {ran['code']}, {ran['out']!r}"
    if not re.search(row.words, ran["err"].replace("\n", " ")):
        yield f"run: {ran['err']!r}"


def test_every_hostile_file_is_an_error_and_nothing_else(rows, warden, tmp_path):
    assert len(rows) > 200
    path = tmp_path / "hostile.gguf"
    wrong = []
    for row in rows:
        row.write(path)
        for complaint in complaints(row, path, warden):
            said = warden.does("load", path)["text"][:300]
            wrong.append(f"{row.name}: {complaint}: {said}")
        path.unlink()
    assert not wrong, "\n".join([f"{len(wrong)} of {len(rows)}:", *wrong])


def test_the_limits_hold_and_are_enough(warden, tmp_path):
    """The sound file that all others are made of loads within them, and answers."""
    path = tmp_path / "sound.gguf"
    tiny_model(path)
    loaded = warden.does("load", path)
    assert loaded["error"] is None
    assert 0 < loaded["peak"] < LIMIT / 2
    assert warden.does("shell", "show", path)["code"] == 0
    assert warden.does("shell", "run", path, "Hello", "--max-tokens", "2")["code"] == 0
