"""Signals, forks, other processes and the interpreter's end, each in a process of its own.

A program here that hangs is killed by its watchdog; one that crashes says where.
"""

import os
import pickle
import signal
import subprocess
import sys
import time

import pytest

import nybble

from .models import speaking

WATCHDOG_S = 60


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return speaking(tmp_path_factory.mktemp("model"), "Gehn wir!")


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A model that goes on for 60,000 tokens, which takes it seconds, as long prompts do: of which
    the last layer sees little, so it has two."""
    folder = tmp_path_factory.mktemp("endless")
    return speaking(folder, "abc", loops=True, context=60_000, layers=2)


# Where a crash was; and not what Python since 3.12 thinks of a fork beside other threads.
PYTHON = [sys.executable, "-X", "faulthandler", "-W", "ignore:This process:DeprecationWarning"]


def start(program, *args):
    command = [*PYTHON, "-c", program, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    try:
        out, err = process.communicate(timeout=WATCHDOG_S)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, ""), out
    return out


def run(program, *args):
    with start(program, *args) as process:
        return finish(process)


# -- Ctrl-C, timeouts, close: at the next token or chunk, and the model is usable afterwards

# What is running when "reading" is printed: tokens of a reply, or the chunks of a long prompt.
READING = """
import asyncio, signal, sys, threading, time, nybble
model = nybble.load(sys.argv[1], context=60_000, threads=2)
in_prompt = sys.argv[2] == "prompt"
reply = model.complete("abc" * (19_000 if in_prompt else 1))

def is_reading():
    while not (reply.stats.total_s if in_prompt else reply.stats.tokens > 5):
        time.sleep(0.001)
    return True

def tell():
    if is_reading():
        print("reading", flush=True)

def check(since, stop_reason):
    took = time.perf_counter() - since
    assert took < 2, f"it took {took} s"
    assert reply.stats.stop_reason == stop_reason, reply.stats
    assert (reply.stats.tokens == 0) == in_prompt, reply.stats
    n = len(reply.text)
    assert reply.text == ("abc" * n)[:n]
    assert model.complete("abc", max_tokens=3).text == "abc"
    print(stop_reason)
"""
CTRL_C = """
try:
    threading.Thread(target=tell).start()
    _ = reply.text
except KeyboardInterrupt:
    check(time.perf_counter(), "closed")
"""
CTRL_C_IN_ASYNCIO = """
async def main():
    async for _ in reply:
        pass
try:
    threading.Thread(target=tell).start()
    asyncio.run(main())
except KeyboardInterrupt:
    check(time.perf_counter(), "closed")
"""
CLOSED_BY_A_SIGNAL = """
def close(*_):
    global since
    since = time.perf_counter()
    reply.close()
signal.signal(signal.SIGINT, close)
threading.Thread(target=tell).start()
_ = reply.text
check(since, "closed")
"""
CLOSED_BY_A_THREAD = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("reading", flush=True)
def close():
    global since
    if is_reading():
        since = time.perf_counter()
        reply.close()
threading.Thread(target=close).start()
_ = reply.text
check(since, "closed")
"""
TIMED_OUT = """
signal.signal(signal.SIGINT, lambda *_: None)  # a signal that does nothing changes nothing
print("reading", flush=True)
reply = model.complete("abc" * (19_000 if in_prompt else 1), timeout_s=0.2)
since = time.perf_counter()
_ = reply.text
assert 0.1 < reply.stats.total_s < 2.2  # until the last token before it was late
check(since + 0.2, "timeout")
"""


@pytest.mark.parametrize("what", ["tokens", "prompt"])
@pytest.mark.parametrize(
    "how", [CTRL_C, CTRL_C_IN_ASYNCIO, CLOSED_BY_A_SIGNAL, CLOSED_BY_A_THREAD, TIMED_OUT],
    ids=["ctrl-c", "ctrl-c in asyncio", "close by a signal", "close by a thread", "timeout"],
)  # fmt: skip
def test_it_ends_at_once_and_the_model_is_usable(endless, what, how):
    with start(READING + how, endless, what) as process:
        assert process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGINT)
        assert finish(process) in ("closed\n", "timeout\n")


ALARMED = """
import random, signal, sys, nybble
def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
model = nybble.load(sys.argv[1])
expected = model.ask("Hello").text
rng, stopped = random.Random(1), 0
for _ in range(400):
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 2e-3))
        for _ in range(50):
            text = model.ask("Hello").text
    except KeyboardInterrupt:
        stopped += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert model.ask("Hello").text == expected
print(stopped)
"""


