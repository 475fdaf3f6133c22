"""The comparison with peers: in which order sides run, and what follows from it.

A script stands in for the peers' drivers; it runs as a process of its own, as they do.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import bench_peers
import pytest

from tools import peers
from tools.peers import __main__ as command_line
from tools.peers import build, measure, report
from tools.peers.build import Form, Peer
from tools.peers.measure import Plan, Side, Turn
from tools.tiny_model import tiny_model

PLAN = Plan(threads=2, prompt=512, gen=64, depths=(0, 2048))
FAKE = Path(__file__).with_name("fake_peer.py")


@pytest.fixture(name="served")
def fixture_served(tmp_path):
    """A function that makes a side of a name and of what it answers to each word."""
    driver = tmp_path / "driver"
    driver.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    driver.chmod(0o755)

    def made(name, **answers):
        model = tmp_path / f"{name}.model"
        model.write_text(json.dumps(answers))
        return measure.peer_side(name, driver, model, Form("file"), PLAN)

    return made


def heard(tmp_path, name):
    return (tmp_path / f"{name}.heard").read_text().splitlines()


def own(rate, share=0.5, read=40.0, barrier=0.2):
    return Turn(rate, share, read, barrier)


def side(name, form="file", is_file=True):
    return Side(name, form, is_file, ())


# -- turns ----------------------------------------------------------------------------------------


def test_a_turn_is_what_the_side_answers(served, tmp_path):
    with measure.serving(served("fake", prompt=[0.5], reply=[2.0])) as side:
        assert measure.take_turn(side, PLAN, 0).rate == 512 / 0.5
        assert measure.take_turn(side, PLAN, 2).rate == 64 / 2.0
    assert heard(tmp_path, "fake") == ["prompt 512", "fill 2048", "reply 64"]


def test_a_side_that_fails_is_told_with_what_it_said(served):
    with measure.serving(served("fake", prompt=["!no room"])) as side:
        with pytest.raises(
            measure.MeasureError,
            match=r"fake, file: .*ended with 3.* to prompt 512 of: .*\n.*no room",
        ):
            measure.take_turn(side, PLAN, 0)
    for wrong in ("words", "0.0", "-1", "nan", "1 2"):
        with (
            measure.serving(served("wrong", prompt=[wrong])) as side,
            pytest.raises(measure.MeasureError, match="to prompt 512"),
        ):
            measure.take_turn(side, PLAN, 0)


def test_a_turn_tells_what_others_did_meanwhile(monkeypatch):
    """This process is none of the side's, so a thread of it that is busy is another's work; the
    side's own work is not. Only the two are counted, for the machine may be busy."""
    busy = """import time
while input():
    t = time.process_time()
    while time.process_time() - t < 0.6: pass
    print(0.6, flush=True)"""
    done = threading.Event()
    spinning = threading.Thread(target=lambda: [None for _ in iter(done.is_set, True)])
    with measure.serving(Side("a", "file", True, (sys.executable, "-c", busy))) as alone:
        both = lambda: time.process_time() + alone.cpu_seconds()  # noqa: E731
        monkeypatch.setattr(measure, "busy_cpu_seconds", both)
        quiet = measure.take_turn(alone, PLAN, 0).others_cpus
        spinning.start()
        try:
            disturbed = measure.take_turn(alone, PLAN, 0).others_cpus
        finally:
            done.set()
            spinning.join()
    assert disturbed > quiet + 0.05


def test_a_peer_is_given_the_plan():
    form = Form("Q4_0", 2, pure=True, options=("repacked", "no flash"))
    assert form.name == "Q4_0 pure repacked no flash"
    peer = measure.peer_side("fake", Path("driver"), Path("m.gguf"), form, PLAN)
    start = ("driver", "serve", "m.gguf", "2")
    assert peer.command == (*start, "repacked,no flash", "2112")
    assert not peer.is_file
    plain = measure.peer_side("fake", Path("driver"), Path("m.gguf"), Form("file"), PLAN)
    assert plain.command == (*start, "defaults", "2112")
    assert plain.is_file
    assert PLAN._replace(depths=(0,)).positions() == 512
    assert Plan(1, 1, 2, (0,)).positions() == 3


