"""Which known models fit a board, and about how fast they decode there.

A model that is on this machine is planned from its metadata, as `nybble plan` does. Of another only
the size of its file and of its KV cache are known: what it takes is estimated from them.
"""

from __future__ import annotations

from typing import NamedTuple

from nybble import hub, packing, planning
from nybble.board import Board
from nybble.hub.known import KnownModel
from nybble.model import context_of

# Bytes of keys and values beside those of halves: 32 numbers are 64 bytes of halves, or 34.
_KV_SHARE = {"f16": 1, "v8": (64 + 34) / 128, "int8": 34 / 64}
_WORK = 20 * planning.MIB  # working memory, tokenizer, what a first run holds besides


class Fit(NamedTuple):
    """A model on a board.

    total_bytes   : what it holds in memory; is_planned, if that is a plan and no estimate
    read_bytes    : bytes that a token of decode reads, with the context full
    fits          : whether that is within the budget
    decode_tok_s  : what memory allows, at most; None where the board's bandwidth is not known
    """

    total_bytes: int
    is_planned: bool
    fits: bool
    decode_tok_s: float | None
    read_bytes: int


def fit(row: KnownModel, board: Board, memory: int | str | None = None) -> Fit:
    """How a known model does on a board, with the default context, within `memory` or what the
    least board has: planned if its file is here, else estimated. NybbleError if the file is here
    and damaged."""
    if not hub.is_pulled(row.name):
        return estimate(row, board, memory)
    return _fit(*_planned(row, board), board, memory, is_planned=True)


def estimate(
    row: KnownModel,
    board: Board,
    memory: int | str | None = None,
    *,
    context: int | None = None,
    sequences: int = 1,
    kv: str = "f16",
) -> Fit:
    """How a known model does on a board, by what is known of it without its file. context: as
    `load` takes it; ContextError if the model was not trained for so many. kv: "f16", "v8" or
    "int8"."""
    context = context_of(context, row.context)
    cache = int(sum(layers.nbytes(context) for layers in row.kv) * _KV_SHARE[kv])
    fixed = planning.INTERPRETER + planning.OBJECTS + _WORK
    total = row.nbytes + cache * sequences + fixed
    return _fit(total, row.nbytes - row.unread_nbytes + cache, board, memory, is_planned=False)


def _fit(total: int, read: int, board: Board, memory: int | str | None, *, is_planned: bool) -> Fit:
    budget = planning.on_board(board, memory).nbytes
    rate = board.read_gb_s * 1e9 / read if board.read_gb_s else None
    return Fit(total, is_planned, total <= budget, rate, read)


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
