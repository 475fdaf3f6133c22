"""What nyb_run takes for a batch, under sanitizers."""

import sanitized

pytestmark = sanitized.needs_compiler


def test_a_slot_is_in_a_batch_once(tmp_path, objects):
    program = sanitized.build(tmp_path, "batch", objects)
    twice = "two spans of a batch name one slot"
    expected = ["run", "run", "run", twice, twice, "a span names an unknown slot"]
    assert sanitized.run(program).splitlines() == expected
