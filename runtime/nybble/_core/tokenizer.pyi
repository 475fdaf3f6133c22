from collections.abc import Sequence

from typing_extensions import Buffer

BYTES: int
CHARS: int
PIECES: int
PRE_DEFAULT: int
PRE_GPT2: int
PRE_SMOLLM: int
PRE_FALCON: int
PRE_LLAMA3: int
PRE_QWEN2: int
PRE_QWEN35: int
PRE_DEEPSEEK_LLM: int
PRE_DEEPSEEK_CODER: int
NORMAL: int
UNKNOWN: int
CONTROL: int
USER_DEFINED: int

class Vocabulary:
    n_tokens: int
    n_specials: int
    nbytes: int
    in_order: bool
    tables: bytes
    def __init__(
        self,
        kind: int,
        tokens: Buffer,
        n_tokens: int,
        *,
        merges: Buffer = b"",
        n_merges: int = 0,
        scores: Buffer = b"",
        n_scores: int = 0,
        types: Buffer = b"",
        n_types: int = 0,
        pre: int = ...,
        unknown: int | None = None,
        whole_words: bool = False,
        space_prefix: bool = False,
        built: Buffer | None = None,
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
