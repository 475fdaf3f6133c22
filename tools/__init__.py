"""Scripts for a checkout: none is installed, none is imported by nybble."""

from __future__ import annotations

import sys
from types import TracebackType

_OF_DEV = ("gguf", "jinja2", "numpy", "nybble")  # modules that .venv/dev has


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What ends a program: one line if it is another Python than the one that tools run with."""
    name = getattr(error, "name", None) or ""
    if kind is ModuleNotFoundError and name.partition(".")[0] in _OF_DEV:
        line = f"{name} is not here: run it with .venv/dev/bin/python (make test builds that)"
        print(line, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _tell
