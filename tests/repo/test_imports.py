"""`import nybble` is cheap: it loads few modules, and none of the slow ones."""

import subprocess
import sys
from pathlib import Path

import nybble

# What `import nybble` may load beyond what a bare interpreter has. A board pays for each of them
# at every start, so an addition needs a reason.
ALLOWED = {
    "__future__",
    "_collections",
    "_functools",
    "_operator",
    "_weakref",
    "array",
    "collections",
    "collections.abc",
    "contextlib",
    "functools",
    "itertools",
    "keyword",
    "math",
    "mmap",
    "operator",
    "reprlib",
    "types",
    "weakref",
}
SLOW = {"argparse", "dataclasses", "importlib.metadata", "jinja2", "numpy", "re", "typing"}

# Without site (-S), so that what an environment's .pth files load is not taken for granted.
PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
bare = set(sys.modules)
import nybble
print(*sorted(set(sys.modules) - bare))
"""


def loaded():
    folder = str(Path(nybble.__file__).parents[1])
    program = PROGRAM.format(folder=folder)
    command = [sys.executable, "-I", "-S", "-c", program]
    result = subprocess.run(command, capture_output=True, check=True, text=True)
    return set(result.stdout.split())


def test_import_loads_only_what_is_listed():
    others = {name for name in loaded() if name.split(".")[0] not in ("nybble", "_cython_3_3_1")}
    assert sorted(others - ALLOWED) == []


def test_import_loads_nothing_slow():
    assert sorted(loaded() & SLOW) == []
