"""Limits of the system: little address space, a full disk. One line says so, and nothing
half-written stays."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests import test_web
from tests.cli.pseudo_terminal import Terminal
from tests.long import LONG
from tests.model.models import speaking

home, server, the_hub = test_web.home, test_web.server, test_web.the_hub

MIB = 1 << 20
STEPS = 60 if LONG else 20
DOES_NOT_FIT = 3


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return speaking(tmp_path_factory.mktemp("model"), "Gehn wir!")


def run(*argv, limit=None, kind=resource.RLIMIT_AS, stdout=subprocess.PIPE):
    """Runs Python with these arguments, within a limit if one is given."""

    def limited():
        if limit is not None:
            resource.setrlimit(kind, (limit, limit))

    return subprocess.run(
        [sys.executable, *map(str, argv)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limited,
        timeout=60,
    )


def nybble(*argv, **limits):
    return run("-m", "nybble", *argv, **limits)


def is_one_line(done):
    return done.stderr.startswith("nybble: ") and done.stderr.count("\n") == 1


# -- address space


def least(works, low, high):
    """The least number of MiB with which it works, to 1 MiB; it does with `high`."""
    assert works(high * MIB)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle * MIB) else (middle, high)
    return high


def test_address_space_that_is_short_is_told_in_a_line(path):
    """From where Python has begun nybble's first line to where a reply comes."""
    command = ("run", path, "Hello", "--threads", "2")
    begins = least(lambda limit: run("-c", "import nybble", limit=limit).returncode == 0, 1, 400)
    works = least(lambda limit: nybble(*command, limit=limit).returncode == 0, begins, 1000)
    assert works - begins > 5
    codes = []
    for step in range(STEPS + 1):
        limit = begins * MIB + (works - begins) * MIB * step // STEPS
        done = nybble(*command, limit=limit)
        codes.append(done.returncode)
        if done.returncode == 0:
            assert (done.stdout, done.stderr) == ("Gehn wir!\n", "")
            continue
        assert done.returncode == DOES_NOT_FIT, (limit, done.stderr)
        assert is_one_line(done), (limit, done.stderr)
    assert codes[-1] == 0
    assert codes.count(DOES_NOT_FIT) > STEPS / 2
