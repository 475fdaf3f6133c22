"""Mixed use for a while leaves nothing behind: memory, threads, files, models."""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from nybble import hub
from nybble.hub.known import DEFAULT
from tests.long import LONG

ROOT = Path(__file__).parents[2]
SECONDS = 1200 if LONG else 20
# Between the middle third and the last one, of the medians: less than a model, a reply or a
# template that stays behind now and then would add up to.
LARGEST_GROWTH = {"rss": 2_000_000, "heap": 300_000, "blocks": 1500}


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_mixed_use_leaves_nothing_behind():
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.faults.mixed_use"]
    command += ["--seconds", str(SECONDS), "--seed", "8"]
    if hub.is_pulled(DEFAULT):
        command += ["--model", DEFAULT]
    # One arena: glibc gives each new thread another, up to eight a core, and what it keeps of each
    # for later would hide what nybble does.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS + 300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    *rounds, last = map(json.loads, done.stdout.splitlines())
    assert len(last["actions"]) > 15

    third = len(rounds) // 3
    assert third >= 3
    for what, most in LARGEST_GROWTH.items():
        middle, end = (
            median(r[what] or 0 for r in part) for part in (rounds[third:-third], rounds[-third:])
        )
        assert end - middle < most, f"{what} grew from {middle:,.0f} to {end:,.0f}"
    for what in ("threads", "files", "loaded"):
        assert len({r[what] for r in rounds}) == 1, f"{what}: {[r[what] for r in rounds]}"
