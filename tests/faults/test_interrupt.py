"""Ctrl-C at any moment of `nybble`: it dies of the signal, at once, and says nothing."""

import os
import random
import select
import signal
import subprocess
import sys
import time

import pytest

from tests.long import LONG
from tests.model.models import speaking

MOMENTS = 100 if LONG else 25

# As the script that pip makes does, but that it tells when nybble's first line is near.
SCRIPT = """
import sys
from nybble.__main__ import main
print("go", file=sys.stderr, flush=True)
sys.exit(main())
"""


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return speaking(folder, "abc", loops=True, context=60_000)


def begun(path, **options):
    command = [sys.executable, "-c", SCRIPT, "run", str(path), "Hello", "--context", "60000"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "NYBBLE_PACK": "0"},
        **options,
    )
    assert process.stderr.readline() == b"go\n"
    return process


def seconds_to_first_word(path):
    started = time.monotonic()
    with begun(path) as process:
        assert select.select([process.stdout], [], [], 30)[0]
        took = time.monotonic() - started
        process.kill()
    return took


def test_an_interrupt_is_silent_at_any_moment(endless):
    """From the first import to the middle of a reply."""
    longest = 1.3 * seconds_to_first_word(endless)
    rng = random.Random(3)
    silent = 0
    for _ in range(MOMENTS):
        moment = rng.uniform(0.001, longest)
        process = begun(endless)
        time.sleep(moment)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (-signal.SIGINT, b""), moment
        silent += not out
    assert silent > MOMENTS / 4, "most moments are in what comes before the reply"


# A command that interrupts itself where an exception would be lost: Python drops what is raised
# while it frees an object, and an import may make another exception of it.
LOSING = """
import os, signal, sys, time
from nybble import cli
from nybble.__main__ import main

def pause():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)

class Freed:
    def __del__(self):
        pause()

def interrupted():
    print("a word")
    {where}
    time.sleep(20)

cli.main = interrupted
sys.exit(main())
"""
IMPORTED = """
import __main__
try:
    __main__.pause()
except KeyboardInterrupt:
    raise ImportError("an interface") from None
"""


@pytest.mark.parametrize("where", ["Freed()", "import imported"])
def test_an_interrupt_that_python_would_lose_ends_it_too(where, tmp_path):
    (tmp_path / "imported.py").write_text(IMPORTED)
    command = [sys.executable, "-c", LOSING.format(where=where)]
    ended = subprocess.run(command, capture_output=True, timeout=15, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")
    assert ended.stdout == b"a word\n", "what was printed is written"


def test_what_ignores_interrupts_goes_on_doing_so(endless):
    """As a job in the background of a shell's script does."""

    def ignore():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    with begun(endless, preexec_fn=ignore) as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout.read(3) == b"abc"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read(3) == b"abc"
        process.kill()
