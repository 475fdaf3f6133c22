"""SentencePiece's kind and Gemma 4's: llama.cpp's ids, merging as defined, text that comes back."""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path

import pytest
import vocabulary

from nybble import tokenizer
from nybble.formats.gguf import GgufFile

sys.path.append(str(Path(__file__).parents[1]))

import peers

GOLDEN = Path(__file__).parents[1] / "golden" / "gemma3_tokens.json"
SPACE = "\u2581"


@pytest.fixture(scope="module")
def gemma3(gemma3_path):
    return tokenizer.load(GgufFile(gemma3_path).metadata)


@pytest.fixture(scope="module", params=["llama-spm", "gemma-4", "gemma3-270m"])
def real(request):
    """Vocabularies that text comes back from."""
    if request.param == "gemma3-270m":
        return request.getfixturevalue("gemma3")
    path = peers.llama_cpp_sdist() / f"ggml-vocab-{request.param}.gguf"
    return tokenizer.load(GgufFile(path).metadata)


def small(**more):
    return tokenizer.load(
        vocabulary.pieces_metadata(vocabulary.SMALL_PIECES, vocabulary.SMALL_PIECE_TYPES, **more)
    )


def spellings(loaded, text, **how):
    return [loaded.spelling(id) for id in loaded.encode(text, **how)]


def test_ids_equal_llama_cpp_on_gemma3(gemma3):
    goldens = json.loads(GOLDEN.read_text())
    assert len(goldens) > 300
    for string, plain, special in goldens:
        assert gemma3.encode(string) == plain, string
        assert gemma3.encode(string, special=True) == (special or plain), string


def test_gemma3_is_what_its_file_says(gemma3):
    assert gemma3.n_tokens == 262_144
    assert (gemma3.bos, gemma3.eos, gemma3.add_bos, gemma3.add_eos) == (2, 1, True, False)
    assert {gemma3.spelling(id) for id in gemma3.end_ids} == {"<eos>", "<end_of_turn>"}
    assert not gemma3.space_prefix


def test_text_comes_back_as_it_was(real):
    rng = random.Random(8)
    ranges = [(0x20, 0x7F), (0xA0, 0x2FF), (0x370, 0x1FFF), (0x4E00, 0x9FFF), (0x1F300, 0x1F6FF)]
    texts = [" ", "  a", "a  ", "\n", "\n\n \t", "\r\n", "\x00\x01\x7f", "👩‍👩‍👧‍👦🏴󠁧󠁢󠁥󠁮󠁧󠁿"]
    for _ in range(300):
        texts.append(
            "".join(
                chr(rng.randrange(*rng.choice(ranges))) + " \n"[: rng.randrange(3)]
                for _ in range(rng.randrange(60))
            )
        )
    for text in texts:
        ids = real.encode(text)
        assert real.decode(ids).decode() == text
        stream = real.text_stream()
        assert "".join([*(stream.push([id]) for id in ids), stream.flush()]) == text


def test_any_bytes_come_back(real):
    rng = random.Random(8)
    chosen = [bytes(range(256)), b"\xff\xfe\xed\xa0\x80", b"\xe2\x82", b"\xc0\x80", b"\xf5\x80"]
    chosen += [b"\xe2\x96", b"\xe2\x96 \x81", b" \xe2", b"\xf0\x9f\x98 \x80"]
    for data in [*chosen, *(rng.randbytes(n) for n in [*range(64), 1000])]:
        ids = real.encode(data)
        assert real.decode(ids) == data
        stream = real.text_stream()
        pieces = [stream.push([id]) for id in ids]
        assert "".join([*pieces, stream.flush()]) == data.decode("utf-8", "replace")


def naive_pieces(text, scores, types):
    """Merging as it is defined, of a whole text at once: again and again the best-scored token that
    two neighbours make, the leftmost of equals; then bytes for what is no token."""
    usable = {
        token: score
        for token, score in scores.items()
        if types.get(token) not in (vocabulary.CONTROL, vocabulary.UNKNOWN, vocabulary.BYTE)
    }
    symbols = list(text)
    while True:
        pairs = [a + b for a, b in zip(symbols, symbols[1:], strict=False)]
        best = max((usable[pair] for pair in pairs if pair in usable), default=None)
        if best is None:
            break
        at = next(i for i, pair in enumerate(pairs) if usable.get(pair) == best)
        symbols[at : at + 2] = ["".join(symbols[at : at + 2])]
    return [
        token
        for symbol in symbols
        for token in (
            [symbol] if symbol in usable else [f"<0x{byte:02X}>" for byte in symbol.encode()]
        )
    ]


