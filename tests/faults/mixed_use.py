"""Mixed use for a given time: everything a program may do to models, from several threads, seeded.

    python -m tests.faults.mixed_use --seconds 1200 [--model smollm2-135m]

Works in rounds. In a round some threads do some actions each, on models that they share and on
some of their own; replies are read, broken off in every way, and compared with what the models are
known to say. Between rounds, when everything has been dropped, the process is measured: of each a
line of JSON, {"s", "rss", "heap", "blocks", "threads", "files", "loaded"}. rss is VmRSS and heap
what malloc has handed out, in bytes; blocks is how many pieces of memory Python holds, loaded how
many models there are. The last line is {"actions"}: how often each was done.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nybble
from nybble.errors import BusyError, ContextError, FormatError, NumericError, UsageError
from tests.model.models import POISON, speaking, thinking, with_poison
from tests.model.test_thinking import SWITCHED
from tools.tiny_model import tiny_model

TEXT = "Gehn wir,é世🙂!"  # no byte comes twice
LOOP = "abc"
THOUGHTS = "Hm, so"
THREADS = 3
ACTIONS = 25  # of a thread in a round


class World:
    """What all threads share: models, files, and what is known of them."""

    def __init__(self, folder: Path, name: str | None) -> None:
        def place(name: str) -> Path:
            (folder / name).mkdir()
            return folder / name

        self.name = name
        self.counts: Counter[str] = Counter()
        self.speaking = speaking(place("speaking"), TEXT)
        self.endless = speaking(place("endless"), LOOP, loops=True, context=4096)
        self.poisoned = with_poison(place("poisoned"))
        self.thinking = thinking(place("thinking"), THOUGHTS, "Ja!", template=SWITCHED)
        self.window = place("window") / "gemma3.gguf"
        tiny_model(self.window, family="gemma3", window=32, context=512)
        self.damaged = folder / "damaged.gguf"
        self.damaged.write_bytes(self.speaking.read_bytes()[:-1000])
        self.files = [self.speaking, self.endless, self.thinking, self.window]

        self.one = nybble.load(self.speaking)
        self.two = nybble.load(self.endless, sequences=2, context=2048, threads=2)
        self.poison = nybble.load(self.poisoned)
        self.ids = self.one.tokenize("the cat and the hen")
        self.logits = self.one.logits(self.ids).tobytes()
        self.vector = self.one.embed("the cat").tobytes()
        self.drawn = self.draw(self.one)

    def draw(self, model: nybble.Model) -> str:
        return model.ask("Hello", temperature=1.5, seed=3, max_tokens=40, ignore_eos=True).text


def whole(world: World, rng: random.Random) -> None:
    assert world.one.ask("x" * rng.randint(1, 100)).text == TEXT


def drawn(world: World, rng: random.Random) -> None:
    assert world.draw(world.one) == world.drawn


def broken_off(world: World, rng: random.Random) -> None:
    n = rng.randint(1, 8)
    for i, text in enumerate(world.one.ask("Hello")):
        assert text == TEXT[i]
        if i == n:
            break


def closed(world: World, rng: random.Random) -> None:
    reply = world.two.ask("Hello")
    it = iter(reply)
    n = rng.randint(0, 20)
    text = "".join(next(it) for _ in range(n))
    reply.close()
    assert text == reply.text == (LOOP * n)[:n]


def closed_by_a_thread(world: World, rng: random.Random) -> None:
    reply = world.two.ask("Hello")
    timer = threading.Timer(rng.uniform(0, 0.01), reply.close)
    timer.start()
    text = reply.text
    timer.join()
    assert text == (LOOP * len(text))[: len(text)]
    assert reply.stats.stop_reason in ("closed", "context")


def late(world: World, rng: random.Random) -> None:
    prompt = LOOP * rng.randint(1, 500)
    reply = world.two.complete(prompt, timeout_s=rng.uniform(0, 0.02))
    text = reply.text
    assert text == (LOOP * len(text))[: len(text)]
    assert reply.stats.stop_reason in ("timeout", "context")


def failed_within(world: World, rng: random.Random) -> None:
    with contextlib.suppress(ZeroDivisionError):
        for _ in world.one.ask("Hello"):
            _ = 1 / 0


def in_turns(world: World, rng: random.Random) -> None:
    """Two replies of one thread in turns; a third would wait for ever. Others may have one of the
    two sequences for a while, so that the second may be refused as well."""
    one, two = (world.two.ask("Hello", max_tokens=30) for _ in range(2))
    its = iter(one), iter(two)
    with contextlib.suppress(BusyError):
        for _ in range(rng.randint(1, 29)):
            for it in its:
                assert next(it) in LOOP
        try:
            _ = world.two.complete("c", max_tokens=1).text
        except BusyError:
            pass
        else:
            raise AssertionError("a third reply on two sequences")
    one.close()
    two.close()


def chatted(world: World, rng: random.Random) -> None:
    chat = world.one.chat(rng.choice([None, "Be brief."]))
    for _ in range(rng.randint(1, 4)):
        reply = chat.ask("y" * rng.randint(1, 30))
        if rng.random() < 0.3:
            next(iter(reply))
        else:
            assert reply.text == TEXT
        if rng.random() < 0.3:
            del chat.messages[rng.randrange(len(chat.messages)) :]
        elif rng.random() < 0.3:
            chat.messages[0]["content"] = "edited"


def thought(world: World, rng: random.Random) -> None:
    model = nybble.load(world.thinking)
    reply = model.ask("Hello", think=rng.choice([None, True, False]))
    for kind, text in reply.parts():
        assert text in (THOUGHTS if kind == "thinking" else "Ja!")
        if rng.random() < 0.1:
            break
    assert THOUGHTS.startswith(reply.thinking)


def stopped(world: World, rng: random.Random) -> None:
    stop = rng.choice(["wir", "é", "!", "世🙂", "nowhere", ["hn", "G"]])
    reply = world.one.ask("Hello", stop=stop)
    assert TEXT.startswith(reply.text)
    if rng.random() < 0.1:
        _ = world.one.ask("Hello", stop=[f"stop {i}" for i in range(1000)]).text


def numbers(world: World, rng: random.Random) -> None:
    assert world.one.logits(world.ids).tobytes() == world.logits
    every = world.one.logits(world.ids, all=True)
    assert every.tobytes()[-len(world.logits) :] == world.logits
    assert world.one.embed("the cat").tobytes() == world.vector


def tokens(world: World, rng: random.Random) -> None:
    data = rng.randbytes(rng.randint(0, 5000))
    assert world.one.detokenize_bytes(world.one.tokenize(data)) == data
    with contextlib.suppress(UsageError):
        world.one.detokenize([10**9])


def refused(world: World, rng: random.Random) -> None:
    for error, call in (
        (ContextError, lambda: world.one.ask("x" * 10_000)),
        (UsageError, lambda: world.one.ask("x", top_p=7)),
        (FormatError, lambda: nybble.load(world.damaged)),
        (NumericError, lambda: world.poison.complete(POISON).text),
    ):
        try:
            call()
        except error:
            pass
        else:
            raise AssertionError(f"no {error}")
    assert world.poison.complete("the cat", max_tokens=3, ignore_eos=True).text


def loaded_and_dropped(world: World, rng: random.Random) -> None:
    path = rng.choice(world.files)
    model = nybble.load(path, sequences=rng.randint(1, 3), context=rng.choice([None, 64, 300]))
    replies = [model.complete("\n", max_tokens=20) for _ in range(model.engine.sequences)]
    for it in map(iter, replies):
        next(it, None)
    if rng.random() < 0.5:  # in a cycle, for the collector to find
        replies.append(replies)


def in_asyncio(world: World, rng: random.Random) -> None:
    async def read(reply: nybble.Reply, most: int) -> None:
        n = 0
        async with reply:
            async for text in reply:
                assert text in LOOP
                n += 1
                if n == most:
                    break

    async def main() -> None:
        replies = [world.two.ask("Hello", max_tokens=rng.randint(1, 60)) for _ in range(5)]
        tasks = [asyncio.create_task(read(reply, rng.randint(1, 60))) for reply in replies]
        await asyncio.sleep(rng.uniform(0, 0.01))
        for task in tasks:
            if rng.random() < 0.3:
                task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert ended is None or isinstance(ended, asyncio.CancelledError)

    asyncio.run(main())


def real(world: World, rng: random.Random) -> None:
    """A real model."""
    assert world.name is not None
    model = nybble.load(world.name, context=256)
    reply = model.ask("Why do geese fly in a V?", max_tokens=rng.randint(1, 20))
    for _ in zip(range(rng.randint(1, 20)), reply, strict=False):
        pass


ACTIONS_OF = (
    whole,
    drawn,
    broken_off,
    closed,
    closed_by_a_thread,
    late,
    failed_within,
    in_turns,
    chatted,
    thought,
    stopped,
    numbers,
    tokens,
    refused,
    loaded_and_dropped,
    in_asyncio,
)
REAL_SHARE = 0.002


def act(world: World, seed: str, errors: list[BaseException]) -> None:
    """What one thread does in a round."""
    rng = random.Random(seed)
    try:
        for _ in range(ACTIONS):
            action = rng.choice(ACTIONS_OF)
            if rng.random() < REAL_SHARE and world.name is not None:
                action = real
            action(world, rng)
            world.counts[action.__name__] += 1
    except BaseException as error:
        errors.append(error)


class Mallinfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
        .split()
    ]  # fmt: skip


def heap_bytes() -> int | None:
    """What malloc has handed out; None where the C library does not tell."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return None
    libc.mallinfo2.restype = Mallinfo
    info = libc.mallinfo2()
    return int(info.uordblks + info.hblkhd)


