"""Makes vocabularies byte by byte, as GGUF arrays hold them; sound ones and a table of hostile."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nybble._core import tokenizer as core

# GPT-2's byte alphabet, written down a second time and in another way than in C.
PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
ALPHABET = {byte: chr(byte) for byte in PRINTABLE} | {
    byte: chr(0x100 + n) for n, byte in enumerate(OTHERS)
}
BYTES = [ALPHABET[byte] for byte in range(256)]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4


@dataclass
class Array:
    """What the metadata of a GGUF file has for an array."""

    raw: memoryview
    element_type: str
    count: int

    def __len__(self) -> int:
        return self.count


def region(strings: Sequence[str | bytes]) -> bytes:
    encoded = [s.encode() if isinstance(s, str) else s for s in strings]
    return b"".join(struct.pack("<Q", len(s)) + s for s in encoded)


def metadata(
    tokens: Sequence[str],
    merges: Sequence[str],
    types: Mapping[str, int] | None = None,
    pre: str = "gpt-2",
    **more: object,
) -> dict[str, object]:
    """`types` are those that are not NORMAL, by spelling; `more` are keys of tokenizer.ggml."""
    numbers = [(types or {}).get(token, NORMAL) for token in tokens]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": Array(memoryview(region(tokens)), "string", len(tokens)),
        "tokenizer.ggml.merges": Array(memoryview(region(merges)), "string", len(merges)),
        "tokenizer.ggml.token_type": Array(
            memoryview(struct.pack(f"<{len(numbers)}i", *numbers)), "int32", len(numbers)
        ),
        **{f"tokenizer.ggml.{key}": value for key, value in more.items()},
    }


SMALL_MERGES = ["t h", "th e", "Ġ the", "a a", "aa aa", "e r", "l o", "lo w", "low er"]
SMALL_TOKENS = [*BYTES, *(merge.replace(" ", "") for merge in SMALL_MERGES), "<|end|>", "<|x|>"]
SMALL_TYPES = {"<|end|>": CONTROL, "<|x|>": USER_DEFINED}


def packed(
    tokens: bytes | None = None,
    n_tokens: int | None = None,
    merges: bytes | None = None,
    n_merges: int | None = None,
    types: bytes | None = None,
    n_types: int | None = None,
    pre: int = 1,
    whole_words: int = 0,
) -> tuple[bytes, int, bytes, int, bytes, int, int, int]:
    """The arguments of `Bpe`: a small sound vocabulary, but for what is said otherwise."""
    numbers = [SMALL_TYPES.get(token, NORMAL) for token in SMALL_TOKENS]
    small_types = struct.pack(f"<{len(numbers)}i", *numbers)
    types = small_types if types is None else types
    return (
        region(SMALL_TOKENS) if tokens is None else tokens,
        len(SMALL_TOKENS) if n_tokens is None else n_tokens,
        region(SMALL_MERGES) if merges is None else merges,
        len(SMALL_MERGES) if n_merges is None else n_merges,
        types,
        len(types) // 4 if n_types is None else n_types,
        pre,
        whole_words,
    )


def hostile() -> dict[str, tuple[tuple[bytes, int, bytes, int, bytes, int, int, int], str]]:
    """Arguments of `Bpe` that are refused, and a part of the complaint."""
    tokens, merges, n = region(SMALL_TOKENS), region(SMALL_MERGES), len(SMALL_TOKENS)
    types = packed()[4]

    def with_merge(merge: str) -> tuple[bytes, int, bytes, int, bytes, int, int, int]:
        return packed(merges=merges + region([merge]), n_merges=len(SMALL_MERGES) + 1)

    def with_type(number: int) -> tuple[bytes, int, bytes, int, bytes, int, int, int]:
        return packed(types=types[:-4] + struct.pack("<i", number))

    return {
        "no tokens": (packed(tokens=b"", n_tokens=0, types=b""), "no tokens"),
        "tokens cut short": (packed(tokens=tokens[:-1]), "a token runs past"),
        "tokens left over": (packed(tokens=tokens + b"\0"), "left over after the last token"),
        "one token too many": (packed(n_tokens=n + 1, types=types + types[:4]), "runs past"),
        "2^31 tokens": (packed(n_tokens=1 << 31), "2^31"),
        "2^63 tokens": (packed(n_tokens=1 << 63), "2^31"),
        "tokens without bytes": (packed(n_tokens=1 << 30), "more tokens are announced"),
        "a token of 2^64-1 bytes": (
            packed(tokens=struct.pack("<Q", (1 << 64) - 1) + tokens[8:]),
            "a token runs past",
        ),
        "a token of 2^63 bytes": (
            packed(tokens=struct.pack("<Q", 1 << 63) + tokens[8:]),
            "a token runs past",
        ),
        "a token twice": (
            packed(tokens=tokens + region(["the"]), n_tokens=n + 1, types=types + types[:4]),
            "the same spelling",
        ),
        "a special token too long": (
            packed(
                tokens=tokens + region(["<" * 1025]),
                n_tokens=n + 1,
                types=types + struct.pack("<i", CONTROL),
            ),
            "too long",
        ),
        "a type too high": (with_type(7), "a type that does not exist"),
        "a negative type": (with_type(-1), "a type that does not exist"),
        "a type too few": (packed(types=types[:-4]), "another number of types"),
        "2^31 merges": (packed(n_merges=1 << 31), "2^31"),
        "merges without bytes": (packed(n_merges=1 << 30), "more merges are announced"),
        "merges cut short": (packed(merges=merges[:-1]), "a merge runs past"),
        "merges left over": (packed(merges=merges + b"\0"), "left over after the last merge"),
        "a merge without a space": (with_merge("the"), "no space"),
        "an empty merge": (with_merge(""), "no space"),
        "a merge of nothing": (with_merge(" "), "no space"),
        "a merge of an unknown part": (with_merge("the zzz"), "a part that is no token"),
        "a merge into an unknown token": (with_merge("the the"), "makes something"),
        "a merge of three": (with_merge("t h e"), "a part that is no token"),
        "no such pre-tokenizer": (packed(pre=99), "pre-tokenizer"),
    }


def bpe(*args: object) -> core.Bpe:
    return core.Bpe(*args)  # type: ignore[arg-type]
