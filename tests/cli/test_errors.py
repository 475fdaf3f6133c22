"""Each class of nybble.errors, provoked as a user would: one line on stderr, and its exit code."""

import os
import subprocess
import sys

import pytest

from nybble import cli, errors
from nybble.__main__ import main as nybble_main
from nybble._core import native
from tests.model.models import POISON, edited, with_poison
from tools.tiny_model import tiny_model

PROVOKED = {}  # class -> how


@pytest.fixture(name="tiny", scope="module")
def fixture_tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("errors") / "tiny.gguf"
    tiny_model(path, layers=2, dim=96, heads=6, kv_heads=2, vocab=323)
    return path


def nybble(*argv, text="", environment=(), before=None):
    """Run `nybble ARGV`; its exit code, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "nybble", *map(str, argv)],
        input=text,
        capture_output=True,
        text=True,
        env={**os.environ, **dict(environment)},
        preexec_fn=before,
    )
    return done.returncode, done.stdout, done.stderr


def provokes(error):
    """Marks a test as one that provokes this class: `check` asserts that it does."""

    def register(test):
        PROVOKED[error] = test
        return test

    return register


def check(error, got, *texts):
    """One line on stderr with these texts, nothing on stdout, and the class's exit code."""
    code, out, err = got
    assert code == error.exit_code, err
    assert out.strip() == ""
    assert err.startswith("nybble: ")
    assert err.count("\n") == 1
    for text in texts:
        assert text in err


@provokes(errors.UsageError)
@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--top-p", "7"], "--top-p must be 0 to 1, not 7"),
        (["--max-tokens", "0"], "--max-tokens must be 1 to 2,147,483,648, not 0"),
        (["--temperature", "nan"], "--temperature must be 0 to 100, not nan"),
        (["--seed", "-1"], "--seed must be 0 to 18,446,744,073,709,551,615, not -1"),
        (["--timeout-s", "-1"], "--timeout-s must be 0 to 1e+09, not -1"),
        (["--stop", ""], "--stop must be strings that are not empty"),
        (["--threads", "0"], "--threads must be 1 to 64, not 0"),
        (["--context", "0"], "--context must be 1 to 2,147,483,648, not 0"),
        (["--context", "many"], "argument --context: invalid int value: 'many'"),
        (["--colour"], "unrecognized arguments: --colour; see nybble run --help"),
    ],
)
def test_a_request_that_makes_no_sense(tiny, flags, text):
    check(errors.UsageError, nybble("run", tiny, "hello", *flags), text)


@provokes(errors.ModelNotFoundError)
@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["run", "no/such.gguf", "hello"], "there is no model 'no/such.gguf'; see nybble ls --kn"),
        (["show", "smolm2-135m"], "did you mean smollm2-135m? nybble pull smollm2-135m"),
        (
            ["run", "qwen3-0.6b", "hi"],
            "qwen3-0.6b is not on this machine; get it: nybble pull q",
        ),
        (
            ["run", "hf:o/r:Q4_0", "hi"],
            "hf:o/r:Q4_0 is not on this machine; get it: nybble pu",
        ),
        (["run", "/", "hi"], "'/' is a folder; give the model file in it"),
        (["pull", "gpt-9"], "nybble knows no model 'gpt-9'; see nybble ls --known"),
        (["bench", "./none"], "there is no model './none'"),
        (["rm", "none"], "there is no model 'none' to remove; nybble ls lists them"),
    ],
)
def test_a_model_that_is_not_there(home, argv, text):
    check(errors.ModelNotFoundError, nybble(*argv), text)


@provokes(errors.BusyError)
def test_two_replies_read_in_turns(tiny, tmp_path):
    # The command line reads one reply at a time; a script may not.
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, nybble\n"
        "from nybble.cli import _fail\n"
        f"model = nybble.load({str(tiny)!r})\n"
        "first = model.complete('a', ignore_eos=True)\n"
        "iterator = iter(first)\n"
        "next(iterator)\n"
        "try:\n"
        "    model.complete('b').text\n"
        "except nybble.NybbleError as error:\n"
        "    assert type(error) is nybble.errors.BusyError\n"
        "    sys.exit(_fail(str(error), error.exit_code))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    check(errors.BusyError, (done.returncode, done.stdout, done.stderr), "close() it first")


