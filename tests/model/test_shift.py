"""A context that is full: what overflow="shift" lets go of, and that the rest is as if fresh."""

import numpy as np
import pytest

import nybble
from nybble.errors import ContextError, UsageError
from nybble.shift import Shift, prefix_of
from tools.tiny_model import tiny_model

from .models import cached, speaking

CONTEXT = 48
OPTIONS = {"ignore_eos": True, "temperature": 0.9, "seed": 3, "repeat_penalty": 1.1}


def held(n, context, prefix):
    """What is kept of n tokens, told by their numbers."""
    return Shift(context, lambda: prefix).held(list(range(n)))


@pytest.mark.parametrize("context", [2, 3, 4, 7, 48, 129])
@pytest.mark.parametrize("prefix", [0, 1, 5, 24, 1000])
def test_the_first_and_the_newest_are_kept(context, prefix):
    kept = min(prefix, (context - 1) // 2)
    piece = (context - kept) // 2
    for n in range(1, 5 * context):
        ids = held(n, context, prefix)
        dropped = n - len(ids)
        assert ids == [*range(kept), *range(kept + dropped, n)] if dropped else ids == [*range(n)]
        assert len(ids) < context, "there is room for a token"
        assert dropped % piece == 0
        assert dropped == 0 or len(ids) + piece >= context, "no more than is needed"
        assert ids[-1] == n - 1


def test_what_is_kept_does_not_depend_on_how_it_came():
    """A conversation that grows and is cut as it does ends with what one cut at its end has."""
    shift, ids = Shift(CONTEXT, lambda: 7), []
    for n in range(300):
        ids = shift.held([*ids, n])
        assert ids == held(n + 1, CONTEXT, 7)


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def path(request, tmp_path_factory):
    """Of random weights; the second has windows, which let go of what they do not see."""
    path = tmp_path_factory.mktemp("shift") / "tiny.gguf"
    more = {"head_dim": 32, "window": 16} if request.param == "gemma3" else {"dim": 128}
    tiny_model(path, family=request.param, heads=4, seed=11, **more)
    return path


def expected_ids(path, prompt, prefix, n):
    """The reply's tokens by fresh prompts of what is kept: nothing is ever in the cache."""
    from nybble._core.sampler import Sampler

    model = nybble.load(path, context=CONTEXT)
    sampler = Sampler(temperature=0.9, repeat_penalty=1.1, seed=3)
    shift, ids, reply = Shift(CONTEXT, lambda: prefix), list(prompt), []
    for i in range(n):
        ids = shift.held(ids)
        model.forget()
        reply.append(sampler.next_of(model.logits(ids), ids, i))
        ids.append(reply[-1])
    return reply, ids


@pytest.mark.parametrize("length", [5, 47, 48, 100])
def test_tokens_behind_a_shift_are_those_of_a_fresh_prompt(path, length):
    model = nybble.load(path, context=CONTEXT, overflow="shift")
    prompt = np.random.default_rng(length).integers(100, 120, length).tolist()
    prefix = 1 if prompt[0] == model._tokenizer.bos else 0
    n = 90
    reply = model._reply(prompt, nybble.options.checked({}, {**OPTIONS, "max_tokens": n}))
    text = reply.text
    said, ids = expected_ids(path, prompt, prefix, n)
    assert cached(model) == ids[:-1]
    stream = model._tokenizer.text_stream(behind=prompt[-1])
    assert text == stream.push(said)
    assert reply.stats.stop_reason == "length"
    assert reply.stats.tokens == n
    assert reply.stats.dropped_tokens == length + n - len(ids) > 0


def test_neither_threads_nor_the_cache_change_what_follows_a_shift(path):
    texts = set()
    for threads in (1, 3):
        model = nybble.load(path, context=CONTEXT, overflow="shift", threads=threads)
        for _ in range(2):
            texts.add(model.complete("the rain in the plain", max_tokens=150, **OPTIONS).text)
    assert len(texts) == 1


def test_a_chat_goes_on_and_keeps_its_system_message(tmp_path):
    path = speaking(tmp_path, "OK.", context=4096)
    model = nybble.load(path, context=96, overflow="shift")
    chat = model.chat(system="Be brief.")
    system = model.tokenize("<|im_start|>system\nBe brief.<|im_end|>\n", special=True)
    dropped = []
    for i in range(12):
        reply = chat.ask(f"Question {i}?")
        assert reply.text == "OK."
        assert reply.stats.stop_reason == "end"
        assert cached(model)[: len(system)] == system
        dropped.append(reply.stats.dropped_tokens)
    assert dropped == sorted(dropped)
    assert dropped[0] == 0 < dropped[-1]
    # between two shifts all that was said before is still in the cache
    assert len(set(dropped)) < len(dropped) - 2
    assert [message["role"] for message in chat.messages[:2]] == ["system", "user"]
    assert len(chat.messages) == 25, "the list is the user's: nothing is taken out of it"


def test_a_system_message_beyond_half_the_context_is_cut_and_told_of(tmp_path):
    path = speaking(tmp_path, "OK.", context=4096)
    model = nybble.load(path, context=96, overflow="shift")
    reply = model.chat(system="Be brief.").ask("Why? " * 40)
    assert reply.text == "OK."
    assert reply.stats.dropped_system_tokens == 0 < reply.stats.dropped_tokens
    chat = model.chat(system="Be brief, and be kind. " * 10)
    reply = chat.ask("Why?")
    assert reply.text == "OK."
    template = model._template()[0]
    ids = template.encode(chat.messages[:2])
    prefix = prefix_of(template.encode, chat.messages[:2], ids)
    dropped = reply.stats.dropped_tokens
    kept = (96 - 1) // 2
    assert prefix > kept
    assert cached(model)[: len(ids) - dropped] == ids[:kept] + ids[kept + dropped :]
    assert reply.stats.dropped_system_tokens == min(dropped, prefix - kept) > 0


def test_what_is_cut_is_counted_once():
    shift = Shift(10, lambda: 12)  # 4 are kept, and pieces of 3 let go of
    assert shift.held(list(range(9))) == list(range(9))
    assert shift.cut == 0
    for behind, cut in ((20, 8), (12, 8)):
        ids = shift.held(list(range(behind)))
        assert ids[:4] == [0, 1, 2, 3]
        assert len(ids) < 10
        assert shift.cut == cut
    shift = Shift(10, lambda: 12)
    for cut in (3, 6, 8, 8):
        assert len(shift.held(list(range(10)))) == 7
        assert shift.cut == cut


def test_the_prefix_is_what_the_system_says(tmp_path):
    model = nybble.load(speaking(tmp_path, "OK."))
    template = model._template()[0]
    for head in ([], [{"role": "system", "content": "Be brief, and be kind."}]):
        messages = [*head, {"role": "user", "content": "abc"}]
        ids = template.encode(messages)
        n = prefix_of(template.encode, messages, ids)
        text = model.detokenize(ids[:n])
        assert text.endswith("<|im_start|>user\n")
        assert ("be kind" in text) == bool(head)


def test_a_prompt_alone_may_be_too_long(path):
    model = nybble.load(path, context=CONTEXT, overflow="shift")
    reply = model.complete("the rain " * 100, max_tokens=5, ignore_eos=True)
    assert reply.stats.dropped_tokens == 0, "nothing runs before it is read"
    assert reply.text is not None
    assert reply.stats.prompt_tokens > 100
    assert reply.stats.prompt_tokens - reply.stats.dropped_tokens < CONTEXT
    assert reply.stats.prefill_tok_s > 0
    with pytest.raises(ContextError):  # these ask for what they name
        model.logits([5] * 200)
    with pytest.raises(ContextError):
        model.embed("the rain " * 100)
    with pytest.raises(UsageError, match="the prompt is empty"):
        model._reply([], nybble.options.checked({}, {}))


def test_time_runs_out_in_a_shift_too(path):
    model = nybble.load(path, context=CONTEXT, overflow="shift")
    reply = model.complete("the rain", ignore_eos=True, timeout_s=0.3)
    assert reply.text is not None
    assert reply.stats.stop_reason == "timeout"


@pytest.mark.parametrize("bad", ["", "slide", None, True, ["shift"]])
def test_what_is_no_way_to_overflow(path, bad):
    with pytest.raises(UsageError, match="overflow must be 'error' or 'shift'"):
        nybble.load(path, overflow=bad)


def test_a_context_of_one_token_has_nothing_to_shift(path):
    with pytest.raises(ContextError):
        nybble.load(path, context=1, overflow="shift").complete("the rain")
    assert nybble.load(path, context=2, overflow="shift").complete(
        "the rain", max_tokens=6, ignore_eos=True
    ).stats.prompt_tokens  # fmt: skip
