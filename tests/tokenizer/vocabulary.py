"""Makes vocabularies byte by byte, as GGUF arrays hold them; sound ones and a table of hostile."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nybble._core import tokenizer as core

# GPT-2's byte alphabet, written down a second time and in another way than in C.
PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
ALPHABET = {byte: chr(byte) for byte in PRINTABLE} | {
    byte: chr(0x100 + n) for n, byte in enumerate(OTHERS)
}
BYTES = [ALPHABET[byte] for byte in range(256)]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


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
    numbers = type_numbers(tokens, types or {})
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": Array(memoryview(region(tokens)), "string", len(tokens)),
        "tokenizer.ggml.merges": Array(memoryview(region(merges)), "string", len(merges)),
        "tokenizer.ggml.token_type": Array(memoryview(numbers), "int32", len(tokens)),
        **{f"tokenizer.ggml.{key}": value for key, value in more.items()},
    }


SMALL_MERGES = ["t h", "th e", "Ġ the", "a a", "aa aa", "e r", "l o", "lo w", "low er"]
SMALL_TOKENS = [*BYTES, *(merge.replace(" ", "") for merge in SMALL_MERGES), "<|end|>", "<|x|>"]
SMALL_TYPES = {"<|end|>": CONTROL, "<|x|>": USER_DEFINED}


# A SentencePiece vocabulary: spelling to score. The best of what is there is merged first.
SMALL_PIECES = {
    "<unk>": 0.0,
    "<s>": 0.0,
    "</s>": 0.0,
    **{f"<0x{byte:02X}>": 0.0 for byte in range(256)},
    "\u2581": -20.0,
    **{letter: -21.0 - n for n, letter in enumerate("abcdefghilmnoprstuwxyz漢>")},
    "th": -2.0,
    "\u2581t": -3.5,
    "the": -3.0,
    "\u2581the": -4.0,
    "er": -5.0,
    "lo": -6.0,
    "low": -7.0,
    "lower": -8.0,
    "aa": -9.0,
    "aaaa": -9.0,
    ">\u2581a": -9.5,
    ">\u2581": -9.5,
    "\u2581\u2581": -10.0,
    "    ": 0.0,
    "<|x|>": 0.0,
}
SMALL_PIECE_TYPES = {
    "<unk>": UNKNOWN,
    "<s>": CONTROL,
    "</s>": CONTROL,
    **{f"<0x{byte:02X}>": BYTE for byte in range(256)},
    "    ": USER_DEFINED,
    "<|x|>": USER_DEFINED,
}
# Gemma 4's kind: the same spelling, but merges.
SMALL_CHAR_MERGES = ["t h", "th e", "\u2581 the", "a a", "aa aa", "\n \n", "> \u2581", ">\u2581 a"]
SMALL_CHARS = [
    *(f"<0x{byte:02X}>" for byte in range(256)),
    *"\u2581abcdehlort漢>\n",
    *(merge.replace(" ", "") for merge in SMALL_CHAR_MERGES),
    "\n\n\n",
    "<|end|>",
    "<|x|>",
]
SMALL_CHAR_TYPES = SMALL_TYPES | {f"<0x{byte:02X}>": BYTE for byte in range(256)}

Arguments = dict[str, Any]


# Where the hash tables put things, for vocabularies that are made to fill them badly.


def n_slots(n: int) -> int:
    return 2 * n + 2


def slot_of(hash: int, slots: int) -> int:
    hash = (hash ^ hash >> 15) * 0x2C1B3C6D & 0xFFFFFFFF
    return (hash ^ hash >> 13) * slots >> 32


def pair_hash(left: int, right: int) -> int:
    return ((left << 32 | right) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) >> 32


def spelling_hash(spelling: bytes) -> int:
    hash = 2166136261
    for byte in spelling:
        hash = (hash ^ byte) * 16777619 & 0xFFFFFFFF
    return hash


def type_numbers(tokens: Iterable[str], types: Mapping[str, int]) -> bytes:
    numbers = [types.get(token, NORMAL) for token in tokens]
    return struct.pack(f"<{len(numbers)}i", *numbers)


def floats(scores: Iterable[float]) -> bytes:
    return b"".join(struct.pack("<f", score) for score in scores)


def pieces_metadata(
    scores: Mapping[str, float], types: Mapping[str, int], **more: object
) -> dict[str, object]:
    """`more` are keys of tokenizer.ggml."""
    n = len(scores)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": Array(memoryview(region(list(scores))), "string", n),
        "tokenizer.ggml.scores": Array(memoryview(floats(scores.values())), "float32", n),
        "tokenizer.ggml.token_type": Array(memoryview(type_numbers(scores, types)), "int32", n),
        **{f"tokenizer.ggml.{key}": value for key, value in more.items()},
    }


def packed(**changes: Any) -> Arguments:
    """The arguments of `Vocabulary`: a small sound one of bytes, but for what is said otherwise."""
    types = type_numbers(SMALL_TOKENS, SMALL_TYPES)
    return {
        "kind": core.BYTES,
        "tokens": region(SMALL_TOKENS),
        "n_tokens": len(SMALL_TOKENS),
        "merges": region(SMALL_MERGES),
        "n_merges": len(SMALL_MERGES),
        "types": types,
        "n_types": len(changes.get("types", types)) // 4,
        "pre": core.PRE_GPT2,
    } | changes


def packed_chars(**changes: Any) -> Arguments:
    """A small sound vocabulary of Gemma 4's kind, but for what is said otherwise."""
    types = type_numbers(SMALL_CHARS, SMALL_CHAR_TYPES)
    return {
        "kind": core.CHARS,
        "tokens": region(SMALL_CHARS),
        "n_tokens": len(SMALL_CHARS),
        "merges": region(SMALL_CHAR_MERGES),
        "n_merges": len(SMALL_CHAR_MERGES),
        "types": types,
        "n_types": len(changes.get("types", types)) // 4,
    } | changes


