"""What a reply promises: lazy, streamed, closed, counted; and who may read it when."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

import nybble
from nybble._core.sampler import Sampler
from nybble.errors import BusyError, ContextError, NumericError, UsageError
from tools.tiny_model import tiny_model

from .models import cached, speaking

TEXT = "Gehn wir,é世🙂!"  # no byte comes twice


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def path(folder):
    return speaking(folder, TEXT)


@pytest.fixture
def model(path):
    return nybble.load(path)


@pytest.fixture(scope="module")
def endless_path(tmp_path_factory):
    """A model that goes on for 60,000 tokens, which takes it seconds."""
    return speaking(tmp_path_factory.mktemp("endless"), "abc", loops=True, context=60_000)


@pytest.fixture
def endless(endless_path):
    return nybble.load(endless_path, context=60_000)


def test_the_model_says_its_text(model):
    assert model.ask("Hello").text == TEXT
    assert model.complete("\n").text == TEXT


# -- reading


def test_nothing_runs_before_a_reply_is_read(model):
    reply = model.ask("Hello")
    assert cached(model) == []
    assert reply.stats.tokens == 0
    assert reply.stats.total_s is None
    assert reply.stats.stop_reason is None
    it = iter(reply)
    assert cached(model) == []
    assert next(it) == "G"
    assert len(cached(model)) == reply.stats.prompt_tokens


def test_a_reply_may_be_read_more_than_once(model):
    reply = model.ask("Hello")
    pieces = list(reply)
    assert len(pieces) > 3
    assert pieces == list(reply)
    assert "".join(pieces) == reply.text == str(reply) == TEXT
    assert reply.stats.tokens == len(TEXT.encode())


def test_two_iterators_share_what_has_been_read(model):
    reply = model.ask("Hello")
    one, other = iter(reply), iter(reply)
    assert [next(one), next(one)] == ["G", "e"]
    assert next(other) == "G"
    assert reply.text == TEXT
    assert "".join(one) == TEXT[2:]
    assert "".join(other) == TEXT[1:]


def test_pieces_are_whole_characters(model):
    pieces = list(model.ask("Hello"))
    assert pieces == list(TEXT)  # a byte a token: four of them are one emoji


def test_a_character_that_is_cut_off_is_left_out(model):
    n = len(TEXT.encode()) - 2
    cut = model.ask("Hello", max_tokens=n)
    assert (cut.text, cut.stats.tokens, cut.stats.stop_reason) == (TEXT[:-2], n, "length")


def test_random_bytes_are_decoded_as_one(tmp_path):
    """Most tokens of this model are parts of characters."""
    tiny_model(tmp_path / "tiny.gguf")
    model = nybble.load(tmp_path / "tiny.gguf")
    reply = model.complete("a", max_tokens=300, temperature=2.0, ignore_eos=True)
    pieces = list(reply)
    ids = [id for id in cached(model)[1:] if id > 2]  # without what is no text
    prefix = model._tokenizer.decode(ids).decode("utf-8", "replace")
    assert "".join(pieces).startswith(prefix.rstrip("\ufffd"))
    assert len(prefix) > 100


# -- ending


def test_close_keeps_the_text_so_far(model):
    reply = model.ask("Hello")
    it = iter(reply)
    assert next(it) + next(it) == "Ge"
    reply.close()
    reply.close()
    assert reply.stats.stop_reason == "closed"
    assert list(it) == []
    assert list(reply) == ["G", "e"]
    assert reply.text == "Ge"
    assert model.ask("Hello").text == TEXT


def test_a_reply_that_was_closed_unread_is_empty(model):
    reply = model.ask("Hello")
    reply.close()
    assert reply.text == ""
    assert reply.stats.stop_reason == "closed"
    assert cached(model) == []


def test_with_closes(model):
    with model.ask("Hello") as reply:
        assert next(iter(reply)) == "G"
    assert reply.stats.stop_reason == "closed"
    with model.ask("Hello") as reply:
        assert reply.text == TEXT
    assert reply.stats.stop_reason == "end"


def test_leaving_a_loop_frees_the_model(model):
    for _ in range(3):
        for text in model.ask("Hello"):
            assert text == "G"
            break
    with pytest.raises(ZeroDivisionError):
        [1 / 0 for _ in model.ask("Hello")]
    assert model.ask("Hello").text == TEXT


def test_dropping_an_iterator_does_not_end_a_reply(model):
    reply = model.ask("Hello")
    for _ in reply:
        break
    assert reply.stats.stop_reason is None
    assert reply.text == TEXT


@pytest.mark.parametrize(
    ("options", "text", "reason", "tokens"),
    [
        ({}, TEXT, "end", 19),
        ({"max_tokens": 1}, "G", "length", 1),
        ({"max_tokens": 19}, TEXT, "length", 19),
        ({"max_tokens": 20}, TEXT, "end", 19),
        ({"stop": "e"}, "G", "stop", 2),
        ({"stop": "G"}, "", "stop", 1),
        ({"timeout_s": 0}, "", "timeout", 0),
    ],
    ids=lambda value: str(value)[:20],
)
def test_why_a_reply_ended(model, options, text, reason, tokens):
    assert len(TEXT.encode()) == 19
    reply = model.ask("Hello", **options)
    assert (reply.text, reply.stats.stop_reason, reply.stats.tokens) == (text, reason, tokens)


def test_a_context_may_fill_up(path):
    model = nybble.load(path, context=40)
    prompt = model.tokenize("12345678901234567890123\n")
    reply = model.complete("12345678901234567890123\n")
    expected = TEXT.encode()[:16].decode("utf-8", "ignore")
    assert reply.text == expected
    assert reply.stats.stop_reason == "context"
    assert len(prompt) + reply.stats.tokens == 40
    limited = model.complete("12345678901234567890123\n", max_tokens=16)
    assert (limited.text, limited.stats.stop_reason) == (expected, "length")


def test_a_prompt_that_does_not_fit_is_refused_before_anything_runs(path):
    model = nybble.load(path, context=40)
    with pytest.raises(ContextError, match=r"40 tokens and the context holds 40, reply included"):
        model.complete("x" * 40)
    with pytest.raises(ContextError, match=r"1,0\d\d tokens"):
        model.ask("x" * 1000)
    with pytest.raises(ContextError):
        model.logits([5] * 40)
    assert cached(model) == []
    assert model.complete("x" * 39).stats.prompt_tokens == 39


def test_a_timeout_ends_with_the_text_so_far(endless):
    reply = endless.ask("Hello", timeout_s=0.05)
    started = time.perf_counter()
    assert reply.text == ("abc" * reply.stats.tokens)[: reply.stats.tokens]
    assert time.perf_counter() - started < 2
    assert reply.stats.stop_reason == "timeout"
    assert reply.stats.tokens > 0


def test_the_end_may_be_ignored(model):
    reply = model.ask("Hello", ignore_eos=True, max_tokens=21)
    assert reply.text[: len(TEXT)] == TEXT
    assert (reply.stats.stop_reason, reply.stats.tokens) == ("length", 21)


# -- stop strings


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("wir", "Gehn "),
        (["wir", "hn"], "Ge"),
        (["n wir,", "wir"], "Gehn "),  # the one that is complete first
        (["ir,", "wir,", "r,"], "Gehn "),  # of those the longest
        ("世", "Gehn wir,é"),
        ("é世🙂!", "Gehn wir,"),
        ("!", TEXT[:-1]),
        ("!!", TEXT),  # held back, and let go at the end
        (["wirt", "n wir;"], TEXT),  # begun twice, never complete
        (("G", "Gehn"), ""),
        ("X", TEXT),
    ],
    ids=str,
)
def test_a_stop_string_ends_a_reply_and_no_part_of_it_shows(model, stop, text):
    reply = model.ask("Hello", stop=stop)
    shown = ""
    for piece in reply:
        shown += piece
        assert text.startswith(shown)
    assert shown == text
    assert reply.stats.stop_reason == ("end" if text == TEXT else "stop")


def test_half_a_stop_string_at_the_limit_is_text(model):
    reply = model.ask("Hello", stop="wirt", max_tokens=8)
    assert (reply.text, reply.stats.stop_reason) == ("Gehn wir", "length")


# -- figures


def test_stats_count(model):
    reply = model.ask("Hello", seed=7)
    _ = reply.text
    s = reply.stats
    prompt = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert s.prompt_tokens == len(model.tokenize(prompt, special=True))
    assert (s.cached_tokens, s.tokens, s.seed, s.stop_reason) == (0, 19, 7, "end")
    assert 0 < s.first_token_s < s.total_s
    assert s.prefill_tok_s >= s.prompt_tokens / s.first_token_s
    assert s.decode_tok_s > 0
    assert 10e6 < s.peak_bytes < 10e9
    assert s.asdict()["tokens"] == 19
    assert "stop_reason='end'" in repr(s)


def test_stats_tell_what_was_cached(model):
    n = model.ask("Hello").stats.prompt_tokens
    first = model.ask("Hello")
    assert first.text == TEXT
    again = model.ask("Hello")
    assert again.text == TEXT
    assert (first.stats.cached_tokens, again.stats.cached_tokens) == (0, n - 1)
    other = model.ask("Help")
    assert other.text == TEXT
    shared = len(model.tokenize("<|im_start|>user\nHel", special=True))
    assert shared - 2 <= other.stats.cached_tokens <= shared


class StoppedClock:
    """In the place of the clock: time passes when a test says so."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr("nybble.generation.perf_counter", lambda: self.now)


