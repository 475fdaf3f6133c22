from collections.abc import Callable, Iterator
from typing import Any

BLOCK: int
TILE_ROWS: int
Q8_BYTES: int
Q16_BYTES: int
VECTOR: int
FLOATS: tuple[int, ...]
ENDS_PHASE: int
BY_BLOCKS: int
ON_LOGITS: int
ON_WANTED: int
ON_HIDDEN: int
HOLDS_FLOATS: int
HOLDS_Q8: int
HOLDS_Q16: int
KV_TYPES: dict[str, int]
OPS: dict[str, int]

class Arena:
    nbytes: int
    def __init__(self, nbytes: int, purpose: str = ..., is_filled: bool = True) -> None: ...
    def view(self) -> memoryview: ...

class Program:
    placements: list[Any]
    vocab: int
    dim: int
    weights_bytes: int
    read_from: int
    read_bytes: int
    logits_buffer: int
    def __init__(self, lowered: Any) -> None: ...
    def kv_read_bytes(self, positions: int, kv: str = "f16") -> int: ...
    def sections(self) -> dict[str, bytes]: ...

class Weights:
    memory: Any
    program: Program
    nbytes: int
    is_mapped: bool
    def __init__(self, program: Program, memory: Arena | memoryview) -> None: ...
    def view(self) -> memoryview: ...

Read = Callable[[str, int, memoryview], None]

def packed(placement: Any, read: Read, out: memoryview | None = None) -> Iterator[memoryview]: ...
def pack_in_memory(
    program: Program, read: Read, on_progress: Callable[[int, int], None] | None = None
) -> Weights: ...
