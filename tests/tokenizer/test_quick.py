"""minijinja makes jinja2's text wherever it is used, and is used for nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import vocabulary

from nybble import tokenizer
from nybble.formats.gguf import GgufFile
from nybble.tokenizer import quick
from nybble.tokenizer.template import ChatTemplate
from tools.conversations import TOOLS
from tools.make_same_templates import difference, sources

sys.path.append(str(Path(__file__).parents[1]))

import peers

minijinja = pytest.importorskip("minijinja", reason="there is no minijinja for this machine")

PLAIN = {
    "messages": [{"role": "user", "content": "a"}],
    "bos_token": "<s>",
    "enable_thinking": True,
}
NOT_PLAIN = {
    "tools": {"tools": TOOLS},
    "no tools, but asked about": {"tools": []},
    "a number": {"depth": 1},
    "a call": {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "x"}]}]},
    "nothing said": {"messages": [{"role": "assistant", "content": None}]},
    "the name of a dict's method": {"messages": [{"role": "user", "content": "", "items": "x"}]},
    "a space of Python's": {"messages": [{"role": "user", "content": "a\x1c"}]},
    "such a space in a variable": {"bos_token": "\x1f"},
}


def listed(smollm2_path, qwen_coder_path):
    """(name, template) of all in the table, from where they came."""
    places = [peers.llama_cpp_sdist() / "templates", smollm2_path, qwen_coder_path]
    return [(n, s) for n, s in sources(list(map(str, places))) if quick.digest(s) in quick.SAME]


def test_the_table_holds(smollm2_path, qwen_coder_path):
    """With other conversations than those that made it."""
    found = listed(smollm2_path, qwen_coder_path)
    assert {quick.digest(source) for _, source in found} == {*quick.SAME}
    assert len(found) >= 59
    different = {name: difference(source, count=100, seed=2) for name, source in found}
    assert {name: reason for name, reason in different.items() if reason is not None} == {}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ messages[0].content | upper }}", "it uses | upper"),
        ("{% generation %}{% endgeneration %}", "does not compile"),
        ("{{ messages[0].content.splitlines() | length }}", "is to be"),
        ("{{ messages | sort | length }}", "jinja2 refuses"),
        ("{{ raise_exception('no') }}", "renders nothing"),
    ],
)
def test_differences_are_found(source, reason):
    assert reason in difference(source, count=100)


def test_what_is_compared_is_plain():
    assert quick.is_plain(PLAIN)


@pytest.mark.parametrize("case", NOT_PLAIN)
def test_other_conversations_are_left_to_jinja2(case):
    assert not quick.is_plain(PLAIN | NOT_PLAIN[case])


def test_what_minijinja_refuses_is_left_to_jinja2():
    environment = quick.compiled("{{ raise_exception(messages[0].content) }}")
    assert quick.render(environment, PLAIN) is None
    endless = "{% for a in messages[0].content %}" * 8 + "x" + "{% endfor %}" * 8
    long = {"messages": [{"role": "user", "content": "a" * 100}]}
    assert quick.render(quick.compiled(endless), long) is None


def test_only_listed_templates_are_taken(smollm2_path):
    source = GgufFile(smollm2_path).metadata["tokenizer.chat_template"]
    assert quick.engine(source) is not None
    assert quick.engine(source + "\n") is not None
    assert quick.engine(source + " ") is None


def test_without_minijinja_there_is_jinja2(smollm2_path, monkeypatch):
    metadata = GgufFile(smollm2_path).metadata
    source, tokens = metadata["tokenizer.chat_template"], tokenizer.load(metadata)
    text = ChatTemplate(source, tokens).render(PLAIN["messages"])
    monkeypatch.setitem(sys.modules, "minijinja", None)  # importing it fails
    assert quick.engine(source) is None
    assert ChatTemplate(source, tokens).render(PLAIN["messages"]) == text


def test_digests_are_sha256s_whatever_makes_them(monkeypatch):
    """The one that FIPS 180-4's examples give for "abc"."""
    expected = "ba7816bf8f01cfea414140de5dae2223"
    assert quick.digest("abc") == quick.digest("abc\n") == expected
    for module in ("_sha2", "_sha256"):
        monkeypatch.setitem(sys.modules, module, None)
    assert quick.digest("abc") == expected


PROGRAM = """
import sys
from nybble import tokenizer
from nybble.formats.gguf import GgufFile
from nybble.tokenizer.template import ChatTemplate

def loaded():
    print(*(name for name in ("jinja2", "minijinja") if name in sys.modules), sep=",")

metadata = GgufFile(sys.argv[1]).metadata
template = ChatTemplate(metadata["tokenizer.chat_template"], tokenizer.load(metadata))
loaded()
template.encode([{"role": "user", "content": "a"}])
loaded()
template.encode([{"role": "user", "content": "a"}], tools=[])
loaded()
"""


def test_engines_are_loaded_when_they_are_used(smollm2_path):
    command = [sys.executable, "-c", PROGRAM, smollm2_path]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.split("\n") == ["", "minijinja", "jinja2,minijinja", ""]


def test_a_template_of_bytes_that_are_no_text_is_not_listed():
    """A lone surrogate, as a file's broken string may hold it, is no reason to fail."""
    tokens = tokenizer.load(vocabulary.metadata(vocabulary.BYTES, []))
    assert ChatTemplate("a\udcff", tokens).render([]) == "a\udcff"
