"""nybble run with the real model, as a user runs it."""

import json
import os
import subprocess
import sys

import pytest

from tests.hub.servers import Hub
from tests.model.models import thinking
from tools.tiny_model import tiny_model

QUESTION = "What is the capital of France?"


def nybble(*argv, stdin=subprocess.DEVNULL, **options):
    command = [sys.executable, "-m", "nybble", *argv]
    return subprocess.run(command, stdin=stdin, capture_output=True, text=True, **options)


def test_run_answers(smollm2_path):
    run = nybble("run", "smollm2-135m", "--system", "Answer in one sentence.", QUESTION)
    assert run.stderr == ""
    assert run.returncode == 0
    assert run.stdout == "The capital of France is Paris.\n"


def test_run_streams_json_with_the_same_words(smollm2_path):
    text = nybble("run", smollm2_path, QUESTION, "--max-tokens", "8").stdout
    lines = nybble("run", smollm2_path, QUESTION, "--max-tokens", "8", "--json").stdout
    *pieces, last = [json.loads(line) for line in lines.splitlines()]
    assert "".join(piece["text"] for piece in pieces) == text.removesuffix("\n")
    assert last["stats"]["tokens"] <= 8
    assert last["stats"]["stop_reason"] in ("end", "length")


def test_run_takes_the_prompt_from_a_pipe(smollm2_path):
    command = [sys.executable, "-m", "nybble", "run", smollm2_path, "--max-tokens", "8"]
    piped = subprocess.run(command, input=QUESTION + "\n", capture_output=True, text=True)
    assert piped.returncode == 0
    assert piped.stdout == nybble("run", smollm2_path, QUESTION, "--max-tokens", "8").stdout


@pytest.fixture(name="thinker", scope="module")
def fixture_thinker(tmp_path_factory):
    """A model that thinks "Hm" and says "Ja." """
    template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content.split('</think>')[-1] + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'assistant:\n' }}"
        "{% if enable_thinking is defined and enable_thinking is false %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
    )
    return thinking(tmp_path_factory.mktemp("thinker"), "Hm", "Ja.", template=template)


def test_run_of_a_model_that_thinks(thinker):
    run = nybble("run", thinker, "Hello")
    assert (run.returncode, run.stdout, run.stderr) == (0, "Ja.\n", "")
    lines = nybble("run", thinker, "Hello", "--json").stdout.splitlines()
    pieces = [json.loads(line) for line in lines]
    assert "".join(piece.get("thinking", "") for piece in pieces) == "Hm"
    assert "".join(piece.get("text", "") for piece in pieces) == "Ja."
    without = nybble("run", thinker, "Hello", "--json", "--no-think").stdout
    assert "thinking" not in without
    assert len(without.splitlines()) == 4


def test_a_model_from_the_hub_is_pulled_run_shown_and_removed(tmp_path, monkeypatch):
    path = tmp_path / "tiny-Q4_1.gguf"
    tiny_model(path, layers=2, dim=96, heads=6, kv_heads=2, vocab=323)
    server = Hub({"someone/tiny-GGUF": {path.name: path.read_bytes()}})
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("NYBBLE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    short, name = "hf:someone/tiny-GGUF:Q4_1", "hf:someone/tiny-GGUF/tiny-Q4_1.gguf"
    try:
        pulled = nybble("pull", short)
    finally:
        server.close()
    place = tmp_path / "home/models/hf/someone/tiny-GGUF/tiny-Q4_1.gguf"
    assert (
        pulled.stderr == f"{name}: {os.stat(path).st_size // 1000} kB, sha256 verified: {place}\n"
    )
    assert json.loads(nybble("ls", "--json").stdout)["name"] == name
    assert json.loads(nybble("show", short, "--json").stdout)["path"] == str(place)
    by_name = nybble("run", short, "Hello", "--max-tokens", "5")
    assert by_name.returncode == 0
    assert by_name.stdout == nybble("run", path, "Hello", "--max-tokens", "5").stdout
    again = nybble("pull", name)  # without a server
    assert again.stderr == f"{name} is already there, sha256 verified: {place}\n"
    assert nybble("rm", "--yes", short).returncode == 0
    assert [entry.name for entry in (tmp_path / "home/models").iterdir()] == [".lock"]
