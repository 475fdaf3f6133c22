"""nybble run: one answer on stdout, or a chat."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import threading
from typing import TYPE_CHECKING, Any

from nybble import hub, machine
from nybble.cli.chat import chat
from nybble.cli.pull import pull
from nybble.cli.terminal import (
    LONG_S,
    as_flags,
    counted,
    cut_short,
    ended_line,
    figures,
    load,
    megabytes,
    print_words,
    printable,
    say,
    valid,
)
from nybble.errors import BudgetError, ContextError, ModelNotFoundError, UsageError
from nybble.hub.known import DEFAULT, KNOWN
from nybble.options import KV, ON_EXCEED, OVERFLOW

if TYPE_CHECKING:
    from nybble.model import Model
    from nybble.reply import Reply

_DESCRIPTION = f"""\
Answer PROMPT, or chat if there is none. One argument alone is MODEL if it is a known name or an
existing file, else PROMPT; the default model is {DEFAULT}. What is piped in is appended to the
prompt. stdout carries the model's words and nothing else."""
_EXAMPLES = """\
examples:
  nybble run "Why do geese fly in a V?"
  nybble run smollm2-135m "Name three birds." --max-tokens 60 --verbose
  dmesg | nybble run "What is failing?"
  nybble run ./model.gguf --temperature 0.7 --seed 3 "Tell me a story."
  nybble run ./model.nyb "Hello"             a file that nybble pack made
  nybble run --system "Answer in one word." "Is the sky blue?"
  nybble run qwen3-0.6b --no-think "What is 17 times 3?"
  nybble run                                 chat; /help says what it understands

Without options the file's own sampling values count, else the likeliest token is taken.
"""
# Flags that go to the model as keywords of the same name, if they are given.
_ASK_OPTIONS: dict[str, tuple[type, str]] = {
    "max_tokens": (int, "end the reply after this many tokens"),
    "temperature": (float, "0 takes the likeliest token, 1 draws as the model has learnt"),
    "top_k": (int, "draw among the K likeliest tokens"),
    "top_p": (float, "draw among the likeliest tokens that add up to this probability"),
    "min_p": (float, "leave out tokens less likely than this times the likeliest"),
    "repeat_penalty": (float, "above 1, make the last 64 tokens less likely"),
    "seed": (int, "of what is drawn (0); --seed $RANDOM draws anew each time"),
    "timeout_s": (float, "end the reply after this many seconds"),
}
_LOAD_OPTIONS = ("threads", "context", "overflow", "kv", "memory", "on_exceed")
_MORE_ASK_OPTIONS = ("stop", "think", "ignore_eos")
_ALL_OPTIONS = (*_ASK_OPTIONS, *_MORE_ASK_OPTIONS, *_LOAD_OPTIONS)


def add_parser(verbs: Any) -> None:
    """Describe `nybble run` to argparse."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "run", help="answer a prompt, or chat", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="a known name, a .gguf or a .nyb file, hf:... or a URL",
    )
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="what to answer")
    parser.add_argument("--system", metavar="TEXT", help="how the model should behave")
    for name, (kind, text) in _ASK_OPTIONS.items():
        metavar = "N" if kind is int else "X"
        parser.add_argument(_flag(name), type=kind, metavar=metavar, help=text)
    parser.add_argument(
        "--stop", action="append", metavar="TEXT", help="end the reply before TEXT; repeatable"
    )
    parser.add_argument(
        "--think",
        action=argparse.BooleanOptionalAction,
        help="let a model that can think do so first, or not (as the model does by itself)",
    )
    parser.add_argument(
        "--ignore-eos", action="store_const", const=True, help="go on when the model would end"
    )
    parser.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="tokens the model can look back (2048, or all it has learnt if that is less)",
    )
    parser.add_argument(
        "--overflow",
        metavar="HOW",
        choices=OVERFLOW,
        help="when that is full: error (as it is by itself), or shift: forget the oldest, go on",
    )
    parser.add_argument(
        "--kv",
        metavar="TYPE",
        choices=KV,
        help="how keys and values are stored: f16 (as it is by itself), v8, int8, auto",
    )
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="the most that may be held, such as 300MiB (what the machine can give)",
    )
    parser.add_argument(
        "--on-exceed",
        metavar="HOW",
        choices=ON_EXCEED,
        help="if that is too little: refuse (as it is by itself), or adapt: v8, a smaller context",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads of the engine (the cores of the strongest cluster)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help='an object a line: {"text": ...}, or "thinking", and at the end {"stats": ...}',
    )
    parser.add_argument("--verbose", action="store_true", help="print figures on stderr at the end")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `nybble run`."""
    name, prompt = _model_and_prompt(args.model, args.prompt)
    _offer_pull(name)
    prompt = _with_piped(prompt)
    if prompt is None and args.json:
        raise UsageError("--json needs a prompt")
    _advise_threads(args.threads)
    try:
        load_options = _given({key: getattr(args, key) for key in _LOAD_OPTIONS})
        with ended_line(), load(name, **load_options) as model:
            if prompt is None:
                system = None if args.system is None else valid(args.system)
                chat(model, system, _ask_options(args), args.verbose)
            else:
                _answer(model, prompt, args)
    except (BudgetError, ContextError, UsageError) as error:
        raise type(error)(_with_flags(str(error))) from None
    return 0


