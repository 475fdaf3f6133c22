"""A wheel on a board's emulated CPU: what is made ready once, and what is tried on each."""

from __future__ import annotations

import json
import platform as machine
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

from nybble.board import Board
from tools.cross import ROOT, CrossError, platforms, userland, wheel
from tools.cross.platforms import Platform
from tools.cross.toolbox import PIP, TAIL, run, say
from tools.cross.userland import Tree

T = TypeVar("T")
ON_BOARD = Path(__file__).with_name("on_board.py")
# An emulated CPU takes seconds for a token of these.
PROMPT = "The capital of France is"
MODELS = {"smollm2-135m": 4, "gemma3-270m": 2, "qwen2.5-coder-0.5b": 2}  # tokens of an answer
# A minute or two of an emulated CPU's time: kernel rows against ref; whole models, by the best
# level against ref, and against transformers; ids of real vocabularies; what is drawn.
_SAME = "tests/model/test_same_tokens.py::test_every_level_of_this_cpu_gives_the_same_bits"
TESTS = (
    "tests/kernels/test_quantize.py",
    "tests/kernels/test_float_ops.py",
    "tests/kernels/test_attention.py::test_every_row_equals_the_reference",
    "tests/kernels/test_matrices.py::test_gemv_equals_the_reference",
    "tests/kernels/test_matrices.py::test_gemm_equals_gemv_of_each_token",
    *(f"{_SAME}[{shape}-{{level}}]" for shape in ("gqa3 32", "qwen2", "gemma3")),
    "tests/model/test_families.py::test_float32_replies_are_transformers",
    "tests/model/test_sampler.py::test_philox_gives_the_published_answers",
    "tests/model/test_sampler.py::test_same_seed_same_text",
    "tests/tokenizer/test_bpe.py::test_ids_equal_llama_cpp_on_smollm2",
    "tests/tokenizer/test_pieces.py::test_ids_equal_llama_cpp_on_gemma3",
)


class Runner(NamedTuple):
    """A Python with the nybble of a wheel: this machine's, or one under qemu."""

    command: Sequence[str]
    environment: Mapping[str, str]

    def __call__(self, *arguments: str | Path) -> str:
        """What it prints with these arguments; CrossError if it fails."""
        return run([*self.command, *arguments], env=self.environment)

    def json(self, *arguments: str | Path) -> dict[str, Any]:
        """The JSON object that it prints as its last line."""
        found: dict[str, Any] = json.loads(self(*arguments).splitlines()[-1])
        return found


class Subject(NamedTuple):
    """What is tried, with what this machine makes of the same models by its own wheel."""

    tree: Tree
    site: Path  # the wheel, installed
    packed: Mapping[str, Path]  # model: .nyb file
    expected: Mapping[str, Mapping[str, Any]]  # model: what on_board.py prints


class Outcome(NamedTuple):
    """What came of a board; `failures` is empty if all is well."""

    board: str
    cpu: str
    level: str
    rows: int  # of that level, among the best rows
    answers: dict[str, str]
    tests: str
    seconds: int
    failures: list[str]


def prepare(platform: Platform, given: Path | None, models: Sequence[str], folder: Path) -> Subject:
    """All that boards of a platform have in common, below `folder`; the tree is in the cache."""
    tree = userland.make(platform)
    tree.command()  # a qemu that is missing is told now
    board_wheel = given or wheel.build(platform, ROOT / "dist")
    say(f"{platform.id}: installing {board_wheel.name}")
    site = folder / "board"
    userland.install(platform, tree.userland, [board_wheel], site)
    userland.compile_all(tree.userland, site)
    own = own_python(platform, site, folder / "here")
    packed, expected = {}, {}
    for model in models:
        say(f"{model}: packed here, and what it says here")
        packed[model] = folder / f"{model}.nyb"
        own("-m", "nybble", "pull", model)
        own("-m", "nybble", "pack", model, "-o", packed[model])
        expected[model] = own.json(ON_BOARD, "answer", packed[model], *request(model))
    return Subject(tree, site, packed, expected)


