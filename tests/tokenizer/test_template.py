"""Chat templates: the text that jinja2 makes, no forged control tokens, bounded cost."""

from __future__ import annotations

import itertools
import json
import re
import sys
import time
from pathlib import Path

import pytest
import vocabulary

from nybble import tokenizer
from nybble.errors import TemplateError, UsageError
from nybble.formats.gguf import GgufFile
from nybble.tokenizer import quick, sandbox
from nybble.tokenizer.template import ChatTemplate
from tools import conversations

sys.path.append(str(Path(__file__).parents[1]))

import peers

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 < 3? <b>é</b> 漢字"},
    {"role": "assistant", "content": "True."},
    {"role": "user", "content": "Thanks"},
]
PLAIN = (
    "{% for m in messages %}{{ '<|start|>' + m.role + '\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
CONTROL = ["<|start|>", "<|end|>", "[INST]", "<s>"]
MARKERS = ["<think>", "</think>", "<tool_response>"]
SPACES = ["\n\n", "    "]


@pytest.fixture(scope="module")
def smollm2(smollm2_path):
    metadata = GgufFile(smollm2_path).metadata
    return ChatTemplate(metadata["tokenizer.chat_template"], tokenizer.load(metadata))


@pytest.fixture(scope="module")
def smollm2_tokens(smollm2_path):
    return tokenizer.load(GgufFile(smollm2_path).metadata)


def small(**more):
    """A tokenizer of bytes, control tokens, markers and runs of space."""
    types = dict.fromkeys(CONTROL, 3) | dict.fromkeys([*MARKERS, *SPACES], 4)
    return tokenizer.load(vocabulary.metadata([*vocabulary.BYTES, *types], [], types, **more))


def reference(source, messages, **variables):
    """What jinja2 makes of a template without any of our bounds."""
    environment = conversations.jinja2_environment()
    return environment.from_string(source).render(messages=messages, **variables)


def specials_of(tokens, ids):
    """The spellings of the special tokens among ids, those of plain space left out."""
    found = [tokens.spelling(id) for id in ids if id in set(tokens.vocabulary.specials())]
    return [spelling for spelling in found if not spelling.isspace()]


# A use of everything that a template may call; "!" stands for a space.
USES = r"""
-3|abs 'ab'|capitalize [1,2]|count x|d(7) x|default('y') {'b':1,'a':2}|dictsort|list '<'|e
'<'|escape [4,5]|first '1.5'|float [{'k':1},{'k':2}]|groupby('k')|list 'a\nb'|indent
'a\nb'|indent(2,true) '12'|int {'a':1}|items|list ['a','b']|join('-')
[{'k':'v'}]|join(',',attribute='k') [4,5]|last 'abc'|length 'ab'|list 'AB'|lower
[1,2]|map('string')|list [3,1]|max [3,1]|min [1,0]|reject('equalto',0)|list
[{'k':1}]|rejectattr('k')|list 'aab'|replace('a','b') 'abc'|reverse 2.567|round(2) 'a'|safe
[1,0]|select|list [{'k':1}]|selectattr('k')|list [3,1,2]|sort [1,2]|string [1,2]|sum
'ab_c_d'|title '!x!'|trim 'xax'|trim('x') [1,1,2]|unique|list 'ab'|upper [1,{'a':[2]}]|tojson
{'a':1}|tojson(indent=2) 'ab'.capitalize() 'aab'.count('a') 'ab'.endswith('b') 'abc'.find('c')
'{}-{a}'.format(1,a=2) 'abc'.index('b') 'a1'.isalnum() 'ab'.isalpha() 'ab'.isascii()
'1'.isdecimal() '1'.isdigit() 'a'.islower() '1'.isnumeric() '\t'.isspace() 'Ab'.istitle()
'A'.isupper() '-'.join(['a','b']) 'AB'.lower() '\tx'.lstrip() 'a=b'.partition('=')
'abc'.removeprefix('a') 'abc'.removesuffix('c') 'aa'.replace('a','b') 'aa'.replace('a','b',1)
'abab'.rfind('a') 'abab'.rindex('b') 'a=b=c'.rpartition('=') 'a,b,c'.rsplit(',',1) 'x\t'.rstrip()
'a,b'.split(',') 'a,b,c'.split(',',1) 'a\nb'.splitlines() 'abc'.startswith('a') '\tx\t'.strip()
'xax'.strip('x') 'aB'.swapcase() 'ab_c'.title() 'ab'.upper() {'a':1}.get('a') {'a':1}.get('b',2)
{'a':1}.items()|list {'a':1}.keys()|list {'a':1}.values()|list [1,2,1].count(1) [1,2].index(2)
(1,2).count(1) (1,2).index(2) dict(a=1) range(3)|list 'a'~1~none 2**10 'ab'*3 [1]+[2] 7//2 7%3
'abc'[1:] [1,2,3][:2] 1<2 'a'in'abc' 2!not!in!{1:1} 1==1.0 [1,[2]]==[1,[2]]
""".split()


@pytest.mark.parametrize("use", USES)
def test_what_a_template_may_call_does_as_jinja2_does(use):
    source = "{{ " + use.replace("!", " ") + " }}"
    assert ChatTemplate(source, small()).render([]) == reference(source, [])


def test_all_that_a_template_may_call_is_used():
    called = {name for use in USES for name in re.findall(r"[|.]([a-z]+)", use)}
    filters = sandbox.FILTERS & set(conversations.jinja2_environment().filters)
    assert filters.union(*sandbox.METHODS.values()) - called == set()


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("first", [0, 1])
def test_smollm2_renders_as_jinja2_does(smollm2, first, prompt):
    messages = CONVERSATION[first:]
    text = reference(smollm2.source, messages, add_generation_prompt=prompt)
    assert smollm2.render(messages, add_generation_prompt=prompt) == text


def test_smollm2_encodes_what_it_renders(smollm2, smollm2_tokens):
    ids = smollm2.encode(CONVERSATION)
    assert ids == smollm2_tokens.encode(smollm2.render(CONVERSATION), special=True)
    assert smollm2_tokens.decode(ids, special=True).decode() == smollm2.render(CONVERSATION)


@pytest.fixture
def noon(monkeypatch):
    """Templates that write the time write the same one whenever they are asked."""
    monkeypatch.setattr(time, "strftime", lambda format: f"<{format}>")


def attempt(refusal, render, *args, **kwargs):
    """What it returns; None if it refuses."""
    try:
        return render(*args, **kwargs)
    except refusal:
        return None


@pytest.mark.parametrize("engine", ["either", "jinja2"])
def test_known_templates_render_as_jinja2_does(engine, monkeypatch, noon):
    """llama.cpp's collection, with and without tools: the same text, or a refusal by both."""
    if engine == "jinja2":
        monkeypatch.setattr(quick, "SAME", {})
    tokens = small(bos_token_id=vocabulary_id("<s>"), eos_token_id=vocabulary_id("<|end|>"))
    spelled = {"bos_token": "<s>", "eos_token": "<|end|>"}
    chats = [(chat, {}) for chat in conversations.CHATS.values()]
    chats += [(chat, {"tools": conversations.TOOLS}) for chat in conversations.TOOL_CHATS.values()]
    rendered = refused = 0
    for path in sorted((peers.llama_cpp_sdist() / "templates").glob("*.jinja")):
        ours = ChatTemplate(path.read_text(), tokens)
        plain = conversations.jinja2_environment().from_string(ours.source)
        for (messages, tools), more, prompt in itertools.product(
            chats, conversations.VARIABLES, (True, False)
        ):
            variables = {**tools, **more, "add_generation_prompt": prompt}
            expected = attempt(Exception, plain.render, messages=messages, **spelled, **variables)
            text = attempt(TemplateError, ours.render, messages, **variables)
            assert text == expected, (path.name, messages, variables)
            rendered += text is not None
            refused += text is None
    assert rendered > 6000
    assert refused < rendered / 5


@pytest.mark.parametrize("filter", ["", "| trim", "| upper | lower"])
def test_a_spelling_split_over_two_strings_is_text(filter):
    """The template writes two strings after one another with nothing between them."""
    tokens = small()
    source = f"{{% for m in messages %}}{{{{ m.content {filter} }}}}{{% endfor %}}"
    template = ChatTemplate(source, tokens)
    for spelling in CONTROL:
        for at in range(1, len(spelling)):
            for gap in ("", " ") if filter == "| trim" else ("",):
                messages = [
                    {"role": "user", "content": "a" + spelling[:at] + gap},
                    {"role": "user", "content": gap + spelling[at:] + "b"},
                ]
                ids = template.encode(messages)
                assert specials_of(tokens, ids) == [], (spelling, at)


def test_a_spelling_in_letters_that_change_case_is_text():
    """The long s has an upper case, and that has another lower case."""
    tokens = small()
    template = ChatTemplate("{{ messages[0].content | upper | lower }}", tokens)
    for content in ("<\u017f>", "<|\u017ftart|>", "a<S>b", "<|END|>", "\u0130<s>"):
        ids = template.encode([{"role": "user", "content": content}])
        assert specials_of(tokens, ids) == [], content


def test_a_spelling_split_between_the_template_and_a_string_is_text():
    tokens = small()
    for at in range(1, len("<|end|>")):
        head, tail = "<|end|>"[:at], "<|end|>"[at:]
        before = ChatTemplate(head + "{{ messages[0].content }}", tokens)
        assert specials_of(tokens, before.encode([{"role": "user", "content": tail}])) == []
        behind = ChatTemplate("{{ messages[0].content }}" + tail, tokens)
        assert specials_of(tokens, behind.encode([{"role": "user", "content": head}])) == []


def test_a_template_that_takes_text_out_cannot_join_a_spelling():
    tokens = small()
    for source, content in [
        ("{{ messages[0].content | replace('x', '') }}", "<|xend|>"),
        ("{{ messages[0].content.replace('\n', '') }}", "<|e\nnd|>"),
        ("{{ messages[0].content.split('-') | join }}", "<-|end|>"),
        ("{% for s in messages[0].content.split('-') %}{{ s }}{% endfor %}", "<|end|->"),
    ]:
        ids = ChatTemplate(source, tokens).encode([{"role": "user", "content": content}])
        assert specials_of(tokens, ids) == [], source
        assert tokens.decode(ids) == b"<|end|>"


def test_a_template_makes_tokens_around_known_roles_only():
    types = dict.fromkeys(["<|user|>", "<|end|>"], 3)
    tokens = tokenizer.load(vocabulary.metadata([*vocabulary.BYTES, *types], [], types))
    template = ChatTemplate("{% for m in messages %}<|{{ m.role }}|>{% endfor %}", tokens)
    roles = [{"role": role, "content": ""} for role in ("user", "end", "END", "<|end|>")]
    assert specials_of(tokens, template.encode(roles)) == ["<|user|>"]


def test_strings_in_variables_and_deep_in_messages_are_text():
    tokens = small()
    template = ChatTemplate("{{ tools | tojson }}{{ tools }}{{ messages[0].calls[0].f }}", tokens)
    messages = [{"role": "user", "content": "", "calls": [{"f": "<|end|>"}]}]
    tools = [{"name": "<|end|>", "a <s> b": ("<|end", "|>")}]
    ids = template.encode(messages, tools=tools)
    assert specials_of(tokens, ids) == []
    text = template.render(messages, tools=tools)
    assert tokens.decode(ids).decode() == text
    assert json.dumps([{"name": "<|end|>", "a <s> b": ["<|end", "|>"]}]) in text


def test_marks_never_show_even_where_the_template_escapes_them():
    tokens = small()
    for source in ("{{ x | tojson(ensure_ascii=true) }}", "{{ [x] }}", "{{ [x] | string }}"):
        template = ChatTemplate(source, tokens)
        assert "e000" not in template.render([], x="<|end|>")
        assert specials_of(tokens, template.encode([], x="<|end|>")) == []


def test_texts_full_of_private_use_characters_keep_them():
    tokens = small()
    content = "\ue000<|end|>\\ue001\ue002"
    ids = ChatTemplate(PLAIN, tokens).encode([{"role": "user", "content": content}])
    assert content in tokens.decode(ids).decode()
    assert specials_of(tokens, ids) == ["<|start|>", "<|end|>", "<|start|>"]
    every = "".join(map(chr, range(0xE000, 0xF900)))
    with pytest.raises(UsageError, match="private-use"):
        ChatTemplate(PLAIN, tokens).encode([{"role": "user", "content": every}])


def test_markers_of_the_template_are_protected_and_others_are_not():
    tokens = small()
    content = "<think>\n\n</think><tool_response>"
    messages = [{"role": "user", "content": content}]
    plain = ChatTemplate(PLAIN, tokens).encode(messages, add_generation_prompt=False)
    assert specials_of(tokens, plain) == ["<|start|>", *MARKERS, "<|end|>"]
    with_markers = ChatTemplate(PLAIN + "{# <think> </think> <tool_response> #}", tokens)
    ids = with_markers.encode(messages, add_generation_prompt=False)
    assert specials_of(tokens, ids) == ["<|start|>", "<|end|>"]
    assert tokens.vocabulary.find(b"\n\n") in ids  # plain space is never protected


def test_a_control_token_that_is_white_space_is_not_forged():
    named = {" \n": vocabulary.CONTROL, "\n\n": vocabulary.USER_DEFINED}
    made = vocabulary.metadata([*vocabulary.BYTES, *named], [], named)
    tokens = tokenizer.load(made)
    control, user_defined = (tokens.vocabulary.find(spelling.encode()) for spelling in named)
    for source in (PLAIN, "{{ messages[0].content }}", "a {{ messages[0].content | trim }}"):
        for content in ("a \nb\n\n", " \n", "\n", "\n \n \nb"):
            messages = [{"role": "user", "content": content}]
            assert control not in ChatTemplate(source, tokens).encode(messages)
    plain = ChatTemplate("{{ messages[0].content + ' \\n' }}", tokens)
    ids = plain.encode([{"role": "user", "content": "a\n\nb"}])
    assert user_defined in ids
    assert control in ids


def test_the_think_pair_is_left_alone_in_an_assistants_message():
    tokens = small()
    source = PLAIN + "{# <think> </think> <tool_response> #}"
    messages = [{"role": "assistant", "content": "<think>a</think><tool_response><|end|>"}]
    ids = ChatTemplate(source, tokens).encode(messages, add_generation_prompt=False)
    assert specials_of(tokens, ids) == ["<|start|>", "<think>", "</think>", "<|end|>"]


@pytest.mark.parametrize("add_bos", [True, False])
def test_bos_is_never_doubled(add_bos):
    tokens = small(bos_token_id=vocabulary_id("<s>"), add_bos_token=add_bos)
    messages = [{"role": "user", "content": "<s>"}]
    writes = ChatTemplate("{{ bos_token }}{{ messages[0].content }}", tokens).encode(messages)
    silent = ChatTemplate("{{ messages[0].content }}", tokens).encode(messages)
    assert writes.count(tokens.bos) == 1
    assert writes[0] == tokens.bos
    assert silent.count(tokens.bos) == add_bos


def vocabulary_id(spelling):
    return 256 + [*CONTROL, *MARKERS, *SPACES].index(spelling)


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ("hello", "a list of mappings, not str"),
        (None, "a list of mappings, not NoneType"),
        (["hello"], "message 0 is a mapping, not str"),
        ([{"role": "user"}], 'message 0: "content" is a str, here it is missing'),
        ([{"content": "x"}], '"role" is a str, here it is missing'),
        ([{"role": "user", "content": None}], '"content" is a str, here it is NoneType'),
        ([{"role": "user", "tool_calls": []}], '"content" is a str, here it is missing'),
        ([{"role": "user", "content": ["x"]}], '"content" is a str, here it is list'),
        ([{"role": "user", "content": "x"}, {"role": 1, "content": ""}], "message 1"),
        ([{"role": "user", "content": "x", "f": print}], "text, numbers, lists and mappings"),
        ([{"role": "user", "content": "x", 5: 6}], "a key in messages is a str, not int"),
    ],
)
def test_messages_of_another_shape_are_usage_errors(messages, complaint):
    with pytest.raises(UsageError) as refusal:
        ChatTemplate(PLAIN, small()).encode(messages)
    assert complaint in str(refusal.value)


