"""nybble run, with a fake model: which words go where, and what is asked of the model."""

import json
import os
import time
from pathlib import Path

import fake_model
import pytest

from nybble.cli import main, run

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


def test_run_says_what_a_full_context_dropped(calls, capsys, monkeypatch):
    monkeypatch.setattr(fake_model.Stats, "dropped_tokens", 1023)
    assert main(["run", "hello"]) == 0
    said = "nybble: the context holds 2,048 tokens: the oldest 1,023 behind the system message were"
    assert said in capsys.readouterr().err
    monkeypatch.setattr(fake_model.Stats, "dropped_system_tokens", 60)
    assert main(["run", "hello"]) == 0
    said = "2,048 tokens: 1,023 were dropped, 60 of them of the system message, of which half the"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--kv", "q4"], ["--overflow", "slide"]])
def test_run_refuses_what_it_does_not_know(calls, flags, capsys):
    assert main(["run", "hello", *flags]) == 2
    assert "invalid choice" in capsys.readouterr().err
    assert calls == []


def test_run_passes_on_only_the_options_given(calls, capsys):
    assert main(["run", "hello"]) == 0
    assert asked(calls) == [("ask", user("hello"), {})]
    calls.clear()
    flags = "--max-tokens 9 --temperature 0.5 --top-k 4 --top-p 0.9 --min-p 0.1"
    flags += " --repeat-penalty 1.1 --seed -7 --stop A --stop B --threads 3 --context 64"
    flags += " --kv v8 --overflow shift"
    assert main(["run", "hello", *flags.split(), "--system", "Be brief."]) == 0
    how = {"threads": 3, "context": 64, "kv": "v8", "overflow": "shift"}
    assert calls[0] == ("load", MODEL, how)
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


def test_run_on_a_terminal_offers_to_pull(home, open_terminal):
    terminal = open_terminal("run", "hello")
    terminal.until("smollm2-135m is not here; pull it (98 MB)? [Y/n] ")
    terminal.type("n\n")
    terminal.until("nybble: smollm2-135m is not on this machine")
    assert terminal.end() == 2


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("hf:someone/tiny-GGUF:Q4_0", ""),
        ("https://host/x.gguf", ""),
        ("qwen3-0.6b", " (about 397 MB)"),
    ],
)
def test_run_offers_to_pull_all_that_can_be_pulled(home, open_terminal, name, size):
    terminal = open_terminal("run", name)
    terminal.until(f"{name} is not here; pull it{size}? [Y/n] ")
    terminal.type("\x04")  # the end of the input is no yes
    terminal.until(f"{name} is not on this machine; get it: nybble pull {name}")
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


def test_more_threads_than_cpus_is_said(calls, monkeypatch, capsys):
    monkeypatch.setattr("nybble.machine.cpus", lambda: [0, 1])
    assert main(["run", "hello", "--threads", "2"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["run", "hello", "--threads", "3"]) == 0
    assert capsys.readouterr() == (
        "You said <hello>\n",
        "nybble: 3 threads on 2 CPUs: the same tokens, but slower than with --threads 2\n",
    )


def test_a_word_near_a_models_name_is_no_prompt(calls, home, capsys):
    (home / "models" / "my-own.gguf").write_bytes(b"")
    for word, name in (("smollm2", MODEL), ("my-", None), ("my-o", "my-own"), ("my_own", "my-own")):
        assert main(["run", word]) == (0 if name is None else 2)
        if name is not None:
            assert capsys.readouterr().err == (
                f"nybble: there is no model {word!r}; did you mean nybble run {name}? To ask a"
                f" model just this: nybble run {MODEL} {word}\n"
            )
        capsys.readouterr()
    for prompt in ("hello", "Hi", "smollm2 is what?", "why", "tell", "model"):
        assert main(["run", prompt]) == 0
    assert main(["run", MODEL, "smollm2"]) == 0


def test_a_standard_input_that_says_nothing_is_waited_for_aloud(calls, monkeypatch, capfd):
    reader, writer = os.pipe()
    with open(reader) as stream:
        monkeypatch.setattr("sys.stdin", stream)
        said = []
        monkeypatch.setattr(run, "say", lambda text: (said.append(text), os.close(writer)))
        assert main(["run", "hello"]) == 0
    assert said == [
        "nybble: waiting for the end of the standard input; `< /dev/null` gives it none"
    ]
    assert asked(calls)[0][1] == user("hello")


def test_a_standard_input_that_ends_is_not_remarked_on(calls, stdin, monkeypatch, capsys):
    stdin(b"text")
    monkeypatch.setattr(run, "LONG_S", 0.3)
    monkeypatch.setattr(run, "_answer", lambda *_: time.sleep(0.6))
    assert main(["run", "hello"]) == 0
    assert capsys.readouterr().err == ""


def test_run_without_standard_input_works(calls, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    assert main(["run", "hello"]) == 0
    assert asked(calls)[0][1] == user("hello")


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["--think"], {"think": True}),
        (["--no-think"], {"think": False}),
        (["--ignore-eos", "--timeout-s", "2.5"], {"ignore_eos": True, "timeout_s": 2.5}),
        ([], {}),
    ],
)
def test_flags_become_keywords(calls, flags, options):
    assert main(["run", "hello", *flags]) == 0
    assert asked(calls)[0][2] == options


