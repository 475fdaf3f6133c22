"""docs/memory.md shows what `nybble plan` prints."""

import re
from pathlib import Path

from nybble.cli import main

TEXT = (Path(__file__).parents[2] / "docs/memory.md").read_text()
FIGURE = re.compile(r" +[\d,]+\.\d MiB")
# Lines whose figures are another machine's, as the document says.
OF_THE_MACHINE = ("Python", "working memory", "in all", "budget")


def stable(lines):
    """Lines without the figures that depend on the machine, and without the model's path."""
    for line in lines:
        if line.startswith(OF_THE_MACHINE):
            line = FIGURE.sub(" ... MiB", line)
        yield line


def test_the_plan_that_is_shown_is_made(smollm2_path, capsys):
    sample = re.search(r"^```\n\$ (nybble plan .*?)^```", TEXT, re.M | re.S)[1]
    command, *shown = sample.splitlines()
    assert command == "nybble plan smollm2-135m --memory 1GiB --threads 4"
    assert main(["plan", smollm2_path, *command.split()[3:]]) == 0
    made = capsys.readouterr().out.splitlines()
    assert shown[0].endswith("/smollm2-135m.gguf")
    assert list(stable(shown[1:])) == list(stable(made[1:]))
    figures = [float(line.split()[-2]) for line in shown[2:8]]
    assert abs(sum(figures[:-1]) - figures[-1]) < 0.05 * len(figures), "the sample adds up"
