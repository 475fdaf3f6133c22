"""What `import nybble` and the modules that its first use loads add to a bare interpreter: CPU time
of fresh processes."""

import resource
import subprocess
import sys

ROUNDS = 15


def cpu_seconds(program):
    """CPU time of a fresh interpreter that runs the program, and nothing of site's."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_import_adds_little_cpu(benchmark):
    """The benchmark's own figure is wall time; the promise is CPU time, under 40 ms."""
    bare = sorted(cpu_seconds("pass") for _ in range(ROUNDS))
    full = sorted(cpu_seconds("import nybble; nybble.load") for _ in range(ROUNDS))
    added = full[ROUNDS // 2] - bare[ROUNDS // 2]
    benchmark.extra_info["added_cpu_ms"] = round(added * 1000, 1)
    benchmark.pedantic(cpu_seconds, args=("import nybble; nybble.load",), rounds=5)
    assert added < 0.040
