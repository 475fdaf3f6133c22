"""Hostile model files: each is an error that says what and where, in little memory and time, and
nothing else happens."""

from __future__ import annotations

import re

import pytest

from nybble import errors
from tests.fuzz.builder import BY_THE_ENGINE
from tools.tiny_model import tiny_model

from . import files
from .warden import IS_SANITIZED, LIMIT


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return files.table(tmp_path_factory.mktemp("sound"))


def kept(cache):
    """The files that nybble has in its cache."""
    return [path for path in cache.rglob("*") if not path.is_dir()]


def complaints(row, path, warden):
    """What is wrong with how nybble meets a file, by load, show and run: by load as one that is
    packed in memory, by run as one that gets a packed copy, unless it is sound but for its size."""
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
    if BY_THE_ENGINE in text:
        yield "load: it comes as far as the engine"

    shown = warden.does("shell", "show", path)
    if shown["code"] != (0 if row.shows else row.error.exit_code):
        yield f"show: exit code {shown['code']}"
    if not row.shows and not re.search(row.words, shown["err"]):
        yield f"show: {shown['err']!r}"
    if row.shows and shown["err"]:
        yield f"show: {shown['err']!r}"

    pack = "0" if row.error is errors.BudgetError else "auto"
    ran = warden.does("shell", "run", path, "Hello", "--max-tokens", "2", pack=pack)
    if ran["code"] != (kind or row.error).exit_code or ran["out"]:
        yield f"run: exit code {ran['code']}, {ran['out']!r}"
    if not re.search(row.words, ran["err"].replace("\n", " ")):
        yield f"run: {ran['err']!r}"


def test_every_hostile_file_is_an_error_and_nothing_else(rows, warden, cache, tmp_path):
    assert len(rows) > 200
    path = tmp_path / "hostile.gguf"
    wrong = []
    for row in rows:
        if IS_SANITIZED and row.error is errors.BudgetError:  # there is no limit
            continue
        row.write(path)
        for complaint in complaints(row, path, warden):
            said = warden.does("load", path)["text"][:300]
            wrong.append(f"{row.name}: {complaint}: {said}")
        wrong.extend(f"{row.name}: {left} is left" for left in kept(cache))
        path.unlink()
    assert not wrong, "\n".join([f"{len(wrong)} of {len(rows)}:", *wrong])


def test_the_limits_hold_and_are_enough(warden, cache, tmp_path):
    """The sound file that all others are made of loads within them, and answers."""
    path = tmp_path / "sound.gguf"
    tiny_model(path)
    loaded = warden.does("load", path)
    assert loaded["error"] is None
    assert 0 < loaded["peak"] < LIMIT / 2
    assert warden.does("shell", "show", path)["code"] == 0
    for pack, n_copies in (("0", 0), ("auto", 1)):
        ran = warden.does("shell", "run", path, "Hello", "--max-tokens", "2", pack=pack)
        assert ran["code"] == 0
        assert len(kept(cache)) == n_copies
