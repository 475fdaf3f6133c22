"""nybble run, with a fake model: which words go where, and what is asked of the model."""

import json
from pathlib import Path

import fake_model
import pytest

from nybble.cli import main

MODEL = "smollm2-135m"


def user(text):
    return [{"role": "user", "content": text}]


def asked(calls):
    return [call for call in calls if call[0] in ("ask", "complete")]


@pytest.mark.parametrize(
    ("argv", "model"),
    [
        (["hello"], MODEL),
        ([MODEL, "hello"], MODEL),
        (["other", "hello"], "other"),
        (["./file.bin", "hello"], "./file.bin"),
        (["--", "hello"], MODEL),
        ([MODEL, "--seed", "3", "hello"], MODEL),
    ],
)
def test_run_finds_model_and_prompt(calls, home, tmp_path, monkeypatch, capsys, argv, model):
    (home / "models" / "other.gguf").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    Path("file.bin").write_bytes(b"")
    assert main(["run", *argv]) == 0
    assert calls[0] == ("load", model, {})
    assert asked(calls)[0][1] == user("hello")
    assert capsys.readouterr() == ("You said <hello>\n", "")


def test_run_takes_a_lone_model_and_what_is_piped(calls, stdin, capsys):
    stdin(b"from a pipe\n")
    assert main(["run", MODEL]) == 0
    assert asked(calls)[0][1] == user("from a pipe")


def test_run_appends_what_is_piped(calls, stdin):
    stdin(b"line 1\nline 2 \xff\n")
    assert main(["run", "What fails?"]) == 0
    assert asked(calls)[0][1] == user("What fails?\n\nline 1\nline 2 \ufffd")


def test_run_with_nothing_piped_and_no_prompt_is_an_error(calls, stdin, capsys):
    stdin(b"")
    assert main(["run"]) == 2
    assert "there is no prompt" in capsys.readouterr().err
    assert calls == []


def test_run_passes_on_only_the_options_given(calls, capsys):
    assert main(["run", "hello"]) == 0
    assert asked(calls) == [("ask", user("hello"), {})]
    calls.clear()
    flags = "--max-tokens 9 --temperature 0.5 --top-k 4 --top-p 0.9 --min-p 0.1"
    flags += " --repeat-penalty 1.1 --seed -7 --stop A --stop B --threads 3 --context 64"
    assert main(["run", "hello", *flags.split(), "--system", "Be brief."]) == 0
    assert calls[0] == ("load", MODEL, {"threads": 3, "context": 64})
    assert asked(calls)[0][1] == [{"role": "system", "content": "Be brief."}, *user("hello")]
    assert asked(calls)[0][2] == {
        "max_tokens": 9,
        "temperature": 0.5,
        "top_k": 4,
        "top_p": 0.9,
        "min_p": 0.1,
        "repeat_penalty": 1.1,
        "seed": -7,
        "stop": ["A", "B"],
    }


def test_run_ends_with_one_line_end(calls, monkeypatch, capsys):
    monkeypatch.setattr(fake_model, "speak", lambda text: ["a line\n", ""])
    assert main(["run", "hello"]) == 0
    assert capsys.readouterr().out == "a line\n"
    monkeypatch.setattr(fake_model, "speak", lambda text: [])
    assert main(["run", "hello"]) == 0
    assert capsys.readouterr().out == "\n"


