"""Runs jobs, each in a process of its own that has little memory and little time.

    python -m tests.hostile.warden < jobs

A job is a line of JSON, and so is what became of it. The process imports nybble once and forks for
each job: what a job does cannot help or hurt the next one.

How memory is limited: RLIMIT_DATA, all that is private and can be written to, touched or not, so
that a size that is believed fails at once; and VmHWM, reset when the job begins, for what was
really there, file pages too. RLIMIT_AS would count what costs nothing, such as the stacks of
threads and libraries in place, and depend on the machine for it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import nybble
import nybble.archs
import nybble.lowering
import nybble.tokenizer.sandbox
from nybble import cli, packing, tokenizer
from nybble.tokenizer.template import ChatTemplate
from tests.tokenizer import vocabulary

# AddressSanitizer's own memory is more than any limit: with it only the outcomes count.
IS_SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")
LIMIT = 1 << 50 if IS_SANITIZED else 50 << 20  # bytes more than the interpreter with nybble in it
WATCHDOG_S = 60


def load(path: str) -> dict[str, object]:
    """Loads it and, if that works, asks it."""
    try:
        model = nybble.load(path, context=64)
        text = str(model.ask("Hello", max_tokens=2, ignore_eos=True))
    except BaseException as error:
        return {"error": type(error).__name__, "text": str(error)}
    return {"error": None, "text": text}


def shell(*command: str) -> dict[str, object]:
    """The command line's exit code and what it prints."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([*command])
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def template(source: str) -> dict[str, object]:
    """Renders a chat template for a message or two."""
    tokens = tokenizer.load(vocabulary.metadata([*vocabulary.BYTES, "<|end|>"], [], {"<|end|>": 3}))
    try:
        ids = ChatTemplate(source, tokens).encode([{"role": "user", "content": "Hello"}])
    except BaseException as error:
        return {"error": type(error).__name__, "text": str(error)}
    return {"error": None, "text": f"{len(ids)} tokens"}


JOBS = {"load": load, "shell": shell, "template": template}


def status(name: str) -> int:
    """A number of /proc/self/status, in bytes."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
    raise KeyError(name)


def confined(job: dict[str, Any]) -> dict[str, object]:
    """The job, in a process that is this one's copy."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # `nybble run` would wait for what is piped in
    sys.stdin = open(0, closefd=False)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = status("VmHWM")
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if not IS_SANITIZED:
        resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + LIMIT, most))
    os.environ["NYBBLE_PACK"] = job["pack"]
    try:
        outcome = JOBS[job["job"]](*job["arguments"])
    except BaseException as error:
        outcome = {"died": f"{type(error).__name__}: {error}"}
    finally:  # what is said of the job is not its own
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    return {**outcome, "peak": status("VmHWM") - before}


def run(job: dict[str, Any]) -> dict[str, object]:
    """What became of a job: its own outcome, or {"died": why}."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            said = json.dumps(confined(job)).encode()
            while said:
                said = said[os.write(writing, said) :]
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    started = time.monotonic()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        said = b"".join(pieces(pipe.fileno(), started))
    if time.monotonic() - started >= WATCHDOG_S:
        os.kill(child, signal.SIGKILL)
    _, code = os.waitpid(child, 0)
    if os.WIFSIGNALED(code):
        return {"died": f"signal {os.WTERMSIG(code)} after {time.monotonic() - started:.1f} s"}
    if os.WEXITSTATUS(code):
        return {"died": f"exit code {os.WEXITSTATUS(code)}"}
    return {**json.loads(said), "seconds": time.monotonic() - started}


def pieces(pipe: int, started: float) -> Iterator[bytes]:
    """What comes through a pipe until it is closed, or the watchdog barks."""
    import select

    while (left := started + WATCHDOG_S - time.monotonic()) > 0:
        if select.select([pipe], [], [], left)[0]:
            piece = os.read(pipe, 1 << 16)
            if not piece:
                return
            yield piece


def main() -> None:
    packing.WORTH_A_COPY = 0
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