def test_messages_too_deep_are_usage_errors():
    deep = "x"
    for _ in range(100):
        deep = [deep]
    with pytest.raises(UsageError, match="nested more than 64 deep"):
        ChatTemplate(PLAIN, small()).encode([], tools=deep)


@pytest.mark.parametrize("item", ["x", 1, [], {}], ids=repr)
def test_messages_of_too_many_values_are_usage_errors(item):
    """A list that holds one twice, which holds one twice, is small, and endless to go through."""
    for _ in range(40):
        item = [item, item]
    many = [{"role": "user", "content": "x"}] * 10**6
    for messages in ([{"role": "user", "content": "x", "more": item}], many):
        with pytest.raises(UsageError, match="hold more than 262,144 values"):
            ChatTemplate("{{ messages }}", small()).encode(messages)


@pytest.mark.parametrize(
    "error", [MemoryError(), SystemError("error return without exception set")]
)
def test_memory_that_is_refused_is_no_fault_of_the_template(monkeypatch, error):
    def render(*_):
        raise error

    monkeypatch.setattr(sandbox.Sandbox, "render", render)
    with pytest.raises(MemoryError):
        ChatTemplate("{{ messages }}", small()).encode([{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{% if %}", "does not compile: line 1"),
        ("a\nb\n{{ foo( }}", "does not compile: line 3"),
        ("a\n{{ 1 / 0 }}", "line 2: ZeroDivisionError"),
        ("a\nb\n{{ x.y.z }}", "line 3: UndefinedError: 'x' is undefined"),
        ("{{ raise_exception('roles must alternate') }}", "these messages: roles must alternate"),
        ("{{ 'x' | center(9) }}", "No filter named 'center'"),
        ("{{ '%d' | format(1) }}", "No filter named 'format'"),
        ("{% include 'x' %}", "line 1"),
        ("{{ ''.__class__.__mro__ }}", "__class__"),
        ("{{ messages.append(1) }}", "append"),
        ("{{ cycler.next() }}", "'cycler' is undefined"),
    ],
)
def test_broken_templates_say_where(source, complaint):
    with pytest.raises(TemplateError) as refusal:
        ChatTemplate(source, small()).render([])
    assert complaint in str(refusal.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('y' ~ 'x' * 100000) }}",
        "{{ ('x' * 100000).nothing.at_all }}",
        "{{ {}['x' * 100000].at_all }}",
        "{{ 1 " + "x" * 60000 + " }}",
        "{{ 'x' | " + "x" * 60000 + " }}",
    ],
)
def test_errors_are_short_whatever_the_template_writes(source):
    with pytest.raises(TemplateError) as refusal:
        ChatTemplate(source, small()).render([])
    assert len(str(refusal.value)) < 400


