"""Marks in messages: nobody's text becomes a control token where a template changes it, and what a
template looks for in a text stays whole."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest
import vocabulary

from nybble import tokenizer
from nybble.errors import TemplateError
from nybble.tokenizer import guard
from nybble.tokenizer.guard import MAX_SEARCHED, Guard, Reading, folded, written
from nybble.tokenizer.template import ChatTemplate
from tools import conversations

sys.path.append(str(Path(__file__).parents[1]))

import peers

CONTROL = ["<|im_start|>", "<|im_end|>", "<s>", "</think>", "<|fim_suffix|>", "[INST]"]
MARK = "\ue000"


def tokens_of(control):
    types = dict.fromkeys(control, 3)
    return tokenizer.load(vocabulary.metadata([*vocabulary.BYTES, *types], [], types))


TOKENS = tokens_of(CONTROL)


def made(source, content, role="user", **variables):
    """The control tokens of a conversation, and its text."""
    template = ChatTemplate(source, TOKENS)
    messages = [{"role": role, "content": content}]
    ids = template.encode(messages, **variables)
    found = [TOKENS.spelling(id) for id in ids if TOKENS.is_control(id)]
    return found, template.render(messages, **variables)


# What the template makes of m.content -> what somebody says, to have a control token of it.
CHANGED = [
    ("m.content.replace('&lt;', '<')", "&lt;|im_end|>", "<|im_end|>"),
    ("m.content | replace('&lt;', '<') | replace('&gt;', '>')", "&lt;|im_end|&gt;", "<|im_end|>"),
    ("m.content | replace('(', '<') | replace(')', '>')", "(|im_end|)", "<|im_end|>"),
    ("m.content | replace('(', '<') | replace(')', '>')", "(/think)", "</think>"),
    ("m.content | replace('(', '[') | replace(')', ']')", "(INST)", "[INST]"),
    ("m.content.replace('x', '')", "<xs>", "<s>"),
    ("m.content.split('a') | join('<')", "a|im_end|>", "<|im_end|>"),
    ("m.content.split('.') | join", "<.s.>", "<s>"),
    ("'<' ~ m.content.lstrip('.')", "...|im_end|>", "<|im_end|>"),
    ("'<' ~ m.content | trim('.')", ".|im_end|>.", "<|im_end|>"),
    ("m.content.rstrip('.\n') ~ '>'", "<|im_end|..", "<|im_end|>"),
    ("'<|' ~ m.content[3:]", "abcim_end|>", "<|im_end|>"),
    ("m.content[:-1] ~ '>'", "</thinkx", "</think>"),
    ("'<' ~ m.content.removeprefix('user:')", "user:|im_end|>", "<|im_end|>"),
    ("m.content.removesuffix('.') ~ '>'", "<|im_end|.", "<|im_end|>"),
    ("'<{}'.format(m.content.partition(':')[2])", "a:|im_end|>", "<|im_end|>"),
    ("'<' ~ m.content.rpartition(':')[2]", "a:/think>", "</think>"),
    ("m.content | reverse", ">|dne_mi|<", "<|im_end|>"),
    ("m.content | reverse", ">s<", "<s>"),
    ("m.content | upper | lower", "<|\ufb01m_suffix|>", "<|fim_suffix|>"),
]


@pytest.mark.parametrize(("change", "content", "text"), CHANGED)
def test_a_text_that_a_template_changes_is_text(change, content, text):
    source = "{% for m in messages %}{{ " + change + " }}{% endfor %}"
    assert made(source, content) == ([], text)


@pytest.mark.parametrize("word", ["im_end", "IM_END", "\ufb01m_suffix"])
def test_a_word_inside_a_spelling_is_text(word):
    """As a role, a key or a value, where the template writes the rest of the spelling around it."""
    around = "<|{{ x | lower if x.isascii() else x | upper | lower }}|>"
    whole = f"<|{word.upper().lower()}|>"
    by_role = around.replace("x", "messages[0].role")
    assert made(by_role, "", role=word) == ([], whole)
    by_key = "{% for k in tools[0] %}" + around.replace("x", "k") + "{% endfor %}"
    assert made(by_key, "", tools=[{word: 1}]) == ([], whole)
    by_value = around.replace("x", "tools[0].name")
    assert made(by_value, "", tools=[{"name": word}]) == ([], whole)


@pytest.mark.parametrize(
    "source", ["{{ tools[0].im_end }}", "{{ tools[0]['im_end'] }}", "{{ tools[0].get('im_end') }}"]
)
def test_a_key_that_the_template_looks_up_is_found(source):
    assert made(source, "", tools=[{"im_end": "yes"}])[1] == "yes"


def test_a_key_and_a_value_that_are_the_same_word_stay_the_same():
    source = "{% for k in tools[0].has %}{{ k in tools[0].needs }}{% endfor %}"
    tools = [{"has": {"im_end": 1, "suffix": 2, "a|im": 3}, "needs": ["im_end", "suffix", "a|im"]}]
    assert made(source + "{{ x.split() }}", "", x="", tools=tools)[1] == "TrueTrueTrue[]"


def test_an_identifier_keeps_its_length():
    """Templates of Mistral's refuse calls whose id has another than nine characters."""
    source = "{{ x.split() }}{{ tools[0].id | length }}"
    assert made(source, "", x="", tools=[{"id": "inst_m_th"}])[1] == "[]9"


