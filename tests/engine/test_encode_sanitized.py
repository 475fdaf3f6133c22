"""Vocabularies and the encoder under sanitizers."""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path

import pytest
import sanitized

sys.path.append(str(Path(__file__).parents[1] / "tokenizer"))

import vocabulary

from nybble import tokenizer

pytestmark = sanitized.needs_compiler
TEXT = (
    "  the lower 漢字 <|end|> <|x|> it's 1234 ½\n\n \n\n\n    \t> a\u2581。\r\n".encode()
    + b"\xff\xe6\xbc"
    + b"a" * 140
    + b"     "
)


@pytest.fixture(scope="module")
def encode(tmp_path_factory, objects):
    """Runs encode; returns its lines of output."""
    program = sanitized.build(tmp_path_factory.mktemp("encode"), "encode", objects)
    return lambda *arguments: sanitized.run(program, *arguments).splitlines()


def sample(arguments, text=TEXT):
    """The arguments of `Vocabulary` and a text as encode.c reads them."""
    default = {"merges": b"", "scores": b"", "types": b"", "unknown": 0xFFFFFFFF}
    a = default | arguments
    numbers = [a["kind"], a["n_tokens"], len(a["tokens"]), a.get("n_merges", 0), len(a["merges"])]
    numbers += [a.get("n_scores", 0), a.get("n_types", 0), a.get("pre", 0), a["unknown"]]
    numbers += [a.get(key, 0) for key in ("whole_words", "space_prefix")]
    head = struct.pack("<12Q", *numbers, len(text))
    return head + a["tokens"] + a["merges"] + a["scores"] + a["types"] + text


PIECES_OUT_OF_TOKENS = dict(vocabulary.SMALL_PIECES)
for spelled in ("\u2581", "<0x41>", "<0xE2>"):
    del PIECES_OUT_OF_TOKENS[spelled]
NESTED = {  # special tokens that begin with and overlap one another
    spelled: (vocabulary.CONTROL, vocabulary.USER_DEFINED)[len(spelled) % 2]
    for spelled in ("th", "the", "he", "er", "<|", "<|e", "|>", *("a" * n for n in range(2, 60)))
}
KINDS = {
    "bytes": vocabulary.packed(),
    "bytes with nested special tokens": vocabulary.packed(
        tokens=vocabulary.region([*vocabulary.BYTES, *NESTED]),
        n_tokens=256 + len(NESTED),
        types=vocabulary.type_numbers([*vocabulary.BYTES, *NESTED], NESTED),
        merges=b"",
        n_merges=0,
    ),
    "bytes out of order": vocabulary.packed(
        merges=vocabulary.region(vocabulary.SMALL_MERGES[::-1]), whole_words=1
    ),
    "bytes without merges": vocabulary.packed(merges=b"", n_merges=0),
    "characters": vocabulary.packed_chars(),
    "pieces": vocabulary.packed_pieces(),
    "pieces without a prefix": vocabulary.packed_pieces(space_prefix=False),
    "pieces that lack some": vocabulary.packed_pieces(
        tokens=vocabulary.region(list(PIECES_OUT_OF_TOKENS)),
        n_tokens=len(PIECES_OUT_OF_TOKENS),
        scores=vocabulary.floats(PIECES_OUT_OF_TOKENS.values()),
        types=vocabulary.type_numbers(PIECES_OUT_OF_TOKENS, vocabulary.SMALL_PIECE_TYPES),
    ),
    "pieces of bytes only": vocabulary.packed_pieces(
        tokens=vocabulary.region(list(vocabulary.SMALL_PIECES)[:259]),
        n_tokens=259,
        scores=bytes(4 * 259),
        types=b"",
    ),
}
NUMBERS = sorted({how.number for how in tokenizer.PRE_TOKENIZERS.values()})
CUT = {f"bytes, pre-tokenizer {pre}": vocabulary.packed(pre=pre) for pre in NUMBERS}
TEXTS = [b"", b"a", b" ", TEXT, b"a" * 99 + b"bthe" + b"a" * 30]
TEXTS += [random.Random(n).randbytes(n) for n in (1, 2, 3, 31, 33, 999)]


