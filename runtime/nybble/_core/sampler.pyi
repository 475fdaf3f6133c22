from typing import Any

from nybble._core.sequence import Sequence

class Sampler:
    def __init__(
        self,
        *,
        temperature: float = 0,
        top_k: int = 0,
        top_p: float = 1,
        min_p: float = 0,
        repeat_penalty: float = 1,
        seed: int = 0,
        choice: int = 0,
    ) -> None: ...
    def next(self, sequence: Sequence, ids: list[int], n_tokens: int) -> int: ...
    def next_of(self, logits: Any, ids: list[int], n_tokens: int) -> int: ...
