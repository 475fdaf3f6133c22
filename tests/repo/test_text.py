"""What no file of the repository may hold."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LARGEST_NBYTES = 1_000_000
SPDX = "/* SPDX-License-Identifier: MIT"

# A folder that exists on one person's machine: home folders, scratch folders.
# A path begins where no word does, or after a compiler's -I or -L.
OWN_FOLDER = re.compile(
    rb"(?:(?<![\w.$}~-])|(?<=-[IL]))/(?:(?:home|Users)/\w+/|(?:root|tmp|work)/\w)"
)


def tracked():
    """The files that git tracks, but those that were deleted meanwhile."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    paths = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def own_folders(content):
    """The lines of `content` that name a folder of somebody's machine, as (number, line)."""
    lines = enumerate(content.splitlines(), 1)
    return [(number, line) for number, line in lines if OWN_FOLDER.search(line)]


def test_no_file_names_a_folder_of_somebodys_machine():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.decode(errors='replace').strip()}"
        for path in tracked()
        for number, line in own_folders(path.read_bytes())
    ]
    assert found == []


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("see /" + "home/ann/models/x.gguf", True),
        ('open("/' + 'tmp/x.gguf")', True),
        ("-I/" + "root/include", True),
        ("=/" + "Users/ann/x", True),
        ("~/.local/share/nybble", False),
        ("$NYBBLE_HOME/" + "tmp/x", False),
        ("docs/work/x and /mnt/usb", False),
        ("a/" + "tmp/x", False),
    ],
)
def test_own_folders_are_recognised(line, is_found):
    assert bool(own_folders(line.encode())) == is_found


def test_no_file_is_large():
    large = [
        str(path.relative_to(ROOT)) for path in tracked() if path.stat().st_size > LARGEST_NBYTES
    ]
    assert large == []


def test_every_c_file_begins_with_its_licence():
    c_files = [path for path in tracked() if path.suffix in (".c", ".h", ".def")]
    assert c_files
    bare = [
        str(path.relative_to(ROOT)) for path in c_files if not path.read_text().startswith(SPDX)
    ]
    assert bare == []


def test_no_cython_has_a_list_comprehension():
    """Where appending fails, Cython 3.3's code for one gives its element back twice."""
    comprehension = re.compile(r"\[[^\]\n]* for [^\]\n]* in ")
    found = [
        f"{path.name}:{number}"
        for path in tracked()
        if path.suffix == ".pyx"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if comprehension.search(line)
    ]
    assert found == []
