"""What is run on an emulated board and on this machine, with the nybble of a wheel.

    python on_board.py load
    python on_board.py answer FILE.nyb PROMPT TOKENS THREADS

prints a JSON object: what `load` and `answer` return.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pkgutil
import sys
from typing import Any

import nybble
from nybble import _core


def load() -> dict[str, Any]:
    """Loads every compiled module: where nybble is, and how many those are."""
    names = [f"nybble._core.{module.name}" for module in pkgutil.iter_modules(_core.__path__)]
    files = [importlib.import_module(name).__file__ for name in names]
    return {"nybble": os.path.dirname(nybble.__file__), "modules": len(files)}


def answer(path: str, prompt: str, tokens: str, threads: str) -> dict[str, Any]:
    """The likeliest tokens behind the prompt, and a checksum of its last logits' bits."""
    with nybble.load(path, context=256, threads=int(threads)) as model:
        ids = model.tokenize(prompt, add_bos=True)
        logits = hashlib.sha256(model.logits(ids)).hexdigest()
        reply = model.complete(prompt, max_tokens=int(tokens), temperature=0)
        return {"text": reply.text, "tokens": reply.stats.tokens, "logits": logits}


if __name__ == "__main__":
    found = load() if sys.argv[1] == "load" else answer(*sys.argv[2:])
    print(json.dumps(found))
