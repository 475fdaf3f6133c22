from collections.abc import Callable
from typing import Any

BLOCK: int
TILE_ROWS: int
Q8_BYTES: int
Q16_BYTES: int
VECTOR: int
FLOATS: tuple[int, ...]
ENDS_PHASE: int
ON_LOGITS: int
ON_HIDDEN: int
OPS: dict[str, int]

class Arena:
    nbytes: int
    def __init__(self, nbytes: int, purpose: str = ...) -> None: ...
    def view(self) -> memoryview: ...

class Program:
    placements: list[Any]
    vocab: int
    dim: int
    weights_bytes: int
    read_bytes: int
    logits_buffer: int
    def __init__(self, lowered: Any) -> None: ...
    def kv_read_bytes(self, positions: int) -> int: ...
    def sections(self) -> dict[str, bytes]: ...

class Weights:
    arena: Arena
    program: Program
    def __init__(
        self,
        program: Program,
        read: Callable[[str, int, memoryview], None],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None: ...