def packed_pieces(**changes: Any) -> Arguments:
    """A small sound vocabulary of SentencePiece's kind, but for what is said otherwise."""
    types = type_numbers(SMALL_PIECES, SMALL_PIECE_TYPES)
    scores = floats(SMALL_PIECES.values())
    return {
        "kind": core.PIECES,
        "tokens": region(list(SMALL_PIECES)),
        "n_tokens": len(SMALL_PIECES),
        "scores": scores,
        "n_scores": len(changes.get("scores", scores)) // 4,
        "types": types,
        "n_types": len(changes.get("types", types)) // 4,
        "unknown": 0,
        "space_prefix": True,
    } | changes


def build(arguments: Arguments) -> core.Vocabulary:
    return core.Vocabulary(**arguments)


# Either word of a pair takes FNV-1a to the same state, if one of each pair before has been hashed:
# ten pairs make 1,024 spellings of one hash. Found by trying words at random.
COLLIDING = [
    ("eaxswr", "sefukl"),
    ("kadkpo", "yieuew"),
    ("bazsea", "dhqbnk"),
    ("abrnce", "wijpgv"),
    ("jthhmk", "edjdul"),
    ("yginpx", "ljlcbj"),
    ("yxnsqt", "bcytgf"),
    ("tcpgjv", "jetbty"),
    ("idplno", "hvjjag"),
    ("qjvctp", "ghgiha"),
]


def colliding_spellings() -> list[str]:
    spellings = ["".join(words) for words in itertools.product(*COLLIDING)]
    assert len({spelling_hash(spelling.encode()) for spelling in spellings}) == 1
    return spellings


def crowded_merges(n: int) -> list[str]:
    """Merges of two bytes whose places in a table for `n` merges are its first ones."""
    homes = sorted(
        (slot_of(pair_hash(left, right), n_slots(n)), left, right)
        for left in range(256)
        for right in range(256)
    )
    return [f"{BYTES[left]} {BYTES[right]}" for _, left, right in homes[:n]]


def colliding() -> dict[str, tuple[Arguments, str]]:
    """Vocabularies whose strings were made to collide in a hash table."""
    spellings = colliding_spellings()
    merges = crowded_merges(600)
    merged = [*BYTES, *(merge.replace(" ", "") for merge in merges)]
    return {
        "spellings of one hash": (
            packed(
                tokens=region(spellings), n_tokens=len(spellings), types=b"", merges=b"", n_merges=0
            ),
            "spellings were made to collide",
        ),
        "pairs of neighbouring hashes": (
            packed(
                tokens=region(merged),
                n_tokens=len(merged),
                types=b"",
                merges=region(merges),
                n_merges=len(merges),
            ),
            "merges were made to collide",
        ),
    }


def hostile() -> dict[str, tuple[Arguments, str]]:
    """Arguments of `Vocabulary` that are refused, and a part of the complaint."""
    tokens, merges, n = region(SMALL_TOKENS), region(SMALL_MERGES), len(SMALL_TOKENS)
    types = packed()["types"]
    pieces, scores, n_pieces = (
        region(list(SMALL_PIECES)),
        packed_pieces()["scores"],
        len(SMALL_PIECES),
    )

    def with_merge(merge: str) -> Arguments:
        return packed(merges=merges + region([merge]), n_merges=len(SMALL_MERGES) + 1)

    def with_type(number: int) -> Arguments:
        return packed(types=types[:-4] + struct.pack("<i", number))

    def with_piece(piece: str) -> Arguments:
        return packed_pieces(
            tokens=pieces + region([piece]),
            n_tokens=n_pieces + 1,
            scores=scores + floats([-1]),
            types=packed_pieces()["types"] + struct.pack("<i", NORMAL),
        )

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
        "no such kind": (packed(kind=3), "no kind of vocabulary"),
        "scores beside merges": (packed(scores=bytes(4 * n), n_scores=n), "number of scores"),
        "no scores": (packed_pieces(scores=b""), "number of scores"),
        "a score too few": (packed_pieces(scores=scores[:-4]), "number of scores"),
        "a score that is NaN": (
            packed_pieces(scores=scores[:-4] + floats([float("nan")])),
            "score is not a number",
        ),
        "a score that is a signalling NaN": (
            packed_pieces(scores=scores[:-4] + bytes.fromhex("0100a0ff")),
            "score is not a number",
        ),
        "merges beside scores": (
            packed_pieces(merges=merges, n_merges=len(SMALL_MERGES)),
            "merges",
        ),
        "a piece twice": (with_piece("the"), "the same spelling"),
        "a piece too long": (with_piece("a" * 1025), "too long"),
        "an unknown token that is none": (packed_pieces(unknown=n_pieces), "the unknown token"),
        "pieces cut short": (packed_pieces(tokens=pieces[:-1]), "a token runs past"),
        "a merge of characters into nothing": (
            packed_chars(
                merges=region([*SMALL_CHAR_MERGES, "a 漢"]), n_merges=len(SMALL_CHAR_MERGES) + 1
            ),
            "makes something",
        ),
        **colliding(),
    }
