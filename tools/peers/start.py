"""From nothing to the first token: nybble beside llama-cpp-python, in turn, on this machine.

    python -m tools.peers.start --peer PATH_OF_A_PYTHON_THAT_HAS_LLAMA_CPP
    python -m tools.peers.start --peer ~/peer/bin/python --model ./mine.gguf --runs 9 --json

A turn is a process: the interpreter starts, imports, loads, and prints the first token of a prompt
of ten tokens, and what counts is the time until that comes. A model that has a chat template gets
the prompt rendered by it, one that has none as it is. Each side runs once before the turns, so that
the files are in the page cache, and nybble's copy is packed. Both get the same number of threads,
and the peer no more than the context that it needs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import nybble
from nybble import hub, machine
from nybble.cli.pull import pull
from nybble.hub.known import KNOWN

CONTEXT = 512
CHAT = "What is the capital of France, and of Italy?"  # ten tokens of SmolLM2's
TEXT = "Geese fly south in a V in the autumn"  # and of Gemma's, with what is put in front

NYBBLE = """
import sys, nybble
path, threads, context, text, is_chat = sys.argv[1:]
model = nybble.load(path, threads=int(threads), context=int(context))
reply = (model.ask if is_chat == "1" else model.complete)(text, max_tokens=1)
for piece in reply:
    break
print(repr(piece), flush=True)
"""
PEER = """
import sys
from llama_cpp import Llama
path, threads, context, text, is_chat = sys.argv[1:]
model = Llama(path, n_ctx=int(context), n_threads=int(threads), n_threads_batch=int(threads),
              verbose=False)
if is_chat == "1":
    message = {"role": "user", "content": text}
    chunks = model.create_chat_completion([message], max_tokens=1, temperature=0, stream=True)
    said = (chunk["choices"][0]["delta"].get("content") for chunk in chunks)
else:
    chunks = model.create_completion(text, max_tokens=1, temperature=0, stream=True)
    said = (chunk["choices"][0]["text"] for chunk in chunks)
for piece in said:
    if piece:
        break
print(repr(piece), flush=True)
"""


def seconds(command: list[str]) -> float:
    """How long it takes a process to say its first line."""
    begin = perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        took = perf_counter() - begin
    if not line:
        raise SystemExit(f"exit status {process.returncode} of: {command[0]} -c ... {command[3:]}")
    return took


def compare(path: str, peer: str, threads: int, runs: int) -> dict[str, Any]:
    """Seconds of both sides, in turn, and how many times as long the peer takes."""
    with nybble.load(path, threads=threads) as model:
        is_chat = model.has_template
        text = CHAT if is_chat else TEXT
        n_tokens = len(model.tokenize(text))
    arguments = [path, str(threads), str(CONTEXT), text, "1" if is_chat else "0"]
    sides = {"nybble": [sys.executable, "-c", NYBBLE, *arguments]}
    sides["llama-cpp-python"] = [peer, "-c", PEER, *arguments]
    for command in sides.values():
        seconds(command)
    turns: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, command in sides.items():
            turns[name].append(seconds(command))
    own, theirs = (median(taken) for taken in turns.values())
    return {
        "model": Path(path).name,
        "threads": threads,
        "prompt_tokens": n_tokens,
        "is_chat": is_chat,
        "seconds": {name: [round(one, 4) for one in taken] for name, taken in turns.items()},
        "peer_takes": round(theirs / own, 2),
    }


def main(arguments: list[str] | None = None) -> int:
    """Carry out `python -m tools.peers.start`."""
    p = argparse.ArgumentParser(
        prog="python -m tools.peers.start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--peer", required=True, help="a Python that has llama-cpp-python")
    p.add_argument("--model", action="append", help="a known name or a file; repeatable")
    p.add_argument("--threads", type=int, default=len(machine.cpus()))
    p.add_argument("--runs", type=int, default=7)
    p.add_argument("--json", action="store_true", help="one JSON object a model")
    args = p.parse_args(arguments)
    for name in args.model or ("smollm2-135m", "gemma3-270m"):
        path = pull(name) if name in KNOWN else hub.resolve(name)
        found = compare(path, args.peer, args.threads, args.runs)
        if args.json:
            print(json.dumps(found), flush=True)
            continue
        how = "by its chat template" if found["is_chat"] else "as they are"
        print(f"{found['model']}: {found['prompt_tokens']} tokens {how}, {args.threads} threads")
        for side, taken in found["seconds"].items():
            least, middle, most = (f(taken) * 1e3 for f in (min, median, max))
            print(f"  {side:<18}{middle:7.0f} ms ({least:.0f} to {most:.0f})")
        print(f"  the peer takes {found['peer_takes']:.2f} times as long", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
