"""The ids of conversations on the three real models: llama.cpp's, but for forged control tokens."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import pytest
import vocabulary

from nybble import tokenizer
from nybble.errors import TemplateError
from nybble.formats.gguf import GgufFile
from nybble.tokenizer.template import ChatTemplate
from tools.conversations import CHATS, SPELLED, TOOL_CHATS, TOOLS

sys.path.append(str(Path(__file__).parents[1]))

import peers

GOLDEN = Path(__file__).parents[1] / "golden"
PATHS = {"smollm2": "smollm2_path", "qwen-coder": "qwen_coder_path", "gemma3": "gemma3_path"}


class Real:
    """A real model's tokenizer and template, and its golden ids."""

    def __init__(self, name, path):
        metadata = GgufFile(path).metadata
        self.name = name
        self.tokens = tokenizer.load(metadata)
        self.source = metadata.get("tokenizer.chat_template")
        self.goldens = json.loads((GOLDEN / f"{name}_chats.json").read_text())

    def template(self):
        """The file's template. The file of gemma3 is of a base model and has none: then Gemma 2's,
        which makes the same turns of the same tokens."""
        if self.source is None:
            path = peers.llama_cpp_sdist() / "templates" / "google-gemma-2-2b-it.jinja"
            return ChatTemplate(path.read_text(), self.tokens)
        return ChatTemplate(self.source, self.tokens)

    def specials(self, ids):
        """The spellings of the special tokens among ids, those of plain space left out."""
        special = {*self.tokens.vocabulary.specials()}
        found = [self.tokens.spelling(id) for id in ids if id in special]
        return [spelling for spelling in found if not spelling.isspace()]

    def content(self, ids):
        """The text that ids stand for, control tokens spelled out."""
        return self.tokens.decode(ids, special=True).decode()


@pytest.fixture(scope="module", params=PATHS)
def real(request):
    return Real(request.param, request.getfixturevalue(PATHS[request.param]))


def honest(messages):
    """The same turns, with nothing said in them; roles that are no words say something too."""
    said = [(m["role"], "x" if m["content"] else "") for m in messages]
    return [{"role": r if r.isidentifier() else "x", "content": content} for r, content in said]


def test_ids_of_chats_equal_llama_cpps(real):
    goldens = [golden for golden in real.goldens if "tools" in golden]
    assert bool(goldens) == (real.source is not None)
    for golden in goldens:
        chats = TOOL_CHATS if golden["tools"] else CHATS
        given = {"tools": TOOLS} if golden["tools"] else {}
        if golden["ids"] is None:
            with pytest.raises(TemplateError):
                real.template().encode(chats[golden["chat"]], **given)
        else:
            ids = real.template().encode(chats[golden["chat"]], **given)
            assert ids == golden["ids"], golden["chat"]


def test_ids_of_raw_text_equal_llama_cpps(real):
    goldens = [golden for golden in real.goldens if "raw" in golden]
    assert len(goldens) > 50
    for golden in goldens:
        ids = real.tokens.encode(golden["raw"], add_bos=real.tokens.add_bos)
        assert ids == golden["ids"], golden["raw"]


def test_control_tokens_spelled_in_messages_are_text(real):
    """The text is llama.cpp's, the control tokens are those of an honest conversation."""
    texts = {golden["chat"]: golden["text"] for golden in real.goldens if "text" in golden}
    template = real.template()
    for name, chat in SPELLED.items():
        if real.source is None and not {m["role"] for m in chat} <= {"user", "assistant"}:
            continue  # Gemma 2's template refuses other roles
        ids = template.encode(chat)
        assert real.specials(ids) == real.specials(template.encode(honest(chat))), name
        if real.source is not None:
            assert real.content(ids) == texts[name]


@pytest.mark.parametrize("pattern", ["{}", "a{}b", "{}{}", " {} ", "\n{}\n"])
def test_no_spelling_in_a_message_becomes_a_token(real, pattern):
    template = real.template()
    expected = real.specials(template.encode([{"role": "user", "content": "x"}]))
    ids = [id for id in real.tokens.vocabulary.specials() if real.tokens.is_control(id)]
    assert len(ids) >= 5
    for first in range(0, len(ids), 20):  # Gemma's vocabulary has 6,000 of them
        spellings = map(real.tokens.spelling, ids[first : first + 20])
        content = "".join(pattern.replace("{}", spelling) for spelling in spellings)
        encoded = template.encode([{"role": "user", "content": content}])
        assert real.specials(encoded) == expected, content
        assert content.strip() in real.content(encoded)


# Whom the templates let speak, besides a user.
ROLES = {
    "smollm2": ("system", "assistant", "tool"),
    "qwen-coder": ("system", "assistant", "tool"),
    "gemma3": ("assistant",),
}


def said_by(role, content):
    """A conversation in which that role says it."""
    x = {"role": "user", "content": "x"}
    said = {"role": role, "content": content}
    return [said, x] if role == "system" else [x, said, x]


