"""Which of two ways of reading is the quicker, found out while they are used, under sanitizers."""

import pytest
import sanitized

pytestmark = sanitized.needs_compiler
TRIAL = "01100110011001100110011001100110"  # each pair begins with the other way
AGAIN = 4096


@pytest.fixture(scope="module")
def trial(tmp_path_factory, objects):
    program = sanitized.build(tmp_path_factory.mktemp("trial"), "trial", objects)
    return lambda *arguments: sanitized.run(program, *arguments).strip()


@pytest.mark.parametrize(
    ("times", "best"),
    [
        ((100, 90, 0, 0), "1"),
        ((90, 100, 0, 0), "0"),
        ((100, 100, 0, 0), "0"),  # no better: as it was
        ((1000, 990, 7, 0), "1"),  # calls that get longer by nearly what there is to gain
        ((990, 1000, 7, 0), "0"),
        ((100, 90, 0, 5), "1"),  # a call of five is disturbed
        ((90, 100, 0, 5), "0"),
    ],
)
def test_the_quicker_is_kept(trial, times, best):
    assert trial("times", 100, *times) == TRIAL + 68 * best


def test_it_is_tried_again(trial):
    kept = (AGAIN - len(TRIAL)) * "1"
    assert trial("times", AGAIN + 40, 100, 90, 0, 0) == TRIAL + kept + TRIAL + 8 * "1"


@pytest.mark.parametrize("slow", [0, 1])
def test_an_engine_finds_out_how_it_reads(trial, slow):
    assert trial("engine", 64, slow) == TRIAL + 32 * str(1 - slow)
