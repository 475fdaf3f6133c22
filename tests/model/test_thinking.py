"""Models that reason before they answer: the template's switch, and thinking apart from text."""

import asyncio
import random

import pytest

import nybble
from nybble.errors import TemplateError, UsageError
from nybble.thinking import Splitter, Switch
from tests import peers

from .models import CONTROL, OPEN_ID, USER_DEFINED, cached, edited, speaking, thinking

THOUGHTS, TEXT = "Hm,é世?", "Ja.🙂"

# Qwen3's switch, in few words.
SWITCHED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
# As DeepSeek R1's: the prompt opens the thoughts, and there is no switch.
ALWAYS = (
    "{% for m in messages %}{{ m.role + ': ' + m.content.split('</think>')[-1] + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: <think>\n' }}{% endif %}"
)


def from_the_sdist(name):
    return (peers.llama_cpp_sdist() / f"templates/{name}.jinja").read_text()


@pytest.fixture(scope="module", params=["own template", "Qwen3's", "marks are control tokens"])
def path(request, tmp_path_factory):
    template = from_the_sdist("Qwen-Qwen3-0.6B") if request.param == "Qwen3's" else SWITCHED
    type = CONTROL if request.param == "marks are control tokens" else USER_DEFINED
    folder = tmp_path_factory.mktemp("model")
    return thinking(folder, THOUGHTS, TEXT, template=template, type=type)


@pytest.fixture
def model(path):
    return nybble.load(path)


@pytest.mark.parametrize("think", [None, True])
def test_thinking_is_apart_from_text(model, think):
    reply = model.ask("Hello", think=think)
    assert reply.text == TEXT
    assert reply.thinking == THOUGHTS
    assert str(reply) == "".join(reply) == TEXT
    assert reply.stats.stop_reason == "end"
    assert reply.stats.tokens == len((THOUGHTS + TEXT).encode()) + 3


def test_thinking_may_be_turned_off(model):
    reply = model.ask("Hello", think=False)
    assert [*reply.parts()] == [("text", c) for c in TEXT]
    assert (reply.thinking, reply.text) == ("", TEXT)
    assert model.detokenize(cached(model)).endswith(f"<think>\n\n</think>\n\n{TEXT}")
    assert cached(model).count(OPEN_ID) == 1


def test_both_are_streamed(model):
    expected = [("thinking", c) for c in THOUGHTS] + [("text", c) for c in TEXT]
    reply = model.ask("Hello")
    it = iter(reply.parts())
    assert next(it) == expected[0]
    assert reply.stats.tokens < 5, "the thoughts come while they are thought"
    assert [expected[0], *it] == expected
    assert list(reply.parts()) == expected

    async def main():
        again = model.ask("Hello")
        assert [part async for part in again.parts()] == expected
        assert "".join([piece async for piece in again]) == TEXT

    asyncio.run(main())


def test_reading_the_thoughts_stops_where_the_text_begins(model):
    reply = model.ask("Hello")
    assert reply.thinking == THOUGHTS
    assert reply.stats.stop_reason is None
    assert reply.text == TEXT


def test_a_reply_may_end_while_it_thinks(model):
    reply = model.ask("Hello", max_tokens=4)
    assert (reply.thinking, reply.text) == ("Hm,", "")
    assert reply.stats.stop_reason == "length"
    closed = model.ask("Hello")
    assert next(iter(closed.parts())) == ("thinking", "H")
    closed.close()
    assert (closed.thinking, closed.text) == ("H", "")


def test_stop_strings_are_for_the_text(model):
    reply = model.ask("Hello", stop=["m", "a."])
    assert (reply.thinking, reply.text, reply.stats.stop_reason) == (THOUGHTS, "J", "stop")


def test_a_chat_remembers_what_was_said_and_not_what_was_thought(model):
    chat = model.chat()
    for think in (None, True, False):
        assert chat.ask("Hello", think=think).text == TEXT
    assert [m["content"] for m in chat.messages] == ["Hello", TEXT] * 3


def test_a_raw_text_has_no_switch(model):
    with pytest.raises(UsageError, match=r"complete\(\) uses no template, so think"):
        model.complete("\n", think=True)
    reply = model.complete("\n")
    assert TEXT in reply.text
    assert reply.thinking == ""


# -- templates that think always, or never


@pytest.mark.parametrize("think", [None, True])
def test_a_prompt_may_open_the_thoughts(tmp_path, think):
    path = thinking(tmp_path, THOUGHTS, TEXT, template=ALWAYS, opens=False)
    reply = nybble.load(path).ask("Hello", think=think)
    assert (reply.text, reply.thinking) == (TEXT, THOUGHTS)


