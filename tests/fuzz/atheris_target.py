"""Drives a target in Python with atheris, which guides by what Python code an input reaches.

    python -m tests.fuzz.atheris_target NAME [CORPUS...] [libFuzzer's options]

NAME is a module beside this one with a try_one(bytes). https://pypi.org/project/atheris
"""

import importlib
import os
import sys

import atheris

name = sys.argv.pop(1)
with atheris.instrument_imports(include=["nybble"]):
    target = importlib.import_module(f"tests.fuzz.{name}")


def one(data: bytes) -> None:
    target.try_one(data)


os.environ["NYBBLE_PACK"] = "0"
atheris.Setup(sys.argv, one)
atheris.Fuzz()