def test_times_are_the_clocks(endless, monkeypatch):
    """A second passes for each chunk of the prompt and for each token."""
    clock = StoppedClock(monkeypatch)
    is_late = nybble.generation.Clock.is_late

    def take_a_second(self):
        clock.now += 1
        return is_late(self)

    monkeypatch.setattr("nybble.generation.Clock.is_late", take_a_second)
    reply = endless.complete("abc" * 3000, max_tokens=4000)
    times = [clock.now - 100 for _ in reply]
    s = reply.stats
    chunks = 71  # of 128 tokens
    assert (s.prompt_tokens, s.tokens, len(times)) == (9000, 4000, 4000)
    assert times == [chunks + i for i in range(4000)]
    assert (s.first_token_s, s.total_s) == (chunks, chunks + 3999)
    assert s.prefill_tok_s == 9000 / chunks
    assert s.decode_tok_s == 1


def test_waiting_counts_until_the_first_token_and_not_as_prefill(model, monkeypatch):
    clock = StoppedClock(monkeypatch)

    class Slow:
        """A sampler that takes a second for a token."""

        def __init__(self, **options):
            self.sampler = Sampler(**options)

        def next(self, *args):
            clock.now += 1
            return self.sampler.next(*args)

    monkeypatch.setattr("nybble.generation.Sampler", Slow)
    mine, theirs = model.ask("Hello"), model.ask("Hello")
    assert next(iter(mine)) == "G"
    join = in_thread(lambda: theirs.text)
    wait_until(lambda: theirs.stats.total_s == 0)
    clock.now += 5
    wait_until(lambda: theirs.stats.total_s == 5)
    mine.close()
    assert join() == TEXT
    s = theirs.stats
    assert (s.first_token_s, s.total_s) == (6, 5 + len(TEXT.encode()) + 1)  # and the end
    assert s.prefill_tok_s == s.prompt_tokens - s.cached_tokens


