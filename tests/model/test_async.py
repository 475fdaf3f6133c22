"""A reply in asyncio: the loop goes on, tasks take turns, cancelling frees the sequence."""

import asyncio
import contextlib
import gc
import itertools
import sys

import pytest

import nybble
from nybble.errors import BusyError, ContextError, NumericError

from .models import POISON, speaking, with_poison
from .test_reply import wait_until

TEXT = "Gehn wir,é世🙂!"  # no byte comes twice


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return speaking(tmp_path_factory.mktemp("model"), TEXT)


@pytest.fixture
def model(path):
    return nybble.load(path)


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A model that goes on for 60,000 tokens, with two sequences."""
    path = speaking(tmp_path_factory.mktemp("endless"), "abc", loops=True, context=60_000)
    return nybble.load(path, context=60_000, sequences=2)


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 30))


async def read(reply):
    return "".join([text async for text in reply])


def test_async_for_gives_the_same_pieces(model):
    async def main():
        reply = model.ask("Hello")
        assert reply.stats.total_s is None
        pieces = [text async for text in reply]
        assert pieces == list(TEXT)
        assert pieces == [text async for text in reply] == list(reply)
        assert [part async for part in reply.parts()] == [("text", c) for c in TEXT]
        assert (reply.stats.stop_reason, reply.stats.tokens) == ("end", 19)

    run(main())


def test_the_loop_goes_on_while_a_reply_is_made(endless, monkeypatch):
    """Every step of a reply, 79 chunks of its prompt and 300 tokens, waits here until the loop
    has gone round once more: if the loop stood still meanwhile, none would end."""
    step = nybble.Reply._step
    steps = rounds = 0

    def behind_a_round(*args, **keywords):
        nonlocal steps
        steps += 1
        before = rounds
        wait_until(lambda: rounds > before)
        return step(*args, **keywords)

    monkeypatch.setattr(nybble.Reply, "_step", behind_a_round)

    async def main():
        async def go_round():
            nonlocal rounds
            while True:
                await asyncio.sleep(0)
                rounds += 1

        going = asyncio.create_task(go_round())
        text = await read(endless.complete("abc" * 3333, max_tokens=300))
        going.cancel()
        return text

    assert run(main()) == "abc" * 100
    assert steps > 79 + 299


def test_another_task_waits_for_its_turn(model):
    async def main():
        mine = model.ask("Hello")
        it = aiter(mine)
        assert await anext(it) == "G"
        theirs = [asyncio.create_task(read(model.ask("Hello"))) for _ in range(50)]
        await asyncio.sleep(0.05)  # more of them than the executor has threads
        assert not any(task.done() for task in theirs)
        assert await read(mine) == TEXT
        assert await asyncio.gather(*theirs) == [TEXT] * 50

    run(main())


def test_the_task_that_has_the_sequence_is_told_the_way_out(model):
    async def main():
        one, two = model.ask("Hello"), model.ask("Hello")
        assert await anext(aiter(one)) == "G"
        for _ in range(2):
            with pytest.raises(BusyError, match="close"):
                await read(two)
        with pytest.raises(BusyError):  # to wait would stop the loop
            _ = two.text
        await one.aclose()
        assert await read(two) == TEXT

    run(main())


@pytest.mark.parametrize("closes", [False, True])
def test_a_reply_begins_once(path, closes):
    """Another reader begins it, or it is closed, just before the loop takes its lock."""
    model = nybble.load(path, sequences=2)
    reply = model.ask("Hello")
    lock = reply._lock

    class Late:
        is_late = False

        def acquire(self, *args):
            if args == (False,) and not self.is_late:
                self.is_late = True
                if closes:
                    reply.close()
                else:
                    next(iter(reply))
            return lock.acquire(*args)

        def release(self):
            lock.release()

        def locked(self):
            return lock.locked()

        def __enter__(self):
            lock.acquire()

        def __exit__(self, *_):
            lock.release()

    reply._lock = late = Late()
    text, reason = ("", "closed") if closes else (TEXT, "end")
    assert run(read(reply)) == text
    assert late.is_late
    assert reply.stats.stop_reason == reason
    assert reply.stats.tokens == (0 if closes else 19)


def test_reading_without_await_never_waits_for_another_task(model):
    """It would stop the loop, and with it whom it waits for."""

    async def main():
        mine = model.ask("Hello")
        assert await anext(aiter(mine)) == "G"

        async def other():
            with pytest.raises(BusyError):
                _ = model.ask("Hello").text
            with pytest.raises(BusyError):
                model.logits([5])

        await asyncio.create_task(other())
        assert await read(mine) == TEXT

    run(main())


def test_waiting_counts_in_the_timeout(model):
    async def main():
        mine, theirs = model.ask("Hello"), model.ask("Hello", timeout_s=0.02)
        assert await anext(aiter(mine)) == "G"
        assert await asyncio.create_task(read(theirs)) == ""
        assert theirs.stats.stop_reason == "timeout"
        assert await read(mine) == TEXT

    run(main())


def test_tasks_read_in_turns_on_two_sequences(endless):
    async def main():
        replies = [endless.ask("Hello", max_tokens=300) for _ in range(2)]
        texts = asyncio.gather(*map(read, replies))
        met = 0
        while not texts.done():
            await asyncio.sleep(0)
            met += all(0 < reply.stats.tokens < 300 for reply in replies)
        assert await texts == ["abc" * 100] * 2
        assert met > 0

    run(main())


# -- ending


def test_break_frees_the_sequence_at_once(model):
    async def main():
        for _ in range(3):
            async for text in model.ask("Hello"):
                assert text == "G"
                break
            assert await read(model.ask("Hello")) == TEXT

    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


def test_aclose_waits_for_the_step_under_way(endless):
    async def main():
        for ending in range(2):
            reply = endless.ask("Hello")
            reading = asyncio.create_task(read(reply))
            while reply.stats.tokens < 5:
                await asyncio.sleep(0.001)
            if ending:
                await reply.aclose()
            else:
                async with reply:
                    pass
            assert reply.stats.stop_reason == "closed"
            assert endless._sequences.borrow([1], nybble.sequences.Owner()) is not None
            text = await reading
            assert text == ("abc" * len(text))[: len(text)]
            assert 5 <= reply.stats.tokens < 50_000
        async with contextlib.aclosing(endless.ask("Hello")) as reply:
            assert await anext(aiter(reply)) == "a"
        assert reply.stats.stop_reason == "closed"

    run(main())


def test_a_cancelled_task_frees_the_sequence(endless):
    async def main():
        for after in (0, 1, 5, 50):
            replies = [endless.ask("Hello") for _ in range(2)]
            reading = [asyncio.create_task(read(reply)) for reply in replies]
            await asyncio.sleep(0)
            while any(reply.stats.tokens < after for reply in replies):
                await asyncio.sleep(0.001)
            for task in reading:
                task.cancel()
            assert await asyncio.gather(*reading, return_exceptions=True)
            for reply in replies:
                await reply.aclose()
                assert reply.stats.stop_reason == "closed"
            assert await read(endless.ask("Hello", max_tokens=3)) == "abc"

    run(main())


def test_ctrl_c_between_any_two_bytecodes(model):
    """At Ctrl-C asyncio cancels its task within the signal's handler, so anywhere in what runs in
    the loop's thread; it has nothing to complain of afterwards."""
    traced = {asyncio.futures.__file__, nybble.reply.__file__}

    async def is_cancelled_at(bytecode):
        loop, complaints, passed = asyncio.get_running_loop(), [], 0
        loop.set_exception_handler(lambda _, context: complaints.append(context))

        def trace(frame, event, _):
            nonlocal passed
            if frame.f_code.co_filename not in traced:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                passed += 1
                if passed == bytecode:
                    reading.cancel()
            return trace

        reply = model.ask("Hello", max_tokens=2)
        reading = asyncio.create_task(read(reply))
        sys.settrace(trace)
        try:
            await asyncio.wait([reading])
        finally:
            sys.settrace(None)
        await reply.aclose()
        assert complaints == [], bytecode
        return passed >= bytecode

    async def main():
        for bytecode in itertools.count(1):
            if not await is_cancelled_at(bytecode):
                return bytecode

    assert asyncio.run(main()) > 100  # it was in there
    assert model.ask("Hello").text == TEXT


