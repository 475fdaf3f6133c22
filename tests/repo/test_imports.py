"""`import nybble` and its first use are cheap: they load few modules, and none of the slow ones."""

import subprocess
import sys
from pathlib import Path

import nybble

# What every interpreter loads at its start (its site module does), though this test's does not.
SITE = {
    "__future__",
    "_abc",
    "_collections_abc",
    "_stat",
    "abc",
    "errno",
    "genericpath",
    "os",
    "os.path",
    "posixpath",
    "stat",
}
# What `nybble.load` may load beyond that before it has a file. A board pays for each of them at
# every start, so an addition needs a reason.
ALLOWED = {
    "_collections",
    "_functools",
    "_weakref",
    "_weakrefset",
    "binascii",
    "collections",
    "collections.abc",
    "contextlib",
    "cython_runtime",
    "functools",
    "itertools",
    "keyword",
    "math",
    "operator",
    "_operator",
    "reprlib",
    "resource",
    "types",
    "weakref",
}
SLOW = {"argparse", "dataclasses", "importlib.metadata", "numpy", "re", "typing"}
SLOW |= {"jinja2", "minijinja"}

# Without site (-S), so that what an environment's .pth files load is not taken for granted.
PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
bare = set(sys.modules)
import nybble
{use}
print(*sorted(set(sys.modules) - bare))
"""


def loaded(use="nybble.load"):
    folder = str(Path(nybble.__file__).parents[1])
    program = PROGRAM.format(folder=folder, use=use)
    command = [sys.executable, "-I", "-S", "-c", program]
    result = subprocess.run(command, capture_output=True, check=True, text=True)
    return set(result.stdout.split())


def test_import_loads_only_what_is_listed():
    own = ("nybble", "_cython_")  # Cython keeps its shared types in a module of its version
    others = {name for name in loaded() if not name.startswith(own)}
    assert sorted(others - SITE - ALLOWED) == []


def test_import_alone_loads_next_to_nothing():
    """Names come when they are used: what needs no model loads none of it."""
    assert sorted(loaded("") - SITE) == ["nybble"]


def test_import_loads_nothing_slow():
    assert sorted(loaded() & SLOW) == []
