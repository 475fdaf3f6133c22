"""Threads and rows chosen by trial: kept, used again, and without an effect on any token."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import time

import pytest

import nybble
from nybble import board, hub, packing, tuning
from nybble._core import native
from nybble._core.sequence import Sequence
from nybble.cli import main
from nybble.cli.pull import _keep_packed
from nybble.errors import UsageError
from nybble.hub.known import KNOWN
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
def idle(monkeypatch):
    """Trials cannot tell how busy the machine is: a call takes no time, and nobody is late."""
    clock = itertools.count()
    monkeypatch.setattr(tuning, "perf_counter", lambda: next(clock) / 1e6)
    monkeypatch.setattr(native, "busy_calls", lambda: 0)


@pytest.fixture
def tried(monkeypatch):
    """What a trial finds, and how often there was one."""
    found = [Tune(1, 2, "ref", 3, 0.0125)]
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
    [
        *("", "3 1 ref 1 0.5", "0 1 ref 1 0.5", "1 -1 ref 1 0.5", "1 1 ref -1 0.5", "1 1 ref 1"),
        *("1 1 pdp11 1 0.5", "a b ref 1 0.5", "1 1 ref x 0.5", "1 1 ref 1 x", "1 1 ref 1 0.5 x"),
        *("1 1 ref 1 -0.5", "1 1 ref 1 nan", "1 1 ref 1 inf", "1 1 \udcff 1 0.5", "\0", "é"),
    ],
)
def test_what_is_kept_is_not_trusted(path, tried, line):
    found, calls = tried
    nybble.load(path)
    place = hub.tune_path(path)
    with open(place, encoding="utf-8") as file:
        here, _, model = file
    with open(place, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(f"{here}{line}\n{model}")
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
    found[0] = Tune(2, 1, BEST, 1)
    assert nybble.load(path).tune == found[0]


def test_a_home_that_takes_no_file_is_no_error(path, tried, monkeypatch):
    """Nothing is tried there: it would be at every start."""
    _, calls = tried
    nybble.load(path)
    os.unlink(hub.tune_path(path))
    os.mkdir(hub.tune_path(path))
    assert nybble.load(path).tune is None
    assert len(calls) == 1
    assert not [name for name in kept() if name.endswith(".part")]


def test_no_link_is_followed(path, tried, tmp_path):
    """In a cache that others write to, one might lead to a file of this user's."""
    mine = tmp_path / "mine"
    mine.write_text("precious")
    nybble.load(path)
    place = hub.tune_path(path)
    os.unlink(place)
    for name in (f"{place}.part", f"{place}.{os.getpid()}"):
        os.symlink(mine, name)
    nybble.load(path)
    assert mine.read_text() == "precious"


def kept():
    return sorted(os.listdir(os.path.join(hub.cache_folder(), "packed")))


def test_a_packed_file_is_tried_once(path, tried, tmp_path):
    """Where it is all there is, nothing has made the cache."""
    found, calls = tried
    packed = str(tmp_path / "alone.nyb")
    assert main(["pack", path, "-o", packed]) == 0
    assert not os.path.exists(hub.cache_folder())
    for _ in range(2):
        assert nybble.load(packed).tune == found[0]
    assert len(calls) == 1
    assert kept() == [os.path.basename(hub.tune_path(packed))]


def test_a_context_without_room_for_a_prompt(path, tried, monkeypatch):
    """Nothing is tried there; what a longer one has found is used."""
    found, calls = tried
    for context in (1, 8, 15):
        assert nybble.load(path, context=context).tune is None
    assert calls == []
    assert nybble.load(path, context=16).tune == found[0]
    assert nybble.load(path, context=8).tune == found[0]


def test_a_user_without_a_home_runs_a_packed_file(path, tried, tmp_path, monkeypatch, capsys):
    """Nothing is tried where it cannot be kept."""
    packed = str(tmp_path / "alone.nyb")
    assert main(["pack", path, "-o", packed]) == 0
    for name in ("NYBBLE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert nybble.load(packed).tune is None
    assert list(tuning.all_kept()) == []


def test_a_trial_that_was_killed_is_not_begun_again_at_once(path, monkeypatch):
    """Nor does another process begin one meanwhile."""
    calls = []

    def tried(engine):
        calls.append(engine)
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "_tried", tried)
    with pytest.raises(KeyboardInterrupt):
        nybble.load(path)
    assert nybble.load(path).tune is None
    assert len(calls) == 1


