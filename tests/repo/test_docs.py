"""The documents name what exists: paths, identifiers, headings, and every room."""

import re
import subprocess
from pathlib import Path

import pytest

import nybble

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/arithmetic.md", "docs/formats.md"]
DOCUMENTS += ["docs/adding-a-kernel.md", "docs/adding-an-architecture.md"]
DOCUMENTS += ["docs/benchmarks.md", "docs/fidelity.md", "docs/python.md", "docs/command-line.md"]
DOCUMENTS += ["docs/boards.md"]
CODE = {".c", ".h", ".def", ".py", ".pyx", ".pxd", ".pyi", ".toml"}

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"[\w./-]*(?:/|\.(?:c|h|md|py|pyx|pxd|def|toml))")
IDENTIFIER = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")
REFERENCE = re.compile(r'docs/(\w+\.md), \\?"([^"\\]+)')
# In backquotes, and defined outside this repository.
ELSEWHERE = {"NAME_LEVEL.c", ".venv/", "FLT_EVAL_METHOD", "fabsf", "pow"}
ELSEWHERE |= {"conversion/", "src/models/"}  # llama.cpp's
# TARGET stands for any.
ELSEWHERE |= {f"{place}/TARGET/" for place in ("build/fuzz", "tests/fuzz/crashes")}
ELSEWHERE |= {"tests/fuzz/TARGET.c"}


def tracked():
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return [name for name in listing.stdout.decode().split("\0") if name]


def quoted(text):
    """What a document says in backquotes, outside its fenced blocks."""
    return set(QUOTED.findall(FENCE.sub("", text)))


def missing(text, root, files, words):
    """The paths and identifiers of a document that are not there. A bare file name may be that of
    any file; of a dotted name each part must be a word of the code."""
    names = {name.rpartition("/")[2] for name in files}
    found = []
    for item in sorted(quoted(text) - ELSEWHERE):
        if PATH.fullmatch(item):
            is_there = (root / item).exists() or item in names
        elif IDENTIFIER.fullmatch(item):
            is_there = words.issuperset(item.split("."))
        else:
            continue
        if not is_there:
            found.append(item)
    return found


def words_of(files):
    """Every word of the code, tests apart: these may name what is not there. What fuzzes is a tool
    that a page tells how to use."""
    code = [name for name in files if Path(name).suffix in CODE]
    names = [n for n in code if not n.startswith("tests/") or n.startswith("tests/fuzz/")]
    names.append("Makefile")
    paths = [ROOT / name for name in names if (ROOT / name).is_file()]
    return {word for path in paths for word in re.findall(r"\w+", path.read_text())}


def rooms(files):
    """Every folder that is a room: those at the top, the engine, the packages of the runtime."""
    folders = {name.partition("/")[0] for name in files if "/" in name}
    folders = {folder for folder in folders if not folder.startswith(".")} - {"runtime"}
    parts = {"/".join(name.split("/")[:3]) for name in files if name.startswith("runtime/nybble/")}
    folders |= {part for part in parts if (ROOT / part).is_dir()}
    return {f"{folder}/" for folder in folders} | {"runtime/engine/", "runtime/nybble/"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_names_exists(document):
    files = tracked()
    assert missing((ROOT / document).read_text(), ROOT, files, words_of(files)) == []


def test_missing_names_are_found(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.c").touch()
    text = "`a/` `a/b.c` `b.c` `known` `a/gone.c` `gone.py` `gone` `known.gone` `a + b`\n"
    fenced = "```\n`in_a_block`\n```\n"
    found = missing(text + fenced, tmp_path, ["a/b.c"], {"known"})
    assert found == ["a/gone.c", "gone", "gone.py", "known.gone"]


def test_every_room_has_its_line():
    rows = re.findall(r"^\| `([^`]+/)` \| \S", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    assert set(rows) == rooms(tracked())
    assert len(rows) == len(set(rows))


def test_rooms_stand_in_the_order_of_calls():
    rows = re.findall(r"^\| `([^`]+/)`", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    arrow = ["runtime/nybble/", "runtime/nybble/_core/", "runtime/engine/", "targets/"]
    arrow += ["kernels_ref/"]
    assert [row for row in rows if row in arrow] == arrow


def test_code_refers_to_headings_that_exist():
    references = []
    for name in tracked():
        path = ROOT / name
        if path.suffix in CODE and path.is_file() and path != Path(__file__):
            references += [(name, *match) for match in REFERENCE.findall(path.read_text())]
    assert references
    for name, document, heading in references:
        headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / document).read_text(), re.MULTILINE)
        assert heading in headings, f"{name} refers to {heading!r} in docs/{document}"


def test_the_arithmetic_has_one_version():
    said = re.search(
        r"This is version (\d+) of the arith", (ROOT / "docs/arithmetic.md").read_text()
    )
    assert int(said[1]) == nybble.ARITHMETIC


def test_links_lead_somewhere():
    documents = [name for name in tracked() if name.endswith(".md")]
    assert "CHANGELOG.md" in documents
    for name in documents:
        path = ROOT / name
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / link).exists(), f"{name} links to {link}"


def test_make_help_lists_every_target():
    text = (ROOT / "Makefile").read_text().replace("\\\n", "")
    targets = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())
    listing = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True)
    listed = set(re.findall(r"^make (\S+)", listing.stdout, re.MULTILINE))
    assert listed == targets - {"help"}
