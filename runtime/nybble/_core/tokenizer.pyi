from collections.abc import Sequence

from typing_extensions import Buffer

PRE_DEFAULT: int
PRE_GPT2: int
PRE_SMOLLM: int
NORMAL: int
UNKNOWN: int
CONTROL: int
USER_DEFINED: int

class Bpe:
    n_tokens: int
    n_specials: int
    nbytes: int
    in_order: bool
    def __init__(
        self,
        tokens: Buffer,
        n_tokens: int,
        merges: Buffer,
        n_merges: int,
        types: Buffer,
        n_types: int,
        pre: int,
        whole_words: bool = False,
    ) -> None: ...
    def encode(
        self, text: Buffer, special: bool = False, breaks: Sequence[int] = ()
    ) -> list[int]: ...
    def encode_counting(
        self, text: Buffer, special: bool = False, breaks: Sequence[int] = ()
    ) -> tuple[list[int], int]: ...
    def token_bytes(self, id: int) -> bytes: ...
    def spelling(self, id: int) -> bytes: ...
    def type(self, id: int) -> int: ...
    def find(self, spelling: bytes) -> int | None: ...
    def specials(self) -> list[int]: ...
    def ends(self) -> list[int]: ...
