"""docs/boards.md expects of boards what `nybble plan` does."""

import json
import re
from pathlib import Path

import pytest

import nybble
from nybble import board
from nybble.cli import main

TEXT = (Path(__file__).parents[2] / "docs/boards.md").read_text()
TABLE = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("|")
]
HEADER, ROWS = TABLE[0], TABLE[2:]


def planned(capsys, model, id, *flags):
    main(["plan", model, "--board", id, "--json", *flags])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_rates_are_those_of_the_plan(row, capsys, smollm2_path, gemma3_path, qwen_coder_path):
    paths = dict(zip(HEADER[2:], (smollm2_path, gemma3_path, qwen_coder_path), strict=True))
    for id in re.findall(r"`([^`]+)`", row[0]):
        read = board.load(id).read_gb_s
        assert row[1] == (f"{read:g} GB/s" if read else "not known")
        for (model, path), cell in zip(paths.items(), row[2:], strict=True):
            assert Path(path).stem.startswith(model)
            assert cell == str(planned(capsys, path, id)["decode_tok_s"] or "")


def test_what_fits_a_zero_2_w(capsys, smollm2_path, gemma3_path, qwen_coder_path):
    paths = (smollm2_path, gemma3_path, qwen_coder_path)
    for path in paths[:2]:
        nybble.load(path)  # which packs it: from then on a plan is one of the packed file
    plans = [planned(capsys, path, "rpi-zero-2w") for path in paths]
    assert [plan["fits"] for plan in plans] == [True, False, False]
    told = r"smollm2-135m fits \((\d+) MiB.*?gemma3-270m \((\d+)\s+MiB\) and .*? do not"
    (said,) = re.findall(told, TEXT, re.DOTALL)
    assert [round(plan["total_bytes"] / 2**20) for plan in plans[:2]] == [int(n) for n in said]
    zero = board.load("rpi-zero-2w")
    told = r"(\d+) MiB Linux sees (\d+).*?takes (\d+).*?(\d+)\s+are left to others.*?may take (\d+)"
    (said,) = re.findall(told, TEXT, re.DOTALL)
    assert [int(n) for n in said] == [
        *(512, zero.linux_mib, zero.idle_mib, 64, plans[0]["budget_bytes"] >> 20),
    ]


def test_what_fits_a_zero_2_w_beside_a_camera(capsys, smollm2_path):
    """Of whose MemAvailable, 233,696 kB, load leaves 64 MiB to others, as anywhere."""
    told = r"only (\d+) MiB were left, which smollm2-135m fits with `--context (\d+)`"
    memory, context = re.search(told, TEXT).groups()
    assert int(memory) == 233_696 // 1024 - 64
    ways_out = planned(capsys, smollm2_path, "rpi-zero-2w", "--memory", f"{memory}MiB")["ways_out"]
    assert f"(--context {context}, " in ways_out


def test_every_way_to_a_token_has_at_most_five_lines():
    blocks = re.findall(r"^```\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    ways = [block for block in blocks if "nybble run" in block]
    assert len(ways) == 3
    for way in ways:
        assert way.count("\n") <= 5
        assert way.startswith("scp dist/nybble-*aarch64.whl nybble.local:\n")  # from a wheel on
