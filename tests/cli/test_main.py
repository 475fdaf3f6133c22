"""What all verbs share: exit codes, one-line errors, help, quiet ends."""

import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import fake_model
import pytest

import nybble.model
from nybble import errors
from nybble.cli import main
from nybble.cli.parser import Parser

ROOT = Path(__file__).parents[2]


def failing(error):
    def speak(text):
        return ["some words", error]

    return speak


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NybbleError, 1),
        (errors.DownloadError, 1),
        (errors.NumericError, 1),
        (errors.UsageError, 2),
        (errors.ModelNotFoundError, 2),
        (errors.BusyError, 2),
        (errors.ContextError, 3),
        (errors.BudgetError, 3),
        (errors.FormatError, 4),
        (errors.TemplateError, 4),
        (errors.CpuError, 5),
        (OSError, 1),
    ],
)
def test_error_is_one_line_and_its_exit_code(calls, capsys, monkeypatch, error, code):
    monkeypatch.setattr(fake_model, "speak", failing(error("it went\nwrong \x1b[31m")))
    assert main(["run", "hello"]) == code
    assert capsys.readouterr().err == "nybble: it went\\nwrong \\x1b[31m\n"


def test_interrupt_is_130_and_closes_the_reply(calls, capsys, monkeypatch):
    monkeypatch.setattr(fake_model, "speak", failing(KeyboardInterrupt()))
    assert main(["run", "hello"]) == 130
    assert calls[-2:] == [("close",), ("exit",)]
    assert capsys.readouterr().err == ""


def test_an_interrupt_among_the_arguments_is_an_interrupt(monkeypatch):
    """argparse's mixing of flags and words raises another error on its way out."""

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Parser, "format_usage", interrupted)
    assert main(["run", "Hello"]) == 130


SLOW = """import time
fake_model.install()
def speak(text):
    yield 'begun'
    time.sleep(60)
fake_model.speak = speak"""


def test_an_interrupt_ends_the_line_and_the_process(calls, open_terminal):
    terminal = open_terminal("run", "hello", setup=SLOW)
    terminal.until("begun")
    terminal.type("\x03")
    assert terminal.end() == -signal.SIGINT
    assert terminal.seen.endswith("\n")
    assert "Traceback" not in terminal.seen


def test_an_interrupt_stops_a_loop_of_the_shell(calls, open_terminal, tmp_path):
    script = tmp_path / "command.py"
    script.write_text(f"import fake_model\n{SLOW}\nfrom nybble.cli import main\nmain()\n")
    take = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
    loop = f"for i in 1 2; do echo round $i; {sys.executable} {script} run hello; done"
    command = [sys.executable, "-c", f"{take}; os.execlp('bash', 'bash', '-c', {loop!r})"]
    terminal = open_terminal(command=command)
    terminal.until("round 1")
    terminal.until("begun")
    terminal.type("\x03")
    assert terminal.end() == -signal.SIGINT
    assert "round 2" not in terminal.seen


