"""A disk that is full, or takes no larger file: a line says so, and nothing half-written stays."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub import conftest, small
from tests.model.models import speaking

ROOT = Path(__file__).parents[2]

home, server = conftest.home, conftest.server  # fixtures: an empty $NYBBLE_HOME, a web server

# Runs `nybble ARGV` with what `setup` changes first.
CHILD = """
import os, resource, sys
{setup}
from nybble.cli import main
sys.exit(main())
"""
# As a disk that fills up does, but for the error's name; works for everybody.
LIMITED = "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
# Somebody else takes all there is of a disk.
FILL = """
from nybble import hub
def fill(folder):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "filler"), "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
"""
# And as soon as a model's bytes come.
FILLED = f"""{FILL}
from nybble.hub import pulling
append = pulling.Growing.append
def fill_and_append(self, chunk):
    fill(hub.home())
    pulling.Growing.append = append
    append(self, chunk)
pulling.Growing.append = fill_and_append
"""
# Runs the commands of argv[2] on a disk of their own, mounted at argv[1], for as long as this
# process lives; prints what came of each, and the files that are there then.
SMALL_DISK = """
import json, os, subprocess, sys
folder, commands = sys.argv[1], json.loads(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=True)
for command in commands:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    files = [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names]
    there = sorted(os.path.relpath(path, folder) for path in files)
    print(json.dumps([done.returncode, done.stdout, done.stderr, there]))
