"""The memory plan: what it counts, how a model is made to fit, and that the kernel agrees."""

import json
import mmap
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import nybble
from nybble import board, machine, packing, planning
from nybble._core.sequence import sizes
from nybble.cli import main
from nybble.errors import BudgetError, ContextError, FormatError, UsageError
from tools.tiny_model import tiny_model

MIB = 1 << 20
ROOT = Path(__file__).parents[1]


@pytest.fixture
def tiny(tmp_path):
    tiny_model(tmp_path / "tiny.gguf")
    return str(tmp_path / "tiny.gguf")


def planned(path, budget, context=512, sequences=1, on_exceed="refuse", kv=None, id=None):
    return planning.plan(
        packing.read(path),
        context=context,
        sequences=sequences,
        threads=1,
        budget=planning.Budget(budget, "test", "ask the test for more"),
        held=10 * MIB,
        on_exceed=on_exceed,
        kv=kv,
        board=id and board.load(id),
    )


@pytest.mark.parametrize(
    ("amount", "nbytes"),
    [
        (1234567, 1234567),
        ("300MiB", 300 * MIB),
        (" 1.5 GiB ", 1536 * MIB),
        ("64m", 64 * MIB),
        ("300Mi", 300 * MIB),
        ("1048576", MIB),
        ("2000 kb", 2_000_000),
        ("2g", 2 << 30),
        ("100 MB", 100_000_000),
        (np.int64(1234567), 1234567),
    ],
)
def test_amounts(amount, nbytes):
    assert planning.nbytes_of("memory", amount) == nbytes


@pytest.mark.parametrize(
    "amount",
    [
        "",
        "MiB",
        "-3MiB",
        "3 apples",
        "1e400",
        "nan",
        "inf g",
        "1_0MiB",
        "\u0663MiB",
        0,
        -1,
        True,
        1.5,
        None,
        [],
    ],
)
def test_what_is_no_amount(amount):
    with pytest.raises(UsageError, match="memory must be an amount such as 300MiB"):
        planning.nbytes_of("memory", amount)


@pytest.mark.parametrize(
    ("amount", "says"),
    [
        ("300", "300 bytes; did you mean 300MiB?"),
        (300, "300 bytes; did you mean 300MiB?"),
        ("7kb", "7,000 bytes"),
        (MIB - 1, "1,048,575 bytes; did you mean 1048575MiB?"),
    ],
)
def test_an_amount_without_a_unit_is_asked_about(amount, says):
    with pytest.raises(UsageError) as caught:
        planning.nbytes_of("memory", amount)
    assert str(caught.value) == f"memory must be 1 MiB or more, not {says}"


def test_who_says_how_much(monkeypatch):
    monkeypatch.delenv("NYBBLE_MEMORY", raising=False)
    budget = planning.budget_of(None, 5 * MIB)
    assert budget.nbytes >= 5 * MIB
    assert budget.who.startswith(("what the machine", "its"))
    monkeypatch.setenv("NYBBLE_MEMORY", "77MiB")
    assert planning.budget_of(None, 0)[:2] == (77 * MIB, "NYBBLE_MEMORY")
    assert planning.budget_of("99MiB", 0)[:2] == (99 * MIB, "memory=")
    monkeypatch.setenv("NYBBLE_MEMORY", "lots")
    with pytest.raises(UsageError, match="NYBBLE_MEMORY must be an amount"):
        planning.budget_of(None, 0)


def test_more_is_asked_of_who_said_how_much(monkeypatch):
    monkeypatch.delenv("NYBBLE_MEMORY", raising=False)
    assert planning.budget_of("60MiB", 0).way_out == "allow more (memory=)"
    assert planning.budget_of(None, 0).way_out in ("close other programs", "raise that limit")
    monkeypatch.setenv("NYBBLE_MEMORY", "60MiB")
    assert planning.budget_of(None, 0).way_out == "allow more"