def test_texts_that_meet_stay_what_they_are():
    """Two that together look like a mark as JSON would write it."""
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", TOKENS)
    for at in range(1, 6):
        pieces = "\\ue000"[:at], "\\ue000"[at:]
        for gap in ("", "\n"):
            messages = [{"role": "user", "content": c} for c in (pieces[0] + gap, pieces[1] + "x")]
            assert template.render(messages) == f"{pieces[0]}{gap}{pieces[1]}x"


class Counting(frozenset):
    """A set that counts how much it is asked."""

    read = 0

    def __contains__(self, text):
        self.read += len(text)
        return super().__contains__(text)


@pytest.mark.parametrize("letter", ["a", "\u6f22"])
def test_many_lengths_of_spellings_take_no_long_time(letter):
    """The characters that are read grow with the text, however many spellings could begin there."""
    guard = Guard([letter * n + "b" for n in range(24, 1024)], Reading(""))
    guard._whole = Counting(guard._whole)
    for content in (letter * 20_000, letter * 20_000 + "b"):
        marked = guard.protect(content, MARK)
        assert guard._whole.read < 1100 * len(content)
        assert all(part not in guard._whole for part in marked.split(MARK))
        assert marked.replace(MARK, "") == content


def test_a_source_of_quotes_and_braces_is_read_in_little_time():
    """(Each took minutes while what is not closed was looked for from every place.)"""
    start = time.process_time()
    for piece in ("{{", "{{'", "{{ '\\'", "{{ \"'", "strip( ", "[a", ". ", "'a"):
        Reading(piece * (65_000 // len(piece)))
        Reading("{{ '" + piece * (65_000 // len(piece)))
    assert time.process_time() - start < 5  # on a slow machine; seen: 0.4


def test_a_hundred_thousand_tokens_are_looked_for_in_little_time():
    """(45 seconds while each was looked for by itself, on a long template.)"""
    source = "{% for m in messages %}{{ m.content }}{% endfor %}{# " + "ab" * 32_000 + " #}"
    found = ["ab" * n for n in range(1, 200)] + ["content", source[:32] + "not all of it"]
    spellings = ["ab" * 10 + f"a{n}" for n in range(100_000)]
    start = time.process_time()
    assert [*written([*spellings, *found], source)] == found
    assert time.process_time() - start < 5  # on a slow machine; seen: 0.2


@pytest.mark.parametrize("most", [0, MAX_SEARCHED])
def test_what_a_template_writes_is_found_in_either_way(monkeypatch, most):
    monkeypatch.setattr(guard, "MAX_SEARCHED", most)
    source = "ab\u6f22<b>\U0001f642"
    parts = {source[a:b] for a in range(len(source)) for b in range(a + 1, len(source) + 1)}
    others = ["ba", "b<", "\u6f22b", "c", "\U0001f642a", source + "x", "~"]
    assert [*written([*sorted(parts), *others], source)] == sorted(parts)


def test_what_a_template_looks_for_stays_whole():
    source = (
        "{% if '/think' in messages[0].content %}"
        "{{ messages[0].content.replace('/think', '') }}{% endif %}"
    )
    assert made(source, "a/think <|im_end|>") == ([], "a <|im_end|>")


def attempt(refusal, render, *args, **kwargs):
    """What it returns; None if it refuses."""
    try:
        return render(*args, **kwargs)
    except refusal:
        return None


def test_known_templates_find_what_they_look_for(monkeypatch):
    """All that a template of llama.cpp's collection quotes, said in every role: the text is
    jinja2's, where every tag that it writes is a control token."""
    monkeypatch.setattr(time, "strftime", lambda format: "now")
    compared = 0
    for path in sorted((peers.llama_cpp_sdist() / "templates").glob("*.jinja")):
        source = path.read_text()
        tags = {*re.findall(r"<[^<>\s'\"{}]{1,60}>|\[/?[A-Z_]+\]", source)}
        ours = ChatTemplate(source, tokens_of(sorted({*CONTROL, *tags})))
        plain = conversations.jinja2_environment().from_string(source)
        spellings = {*map(folded, {*CONTROL, *tags})}
        literals = sorted(
            literal
            for literal in Reading(source).literals
            if len(literal) < 60 and not any(spelling in folded(literal) for spelling in spellings)
        )
        for a, b in zip(literals, literals[1:] + literals[:1], strict=True):
            for messages in (
                [
                    conversations.system(f"{a} {b}"),
                    conversations.user(b),
                    conversations.assistant(f"x{a}y"),
                    conversations.user(a + b),
                ],
                [
                    conversations.user(a),
                    conversations.called("f", {"x": b}),
                    conversations.result(b, "f"),
                ],
            ):
                given = {"messages": messages, "bos_token": "", "eos_token": ""}
                expected = attempt(Exception, plain.render, add_generation_prompt=True, **given)
                if expected is not None:
                    text = attempt(TemplateError, ours.render, messages)
                    assert text == expected, (path.name, messages)
                    compared += 1
    assert compared > 3000
