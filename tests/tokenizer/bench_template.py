"""What the first prompt of a process costs before the model runs.

The template's engine is imported, the template compiled, the messages rendered and made ids; each
round is a fresh process, of which the CPU time and the memory count.
"""

import json
import subprocess
import sys

import pytest

ROUNDS = 9
PROGRAM = """
import json, sys
from time import process_time
from nybble import tokenizer
from nybble.formats.gguf import GgufFile
from nybble.tokenizer.template import ChatTemplate

def resident():
    return 1024 * int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0])

metadata = GgufFile(sys.argv[1]).metadata
template = ChatTemplate(metadata["tokenizer.chat_template"], tokenizer.load(metadata))
if sys.argv[2] == "jinja2":
    from nybble.tokenizer import quick
    quick.SAME = {}
messages = [{"role": "user", "content": "Why do geese fly in a V?"}]
started, before = process_time(), resident()
template.encode(messages)
first, after = process_time(), resident()
template.encode(messages)
print(json.dumps({
    "first_ms": 1000 * (first - started),
    "second_ms": 1000 * (process_time() - first),
    "nbytes": after - before,
    "engines": [name for name in ("jinja2", "minijinja") if name in sys.modules],
}))
"""


def measure(path, engine):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, path, engine], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("engine", ["jinja2", "minijinja"])
@pytest.mark.parametrize("fixture", ["smollm2_path", "qwen_coder_path"])
def test_first_prompt(benchmark, request, fixture, engine):
    if engine == "minijinja":
        pytest.importorskip("minijinja")
    path = request.getfixturevalue(fixture)
    rounds = [measure(path, engine) for _ in range(ROUNDS)]
    assert all(one["engines"] == [engine] for one in rounds)
    for key in ("first_ms", "second_ms", "nbytes"):
        benchmark.extra_info[key] = sorted(one[key] for one in rounds)[ROUNDS // 2]
    benchmark.pedantic(measure, args=(path, engine), rounds=1)
    assert benchmark.extra_info["first_ms"] < {"jinja2": 200, "minijinja": 60}[engine]