def own_python(platform: Platform, site: Path, folder: Path) -> Runner:
    """This machine's Python with its own wheel, which is installed into `folder`, or with that in
    `site` where it is the same platform."""
    here = platforms.load(f"linux-{machine.machine()}")
    if here.id != platform.id:
        run([sys.executable, *PIP, "--target", folder, wheel.build(here, ROOT / "dist")])
    path = site if here.id == platform.id else folder
    return Runner([sys.executable], {"PYTHONPATH": str(path)})


def request(model: str) -> tuple[str, ...]:
    """Prompt, tokens and threads. Only the smallest is asked with two threads: what one waits at a
    barrier is lost to the other boards that are emulated at the same time."""
    return PROMPT, str(MODELS[model]), "2" if model == "smollm2-135m" else "1"


def one_of_each_level(chosen: Sequence[Board]) -> dict[str, Board]:
    """The first board of each level, on which the tests are run: on the next one they would execute
    the same instructions, by an emulator that knows no other difference."""
    return {board.expect_level: board for board in reversed(chosen)}


def try_board(board: Board, subject: Subject, tested: str) -> Outcome:
    """Tries everything on the board's CPU, the tests only if it is the one that is `tested`; what
    fails keeps nothing else from being tried."""
    started, failures = perf_counter(), list[str]()
    inside = userland.environment(subject.tree, board.qemu_cpu, subject.site)
    python = Runner(subject.tree.command(), inside)

    def attempt(what: str, check: Callable[[], T], otherwise: T) -> T:
        say(f"{board.id} ({board.qemu_cpu}): {what}")
        try:
            return check()
        except CrossError as error:
            failures.append(f"{what}: {error}")
            return otherwise

    rows = attempt("kernels", lambda: check_kernels(python, board, subject.site), 0)
    answers = {
        model: attempt(model, partial(check_answer, python, model, subject), "")
        for model in subject.packed
    }
    tests = f"those of {tested}: the same level"
    if board.id == tested:
        tests = attempt("tests", lambda: run_tests(python, board.expect_level), "failed")
    return Outcome(
        board=board.id,
        cpu=board.qemu_cpu,
        level=board.expect_level,
        rows=rows,
        answers=answers,
        tests=tests,
        seconds=round(perf_counter() - started),
        failures=failures,
    )


def check_kernels(python: Runner, board: Board, site: Path) -> int:
    """How many of the best rows are of the board's level. CrossError if a module does not load, a
    level was not built, or the CPU was given rows of a higher level or none of its own."""
    loaded = python.json(ON_BOARD, "load")
    modules = len(list((ROOT / "runtime/nybble/_core").glob("*.pyx")))
    if loaded != {"nybble": str(site / "nybble"), "modules": modules}:
        raise CrossError(f"loaded {loaded}, not the {modules} modules of the wheel")
    return level_rows(python.json("-m", "nybble", "doctor", "--json"), board.expect_level)


def level_rows(doctor: Mapping[str, Any], level: str) -> int:
    """How many of the best rows that doctor names are of this level; CrossError as above."""
    built, missing = doctor["levels"], doctor["levels_not_built"]
    if missing or level not in built:
        raise CrossError(f"{', '.join(built)} are built, {', '.join(missing) or level} not")
    rows = [row["level"] for row in doctor["kernels"].values()]
    best = max(rows, key=built.index)
    if best != level:
        raise CrossError(f"the best rows are of level {best}, not {level}")
    return rows.count(level)


def check_answer(python: Runner, model: str, subject: Subject) -> str:
    """What the model says there; CrossError if a bit differs from what it says here."""
    got = python.json(ON_BOARD, "answer", subject.packed[model], *request(model))
    want = subject.expected[model]
    if got != want:
        raise CrossError(f"says {got['text']!r}, here {want['text']!r}; {got} against {want}")
    text: str = got["text"]
    return text


def run_tests(python: Runner, level: str) -> str:
    """pytest's last line; CrossError if not all have passed: rows that the CPU lacks are no tests,
    and nothing else may be skipped."""
    options = ["-q", "-p", "no:cacheprovider", "--no-header", "-x", "-rs"]
    tests = [test.format(level=level) for test in TESTS]
    said = python("-m", "pytest", *options, *tests).splitlines()
    if not re.fullmatch(r"\d+ passed in .*", said[-1]):
        raise CrossError("\n".join(["not all have passed:", *said[-TAIL:]]))
    return said[-1]