@pytest.mark.parametrize("context", [1, 2, 15, 16, 17])
def test_the_shortest_contexts_are_loaded(path, idle, context):
    """By real trials, where there are any."""
    assert (nybble.load(path, context=context).tune is None) == (context < 16)


@pytest.mark.parametrize("way", ["rm", "rm packed", "pull --pack"])
def test_what_removes_a_model_removes_it(path, tried, way):
    os.makedirs(hub.models_folder(), exist_ok=True)
    mine = hub.path_of("mine")
    os.rename(path, mine)
    assert nybble.load("mine").tune is not None
    assert os.path.isfile(hub.tune_path(mine))
    if way != "rm":
        _keep_packed(mine)
        assert kept() == []
    if way == "rm packed":
        assert nybble.load("mine").tune is not None
        assert kept() == [os.path.basename(hub.tune_path(hub.packed_path(mine)))]
    if way != "pull --pack":
        assert main(["rm", "mine", "--yes"]) == 0
        assert kept() == []


def test_what_is_left_of_models_that_are_gone_goes(path, tried, tmp_path):
    """With the next copy that is made; of what is there it stays, and what somebody works on."""
    gone, there = str(tmp_path / "gone.gguf"), str(tmp_path / "there\n1.gguf")
    for one in (gone, there):
        tiny_model(one, layers=1)
        nybble.load(one)
    os.unlink(gone)
    folder = os.path.dirname(hub.tune_path(path))
    for name in ("junk-00000000.tune", "left-00000000.tune.part"):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(b"by another nybble")
    with open(os.path.join(folder, "busy-00000000.tune.part"), "wb") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        nybble.load(path)
    stays = [*(f(one) for one in (there, path) for f in (hub.tune_path, hub.copy_path)), busy.name]
    assert kept() == sorted(map(os.path.basename, stays))


@pytest.mark.parametrize(
    ("rounds", "how"),
    [(0, "not tried, as a token takes long"), (1, "by trial, once each"), (2, "by trial")],
)
def test_doctor_tells(path, tried, capsys, rounds, how):
    found, _ = tried
    found[0] = found[0]._replace(rounds=rounds)
    nybble.load(path)
    assert main(["doctor"]) == 0
    assert f"tiny, {how}: decode 1, prefill 2, ref rows" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tunes"]["tiny"]["rounds"] == rounds


@pytest.mark.parametrize(("name", "wish"), [("NYBBLE_TUNE", "0"), ("NYBBLE_ISA", "ref")])
def test_doctor_tells_of_what_is_not_used(path, tried, capsys, monkeypatch, name, wish):
    """Nothing; only why."""
    nybble.load(path)
    monkeypatch.setenv(name, wish)
    assert nybble.load(path).tune is None
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "by trial" not in out
    assert f"by default, and what is quickest is not tried ({name}={wish})" in out
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tunes"] == {}


def test_plan_tells_the_rate_that_was_measured(path, tried, capsys, monkeypatch):
    """And where there is none, how to get one. A trial is of all threads, on this machine."""

    def told(*flags):
        assert main(["plan", path, *flags]) == 0
        text = capsys.readouterr().out
        assert main(["plan", path, *flags, "--json"]) == 0
        return text, json.loads(capsys.readouterr().out)["measured_tok_s"]

    none = "nybble bench measures how fast this machine is"
    text, rate = told()
    assert (none in text, rate) == (True, None)
    nybble.load(path)
    text, rate = told()
    assert "at its first load here, with an empty cache, 80 tokens/s were measured at best" in text
    assert (none in text, rate) == (False, 80.0)
    assert told("--board", "rpi4")[1] is None
    assert told("--threads", "2")[1] is None
    with monkeypatch.context() as other:
        other.setattr("nybble.machine.quota", lambda: 1.5)
        assert told()[1] is None
    with monkeypatch.context() as other:
        other.setenv("NYBBLE_TUNE", "0")
        assert told()[1] is None
    assert told()[1] == 80.0


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


