"""A model file that is cut short or overwritten while it is loaded, and when it has been."""

import os
import re
import subprocess
import sys

import pytest

import nybble
from nybble.errors import FormatError
from tests.model.models import speaking
from tools.tiny_model import tiny_model

CHANGED = "was changed while it was being read: load it again"


@pytest.fixture(autouse=True)
def in_memory(monkeypatch, tmp_path):
    """Weights are packed in memory, unless a test says otherwise; then into a cache of its own."""
    monkeypatch.setenv("NYBBLE_PACK", "0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path):
    """A model whose matrices are more than what is read at once."""
    path = tmp_path / "big.gguf"
    tiny_model(path, layers=2, dim=512, heads=4, hidden=4096, formats={"mlp": "F16"})
    return path


def cut_to_nothing(path):
    os.truncate(path, 0)


def cut_within_the_weights(path):
    os.truncate(path, path.stat().st_size // 2)


def cut_by_a_byte(path):
    os.truncate(path, path.stat().st_size - 1)


def overwritten_by_another(path):
    """As `cp other.gguf path` does: cut to nothing, and written."""
    tiny_model(path, layers=2, dim=512, heads=4, hidden=4096, formats={"mlp": "F16"}, seed=1)


def overwritten_in_place(path):
    """Same length, and numbers that are not weights."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size - size // 2))


def overwritten_with_the_time_put_back(path):
    status = path.stat()
    overwritten_in_place(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def grown(path):
    with path.open("ab") as file:
        file.write(b"more")


CHANGES = [
    cut_to_nothing,
    cut_within_the_weights,
    cut_by_a_byte,
    overwritten_by_another,
    overwritten_in_place,
    overwritten_with_the_time_put_back,
    grown,
]
AS_IS = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)


@AS_IS
@pytest.mark.parametrize("pack", ["0", "auto"])
@pytest.mark.parametrize("moment", [1, 5, -1], ids=["first", "fifth", "last"])
def test_a_file_that_changes_during_load_is_refused(path, change, moment, pack, monkeypatch):
    """After the first tensor, in the middle, and when all have been read; and no copy is made."""
    total = []
    nybble.load(path, on_progress=lambda *_: total.append(None))
    packed = []
    monkeypatch.setenv("NYBBLE_PACK", pack)

    def on_progress(*_):
        packed.append(None)
        if len(packed) == moment % (len(total) + 1):
            change(path)

    with pytest.raises(FormatError, match=CHANGED) as caught:
        nybble.load(path, on_progress=on_progress)
    assert str(caught.value).count(str(path)) == 1
    assert not [*(path.parent / "cache").rglob("*.nyb*")]


@AS_IS
def test_a_file_that_changes_after_load_is_of_no_concern(tmp_path, change):
    path = speaking(tmp_path, "Yes.")
    model = nybble.load(path)
    text, ids = model.ask("Hello").text, model.tokenize("Hello <|im_end|>", special=True)
    logits = bytes(model.logits(ids))
    assert text == "Yes."
    model.forget()
    change(path)
    assert model.ask("Hello").text == text
    assert model.tokenize("Hello <|im_end|>", special=True) == ids
    assert model.detokenize(ids) == "Hello <|im_end|>"
    assert bytes(model.logits(ids)) == logits
    assert "assistant" in model.detokenize(model._template()[0].encode([]))


def test_a_file_that_is_replaced_during_load_is_the_old_one(path, tmp_path):
    """As a pull does it, and whoever means well: written beside it, and renamed."""
    before = nybble.load(path)
    other = tmp_path / "other.gguf"
    tiny_model(other, layers=2, dim=512, heads=4, hidden=4096, formats={"mlp": "F16"}, seed=1)

    def on_progress(*_):
        if other.exists():
            os.replace(other, path)

    model = nybble.load(path, on_progress=on_progress)
    assert bytes(model.logits([5, 6])) == bytes(before.logits([5, 6]))
    assert bytes(nybble.load(path).logits([5, 6])) != bytes(before.logits([5, 6]))


def test_a_model_holds_no_file(path):
    model = nybble.load(path)
    with open("/proc/self/maps") as maps:
        assert str(path) not in maps.read()
    assert model.context == 512


def test_load_takes_no_second_copy(tmp_path):
    """The file is read in pieces: the peak is the packed weights and some 10 MB."""
    path = tmp_path / "big.gguf"
    tiny_model(path, layers=2, dim=1024, heads=8, hidden=8192, formats={"mlp": "F16"})
    program = """
import sys
import nybble

def peak():
    return 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])

with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = peak()
model = nybble.load(sys.argv[1], context=16)
print(peak() - before, model.weights.nbytes)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=True
    )
    peak, weights = map(int, re.findall(r"\d+", done.stdout))
    assert weights > 100e6
    assert peak < weights + 20e6