def test_nybble_takes_turns_by_its_own_bench(tmp_path):
    tiny_model(tmp_path / "tiny.gguf", layers=1, dim=64, heads=2, kv_heads=1, vocab=323)
    plan = Plan(threads=1, prompt=9, gen=3, depths=(0, 9, 20))
    side = measure.nybble_side(str(tmp_path / "tiny.gguf"), plan)
    (prefill, *decode) = measure.take_rounds([side], plan, 2, lambda line: None)[measure.ANYWHERE]
    assert len(prefill[side]) == 2
    assert all(turn.rate > 0 and not turn.read_share for turn in prefill[side])
    for turns in decode:
        assert all(turn.rate > 0 and turn.read_share > 0 for turn in turns[side])
        assert all(turn.read_gb_s > 0 for turn in turns[side])
        assert all(turn.barrier_us == 0 for turn in turns[side])  # one thread meets nobody
    with measure.serving(side) as served:
        read = [served.ask(f"bytes {depth} 3")[0] for depth in plan.depths]
        assert served.ask("bytes 0 3")[1] > 0
        with pytest.raises(measure.MeasureError, match="what is this"):
            served.ask("this")
    # one layer of one KV head of 32 dimensions: 128 bytes of half floats a position
    assert [b - a for a, b in zip(read, read[1:], strict=False)] == [9 * 128, 11 * 128]


def machine_of(*barriers_us):
    """What nybble answers, with barriers in turn."""
    barriers = [f"{us}e-6" for us in barriers_us]
    return {"prompt": [1], "reply": [1], "read": [0.01], "bytes": ["1e8 1e8"], "barrier": barriers}


def test_sides_run_in_turn(served, tmp_path):
    sides = [served("nybble", **machine_of(0.2)), served("a", prompt=[2, 4], reply=[8])]
    said = []
    found = measure.take_rounds(sides, PLAN, 2, said.append)
    prefill, shallow, deep = found[measure.ANYWHERE]
    # each round begins with another one
    assert [line.split(": ")[1] for line in said[2:6]] == [
        *("nybble, file", "a, file"),
        *("a, file", "nybble, file"),
    ]
    assert [turn.rate for turn in prefill[sides[1]]] == [256, 128]
    assert [turn.rate for turn in deep[sides[1]]] == [8, 8]
    ours = shallow[sides[0]][0]
    assert (ours.rate, ours.read_gb_s) == (64, 10)
    assert ours.barrier_us == pytest.approx(0.2)
    assert ours.read_share == pytest.approx(0.64)  # 64 tokens/s of 100 MB of 10 GB/s
    assert heard(tmp_path, "a") == [
        *("fill 1", "prompt 512", "prompt 512"),
        *["fill 1", "fill 1", "reply 64"] * 2,
        *["fill 2048", "fill 2048", "reply 64"] * 2,
    ]


def test_where_the_threads_are_is_told_by_the_barrier():
    assert measure.placement_of(0.03, 0.05) == measure.ONE_CORE
    assert measure.placement_of(0.15, 0.3) == measure.TWO_CORES
    assert measure.placement_of(0.03, 0.3) == measure.placement_of(0.3, 0.03) == measure.MOVED
    for alone in ((0, 0), (0, 0.03), (0.3, 0)):
        assert measure.placement_of(*alone) == measure.UNKNOWN


def test_each_placement_has_rounds_of_its_own(served):
    """A turn in which the threads moved counts for neither."""
    looks = [*[0.03] * 3, *[0.2] * 3, *[0.2] * 3, *[0.03] * 3]  # each turn looks three times
    sides = [served("nybble", **machine_of(*looks)), served("a", prompt=[1, 2])]
    plan = PLAN._replace(depths=())
    found = measure.take_rounds(
        sides, plan, 1, lambda line: None, (measure.TWO_CORES, measure.ONE_CORE)
    )
    rates = {
        p: [[turn.rate for turn in figure[side]] for side in sides]
        for p, (figure,) in found.items()
    }
    # nybble on one and on two cores; the peer on two (1 s) and on one (2 s)
    assert rates == {"two cores": [[512], [512]], "one core": [[512], [256]]}
    # one core; two, from which they move during the turn of 1 s; two during that of 2 s
    looks = [0.03, *[0.2, 0.2, 0.03], *[0.2, 0.2, 0.25]]
    nybble = served("nybble", **(machine_of(*looks) | {"prompt": [1, 2]}))
    found = measure.take_rounds([nybble], plan, 1, lambda line: None, (measure.TWO_CORES,))
    (turn,) = found["two cores"][0][nybble]
    assert (turn.rate, turn.barrier_us) == (256, pytest.approx(0.25))


