"""Text to token ids and back, for the vocabulary that a GGUF file carries.

The work is done in C (`runtime/engine/nyb_vocab.h`, `nyb_encode.h`); here the metadata is read and
the names of pre-tokenizers are known. Chat templates are in `nybble.tokenizer.template`.
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Container, Iterable, Iterator, Mapping

from nybble._core import tokenizer as core
from nybble.errors import FormatError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_CONTROLS = (core.CONTROL, core.UNKNOWN)
_SPECIALS = (*_CONTROLS, core.USER_DEFINED)


class PreTokenizer:
    """How a byte-level vocabulary's text is cut into words, and what goes with it.

    number      : core.PRE_*
    whole_words : a word that is a token is that token, whatever the merges say
    add_bos     : whether raw text gets BOS in front where the file does not say
    """

    __slots__ = ("add_bos", "number", "whole_words")

    def __init__(self, number: int, *, whole_words: bool = False, add_bos: bool = False) -> None:
        self.number = number
        self.whole_words = whole_words
        self.add_bos = add_bos


_GPT2 = PreTokenizer(core.PRE_GPT2)
_SMOLLM = PreTokenizer(core.PRE_SMOLLM)
_LLAMA3 = PreTokenizer(core.PRE_LLAMA3, whole_words=True, add_bos=True)
_QWEN2 = PreTokenizer(core.PRE_QWEN2)

# tokenizer.ggml.pre -> how text is cut into words. What is not here would give other tokens than
# the model was trained on, so it is refused and never guessed.
PRE_TOKENIZERS = {
    "default": PreTokenizer(core.PRE_DEFAULT),
    "gpt-2": _GPT2,
    "phi-2": _GPT2,
    "mpt": _GPT2,
    "olmo": _GPT2,
    "jais": _GPT2,
    "exaone4": _GPT2,
    "trillion": _GPT2,
    "granite-docling": _GPT2,
    "smollm": _SMOLLM,
    "starcoder": _SMOLLM,
    "refact": _SMOLLM,
    "command-r": _SMOLLM,
    "codeshell": _SMOLLM,
    "exaone": _SMOLLM,
    "minerva-7b": _SMOLLM,
    "falcon": PreTokenizer(core.PRE_FALCON),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "falcon3": _LLAMA3,
    "falcon-h1": _LLAMA3,
    "lfm2": _LLAMA3,
    "pixtral": _LLAMA3,
    "dbrx": PreTokenizer(core.PRE_LLAMA3),
    "smaug-bpe": PreTokenizer(core.PRE_LLAMA3),
    "glm4": PreTokenizer(core.PRE_LLAMA3, whole_words=True),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "megrez": _QWEN2,
    "stablelm2": _QWEN2,
    "hunyuan": _QWEN2,
    "qwen35": PreTokenizer(core.PRE_QWEN35),
    "deepseek-llm": PreTokenizer(core.PRE_DEEPSEEK_LLM),
    "deepseek-coder": PreTokenizer(core.PRE_DEEPSEEK_CODER),
}


class Tokenizer:
    """A vocabulary: encodes text to ids, decodes ids to bytes.

    Attributes: `n_tokens`; `bos` and `eos`, ids or None; `add_bos` and `add_eos`, whether the file
    wants BOS in front of raw text and EOS behind it; `end_ids`, the tokens that end a reply;
    `space_prefix`, whether text gets a space in front (Llama 2's vocabulary, not Gemma's).
    """

    def __init__(
        self,
        vocabulary: core.Vocabulary,
        *,
        bos: int | None = None,
        eos: int | None = None,
        add_bos: bool = False,
        add_eos: bool = False,
        end_ids: Iterable[int] = (),
        space_prefix: bool = False,
    ) -> None:
        self.vocabulary = vocabulary
        self.n_tokens = vocabulary.n_tokens
        self.bos = bos
        self.eos = eos
        self.add_bos = add_bos and bos is not None
        self.add_eos = add_eos and eos is not None
        self.end_ids = frozenset(end_ids) | frozenset(vocabulary.ends())
        self.space_prefix = space_prefix

    def encode(
        self,
        text: str | bytes,
        *,
        special: bool = False,
        add_bos: bool = False,
        add_eos: bool = False,
    ) -> list[int]:
        """The ids of a text.

        Spellings of control tokens are ordinary text unless `special`; those of user-defined tokens
        are always found. `add_bos` puts BOS in front, `add_eos` EOS behind, if the vocabulary has
        one. Bytes that are not UTF-8 keep their value, and so do str's escaped ones (U+DC80 to
        U+DCFF, as `surrogateescape` makes them); any other lone surrogate becomes U+FFFD. A byte
        for which a byte-level vocabulary has no token (SmolLM2 lacks some controls) is left out,
        as in llama.cpp. SentencePiece's kind cannot tell U+2581 from a space: it comes back as one.
        """
        ids = self.vocabulary.encode(to_bytes(text), special)
        if add_bos and self.bos is not None:
            ids.insert(0, self.bos)
        if add_eos and self.eos is not None:
            ids.append(self.eos)
        return ids

    def encode_marked(self, text: str, mark: str) -> list[int]:
        """The ids of a text with its special tokens found, but none across a `mark`; the marks, a
        character each, are taken out before anything else is looked at."""
        parts = [to_bytes(part) for part in text.split(mark)]
        breaks = []
        at = 0
        for part in parts[:-1]:
            at += len(part)
            breaks.append(at)
        return self.vocabulary.encode(b"".join(parts), True, breaks)

    def decode(self, ids: Iterable[int], *, special: bool = False) -> bytes:
        """The bytes of a text, from the ids of all of it; control tokens are left out unless
        `special`. The space that `encode` put in front is taken away again (`space_prefix`)."""
        return b"".join(self.text_stream(special=special).bytes_of(ids))

    def text_stream(
        self,
        *,
        special: bool = False,
        behind: int | None = None,
        shown: Container[int] = (),
    ) -> TextStream:
        """A decoder for ids that come a few at a time, the first of them behind the token `behind`,
        or at the start of the text. `shown` are control tokens that are text all the same."""
        return TextStream(self, special=special, behind=behind, shown=shown)

    def token_bytes(self, id: int) -> bytes:
        """The bytes that one token stands for; a control token's are its spelling."""
        return self.vocabulary.token_bytes(id)

    def spelling(self, id: int) -> str:
        """How the file spells a token: as it is for control tokens (`<|im_end|>`), for others in
        GPT-2's byte alphabet (`Ġthe`) or with U+2581 for spaces (`▁the`)."""
        return self.vocabulary.spelling(id).decode("utf-8", "replace")

    def is_control(self, id: int) -> bool:
        """Whether a token is no text: a control token, or the unknown token."""
        return self.vocabulary.type(id) in _CONTROLS

    def is_special(self, id: int) -> bool:
        """Whether a token is looked for before words are: text starts anew behind it."""
        return self.vocabulary.type(id) in _SPECIALS


