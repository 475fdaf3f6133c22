"""The memory plan: what it counts, how a model is made to fit, and that the kernel agrees."""

import pytest

import nybble
from nybble import board, machine, packing, planning
from nybble.cli import main
from nybble.errors import BudgetError, ContextError, FormatError, UsageError
from tools.tiny_model import tiny_model

MIB = 1 << 20


@pytest.fixture
def tiny(tmp_path):
    tiny_model(tmp_path / "tiny.gguf")
    return str(tmp_path / "tiny.gguf")


def planned(path, budget, context=512, sequences=1, on_exceed="refuse", kv="f16"):
    return planning.plan(
        packing.read(path),
        context=context,
        sequences=sequences,
        threads=1,
        budget=(budget, "test"),
        held=10 * MIB,
        on_exceed=on_exceed,
        kv=kv,
    )


@pytest.mark.parametrize(
    ("amount", "nbytes"),
    [
        (12345, 12345),
        ("300MiB", 300 * MIB),
        (" 1.5 GiB ", 1536 * MIB),
        ("64m", 64 * MIB),
        ("2g", 2 << 30),
        ("100 MB", 100_000_000),
        ("512", 512),
        ("7kb", 7000),
    ],
)
def test_amounts(amount, nbytes):
    assert planning.nbytes_of("memory", amount) == nbytes


@pytest.mark.parametrize(
    "amount", ["", "MiB", "-3MiB", "3 apples", "1e400", "nan", "inf g", 0, -1, True, 1.5, None, []]
)
def test_what_is_no_amount(amount):
    with pytest.raises(UsageError, match="memory must be an amount such as 300MiB"):
        planning.nbytes_of("memory", amount)


def test_who_says_how_much(monkeypatch):
    monkeypatch.delenv("NYBBLE_MEMORY", raising=False)
    nbytes, who = planning.budget_of(None, 5 * MIB)
    assert nbytes >= 5 * MIB
    assert who.startswith(("what the machine", "its"))
    monkeypatch.setenv("NYBBLE_MEMORY", "77MiB")
    assert planning.budget_of(None, 0) == (77 * MIB, "NYBBLE_MEMORY")
    assert planning.budget_of("99MiB", 0) == (99 * MIB, "memory")
    monkeypatch.setenv("NYBBLE_MEMORY", "lots")
    with pytest.raises(UsageError, match="NYBBLE_MEMORY must be an amount"):
        planning.budget_of(None, 0)


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
    monkeypatch.setattr(machine, "held_bytes", lambda: 10 * MIB)
    monkeypatch.setattr(planning, "_CHUNKS", (chunk,))
    threads = machine.default_threads()
    plan = planning.plan(
        packing.read(path), context=512, sequences=1, threads=threads, budget=(1, ""),
        held=10 * MIB, on_exceed="tell",
    )  # fmt: skip
    monkeypatch.undo()
    monkeypatch.setattr(machine, "held_bytes", lambda: 10 * MIB)
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
    with pytest.raises(BudgetError, match="no context makes it fit"):
        planned(tiny, 10 * MIB)


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
    with pytest.raises(UsageError, match="on_exceed must be 'refuse' or 'adapt'"):
        planned(tiny, budget, on_exceed="shrug")


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


# -- how keys and values are stored


def kv_bytes(plan):
    return next(line.nbytes for line in plan.lines if line.what.startswith("KV cache"))


def test_fewer_bits_take_less_memory(tiny):
    """32 columns are 64 bytes of halves, or 32 of int8 and a half as their scale."""
    halves, v8, int8 = (planned(tiny, 1 << 40, kv=kv) for kv in ("f16", "v8", "int8"))
    assert kv_bytes(v8) == kv_bytes(halves) * (64 + 34) // 128
    assert kv_bytes(int8) == kv_bytes(halves) * 34 // 64
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
    assert "the context is" in plan.notice
    assert "stored as v8" in plan.notice
    assert planned(tiny, less, on_exceed="adapt", kv="int8").kv == "int8"


def test_a_model_of_fewer_bits_says_so(tiny):
    for kv in ("f16", "v8", "int8"):
        model = nybble.load(tiny, context=256, kv=kv)
        reply = model.complete("abc", max_tokens=3)
        assert reply.text is not None
        assert (model.plan.kv, reply.stats.kv) == (kv, kv)
    for bad in ("q4", "F16", None, 8, ["v8"]):
        with pytest.raises(UsageError, match="kv must be 'f16', 'v8', 'int8' or 'auto'"):
            nybble.load(tiny, kv=bad)


# -- boards


@pytest.mark.parametrize("id", board.boards())
def test_boards_are_sound(id):
    found = board.load(id)
    assert found.id == id
    assert found.clusters[0].cores >= 1


GOOD = {
    "name": "X",
    "isa": "aarch64",
    "clusters": [{"cpu": "cortex-a53", "cores": 4, "ghz": 1.0}],
    "memory_mib": [512],
    "page_size": 4096,
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"isa": "z80"}, "isa"),
        ({"wings": 2}, "wings is unknown"),
        ({"read_gb_s": 3.0}, "come together"),
        ({"read_gb_s": -1.0, "source": "x"}, "out of range"),
        ({"clusters": []}, "empty"),
        ({"clusters": [{"cpu": "x"}]}, "a cluster has"),
        ({"clusters": [{"cpu": "x", "cores": 0, "ghz": 1.0}]}, "out of range"),
        ({"memory_mib": [1024, 512]}, "in order"),
        ({"page_size": 5000}, "page_size"),
        ({"qemu_cpu": "cortex-a53"}, "qemu_cpu and expect_level come together"),
        ({"expect_level": "neon"}, "qemu_cpu and expect_level come together"),
        ({"qemu_cpu": 53, "expect_level": "neon"}, "texts"),
    ],
)
def test_bad_boards(change, says):
    board.parsed("good", GOOD)
    with pytest.raises(FormatError, match=says):
        board.parsed("bad", {**GOOD, **change})
    for key in GOOD:
        with pytest.raises(FormatError, match=f"{key} is missing"):
            board.parsed("bad", {k: v for k, v in GOOD.items() if k != key})


def test_an_unknown_board():
    with pytest.raises(UsageError, match="no board 'toaster'; known: android-a76"):
        board.load("toaster")


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
    assert "it does not fit" in capsys.readouterr().out


def test_plan_json_on_a_board(tiny, capsys):
    import json

    assert main(["plan", tiny, "--board", "rpi5", "--sequences", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["total_bytes"] == sum(line["nbytes"] for line in said["lines"])
    assert (said["board"], said["sequences"], said["fits"]) == ("rpi5", 2, True)
    assert said["decode_tok_s"] == round(11.8e9 / said["read_bytes"], 1)
    assert main(["plan", tiny, "--board", "rpi3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decode_tok_s"] is None


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--board", "toaster"], 2),
        (["--memory", "lots"], 2),
        (["--sequences", "0"], 2),
        (["--threads", "0"], 2),
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
    assert "needs" in capsys.readouterr().err
    assert main(["run", tiny, "abc", "--memory", "2GiB", "--max-tokens", "3"]) == 0
