"""Drives the target of builder.py with atheris, which guides by what Python code an input reaches.

    python -m tests.fuzz.atheris_builder [CORPUS...] [libFuzzer's options]

https://pypi.org/project/atheris
"""

import os
import sys

import atheris

with atheris.instrument_imports(include=["nybble"]):
    from tests.fuzz import builder


def target(data: bytes) -> None:
    builder.try_one(data)


os.environ["NYBBLE_PACK"] = "0"
atheris.Setup(sys.argv, target)
atheris.Fuzz()
