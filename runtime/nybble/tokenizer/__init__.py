"""Text to token ids and back, for the vocabulary that a GGUF file carries.

The work is done in C (`runtime/engine/nyb_bpe.h`); here the metadata is read and the names of
pre-tokenizers are known. Chat templates are in `nybble.tokenizer.template`.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping

from nybble._core import tokenizer as core
from nybble.errors import FormatError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# tokenizer.ggml.pre -> how text is cut into words. What is not here would give other tokens than
# the model was trained on, so it is refused and never guessed.
PRE_TOKENIZERS = {
    "default": core.PRE_DEFAULT,
    "gpt-2": core.PRE_GPT2,
    "phi-2": core.PRE_GPT2,
    "mpt": core.PRE_GPT2,
    "olmo": core.PRE_GPT2,
    "jais": core.PRE_GPT2,
    "exaone4": core.PRE_GPT2,
    "trillion": core.PRE_GPT2,
    "granite-docling": core.PRE_GPT2,
    "smollm": core.PRE_SMOLLM,
    "starcoder": core.PRE_SMOLLM,
    "refact": core.PRE_SMOLLM,
    "command-r": core.PRE_SMOLLM,
    "codeshell": core.PRE_SMOLLM,
    "exaone": core.PRE_SMOLLM,
    "minerva-7b": core.PRE_SMOLLM,
}
MODELS = ("gpt2",)


class Tokenizer:
    """A vocabulary: encodes text to ids, decodes ids to bytes.

    Attributes: `n_tokens`; `bos` and `eos`, ids or None; `add_bos`, whether the file wants BOS in
    front of raw text; `end_ids`, the tokens that end a reply.
    """

    def __init__(
        self,
        bpe: core.Bpe,
        *,
        bos: int | None = None,
        eos: int | None = None,
        add_bos: bool = False,
        end_ids: Iterable[int] = (),
    ) -> None:
        self.bpe = bpe
        self.n_tokens = bpe.n_tokens
        self.bos = bos
        self.eos = eos
        self.add_bos = add_bos and bos is not None
        self.end_ids = frozenset(end_ids) | frozenset(bpe.ends())

    def encode(
        self, text: str | bytes, *, special: bool = False, add_bos: bool = False
    ) -> list[int]:
        """The ids of a text.

        Spellings of control tokens are ordinary text unless `special`; those of user-defined tokens
        are always found. `add_bos` puts BOS in front if the vocabulary has one. Bytes that are not
        UTF-8 keep their value, and so do str's escaped ones (U+DC80 to U+DCFF, as
        `surrogateescape` makes them); any other lone surrogate becomes U+FFFD. A byte for which
        the vocabulary has no token (SmolLM2 lacks some controls) is left out, as in llama.cpp.
        """
        ids = self.bpe.encode(to_bytes(text), special)
        return [self.bos, *ids] if add_bos and self.bos is not None else ids

    def encode_marked(self, text: str, mark: str) -> list[int]:
        """The ids of a text with its special tokens found, but none across a `mark`; the marks, a
        character each, are taken out before anything else is looked at."""
        parts = [to_bytes(part) for part in text.split(mark)]
        breaks = []
        at = 0
        for part in parts[:-1]:
            at += len(part)
            breaks.append(at)
        return self.bpe.encode(b"".join(parts), True, breaks)

    def decode(self, ids: Iterable[int], *, special: bool = False) -> bytes:
        """The bytes of a sequence of ids; control tokens are left out unless `special`."""
        return b"".join(
            self.bpe.token_bytes(id) for id in ids if special or not self.is_control(id)
        )

    def text_stream(self, *, special: bool = False) -> TextStream:
        """A decoder for ids that come a few at a time."""
        return TextStream(self, special=special)

    def token_bytes(self, id: int) -> bytes:
        """The bytes that one token stands for; a control token's are its spelling."""
        return self.bpe.token_bytes(id)

    def spelling(self, id: int) -> str:
        """How the file spells a token: as it is for control tokens (`<|im_end|>`), in GPT-2's byte
        alphabet for others (`Ġthe`)."""
        return self.bpe.spelling(id).decode("utf-8", "replace")

    def is_control(self, id: int) -> bool:
        """Whether a token is no text: a control token, or the unknown token."""
        return self.bpe.type(id) in (core.CONTROL, core.UNKNOWN)


class TextStream:
    """Turns ids into text piece by piece and never splits a character between two pieces.

    Bytes that are not UTF-8 become U+FFFD, as `bytes.decode("utf-8", "replace")` has it: the
    pieces joined equal the whole decoded at once.
    """

    def __init__(self, tokenizer: Tokenizer, *, special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Iterable[int]) -> str:
        """The characters that these ids complete; for one id often a word, sometimes nothing."""
        return self._decoder.decode(self._tokenizer.decode(ids, special=self._special))

    def flush(self) -> str:
        """What is left when no more ids come: U+FFFD for a character that was cut off, or none."""
        return self._decoder.decode(b"", final=True)


def to_bytes(text: str | bytes) -> bytes:
    """UTF-8 of a text, for every str there is (`Tokenizer.encode` says how)."""
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise UsageError(f"text is a str or bytes, not {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError:
        kept = ("\ufffd" if "\ud800" <= c <= "\udfff" and not "\udc80" <= c <= "\udcff" else c
                for c in text)  # fmt: skip
        return "".join(kept).encode("utf-8", "surrogateescape")


def load(metadata: Mapping[str, object]) -> Tokenizer:
    """The tokenizer of a GGUF file, from its metadata.

    The strings of the vocabulary are read in place, so they hold the file's memory. FormatError if
    the tokenizer is of a kind that is not known here, or damaged.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model not in MODELS:
        raise FormatError(
            f"the file's tokenizer is of kind {model!r}; known here: {', '.join(MODELS)}"
        )
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if not isinstance(pre, str) or pre not in PRE_TOKENIZERS:
        raise FormatError(
            f"the file's pre-tokenizer is {pre!r}; known here: {', '.join(sorted(PRE_TOKENIZERS))}"
        )
    tokens, n_tokens = _array(metadata, "tokenizer.ggml.tokens", "string")
    merges, n_merges = _array(metadata, "tokenizer.ggml.merges", "string")
    types, n_types = memoryview(b""), 0
    if "tokenizer.ggml.token_type" in metadata:
        types, n_types = _array(metadata, "tokenizer.ggml.token_type", "int32")
    bpe = core.Bpe(tokens, n_tokens, merges, n_merges, types, n_types, PRE_TOKENIZERS[pre])

    def token_id(name: str) -> int | None:
        """An id outside the vocabulary means none, as in llama.cpp."""
        id = metadata.get(f"tokenizer.ggml.{name}_token_id")
        return id if isinstance(id, int) and 0 <= id < n_tokens else None

    ends = [token_id(name) for name in ("eos", "eot", "eom")]
    return Tokenizer(
        bpe,
        bos=token_id("bos"),
        eos=token_id("eos"),
        add_bos=metadata.get("tokenizer.ggml.add_bos_token") is True,
        end_ids=[id for id in ends if id is not None],
    )


def _array(metadata: Mapping[str, object], key: str, element_type: str) -> tuple[memoryview, int]:
    """The bytes of an array in the file, and its number of elements."""
    array: Any = metadata.get(key)
    if array is None:
        raise FormatError(f"the file has a tokenizer but no {key}")
    found = getattr(array, "element_type", type(array).__name__)
    if found != element_type:
        raise FormatError(f"{key} is to be an array of {element_type}, the file has {found}")
    return array.raw, len(array)