def test_a_plan_adds_up(tiny):
    plan = planned(tiny, 1 << 40)
    assert plan.total_bytes == sum(line.nbytes for line in plan.lines)
    assert (plan.context, plan.chunk, plan.fits) == (512, 128, True)
    twice = planned(tiny, 1 << 40, sequences=2)
    kv = [next(line.nbytes for line in p.lines if "KV" in line.what) for p in (plan, twice)]
    assert kv[1] == 2 * kv[0] > 0
    assert plan.as_dict()["lines"][0] == {
        "what": "Python, and what it holds already",
        "nbytes": 10 * MIB,
    }


def test_more_positions_than_there_may_be_are_refused(tiny):
    program = packing.read(tiny).program
    kv_bytes, _ = sizes(program, 1 << 31)
    assert kv_bytes == sizes(program, 1 << 30)[0] * 2
    with pytest.raises(BudgetError, match="1,024 times a context of 537,919,488 tokens is more"):
        sizes(program, 537919488, sequences=1024)
    with pytest.raises(BudgetError, match="than the 2,147,483,648 that there may be in all"):
        planned(tiny, 1 << 40, context=1 << 31, sequences=256, on_exceed="tell")


def test_what_the_engine_refuses_names_the_file(tiny, monkeypatch):
    """Nothing in a file is known to come so far."""

    def refused(*_):
        raise FormatError("this model cannot be run so: it is too odd (at 0, value 7)")

    monkeypatch.setattr(planning, "sizes", refused)
    with pytest.raises(FormatError, match=r"tiny\.gguf: this model cannot be run so: it is too"):
        nybble.load(tiny)


def test_a_smaller_chunk_is_tried_first_and_changes_no_token(tiny, monkeypatch):
    whole = planned(tiny, 1 << 40)
    plan = planned(tiny, whole.total_bytes - 1)
    assert (plan.context, plan.chunk) == (512, 64)
    texts = set()
    for chunk in (128, 16):
        model = nybble.load(tiny, context=512, memory=least_memory(tiny, monkeypatch, chunk))
        texts.add(model.complete("abcab" * 30, max_tokens=20, ignore_eos=True).text)
        assert model.plan.chunk == chunk
    assert len(texts) == 1


def least_memory(path, monkeypatch, chunk):
    """The least budget for that chunk; from now on this process is taken to hold 10 MiB."""
    monkeypatch.setattr(planning, "held_bytes", lambda: 10 * MIB)
    monkeypatch.setattr(planning, "_CHUNKS", (chunk,))
    threads = machine.default_threads()
    plan = planning.plan(
        packing.read(path), context=512, sequences=1, threads=threads, 
        budget=planning.Budget(1, "", ""),
        held=10 * MIB, on_exceed="tell",
    )  # fmt: skip
    monkeypatch.undo()
    monkeypatch.setattr(planning, "held_bytes", lambda: 10 * MIB)
    return plan.total_bytes


def test_what_does_not_fit_is_refused_with_the_numbers_and_a_way_out(tiny):
    least = planned(tiny, 1, on_exceed="tell")
    assert (least.fits, least.chunk) == (False, 16)
    with pytest.raises(BudgetError) as caught:
        planned(tiny, least.total_bytes - 100_000)
    said = str(caught.value)
    assert "tiny.gguf needs" in said
    assert "(test)" in said
    assert "fits (--context " in said
    assert said.endswith(
        f"; {planned(tiny, least.total_bytes - 100_000, on_exceed='tell').ways_out}"
    )
    one_page = planned(tiny, 1, context=128, on_exceed="tell").total_bytes / MIB
    told = f"of 128 takes {one_page:.1f} MiB: ask the test for more, or take a smaller model"
    with pytest.raises(BudgetError, match=f"no context makes it fit, for one {told}"):
        planned(tiny, 10 * MIB)
    with pytest.raises(BudgetError, match="one of 100 takes"):
        planned(tiny, 10 * MIB, context=100)


def test_adapting_takes_the_largest_context_that_fits(tiny):
    budget = planned(tiny, 1, on_exceed="tell").total_bytes - 100_000
    plan = planned(tiny, budget, on_exceed="adapt")
    assert plan.fits
    assert plan.context % 128 == 0
    assert plan.asked_context == 512
    assert not planned(tiny, budget, context=plan.context + 128, on_exceed="tell").fits
    assert "not 512" in plan.notice
    with pytest.raises(BudgetError):
        planned(tiny, 10 * MIB, on_exceed="adapt")