def test_the_peak_is_the_kernels(model):
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("reads /proc")

    def peak():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    held = bytearray(b"x") * (peak() + 30_000_000)  # more than there ever was
    before = peak()
    reply = model.ask("Hello")
    assert reply.stats.peak_bytes is None
    assert reply.text == TEXT
    assert len(held) < before <= reply.stats.peak_bytes <= peak()


def test_stats_are_right_while_a_reply_runs(model):
    reply = model.ask("Hello")
    it = iter(reply)
    for n in range(1, 6):
        next(it)
        s = reply.stats
        assert (s.tokens, s.stop_reason) == (n, None)
        assert s.first_token_s <= s.total_s
        assert (s.decode_tok_s is None) == (n == 1)
    reply.close()
    assert reply.stats.asdict()["stop_reason"] == "closed"
    assert repr(reply) == "<nybble.Reply, 5 tokens, closed>"
    assert repr(model.ask("Hello")) == "<nybble.Reply, 0 tokens, not begun>"


def test_rates_are_none_until_there_is_something_to_divide(model):
    reply = model.ask("Hello", max_tokens=1)
    assert reply.text == "G"
    assert reply.stats.decode_tok_s is None
    assert reply.stats.prefill_tok_s > 0


# -- several replies, several threads


def test_a_second_reply_in_the_same_thread_is_told_the_way_out(model):
    one, two = model.ask("Hello"), model.ask("Hello")
    assert next(iter(one)) == "G"
    with pytest.raises(BusyError, match=r"read in this thread; .* close\(\) it .*sequences=2"):
        next(iter(two))
    with pytest.raises(BusyError):
        model.logits([5])
    assert one.text == TEXT  # not disturbed
    assert model.ask("Hello").text == TEXT