def test_no_interrupt_loses_the_sequence(path):
    """Wherever it comes, also between two bytecodes of what lends sequences. (In a finalizer Python
    itself can but print it.)"""
    with start(ALARMED, path) as process:
        out, err = process.communicate(timeout=WATCHDOG_S)
    assert process.returncode == 0, err
    assert int(out) > 300


# -- forks

FORKED = """
import os, sys, threading, nybble
model = nybble.load(sys.argv[1], context=60_000, threads=2)
mine = sys.argv[2] == "mine"
reply = model.ask("Hello")
if mine:
    text = "".join(next(iter(reply)) for _ in range(3))
else:
    reader = threading.Thread(target=lambda: reply.text)
    reader.start()
while reply.stats.tokens < 1:
    pass
child = os.fork()
if mine:
    reply.close()
said = model.ask("Hello", max_tokens=3).text if mine or not child else ""
if not child:
    os._exit(0 if said == "abc" else 1)
reply.close()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

# The child reads the very reply that another thread was in the middle of, or waiting with.
READ_AFTER_FORK = """
import os, sys, threading, time, nybble
model = nybble.load(sys.argv[1], context=60_000, threads=2)
reply, waiting = model.ask("Hello"), model.ask("Hello", max_tokens=3)
threads = [threading.Thread(target=lambda it=it: it.text) for it in (reply, waiting)]
threads[0].start()
while not reply.stats.tokens:
    time.sleep(0.001)
threads[1].start()
while not waiting.stats.total_s:
    time.sleep(0.001)
children = []
for _ in range(20):
    child = os.fork()
    if not child:
        text = reply.text
        good = reply.stats.stop_reason == "closed" and text == ("abc" * len(text))[:len(text)]
        ended = waiting.text, waiting.stats.stop_reason
        good = good and ended in (("", "closed"), ("abc", "length"))
        good = good and model.ask("Hello", max_tokens=3).text == "abc"
        os._exit(0 if good else 1)
    children.append(child)
codes = {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}
assert reply.stats.stop_reason is None, "the parent's goes on"
for it in (waiting, reply):
    it.close()
for thread in threads:
    thread.join()
print(codes, model.ask("Hello", max_tokens=3).text)
"""

# The event loop's thread forks while one of its executor's is at a step of the reply.
FORK_IN_A_LOOP = """
import asyncio, os, sys, nybble
model = nybble.load(sys.argv[1], context=60_000, threads=1)
reply = model.complete("abc" * 19_000)

async def read():
    async for _ in reply:
        pass

async def main():
    task = asyncio.create_task(read())
    children = []
    while len(children) < 20:
        await asyncio.sleep(0.003)
        child = os.fork()
        if not child:
            try:
                reply.close()
                os._exit(model.complete("c", max_tokens=3).text != "abc")
            finally:
                os._exit(2)
        children.append(child)
    assert reply.stats.stop_reason is None, "the parent's goes on"
    await reply.aclose()
    await task
    print({os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children})

asyncio.run(main())
"""

# A reply that this thread is in the middle of goes on in both, each with its own copy.
BOTH_GO_ON = """
import os, sys, nybble
model = nybble.load(sys.argv[1], threads=2)
reply = model.ask("Hello")
it = iter(reply)
begun = next(it) + next(it)
read, write = os.pipe()
child = os.fork()
text = reply.text
if not child:
    os.write(write, text.encode())
    os._exit(0)
os.waitpid(child, 0)
print(begun, text, os.read(read, 100).decode(), reply.stats.stop_reason)
"""

# A thread is about to load a model when the process forks.
FORK_DURING_A_LOAD = """
import os, sys, threading, nybble
from nybble import planning
plan, inside, done = planning.plan, threading.Event(), threading.Event()

def slow(*args, **options):
    inside.set()
    done.wait()
    return plan(*args, **options)

planning.plan = slow
thread = threading.Thread(target=nybble.load, args=sys.argv[1:])
thread.start()
inside.wait()
child = os.fork()
planning.plan = plan
if not child:
    try:
        os._exit(nybble.load(sys.argv[1], threads=1).complete("c", max_tokens=3).text != "abc")
    finally:
        os._exit(2)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
