"""nybble bench: what it feeds, what it counts, what it says."""

import json
from statistics import median

import pytest

from nybble.cli import main
from tools.tiny_model import tiny_model


@pytest.fixture(name="tiny", scope="module")
def fixture_tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "tiny.gguf"
    tiny_model(path, layers=2, dim=96, heads=6, kv_heads=2, vocab=323)
    return str(path)


def bench(capsys, *arguments):
    assert main(["bench", *arguments]) == 0
    return capsys.readouterr().out


def test_bench_measures_decode_at_each_depth(tiny, capsys):
    options = ("--prompt", "20", "--gen", "4", "--runs", "3", "--threads", "1", "--json")
    depths = ("--depth", "0", "--depth", "20", "--depth", "150")
    got = json.loads(bench(capsys, tiny, *options, *depths))
    assert [row["depth"] for row in got["decode"]] == [0, 20, 150]
    assert got["decode_tok_s"] == got["decode"][0]["tok_s"]
    assert len(got["runs"]) == 3
    for i, row in enumerate(got["decode"]):
        rates = sorted(run["decode_tok_s"][i] for run in got["runs"])
        assert row["tok_s"] == rates[1] > 0
        read = got["read_gb_s"] * median(s for run in got["runs"] for s in run["read_s"])
        shares = sorted(
            run["decode_tok_s"][i] * row["bytes_per_token"] / 1e9 / (read / run["read_s"][i])
            for run in got["runs"]
        )
        assert row["read_share"] == pytest.approx(shares[1])
    # K and V of 2 layers, 2 KV heads of 16 dimensions, in halves
    nbytes = [row["bytes_per_token"] for row in got["decode"]]
    assert nbytes[1] - nbytes[0] == 20 * 2 * 2 * 2 * 16 * 2
    assert nbytes[2] - nbytes[1] == 130 * 2 * 2 * 2 * 16 * 2


def test_bench_decodes_after_the_prompt_unless_told_otherwise(tiny, capsys):
    options = ("--prompt", "20", "--gen", "4", "--runs", "1", "--threads", "1", "--json")
    got = json.loads(bench(capsys, tiny, *options))
    assert [row["depth"] for row in got["decode"]] == [20]
    assert got["barrier_us"] is None  # one thread meets nobody


def test_bench_prints_a_barrier_for_several_threads(tiny, capsys):
    options = ("--prompt", "8", "--gen", "2", "--runs", "1")
    out = bench(capsys, tiny, *options, "--threads", "2", "--depth", "3")
    assert "decode" in out
    assert "tokens/s" in out
    assert " at 3" in out
    assert "\nbarrier " in out
    assert "\nbarrier" not in bench(capsys, tiny, *options, "--threads", "1")


@pytest.mark.parametrize(
    "wrong", [("--depth", "-1"), ("--runs", "0"), ("--prompt", "0"), ("--gen", "0")]
)
def test_bench_refuses_numbers_that_mean_nothing(tiny, capsys, wrong):
    assert main(["bench", tiny, *wrong]) == 2
    assert wrong[0] in capsys.readouterr().err


def test_bench_takes_a_context_and_a_budget(tiny, capsys):
    options = ("--prompt", "8", "--gen", "2", "--runs", "1", "--threads", "1", "--json")
    assert json.loads(bench(capsys, tiny, *options))["context"] == 11
    assert json.loads(bench(capsys, tiny, *options, "--context", "200"))["context"] == 200
    for flags, code, says in (
        (("--context", "10"), 2, "--context must be 11 or more"),
        (("--context", "0"), 2, "--context must be 11 or more"),
        (("--memory", "3MiB"), 3, "allow more (--memory)"),
        (("--memory", "3MiB"), 3, "for a smaller context lower --prompt, --depth and --gen too"),
        (("--memory", "lots"), 2, "memory must be an amount"),
    ):
        assert main(["bench", tiny, *options, *flags]) == code
        assert says in capsys.readouterr().err
