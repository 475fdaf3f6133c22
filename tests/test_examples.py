"""Every example runs, is short, and says something."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
LINES = 40

# Words typed at an example, and words that its output must hold.
SCRIPTS = {
    "ask.py": ("", "light"),
    "chat.py": ("What is the capital of France?\nWhat is 2 + 2?\n", "Paris"),
    "complete.py": ("", "The three primary colours are red,"),
}


def test_every_example_has_a_script():
    assert [path.name for path in EXAMPLES] == sorted(SCRIPTS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_short(path):
    assert len(path.read_text().splitlines()) < LINES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(path, smollm2_path, tmp_path):
    typed, said = SCRIPTS[path.name]
    result = subprocess.run(
        [sys.executable, path], input=typed, capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert said in result.stdout
    assert "Traceback" not in result.stderr