@pytest.mark.parametrize("length", [5, 31, 32, 33, 70, 300])
def test_texts_of_every_length_merge_as_defined(length):
    """Random pieces, spaces inside them too, against the definition on the uncut text."""
    rng = random.Random(length)
    for _ in range(40):
        pieces = dict.fromkeys(["a", "b", SPACE], -9.0)
        while len(pieces) < 24:
            left, right = rng.choice(list(pieces)), rng.choice(list(pieces))
            if len(left + right) < 9:
                pieces.setdefault(left + right, -float(rng.randrange(8)))
        scores = {f"<0x{byte:02X}>": 0.0 for byte in range(256)} | pieces
        types = {token: vocabulary.BYTE for token in scores if token not in pieces}
        loaded = tokenizer.load(vocabulary.pieces_metadata(scores, types, add_space_prefix=False))
        text = "".join(rng.choice("aab  漢") for _ in range(length))
        assert spellings(loaded, text) == naive_pieces(text.replace(" ", SPACE), scores, types)


def test_a_space_is_put_before_text_and_taken_away_again():
    loaded = small()
    assert spellings(loaded, "the") == [f"{SPACE}the"]
    assert spellings(loaded, " the") == [SPACE, f"{SPACE}the"]
    assert spellings(loaded, "<s>the</s> the", special=True) == [
        *("<s>", f"{SPACE}the", "</s>", SPACE, f"{SPACE}the")
    ]
    assert loaded.encode("") == []
    for text in ("the", " the", "the<|x|>the", "", " ", "<|x|> "):
        assert loaded.decode(loaded.encode(text)).decode() == text
    ids = loaded.encode("<s>a</s>the", special=True)
    assert loaded.decode(ids) == b"athe"
    assert loaded.decode(ids, special=True) == b"<s>a</s>the"
    assert spellings(small(add_space_prefix=False), "the") == ["the"]


def test_a_reply_keeps_its_first_space_unless_a_special_token_is_in_front():
    loaded = small()
    [the] = loaded.encode("the")
    stop, user = loaded.vocabulary.find(b"</s>"), loaded.vocabulary.find(b"<|x|>")
    assert loaded.text_stream().push([the]) == "the"
    assert loaded.text_stream(behind=the).push([the]) == " the"
    assert loaded.text_stream(behind=stop).push([the, the]) == "the the"
    assert loaded.text_stream(behind=user).push([the]) == "the"


def test_every_space_is_kept_whatever_the_file_says():
    """The key is heeded for T5's kind only, in llama.cpp too."""
    loaded = small(remove_extra_whitespaces=True)
    for text in ("  the   lower ", " the", "   "):
        assert loaded.encode(text) == small().encode(text)
        assert loaded.decode(loaded.encode(text)).decode() == text


def test_words_are_cut_only_where_no_token_lies_across():
    loaded = small(add_space_prefix=False)
    assert spellings(loaded, "aa a> ab") == ["aa", SPACE, "a", f">{SPACE}a", "b"]


def test_control_tokens_and_bytes_are_never_spelled_by_text():
    pieces = {"<unk>": 0.0, "<s>": 0.0, "<0x41>": 0.0, "<": -1.0, "s": -1.0, ">": -1.0, "<s": -2.0}
    pieces |= {"0": -1.0, "<0": -1.0, "x": -1.0, "<0x": -1.0, "4": -1.0, "<0x4": -1.0, "1": -1.0}
    pieces |= {"<0x41": -1.0}
    types = {"<unk>": vocabulary.UNKNOWN, "<s>": vocabulary.CONTROL, "<0x41>": vocabulary.BYTE}
    loaded = tokenizer.load(vocabulary.pieces_metadata(pieces, types, add_space_prefix=False))
    assert spellings(loaded, "<s>") == ["<s", ">"]
    assert spellings(loaded, "<s>", special=True) == ["<s>"]
    assert spellings(loaded, "<0x41>") == ["<0x41", ">"]
    assert spellings(loaded, "A") == ["<0x41>"]


