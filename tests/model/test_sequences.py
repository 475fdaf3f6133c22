"""Several replies at once: each the same as alone, and who waits for whom."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import nybble
from nybble.errors import BusyError, UsageError
from tools.tiny_model import tiny_model

PROMPTS = ["the cat and the hen", "It was raining. " * 12, "1 2 3 4 5 6 7 8", "x" * 300]
OPTIONS = {"max_tokens": 40, "temperature": 1.2, "ignore_eos": True, "repeat_penalty": 1.1}


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def path(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    numbers = {"heads": 2, "head_dim": 32, "window": 24} if request.param == "gemma3" else {}
    tiny_model(path, family=request.param, seed=11, **numbers)
    return path


@pytest.fixture(scope="module")
def alone(path):
    """What each prompt's reply is by itself: the pieces."""
    model = nybble.load(path)
    return [list(ask(model, i)) for i in range(len(PROMPTS))]


def ask(model, i, **more):
    return model.complete(PROMPTS[i], seed=i, **{**OPTIONS, **more})


def in_turns(*replies):
    """A piece of each reply in turn, until all have ended: the pieces of each."""
    pieces = [[] for _ in replies]
    going = list(enumerate(map(iter, replies)))
    while going:
        for i, it in list(going):
            try:
                pieces[i].append(next(it))
            except StopIteration:
                going.remove((i, it))
    return pieces


@pytest.mark.parametrize("threads", [1, 2])
def test_replies_in_turns_on_one_thread_are_the_same_as_alone(path, alone, threads):
    model = nybble.load(path, sequences=4, threads=threads)
    assert len(set(map(tuple, alone))) == 4
    assert in_turns(*(ask(model, i) for i in range(4))) == alone
    assert in_turns(*(ask(model, i) for i in (2, 0))) == [alone[2], alone[0]]


def test_nobody_sees_anothers_logits(path, alone):
    """Greedy, drawn, penalised and raw logits from four threads, on one model and on another that
    shares the pool."""
    models = [nybble.load(path, sequences=3, threads=2), nybble.load(path, threads=2)]
    ids = models[0].tokenize(PROMPTS[0])
    expected = [model.logits(ids).tobytes() for model in models]
    assert expected[0] == expected[1]
    begin = threading.Barrier(4)

    def read(worker):
        begin.wait(20)
        for turn in range(6):
            i = (worker + turn) % len(PROMPTS)
            model = models[worker % 2]
            assert list(ask(model, i)) == alone[i]
            assert model.logits(ids).tobytes() == expected[0]
            rows = np.asarray(model.logits(ids, all=True))
            assert rows[-1].tobytes() == expected[0]

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(read, worker) for worker in range(4)]:
            done.result(60)


def test_with_all_taken_the_same_thread_is_told_the_way_out(path, alone):
    model = nybble.load(path, sequences=2)
    replies = [ask(model, i) for i in range(3)]
    its = [iter(reply) for reply in replies]
    first = [next(it) for it in its[:2]]
    with pytest.raises(BusyError, match=r"none of its 2 sequences .* close\(\) .*sequences=3") as e:
        next(its[2])
    assert e.value.exit_code == 2
    replies[0].close()
    assert replies[2].text == "".join(alone[2])
    assert first[1] + "".join(its[1]) == "".join(alone[1])


def test_a_thread_that_has_none_waits(path, alone):
    model = nybble.load(path, sequences=2)
    mine = [ask(model, i) for i in range(2)]
    pieces = [next(iter(reply)) for reply in mine]
    assert pieces == [alone[0][0], alone[1][0]]
    with ThreadPoolExecutor(1) as pool:
        theirs = ask(model, 2)
        text = pool.submit(lambda: theirs.text)
        while theirs.stats.total_s is None:
            pass
        assert theirs.stats.tokens == 0
        mine[1].close()
        assert text.result(20) == "".join(alone[2])
    assert mine[0].text == "".join(alone[0])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_dropped_and_ended_replies_give_their_sequence_back(path, alone, n):
    model = nybble.load(path, sequences=n)
    for _ in range(3):
        for i in range(n):
            for piece in ask(model, i):
                assert piece == alone[i][0]
                break
    kept = [ask(model, i) for i in range(n)]
    assert [reply.text for reply in kept] == ["".join(pieces) for pieces in alone[:n]]
    assert ask(model, 3).text == "".join(alone[3])


# -- which sequence is taken


def test_conversations_keep_their_caches(path):
    """As many chats as sequences: none has to read its words again."""
    model = nybble.load(path, sequences=3)
    chats = [model.chat(system) for system in ("Be brief.", "Be polite.", "Be funny.")]
    for turn in range(3):
        for chat in chats:
            held = [m["content"] for m in chat.messages]
            reply = chat.ask(f"And {turn}?", max_tokens=5)
            assert isinstance(reply.text, str)
            if turn:
                said = sum(len(model.tokenize(text)) for text in held[:-1])
                assert reply.stats.cached_tokens > said


def test_a_common_beginning_does_not_cost_a_long_text_its_cache(path):
    model = nybble.load(path, sequences=2)
    long = "In common. " + "the rain and the river " * 12
    n = model.complete(long, max_tokens=1).stats.prompt_tokens
    for text in (long, "In common. And short."):
        assert model.complete(text, max_tokens=1).stats.prompt_tokens > 5
        _ = model.complete(text, max_tokens=1).text
    again = model.complete(long, max_tokens=1)
    _ = again.text
    assert again.stats.cached_tokens == n - 1


def test_forgetting_empties_every_sequence(path):
    model = nybble.load(path, sequences=2)
    in_turns(ask(model, 0), ask(model, 1))
    assert all(sequence.ids for sequence in model._sequences._sequences)
    open_reply = ask(model, 0)
    next(iter(open_reply))
    with pytest.raises(BusyError):
        model.forget()
    open_reply.close()
    model.forget()
    assert not any(sequence.ids for sequence in model._sequences._sequences)


# -- what it costs, and what load takes


def test_each_sequence_has_a_context_of_its_own(path):
    one, three = (nybble.load(path, sequences=n) for n in (1, 3))
    assert three.engine.kv.nbytes == 3 * one.engine.kv.nbytes
    assert three.engine.work.nbytes == one.engine.work.nbytes
    assert (one.context, three.context) == (512, 512)
    assert repr(three).endswith("context 512, 3 sequences>")


@pytest.mark.parametrize("bad", [0, -1, 1025, 1.0, "2", True, None])
def test_sequences_are_checked(path, bad):
    with pytest.raises(UsageError, match="^sequences must be "):
        nybble.load(path, sequences=bad)
