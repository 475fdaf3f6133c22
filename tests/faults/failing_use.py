"""A load and some uses of a model with one request for memory after another refused.

    LD_PRELOAD=failing.so python -m tests.faults.failing_use failing.so MODEL MODE [STEP]

MODE is "one" (one request fails), "all" (it and all that come after it) or "python" (one request of
nybble's modules to Python's own allocators, every STEP-th of them). Prints a JSON object for each
request: what failed, what came of it, what of the memory that nybble's modules had was not given
back, what was left in the cache's folder of copies, and VmRSS.

With $NYBBLE_PACK=auto the model is mapped: MODE "packing" is "one" without a copy in the cache, and
any other finds it there.

MODE "count" refuses none: it prints how often memory is asked for by a load, by the first token of
a reply, by the tokens after it, and by a whole second reply.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from collections.abc import Callable

import nybble
from nybble import hub, packing
from nybble._core.native import pool_stop
from nybble.errors import NybbleError

packing.WORTH_A_COPY = 0  # where copies are wanted
# Where weights are mapped, and nobody says how many, there may be a file of what is quickest.
THREADS = None if packing.is_wanted() else 2


class Faults:
    """The preloaded library (failing.c)."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)  # which is loaded already
        self._library.faults_begin.argtypes = [ctypes.c_long, ctypes.c_int]
        self._library.faults_end.restype = ctypes.c_char_p
        for name in ("faults_requests", "faults_held"):
            getattr(self._library, name).restype = ctypes.c_long
        if self._library.faults_watch(b"/nybble/_core/") < 6:
            raise AssertionError("not all of nybble's modules are there to be watched")

    def in_python(self) -> None:
        api = ctypes.pythonapi
        self._library.faults_in_python(api.PyMem_GetAllocator, api.PyMem_SetAllocator)

    def begin(self, first: int, all_others: bool) -> None:
        self._library.faults_begin(first, all_others)

    def end(self) -> str | None:
        failed = self._library.faults_end()
        return None if failed is None else failed.decode()

    def requests(self) -> int:
        return int(self._library.faults_requests())

    def held(self) -> int:
        """Pieces of memory, mappings and threads that nybble's modules have."""
        return int(self._library.faults_held())


def use(path: str) -> list[object]:
    """All that asks for memory; returns what came of it."""
    model = nybble.load(path, context=256, sequences=2, threads=THREADS)
    chat = model.chat(system="Be brief.")
    reply = model.ask("Hello", temperature=0.5, seed=1, top_p=0.9, repeat_penalty=1.1)
    it = iter(reply)
    begun = next(it)
    ids = model.tokenize("the cat")
    found: list[object] = [
        chat.ask("Hello").text,
        begun + "".join(it),
        model.complete("\n", stop="wir").text,
        model.detokenize(ids),
        bytes(model.logits(ids)),
        bytes(model.logits(ids, all=True)),
        bytes(model.embed("the cat")),
    ]
    model.forget()
    return found


def left() -> list[str]:
    """What is in the cache's folder of copies."""
    folder = os.path.join(hub.cache_folder(), "packed")
    return sorted(os.listdir(folder)) if packing.is_wanted() else []


def rss_bytes() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024


def attempt(faults: Faults, path: str, first: int, all_others: bool) -> tuple[object, ...]:
    """A use in which request `first` fails: the function that failed, the error's class and text,
    and what came if there was none."""
    came, error = None, None
    faults.begin(first, all_others)
    try:
        came = use(path)
    except (MemoryError, NybbleError) as raised:
        failed = faults.end()
        error = raised
    else:
        failed = faults.end()
    return failed, came, type(error).__name__ if error else None, str(error) if error else None


def count(faults: Faults, path: str) -> dict[str, int]:
    """How often a load and the steps of two replies ask for memory."""
    counts = {}

    def counted(what: str, act: Callable[[], object]) -> object:
        faults.begin(0, False)
        came = act()
        counts[what] = faults.requests()
        return came

    asked = {"temperature": 0.5, "seed": 1, "top_p": 0.9, "repeat_penalty": 1.1, "stop": "wir"}
    pool_stop()
    model = counted("load", lambda: nybble.load(path, context=256, threads=2))
    it = iter(model.ask("Hello", max_tokens=100))
    counted("first token", lambda: next(it))
    counted("later tokens", lambda: list(it))
    counted("second reply", lambda: str(model.complete("the cat " * 40, max_tokens=40, **asked)))
    return counts


def main() -> None:
    library, path, mode, *rest = sys.argv[1:]
    step = int(rest[0]) if rest else 1
    for _ in range(3):  # what is made once is made, and all modules are there
        expected = use(path)
    gc.collect()
    pool_stop()
    faults = Faults(library)
    if mode == "count":
        print(json.dumps(count(faults, path)))
        return
    if mode == "python":
        faults.in_python()
    held = faults.held()
    first = 1
    while True:
        if mode == "packing":
            os.unlink(hub.copy_path(path))
        failed, came, error, text = attempt(faults, path, first, mode == "all")
        pool_stop()
        gc.collect()
        result = {
            "first": first,
            "failed": failed,
            "error": error,
            "text": text,
            "is_right": came in (None, expected),
            "not_given_back": faults.held() - held,
            "left": left(),
        }
        if failed is None:
            break
        result["works_afterwards"] = use(path) == expected
        pool_stop()
        gc.collect()
        result["not_given_back_afterwards"] = faults.held() - held
        result["rss"] = rss_bytes()
        print(json.dumps(result), flush=True)
        first += step
    print(json.dumps({"requests": faults.requests()}))


if __name__ == "__main__":
    main()
