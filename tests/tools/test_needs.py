"""Tools, and the build, that are run by a Python without what they need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("tool", ["count", "peers", "peers.start", "fidelity", "replay", "oracle"])
def test_a_tool_says_which_python_it_runs_with(tool):
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # Without its site-packages, which is where nybble and numpy are.
    command = [sys.executable, "-S", "-m", f"tools.{tool}", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.endswith(" is not here: run it with .venv/dev/bin/python (make test builds that)")


WITHOUT_HEADERS = """
import runpy, sys, sysconfig
path = sysconfig.get_path
sysconfig.get_path = lambda name, *at, **how: "/nowhere" if name == "include" else path(name, *at)
sys.argv = ["setup.py", "-q", "build_clib"]
runpy.run_path("setup.py", run_name="__main__")
"""


def test_the_build_asks_for_pythons_headers_first(monkeypatch):
    """By the name of their package."""
    for name in ("CPATH", "C_INCLUDE_PATH", "CFLAGS", "CPPFLAGS"):
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, "-c", WITHOUT_HEADERS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert "there is no Python.h in /nowhere" in said
    assert f"apt install python{sys.version_info.major}.{sys.version_info.minor}-dev" in said
