"""The commands in README.md and what they print.

A fenced block names how its commands are to be run:

    sh         anywhere, with nybble installed: tests/repo/test_readme.py runs them in an empty
               folder and compares what they print
    console    in a checkout: .ci/run runs them in a fresh clone

In both a line that begins with `$ ` is a command, and the lines below it, up to the next command
or the block's end, are exactly what it prints on stdout. As a script, `readme.py console` prints
that kind's commands, one a line.
"""

import re
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
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


if __name__ == "__main__":
    for command, _ in commands(README.read_text(), sys.argv[1]):
        print(command)