# A space to Python and none to Unicode, with which minijinja is not trusted.
ODD = [{"role": "user", "content": "a\x1cb"}]


def test_messages_that_need_jinja2_are_planned_when_they_come(smollm2_path, monkeypatch):
    monkeypatch.setattr(planning, "is_loaded", lambda module: False)
    model = nybble.load(smollm2_path, context=256, threads=1, memory="4GiB")
    before, held = model.plan.total_bytes, planning.held_bytes()
    assert model.ask("ab", max_tokens=1).text is not None
    assert (model.plan.total_bytes, planning.held_bytes()) == (before, held)
    for _ in range(2):
        assert model.ask(ODD, max_tokens=1).text is not None
        assert model.plan.total_bytes == before + 8 * MIB
        assert model.plan.total_bytes == sum(line.nbytes for line in model.plan.lines)
        assert planning.held_bytes() == held + 8 * MIB


def test_messages_that_need_jinja2_are_refused_where_it_does_not_fit(smollm2_path, monkeypatch):
    monkeypatch.setattr(planning, "is_loaded", lambda module: False)
    monkeypatch.setattr(planning, "_CHUNKS", (128,))
    flags = {"context": 256, "threads": 1}
    free = nybble.load(smollm2_path, **flags, memory="4GiB")
    held = free.plan.total_bytes
    monkeypatch.setattr(planning, "held_bytes", lambda: held)
    least = nybble.load(smollm2_path, **flags, memory="4GiB").plan.total_bytes
    model = nybble.load(smollm2_path, **flags, memory=least + 8 * MIB - 1)
    with pytest.raises(
        BudgetError, match=r"these messages need jinja2, 8\.0 MiB more than .*memory="
    ):
        model.ask(ODD, max_tokens=1)
    assert model.plan.total_bytes == least
    assert model.ask("ab", max_tokens=1).text is not None
    nybble.load(smollm2_path, **flags, memory=least + 8 * MIB).ask(ODD, max_tokens=1)
    monkeypatch.setattr(planning, "is_loaded", lambda module: True)
    assert model.ask(ODD, max_tokens=1).text is not None


@pytest.mark.parametrize("on_exceed", ["tell", "shrug", None, ["adapt"]])
def test_who_loads_may_refuse_or_adapt_and_nothing_else(tiny, on_exceed):
    with pytest.raises(UsageError, match="on_exceed must be 'refuse' or 'adapt'"):
        nybble.load(tiny, memory="1MiB", on_exceed=on_exceed)


def test_an_adapted_model_says_so_and_runs(tiny, monkeypatch):
    budget = least_memory(tiny, monkeypatch, 16) - 100_000
    model = nybble.load(tiny, context=512, memory=budget, on_exceed="adapt")
    assert model.context == model.plan.context < 512
    assert "the context is" in model.notice
    reply = model.complete("abc", max_tokens=3)
    assert reply.text is not None
    assert reply.stats.context == model.context
    with pytest.raises(ContextError):
        model.complete("abc" * 1024)


def test_a_model_is_promised_what_it_has_yet_to_touch(tiny, monkeypatch):
    monkeypatch.setenv("NYBBLE_PACK", "0")  # else the first is packed, and its plan is larger
    before = planning.held_bytes()
    first = nybble.load(tiny, context=512)
    own = first.plan.total_bytes - first.plan.lines[0].nbytes
    assert planning.held_bytes() >= before + own
    second = nybble.load(tiny, context=512)
    assert second.plan.lines[0].nbytes >= before + own
    assert second.plan.total_bytes >= before + 2 * own
    reply = first.complete("abc", max_tokens=3)
    del first
    assert planning.held_bytes() >= before + 2 * own  # the reply has its memory
    del reply, second
    assert planning.held_bytes() < before + own


def replies_line(plan):
    return next(line.nbytes for line in plan.lines if line.what == "templates and replies")


def test_tokens_of_all_sequences_are_counted(tiny):
    one, many = (replies_line(planned(tiny, 1 << 40, sequences=n)) for n in (1, 101))
    assert many - one == pytest.approx(100 * 512 * planning.TOKEN, abs=mmap.PAGESIZE)


