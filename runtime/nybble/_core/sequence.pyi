from _thread import LockType
from typing import Any

from nybble._core.program import Arena, Program, Weights
from nybble.errors import NumericError

CHUNK: int
PAGE: int
KV_TYPES: dict[str, int]
engine_lock: LockType

def sizes(
    program: Program,
    context: int,
    threads: int = 1,
    sequences: int = 1,
    chunk: int = ...,
    kv: str = "f16",
    panel_bytes: int | None = None,
) -> tuple[int, int]: ...

class Engine:
    weights: Weights
    kv: Arena
    work: Arena
    sampling: Arena
    context: int
    chunk: int
    threads: int
    sequences: int
    max_logits: int
    def __init__(
        self,
        weights: Weights,
        context: int,
        threads: int = 1,
        sequences: int = 1,
        chunk: int = ...,
        kv: str = "f16",
    ) -> None: ...
    def tune(self, decode_threads: int, prefill_threads: int, level: str | None = None) -> None: ...
    def read_seconds(self, streams: int) -> float: ...
    def barrier_seconds(self) -> float: ...

class Sequence:
    engine: Engine
    ids: list[int]
    context: int
    vocab: int
    def __init__(self, engine: Engine, slot: int = 0) -> None: ...
    def rewind(self, n: int) -> int: ...
    def reusable(self, ids: list[int]) -> int: ...
    def reuse(self, ids: list[int]) -> int: ...
    def next_chunk(self, n: int) -> int: ...
    def feed(self, ids: list[int], out: Any = None) -> None: ...
    def logits_of(self, ids: list[int], out: Any) -> None: ...
    def hidden_sums(self, ids: list[int], out: Any) -> None: ...
    def clear(self) -> None: ...
    def damaged(self, number: str) -> NumericError: ...