def test_patience_ends_with_the_rounds_that_are_whole(served, monkeypatch):
    monkeypatch.setattr(measure, "LOOK_AGAIN_S", 0.01)
    plan = PLAN._replace(depths=())
    # each turn looks three times: three turns are right, and then the threads stay on one core
    sides = [served("nybble", **machine_of(*[0.2] * 9, 0.03)), served("a", prompt=[1])]
    said = []
    found = measure.take_rounds(sides, plan, 5, said.append, (measure.TWO_CORES,), 1)
    assert [len(turns) for turns in found["two cores"][0].values()] == [1, 1]
    sides = [served("elsewhere", **machine_of(0.2))]
    found = measure.take_rounds(sides, plan, 1, said.append, (measure.ONE_CORE,), 0.1)
    assert found == {measure.ONE_CORE: [{sides[0]: []}]}
    assert (
        said[-1] == "not measured: prefill 512 on one core: the threads were not there for a round"
    )
    assert measure.summary(plan, found[measure.ONE_CORE]) == []


# -- what turns say -------------------------------------------------------------------------------


def rates(*figures):
    """Turns of a side: of each figure its rates."""
    return [[Turn(rate) for rate in figure] for figure in figures]


def by_figure(sides):
    """What take_rounds gives, of each side's turns by figure."""
    return [{side: turns[i] for side, turns in sides.items()} for i in range(3)]


def test_summary_gives_medians_spread_and_ratios():
    found = by_figure(
        {
            side("nybble"): rates((900, 1000, 1100), (300, 200, 250), (100, 120, 110)),
            side("a"): rates((500, 400, 450), (100, 110, 90), (50, 60, 40)),
        }
    )
    rows = measure.summary(PLAN, found)
    assert [(r["figure"], r["side"]) for r in rows] == [
        (figure, name)
        for figure in ("prefill 512", "decode at 0", "decode at 2,048")
        for name in ("nybble", "a")
    ]
    prefill, decode = rows[1], rows[3]
    assert (prefill["tok_s"], prefill["min"], prefill["max"]) == (450, 400, 500)
    assert prefill["nybble_is"] == pytest.approx(1000 / 450)
    assert decode["nybble_is"] == 2.5
    assert decode["rounds"] == [100, 110, 90]
    assert "nybble_is" not in rows[0]


def test_the_read_share_is_the_median_of_the_turns():
    turns = [[Turn(1)], [own(1, 0.5), own(1, 0.75), own(1, 0.6)], [own(1, 0.5)]]
    prefill, shallow, deep = measure.summary(PLAN, by_figure({side("nybble"): turns}))
    assert "read_share" not in prefill
    assert shallow["read_share"] == 0.6
    assert deep["read_share"] == 0.5


def test_the_strongest_is_found_for_each_figure_and_kind_of_file():
    found = by_figure(
        {
            side("nybble"): rates((1000,), (300,), (100,)),
            side("a"): rates((500,), (100,), (50,)),
            side("b"): rates((400,), (120,), (40,)),
            side("b", "Q4_0", is_file=False): rates((2000,), (150,), (60,)),
        }
    )
    rows = measure.summary(PLAN, found)
    strongest = [
        (row["figure"], row["same_file"], row["side"], row["form"], row["nybble_is"])
        for row in measure.against_strongest(rows)
    ]
    assert strongest == [
        ("prefill 512", True, "a", "file", 2),
        ("prefill 512", False, "b", "Q4_0", 0.5),
        ("decode at 0", True, "b", "file", 2.5),
        ("decode at 0", False, "b", "Q4_0", 2),
        ("decode at 2,048", True, "a", "file", 2),
        ("decode at 2,048", False, "b", "Q4_0", pytest.approx(100 / 60)),
    ]


def test_the_fastest_forms_are_those_of_prefill_and_of_decode():
    slow, fast, filler = (side("a", form) for form in ("slow", "fast", "filler"))
    trials = {
        slow: [(10, 10)],
        fast: [(9, 10), (9, 30)],  # its best turn counts
        filler: [(99, 5)],
    }
    assert measure.fastest(trials) == [fast, filler]
    assert measure.fastest({slow: [(10, 10)]}) == [slow]
    assert measure.fastest({}) == []


