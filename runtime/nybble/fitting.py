"""Which known models fit a board, and about how fast they decode there.

A model that is on this machine is planned from its metadata, as `nybble plan` does. Of another only
the size of its file and of its KV cache are known: what it takes is estimated from them.
"""

from __future__ import annotations

from typing import NamedTuple

from nybble import hub, packing, planning
from nybble.board import Board
from nybble.hub.known import KnownModel
from nybble.model import DEFAULT_CONTEXT, context_of

_WORK = 20 * planning.MIB  # working memory, tokenizer, what a first run holds besides


class Fit(NamedTuple):
    """A model on a board, with the default context.

    total_bytes   : what it holds in memory; is_planned, if that is a plan and no estimate
    fits          : whether that is within the least memory the board is sold with
    decode_tok_s  : what memory allows, at most; None where the board's bandwidth is not known
    """

    total_bytes: int
    is_planned: bool
    fits: bool
    decode_tok_s: float | None


def fit(row: KnownModel, board: Board) -> Fit:
    """How a known model does on a board: planned if its file is here, else estimated. NybbleError
    if the file cannot be read; `estimate` needs none."""
    if not hub.is_pulled(row.name):
        return estimate(row, board)
    return _fit(*_planned(row, board), board, is_planned=True)


def estimate(row: KnownModel, board: Board) -> Fit:
    """How a known model does on a board, by what is known of it without its file."""
    return _fit(*_estimated(row), board, is_planned=False)


def _fit(total: int, read: int, board: Board, *, is_planned: bool) -> Fit:
    budget = planning.on_board(board, None).nbytes
    rate = board.read_gb_s * 1e9 / read if board.read_gb_s else None
    return Fit(total, is_planned, total <= budget, rate)


def _planned(row: KnownModel, board: Board) -> tuple[int, int]:
    """(bytes in memory, bytes that a token reads)"""
    with packing.read(hub.resolve(row.name), is_first=True) as reading:
        plan = planning.plan(
            reading,
            context=context_of(None, reading.tree.context),
            sequences=1,
            threads=board.clusters[0].cores,
            budget=planning.on_board(board, None),
            held=planning.INTERPRETER,
            on_exceed="tell",
            board=board,
        )
    return plan.total_bytes, plan.read_bytes


def _estimated(row: KnownModel) -> tuple[int, int]:
    kv = sum(layers.nbytes(DEFAULT_CONTEXT) for layers in row.kv)
    fixed = planning.INTERPRETER + planning.OBJECTS + _WORK
    return row.nbytes + kv + fixed, row.nbytes - row.unread_nbytes + kv
