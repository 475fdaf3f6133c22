"""What is left of decoding's rate beside other programs that want the same CPUs. `make bench` runs
it: two threads on two CPUs, alone, with another process on one of them, and with one on each.
"""

import json
import subprocess
import sys
from statistics import median

import pytest

from nybble import machine
from tests import quiet

ROUNDS = 5
LEAST = {1: 0.55, 2: 0.30}  # spinning processes: share of the quiet rate that is left
PROGRAM = """
import json, os, subprocess, sys
from time import perf_counter, sleep

path, rounds, *cpus = sys.argv[1:]
cpus = [int(cpu) for cpu in cpus]
os.sched_setaffinity(0, cpus)
import nybble

SPIN = "import os, sys; os.sched_setaffinity(0, [int(sys.argv[1])])\\nwhile True: pass"
model = nybble.load(path, threads=2, context=512)
model.complete("a", max_tokens=8, ignore_eos=True).text
rates = {0: [], 1: [], 2: []}
for _ in range(int(rounds)):
    for busy in rates:
        spinning = []
        try:
            for cpu in cpus[:busy]:
                spinning.append(subprocess.Popen([sys.executable, "-c", SPIN, str(cpu)]))
            sleep(0.5)  # until they spin, or the team that was late has grown again
            reply = model.complete("The geese", max_tokens=128, ignore_eos=True)
            reply.text
            rates[busy].append(reply.stats.decode_tok_s)
        finally:
            for process in spinning:
                process.kill()
                process.wait()
print(json.dumps(rates))
"""


def measure(path, cpus):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, path, str(ROUNDS), *map(str, cpus)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {int(busy): median(rates) for busy, rates in json.loads(done.stdout).items()}


def test_decode_beside_other_programs(benchmark, smollm2_path):
    """Medians of rounds of all three in turn."""
    cpus = machine.cpus()[:2]
    if len(cpus) < 2:
        pytest.skip("a team of two needs two CPUs")
    quiet.wait_until_quiet()
    rates = benchmark.pedantic(measure, args=(smollm2_path, cpus), rounds=1)
    left = {busy: rates[busy] / rates[0] for busy in LEAST}
    benchmark.extra_info.update(cpu=machine.cpu_name(), quiet_tok_s=rates[0], left=left)
    assert all(left[busy] >= LEAST[busy] for busy in LEAST), left
