"""The byte-pair encoder under AddressSanitizer and UBSan, with no Python in the process."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "tokenizer"))

import vocabulary

ROOT = Path(__file__).parents[2]
CC = os.environ.get("CC", "gcc")
pytestmark = pytest.mark.skipif(
    shutil.which(CC) is None, reason=f"no C compiler {CC!r}: install gcc, or set CC"
)
SOURCES = ["nyb_bpe", "nyb_bpe_encode", "nyb_pretokenize", "nyb_unicode", "nyb_unicode_data"]
TEXT = "the lower 漢字 <|end|> <|x|> it's 1234 ½\n\n  \t".encode() + b"\xff\xe6\xbc" + b"a" * 70


@pytest.fixture(scope="module")
def encode(tmp_path_factory):
    """Runs encode_bpe, built with sanitizers that abort; returns its lines of output."""
    program = tmp_path_factory.mktemp("encode_bpe") / "encode_bpe"
    engine = ROOT / "runtime/engine"
    subprocess.run(
        [CC, "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
        + ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
        + ["-I", engine, "-o", program, ROOT / "tests/engine/encode_bpe.c"]
        + [engine / f"{name}.c" for name in SOURCES],
        check=True,
    )

    def encode(*arguments):
        done = subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return encode


def sample(arguments, text=TEXT):
    """The arguments of `Bpe` and a text as encode_bpe reads them."""
    tokens, n_tokens, merges, n_merges, types, n_types, pre, whole_words = arguments
    head = (n_tokens, len(tokens), n_merges, len(merges), n_types, pre, whole_words, len(text))
    return struct.pack("<8Q", *head) + tokens + merges + types + text


OUT_OF_ORDER = vocabulary.packed(merges=vocabulary.region(vocabulary.SMALL_MERGES[::-1]))


@pytest.mark.parametrize("pre", [0, 1, 2])
@pytest.mark.parametrize("whole_words", [0, 1])
def test_c_and_python_give_the_same_ids(encode, tmp_path, pre, whole_words):
    arguments = vocabulary.packed(pre=pre, whole_words=whole_words)
    rng = random.Random(pre)
    texts = [b"", b"a", TEXT, *(rng.randbytes(n) for n in (1, 2, 3, 31, 32, 33, 100, 999))]
    for n, text in enumerate(texts):
        (tmp_path / str(n)).write_bytes(sample(arguments, text))
    lines = encode(*(tmp_path / str(n) for n in range(len(texts))))
    bpe = vocabulary.bpe(*arguments)
    for text, line in zip(texts, lines, strict=True):
        ids = [int(word) for word in line.split(" ends ")[0].split()[1:]]
        assert ids == bpe.encode(text)


def test_hostile_vocabularies_are_refused(encode, tmp_path):
    cases = vocabulary.hostile()
    for n, (arguments, _) in enumerate(cases.values()):
        (tmp_path / str(n)).write_bytes(sample(arguments))
    lines = encode(*(tmp_path / str(n) for n in range(len(cases))))
    for (name, (_, complaint)), line in zip(cases.items(), lines, strict=True):
        assert line.startswith("error: "), f"{name}: {line}"
        assert complaint in line, f"{name}: {line}"


def test_regions_cut_anywhere_are_refused(encode, tmp_path):
    arguments = vocabulary.packed()
    (tmp_path / "small").write_bytes(sample(arguments))
    assert encode("--cut", tmp_path / "small") == [
        f"accepted 0 of {len(arguments[0]) + len(arguments[2])}"
    ]


@pytest.mark.parametrize("arguments", [vocabulary.packed(), OUT_OF_ORDER], ids=["in", "out of"])
def test_random_bytes_lead_nowhere(encode, tmp_path, arguments):
    """Some flips hit text or types and are accepted, most hit a string: both are exercised."""
    (tmp_path / "small").write_bytes(sample(arguments))
    (line,) = encode("--flip", 1, 5_000, tmp_path / "small")
    accepted = int(line.split()[1])
    assert line.endswith(" of 5000")
    assert 0 < accepted < 5_000
