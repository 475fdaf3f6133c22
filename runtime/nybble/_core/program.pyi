from collections.abc import Callable, Mapping
from typing import Any

class Arena:
    nbytes: int
    def __init__(self, nbytes: int, purpose: str = ...) -> None: ...
    def view(self) -> memoryview: ...

class Placement:
    name: str
    format: int
    rows: int
    cols: int
    offset: int
    nbytes: int
    head_dim: int
    rope_dims: int

class Program:
    placements: list[Placement]
    vocab: int
    weights_bytes: int
    read_bytes: int
    logits_buffer: int
    def __init__(self, tree: Any, formats: Mapping[str, str]) -> None: ...
    def kv_read_bytes(self, positions: int) -> int: ...
    def sections(self) -> dict[str, bytes]: ...

class Weights:
    arena: Arena
    program: Program
    def __init__(
        self,
        program: Program,
        data: Callable[[str], memoryview],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None: ...