def test_a_timeout_of_asyncio_is_a_cancellation(endless):
    async def main():
        reply = endless.ask("Hello")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await read(reply)
        await reply.aclose()
        assert reply.stats.stop_reason == "closed"
        assert await read(endless.ask("Hello", max_tokens=3)) == "abc"

    run(main())


def test_a_task_that_waits_may_be_cancelled(model):
    async def main():
        mine, theirs = model.ask("Hello"), model.ask("Hello")
        assert await anext(aiter(mine)) == "G"
        waiting = asyncio.create_task(read(theirs))
        await asyncio.sleep(0.01)
        waiting.cancel()
        assert isinstance(*await asyncio.gather(waiting, return_exceptions=True), BaseException)
        assert theirs.stats.stop_reason == "closed"
        assert await read(mine) == TEXT

    run(main())


def test_errors_come_out_of_the_loop(tmp_path, model):
    poisoned = nybble.load(with_poison(tmp_path))

    async def main():
        with pytest.raises(ContextError):
            model.ask("x" * 1000)
        reply = poisoned.complete(POISON)
        for _ in range(2):
            with pytest.raises(NumericError):
                await read(reply)
        good = poisoned.complete("the cat", max_tokens=5, ignore_eos=True)
        assert await read(good)

    run(main())


def test_a_chat_in_asyncio(model):
    async def main():
        chat = model.chat()
        assert await read(chat.ask("One?")) == TEXT
        assert await read(chat.ask("Two?")) == TEXT
        assert [m["role"] for m in chat.messages] == ["user", "assistant"] * 2

    run(main())