def test_a_token_of_a_reply_takes_no_more_than_is_counted(smollm2_path):
    model, taken = nybble.load(smollm2_path, context=512), []
    for n in (1, 50, 450):  # the first loads what is loaded once
        model.forget()
        tracemalloc.start()
        reply = model.complete("Once upon a time", max_tokens=n, ignore_eos=True)
        assert reply.text
        taken.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        del reply
    assert 50 < (taken[2] - taken[1]) / 400 <= planning.TOKEN


def test_templates_are_planned_for_the_engine_that_makes_them(tiny, smollm2_path, monkeypatch):
    known = planned(smollm2_path, 1 << 40)
    monkeypatch.setitem(sys.modules, "minijinja", None)
    assert replies_line(planned(smollm2_path, 1 << 40)) == replies_line(known) + planning.JINJA2
    rpi4, k1 = (planned(smollm2_path, 1 << 40, id=id) for id in ("rpi4", "spacemit-k1"))
    assert replies_line(k1) == replies_line(rpi4) + planning.JINJA2


def test_threads_that_load_at_once_count_each_other(tiny, monkeypatch):
    monkeypatch.setenv("NYBBLE_PACK", "0")
    plan = planning.plan

    def slow(*args, **options):
        time.sleep(0.2)  # the other would have looked by then
        return plan(*args, **options)

    monkeypatch.setattr(planning, "plan", slow)
    with ThreadPoolExecutor(2) as threads:
        models = list(threads.map(lambda _: nybble.load(tiny, context=512), range(2)))
    first, second = sorted((model.plan for model in models), key=lambda plan: plan.total_bytes)
    assert second.lines[0].nbytes >= first.total_bytes


# -- how keys and values are stored


def kv_bytes(plan):
    return next(line.nbytes for line in plan.lines if line.what.startswith("KV cache"))


def test_fewer_bits_take_less_memory(tiny):
    """32 columns are 64 bytes of halves, or 32 of int8 and a half as their scale."""
    halves, v8, int8 = (planned(tiny, 1 << 40, kv=kv) for kv in ("f16", "v8", "int8"))
    page = mmap.PAGESIZE
    assert 0 <= kv_bytes(v8) - kv_bytes(halves) * (64 + 34) // 128 < page
    assert 0 <= kv_bytes(int8) - kv_bytes(halves) * 34 // 64 < page
    assert halves.read_bytes > v8.read_bytes > int8.read_bytes
    assert (v8.kv, v8.as_dict()["kv"], v8.asked_kv, v8.notice) == ("v8", "v8", "v8", "")
    assert "float16 and int8 (v8)" in v8.lines[-2].what


def test_auto_takes_v8_where_halves_do_not_fit(tiny):
    room, tight = (planned(tiny, 1, on_exceed="tell", kv=kv).total_bytes for kv in ("f16", "v8"))
    assert planned(tiny, room, kv="auto").kv == "f16"
    plan = planned(tiny, tight, kv="auto")
    assert (plan.kv, plan.context, plan.fits) == ("v8", 512, True)
    assert "stored as v8, not f16" in plan.notice
    with pytest.raises(BudgetError):
        planned(tiny, tight - 1, kv="auto")
    with pytest.raises(BudgetError, match="--kv v8"):
        planned(tiny, tight)


def test_adapting_goes_no_further_than_v8_and_shortens_the_context_last(tiny):
    tight = planned(tiny, 1, on_exceed="tell", kv="v8").total_bytes
    plan = planned(tiny, tight, on_exceed="adapt")
    assert (plan.kv, plan.asked_kv, plan.context) == ("v8", "f16", 512)
    less = planned(tiny, 1, context=384, on_exceed="tell", kv="v8").total_bytes
    plan = planned(tiny, less, on_exceed="adapt")
    assert (plan.kv, plan.context) == ("v8", 384)
    assert plan.notice.startswith(
        "the context is 384 tokens, not 512, and keys and values are stored as v8, not f16: more "
    )
    assert planned(tiny, less, on_exceed="adapt", kv="int8").kv == "int8"