def test_what_always_thinks_cannot_be_told_not_to(tmp_path):
    model = nybble.load(thinking(tmp_path, THOUGHTS, TEXT, template=ALWAYS, opens=False))
    with pytest.raises(UsageError, match="think=False: this model always thinks"):
        model.ask("Hello", think=False)


def test_what_never_thinks_cannot_be_told_to(tmp_path):
    model = nybble.load(speaking(tmp_path, TEXT))
    with pytest.raises(UsageError, match="think=True: this model does not think"):
        model.ask("Hello", think=True)
    chat = model.chat()
    with pytest.raises(UsageError, match="think=True"):
        chat.ask("Hello", think=True)
    assert chat.messages == []
    for think in (None, False):
        reply = model.ask("Hello", think=think)
        assert (reply.text, reply.thinking) == (TEXT, "")


@pytest.mark.parametrize("bad", ["yes", 1, 0, "auto"])
def test_think_is_true_or_false_or_none(model, bad):
    with pytest.raises(UsageError, match="^think must be True, False or None"):
        model.ask("Hello", think=bad)


def test_a_model_that_does_not_think_may_say_the_mark(tmp_path):
    """Its template knows nothing of it: then it is text."""
    plain = "{% for m in messages %}{{ m.content + '\n' }}{% endfor %}"
    model = nybble.load(thinking(tmp_path, THOUGHTS, TEXT, template=plain))
    reply = model.ask("Hello")
    assert reply.text == f"<think>{THOUGHTS}</think>\n\n{TEXT}"
    assert reply.thinking == ""


def test_switches_of_known_templates(path):
    """llama.cpp's collection: a switch that works turns, what has none says so, and the template's
    own default is left alone."""
    model = nybble.load(path)
    messages = [{"role": "user", "content": "Hello"}]
    works = set()
    for file in sorted((peers.llama_cpp_sdist() / "templates").glob("*.jinja")):
        template = nybble.tokenizer.template.ChatTemplate(file.read_text(), model._tokenizer)
        switch = Switch(template, model._tokenizer)
        assert switch.turned(None, messages) == {}
        try:
            on, off = (switch.turned(think, messages) for think in (True, False))
        except (UsageError, TemplateError):
            continue
        if on:
            assert template.encode(messages, **on) != template.encode(messages, **off)
            works.add(file.stem)
    known = {"Qwen-Qwen3-0.6B", "HuggingFaceTB-SmolLM3-3B", "deepseek-ai-DeepSeek-V3.1"}
    known |= {"ibm-granite-granite-3.3-2B-Instruct", "GLM-4.6", "Qwen3.5-4B"}
    assert works >= known
    assert "Qwen-Qwen2.5-7B-Instruct" not in works


# -- dividing characters


def split(pieces, **options):
    splitter = Splitter(**{"is_open": False, **options})
    parts = [part for piece in pieces for part in splitter.push(piece)] + splitter.flush()
    assert all(piece for _, piece in parts)
    return tuple("".join(p for kind, p in parts if kind == k) for k in ("thinking", "text"))


@pytest.mark.parametrize(
    ("text", "thought", "said"),
    [
        ("<think>\nA b\n\n</think>\n\nYes.\n", "A b", "Yes.\n"),
        ("\n <think>a</think>b", "a", "b"),
        ("<think></think>b", "", "b"),
        ("<think>\n\n</think>\n\n", "", ""),
        ("<think>a < b </thin </think> c </think> d", "a < b </thin", "c </think> d"),
        ("<think>a</t", "a</t", ""),
        ("<think>a\n\n", "a", ""),
        ("<think>", "", ""),
        ("<thin", "", "<thin"),
        ("<thinker>", "", "<thinker>"),
        ("Say <think>a</think>", "", "Say <think>a</think>"),
        ("  plain", "", "  plain"),
        ("", "", ""),
        ("  ", "", "  "),
    ],
)
def test_marks_are_found_however_the_text_is_cut(text, thought, said):
    rng = random.Random(2)
    assert split([text]) == split(list(text)) == (thought, said)
    for _ in range(50):
        cuts = sorted(rng.choices(range(len(text) + 1), k=3))
        pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert split(pieces) == (thought, said)


def test_thoughts_that_are_open_already():
    assert split(list("\nHm.\n</think>\nYes"), is_open=True) == ("Hm.", "Yes")
    assert split(["<think>Hm"], is_open=True) == ("<think>Hm", "")


def test_the_switch_of_a_file_whose_template_knows_another_name(path, tmp_path):
    other = SWITCHED.replace("enable_thinking", "thinking")
    model = nybble.load(edited(path, tmp_path / "m.gguf", {"tokenizer.chat_template": other}))
    assert model.ask("Hello", think=False).thinking == ""
    assert model.ask("Hello", think=True).thinking == THOUGHTS