class TextStream:
    """Turns ids into text piece by piece and never splits a character between two pieces.

    Bytes that are not UTF-8 become U+FFFD, as `bytes.decode("utf-8", "replace")` has it: the
    pieces joined equal the whole decoded at once.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        special: bool = False,
        behind: int | None = None,
        shown: Container[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._shown = shown
        self._is_start = behind is None or tokenizer.is_special(behind)
        self._begun = b""  # a character of which more is to come

    def push(self, ids: Iterable[int]) -> str:
        """The characters that these ids complete; for one id often a word, sometimes nothing."""
        return self._decode(b"".join(self.bytes_of(ids)), False)

    def flush(self) -> str:
        """What is left when no more ids come: U+FFFD for a character that was cut off, or none."""
        return self._decode(b"", True)

    def bytes_of(self, ids: Iterable[int]) -> Iterator[bytes]:
        """The bytes of each of the next ids."""
        vocabulary = self._tokenizer.vocabulary
        for id in ids:
            type = vocabulary.type(id)
            if type in _SPECIALS:
                self._is_start = True
                if self._special or id in self._shown or type not in _CONTROLS:
                    yield vocabulary.token_bytes(id)
                continue
            text = vocabulary.token_bytes(id)
            if self._is_start and self._tokenizer.space_prefix:
                text = text.removeprefix(b" ")
            self._is_start = False
            yield text

    def _decode(self, data: bytes, is_all: bool) -> str:
        data = self._begun + data
        text, used = utf_8_decode(data, "replace", is_all)
        self._begun = data[used:]
        return text


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


def lone_surrogate(text: str) -> int | None:
    """Where a text has one, which no UTF-8 can tell."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def load(metadata: Mapping[str, object], tables: memoryview | None = None) -> Tokenizer:
    """The tokenizer of a GGUF file, from its metadata.

    Nothing of the file is held on to. `tables` are what `Vocabulary.tables` was when this metadata
    was loaded before: then they are checked, and they and the vocabulary's strings held and read in
    place, and nothing is built. FormatError if the tokenizer is of a kind that is not known here,
    or damaged.
    """
    model = metadata.get("tokenizer.ggml.model")
    if not isinstance(model, str) or model not in _KINDS:
        raise FormatError(
            f"the file's tokenizer is of kind {model!r:.60}; known here: {', '.join(_KINDS)}"
        )
    return _KINDS[model](metadata, tables)


