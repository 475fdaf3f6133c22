"""Memory that is refused: each request of a load and of generation in turn, each an exception."""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.long import LONG
from tests.model.models import speaking

ROOT = Path(__file__).parents[2]
CC = os.environ.get("CC", "gcc")
# To Python's allocators there are some thousand requests; a prime, so that all kinds come.
STEP = 1 if LONG else 13

needs_compiler = pytest.mark.skipif(
    shutil.which(CC) is None, reason=f"no C compiler {CC!r}: install gcc, or set CC"
)
needs_glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="preloads over glibc's malloc"
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return speaking(tmp_path_factory.mktemp("model"), "Gehn wir!")


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """The library that is preloaded."""
    library = tmp_path_factory.mktemp("faults") / "failing.so"
    flags = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    source = Path(__file__).parent / "failing.c"
    subprocess.run([CC, *flags, source, "-o", library, "-ldl", "-lpthread"], check=True)
    return library


def run(failing, path, mode, step=1, pack="0"):
    """The objects that failing_use.py prints."""
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.faults.failing_use"]
    done = subprocess.run(
        [*command, failing, path, mode, str(step)],
        cwd=ROOT,
        env={
            **os.environ,
            "LD_PRELOAD": str(failing),
            "NYBBLE_PACK": pack,
            "NYBBLE_TUNE": "auto",
            "XDG_CACHE_HOME": str(failing.parent / "cache"),
            "NYBBLE_HOME": "",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-500:]
    return list(map(json.loads, done.stdout.splitlines()))


def attempts(failing, path, mode, step=1, pack="0"):
    """What came of each request's failure."""
    *rows, last = run(failing, path, mode, step, pack)
    assert len(rows) == -(-last["requests"] // step)
    return rows


def check(rows, may_do_without=()):
    """Every failure gave an error, or was done without; nothing leaks, and all works after it."""
    for row in rows:
        assert row["error"] or row["failed"] in may_do_without, row
        assert row["is_right"], row
        assert row["works_afterwards"], row
        assert row["not_given_back"] == row["not_given_back_afterwards"] == 0, row
    rss = [row["rss"] for row in rows]
    assert max(rss) - rss[0] < 2e6


@needs_compiler
@needs_glibc
@pytest.mark.parametrize("mode", ["one", "all"])
def test_each_request_for_memory_may_fail(failing, path, mode):
    rows = attempts(failing, path, mode)
    # Without a thread that cannot be started the others do its work.
    check(rows, may_do_without=["pthread_create"])
    assert {row["failed"] for row in rows} >= {"malloc", "calloc", "mmap", "pthread_create"}
    assert {row["error"] for row in rows} >= {"MemoryError", "BudgetError"}
    assert len(rows) > 15


@needs_compiler
@needs_glibc
@pytest.mark.parametrize("mode", ["one", "all", "packing"])
def test_each_request_may_fail_of_a_model_that_is_mapped(failing, path, mode):
    """With the packed copy there, and while it is made. A copy that cannot be used is done
    without; none is left in pieces."""
    rows = attempts(failing, path, mode, pack="auto")
    check(rows, may_do_without=["pthread_create", "mmap"])
    assert {row["failed"] for row in rows} >= {"malloc", "calloc", "mmap"}
    assert {row["error"] for row in rows} >= {"MemoryError", "BudgetError"}
    copy, tune = r"speaking-[0-9a-f]{8}\.nyb", r"(speaking-[0-9a-f]{8}\.tune)?"
    for row in rows:
        assert re.fullmatch(rf"{copy},?{tune}|{tune}", ",".join(row["left"])), row
    with_copy = [row for row in rows if any(name.endswith(".nyb") for name in row["left"])]
    assert 0 < len(with_copy) < len(rows) if mode == "packing" else with_copy == rows


@needs_compiler
@needs_glibc
def test_each_request_to_pythons_allocators_may_fail(failing, path):
    rows = attempts(failing, path, "python", STEP)
    check(rows)
    assert {row["error"] for row in rows} == {"MemoryError"}


@needs_compiler
@needs_glibc
def test_generation_asks_for_no_memory(failing, path):
    """All that the engine needs is taken by the load: what the plan has counted."""
    (counts,) = run(failing, path, "count")
    assert counts.pop("load") > 10
    # The pool's thread begins with the first batch; a text takes memory while it is encoded.
    assert counts == {"first token": 1, "later tokens": 0, "second reply": 1}
