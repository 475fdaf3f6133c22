"""The command line of tools.replay."""

import argparse
from pathlib import Path

import nybble
from tools import replay

TEXT = """It was a bright cold day in April, and the clocks were striking thirteen. The river ran
past the mill as it had always done, and nobody in the village could have said who built the
bridge. In the evening the children came back from school with their satchels on their backs and
told their mother about the geese that fly south in a V, each in the wake of the one before it."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.replay", description=replay.__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    dump = verbs.add_parser("dump", help="write a model's program, weights and logits to a file")
    dump.add_argument("model", help="a known name that has been pulled, or a .gguf file")
    dump.add_argument("file", type=Path)
    dump.add_argument("--tokens", type=int, default=40, help="tokens of a fixed text (40)")
    dump.add_argument("--rows", type=int, default=8, help="the last so many have logits (8)")
    dump.add_argument("--kv", default="f16", help="how keys and values are stored (f16)")
    build = verbs.add_parser("build", help="compile replay.c")
    build.add_argument("out", type=Path)
    build.add_argument("command", nargs="*", help="compiler and flags; cc -O2 -static")
    args = parser.parse_args()
    if args.verb == "build":
        replay.build(args.out, args.command or replay.STATIC)
        return
    model = nybble.load(args.model)
    ids = (model.tokenize(TEXT) * (args.tokens // 40 + 1))[: args.tokens]
    replay.dump(model.weights, ids, args.rows, args.file, args.kv)


if __name__ == "__main__":
    main()