"""
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return speaking(tmp_path_factory.mktemp("model"), "Gehn wir!")


def command(*argv, setup=""):
    return [sys.executable, "-c", CHILD.format(setup=setup), *map(str, argv)]


def nybble(*argv, setup="", stdout=subprocess.PIPE):
    """Runs `nybble ARGV`; its exit code, stdout and stderr."""
    done = subprocess.run(
        command(*argv, setup=setup),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def check(code, err, *texts):
    """A failure that is told in one line, with these words."""
    assert code == 1, err
    assert err.startswith("nybble: ")
    assert err.count("\n") == 1
    for text in texts:
        assert text in err


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def on_a_small_disk(folder, *commands):
    """What came of commands that were run one after another on a disk of 8 MB that is `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode:
        why = "needs user namespaces, or root, to mount a disk of its own"
        if os.environ.get("CI") == "true":  # where nobody reads what was skipped
            pytest.fail(why)
        pytest.skip(why)
    script = [*NAMESPACE, sys.executable, "-c", SMALL_DISK, folder, json.dumps(commands)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("is_ci", [True, False])
def test_a_disk_of_its_own_is_not_skipped_in_ci(tmp_path, monkeypatch, is_ci):
    monkeypatch.setitem(globals(), "NAMESPACE", ["false"])
    monkeypatch.setenv("CI", "true" if is_ci else "")
    outcome = pytest.fail.Exception if is_ci else pytest.skip.Exception
    with pytest.raises(outcome, match="needs user namespaces"):
        on_a_small_disk(tmp_path)


# -- what is printed


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="writes to /dev/full")
@pytest.mark.parametrize(
    "argv",
    [
        ["run", "MODEL", "Hello"],
        ["run", "MODEL", "Hello", "--json"],
        ["bench", "MODEL", "--json", "--prompt", "4", "--gen", "4", "--runs", "1"],
        ["show", "MODEL", "--json"],
        ["ls", "--known"],
        ["doctor"],
        ["run", "--help"],
    ],
    ids=" ".join,
)
def test_an_output_that_takes_nothing_is_told(home, path, argv):
    with open("/dev/full", "w") as full:
        code, _, err = nybble(*(path if word == "MODEL" else word for word in argv), stdout=full)
    check(code, err, "the output cannot be written: No space left on device")


def test_a_file_of_results_that_cannot_grow_is_told(home, path, tmp_path):
    setup = "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))"
    argv = ["bench", path, "--json", "--prompt", "4", "--gen", "4", "--runs", "1"]
    with open(tmp_path / "bench.json", "w") as file:
        code, _, err = nybble(*argv, setup=setup, stdout=file)
    check(code, err, "the output cannot be written: File too large")


# -- pulls


def test_a_pull_that_cannot_write_is_told(home, server):
    name = small.url_of(server)
    code, _, err = nybble("pull", name, setup=LIMITED)
    assert code == 2
    assert err.startswith("nybble: models cannot be kept in ")
    assert err.count("\n") == 1
    here = [path for path in home.rglob("*.gguf") if path.is_file()]
    assert [path for path in here if ".pull-" not in str(path)] == []
    assert nybble("pull", name)[0] == 0
    assert files(home / "models") == [".lock", "tiny.gguf", "tiny.gguf.sha256"]


def test_a_disk_that_fills_up_while_a_model_comes(home, server):
    name = small.url_of(server)
    setup = "from nybble import hub\nos.unlink(os.path.join(hub.home(), 'filler'))"
    commands = command("pull", name, setup=FILLED), command("pull", name, setup=setup)
    (code, _, err, there), again = on_a_small_disk(home, *commands)
    check(code, err, "filled up; free some space or set NYBBLE_HOME")
    assert [path for path in there if path.endswith(".gguf") and "/.pull-" not in path] == []
    assert again[0] == 0, again
    assert [Path(path).name for path in again[3]] == [".lock", "tiny.gguf", "tiny.gguf.sha256"]


def test_a_disk_that_is_too_small_is_told_before_anything_comes(home, server):
    server.files["/models/tiny.gguf"] = small.CONTENT * 4
    ((code, _, err, there),) = on_a_small_disk(home, command("pull", small.url_of(server)))
    check(code, err, "8 MB free; free some space or set NYBBLE_HOME")
    assert there == ["models/.lock"]


# -- packed files


def test_a_packed_file_that_cannot_be_written_is_told(home, path, tmp_path):
    code, _, err = nybble("pack", path, "-o", tmp_path / "packed.nyb", setup=LIMITED)
    check(code, err, "packed.nyb cannot be written: File too large")
    assert files(tmp_path) == []


def test_a_copy_that_does_not_fit_the_cache_is_done_without(home, path):
    always = "from nybble import packing\npacking.WORTH_A_COPY = 0\n"
    for setup, why in ((f"{always}{LIMITED}", "File too large"), (always, None)):
        code, out, err = nybble("run", path, "Hello", setup=setup)
        assert (code, out) == (0, "Gehn wir!\n")
        if why is None:
            assert (err, len(files(home / "cache"))) == ("", 1)
        else:
            assert why in err
            assert err.count("\n") == 1
            assert files(home / "cache") == []
            shutil.rmtree(home)
    full = f"{always}packing._SLACK = 0\n{FILL}\nfill(hub.cache_folder())"
    ((code, out, err, there),) = on_a_small_disk(home, command("run", path, "Hello", setup=full))
    assert (code, out) == (0, "Gehn wir!\n")
    assert "the disk is too full" in err
    assert there == ["cache/filler"]


# -- what a chat saves


def test_a_chat_that_cannot_be_saved_goes_on(home, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests/cli"))
    from pseudo_terminal import Terminal

    monkeypatch.chdir(tmp_path)
    (home / "models").mkdir(parents=True)
    (home / "models" / "smollm2-135m.gguf").write_bytes(b"")
    setup = "import resource\nfake_model.install()\n"
    setup += "resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))"
    terminal = Terminal("run", setup=setup)
    terminal.say("Hello " * 10, "in message 1")
    for name in ("talk.json", "talk.txt"):
        terminal.say(f"/save {name}", f"{name}: File too large")
    terminal.say("still there?", "in message 2")
    assert terminal.leave() == 0
    assert [path.name for path in tmp_path.iterdir() if path != home] == []
