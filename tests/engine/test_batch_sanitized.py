"""What nyb_run takes for a batch, under sanitizers."""

import sanitized

pytestmark = sanitized.needs_compiler
SOURCES = [f"runtime/engine/{name}.c" for name in ("bind", "run", "pool")]


def test_a_slot_is_in_a_batch_once(tmp_path):
    program = sanitized.build(tmp_path, "batch", SOURCES + sanitized.KERNELS)
    twice = "two spans of a batch name one slot"
    expected = ["run", "run", "run", twice, twice, "a span names an unknown slot"]
    assert sanitized.run(program).splitlines() == expected
