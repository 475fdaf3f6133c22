from collections.abc import Callable
from typing import Any

from typing_extensions import Buffer

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
    memory: Any
    program: Program
    nbytes: int
    is_mapped: bool
    def __init__(self, program: Program, memory: Arena | memoryview) -> None: ...
    def view(self) -> memoryview: ...

def pack(placement: Any, src: Buffer, out: Buffer, first: int = 0) -> None: ...
def pack_in_memory(
    program: Program,
    data: Callable[[str], memoryview],
    on_progress: Callable[[int, int], None] | None = None,
) -> Weights: ...
