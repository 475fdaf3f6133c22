"""Threads and rows chosen by trial: kept, used again, and without an effect on any token."""

from __future__ import annotations

import itertools
import os
import time

import pytest

import nybble
from nybble import hub, packing, tuning
from nybble._core import native
from nybble._core.sequence import Sequence
from nybble.cli import main
from nybble.errors import UsageError
from nybble.tuning import Tune
from tools.tiny_model import tiny_model

IDS = [5, 6, 7, 8, 9, 10]
BEST = [row for row in native.levels() if tuning._runs(row)][-1]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home; models of any size have packed copies, and two threads."""
    monkeypatch.setenv("NYBBLE_HOME", str(tmp_path / "home"))
    for name in ("NYBBLE_PACK", "NYBBLE_TUNE", "NYBBLE_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(packing, "WORTH_A_COPY", 0)
    monkeypatch.setattr("nybble.machine.default_threads", lambda: 2)


@pytest.fixture
def path(tmp_path):
    path = str(tmp_path / "tiny.gguf")
    tiny_model(path)
    return path


@pytest.fixture
def tried(monkeypatch):
    """What a trial finds, and how often there was one."""
    found = [Tune(1, 2, "ref")]
    calls = []
    monkeypatch.setattr(tuning, "_tried", lambda engine: calls.append(engine) or found[0])
    return found, calls


def test_what_was_found_is_kept_and_used_again(path, tried):
    found, calls = tried
    assert nybble.load(path).tune == found[0]
    assert nybble.load(path).tune == found[0]
    assert len(calls) == 1
    assert os.path.dirname(hub.tune_path(path)) == os.path.dirname(hub.copy_path(path))


@pytest.mark.parametrize("why", ["NYBBLE_TUNE", "NYBBLE_ISA", "threads", "one thread", "no copy"])
def test_who_wants_none_has_none(path, tried, monkeypatch, why):
    _, calls = tried
    options = {"threads": 2} if why == "threads" else {}
    if why == "one thread":
        monkeypatch.setattr("nybble.machine.default_threads", lambda: 1)
    elif why == "no copy":
        monkeypatch.setenv("NYBBLE_PACK", "0")
    elif why.startswith("NYBBLE"):
        monkeypatch.setenv(why, "0" if why == "NYBBLE_TUNE" else "ref")
    assert nybble.load(path, **options).tune is None
    assert calls == []


@pytest.mark.parametrize(("wish", "is_wanted"), [("auto", True), ("1", True), ("0", False)])
def test_wishes(monkeypatch, wish, is_wanted):
    monkeypatch.delenv("NYBBLE_ISA", raising=False)
    monkeypatch.setenv("NYBBLE_TUNE", wish)
    assert tuning.is_wanted() == is_wanted


def test_other_wishes_are_refused(path, monkeypatch):
    monkeypatch.setenv("NYBBLE_TUNE", "often")
    with pytest.raises(UsageError, match=r"NYBBLE_TUNE is 'often'; it may be auto or 0"):
        nybble.load(path)


@pytest.mark.parametrize(
    "line",
    ["", "3 1 ref", "0 1 ref", "1 -1 ref", "1 1 pdp11", "1 1", "a b ref", "1 1 ref x", "\0", "é"],
)
def test_what_is_kept_is_not_trusted(path, tried, line):
    found, calls = tried
    nybble.load(path)
    place = hub.tune_path(path)
    with open(place, encoding="utf-8") as file:
        here = file.readline()
    with open(place, "w", encoding="utf-8") as file:
        file.write(f"{here}{line}\n")
    assert nybble.load(path).tune == found[0]
    assert len(calls) == 2


def test_what_another_machine_found_is_found_anew(path, tried, monkeypatch):
    _, calls = tried
    nybble.load(path)
    monkeypatch.setattr("nybble.machine.quota", lambda: 1.5)
    nybble.load(path)
    assert len(calls) == 2


def test_a_busy_machine_is_asked_again_in_an_hour(path, tried):
    found, calls = tried
    found[0] = None
    assert nybble.load(path).tune is None
    assert nybble.load(path).tune is None
    assert len(calls) == 1
    long_ago = time.time() - 3601
    os.utime(hub.tune_path(path), (long_ago, long_ago))
    found[0] = Tune(2, 1, BEST)
    assert nybble.load(path).tune == found[0]


def test_a_home_that_takes_no_file_is_no_error(path, tried, monkeypatch):
    nybble.load(path)
    os.unlink(hub.tune_path(path))
    os.mkdir(hub.tune_path(path))
    assert nybble.load(path).tune is not None
    left = os.listdir(os.path.dirname(hub.tune_path(path)))
    assert not [name for name in left if name.endswith(f".{os.getpid()}")]


def test_removing_a_model_removes_it(path, tried):
    os.makedirs(hub.models_folder(), exist_ok=True)
    os.rename(path, hub.path_of("mine"))
    nybble.load("mine")
    assert os.path.isfile(hub.tune_path(hub.path_of("mine")))
    assert main(["rm", "mine", "--yes"]) == 0
    assert os.listdir(os.path.join(hub.cache_folder(), "packed")) == []


def test_doctor_tells(path, tried, capsys):
    nybble.load(path)
    assert main(["doctor"]) == 0
    assert "tiny, by trial: decode 1, prefill 2, ref rows" in capsys.readouterr().out


# -- trying


@pytest.fixture
def engine(path):
    return nybble.load(path, threads=4, context=256).engine


def test_any_choice_gives_the_same_bits(path, engine):
    def logits():
        sequence = Sequence(engine)
        first, last = (memoryview(bytearray(4 * sequence.vocab)).cast("f") for _ in range(2))
        sequence.feed(IDS[:4])
        sequence.feed(IDS[4:5], first)
        sequence.feed(IDS[5:], last)
        return bytes(first) + bytes(last)

    expected = logits()
    for level in filter(tuning._runs, native.levels()):
        for decode, prefill in ((1, 4), (4, 1), (2, 3), (3, 2)):
            engine.tune(decode, prefill, level)
            assert logits() == expected


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0), (5, 1), (1, 5)])
def test_threads_that_are_not_there(engine, numbers):
    with pytest.raises(UsageError, match="the engine has 4"):
        engine.tune(*numbers)


def test_levels_that_are_not_there(engine):
    with pytest.raises(UsageError, match="no level"):
        engine.tune(1, 1, "pdp11")


def seconds_by(rule):
    return lambda engine, sequence, tune, sizes: rule(tune, len(sizes) == 1)


def test_the_quickest_wins_and_of_equals_the_fewest_threads(engine, monkeypatch):
    """Decode is limited by two threads' reads; prefill takes all; rows are alike."""

    def rule(tune, is_prefill):
        n = tune.prefill_threads if is_prefill else min(tune.decode_threads, 2)
        return 1.0 / n

    monkeypatch.setattr(tuning, "_seconds", seconds_by(rule))
    assert tuning._tried(engine) == Tune(2, 4, BEST)


def test_trying_leaves_nothing_behind(engine):
    tuning._tried(engine)  # which may be None, where the machine is busy
    assert Sequence(engine).ids == []
    assert not any(bytes(engine.kv.view()))


def test_a_slow_model_is_not_tried_for_long(engine, monkeypatch):
    monkeypatch.setattr(tuning, "SECONDS", 0.0)
    assert tuning._tried(engine) is None


def test_a_team_that_got_smaller_says_nothing(engine, monkeypatch):
    calls = itertools.count()
    monkeypatch.setattr(native, "solo_calls", lambda: next(calls))
    assert tuning._tried(engine) is None
