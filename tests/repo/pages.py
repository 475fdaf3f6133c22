"""The commands and programs in README.md and in the pages of docs/ that users follow.

A fenced block names how it is to be run, by tests/repo/test_pages.py where nothing else is said:

    sh         commands, anywhere, with nybble installed: a page's all in one folder, in order
    console    commands, in a checkout: .ci/run runs README's in a fresh clone
    python     a program: a page's all in one interpreter, in order
    text       behind a program, what it prints; anywhere else, only to be read

Among commands a line that begins with `$ ` is one, and the lines below it, up to the next or the
block's end, are what it prints on stdout. `...` stands for anything. As a script,
`pages.py console` prints README's commands of that kind, one a line.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "docs/python.md", ROOT / "docs/command-line.md"]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(text: str, kind: str) -> list[tuple[str, str]]:
    """The (command, output) pairs of all blocks of a kind, in order."""
    found: list[tuple[str, str]] = []
    for language, block in _BLOCK.findall(text):
        if language != kind:
            continue
        if not block.startswith("$ "):
            raise ValueError(f"a block of kind {kind} begins without a command: {block[:40]!r}")
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), ""))
            else:
                found[-1] = (found[-1][0], f"{found[-1][1]}{line}\n")
    return found


def programs(text: str) -> list[tuple[int, str, str | None]]:
    """The (line, program, output) of all programs, in order; None where no output is shown."""
    found: list[tuple[int, str, str | None]] = []
    end = -1  # of a program's block
    for match in _BLOCK.finditer(text):
        language, block = match.groups()
        if language == "python":
            found.append((text.count("\n", 0, match.start()) + 2, block, None))
            end = match.end()
        elif language == "text" and found and not text[end : match.start()].strip():
            found[-1] = (*found[-1][:2], block)
    return found


def is_shown(printed: str, output: str) -> bool:
    """Whether what was printed is what a page shows."""
    pattern = ".*".join(map(re.escape, output.split("...")))
    return re.fullmatch(pattern, printed, re.DOTALL) is not None


if __name__ == "__main__":
    for command, _ in commands(README.read_text(), sys.argv[1]):
        print(command)
