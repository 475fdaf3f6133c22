"""nybble as a side: `nybble bench`'s figures, one at a time, for what is written to its input.

    python -m tools.peers.own MODEL THREADS POSITIONS

It answers what driver.c answers (`fill N`, `prompt N`, `reply N`), and for what the machine gives:

    read                the seconds of a plain read of the weights
    barrier             the seconds of a barrier; 0 where one thread works alone
    bytes DEPTH GEN     the bytes that a step of a reply reads on the mean, and those of the weights
"""

from __future__ import annotations

import sys

import nybble
from nybble.cli.bench import Bench
from nybble.errors import NybbleError


def main(model: str, threads: str, positions: str) -> None:
    """Serves until the input ends."""
    try:
        loaded = nybble.load(model, threads=int(threads), context=int(positions) + 1)
    except NybbleError as error:
        sys.exit(str(error))
    bench = Bench(loaded, int(positions))
    depth = 0
    for line in sys.stdin:
        word, *rest = line.split()
        numbers = [int(number) for number in rest]
        match word:
            case "fill":
                (depth,) = numbers
                bench.fill(depth)
                answer = "ok"
            case "prompt":
                answer = repr(numbers[0] / bench.prefill(numbers[0]))
            case "reply":
                answer = repr(numbers[0] / bench.decode(depth, numbers[0]))
            case "read":
                answer = repr(bench.read_seconds())
            case "barrier":
                answer = repr(bench.barrier_seconds() or 0.0)
            case "bytes":
                answer = f"{bench.bytes_per_token(*numbers)} {loaded.weights.nbytes}"
            case _:
                sys.exit(f"what is {word}?")
        print(answer, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
