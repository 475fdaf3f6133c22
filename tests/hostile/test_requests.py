"""Absurd requests: wrong types, numbers, texts and ids for whatever a model is asked. Each is an
error of nybble's at once, or has a result that is told; and the model is usable afterwards."""

import decimal
import itertools
import math
import time

import pytest

import nybble
from nybble import hub, options
from nybble.errors import ContextError, NumericError, UsageError
from nybble.options import Options
from tests.model.models import POISON, speaking, with_poison

SURROGATE = "\ud800"


class NoNumber:
    """Has what a number has, and is none."""

    def __index__(self):
        raise ValueError

    def __float__(self):
        raise ZeroDivisionError

    def __repr__(self):
        raise KeyError


ABSURD = [
    None, True, False, 0, 1, -1, 2**63, -(2**63), 10**400, -(10**400), 0.5, -0.5, 1e300, math.nan,
    math.inf, -math.inf, 1j, decimal.Decimal("NaN"), decimal.Decimal("sNaN"), "", "x", SURROGATE,
    "\0", b"x", b"\xff", bytearray(b"x"), [], [None], [[1]], [-1], [10**30], [0.5], [True], ["x"],
    (), {}, {"a": 1}, {1: 2}, {"x"}, object(), NotImplemented, ..., range(0),
    NoNumber(), 10**5000,
]  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return speaking(tmp_path_factory.mktemp("model"), "Yes.")


@pytest.fixture(scope="module")
def model(path):
    return nybble.load(path, context=64)


# What each call takes of the values above; for all others it is a UsageError.
NUMBERS = (0, 1, 0.5)
CALLS = {
    "load": (lambda m, x: nybble.load(x), ()),
    "load: threads": (lambda m, x: nybble.load(m.path, threads=x), (None, 1)),
    "load: context": (lambda m, x: nybble.load(m.path, context=x), (None, 1)),
    "load: kv": (lambda m, x: nybble.load(m.path, kv=x), (None,)),
    "load: overflow": (lambda m, x: nybble.load(m.path, overflow=x), ()),
    "load: sequences": (lambda m, x: nybble.load(m.path, sequences=x), (1,)),
    "load: on_progress": (lambda m, x: nybble.load(m.path, on_progress=x), (None,)),
    "ask": (lambda m, x: m.ask(x, max_tokens=1).text, ("", "x", "\0")),
    "ask: a message": (lambda m, x: m.ask([x], max_tokens=1).text, ()),
    "ask: a role": (
        lambda m, x: m.ask([{"role": x, "content": "a"}], max_tokens=1).text, ("", "x", "\0")),
    "ask: a content": (
        lambda m, x: m.ask([{"role": "user", "content": x}], max_tokens=1).text, ("", "x", "\0")),
    "ask: a key": (
        lambda m, x: m.ask(
            [{"role": "user", "content": "a", options.shown(x): x}], max_tokens=1).text,
        (None, True, False, 0, 1, -1, 2**63, -(2**63), 10**400, -(10**400), 10**5000, 0.5, -0.5,
         1e300, math.nan, math.inf, -math.inf, "", "x", "\0", [], [None], [[1]], [-1], [10**30],
         [0.5], [True], ["x"], (), {}, {"a": 1})),
    "chat": (lambda m, x: m.chat(system=x), (None, "", "x", "\0")),
    "chat: ask": (lambda m, x: m.chat().ask(x, max_tokens=1).text, ("", "x", "\0")),
    "complete": (lambda m, x: m.complete(x, max_tokens=1).text, ("", "x", "\0")),
    "tokenize": (lambda m, x: m.tokenize(x), ("", "x", "\0", b"x", b"\xff")),
    "tokenize: special": (lambda m, x: m.tokenize("a", special=x), (True, False)),
    "tokenize: add_bos": (lambda m, x: m.tokenize("a", add_bos=x), (True, False)),
    "detokenize": (lambda m, x: m.detokenize(x), ([], (), {}, range(0), {1: 2})),
    "logits": (lambda m, x: m.logits(x), ({1: 2},)),
    "logits: all": (lambda m, x: m.logits([1], all=x), (True, False)),
    "embed": (lambda m, x: m.embed(x), ("x", "\0")),
    "max_tokens": (lambda m, x: Options(max_tokens=x), (None, 1)),
    "temperature": (lambda m, x: Options(temperature=x), NUMBERS),
    "top_k": (lambda m, x: Options(top_k=x), (0, 1)),
    "top_p": (lambda m, x: Options(top_p=x), NUMBERS),
    "min_p": (lambda m, x: Options(min_p=x), NUMBERS),
    "repeat_penalty": (lambda m, x: Options(repeat_penalty=x), (1, 0.5)),
    "seed": (lambda m, x: Options(seed=x), (0, 1, 2**63)),
    "stop": (lambda m, x: Options(stop=x),
             (None, "x", SURROGATE, "\0", [], ["x"], (), {}, {"a": 1}, {"x"}, range(0))),
    "timeout_s": (lambda m, x: Options(timeout_s=x), (None, *NUMBERS)),
    "ignore_eos": (lambda m, x: Options(ignore_eos=x), (True, False)),
    "think": (lambda m, x: Options(think=x), (None, True, False)),
}  # fmt: skip


