"""Little address space, as `ulimit -v` gives it: a line says that it does not suffice."""

import resource
import subprocess
import sys

import pytest

from tests.long import LONG
from tests.model.models import speaking

MIB = 1 << 20
STEPS = 60 if LONG else 20
DOES_NOT_FIT = 3
BEGIN = "import sys; from nybble.__main__ import main"
SCRIPT = f"{BEGIN}; sys.exit(main())"  # as pip's; `python -m` imports more before nybble begins


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
    return run("-c", SCRIPT, *argv, **limits)


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
    """From where Python has begun nybble's first line to where a reply comes for certain; between
    the two it may depend on where the system puts things."""
    command = ("run", path, "Hello", "--threads", "2")
    begins = least(lambda limit: run("-c", BEGIN, limit=limit).returncode == 0, 1, 400)
    works = least(lambda limit: nybble(*command, limit=limit).returncode == 0, begins, 1000)
    begins += 1  # room for a line to be printed
    assert works - begins > 5
    codes = []
    for step in range(STEPS + 1):
        limit = begins * MIB + (2 * works - begins) * MIB * step // STEPS
        done = nybble(*command, limit=limit)
        codes.append(done.returncode)
        if done.returncode == 0:
            assert (done.stdout, done.stderr) == ("Gehn wir!\n", "")
            continue
        assert done.returncode == DOES_NOT_FIT, (limit, done.stderr)
        assert is_one_line(done), (limit, done.stderr)
    assert codes[-1] == 0
    assert codes.count(DOES_NOT_FIT) >= STEPS / 4
