"""The process that does what hostile files and templates ask for."""

import json
import os
import subprocess
import sys

import pytest

from .warden import LIMIT


class Warden:
    """A process that does one job after another, and survives them. Packed copies, of models of any
    size, go to `cache`."""

    def __init__(self, cache):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.warden"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "NYBBLE_HOME": "", "XDG_CACHE_HOME": str(cache)},
        )

    def does(self, job, *arguments, limit=LIMIT, pack="0"):
        """The outcome of a job, which has not died nor taken more memory than `limit`; `pack` is
        $NYBBLE_PACK."""
        line = json.dumps({"job": job, "arguments": list(map(str, arguments)), "pack": pack})
        print(line, file=self.process.stdin, flush=True)
        outcome = json.loads(self.process.stdout.readline())
        if limit is not None:
            assert "died" not in outcome, (line[:200], outcome)
            assert outcome["peak"] < limit, (line[:200], outcome)
        return outcome


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The folder for what nybble keeps."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def warden(cache):
    warden = Warden(cache)
    yield warden
    warden.process.stdin.close()
    assert warden.process.wait(60) == 0
    warden.process.stdout.close()
