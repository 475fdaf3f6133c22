"""The command line of tools.count."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nybble import hub
from nybble.cli.pull import pull
from nybble.errors import NybbleError
from nybble.hub.known import KNOWN
from tools import count, replay
from tools.count import baseline, emulator, peer
from tools.count.emulator import CountError
from tools.peers import form_of
from tools.peers.build import BuildError, default_cache

EXAMPLES = """\
examples:
  python -m tools.count                                   nybble alone, on every CPU
  python -m tools.count --peer --cpu cortex-a53 --form file --form Q4_0
  python -m tools.count baseline --help                   kernel rows, as in CI
  python -m tools.count --model gemma3-270m --prompt 64 --json > counts.json

Needs qemu-user, gcc-aarch64-linux-gnu (and g++ with --peer) and, the first time, a Debian mirror.
What is fetched and built lies in a cache outside the checkout.
"""


def parser() -> argparse.ArgumentParser:
    """What the tool takes."""
    p = argparse.ArgumentParser(
        prog="python -m tools.count",
        description=count.__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--model",
        default="smollm2-135m",
        metavar="NAME|PATH",
        help=f"a known name, a .gguf file or {count.RANDOM} (%(default)s)",
    )
    p.add_argument(
        "--cpu", action="append", choices=peer.CPUS, help="of qemu's; repeatable (all of these)"
    )
    p.add_argument(
        "--form",
        action="append",
        choices=peer.FORMS,
        help="the file as it is, or what the peer's quantizer makes of it; repeatable (file)",
    )
    count.add_compiler(p)
    p.add_argument("--prompt", type=positive, default=64, metavar="N", help="tokens (64)")
    p.add_argument("--gen", type=positive, default=3, metavar="N", help="steps after it (3)")
    p.add_argument("--peer", action="store_true", help="count llama.cpp too, built for the CPU")
    p.add_argument("--functions", type=positive, default=8, metavar="N", help="shown a side (8)")
    p.add_argument("--json", action="store_true", help="a JSON object a line; tables are progress")
    p.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, help="compilers at once")
    p.add_argument(
        "--cache", type=Path, default=default_cache(), metavar="DIR", help="(%(default)s)"
    )
    return p


def positive(text: str) -> int:
    """An int of 1 or more, for argparse."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


def say(line: str) -> None:
    """Progress, beside the figures."""
    print(line, file=sys.stderr, flush=True)


def results(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One result for each form and CPU, as plain data."""
    plan = count.Plan(args.prompt, args.gen)
    plugin = emulator.build_plugin(args.cache, say)
    cpus = args.cpu or list(peer.CPUS)
    name = args.model
    forms = [peer.FORMS[form] for form in args.form or ("file",)]
    wants_driver = args.peer or any(form.ftype is not None for form in forms)
    drivers = {cpu: peer.build(cpu, args.cache, args.jobs, say) for cpu in cpus if wants_driver}
    compiler = count.compiler(args.compiler)
    facts = {"compiler": compiler.name, "qemu": emulator.version()}
    with tempfile.TemporaryDirectory() as folder:
        program, dumped = Path(folder, "replay"), Path(folder, "dump")
        say("compiling nybble's static program")
        replay.build(program, compiler.command)
        model = model_of(name, Path(folder))
        for form in forms:
            file = model
            if form.ftype is not None:
                quantizer = peer.emulated(drivers[cpus[0]], cpus[0], Path(folder))
                file = form_of(model, peer.PEER, quantizer, form, args.cache, say)
            count.dump(file, plan, dumped)
            expected = count.next_tokens(dumped)
            for cpu in cpus:
                say(f"counting {name}, {form.name}, on {cpu}")
                own = count.count(program, dumped, plan, cpu, plugin)
                result = {"model": name, "form": form.name, "cpu": cpu, **plan._asdict(), **facts}
                result["nybble"] = own.as_data()
                if args.peer:
                    result["peer"] = peer_results(drivers[cpu], file, plan, cpu, plugin, expected)
                yield result


def model_of(name: str, folder: Path) -> Path:
    """The file of a model, pulled or, if it is the random one, written into `folder`."""
    if name == count.RANDOM:
        return count.random_model(folder)
    return Path(pull(name) if name in KNOWN else hub.resolve(name))


def peer_results(
    driver: Path, file: Path, plan: count.Plan, cpu: str, plugin: Path, expected: list[int]
) -> dict[str, Any]:
    """The peer's counts, for prefill and decode each by the options with the fewer instructions."""
    found = {}
    for options in peer.OPTIONS:
        say(f"counting {peer.PEER.name}, {options}")
        counts, tokens = count.count_peer(driver, file, options, plan, cpu, plugin)
        same = sum(a == b for a, b in zip(tokens, expected, strict=True))
        found[options] = counts.as_data() | {"same_tokens": [same, len(tokens)]}
    best: dict[str, Any] = {"name": peer.PEER.name, "version": peer.PEER.version, "all": found}
    for kind in ("prefill", "decode"):
        options = min(found, key=lambda one: found[one][kind]["total"])
        best[kind] = {"options": options, **found[options][kind]}
    return best


def table(result: dict[str, Any], functions: int) -> Iterator[str]:
    """The lines of one result."""
    yield f"{result['model']}, {result['form']}, {result['cpu']}: prompt of {result['prompt']}"
    yield f"  {result['compiler']}, qemu {result['qemu']}"
    for kind in ("prefill", "decode"):
        own = result["nybble"][kind]
        line = f"  {kind:<8}{own['total']:>15,} instructions a token"
        if "peer" in result:
            theirs = result["peer"][kind]
            line += f", {own['total'] / theirs['total']:.3f} times {result['peer']['name']}'s"
            line += f" {theirs['total']:,} ({theirs['options']})"
            same = result["peer"]["all"][theirs["options"]]["same_tokens"]
            line += ", the same next token {} times of {}".format(*same)
        yield line
        for side in ("nybble", "peer"):
            if side in result:
                for name, n in list(result[side][kind]["functions"].items())[:functions]:
                    yield f"    {side:<7}{n:>14,.0f}  {name[:70]}"


def main(arguments: list[str] | None = None) -> int:
    """Carry out `python -m tools.count`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["baseline"]:
        return baseline.main(arguments[1:])
    args = parser().parse_args(arguments)
    try:
        for result in results(args):
            lines = "\n".join(table(result, args.functions))
            print(lines, end="\n\n", file=sys.stderr if args.json else sys.stdout, flush=True)
            if args.json:
                print(json.dumps(result), flush=True)
    except (BuildError, CountError, NybbleError) as error:
        say(f"tools.count: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