class Machine:
    """A machine on which time is what a rule says: seconds(tokens of a call, threads, level)."""

    def __init__(self, threads, rule, first=0.0):
        self.threads, self.rule = threads, rule
        self.now = 0.0
        self.calls = []  # (tokens, threads) of each
        self.first = first  # seconds more that the first call takes

    def tune(self, decode_threads, prefill_threads, level=None):
        self.tuned = decode_threads, prefill_threads, level

    def feed(self, ids):
        decode, prefill, level = self.tuned
        threads = decode if len(ids) == 1 else prefill
        self.now += self.rule(len(ids), threads, level) + (0.0 if self.calls else self.first)
        self.calls.append((len(ids), threads))

    def rewind(self, n):
        pass

    def clear(self):
        pass


@pytest.fixture
def tried_on(monkeypatch):
    """What is found on a machine."""

    def tried_on(machine):
        monkeypatch.setattr(tuning, "perf_counter", lambda: machine.now)
        monkeypatch.setattr(tuning, "Sequence", lambda engine: engine)
        return tuning._tried(machine)

    return tried_on


def limited(nbytes, read_gb_s, knee, cores, ghz):
    """A rule: memory is read at this rate by `knee` cores or more, and a core has 4 products each
    cycle, as plain NEON does; a byte has 1.5 weights."""

    def seconds(n, threads, level):
        read = nbytes / 1e9 / (read_gb_s * min(1, threads / knee))
        return max(read, 1.5 * nbytes * n / (4e9 * ghz * threads))

    return seconds


BOARDS = [(one, knee) for one in map(board.load, board.boards())
          for knee in range(1, one.clusters[0].cores + 1)
          if one.clusters[0].cores > 1]  # fmt: skip


@pytest.mark.parametrize("model", ["smollm2-135m", "gemma3-270m"])
@pytest.mark.parametrize(("one", "knee"), BOARDS, ids=lambda x: getattr(x, "id", x))
def test_boards_are_done_in_time(tried_on, one, knee, model):
    """The knee is found, within the time that is promised. Memory's rate is assumed where it is
    not known; of 8 cores 5 to 7 are not tried."""
    cores, ghz = one.clusters[0].cores, one.clusters[0].ghz
    rule = limited(KNOWN[model].nbytes, one.read_gb_s or 1.5, knee, cores, ghz)
    machine = Machine(cores, rule)
    found = tried_on(machine)
    token = {n: rule(1, n, BEST) for n in {1, 2, 3, 4, cores}}
    fewest = min(n for n in token if token[n] <= 1.03 * min(token.values()))
    assert found[:3] == (fewest, cores, BEST)
    assert 1 <= found.rounds <= 8
    assert machine.now <= min(3.0, max(1.0, 50 * token[cores]))
    assert {n for n, _ in machine.calls} == {1, 4, 16}


def test_a_quick_machine_times_each_choice_often(tried_on):
    machine = Machine(8, lambda n, threads, level: 0.002 * n / min(threads, 3 if n == 1 else 8))
    found = tried_on(machine)
    assert found == Tune(3, 8, BEST, 8, found.token_s)
    assert found.token_s == pytest.approx(0.002 / 3)
    assert machine.now < 1.0


def test_what_is_clearly_slower_is_not_gone_on_with(tried_on):
    machine = Machine(4, lambda n, threads, level: 0.01 / threads)
    assert tried_on(machine).decode_threads == 4
    assert {threads for n, threads in machine.calls if n == 1} == {4, 3}


def test_a_slow_model_has_the_best_that_was_seen_in_time(tried_on):
    """0.49 s a token: there is time for decode but with one thread, and not for a prompt."""
    machine = Machine(8, limited(0.49 * 3e9, 3.0, 2, 8, 1.8))
    found = tried_on(machine)
    assert found == Tune(2, 8, BEST, 1, found.token_s)
    assert found.token_s == pytest.approx(0.49)
    assert machine.now <= 3.0
    assert set(machine.calls) == {(1, 8), (1, 4), (1, 3), (1, 2)}


