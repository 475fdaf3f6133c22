"""The process that does what hostile files and templates ask for."""

import json
import os
import subprocess
import sys

import pytest

from .warden import LIMIT


class Warden:
    """A process that does one job after another, and survives them."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.warden"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "NYBBLE_PACK": "0"},  # what is no model is not kept on the disk
        )

    def does(self, job, *arguments, limit=LIMIT):
        """The outcome of a job, which has not died nor taken more memory than `limit`."""
        line = json.dumps({"job": job, "arguments": list(map(str, arguments))})
        print(line, file=self.process.stdin, flush=True)
        outcome = json.loads(self.process.stdout.readline())
        if limit is not None:
            assert "died" not in outcome, (line[:200], outcome)
            assert outcome["peak"] < limit, (line[:200], outcome)
        return outcome


@pytest.fixture(scope="module")
def warden():
    warden = Warden()
    yield warden
    warden.process.stdin.close()
    assert warden.process.wait(60) == 0
    warden.process.stdout.close()
