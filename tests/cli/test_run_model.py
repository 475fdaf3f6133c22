"""nybble run with the real model, as a user runs it."""

import json
import subprocess
import sys

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