@pytest.mark.parametrize("name", [*KINDS, *CUT])
def test_c_and_python_give_the_same_ids(encode, tmp_path, name):
    arguments = (KINDS | CUT)[name]
    for n, text in enumerate(TEXTS):
        (tmp_path / str(n)).write_bytes(sample(arguments, text))
    lines = encode(*(tmp_path / str(n) for n in range(len(TEXTS))))
    built = vocabulary.build(arguments)
    for text, line in zip(TEXTS, lines, strict=True):
        ids = [int(word) for word in line.split(" ends ")[0].split()[1:]]
        assert ids == built.encode(text)


def test_hostile_vocabularies_are_refused(encode, tmp_path):
    cases = vocabulary.hostile()
    for n, (arguments, _) in enumerate(cases.values()):
        (tmp_path / str(n)).write_bytes(sample(arguments))
    lines = encode(*(tmp_path / str(n) for n in range(len(cases))))
    for (name, (_, complaint)), line in zip(cases.items(), lines, strict=True):
        assert line.startswith("error: "), f"{name}: {line}"
        assert complaint in line, f"{name}: {line}"


@pytest.mark.parametrize("name", ["bytes", "characters", "pieces"])
def test_regions_cut_anywhere_are_refused(encode, tmp_path, name):
    arguments = KINDS[name]
    (tmp_path / "small").write_bytes(sample(arguments))
    tried = len(arguments["tokens"]) + len(arguments.get("merges", b""))
    assert encode("--cut", tmp_path / "small") == [f"accepted 0 of {tried}"]


# -- tables that were built before, and lie in a packed file


@pytest.mark.parametrize("name", KINDS)
def test_opened_tables_give_the_ids_of_built_ones(encode, tmp_path, name):
    for n, text in enumerate(TEXTS):
        (tmp_path / str(n)).write_bytes(sample(KINDS[name], text))
    paths = [tmp_path / str(n) for n in range(len(TEXTS))]
    lines = encode("--open", *paths)
    assert lines == encode(*paths)
    assert all(line.startswith("ids") for line in lines)


@pytest.mark.parametrize("name", ["bytes with nested special tokens", "characters", "pieces"])
def test_tables_cut_anywhere_are_refused(encode, tmp_path, name):
    (tmp_path / "small").write_bytes(sample(KINDS[name]))
    (line,) = encode("--open-cut", tmp_path / "small")
    assert line.startswith("accepted 0 of ")


@pytest.mark.parametrize("name", KINDS)
def test_bits_turned_over_in_tables_lead_nowhere(encode, tmp_path, name):
    """A hash that finds nothing, a rank or a type are accepted and give other ids; what is an
    index, a place or a link is not."""
    (tmp_path / "small").write_bytes(sample(KINDS[name]))
    (line,) = encode("--open-flip", 1, 4_000, tmp_path / "small")
    accepted = int(line.split()[1])
    assert line.endswith(" of 4000")
    assert 0 < accepted < 4_000


def test_tables_of_another_vocabulary_are_refused(encode, tmp_path):
    for n, arguments in enumerate(KINDS.values()):
        (tmp_path / str(n)).write_bytes(sample(arguments))
    for n in range(len(KINDS)):
        for other in range(len(KINDS)):
            (line,) = encode("--open-swap", tmp_path / str(n), tmp_path / str(other))
            assert line.startswith("ids" if n == other else "error: "), (n, other, line)


def test_tables_of_tokens_cut_short_are_refused(encode, tmp_path):
    """Where the last token lies is looked at before it is read."""
    arguments = KINDS["bytes without merges"]
    tokens = arguments["tokens"]
    (tmp_path / "whole").write_bytes(sample(arguments))
    for n in (1, 7, 9, len(tokens) - 1):
        (tmp_path / "cut").write_bytes(sample(arguments | {"tokens": tokens[:n]}))
        (line,) = encode("--open-swap", tmp_path / "cut", tmp_path / "whole")
        assert line.startswith("error: "), line
