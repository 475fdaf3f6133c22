"""Types as a user's editor sees them: mypy --strict takes a script, stubs say what is there."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nybble
from nybble.options import Options

RUNTIME = Path(nybble.__file__).parents[1]
STUBS = sorted((RUNTIME / "nybble/_core").glob("*.pyi"))

SCRIPT = """
import asyncio
from pathlib import Path

import nybble
from nybble.errors import BusyError, ContextError

def progress(done: int, total: int) -> None:
    print(done / total)

model = nybble.load(Path("m.gguf"), threads=2, context=100, sequences=2, on_progress=progress)
reply: nybble.Reply = model.ask("Why?", max_tokens=5, temperature=0.5, stop=["a", "b"], think=None)
for text in reply:
    print(text.upper(), end="")
for kind, piece in reply.parts():
    if kind == "thinking":
        print(piece.upper())
whole: str = reply.text + reply.thinking + str(reply)
tokens: int = reply.stats.tokens
rate: float | None = reply.stats.decode_tok_s
with model.ask([{"role": "user", "content": "Why?"}], seed=3) as other:
    print(other.text)
chat: nybble.Chat = model.chat(system="Be brief.")
print(chat.ask("Why?", timeout_s=1).text, chat.messages[-1]["content"])
ids: list[int] = model.tokenize(b"ab") + model.tokenize("ab", special=True, add_bos=True)
back: str = model.detokenize(ids)
raw: bytes = model.detokenize_bytes(ids)
number: float = model.logits(ids)[0] + model.embed("text")[0]
version: int = nybble.ARITHMETIC

async def main() -> None:
    async for text in model.ask("Why?"):
        print(text.upper())
    async with model.complete("Once", ignore_eos=True) as reply:
        async for kind, piece in reply.parts():
            print(kind, piece)
        await reply.aclose()

try:
    with model:
        asyncio.run(main())
except (BusyError, ContextError) as error:
    print(error.exit_code + 1)
except nybble.NybbleError as error:
    print(error)
"""

MISTAKES = """
import nybble

model = nybble.load("m", thread=2)  # unknown
model.ask("Why?", max_token=5)  # unknown
model.ask("Why?", max_tokens="5")  # of the wrong type
model.chat().ask("Why?", temp=0.5)  # unknown
model.complete(5)  # of the wrong type
model.ask("Why?").text = "Because."  # read only
model.ask("Why?").stats.decode_tok_s + 1  # may be None
for kind, piece in model.ask("Why?").parts():
    assert kind != "thought"  # no such kind
"""


def mypy(folder, script):
    """What `mypy --strict` says of a script beside which nybble is installed."""
    (folder / "script.py").write_text(script)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "script.py"]
    command += ["--config-file=", f"--cache-dir={folder / 'cache'}"]
    environment = {**os.environ, "MYPYPATH": str(RUNTIME)}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_users_script_passes_mypy_strict(tmp_path):
    assert mypy(tmp_path, SCRIPT) == []


def test_a_users_mistakes_are_found(tmp_path):
    said = mypy(tmp_path, MISTAKES)
    found = {int(line.split(":")[1]) for line in said if ": error: " in line}
    lines = MISTAKES.splitlines()
    assert sorted(found) == [n for n, line in enumerate(lines, 1) if "  # " in line], said


@pytest.mark.parametrize("path", STUBS, ids=lambda path: path.stem)
def test_a_stub_names_what_its_module_has(path):
    module = importlib.import_module(f"nybble._core.{path.stem}")
    stub = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            stub[node.name] = {member.name for member in node.body if hasattr(member, "name")}
            stub[node.name] |= {m.target.id for m in node.body if isinstance(m, ast.AnnAssign)}
        elif isinstance(node, ast.FunctionDef):
            stub[node.name] = None
        elif isinstance(node, ast.AnnAssign):
            stub[node.target.id] = None
    own = {
        name
        for name, value in vars(module).items()
        if not (name.startswith("_") or inspect.ismodule(value))
        and getattr(value, "__module__", module.__name__) == module.__name__
    }
    assert own == own & set(stub)
    assert set(stub) <= set(vars(module))
    for name, members in stub.items():
        if members is not None:
            has = vars(getattr(module, name))
            assert {member for member in has if not member.startswith("_")} <= members
            assert {m for m in members if not m.startswith("__")} <= set(has)


def test_every_extension_has_a_stub():
    assert [p.stem for p in STUBS] == sorted(p.stem for p in STUBS[0].parent.glob("*.pyx"))


def test_help_says_what_there_is():
    """Everything public has a docstring, and options are told where one looks for them."""
    for it in (nybble, nybble.load, nybble.Model, nybble.Chat, nybble.Reply, nybble.Stats):
        assert inspect.getdoc(it), it
    for of in (nybble.Model, nybble.Chat, nybble.Reply):
        for name, member in vars(of).items():
            if not name.startswith("_") and callable(getattr(member, "fget", member)):
                assert inspect.getdoc(member), f"{of.__name__}.{name}"
    told = re.findall(r"^(\w+) +: ", inspect.getdoc(nybble.Model.ask), re.MULTILINE)
    assert set(told) == set(inspect.signature(Options).parameters)
    told = re.findall(r"^(\w+) +: ", inspect.getdoc(nybble.load), re.MULTILINE)
    assert told == [p for p in inspect.signature(nybble.load).parameters if p != "name_or_path"]
    told = re.findall(r"^(\w+) +: ", inspect.getdoc(nybble.Stats), re.MULTILINE)
    assert sorted(told) == sorted(nybble.Stats.__slots__)
