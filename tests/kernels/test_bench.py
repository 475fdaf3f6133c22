"""The benchmarks measure every operation there is, and do what they measure."""

import pytest

from .bench_kernels import CASES, FLOAT_ROWS, MATRICES, arguments
from .contract import ROWS_BY_NAME, op_of, prepared


def test_every_operation_has_a_benchmark():
    assert {op_of(row) for row in ROWS_BY_NAME} == {*CASES, *MATRICES}


@pytest.mark.parametrize("name", FLOAT_ROWS)
def test_a_float_operation_runs_as_it_is_measured(name):
    nbytes, args = arguments(name)
    outs = [args[name] for name in ("out", "x", "k", "p") if name in args]
    before = [out.tobytes() for out in outs]
    prepared(name, **args)()
    assert nbytes > 0
    if op_of(name) != "add":  # of zeros, so that it can be repeated
        assert [out.tobytes() for out in outs] != before