def test_adapting_keeps_the_halves_that_were_asked_for(tiny):
    tight = planned(tiny, 1, on_exceed="tell", kv="v8").total_bytes
    plan = planned(tiny, tight, on_exceed="adapt", kv="f16")
    assert plan.kv == "f16"
    assert plan.context < 512
    assert "stored as" not in plan.notice


def test_a_model_of_fewer_bits_says_so(tiny):
    for kv in ("f16", "v8", "int8"):
        model = nybble.load(tiny, context=256, kv=kv)
        reply = model.complete("abc", max_tokens=3)
        assert reply.text is not None
        assert (model.plan.kv, reply.stats.kv) == (kv, kv)
    for bad in ("q4", "F16", "", 8, ["v8"]):
        with pytest.raises(UsageError, match="kv must be 'f16', 'v8', 'int8' or 'auto'"):
            nybble.load(tiny, kv=bad)


# -- the command line


def test_plan_prints_lines_and_exits_by_them(tiny, capsys):
    assert main(["plan", tiny, "--context", "256"]) == 0
    out = capsys.readouterr().out
    assert "KV cache of 256 tokens, float16" in out
    assert "it fits" in out
    assert "add to the KL divergence" not in out
    assert main(["plan", tiny, "--kv", "int8"]) == 0
    said = "int8 add to the KL divergence from float32: smollm2-135m 0.000"
    assert said in capsys.readouterr().out
    assert main(["plan", tiny, "--memory", "1MiB"]) == 3
    out = capsys.readouterr().out
    assert "it does not fit; no context makes it fit" in out
    assert "1.0 MiB  (--memory)" in out


def test_plan_says_what_run_would_say(tiny, capsys, monkeypatch):
    assert main(["plan", tiny, "--context", "512", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ways_out"] == ""
    flags = ["--context", "512", "--memory", str(least_memory(tiny, monkeypatch, 16) - 100_000)]
    monkeypatch.setattr("sys.stdin", None)
    assert main(["plan", tiny, *flags, "--json"]) == 3
    ways_out = json.loads(capsys.readouterr().out)["ways_out"]
    assert "fits (--context " in ways_out
    assert main(["plan", tiny, *flags]) == 3
    assert f"it does not fit; {ways_out}" in capsys.readouterr().out.splitlines()
    assert main(["run", tiny, "abc", *flags]) == 3
    assert capsys.readouterr().err.endswith(f"(--memory); {ways_out}\n")


def test_a_refusal_names_the_model_as_its_user_does(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("NYBBLE_HOME", str(tmp_path))
    monkeypatch.setattr(packing, "WORTH_A_COPY", 0)
    nybble.load(tiny)
    with pytest.raises(BudgetError) as caught:
        nybble.load(tiny, memory="3MiB")
    said = str(caught.value)
    assert said.startswith(f"{tiny} needs ")
    assert "3.0 MiB (memory=); no context makes it fit" in said
    assert "allow more (memory=)" in said


def test_one_token_is_one(tiny, capsys):
    assert main(["plan", tiny, "--context", "1"]) == 0
    out = capsys.readouterr().out
    assert "KV cache of 1 token, float16" in out
    assert "with 1 token in the cache" in out


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--board", "toaster"], 2),
        (["--memory", "lots"], 2),
        (["--sequences", "0"], 2),
        (["--threads", "0"], 2),
        (["--threads", "0", "--board", "rpi4"], 2),
        (["--threads", "65", "--board", "rpi4"], 2),
        (["--memory", "lots", "--board", "rpi4"], 2),
        (["--memory", "", "--board", "rpi4"], 2),
        (["--sequences", "0", "--board", "rpi4"], 2),
        (["--context", "0", "--board", "rpi4"], 2),
        (["--context", "0"], 2),
        (["--context", "99999999"], 3),
    ],
)
def test_plan_refuses_nonsense(tiny, flags, code, capsys):
    assert main(["plan", tiny, *flags]) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_run_takes_a_budget(tiny, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    assert main(["run", tiny, "abc", "--memory", "3MiB", "--max-tokens", "3"]) == 3
    said = capsys.readouterr().err
    assert "needs" in said
    assert "allow more (--memory), or take a smaller model" in said
    assert main(["run", tiny, "abc", "--memory", "2GiB", "--max-tokens", "3"]) == 0