def test_a_model_that_is_too_slow_is_asked_once(tried_on, path, monkeypatch):
    """2 GB on a Pi 4: that it is too slow is known after two tokens, and is kept for good."""
    machine = Machine(2, limited(2e9, 3.0, 1, 4, 1.8))
    found = tried_on(machine)
    assert found == Tune(2, 2, BEST, 0, found.token_s)
    assert found.token_s == pytest.approx(2 / 3)
    assert len(machine.calls) == 2
    calls = []
    monkeypatch.setattr(tuning, "_tried", lambda engine: calls.append(engine) or found)
    for _ in range(2):
        assert nybble.load(path).tune == found
        os.utime(hub.tune_path(path), (1, 1))
    assert len(calls) == 1


def test_reading_a_file_from_a_slow_disk_is_no_part_of_a_trial(tried_on):
    machine = Machine(4, limited(1e8, 3.0, 2, 4, 1.8), first=20.0)
    found = tried_on(machine)
    assert found[:3] == (2, 4, BEST)
    assert found.token_s == pytest.approx(1e8 / 3e9)


def test_the_quickest_wins_and_of_equals_the_fewest_threads(tried_on):
    """Decode is limited by two threads' reads; prefill takes all; rows are alike."""

    def rule(n, threads, level):
        return 0.01 / (threads if n > 1 else min(threads, 2))

    assert tried_on(Machine(4, rule))[:3] == (2, 4, BEST)


def test_the_quicker_level_wins(tried_on, monkeypatch):
    """Of two; plain C is not tried where there is another."""
    monkeypatch.setattr(native, "levels", lambda: ["ref", "old", "new"])
    monkeypatch.setattr(native, "level_bits", lambda level: 0)
    levels = []

    def rule(n, threads, level):
        levels.append(level)
        return {"old": 0.01, "new": 0.02}[level]

    assert tried_on(Machine(2, rule))[:3] == (1, 1, "old")
    assert set(levels) == {"old", "new"}
    monkeypatch.setattr(native, "levels", lambda: ["ref", "new"])
    levels.clear()
    tried_on(Machine(2, rule))
    assert set(levels) == {"new"}
    monkeypatch.setattr(native, "levels", lambda: ["ref"])
    assert tried_on(Machine(2, lambda n, threads, level: 0.01))[:3] == (1, 1, "ref")


def test_trying_leaves_nothing_behind(engine, idle, monkeypatch):
    lengths = []

    class Counted(Sequence):
        def feed(self, ids):
            lengths.append(len(ids))
            super().feed(ids)

    monkeypatch.setattr(tuning, "Sequence", Counted)
    found = tuning._tried(engine)
    assert found is not None
    assert found.rounds > 0
    assert max(lengths) == 16
    assert Sequence(engine).ids == []
    assert not any(bytes(engine.kv.view()))


def test_a_team_that_got_smaller_says_nothing(tried_on, monkeypatch):
    calls = itertools.count()
    monkeypatch.setattr(native, "busy_calls", lambda: next(calls))
    machine = Machine(4, lambda n, threads, level: 0.01)
    assert tried_on(machine) is None
    assert machine.now <= 1.1


def test_threads_that_waited_for_the_disk_may_come_late(tried_on, monkeypatch):
    machine = Machine(4, limited(1e8, 3.0, 2, 4, 1.8), first=20.0)
    monkeypatch.setattr(native, "busy_calls", lambda: int(len(machine.calls) > 1))
    assert tried_on(machine)[:3] == (2, 4, BEST)


def test_a_team_that_gets_smaller_later_says_nothing(tried_on, monkeypatch):
    machine = Machine(4, lambda n, threads, level: 0.01)
    monkeypatch.setattr(native, "busy_calls", lambda: len(machine.calls) > 10)
    assert tried_on(machine) is None