def measured(started: float) -> dict[str, float | int | None]:
    """The process as it stands, with nothing under way."""
    for _ in range(3):
        gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return {
        "s": round(time.monotonic() - started, 3),
        "rss": int(fields["VmRSS"].split()[0]) * 1024,
        "heap": heap_bytes(),
        "blocks": sys.getallocatedblocks(),
        "threads": int(fields["Threads"]),
        "files": len(os.listdir("/proc/self/fd")),
        "loaded": sum(isinstance(it, nybble.Model) for it in gc.get_objects()),
    }


def mixed_use(world: World, seconds: float, seed: int) -> Iterator[dict[str, float | int | None]]:
    """Rounds until the time is over, and what was measured after each."""
    started = time.monotonic()
    number = 0
    while time.monotonic() - started < seconds:
        errors: list[BaseException] = []
        seeds = [f"{seed} {number} {i}" for i in range(THREADS)]
        threads = [threading.Thread(target=act, args=(world, s, errors)) for s in seeds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        del threads, thread
        yield measured(started)
        number += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", help="a real model, to be loaded now and then")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), args.model)
        for round in mixed_use(world, args.seconds, args.seed):
            print(json.dumps(round), flush=True)  # and kept nowhere
        print(json.dumps({"actions": world.counts}))


if __name__ == "__main__":
    main()
