"""nybble doctor: which rows, and why these."""

import json
import os
from types import SimpleNamespace

import pytest

from nybble import machine
from nybble._core import native
from nybble.cli import main


def doctor(capsys, *arguments):
    assert main(["doctor", *arguments]) == 0
    return capsys.readouterr().out


def test_doctor_knows_the_row_of_every_operation(capsys):
    found = json.loads(doctor(capsys, "--json"))
    rows = native.rows()
    assert set(found["kernels"]) == {row["name"].removesuffix("_" + row["level"]) for row in rows}
    for name, row in found["kernels"].items():
        runs = [r["level"] for r in rows if r["name"] == f"{name}_{r['level']}" and r["runs"]]
        assert row["level"] == runs[0]
    assert {level for row in found["kernels"].values() for level in row["lacking"]} <= {
        row["level"] for row in rows if not row["runs"]
    }


def test_doctor_says_why_a_row_is_not_a_better_one(capsys, monkeypatch):
    monkeypatch.setenv("NYBBLE_ISA", "ref")
    out = doctor(capsys)
    better = {row["level"] for row in native.rows() if row["name"].startswith("gemv_q4_1_")}
    better.discard("ref")
    assert "plain C, of which there is no faster row\n          embed_bf16" in out
    for level in better:
        assert f"NYBBLE_ISA=ref lacks what {level}" in out or f"and {level} need" in out
    kernels = json.loads(doctor(capsys, "--json"))["kernels"]
    assert set(kernels["gemv_q4_1"]["lacking"]) == better


@pytest.mark.parametrize("width", ["40", "100"])
def test_doctor_fits_a_terminal(capsys, monkeypatch, width):
    monkeypatch.setattr("nybble.cli.doctor.columns", lambda _: int(width))
    lines = doctor(capsys).splitlines()
    kernels = [line for line in lines if line.startswith(" " * 10) and "_q4_1" in line]
    assert kernels
    assert all(len(line) <= int(width) for line in kernels)


def test_all_of_doctor_fits_a_narrow_terminal(open_terminal):
    terminal = open_terminal("doctor", columns=40)
    assert terminal.end() == 0
    lines = terminal.seen.splitlines()
    assert lines[0].startswith("nybble    ")
    assert max(map(len, lines)) <= 40


ARM = "processor\t: 0\nCPU part\t: 0xd08\n"
PI = ARM + "\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n"
X86 = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n"


@pytest.mark.parametrize(
    ("cpuinfo", "architecture", "name"),
    [
        (PI, "aarch64", "Raspberry Pi 4 Model B Rev 1.4"),
        (ARM, "aarch64", "aarch64"),
        (X86, "x86_64", "AMD EPYC"),
        (X86, "aarch64", "emulated on AMD EPYC"),
    ],
)
def test_an_emulated_cpu_has_not_the_name_of_the_one_below(
    monkeypatch, cpuinfo, architecture, name
):
    monkeypatch.setattr(machine, "_lines", lambda path: cpuinfo.splitlines())
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=architecture))
    assert machine.cpu_name() == name