def test_conditions_leave_out_what_no_turn_tells():
    found = [{side("nybble"): [own(1, read=30, barrier=0), own(1, read=50, barrier=0)]}]
    found.append({side("a"): [Turn(1)]})
    assert measure.conditions(found) == {"read_gb_s": [30, 40, 50], "others_cpus": [0, 0, 0]}


def test_context_costs_are_per_thousand_tokens_where_windows_are_full():
    plan = Plan(threads=1, prompt=8, gen=4, depths=(0, 512, 1024, 2512))
    rates = {"decode at 0": 1e3, "decode at 512": 250, "decode at 1,024": 1, "decode at 2,512": 100}
    rows = [
        {"side": "a", "form": "file", "figure": figure, "tok_s": rate}
        for figure, rate in rates.items()
    ]
    [cost] = measure.context_costs(plan, rows)  # 6 ms of 2,000 tokens
    assert cost.pop("ms") == pytest.approx(3)
    assert cost == {"side": "a", "form": "file", "from": 512, "to": 2512}
    assert measure.context_costs(plan._replace(depths=(0, 512)), rows) == []
    [less] = measure.context_costs(plan, rows[:-1])  # as deep as was measured
    assert less["to"] == 1024


# -- forms ----------------------------------------------------------------------------------------


def test_compare_measures_a_peer_in_its_best_forms(served, tmp_path, monkeypatch):
    """One form cannot be made, one fails in its trial, one is slow, one is fast and goes on."""
    peer = Peer(
        name="fake",
        package="fake-python",
        version="1",
        sha256="",
        tree="",
        forms=(
            Form("file"),
            Form("no", 13),
            Form("crashing", 3),
            Form("slow", 2),
            Form("fast", 2, pure=True),
        ),
    )
    served("m", prompt=[51.2], reply=[6.4])
    model = (tmp_path / "m.model").rename(tmp_path / "m.gguf")
    slow, fast = {"prompt": [51.2], "reply": [6.4]}, {"prompt": [25.6], "reply": [2.56]}
    (tmp_path / "m.2-0").write_text(json.dumps(slow))
    (tmp_path / "m.2-1").write_text(json.dumps(fast))
    (tmp_path / "m.3-0").write_text(json.dumps(slow | {"reply": [6.4, "!crashed"]}))
    nybble = {"prompt": [17.1], "reply": [1.6], "read": [0.01], "bytes": ["1e9 1e9"]}
    own_side = served("nybble", **nybble, barrier=["0.25e-6"])
    monkeypatch.setattr(measure, "nybble_side", lambda model, plan: own_side)
    driver = tmp_path / "driver"

    heard = []
    (got,) = peers.compare("m", model, {peer: driver}, PLAN, 3, tmp_path / "cache", heard.append)
    assert [f["form"] for f in got["failed"]] == ["no", "crashing"]
    assert "crashed" in got["failed"][1]["why"]
    assert "cannot be quantized" in (tmp_path / "cache/models/quantize.log").read_text()
    sides = {(row["side"], row["form"], row["is_file"]) for row in got["rows"]}
    assert sides == {("nybble", "file", True), ("fake", "file", True), ("fake", "fast pure", False)}
    assert [round(s["nybble_is"], 1) for s in got["strongest"]] == [3, 1.5, 4, 1.6, 4, 1.6]
    assert got["placement"] == "anywhere"
    assert got["conditions"]["read_gb_s"] == [100] * 3
    assert got["conditions"]["barrier_us"] == [0.25] * 3
    assert set(got["conditions"]) == {"read_gb_s", "barrier_us", "others_cpus"}
    assert json.loads(json.dumps(got)) == got

    facts = {
        "cpu": "A CPU",
        "flags": ["avx2"],
        "sides": {"nybble": {"version": "1", "compiler": "gcc 12"}},
    }
    lines = "\n".join(report.table(facts, got))
    assert "m, 2 threads, A CPU" in lines
    assert "nybble 1, gcc 12" in lines
    assert "plain read 100.00 GB/s" in lines
    assert "barrier 0.25 us" in lines
    assert "not measured: fake, no" in lines
    assert "other programs kept " in lines
    assert "nybble is 1.60 times the strongest peer in its best form: fake, fast pure" in lines


# -- the rest -------------------------------------------------------------------------------------