def in_thread(function):
    """Starts it; returns what waits for its result."""
    result = []

    def run():
        try:
            result.append(function())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def join():
        thread.join(20)
        assert not thread.is_alive()
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    return join


def wait_until(true):
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_another_thread_waits_for_its_turn(model):
    mine, theirs = model.ask("Hello"), model.ask("Hello")
    assert next(iter(mine)) == "G"
    join = in_thread(lambda: theirs.text)
    wait_until(lambda: theirs.stats.total_s is not None)
    time.sleep(0.02)
    assert theirs.stats.tokens == 0
    assert mine.text == TEXT
    assert join() == TEXT


def test_waiting_counts_in_the_timeout(model):
    mine, theirs = model.ask("Hello"), model.ask("Hello", timeout_s=0.02)
    assert next(iter(mine)) == "G"
    assert in_thread(lambda: theirs.text)() == ""
    assert theirs.stats.stop_reason == "timeout"
    assert mine.text == TEXT


def test_a_reply_that_waits_may_be_closed(model):
    mine, theirs = model.ask("Hello"), model.ask("Hello")
    assert next(iter(mine)) == "G"
    join = in_thread(lambda: theirs.text)
    wait_until(lambda: theirs.stats.total_s is not None)
    theirs.close()
    assert join() == ""
    assert theirs.stats.stop_reason == "closed"
    assert mine.text == TEXT


def test_a_reply_that_is_read_in_another_thread_may_be_closed(endless):
    for _ in range(20):
        reply = endless.ask("Hello")
        join = in_thread(lambda reply=reply: reply.text)
        wait_until(lambda reply=reply: reply.stats.tokens > 5)
        reply.close()
        text = join()
        assert reply.stats.stop_reason == "closed"
        assert 5 < reply.stats.tokens < 50_000
        assert text == ("abc" * len(text))[: len(text)]
    assert endless.ask("Hello", max_tokens=3).text == "abc"


def test_two_threads_may_read_one_reply(endless):
    reply = endless.ask("Hello", max_tokens=2000)
    joins = [in_thread(lambda: "".join(reply)) for _ in range(3)]
    assert [join() for join in joins] == [("abc" * 667)[:2000]] * 3


def test_many_threads_take_turns(model):
    joins = [in_thread(lambda: [model.ask("Hello").text for _ in range(5)]) for _ in range(6)]
    assert [join() for join in joins] == [[TEXT] * 5] * 6


# -- raw text and tokens


def test_token_ids_may_be_numpys(model):
    ids = model.tokenize("Hello")
    array = np.array(ids, np.uint16)
    assert model.detokenize(array) == model.detokenize(ids) == "Hello"
    assert model.logits(array).tobytes() == model.logits(ids).tobytes()
    assert np.asarray(model.logits(array, all=True)).shape == (len(ids), 323)


