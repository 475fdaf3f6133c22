"""Instruction counts: exact on a program whose instructions are known, and kernel rows as in the
committed table."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections import Counter

import numpy as np
import pytest

import nybble
from tests import emulated
from tests.peers import give_up
from tools import count
from tools.count import __main__ as command_line
from tools.count import baseline, emulator, peer
from tools.count.emulator import CountError
from tools.peers.build import BuildError, default_cache

# Three runs: 2 + 2 * 1000 instructions of `loop` and the two of the call and its argument, three
# times that, and none.
PROGRAM = """
#include <stdio.h>
__attribute__((noinline)) static void count_mark(void) { __asm__ volatile(""); }
void loop(long n);
__asm__(".globl loop\\n.type loop, %function\\nloop:\\n"
        "nop\\n1: subs x0, x0, #1\\nb.ne 1b\\nret\\n.size loop, . - loop\\n");
int main(int n, char **args) {
    (void)args;
    count_mark(), loop(1000), count_mark();
    puts("one");
    count_mark(), loop(1000), loop(1000), loop(1000), count_mark();
    count_mark(), count_mark();
    return n > 1;
}
"""
THREADS = """
#include <pthread.h>
#include <stddef.h>
static void *nothing(void *p) { return p; }
int main(void) {
    pthread_t t;
    return pthread_create(&t, NULL, nothing, NULL) || pthread_join(t, NULL);
}
"""


@pytest.fixture(scope="module", name="plugin")
def fixture_plugin():
    emulated.need_tools()
    try:
        return emulator.build_plugin(default_cache(), print)
    except (BuildError, CountError) as error:
        give_up(f"needs qemu's plugin header: {error}")


def compiled(source, folder):
    (folder / "program.c").write_text(source)
    program = folder / "program"
    command = [count.COMPILER[0], "-O2", "-static", str(folder / "program.c"), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def test_counts_are_exact_and_the_same_again(plugin, tmp_path):
    program = compiled(PROGRAM, tmp_path)
    first, second = (emulator.execute(plugin, "cortex-a53", [program]) for _ in range(2))
    assert first == second
    assert first.stdout == "one\n"
    assert [run["loop"] for run in first.runs] == [2002, 3 * 2002, 0]
    assert [set(run) - {"main"} for run in first.runs] == [{"loop"}, {"loop"}, set()]
    assert all(run["main"] < 10 for run in first.runs)


def test_the_emulator_is_found_where_the_path_says(plugin, monkeypatch, tmp_path):
    (tmp_path / emulator.QEMU).symlink_to(emulator.qemu())
    program = compiled(PROGRAM, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert emulator.execute(plugin, "cortex-a53", [program]).stdout == "one\n"
    (tmp_path / emulator.QEMU).unlink()
    with pytest.raises(CountError, match="qemu-aarch64 is missing"):
        emulator.execute(plugin, "cortex-a53", [program])


def test_a_program_that_fails_or_has_threads_is_not_counted(plugin, tmp_path):
    program = compiled(PROGRAM, tmp_path)
    with pytest.raises(CountError, match="exit status 1 on max of: .*program\none"):
        emulator.execute(plugin, "max", [program, "an argument"])
    with pytest.raises(CountError, match="not the counts of one thread: end vcpus 2"):
        emulator.execute(plugin, "max", [compiled(THREADS, tmp_path)])


def test_kernel_rows_take_what_the_table_says(plugin):
    compiler = count.compiler("gcc").name
    if not baseline.path_of(compiler).exists():
        warning = (
            f"COUNTS NOT COMPARED: there is no table of {compiler}; "
            "`python -m tools.count baseline --write` makes one"
        )
        print(warning, file=sys.__stderr__)
        give_up(warning)
    assert baseline.main([]) == 0, "see above; `python -m tools.count baseline --write` after it"


def test_runs_lie_between_pairs_of_marks():
    text = "0 main 5\n1 f 3\n1 g 2\n1 f 4\n2 main 9\n3 f 1\n4 main 1\nend vcpus 1\n"
    assert emulator.read_runs(text) == [Counter(f=7, g=2), Counter(f=1)]


def test_tokens_are_counted_apart_from_the_prompt():
    runs = [Counter(a=60), Counter(a=40, b=10), Counter(c=999), Counter(a=1, c=4), Counter(a=3)]
    counts = count.per_token(runs, count.Plan(prompt=10, gen=3))
    assert counts == (Counter(a=10, b=1), Counter(a=2, c=2))
    assert counts.as_data()["prefill"] == {"total": 11, "functions": {"a": 10, "b": 1}}
    with pytest.raises(CountError, match="3 runs for a prompt and 3 steps"):
        count.per_token(runs[:3], count.Plan(prompt=10, gen=3))


def test_a_table_tells_what_changed(tmp_path):
    old = {"max": {"same": 1000, "near": 1000, "more": 1000, "fewer": 1000, "gone": 5}}
    new = {"max": {"same": 1000, "near": 1019, "more": 1021, "fewer": 979, "new": 7}, "other": {}}
    assert baseline.compare(old, old) == []
    assert baseline.compare(old, new) == [
        "max: fewer took 1,000 instructions, now 979: -2.1%",
        "max: gone is gone",
        "max: more took 1,000 instructions, now 1,021: +2.1%",
        "max: new is new",
    ]


def test_a_table_is_named_after_its_compiler():
    compiler = "aarch64-linux-gnu-gcc (Debian 12.2.0-14) 12.2.0"
    path = baseline.path_of(compiler)
    assert path.name == "aarch64-linux-gnu-gcc-Debian-12.2.0-14-12.2.0.toml"


def test_without_a_table_nothing_is_said_to_be_right(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(count, "compiler", lambda _: count.Compiler("another gcc 99", ()))
    monkeypatch.setattr(baseline, "FOLDER", tmp_path)
    assert baseline.main([]) == 2
    assert "no table of another gcc 99: nothing was compared" in capsys.readouterr().err


def test_a_slower_row_is_found(monkeypatch, tmp_path, capsys):
    """A committed table, compared with itself and with one in which a row took 3 % less."""
    true = next(baseline.FOLDER.glob("*.toml")).read_text()
    table = tomllib.loads(true)
    row = re.search(r"^(nyb_gemm_q4_1_i8mm) = (\d+)$", true, re.MULTILINE)
    monkeypatch.setattr(count, "compiler", lambda _: count.Compiler(table["compiler"], ()))
    monkeypatch.setattr(emulator, "build_plugin", lambda *_: tmp_path)
    monkeypatch.setattr(baseline, "measure", lambda *_: table["rows"])
    assert baseline.main([]) == 0
    monkeypatch.setattr(baseline, "FOLDER", tmp_path)
    less = true.replace(row[0], f"{row[1]} = {int(row[2]) * 100 // 103}")
    baseline.path_of(table["compiler"]).write_text(less)
    capsys.readouterr()
    assert baseline.main([]) == 1
    assert re.fullmatch(r"max: nyb_gemm_q4_1_i8mm took .*: \+3.0%\n", capsys.readouterr().out)


def test_rows_are_told_from_other_functions():
    assert baseline.is_row("nyb_gemv_q4_1_dotprod")
    assert baseline.is_row("nyb_attend_f16_ref")
    assert not baseline.is_row("nyb_run")
    assert not baseline.is_row("memcpy")


def test_rows_that_should_be_executed():
    functions = ["nyb_run", "nyb_add_ref", "nyb_add_neon", "nyb_embed_f32_ref", "main"]
    assert baseline.best_rows([*functions, "nyb_gemm_q4_0_neon", "nyb_gemm_q4_0_i8mm"]) == {
        "nyb_add_neon",
        "nyb_embed_f32_ref",
        "nyb_gemm_q4_0_neon",
        "nyb_gemm_q4_0_i8mm",
    }


def test_a_row_that_no_model_executes_is_an_error(monkeypatch, tmp_path):
    executed = emulator.Executed("", [Counter(nyb_add_neon=3)])
    monkeypatch.setattr(baseline.replay, "build", lambda *_: None)
    monkeypatch.setattr(baseline, "models", lambda _: [tmp_path])
    monkeypatch.setattr(emulator, "execute", lambda *_: executed)
    rows = ["nyb_add_ref", "nyb_add_neon", "nyb_hadamard_neon"]
    compiler = count.Compiler("gcc", ("gcc",))
    monkeypatch.setattr(baseline, "functions", lambda _: rows[:2])
    assert baseline.measure(compiler, tmp_path, print)["max"] == {"nyb_add_neon": 3}
    monkeypatch.setattr(baseline, "functions", lambda _: rows)
    with pytest.raises(CountError, match="no model here executes nyb_hadamard_neon$"):
        baseline.measure(compiler, tmp_path, print)
    inlines = compiler._replace(inlined=("hadamard",))
    assert baseline.measure(inlines, tmp_path, print)["max"] == {"nyb_add_neon": 3}


def test_a_loop_that_the_table_would_not_see_is_refused():
    baseline.check_names("max", Counter(nyb_gemm_q4_0_i8mm=1000, memcpy=20))
    with pytest.raises(CountError, match="max: multiply takes 30 instructions"):
        baseline.check_names("max", Counter(nyb_gemm_q4_0_i8mm=1000, multiply=30))


def test_the_next_tokens_of_a_dump_are_those_of_its_logits(tmp_path, monkeypatch):
    monkeypatch.setenv("NYBBLE_PACK", "0")
    path = count.random_model(tmp_path)
    count.dump(path, count.Plan(prompt=3, gen=2), tmp_path / "dump")
    got = count.next_tokens(tmp_path / "dump")
    ids = count.arbitrary_ids(5, 8192)
    assert ids[:3] == [0, 7919, 7646]
    with nybble.load(path) as model:
        assert got == [int(np.argmax(model.logits(ids[:n]))) for n in (3, 4, 5)]


def test_the_peer_is_counted_at_its_best(monkeypatch, tmp_path):
    """Options are chosen for prefill and decode apart, and tokens compared with nybble's."""
    totals = {"defaults": (100, 30), "no flash": (90, 40)}

    def count_peer(driver, model, options, plan, cpu, plugin):
        prefill, decode = totals[options]
        return count.Counts(Counter(f=prefill), Counter(f=decode)), [1, 2, 3]

    monkeypatch.setattr(count, "count_peer", count_peer)
    plan = count.Plan(8, 2)
    best = command_line.peer_results(tmp_path, tmp_path, plan, "max", tmp_path, [1, 2, 9])
    assert (best["prefill"]["options"], best["prefill"]["total"]) == ("no flash", 90)
    assert (best["decode"]["options"], best["decode"]["total"]) == ("defaults", 30)
    assert best["all"]["defaults"]["same_tokens"] == [2, 3]
    own = count.Counts(Counter(f=45), Counter(f=15)).as_data()
    facts = {"model": "m", "form": "file", "cpu": "max", "compiler": "gcc", "qemu": "7"}
    lines = [*command_line.table({**facts, "prompt": 8, "nybble": own, "peer": best}, 1)]
    assert "0.500 times" in lines[2]
    assert lines[2].endswith("(no flash), the same next token 2 times of 3")


def test_every_cpu_of_the_table_is_one_that_can_be_counted():
    assert set(baseline.CPUS) <= set(peer.CPUS)