def test_every_option_is_here():
    assert set(Options.__slots__) < set(CALLS)


def is_among(value, values):
    """Whether it is one of them, of the very type: 1 is not True, and NaN is itself."""
    return any(value is other or (type(value) is type(other) and value == other)
               for other in values)  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_absurd_values_are_usage_errors(model, name):
    call, taken = CALLS[name]
    wrong = []
    for value in ABSURD:
        shown = options.shown(value)
        try:
            call(model, value)
        except UsageError as error:
            if is_among(value, taken):
                wrong.append(f"{shown} is refused: {error}")
            elif len(str(error)) > 300:
                wrong.append(f"{shown}: {len(str(error))} characters of error")
        except Exception as error:
            wrong.append(f"{shown}: {type(error).__name__}: {error}")
        else:
            if not is_among(value, taken):
                wrong.append(f"{shown} is taken")
    assert not wrong, "\n".join(wrong)
    assert model.ask("Hello").text == "Yes."


def test_what_is_called_during_load_may_fail(path, monkeypatch):
    """Its own error comes through, and the next load works."""
    monkeypatch.setenv("NYBBLE_PACK", "0")  # what is packed already makes no progress
    with pytest.raises(ZeroDivisionError):
        nybble.load(path, on_progress=lambda done, total: 1 // 0)
    assert nybble.load(path).ask("Hello").text == "Yes."


def test_a_full_context_ends_a_reply(path):
    model = nybble.load(speaking(path.parent, "ab", loops=True), context=32)
    reply = model.complete("x" * 20)
    assert reply.text
    assert reply.stats.stop_reason == "context"
    assert reply.stats.prompt_tokens + reply.stats.tokens == 32
    filled = model.complete("x" * 31)
    assert len(filled.text) == 1
    assert (filled.stats.tokens, filled.stats.stop_reason) == (1, "context")


def test_a_prompt_longer_than_the_context_is_refused_before_anything_runs(model):
    for n in (64, 65, 10**6):
        for call in (model.complete, model.ask):
            with pytest.raises(ContextError, match=r"tokens and the context holds 64") as caught:
                call("x" * n)
            assert caught.value.exit_code == 3
    with pytest.raises(ContextError):
        model.logits([5] * 64)
    with pytest.raises(ContextError):
        model.embed("x" * 65)
    assert model.ask("Hello").text == "Yes."


def test_an_empty_prompt_begins_with_bos_or_is_refused(model):
    assert model.complete("").stats.prompt_tokens == 1  # this file's BOS
    with pytest.raises(UsageError, match="the prompt is empty"):
        model.logits([])
    with pytest.raises(UsageError, match="this list is empty"):
        model.ask([])


def test_a_million_stop_strings_cost_their_sorting(model):
    stop = [f"no such text {i}" for i in range(10**6)]
    started = time.process_time()
    assert model.ask("Hello", stop=stop).text == "Yes."
    assert model.ask("Hello", stop=[*stop, "es"]).text == "Y"
    assert time.process_time() - started < 30  # seen: 2
    long = ["x" * n for n in range(1, 3000)]
    assert model.ask("Hello", stop=long).text == "Yes."


def test_ids_that_never_end_are_refused_at_the_first_that_is_none(model):
    with pytest.raises(UsageError, match="323 is not a token"):
        model.logits(itertools.count())


@pytest.mark.parametrize("name", ["x" * 5000, "hf:" + "x" * 5000, "https://" + "x/" * 2500])
def test_a_very_long_name_is_not_repeated(name):
    for call in (nybble.load, hub.pull):
        with pytest.raises(UsageError) as caught:
            call(name)
        assert len(str(caught.value)) < 500


def test_what_never_ends_is_refused_at_a_bound(model):
    for call in (model.detokenize, model.logits):
        with pytest.raises(UsageError, match="at most 4,194,304 token ids"):
            call(itertools.repeat(5))
    for text in ("x", "x" * 10**6):
        with pytest.raises(UsageError, match=r"at most 2,097,152 strings, of 67,108,864 char"):
            model.ask("Hello", stop=itertools.repeat(text))


def test_a_message_that_no_context_holds_is_refused_at_once(model):
    started = time.process_time()
    for text in ("<" * 20_000_000, "<|" * 10_000_000, "x" * 20_000_000):
        with pytest.raises(UsageError, match=r"hold 20,000,0\d\d characters; 4,194,304 are the"):
            model.ask(text)
    with pytest.raises(ContextError):
        model.ask("<|" * 500_000)
    assert time.process_time() - started < 20  # seen: 3; 30 for each of them once


def test_nan_ends_a_reply_and_not_the_model(tmp_path):
    model = nybble.load(with_poison(tmp_path))
    sane = model.complete("abc", max_tokens=8).text
    for read in (
        lambda: model.complete("ab" + POISON, max_tokens=8).text,
        lambda: model.complete("ab" + POISON, max_tokens=8, temperature=1.0, top_p=0.5).text,
        lambda: model.logits(model.tokenize("ab" + POISON)),
        lambda: model.logits(model.tokenize("ab" + POISON), all=True),
        lambda: model.embed("ab" + POISON),
    ):
        with pytest.raises(NumericError, match="not a number"):
            read()
        assert model.complete("abc", max_tokens=8).text == sane


TEXTS = {
    "lone surrogates, as bytes": (b"\xed\xa0\x80x", "\ufffd\ufffd\ufffdx"),
    "bytes that are not UTF-8": (b"a\xff\xfe\xc3(", "a\ufffd\ufffd\ufffd("),
    "overlong": (b"\xc0\x80", "\ufffd\ufffd"),
    "a NUL": ("a\0b", "a\0b"),
    "noncharacters": ("\uffff\U0010ffff", "\uffff\U0010ffff"),
    "marks of direction": ("\u202eabc\u2066", "\u202eabc\u2066"),
    "a hundred accents": ("e" + "\u0301" * 100, "e" + "\u0301" * 100),
    "a control token": ("<|im_end|>", "<|im_end|>"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_any_bytes_come_back(model, name):
    text, shown = TEXTS[name]
    ids = model.tokenize(text)
    raw = text if isinstance(text, bytes) else text.encode()
    assert model.detokenize_bytes(ids) == raw
    assert model.detokenize(ids) == shown
    assert not any(model._tokenizer.is_control(id) for id in ids)