def test_cpu_flags_are_those_that_kernels_use():
    assert report.cpu_flags("flags\t\t: fpu fma avx2 avx512_vnni\n") == [
        "avx2",
        "fma",
        "avx512_vnni",
    ]
    assert report.cpu_flags("Features\t: fp asimd asimddp\n") == ["asimd", "asimddp"]
    assert report.cpu_flags("isa\t\t: rv64imafdcv_zicsr_zvfh\n") == ["v", "zvfh"]


def test_the_command_line_teaches_and_refuses(capsys):
    with pytest.raises(SystemExit) as end:
        command_line.main(["--help"])
    assert end.value.code == 0
    assert "examples:" in capsys.readouterr().out
    wrongs = (["--threads", "0"], ["--depth", "-1"], ["--peer", "none"], ["--placement", "here"])
    for wrong in wrongs:
        with pytest.raises(SystemExit) as end:
            command_line.main(wrong)
        assert end.value.code == 2


def test_a_placement_is_of_two_threads(capsys):
    assert command_line.main(["--placement", "two cores"]) == 2
    assert command_line.main(["--placement", "one core", "--threads", "3"]) == 2
    assert "give --threads 2 alone" in capsys.readouterr().err


def test_a_build_that_fails_ends_in_a_sentence(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise build.BuildError("exit status 1 of: cmake\nsee build.log")

    monkeypatch.setattr(build, "build", fail)
    assert command_line.main(["--build", "--cache", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "tools.peers: exit status 1 of: cmake\nsee build.log\n"


# -- what the benchmark wants ---------------------------------------------------------------------


def beside(ours, theirs, best=None):
    """A result of three figures: a peer's on the same file and, with `best`, in another form."""
    figures = ("prefill 512", "decode at 512", "decode at 4,096")
    sides = [("nybble", "file", ours), ("a", "file", theirs), ("a", "Q4_0", best)]
    rows = [
        {"side": side, "form": form, "figure": figure, "tok_s": rate, "is_file": form == "file"}
        for side, form, rates in sides
        for figure, rate in zip(figures, rates or (), strict=False)
    ]
    own = dict(zip(figures, ours, strict=True))
    for row in rows[len(figures) :]:
        row |= {"threads": 2, "nybble_is": own[row["figure"]] / row["tok_s"]}
    plan = Plan(threads=2, prompt=512, gen=64, depths=(512, 4096))
    return {
        "threads": 2,
        "failed": [],
        "strongest": measure.against_strongest(rows),
        "context": measure.context_costs(plan, rows),
    }


def test_rates_that_fall_short_are_told():
    goals = {"prefill 512": (3.0, 1.2), "decode at 512": (1.0, 2.0)}
    enough = beside((120, 200, 150), (100, 100, 50), (100, 100, 50))
    assert bench_peers.missed(enough, goals, True) == []
    slow = beside((110, 200, 150), (100, 100, 50), (100, 120, 50))
    [prefill] = bench_peers.missed(slow, goals, False)
    assert prefill == "prefill 512: 1.10 times a, file; wanted 1.2"
    assert len(bench_peers.missed(slow, goals, True)) == 3  # of both forms, and decode in the best


def test_peers_that_were_not_measured_are_told():
    goals = {"prefill 512": (1.0, 1.0)}
    alone = beside((120, 200, 150), (100, 100, 50))
    assert bench_peers.missed(alone, goals, False) == []
    assert bench_peers.missed(alone, goals, True) == ["prefill 512: no peer was measured"]
    failed = [{"side": "b", "form": form, "why": "it crashed"} for form in ("file", "Q4_0")]
    told = bench_peers.missed(alone | {"failed": failed}, goals, False)
    assert told == ["b could not be measured on the file: it crashed"]
    none = {"threads": 2, "failed": [], "strongest": [], "context": []}
    assert bench_peers.missed(none, goals, False) == [
        "prefill 512: no peer was measured on the file"
    ]


def test_context_that_costs_too_much_is_told():
    # a token takes 4 ms more at 4,096 than at 512, the peer's 5
    [cost] = bench_peers.missed(beside((1, 200, 1000 / 9), (1, 200, 100)), {}, False, 0.6)
    assert cost == "1,000 tokens of context: 1.12 ms; 0.6 times 1.40 wanted"
    assert bench_peers.missed(beside((1, 200, 130), (1, 200, 100)), {}, False, 0.6) == []