def _model_and_prompt(first: str | None, second: str | None) -> tuple[str, str | None]:
    if first is None:
        return DEFAULT, None
    if second is not None:
        return first, valid(second)
    if hub.is_name(first) or os.path.exists(first) or _looks_like_file(first):
        return first, None
    if close := _likely_model(first):
        raise UsageError(
            f"there is no model {first!r}; did you mean nybble run {close}? To ask a model just"
            f" this: nybble run {DEFAULT} {first}"
        )
    return DEFAULT, valid(first)


def _looks_like_file(text: str) -> bool:
    """A mistyped `smollm.gguf` should be told so, not be answered by the default model."""
    return text.endswith((hub.SUFFIX, ".nyb")) and not any(c.isspace() for c in text)


def _likely_model(text: str) -> str | None:
    """The model that a single word means, if it looks more like its name than like a question."""
    return None if any(c.isspace() for c in text) else hub.near(text, cutoff=0.8)


def _offer_pull(name: str) -> None:
    """Make sure that `name` stands for a file; ask on a terminal whether to pull it if not."""
    try:
        hub.resolve(name)
    except ModelNotFoundError:
        can_be_pulled = name in KNOWN or hub.is_remote(name)
        if not can_be_pulled or not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        row = KNOWN.get(name)
        about = "" if row is None or row.sha256 else "about "
        size = "" if row is None else f" ({about}{megabytes(row.nbytes)})"
        question = f"{printable(name)} is not here; pull it{size}? [Y/n] "
        print(question, end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()  # empty at the end of input, which is no
        if answer.strip().lower() not in ("", "y", "yes") or not answer:
            raise
        pull(name)


def _with_piped(prompt: str | None) -> str | None:
    """The prompt followed by what is piped in; None if there is neither, which means a chat."""
    if sys.stdin is None or sys.stdin.isatty():
        return prompt
    # A job or a service may have a standard input that nobody writes to or closes.
    note = threading.Timer(LONG_S, say, ["nybble: waiting for the end of the standard input;"
                                         " `< /dev/null` gives it none"])  # fmt: skip
    note.daemon = True
    with contextlib.suppress(RuntimeError):  # no thread can be had, and no note
        note.start()
    try:
        piped = sys.stdin.buffer.read().decode("utf-8", "replace").rstrip("\n")
    finally:
        note.cancel()
    parts = [part for part in (prompt, piped) if part]
    if not parts:
        raise UsageError("there is no prompt: none was given and nothing was piped in")
    return "\n\n".join(parts)


def _advise_threads(threads: int | None) -> None:
    """More threads than CPUs take turns, and meet hundreds of times a token: it is said, because
    the reply is the same, only later."""
    usable = len(machine.cpus())
    if threads is not None and usable < threads <= machine.MAX_THREADS:
        say(
            f"nybble: {counted(threads, 'thread')} on {counted(usable, 'CPU')}: the same tokens,"
            f" but slower than with --threads {usable}"
        )


def _answer(model: Model, prompt: str, args: argparse.Namespace) -> None:
    if model.has_template:
        messages = [{"role": "user", "content": prompt}]
        if args.system is not None:
            messages.insert(0, {"role": "system", "content": valid(args.system)})
        reply = model.ask(messages, **_ask_options(args))
    elif args.system is not None or args.think is not None:
        flag = "--think" if args.system is None else "--system"
        raise UsageError(f"this model has no chat template, so {flag} means nothing to it")
    else:
        say(
            "nybble: this model has no chat template: it continues the prompt as it stands"
            f" ({DEFAULT} answers)"
        )
        reply = model.complete(prompt, **_ask_options(args))
    try:
        (_print_json if args.json else print_words)(reply)
    finally:
        reply.close()
    if note := cut_short(reply):
        say(note)
    if args.verbose:
        say(figures(reply))


def _print_json(reply: Reply) -> None:
    for kind, text in reply.parts():
        print(json.dumps({kind: text}), flush=True)
    print(json.dumps({"stats": reply.stats.asdict()}), flush=True)


def _ask_options(args: argparse.Namespace) -> dict[str, Any]:
    return _given(
        {key: getattr(args, key) for key in (*_ASK_OPTIONS, "stop", "think", "ignore_eos")}
    )


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _with_flags(text: str) -> str:
    """An error about a keyword, for someone who gave a flag: `--top-k must be ...`."""
    text = as_flags(text).replace("think=True", "--think").replace("think=False", "--no-think")
    return re.sub(
        rf"^({'|'.join(_ALL_OPTIONS)})(?= )|\b({'|'.join(n for n in _ALL_OPTIONS if '_' in n)})\b",
        lambda found: _flag(found[0]),
        text,
    )