@provokes(errors.ContextError)
@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--context", "600"], "context 600 is beyond the model's 512"),
        (
            ["--context", "8"],
            "and the context holds 8, reply included; shorten it or ask for a lar",
        ),
    ],
)
def test_what_does_not_fit_the_context(tiny, flags, text):
    check(errors.ContextError, nybble("run", tiny, "hello " * 20, *flags), text, "--context")


def test_a_prompt_from_a_pipe_that_does_not_fit_the_context(tiny):
    got = nybble("run", tiny, text="word " * 2000)
    check(errors.ContextError, got, "and the context holds 512")


@provokes(errors.BudgetError)
def test_what_does_not_fit_the_memory(tiny, tmp_path):
    large = edited(tiny, tmp_path / "large.gguf", {"llama.context_length": 16_000_000})

    def limited():  # as `ulimit -v` does
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))

    got = nybble("run", large, "hello", "--context", 16_000_000, before=limited)
    check(errors.BudgetError, got, "(its limit of address space (ulimit -v)); a context of ")


@provokes(errors.FormatError)
@pytest.mark.parametrize("verb", ["run", "show", "bench"])
@pytest.mark.parametrize("content", [b"", b"GGUF", b"<html>log in</html>", b"GGUF" + bytes(100)])
def test_a_file_that_is_no_model(tmp_path, verb, content):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    check(errors.FormatError, nybble(verb, path, *(["hi"] if verb == "run" else [])), str(path))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"hello there", 'this is not a GGUF file: it does not begin with "GGUF"; give a model in'),
        (b"<html>log in</html>", "is a web page, not a model: download the file itself, not"),
    ],
)
def test_a_file_of_another_kind_is_told_in_words(tmp_path, content, text):
    path = tmp_path / "two\nlines.gguf"
    path.write_bytes(content)
    got = nybble("show", path)
    check(errors.FormatError, got, text, "two\\nlines.gguf")
    assert "(byte" not in got[2]


def test_a_file_that_is_cut_short(tiny, tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny.read_bytes()[:-1000])
    check(errors.FormatError, nybble("run", path, "hi"), str(path))


@provokes(errors.TemplateError)
@pytest.mark.parametrize("template", ["{% for", "{{ raise_exception('no') }}", "{{ 1 / 0 }}"])
def test_a_template_that_does_not_work(tiny, tmp_path, template):
    path = edited(tiny, tmp_path / "t.gguf", {"tokenizer.chat_template": template})
    check(errors.TemplateError, nybble("run", path, "hi"), "template")


@provokes(errors.CpuError)
def test_kernels_of_another_architecture(tiny):
    level, its = ("avx2", "x86") if "neon" in native.levels() else ("neon", "ARM")
    got = nybble("run", tiny, "hi", environment={"NYBBLE_ISA": level})
    check(
        errors.CpuError, got, f"NYBBLE_ISA is '{level}', a level of {its}, and this build has ref"
    )


@pytest.mark.parametrize("level", ["mmx", "avx 2", "\x1b[31m", "x" * 5000])
def test_kernels_that_nobody_has(tiny, level):
    got = nybble("run", tiny, "hi", environment={"NYBBLE_ISA": level})
    check(errors.UsageError, got, f"NYBBLE_ISA is {level[:38]!r:.39}", "this build has ref")
    assert "\x1b" not in got[2]
    assert len(got[2]) < 300


@pytest.mark.parametrize("level", ["REF", " ref", "Ref\n"])
def test_levels_by_any_case(tiny, level):
    flags = ["--max-tokens", "1"]
    assert nybble("run", tiny, "hi", *flags, environment={"NYBBLE_ISA": level})[0] == 0


@pytest.mark.parametrize("verb", ["run", "show", "plan"])
def test_what_is_no_regular_file(tmp_path, verb):
    os.mkfifo(tmp_path / "fifo.nyb")
    for path in (tmp_path / "fifo.nyb", "/dev/null"):
        got = nybble(verb, path, *(["hi"] if verb == "run" else []))
        check(errors.ModelNotFoundError, got, f"'{path}' is no regular file: a model is a file on")


