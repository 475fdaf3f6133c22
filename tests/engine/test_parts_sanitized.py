"""Matrices that are one in memory, and the buffers in which what they give is, under sanitizers."""

import sanitized

pytestmark = sanitized.needs_compiler


def test_what_is_one_in_memory_is_one_call(tmp_path, objects):
    lines = sanitized.run(sanitized.build(tmp_path, "parts", objects)).splitlines()
    one_token, several, with_a_gap, with_gaps, *others, other_buffer = lines[1:14:2]
    assert lines[0:14:2] == ["run"] * 7
    assert one_token == several == "1 calls, 6 tile rows"
    assert with_a_gap == other_buffer == "2 calls, 6 tile rows"
    assert with_gaps == "2 calls, 6 tile rows"  # two of them side by side
    assert others == ["3 calls, 6 tile rows"] * 2  # several tokens; results in one place
    assert lines[14:] == [
        "a buffer is part of none before it",
        "a buffer is part of a part",
        "a part's offset is not a multiple of 64",
        "a part begins outside its row",
        "a buffer that is no part has an offset",
        "a buffer has other rows than the whole",
        "a buffer of blocks has parts",
        "a step's vector is longer than its buffer",
        "a buffer has other rows than the whole",
        "a buffer has other rows than the whole",
        "a buffer of blocks has parts",
    ]