done.set()
thread.join()
"""


@pytest.mark.parametrize("whose", ["mine", "another thread's"])
def test_a_forked_child_may_ask_while_a_reply_is_read(endless, whose):
    assert run(FORKED, endless, whose) == "0\n"


def test_a_child_may_read_the_reply_that_another_thread_was_reading(endless):
    assert run(READ_AFTER_FORK, endless) == "{0} abc\n"


def test_a_child_of_an_event_loop_may_ask(endless):
    assert run(FORK_IN_A_LOOP, endless) == "{0}\n"


def test_a_reply_goes_on_in_parent_and_child(path):
    assert run(BOTH_GO_ON, path) == "Ge Gehn wir! Gehn wir! end\n"


def test_a_child_may_load_while_another_thread_loads(endless):
    assert run(FORK_DURING_A_LOAD, endless) == "0\n"


# -- pools of processes

POOLED = """
import concurrent.futures, multiprocessing, sys, nybble

def answer(path):
    if "model" not in globals():
        globals()["model"] = nybble.load(path)
    return model.ask("Hello").text

if __name__ == "__main__":
    method, path = sys.argv[1:]
    if method == "fork":  # the children have it already
        model = nybble.load(path, threads=2)
        assert answer(path) == "Gehn wir!"
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        print(*set(pool.map(answer, [path] * 8)))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_of_processes(path, tmp_path, method):
    script = tmp_path / "pooled.py"
    script.write_text(POOLED)
    command = [*PYTHON, str(script), method, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WATCHDOG_S)
    assert (done.stdout, done.stderr) == ("Gehn wir!\n", "")


def test_a_model_is_not_pickled(path):
    model = nybble.load(path)
    for it in (model, [model]):
        with pytest.raises(TypeError, match="cannot be pickled: load it in the process"):
            pickle.dumps(it)


# -- the interpreter's end, in the middle of a reply

ENDINGS = {
    "a daemon thread reads": """
threading.Thread(target=lambda: model.ask("Hello").text, daemon=True).start()
time.sleep(float(sys.argv[2]))
""",
    "daemon threads read and wait": """
for _ in range(4):
    threading.Thread(target=lambda: model.ask("Hello").text, daemon=True).start()
time.sleep(float(sys.argv[2]))
""",
    "an iterator is half read": """
it = iter(model.ask("Hello"))
next(it)
""",
    "a reply of a chat is half read": """
chat = model.chat()
reply = chat.ask("Hello")
next(iter(reply))
""",
    "in a cycle": """
class Keeper: pass
keeper = Keeper()
keeper.reply, keeper.self, keeper.model = model.ask("Hello"), keeper, model
keeper.it = iter(keeper.reply.parts())
next(keeper.it)
del model
""",
    "an asynchronous one is half read": """
import asyncio
async def main():
    global reply, it
    reply = model.ask("Hello")
    it = aiter(reply)
    await anext(it)
asyncio.run(main())
""",
    "an event loop is left with a task that reads": """
import asyncio
async def read():
    async for _ in model.ask("Hello"):
        pass
async def main():
    asyncio.create_task(read())
    await asyncio.sleep(0.02)
asyncio.run(main())
""",
    "at exit one is read": """
import atexit
reply = model.ask("Hello", max_tokens=5)
atexit.register(lambda: print(reply.text))
""",
    "an exception ends it": """
try:
    for _ in model.ask("Hello"):
        raise ZeroDivisionError
except ZeroDivisionError as error:
    kept = error
""",
    "exit in the loop": """
for _ in model.ask("Hello"):
    sys.exit(0)
""",
}
ENDING = """
import sys, threading, time, nybble
model = nybble.load(sys.argv[1], context=60_000, threads=2)
%s
print("out")
"""


@pytest.mark.parametrize("how", ENDINGS)
def test_the_interpreter_ends(endless, how):
    expected = {"at exit one is read": "out\nabcab\n", "exit in the loop": ""}.get(how, "out\n")
    turns = 8 if "daemon" in how else 1
    for turn in range(turns):
        started = time.monotonic()
        assert run(ENDING % ENDINGS[how], endless, 0.05 + turn / 100) == expected
        assert time.monotonic() - started < WATCHDOG_S / 2


# -- memory

DROPPED = """
import sys, nybble
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024
sizes = []
for _ in range(4):
    model = nybble.load(sys.argv[1], context=256)
    chat = model.chat()
    assert chat.ask("Hello", max_tokens=2).text
    held = resident()
    del model, chat
    sizes.append(resident())
print(held, *sizes)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
@pytest.mark.parametrize("where", ["mapped", "in memory"])
def test_dropping_a_model_frees_its_memory(smollm2_path, monkeypatch, where):
    monkeypatch.setenv("NYBBLE_PACK", "auto" if where == "mapped" else "0")
    held, first, *rest = map(int, run(DROPPED, smollm2_path).split())
    assert held - first > 90e6, "the weights are there and go"
    assert max(rest) < first + 5e6, "nothing piles up"
