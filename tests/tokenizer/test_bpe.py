"""The byte-pair encoder: the leader's ids, bytes that come back, steps that stay linear."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
import vocabulary

from nybble import tokenizer
from nybble._core import tokenizer as core
from nybble.errors import FormatError, UsageError
from nybble.formats.gguf import GgufFile

sys.path.append(str(Path(__file__).parents[1]))

import peers

GOLDEN = Path(__file__).parents[1] / "golden" / "smollm2_tokens.json"
SUITES = {  # and the least number of strings
    "gpt-2": 47,
    "mpt": 47,
    "starcoder": 47,
    "refact": 47,
    "command-r": 47,
    "falcon": 47,
    "llama-bpe": 47,
    "qwen2": 47,
    "qwen35": 51,
    "deepseek-llm": 47,
    "deepseek-coder": 47,
    "llama-spm": 47,
    "phi-3": 47,
    "gemma-4": 46,
}


@pytest.fixture(scope="module")
def smollm2(smollm2_path):
    return tokenizer.load(GgufFile(smollm2_path).metadata)


def small(**more):
    return tokenizer.load(
        vocabulary.metadata(
            vocabulary.SMALL_TOKENS, vocabulary.SMALL_MERGES, vocabulary.SMALL_TYPES, **more
        )
    )


@pytest.mark.parametrize("name", SUITES)
def test_ids_equal_the_leaders_own_suite(name):
    path = peers.llama_cpp_sdist() / f"ggml-vocab-{name}.gguf"
    text = Path(f"{path}.inp").read_bytes().decode()
    strings = text.split("\n__ggml_vocab_test__\n")
    lines = Path(f"{path}.out").read_text().split("\n")
    if len(lines) == len(strings) + 1:  # one of them ends with a line end, the others do not
        assert lines.pop() == ""
    loaded = tokenizer.load(GgufFile(path).metadata)
    assert len(strings) >= SUITES[name]
    for string, line in zip(strings, lines, strict=True):
        assert loaded.encode(string) == [int(id) for id in line.split()], string
        assert loaded.decode(loaded.encode(string)).decode() == string


def test_ids_equal_llama_cpp_on_smollm2(smollm2):
    goldens = json.loads(GOLDEN.read_text())
    assert len(goldens) > 300
    for string, plain, special in goldens:
        assert smollm2.encode(string) == plain, string
        assert smollm2.encode(string, special=True) == (special or plain), string


def test_text_comes_back_as_it_was(smollm2):
    rng = random.Random(8)
    ranges = [(0x20, 0x7F), (0xA0, 0x2FF), (0x370, 0x1FFF), (0x4E00, 0x9FFF), (0x1F300, 0x1F6FF)]
    for _ in range(300):
        text = "".join(
            chr(rng.randrange(*rng.choice(ranges))) + " \n"[: rng.randrange(3)]
            for _ in range(rng.randrange(60))
        )
        assert smollm2.decode(smollm2.encode(text)).decode() == text


def test_any_bytes_come_back_where_the_vocabulary_has_every_byte():
    loaded = small()
    rng = random.Random(8)
    for n in [*range(64), 1000]:
        data = rng.randbytes(n)
        assert loaded.decode(loaded.encode(data)) == data
    for data in (bytes(range(256)), b"\xff\xfe\xed\xa0\x80", b"\xe2\x82", b"\xc0\x80", b"\xf5\x80"):
        assert loaded.decode(loaded.encode(data)) == data


def test_bytes_that_the_vocabulary_lacks_are_left_out(smollm2):
    assert smollm2.decode(smollm2.encode(b"a\x04b\xffc")) == b"abc"


@pytest.mark.parametrize(
    ("fixture", "lost"),
    [
        ("smollm2_path", "\x04\x06\x13\x14\x16\x1d"),
        ("gemma3_path", "\u2581"),  # its spelling of a space
        ("qwen_coder_path", ""),
    ],
)
def test_characters_of_every_script_come_back(request, fixture, lost):
    """As docs/python.md says: all but those for which the real vocabularies have no token."""
    loaded = tokenizer.load(GgufFile(request.getfixturevalue(fixture)).metadata)
    blocks = [(0, 0xD800), (0xE000, 0x20400), (0x2A700, 0x2A740), (0xE0000, 0xE01F0)]
    chars = [chr(code) for first, end in blocks for code in range(first, end)]
    # one that is lost takes nothing else with it
    text = "\n".join(f"a{char}b" for char in chars)
    back = loaded.decode(loaded.encode(text)).decode()
    kept = dict.fromkeys(lost, " " if lost == "\u2581" else "")
    assert back == "\n".join(f"a{kept.get(char, char)}b" for char in chars)


def test_surrogates_are_bytes_or_replacement_characters():
    loaded = small()
    assert loaded.decode(loaded.encode("a\udcffb")) == b"a\xffb"
    assert loaded.decode(loaded.encode("a\ud800b\udc00c")).decode() == "a\ufffdb\ufffdc"


def naive(text: bytes, merges: list[str]) -> list[str]:
    """Merging as it is defined, on one word: the leftmost pair of least rank, again and again."""
    ranks = {tuple(merge.split(" ")): rank for rank, merge in reversed(list(enumerate(merges)))}
    symbols = [vocabulary.ALPHABET[byte] for byte in text]
    while True:
        pairs = [ranks.get(pair, len(merges)) for pair in zip(symbols, symbols[1:], strict=False)]
        if not pairs or min(pairs) == len(merges):
            return symbols
        at = pairs.index(min(pairs))
        symbols[at : at + 2] = ["".join(symbols[at : at + 2])]


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("length", [5, 31, 32, 33, 70, 300])
def test_words_of_every_length_merge_as_defined(in_order, length):
    """Random merges over two letters: short and long words, both queues, against the definition."""
    rng = random.Random(length)
    for _ in range(30):
        tokens, merges = ["a", "b"], []
        while len(merges) < 24:
            left, right = rng.choice(tokens), rng.choice(tokens)
            if len(left + right) < 12 and f"{left} {right}" not in merges:
                merges.append(f"{left} {right}")
                tokens = list(dict.fromkeys([*tokens, left + right]))
        if not in_order:
            rng.shuffle(merges)
        else:  # what a merge makes is used by later ones only
            made: dict[str, str] = {}
            for merge in merges:
                made.setdefault(merge.replace(" ", ""), merge)
            merges = sorted(made.values(), key=len)
        spelled = [*vocabulary.BYTES, *(token for token in tokens if len(token) > 1)]
        loaded = tokenizer.load(vocabulary.metadata(spelled, merges))
        if in_order:
            assert loaded.vocabulary.in_order
        word = bytes(rng.choice(b"ab") for _ in range(length))
        assert [loaded.spelling(id) for id in loaded.encode(word)] == naive(word, merges)


def test_merges_out_of_order_are_noticed():
    tokens = [*vocabulary.BYTES, "ab", "abc"]
    assert tokenizer.load(vocabulary.metadata(tokens, ["a b", "ab c"])).vocabulary.in_order
    assert not tokenizer.load(vocabulary.metadata(tokens, ["ab c", "a b"])).vocabulary.in_order


TEXTS = {
    "one letter": lambda n: b"a" * n,
    "spaces": lambda n: b" " * n,
    "dashes": lambda n: b"-" * n,
    "digits": lambda n: b"7" * n,
    "letters": lambda n: bytes(random.Random(1).choices(b"abcdefghijklmnopqrstuvwxyz", k=n)),
    "CJK": lambda n: ("漢字仮名交文" * (n // 18 + 1)).encode()[: n // 3 * 3],
    "words": lambda n: (b"the quick brown fox. " * (n // 21 + 1))[:n],
    "bytes": lambda n: random.Random(1).randbytes(n),
    "newlines": lambda n: b"\n" * n,
    "control tokens": lambda n: b"<|im_start|>" * (n // 12),
    "almost control tokens": lambda n: b"<|im_star" * (n // 9),
}


@pytest.mark.parametrize("name", TEXTS)
def test_steps_are_linear_in_the_text(smollm2, name):
    steps = {}
    for n in (10_000, 1_000_000):
        data = TEXTS[name](n)
        steps[n] = smollm2.vocabulary.encode_counting(data, True)[1] / len(data)
    assert steps[1_000_000] < 16  # a byte; seen: 2 to 9
    assert steps[1_000_000] < steps[10_000] * 1.05


def test_a_lookup_ends_however_long_a_run_of_filled_places_is():
    """Merges of single bytes, picked so that each is near where its hash puts it and together they
    fill the first half of the table: a pair that is no merge must not be searched to its end."""
    n = 20_000
    slots = vocabulary.n_slots(n)
    homes = sorted(
        (vocabulary.slot_of(vocabulary.pair_hash(left, right), slots), left, right)
        for left in range(256)
        for right in range(256)
    )
    at, pairs = -1, []
    for home, left, right in homes:
        if len(pairs) < n and max(at + 1, home) - home < 500:
            at = max(at + 1, home)
            pairs.append((left, right))
    assert len(pairs) == n
    assert at < n + 500  # next to no place is free before that
    merges = [f"{vocabulary.BYTES[left]} {vocabulary.BYTES[right]}" for left, right in pairs]
    spelled = [*vocabulary.BYTES, *(merge.replace(" ", "") for merge in merges)]
    loaded = tokenizer.load(vocabulary.metadata(spelled, merges))
    text = bytes(random.Random(1).choices(b"abcdefghijklmnopqrstuvwxyz", k=20_000))
    ids, steps = loaded.vocabulary.encode_counting(text)
    assert loaded.decode(ids) == text
    assert steps < 1_000 * len(text)  # seen: 361


def test_control_tokens_are_found_only_on_request(smollm2):
    text = "<|im_start|>user<|im_end|>"
    assert smollm2.encode(text, special=True)[0] == smollm2.bos
    assert not any(smollm2.is_control(id) for id in smollm2.encode(text))
    assert smollm2.decode(smollm2.encode(text)).decode() == text
    assert smollm2.decode(smollm2.encode(text, special=True)) == b"user"
    assert smollm2.decode(smollm2.encode(text, special=True), special=True).decode() == text


def test_longer_special_tokens_win_wherever_they_are():
    special = {"<a>": 4, "<a><b>": 4, "b>x": 4, "<b>xy": 3}
    loaded = tokenizer.load(
        vocabulary.metadata([*vocabulary.BYTES, *special], [], special, pre="gpt-2")
    )

    def spellings(text, **how):
        return [loaded.spelling(id) for id in loaded.encode(text, **how)]

    assert spellings("<a><b>x") == ["<a><b>", "x"]
    assert spellings("<b>x") == ["<", "b>x"]
    assert spellings("<a><b>xy") == ["<a><b>", "x", "y"]
    assert spellings("<a>z<b>xy", special=True) == ["<a>", "z", "<b>xy"]
    assert spellings("<a>z<b>xy") == ["<a>", "z", "<", "b>x", "y"]


def cut_by_passes(text: bytes, specials: list[bytes], breaks: list[int]) -> list[bytes]:
    """Special tokens as they are defined: the longest first, each from left to right in what is
    left; what lies between comes out as single bytes."""
    starts: dict[int, bytes] = {}
    covered = [False] * len(text)
    for special in sorted(specials, key=lambda special: -len(special)):
        at = 0
        while (at := text.find(special, at)) >= 0:
            end = at + len(special)
            if any(covered[at:end]) or any(at < cut < end for cut in breaks):
                at += 1
                continue
            covered[at:end] = [True] * len(special)
            starts[at] = special
            at = end
    return [
        starts.get(at, text[at : at + 1])
        for at in range(len(text))
        if at in starts or not covered[at]
    ]


@pytest.mark.parametrize("letters", [b"ab", b"abc"])
def test_special_tokens_are_cut_out_as_passes_would(letters):
    rng = random.Random(len(letters))
    for _ in range(150):
        specials = {
            bytes(rng.choices(letters, k=rng.randrange(2, rng.choice([4, 8, 40]))))
            for _ in range(rng.randrange(1, 40))
        }
        specials |= {b"a" * n for n in range(2, rng.randrange(2, 30))}
        ordered = rng.sample(sorted(specials), len(specials))
        types = {special.decode(): rng.choice([3, 4]) for special in ordered}
        loaded = tokenizer.load(vocabulary.metadata([*vocabulary.BYTES, *types], [], types))
        text = b"".join(
            rng.choice([bytes(rng.choices(letters, k=9)), rng.choice(ordered), b"a" * 50])
            for _ in range(30)
        )
        breaks = sorted(rng.sample(range(len(text)), 3))
        for special in (False, True):
            usable = [s for s in ordered if special or types[s.decode()] == 4]
            ids = loaded.vocabulary.encode(text, special, breaks)
            got = [loaded.spelling(id).encode() for id in ids]
            assert got == cut_by_passes(text, usable, breaks)


MANY_SPECIALS = {
    "20,000 words": [f"<{n}>" for n in range(20_000)],
    "runs of a letter": ["a" * n for n in range(2, 1025)],
    "runs of a letter and one of another": [
        *("a" * n for n in range(2, 1025)),
        *("a" * n + "b" for n in range(1, 1024)),
    ],
}
HARD_TEXTS = {
    "words": lambda n: b"".join(b"<%d>" % (i * 7919 % 20_000) for i in range(n // 7)),
    "one letter": lambda n: b"a" * n,
    "runs": lambda n: b"".join(b"a" * (i * 7919 % 1500) + b"bc"[i % 2 :] for i in range(n // 750)),
}


@pytest.mark.parametrize("text", HARD_TEXTS)
@pytest.mark.parametrize("specials", MANY_SPECIALS)
def test_steps_of_special_tokens_do_not_grow_with_the_text(specials, text):
    types = dict.fromkeys(MANY_SPECIALS[specials], vocabulary.USER_DEFINED)
    loaded = tokenizer.load(vocabulary.metadata([*vocabulary.BYTES, *types], [], types))
    steps = {}
    for n in (20_000, 200_000):
        data = HARD_TEXTS[text](n)
        steps[n] = loaded.vocabulary.encode_counting(data)[1] / len(data)
    assert steps[200_000] < 1_000  # a byte; seen: 3 to 597
    assert steps[200_000] < steps[20_000] * 1.3


def test_no_special_token_is_found_across_a_break():
    loaded = small()
    end = loaded.vocabulary.find(b"<|end|>")
    assert loaded.encode("a<|end|>", special=True)[1:] == [end]
    for at in range(2, 8):
        ids = loaded.vocabulary.encode(b"a<|end|>", True, [at])
        assert end not in ids
        assert loaded.decode(ids) == b"a<|end|>"
    for at in (0, 1, 8):  # beside it, not inside
        assert end in loaded.vocabulary.encode(b"a<|end|>", True, [at])
    assert loaded.encode_marked("a<|e\ue000nd|>\ue000<|end|>", "\ue000").count(end) == 1


def test_whole_words_come_before_merges():
    spelled = [*vocabulary.BYTES, "ab", "cd", "abcd"]
    merges = ["a b", "c d"]
    loaded = [
        tokenizer.load(vocabulary.metadata(spelled, merges, pre=pre))
        for pre in ("dbrx", "llama-bpe")
    ]
    assert [len(one.encode("abcd")) for one in loaded] == [2, 1]


def test_default_pre_tokenizer_cuts_as_llama_cpp_does():
    r"""[\p{P}$+<=>^~|]+, then as gpt-2, then \p{N}+, then three digits: by what may still merge."""
    merges = ["a .", ". .", "1 2", "12 3", "123 4", "a 1", "Ġ 1", ". Ġ"]
    spelled = [*vocabulary.BYTES, *(merge.replace(" ", "") for merge in merges)]
    loaded = tokenizer.load(vocabulary.metadata(spelled, merges, pre="default"))

    def spellings(text):
        return [loaded.spelling(id) for id in loaded.encode(text)]

    assert spellings("a..") == ["a", ".."]
    assert spellings("1234") == ["123", "4"]
    assert spellings(" 1") == ["Ġ", "1"]


@pytest.mark.parametrize("name", vocabulary.hostile())
def test_hostile_vocabularies_are_refused(name):
    arguments, complaint = vocabulary.hostile()[name]
    with pytest.raises(FormatError) as refusal:
        vocabulary.build(arguments)
    assert complaint in str(refusal.value)


def test_padding_of_empty_tokens_is_accepted():
    tokens = vocabulary.region([*vocabulary.SMALL_TOKENS, "", ""])
    n = len(vocabulary.SMALL_TOKENS) + 2
    padded = vocabulary.build(vocabulary.packed(tokens=tokens, n_tokens=n, types=b""))
    assert padded.token_bytes(padded.n_tokens - 1) == b""


def test_types_take_their_bytes():
    with pytest.raises(FormatError, match="take 12 bytes, not 8"):
        vocabulary.build(vocabulary.packed(types=bytes(8), n_types=3))


@pytest.mark.parametrize("id", [-1, 10**6, 10**30, "the", None, 1.0])
def test_what_is_no_token_id_is_a_usage_error(id):
    loaded = small()
    for use in (loaded.token_bytes, loaded.spelling, loaded.is_control):
        with pytest.raises(UsageError, match="is no token id"):
            use(id)


def test_tables_are_a_fraction_of_the_vocabulary(smollm2):
    """What the plan counts: some 41 bytes a token."""
    assert isinstance(smollm2.vocabulary, core.Vocabulary)
    assert smollm2.vocabulary.nbytes < 42 * smollm2.n_tokens