def test_errors_show_no_marks():
    with pytest.raises(TemplateError, match="these messages: a<.end.>b"):
        ChatTemplate("{{ raise_exception(x) }}", small()).render([], x="a<|end|>b")


# Two lists that hold a list twice, which holds a list twice, and so on: small, and endless.
TWICE = (
    "{% set n = namespace(a=[], b=[]) %}{% for i in range(60) %}"
    "{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}"
)
BOMBS = {
    "a long range": "{% for i in range(10**9) %}x{% endfor %}",
    "a loop in a loop": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}"
    "{% endfor %}",
    "a long product": "{{ 'a' * 10**9 }}",
    "a product from the left": "{{ 10**9 * 'a' }}",
    "doubling by ~": "{% set n = namespace(s='ab') %}{% for i in range(99) %}"
    "{% set n.s = n.s ~ n.s %}{% endfor %}",
    "doubling by +": "{% set n = namespace(s='ab') %}{% for i in range(99) %}"
    "{% set n.s = n.s + n.s %}{% endfor %}",
    "doubling a list": "{% set n = namespace(s=[1]) %}{% for i in range(99) %}"
    "{% set n.s = n.s + n.s %}{% endfor %}",
    "a search in a long text": "{% set s = 'ab' * 2000000 %}{% for i in range(99999) %}"
    "{% if 'ba' * 99 + 'c' in s %}x{% endif %}{% endfor %}",
    "equal texts": "{% set s = 'ab' * 2000000 %}{% set t = 'ab' * 2000000 %}"
    "{% for i in range(99999) %}{% if s == t %}{% endif %}{% endfor %}",
    "lists that hold a list twice, compared": TWICE + "{% if n.a == n.b %}{% endif %}",
    "such lists, searched": TWICE + "{% if n.a in [n.b] %}{% endif %}",
    "such lists in a test": TWICE + "{% if n.a is eq(n.b) %}{% endif %}",
    "such lists, selected": TWICE + "{{ [n.a] | select('eq', n.b) | list | length }}",
    "such lists, sorted": TWICE + "{{ [n.a, n.b] | sort | length }}",
    "slices": "{% set s = [1] * 4000000 %}{% for i in range(99999) %}{% if s[1:] %}{% endif %}"
    "{% endfor %}",
    "a list in a list": "{{ [[1] * 99999] * 99999 }}",
    "a power": "{{ 9 ** (9 ** 9) }}",
    "squares": "{% set n = namespace(s=9) %}{% for i in range(99) %}"
    "{% set n.s = n.s * n.s %}{% endfor %}",
    "a width in %": "{{ '%1000000000d' % 1 }}",
    "a width in format": "{{ '{:1000000000}'.format(1) }}",
    "a format in a format": "{{ '{:{w}}'.format(1, w=1000000000) }}",
    "ljust": "{{ 'x'.ljust(10**9) }}",
    "zfill": "{{ 'x'.zfill(10**9) }}",
    "expandtabs": "{{ '\t'.expandtabs(10**9) }}",
    "indent": "{{ 'x\ny' | indent(10**9) }}",
    "indented JSON": "{{ [1] | tojson(indent=10**9) }}",
    "replace": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "the filter replace": "{{ ('a' * 99999) | replace('a', 'b' * 99999) }}",
    "join": "{{ ('x' * 99999).join(range(99999) | list) }}",
    "the filter join": "{{ range(99999) | list | join('x' * 99999) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "recursion with two arms": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "much output": "{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}",
    "deep nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "a long source": "x" * (1 << 18) + "x",
    "the time, padded": "{{ strftime_now('%1000000000d') }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_quickly(name):
    start = time.process_time()
    with pytest.raises(TemplateError):
        ChatTemplate(BOMBS[name], small()).render([])
    assert time.process_time() - start < 5  # on a slow machine; seen: 0.3 at most