def test_an_interrupt_ends_the_line_of_bench(open_terminal):
    setup = "from nybble.cli import bench\n"
    setup += "def load(*_, **__):\n    print('loading', end='', flush=True)\n    time.sleep(60)\n"
    terminal = open_terminal("bench", "m", setup=f"import time\n{setup}bench.load = load")
    terminal.until("loading")
    terminal.type("\x03")
    assert terminal.end() == -signal.SIGINT
    assert terminal.seen.endswith("\n")


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (
            ["--jsno"],
            "unrecognized arguments: --jsno; the flags of a verb come after it; see nybble",
        ),
        (["--versoin"], "--versoin; did you mean --version?"),
        (["sing"], "there is no verb 'sing'; the verbs are run, pull, "),
        (["chat"], "there is no verb 'chat'; did you mean nybble run?"),
        (["List"], "there is no verb 'List'; did you mean nybble ls?"),
        (["benc"], "there is no verb 'benc'; did you mean nybble bench?"),
        (["help", "chat"], "there is no verb 'chat'; did you mean nybble run?"),
        (["run", "smollm2"], "there is no model 'smollm2'; did you mean nybble run smollm2-135m?"),
        (["run", "Qwen3-0.6b"], "did you mean nybble run qwen3-0.6b?"),
        (["run", "a", "b", "c"], "unrecognized arguments: c; see nybble run --help"),
        (["run", "--seed", "x"], "argument --seed: invalid int value: 'x'; see nybble run --help"),
        (["run", "--see", "3"], "arguments: --see; did you mean --seed? see nybble run --help"),
        (["run", "--max-token=3", "a"], "--max-token=3; did you mean --max-tokens?"),
        (["ls", "--jsno"], "did you mean --json?"),
        (["run", "a", "b", "--", "--see"], "arguments: --see; see nybble run --help"),
        (["pull"], "required: NAME; see nybble pull --help"),
        (["show", "no.gguf"], "there is no model 'no.gguf'"),
        (["run", "smollm.gguf"], "there is no model 'smollm.gguf'"),
    ],
)
def test_usage_error_is_one_line_and_2(home, capsys, argv, text):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nybble: ")
    assert text in err
    assert err.count("\n") == 1


VERBS = ["run", "pull", "show", "ls", "rm", "bench", "doctor", "completion"]


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_examples(verb, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([verb, "--help"])
    assert exit_.value.code == 0
    assert f"examples:\n  nybble {verb}" in capsys.readouterr().out


def helped(capsys, argv):
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_help_verb_is_verb_help(capsys, verb):
    assert helped(capsys, ["help", verb]) == helped(capsys, [verb, "--help"])
    assert re.search(rf"^    {verb}\b", helped(capsys, ["help"]), re.MULTILINE)


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_the_terminal(capsys, monkeypatch, verb, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    out = helped(capsys, [verb, "--help"])
    for line in out.splitlines():
        is_command = "nybble " in line and line.startswith("  ")  # which must stay whole
        assert len(line) <= min(columns, 100) or (is_command and "   " not in line.strip()), line


def test_help_explains_its_examples_below_them_where_there_is_no_room(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    out = helped(capsys, ["--help"])
    assert "  nybble pull smollm2-135m\n      get a model (98 MB)\n" in out
    monkeypatch.setenv("COLUMNS", "90")
    assert "  nybble pull smollm2-135m                  " in helped(capsys, ["--help"])


def test_run_help_names_the_default_context(capsys, monkeypatch):
    assert nybble.model.DEFAULT_CONTEXT == 2048
    assert "(2048, or all it has learnt if that is less)" in " ".join(
        helped(capsys, ["run", "--help"]).split()
    )


def test_nothing_asked_for_is_help_and_2(capsys):
    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == helped(capsys, ["--help"])


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version_is_printed(capsys, flag):
    with pytest.raises(SystemExit) as exit_:
        main([flag])
    assert exit_.value.code == 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out == f"nybble {project['version']}\n"


def test_python_m_nybble_is_the_command_line(home):
    ls = subprocess.run(
        [sys.executable, "-m", "nybble", "ls", "--known"], capture_output=True, text=True
    )
    assert ls.returncode == 0
    assert ls.stderr == ""
    assert ls.stdout.split()[:3] == ["smollm2-135m", "98", "MB"]


def test_closed_pipe_is_quiet(home):
    reader, writer = os.pipe()
    os.close(reader)
    ls = subprocess.run(
        [sys.executable, "-m", "nybble", "ls", "--known"], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert ls.stderr == b""
    assert ls.returncode == 0


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_are_no_error(home, closed):
    command = f"{sys.executable} -m nybble ls --known {closed}"
    ls = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert ls.returncode == 0
    assert ("smollm2-135m" in ls.stdout) == (" >&-" not in f" {closed}")
    assert ls.stderr == ""
    failing = f"{sys.executable} -m nybble run no.gguf hello {closed}"
    run = subprocess.run(["sh", "-c", failing], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stdout == ""
