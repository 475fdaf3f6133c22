"""The sampler under sanitizers."""

import sanitized

pytestmark = sanitized.needs_compiler


def test_every_small_vocabulary_is_sampled_within_bounds(tmp_path, objects):
    program = sanitized.build(tmp_path, "sample", objects)
    assert sanitized.run(program) == f"{69 * 5 * 6}\n"
