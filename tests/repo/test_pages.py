"""README.md tells the truth: its commands run and print what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from readme import README, commands

TEXT = README.read_text()
COMMANDS = commands(TEXT, "sh")


def run(command, folder):
    """Run a command as a reader would, with this environment's programs first on the PATH."""
    programs = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": os.pathsep.join([programs, os.environ["PATH"]])}
    shell = ["bash", "-euo", "pipefail", "-c", command]
    return subprocess.run(
        shell,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def test_readme_has_commands_of_both_kinds():
    assert COMMANDS
    assert commands(TEXT, "console")


@pytest.mark.parametrize(("command", "output"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_command_prints_what_readme_says(command, output, smollm2_path, tmp_path):
    result = run(command, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == output


def test_python_in_readme_runs(smollm2_path, tmp_path):
    programs = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert programs
    for program in programs:
        (tmp_path / "program.py").write_text(program)
        result = run("python program.py", tmp_path)
        assert result.returncode == 0, result.stderr
        assert result.stdout


def test_links_in_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []


def test_commands_reads_blocks():
    text = "```sh\n$ a b\n1\n\n2\n$ c\n```\ntext\n```console\n$ d\n```\n```python\nx\n```\n"
    assert commands(text, "sh") == [("a b", "1\n\n2\n"), ("c", "")]
    assert commands(text, "console") == [("d", "")]
    with pytest.raises(ValueError, match="begins without a command"):
        commands("```sh\nls\n```\n", "sh")