def test_run_json_is_an_object_a_line(calls, capsys):
    assert main(["run", "hello", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [
        {"text": "You said "},
        {"text": "<hello>"},
        {"stats": {"tokens": 3, "stop_reason": "end"}},
    ]
    assert err == ""


def test_run_json_without_a_prompt_is_an_error(calls, capsys):
    assert main(["run", "--json"]) == 2
    assert "--json needs a prompt" in capsys.readouterr().err


def test_run_verbose_prints_figures_on_stderr(calls, capsys):
    assert main(["run", "hello", "--verbose"]) == 0
    out, err = capsys.readouterr()
    assert out == "You said <hello>\n"
    assert err == (
        "prompt 5 tokens (0 cached) at 50.0 tokens/s, first token after 0.10 s; reply 3 tokens"
        " at 25.0 tokens/s; 0.25 s, peak 182 MB, seed 0, ended by end\n"
    )


def test_run_without_a_template_completes_and_says_so(calls, monkeypatch, capsys):
    monkeypatch.setattr(fake_model.Model, "has_template", False)
    assert main(["run", "Once upon"]) == 0
    assert asked(calls) == [("complete", "Once upon", {})]
    out, err = capsys.readouterr()
    assert out == "You said <Once upon>\n"
    assert err == (
        "nybble: this model has no chat template: it continues the prompt as it stands"
        " (smollm2-135m answers)\n"
    )
    assert main(["run", "Once upon", "--system", "Be brief."]) == 2
    assert main(["run"]) == 2
    assert "does not chat; give it a prompt, or chat with another: nybble run smollm2-135m" in (
        capsys.readouterr().err
    )


def test_run_of_a_model_not_pulled_names_the_command(home, stdin, capsys):
    stdin(b"text")
    assert main(["run", "hello"]) == 2
    assert capsys.readouterr().err == (
        "nybble: smollm2-135m is not on this machine; get it: nybble pull smollm2-135m\n"
    )


def test_chat_answers_until_exit(calls, open_terminal):
    terminal = open_terminal("run", "--system", "Be brief.")
    terminal.until("> ")
    terminal.type("/stats\n")
    terminal.until("no reply yet")
    terminal.until("> ")
    terminal.type("hello there\n")
    terminal.until("You said <hello there> in message 2")
    terminal.until("> ")
    terminal.type("/stats\n")
    terminal.until("reply 3 tokens at 25.0 tokens/s")
    terminal.until("> ")
    terminal.type("/help\n")
    terminal.until("/exit         leave")
    terminal.until("> ")
    terminal.type("/new\n")
    terminal.until("> ")
    terminal.type("who are you\n")
    terminal.until("You said <who are you> in message 2")
    terminal.until("> ")
    terminal.type("/what\n")
    terminal.until("there is no command /what")
    terminal.until("> ")
    terminal.type("/exit\n")
    assert terminal.end() == 0


def test_a_reply_that_the_context_cut_is_told(calls, open_terminal):
    cut = "fake_model.Stats.stop_reason = 'context'"
    terminal = open_terminal("run", setup=f"fake_model.install()\n{cut}")
    terminal.until("> ")
    terminal.type("hello\n")
    terminal.until("the context is full with 8 tokens")
    terminal.until("> ")
    terminal.type("/exit\n")
    assert terminal.end() == 0


def test_chat_escapes_what_could_drive_the_terminal(calls, open_terminal):
    setup = (
        r"fake_model.speak = lambda text: ['\x1b]0;title\x07', '\U0001f469\u200d\U0001f680 end']"
    )
    terminal = open_terminal("run", setup=f"fake_model.install()\n{setup}")
    terminal.until("> ")
    terminal.type("hello\n")
    assert r"\x1b]0;title\x07" in terminal.until("\U0001f469\u200d\U0001f680 end")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_chat_goes_on_after_an_interrupt_and_an_error(calls, open_terminal):
    setup = (
        "from nybble.errors import ContextError\n"
        "errors = [KeyboardInterrupt(), ContextError('too long')]\n"
        "fake_model.speak = lambda text: ['word', errors.pop(0)] if errors else ['fine']"
    )
    terminal = open_terminal("run", setup=f"fake_model.install()\n{setup}")
    for answer in ("(stopped)", "nybble: too long", "fine"):
        terminal.until("> ")
        terminal.type("hello\n")
        terminal.until(answer)
    terminal.until("> ")
    terminal.interrupt_until("/exit or Ctrl-D leaves")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_run_on_a_terminal_offers_to_pull(home, open_terminal):
    terminal = open_terminal("run", "hello")
    terminal.until("smollm2-135m is not here; pull it (98 MB)? [Y/n] ")
    terminal.type("n\n")
    terminal.until("nybble: smollm2-135m is not on this machine")
    assert terminal.end() == 2


def test_run_pulls_after_a_yes(home, open_terminal):
    setup = (
        "import nybble.cli.run\n"
        "nybble.cli.run.pull = lambda name: print('pulls', name)\n"
        "fake_model.install()"
    )
    terminal = open_terminal("run", "hello", setup=setup)
    terminal.until("[Y/n] ")
    terminal.type("\n")
    terminal.until("pulls smollm2-135m")
    terminal.until("You said <hello>")
    assert terminal.end() == 0
