"""What the vocabularies of the real models cost. `make bench` runs it; each round is a fresh
process, whose clock and whose peak memory count from after the imports.
"""

import json
import random
import subprocess
import sys
from time import process_time

import pytest

ROUNDS = 7
PROGRAM = """
import json, sys
from time import perf_counter
from nybble import tokenizer
from nybble.formats.gguf import GgufFile

def peak():
    status = open("/proc/self/status").read()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

started, before = perf_counter(), peak()
file = GgufFile(sys.argv[1])
opened, with_file = perf_counter(), peak()
loaded = tokenizer.load(file.metadata)
done, with_tokenizer = perf_counter(), peak()
print(json.dumps({
    "open_s": opened - started,
    "open_bytes": with_file - before,
    "load_s": done - opened,
    "load_bytes": with_tokenizer - with_file,
}))
"""


def measure(path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, path], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("fixture", ["gemma3_path", "qwen_coder_path"])
def test_opening_and_loading_a_vocabulary(benchmark, request, fixture):
    """Metadata under 0.15 s and 50 MB, the vocabulary under 0.1 s and 40 MB: medians."""
    path = request.getfixturevalue(fixture)
    rounds = [measure(path) for _ in range(ROUNDS)]
    median = {key: sorted(one[key] for one in rounds)[ROUNDS // 2] for key in rounds[0]}
    benchmark.extra_info.update(median)
    benchmark.pedantic(measure, args=(path,), rounds=3)
    assert median["open_s"] < 0.15
    assert median["open_bytes"] < 50e6
    assert median["load_s"] < 0.1
    assert median["load_bytes"] < 40e6


TEXTS = {
    "prose": b"The quick brown fox, who is 42, jumps over the lazy dogs.\n" * 17_000,
    "one word": bytes(random.Random(1).choices(b"abcdefghijklmnopqrstuvwxyz", k=1_000_000)),
    "spaces": b" " * 1_000_000,
    "CJK": "漢字仮名交文".encode() * 55_000,
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("fixture", ["smollm2_path", "gemma3_path", "qwen_coder_path"])
def test_encoding_a_megabyte(benchmark, request, fixture, text):
    """Linear: a text four times as long takes four times as long, not sixteen times. Halfway
    between them, as factors go, leaves room for caches. Tests count the steps exactly."""
    from nybble import tokenizer
    from nybble.formats.gguf import GgufFile

    loaded = tokenizer.load(GgufFile(request.getfixturevalue(fixture)).metadata)

    def least_cpu_seconds(part):
        seconds = []
        for _ in range(ROUNDS):
            started = process_time()
            loaded.encode(part)
            seconds.append(process_time() - started)
        return min(seconds)

    data = TEXTS[text]
    times_as_long = least_cpu_seconds(data) / least_cpu_seconds(data[: len(data) // 4])
    ids = benchmark.pedantic(loaded.encode, args=(data,), rounds=5)
    benchmark.extra_info.update(nbytes=len(data), ids=len(ids), times_as_long=times_as_long)
    if benchmark.stats is not None:
        benchmark.extra_info["mb_s"] = len(data) / 1e6 / benchmark.stats.stats.median
    assert times_as_long < 8
