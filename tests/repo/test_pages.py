"""README.md and the pages for users tell the truth: commands and programs do what they say."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import PAGES, README, commands, is_shown, programs

TEXTS = {page.name: page.read_text() for page in PAGES}
COMMANDS = [(name, *pair) for name, text in TEXTS.items() for pair in commands(text, "sh")]

# Runs the programs of a page, which come as JSON, in one interpreter; prints what each printed.
RUNNER = """
import contextlib, io, json, sys
name, blocks = json.load(sys.stdin)
namespace = {"__name__": "__main__"}
printed = []
for line, program in blocks:
    code = compile("\\n" * (line - 1) + program, name, "exec")
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        exec(code, namespace)
    printed.append(stdout.getvalue())
json.dump(printed, sys.stdout)
"""


def run(arguments, folder, text=""):
    """Run as a reader would, with this environment's programs first on the PATH."""
    programs = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": os.pathsep.join([programs, os.environ["PATH"]])}
    return subprocess.run(
        arguments, cwd=folder, env=environment, input=text, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: tmp_path_factory.mktemp(name) for name in TEXTS}


def test_readme_has_commands_of_both_kinds():
    text = README.read_text()
    assert commands(text, "sh")
    assert commands(text, "console")


@pytest.mark.parametrize(("page", "command", "output"), COMMANDS, ids=[c for _, c, _ in COMMANDS])
def test_command_prints_what_the_page_says(page, command, output, smollm2_path, folders):
    result = run(["bash", "-euo", "pipefail", "-c", command], folders[page])
    assert result.returncode == 0, result.stderr
    assert is_shown(result.stdout, output), result.stdout


@pytest.mark.parametrize("page", ["README.md", "python.md"])
def test_programs_print_what_the_page_says(page, smollm2_path, folders):
    blocks = programs(TEXTS[page])
    assert blocks
    given = json.dumps([page, [(line, program) for line, program, _ in blocks]])
    result = run([sys.executable, "-c", RUNNER], folders[page], given)
    assert result.returncode == 0, result.stderr
    for (line, program, output), printed in zip(blocks, json.loads(result.stdout), strict=True):
        if output is None:
            assert bool(printed) == ("print(" in program), line
        else:
            assert is_shown(printed, output), (line, printed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert links
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_page_of_the_command_line_names_every_verb_and_option():
    def helped(*verb):
        return run([sys.executable, "-m", "nybble", *verb, "--help"], README.parent).stdout

    page = TEXTS["command-line.md"]
    verbs = re.findall(r"^    ([a-z]+)\b", helped(), re.MULTILINE)
    assert {"run", "pull", "doctor"} <= {*verbs}
    options = {o for verb in verbs for o in re.findall(r"--[a-z][a-z-]+", helped(verb))}
    assert [name for name in (*verbs, *sorted(options)) if name not in page] == []


def test_commands_reads_blocks():
    text = "```sh\n$ a b\n1\n\n2\n$ c\n```\ntext\n```console\n$ d\n```\n```python\nx\n```\n"
    assert commands(text, "sh") == [("a b", "1\n\n2\n"), ("c", "")]
    assert commands(text, "console") == [("d", "")]
    with pytest.raises(ValueError, match="begins without a command"):
        commands("```sh\nls\n```\n", "sh")


def test_programs_reads_blocks():
    text = "```python\nx\n```\n\n```text\n1\n```\na\n```python\ny\n```\nb\n```text\n2\n```\n"
    assert programs(text) == [(2, "x\n", "1\n"), (10, "y\n", None)]


def test_dots_stand_for_anything():
    assert is_shown("a 1 b\nc\n", "a ... b\nc\n")
    assert is_shown("a\nb\nc\n", "a\n...\nc\n")
    assert not is_shown("a\nb\n", "a\n...\nc\n")
    assert not is_shown("a (1)\nb\n", "a (1)\n")