def test_what_has_no_bytes_is_the_unknown_token_once():
    pieces = {"<unk>": 0.0, "a": -1.0}
    loaded = tokenizer.load(
        vocabulary.pieces_metadata(
            pieces, {"<unk>": vocabulary.UNKNOWN}, add_space_prefix=False, unknown_token_id=0
        )
    )
    assert spellings(loaded, "a漢字é a\xff") == ["a", "<unk>", "a", "<unk>"]
    without = tokenizer.load(
        vocabulary.pieces_metadata(pieces, {}, add_space_prefix=False, unknown_token_id=-1)
    )
    assert spellings(without, "a漢字a") == ["a", "a"]


def test_llamas_ids_count_where_the_file_does_not_say():
    loaded = small()
    assert (loaded.bos, loaded.eos, loaded.add_bos, loaded.add_eos) == (1, 2, True, False)
    assert 2 in loaded.end_ids
    said = small(bos_token_id=2, eos_token_id=1, add_bos_token=False, add_eos_token=True)
    assert (said.bos, said.eos, said.add_bos, said.add_eos) == (2, 1, False, True)
    assert said.encode("the", add_bos=True, add_eos=True) == [2, *said.encode("the"), 1]


def test_minus_one_names_no_special_token():
    for id in (-1, 2**32 - 1):
        loaded = small(bos_token_id=id, eos_token_id=id)
        assert (loaded.bos, loaded.eos, loaded.add_bos) == (None, None, False)


def test_a_tag_of_html_is_no_end_token():
    pieces = dict(vocabulary.SMALL_PIECES)
    types = vocabulary.SMALL_PIECE_TYPES | {"</s>": vocabulary.USER_DEFINED}
    loaded = tokenizer.load(vocabulary.pieces_metadata(pieces, types, eos_token_id=1))
    assert loaded.end_ids == {1}
    assert spellings(loaded, "</s>") == ["</s>"]


def test_scores_of_either_zero_are_equal():
    pieces = {"a": -1.0, "b": -1.0, "ab": -0.0, "ba": 0.0}
    loaded = tokenizer.load(vocabulary.pieces_metadata(pieces, {}, add_space_prefix=False))
    assert spellings(loaded, "aba") == ["ab", "a"]


def test_infinite_scores_are_the_best_and_the_worst():
    pieces = {"a": -1.0, "b": -1.0, "c": 0.0, "ab": float("-inf"), "bc": float("inf")}
    loaded = tokenizer.load(vocabulary.pieces_metadata(pieces, {}, add_space_prefix=False))
    assert spellings(loaded, "abc") == ["a", "bc"]
    assert spellings(loaded, "aba") == ["ab", "a"]


def test_line_ends_of_gemma4_are_whole_words():
    metadata = vocabulary.metadata(
        vocabulary.SMALL_CHARS, vocabulary.SMALL_CHAR_MERGES, vocabulary.SMALL_CHAR_TYPES
    )
    loaded = tokenizer.load(metadata | {"tokenizer.ggml.model": "gemma4"})
    assert spellings(loaded, "a\n\n\nb") == ["a", "\n\n\n", "b"]
    assert spellings(loaded, "\n\n\n\n") == ["\n\n", "\n\n"]
    assert spellings(loaded, " the> aé") == [f"{SPACE}the", f">{SPACE}a", "<0xC3>", "<0xA9>"]


TEXTS = {
    "one letter": lambda n: b"a" * n,
    "spaces": lambda n: b" " * n,
    "dashes": lambda n: b"-" * n,
    "letters": lambda n: bytes(random.Random(1).choices(b"abcdefghijklmnopqrstuvwxyz", k=n)),
    "CJK": lambda n: "".join(
        map(chr, random.Random(1).choices(range(0x4E00, 0x9FA5), k=n // 3))
    ).encode(),
    "words": lambda n: (b"the quick brown fox. " * (n // 21 + 1))[:n],
    "bytes": lambda n: random.Random(1).randbytes(n),
    "newlines": lambda n: b"\n" * n,
    "control tokens": lambda n: b"<end_of_turn>" * (n // 13),
    "tags": lambda n: b"<h1>a</h1>\n" * (n // 11),
}


@pytest.mark.parametrize("name", TEXTS)
def test_steps_grow_as_n_log_n_at_worst(real, name):
    """A text of many words is linear; in one that is a single word, the heap's depth shows."""
    steps = {}
    for n in (10_000, 1_000_000):
        data = TEXTS[name](n)
        steps[n] = real.vocabulary.encode_counting(data, True)[1] / len(data)
    growth = 1.05 if name == "words" else math.log(1e6) / math.log(1e4)
    assert steps[1_000_000] < steps[10_000] * growth
    assert steps[1_000_000] < 150  # a byte; seen: 2 to 96