@pytest.mark.parametrize("bad", [[-1], [323], [True], [1.0], ["a"], [None], [[1]], [2**70]])
def test_what_is_no_token_id_is_refused(model, bad):
    for call in (model.detokenize, model.detokenize_bytes, model.logits):
        with pytest.raises(UsageError, match=r"is not a token: ids are 0 to 322"):
            call(bad)


def test_text_in_place_of_ids_is_told_what_to_do(model):
    for call in (model.detokenize, model.logits):
        with pytest.raises(UsageError, match=r"takes token ids; tokenize\(\) makes them"):
            call("ab")


def test_bytes_come_back(model):
    """UTF-8 or not; a byte-level vocabulary has a token for each."""
    rng = np.random.default_rng(3)
    for data in (b"", b"the cat", "é世🙂".encode(), b"\xff\xc3(\x00\x80the", rng.bytes(500)):
        ids = model.tokenize(data)
        assert model.detokenize_bytes(ids) == data
        assert model.detokenize(ids) == data.decode("utf-8", "replace")
    assert model.tokenize("é世🙂") == model.tokenize("é世🙂".encode())
    assert model.tokenize(b"<|im_end|>", special=True) == [2]
    assert model.tokenize(b"a", add_bos=True) == [1, 3 + ord("a")]
    assert model.detokenize_bytes([2]) == b"<|im_end|>"


@pytest.mark.parametrize("code", [0xD800, 0xDFFF, 0xDC80])
def test_a_lone_surrogate_is_told_where_it_is(model, code):
    for call in (model.tokenize, model.complete, model.ask, model.chat().ask, model.embed):
        with pytest.raises(UsageError, match=rf"character 3 is the .* U\+{code:04X}, "):
            call("abc" + chr(code))
    with pytest.raises(UsageError, match="character 0 is the lone surrogate"):
        model.ask([{"role": "user", "content": chr(code)}])


def test_there_must_be_something_to_continue(model):
    assert model.detokenize([]) == ""
    with pytest.raises(UsageError, match="the prompt is empty"):
        model.logits([])
    assert model.complete("").stats.prompt_tokens == 1  # BOS, which every text begins after


@pytest.mark.parametrize("bad", [None, 5, b"Hello", ["Hello"], "a\ud800b", "\udc80"])
def test_a_prompt_is_text(model, bad):
    for call in (model.ask, model.complete, model.tokenize, model.chat().ask):
        if (call, bad) != (model.tokenize, b"Hello"):
            with pytest.raises(UsageError):
                call(bad)


def test_logits_are_those_that_a_reply_is_made_of(model):
    ids = model.tokenize("\nGe")
    last, every = model.logits(ids), np.asarray(model.logits(ids, all=True))
    assert (last.format, last.shape) == ("f", (323,))
    assert np.argmax(last) == 3 + ord("h")
    assert every[-1].tobytes() == last.tobytes()
    assert every.argmax(axis=1).tolist() == [3 + ord(c) for c in "Geh"]


def test_logits_of_all_pages(model):
    ids = model.tokenize("abcdefgh" * 40)
    every = np.asarray(model.logits(ids, all=True))
    assert every[200].tobytes() == model.logits(ids[:201]).tobytes()


def test_a_reply_that_was_refused_may_be_read_later(model):
    first, second = model.ask("One?"), model.ask("Two?")
    next(iter(first))
    for _ in range(2):
        with pytest.raises(BusyError):
            _ = second.text
    first.close()
    assert second.stats.stop_reason is None
    assert second.text == TEXT


def test_an_error_comes_again_and_not_an_empty_text(model, monkeypatch):
    reply = model.complete("abc", max_tokens=5)
    error = NumericError("planted")

    def fail(*_):
        raise error

    monkeypatch.setattr("nybble.generation._run", fail)
    for _ in range(2):
        with pytest.raises(NumericError, match="planted"):
            _ = reply.text
    assert reply.stats.stop_reason == "closed"
