"""The benchmarks measure every operation there is, and do what they measure."""

import pytest

from .bench_kernels import CASES, MATRICES
from .contract import ROWS_BY_NAME, op_of, prepared, rows_of


def test_every_operation_has_a_benchmark():
    assert {op_of(row) for row in ROWS_BY_NAME} == {*CASES, *MATRICES}


@pytest.mark.parametrize("op", CASES)
def test_a_float_operation_runs_as_it_is_measured(op):
    nbytes, args = CASES[op]()
    outs = [args[name] for name in ("out", "x", "k", "p") if name in args]
    before = [out.tobytes() for out in outs]
    prepared(rows_of(op)[-1], **args)()
    assert nbytes > 0
    if op != "add":  # of zeros, so that it can be repeated
        assert [out.tobytes() for out in outs] != before