def _load_bytes(metadata: Mapping[str, object], tables: memoryview | None) -> Tokenizer:
    """GPT-2's kind: merges over bytes, inside of words."""
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if not isinstance(pre, str) or pre not in PRE_TOKENIZERS:
        raise FormatError(
            f"the file's pre-tokenizer is {pre!r:.60}, which is none of the {len(PRE_TOKENIZERS)}"
            " known here; without it the text would be cut into other tokens than in training"
        )
    how = PRE_TOKENIZERS[pre]
    vocabulary = core.Vocabulary(
        core.BYTES,
        *_array(metadata, "tokens", "string"),
        **_arrays(metadata, merges="string"),
        pre=how.number,
        whole_words=how.whole_words,
        built=tables,
    )
    return _tokenizer(metadata, vocabulary, add_bos=how.add_bos)


def _load_chars(metadata: Mapping[str, object], tables: memoryview | None) -> Tokenizer:
    """Gemma 4's kind: merges over characters. (Its scores are all the same and mean nothing.)"""
    vocabulary = core.Vocabulary(
        core.CHARS,
        *_array(metadata, "tokens", "string"),
        **_arrays(metadata, merges="string"),
        unknown=_token_id(metadata, "unknown"),
        built=tables,
    )
    return _tokenizer(metadata, vocabulary)


def _load_pieces(metadata: Mapping[str, object], tables: memoryview | None) -> Tokenizer:
    """SentencePiece's kind, called "llama": Llama 2, Mistral, Gemma to 3. Some old files leave out
    the ids of Llama's special tokens. `remove_extra_whitespaces` is for T5's kind: in this one
    llama.cpp keeps every space, whatever the file says."""
    space_prefix = _flag(metadata, "add_space_prefix", True)
    vocabulary = core.Vocabulary(
        core.PIECES,
        *_array(metadata, "tokens", "string"),
        **_arrays(metadata, scores="float32"),
        unknown=_token_id(metadata, "unknown", 0),
        space_prefix=space_prefix,
        built=tables,
    )
    return _tokenizer(metadata, vocabulary, bos=1, eos=2, add_bos=True, space_prefix=space_prefix)


_KINDS = {"gpt2": _load_bytes, "llama": _load_pieces, "gemma4": _load_chars}


def _tokenizer(
    metadata: Mapping[str, object],
    vocabulary: core.Vocabulary,
    *,
    bos: int | None = None,
    eos: int | None = None,
    add_bos: bool = False,
    space_prefix: bool = False,
) -> Tokenizer:
    """What is not of one kind only; the keywords are what counts where the file does not say."""
    eos = _token_id(metadata, "eos", eos)
    ends = [eos, _token_id(metadata, "eot"), _token_id(metadata, "eom")]
    return Tokenizer(
        vocabulary,
        bos=_token_id(metadata, "bos", bos),
        eos=eos,
        add_bos=_flag(metadata, "add_bos_token", add_bos),
        add_eos=_flag(metadata, "add_eos_token"),
        end_ids=[id for id in ends if id is not None],
        space_prefix=space_prefix,
    )


def _token_id(metadata: Mapping[str, object], name: str, default: int | None = None) -> int | None:
    """The id of a special token; None where the file says -1, as signed or unsigned, or nothing."""
    key = f"tokenizer.ggml.{name}_token_id"
    id = metadata.get(key)
    _, n_tokens = _array(metadata, "tokens", "string")
    if id is None:
        return default if default is not None and default < n_tokens else None
    if not isinstance(id, int) or isinstance(id, bool):
        raise FormatError(f"{key} is {id!r:.60}; it should be a whole number")
    if id in (-1, 2**32 - 1):
        return None
    if not 0 <= id < n_tokens:
        raise FormatError(f"{key} is {id}; the vocabulary has tokens 0 to {n_tokens - 1:,}")
    return id


def _flag(metadata: Mapping[str, object], name: str, default: bool = False) -> bool:
    key = f"tokenizer.ggml.{name}"
    value = metadata.get(key, default)
    if not isinstance(value, bool):
        raise FormatError(f"{key} is {value!r:.60}; it should be true or false")
    return value


def _arrays(metadata: Mapping[str, object], **needed: str) -> dict[str, Any]:
    """The keywords of Vocabulary for the arrays `needed`, by their types, and the tokens' types."""
    if "tokenizer.ggml.token_type" in metadata:
        types, n_types = _array(metadata, "token_type", "int32")
    else:
        types, n_types = memoryview(b""), 0
    keywords: dict[str, Any] = {"types": types, "n_types": n_types}
    for name, element_type in needed.items():
        keywords[name], keywords[f"n_{name}"] = _array(metadata, name, element_type)
    return keywords


def _array(metadata: Mapping[str, object], name: str, element_type: str) -> tuple[memoryview, int]:
    """The bytes of an array of tokenizer.ggml, and its number of elements."""
    key = f"tokenizer.ggml.{name}"
    array: Any = metadata.get(key)
    if array is None:
        raise FormatError(f"the file has a tokenizer but no {key}")
    found = getattr(array, "element_type", type(array).__name__)
    if found != element_type:
        raise FormatError(f"{key} is to be an array of {element_type}, the file has {found}")
    return array.raw, len(array)