def test_no_spelling_in_any_role_becomes_a_token(real):
    """Each control token whole, in the middle of itself, in the middle of another, and in halves
    that the next line or message could join."""
    template = real.template()
    ids = [id for id in real.tokens.vocabulary.specials() if real.tokens.is_control(id)]
    spellings = [real.tokens.spelling(id) for id in ids]
    for role in ROLES[real.name]:
        expected = real.specials(template.encode(said_by(role, "x")))
        for first in range(0, len(spellings), 50):
            forms = []
            some = [*spellings[first : first + 50], "<|im_end|>"]
            for spelling, other in itertools.pairwise(some):
                half = len(spelling) // 2
                head, tail = spelling[:half], spelling[half:]
                forms += [spelling, head + spelling + tail, head + other + tail, f"{head}\n{tail}"]
                forms += [tail + head, head]
            encoded = template.encode(said_by(role, "".join(forms)))
            assert real.specials(encoded) == expected, (role, forms)


def test_no_spelling_in_a_tool_or_its_call_becomes_a_token(qwen_coder_path):
    """Names, descriptions and arguments are a user's text as well. (Of the three templates one
    knows tools.)"""
    real = Real("qwen-coder", qwen_coder_path)
    template = real.template()

    def encoded(text):
        function = {"name": text, "description": text, "parameters": {"type": text, text: text}}
        call = {"type": "function", "function": {"name": text, "arguments": {text: [text]}}}
        messages = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "name": text, "content": text},
        ]
        return template.encode(messages, tools=[{"type": "function", "function": function}])

    expected = real.specials(encoded("x"))
    for id in real.tokens.vocabulary.specials():
        if real.tokens.is_control(id):
            spelling = real.tokens.spelling(id)
            half = len(spelling) // 2
            word = spelling.strip("<|>/")
            for text in (
                spelling,
                spelling[:half] + spelling + spelling[half:],
                spelling[:half],
                word,
            ):
                assert real.specials(encoded(text)) == expected, text


@pytest.mark.parametrize("word", ["tool_response", "im_end", "tool_call", "parameter"])
def test_no_key_becomes_a_token_between_what_a_template_writes(word):
    """Qwen3-Coder's writes `<` and `>` around the keys of a tool."""
    spellings = ["<|im_start|>", "<|im_end|>"]
    spellings += [f"<{end}{tag}>" for tag in ("tool_response", "tool_call") for end in ("", "/")]
    types = dict.fromkeys(spellings, 4) | dict.fromkeys(spellings[:2], 3)
    tokens = tokenizer.load(vocabulary.metadata([*vocabulary.BYTES, *types], [], types))
    path = peers.llama_cpp_sdist() / "templates" / "Qwen3-Coder.jinja"
    template = ChatTemplate(path.read_text(), tokens)

    def encoded(key):
        properties = {"x": {"type": "string", "description": "d", key: "a"}}
        function = {"name": "f", "parameters": {"type": "object", "properties": properties}}
        call = {"type": "function", "function": {"name": "f", "arguments": {key: "1"}}}
        messages = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
        return template.encode(messages, tools=[{"type": "function", "function": function}])

    def specials(ids):
        return [tokens.spelling(id) for id in ids if tokens.is_special(id)]

    assert specials(encoded(word)) == specials(encoded("y"))
    assert f"\n<{word}>a</{word}>" in tokens.decode(encoded(word), special=True).decode()


def turns(real):
    """The spellings of which the model's own template makes turns."""
    ids = real.template().encode([{"role": "user", "content": "x"}])
    return sorted({*real.specials(ids)})


def test_a_spelling_within_another_is_text(real):
    template = real.template()
    spellings = turns(real)
    assert len(spellings) >= 2
    expected = real.specials(template.encode([{"role": "user", "content": "x"}]))
    for outer, inner in itertools.product(spellings, repeat=2):
        for at in range(1, len(outer)):
            content = outer[:at] + inner + outer[at:]
            ids = template.encode([{"role": "user", "content": content}])
            assert real.specials(ids) == expected, content


def test_a_spelling_split_over_two_messages_is_text(real):
    """With and without what a template may put between: it is the mark that keeps them apart."""
    template = real.template()
    joined = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", real.tokens)
    for spelling in turns(real):
        for at in range(1, len(spelling)):
            messages = [
                {"role": "user", "content": spelling[:at]},
                {"role": "assistant", "content": spelling[at:]},
                {"role": "user", "content": "x"},
            ]
            expected = real.specials(template.encode(honest(messages)))
            assert real.specials(template.encode(messages)) == expected
            ids = joined.encode(messages, add_generation_prompt=False)
            assert set(real.specials(ids)) <= {real.tokens.spelling(real.tokens.bos or 0)}
            assert spelling in real.content(ids)


@pytest.mark.parametrize("real", ["qwen-coder"], indirect=True)
def test_a_spelling_in_what_tools_say_is_text(real):
    """Names, descriptions, arguments and results, for the template that writes them."""
    template = real.template()
    for spelling in [*turns(real), "</tool_response>", "</tool_call>"]:

        def chat(text):
            function = {"name": f"f{text}", "arguments": {text: [text]}}
            return [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": "", "tool_calls": [{"function": function}]},
                {"role": "tool", "content": text},
            ], [{"type": "function", "function": {"name": f"f{text}", "description": text}}]

        messages, tools = chat(spelling)
        plain, plain_tools = chat("x")
        ids = template.encode(messages, tools=tools)
        assert real.specials(ids) == real.specials(template.encode(plain, tools=plain_tools))
        assert real.content(ids).count(spelling) >= 5