def test_words_that_look_like_flags_are_text_after_two_dashes(calls):
    assert main(["run", MODEL, "--", "--seed"]) == 0
    assert asked(calls)[0][1] == user("--seed")


def test_loading_and_reading_show_on_a_terminal_when_they_take_long(calls, open_terminal):
    setup = """import time
from nybble.cli import terminal, run
terminal.LONG_S = 0.2
def load(name, on_progress, **options):
    on_progress(0, 4_000_000)
    time.sleep(0.3)
    on_progress(2_000_000, 4_000_000)
    time.sleep(0.3)
    on_progress(4_000_000, 4_000_000)
    return fake_model.load(name, on_progress, **options)
def slow(text):
    time.sleep(0.5)
    yield 'words'
nybble = __import__('nybble')
nybble.load = load
fake_model.speak = slow
"""
    terminal = open_terminal("run", "hello", setup=setup)
    assert terminal.end() == 0
    assert "loading smollm2-135m [############............] 2 MB of 4 MB" in terminal.seen
    assert "reading the prompt (5 tokens), 0 s" in terminal.seen
    shown = [
        piece.rstrip() for piece in terminal.seen.replace("\n", "").split("\r") if piece.strip()
    ]
    assert shown[-1] == "words"  # and nothing of the lines before is left beside it
    assert terminal.seen.index("reading") < terminal.seen.index("words")


def test_nothing_passing_is_printed_where_no_terminal_is(calls, monkeypatch, capsys):
    monkeypatch.setattr("nybble.cli.terminal.LONG_S", 0.0)
    monkeypatch.setattr(run, "LONG_S", 0.0)
    assert main(["run", "hello"]) == 0
    assert capsys.readouterr() == ("You said <hello>\n", "")


def thinks(text):
    return [("thinking", "Hm, \x1b[31m"), ("thinking", "well."), "It ", "is."]


def test_what_is_thought_is_not_among_the_words(calls, monkeypatch, capsys):
    monkeypatch.setattr(fake_model, "speak", thinks)
    assert main(["run", "hello"]) == 0
    assert capsys.readouterr() == ("It is.\n", "")


def test_what_is_thought_is_in_the_json(calls, monkeypatch, capsys):
    monkeypatch.setattr(fake_model, "speak", thinks)
    assert main(["run", "hello", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(line) for line in lines] == [
        ["thinking"],
        ["thinking"],
        ["text"],
        ["text"],
        ["stats"],
    ]


@pytest.mark.parametrize(
    ("environment", "begin", "end"),
    [
        ("TERM=xterm", "\x1b[2m", "\x1b[0m"),
        ("TERM=dumb", "", ""),
        ("NO_COLOR=1", "", ""),
    ],
)
def test_what_is_thought_shows_dim_on_a_terminal(calls, open_terminal, environment, begin, end):
    name, _, value = environment.partition("=")
    setup = f"import os\nos.environ.update({{'TERM': 'xterm', {name!r}: {value!r}}})\n"
    setup += "import test_run\nfake_model.speak = test_run.thinks\nfake_model.install()"
    terminal = open_terminal("run", "hello", setup=setup)
    assert terminal.end() == 0
    shown = f"{begin}Hm, \\x1b[31mwell.{end}\n\nIt is.\n"  # its own control character is escaped
    assert terminal.seen.replace("\r", "") == shown


def test_thinking_means_nothing_without_a_template(calls, monkeypatch, capsys):
    monkeypatch.setattr(fake_model.Model, "has_template", False)
    assert main(["run", "hello", "--no-think"]) == 2
    assert "no chat template, so --think means nothing to it" in capsys.readouterr().err