@provokes(errors.DownloadError)
@pytest.mark.parametrize("name", ["http://127.0.0.1:9/x.gguf", "hf:someone/tiny:Q4_0"])
def test_no_network(home, name):
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    got = nybble("pull", name, environment=environment)
    check(errors.DownloadError, got, "http://127.0.0.1:9/", "no connection: Connection refused")


@provokes(errors.NumericError)
def test_weights_that_overflow(tmp_path):
    path = with_poison(tmp_path)
    check(errors.NumericError, nybble("run", path, f"a{POISON}"), "is not a number")


def test_every_class_is_provoked():
    classes = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.NybbleError)
    }
    assert classes - {errors.NybbleError} == set(PROVOKED)


# -- what the system refuses


@pytest.mark.parametrize("verb", [["ls"], ["ls", "--known"], ["pull", "smollm2-135m"]])
def test_a_home_that_cannot_be_used(verb):
    code, out, err = nybble(*verb, environment={"NYBBLE_HOME": "/dev/null"})
    if verb == ["ls", "--known"]:
        assert (code, err) == (0, "")  # what could be pulled can be listed anywhere
        return
    check(errors.UsageError, (code, out, err), "models cannot be kept in /dev/null/models: Not a ")
    assert "; set NYBBLE_HOME to a folder of yours" in err
    assert "Errno" not in err


@pytest.mark.parametrize("argv", [["ls", "--known"], ["doctor"], ["--help"]])
def test_a_full_disk_behind_stdout(argv):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "nybble", *argv], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.stderr == "nybble: the output cannot be written: No space left on device\n"
    assert done.returncode == 1


def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF")
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read all
        path = tmp_path / "loop.gguf"
        path.symlink_to(path)
    code, _, err = nybble("show", path)
    assert code in (1, 2)
    assert err.count("\n") == 1
    assert "Errno" not in err


@pytest.mark.parametrize(
    "words",
    [
        "error return without exception set",
        "<function _find_and_load at 0x0> returned NULL without setting an exception",
    ],
)
def test_what_python_says_where_an_import_has_no_memory(monkeypatch, capsys, words):
    def run(_):
        raise SystemError(words)

    monkeypatch.setattr(cli, "_run", run)
    assert cli.main(["ls"]) == errors.BudgetError.exit_code
    assert capsys.readouterr().err == "nybble: there is not enough memory\n"


def no_memory(*_):
    raise MemoryError


def test_a_lack_of_memory_that_there_is_no_memory_to_tell(monkeypatch, capfd):
    monkeypatch.setattr(cli, "_run", no_memory)
    monkeypatch.setattr(cli, "printable", no_memory)
    assert cli.main(["ls"]) == errors.BudgetError.exit_code
    assert capfd.readouterr() == ("", "nybble: there is not enough memory\n")
    monkeypatch.setattr(cli, "_fail", no_memory)
    assert nybble_main() == errors.BudgetError.exit_code
    assert capfd.readouterr() == ("", "nybble: there is not enough memory\n")


@pytest.mark.parametrize("verb", ["pack", "run"])  # the second has jinja2 import it
def test_hashlib_without_memory_is_not_logged(tiny, tmp_path, verb):
    script = (
        "import sys\n"
        "class Full:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('_hashlib', '_md5'):\n"
        "            raise ImportError(f'{name}.so: failed to map segment from shared object')\n"
        "sys.meta_path.insert(0, Full())\n"
        "sys.modules['minijinja'] = None\n"
        "from nybble import cli\n"
        "sys.exit(cli.main())\n"
    )
    arguments = {"pack": ["-o", str(tmp_path / "packed.nyb")], "run": ["Hello"]}[verb]
    command = [sys.executable, "-c", script, verb, str(tiny), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    told = (errors.BudgetError.exit_code, "", "nybble: there is not enough memory\n")
    assert (done.returncode, done.stdout, done.stderr) == told
