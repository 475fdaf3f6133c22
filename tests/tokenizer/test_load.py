"""Loading from metadata, and what a Tokenizer says of itself; streaming."""

from __future__ import annotations

import pytest
import vocabulary

from nybble import tokenizer
from nybble.errors import FormatError, UsageError
from nybble.formats.gguf import GgufFile


def small(**more):
    return vocabulary.metadata(
        vocabulary.SMALL_TOKENS, vocabulary.SMALL_MERGES, vocabulary.SMALL_TYPES, **more
    )


def test_smollm2_is_what_its_file_says(smollm2_path):
    loaded = tokenizer.load(GgufFile(smollm2_path).metadata)
    assert loaded.n_tokens == 49152
    assert (loaded.bos, loaded.eos, loaded.add_bos) == (1, 2, False)
    ends = {loaded.spelling(id) for id in loaded.end_ids}
    assert ends == {"<|endoftext|>", "<|im_end|>", "<reponame>"}
    assert loaded.spelling(loaded.bos) == "<|im_start|>"
    assert loaded.token_bytes(loaded.encode(" the")[0]) == b" the"
    assert loaded.spelling(loaded.encode(" the")[0]) == "Ġthe"
    assert loaded.is_control(2)
    assert not loaded.is_control(100)


def test_unknown_kinds_are_refused_by_name():
    with pytest.raises(FormatError, match=r"kind 'bert'; known here: gpt2, llama, gemma4"):
        tokenizer.load({**small(), "tokenizer.ggml.model": "bert"})
    with pytest.raises(FormatError, match="kind None"):
        tokenizer.load({})
    with pytest.raises(FormatError, match="'tekken', which is none of the"):
        tokenizer.load(small(pre="tekken"))
    with pytest.raises(FormatError, match="pre-tokenizer is 5"):
        tokenizer.load(small(pre=5))


def test_arrays_must_be_there_and_of_their_type():
    for key in ("tokens", "merges"):
        metadata = small()
        del metadata[f"tokenizer.ggml.{key}"]
        with pytest.raises(FormatError, match=f"no tokenizer.ggml.{key}"):
            tokenizer.load(metadata)
        metadata[f"tokenizer.ggml.{key}"] = 7
        with pytest.raises(FormatError, match="array of string, the file has int"):
            tokenizer.load(metadata)
    metadata = small()
    metadata["tokenizer.ggml.token_type"] = metadata["tokenizer.ggml.tokens"]
    with pytest.raises(FormatError, match="array of int32, the file has string"):
        tokenizer.load(metadata)


def test_bos_is_added_on_request_and_if_there_is_one():
    with_bos = tokenizer.load(small(bos_token_id=265, add_bos_token=True))
    assert with_bos.add_bos
    assert with_bos.encode("a", add_bos=True) == [265, *with_bos.encode("a")]
    without = tokenizer.load(small(add_bos_token=True))
    assert not without.add_bos
    assert without.encode("a", add_bos=True) == without.encode("a")


def test_ids_and_flags_are_what_they_should_be():
    loaded = tokenizer.load(small(bos_token_id=2**32 - 1, eos_token_id=-1))
    assert (loaded.bos, loaded.eos) == (None, None)
    for bad in (10**6, len(vocabulary.SMALL_TOKENS), -2, "1", 1.0, True):
        for name in ("bos", "eos", "eot", "eom"):
            with pytest.raises(FormatError, match=f"{name}_token_id is .*; (it should|the vocab)"):
                tokenizer.load(small(**{f"{name}_token_id": bad}))
    for bad in (0, 1, "true", None):
        with pytest.raises(FormatError, match=r"add_bos_token is .*; it should be true or false"):
            tokenizer.load(small(add_bos_token=bad))


def test_end_tokens_are_those_of_the_keys_and_of_the_spellings():
    spelled = [*vocabulary.BYTES, "<|eot_id|>", "<end_of_turn>", "stop", "halt", "quit"]
    loaded = tokenizer.load(
        vocabulary.metadata(spelled, [], eos_token_id=258, eot_token_id=259, eom_token_id=260)
    )
    assert loaded.end_ids == {256, 257, 258, 259, 260}
    assert loaded.is_control(256)  # by its spelling, though the file says NORMAL
    assert not loaded.is_control(258)


def test_text_is_str_or_bytes():
    loaded = tokenizer.load(small())
    assert loaded.encode("the") == loaded.encode(b"the")
    with pytest.raises(UsageError, match="str or bytes, not int"):
        loaded.encode(5)


def test_a_stream_never_splits_a_character():
    loaded = tokenizer.load(small())
    text = "naïve 漢字 🚀 the"
    stream = loaded.text_stream()
    pieces = [stream.push([id]) for id in loaded.encode(text)]
    assert "" in pieces
    assert "".join(pieces) == text
    assert stream.flush() == ""


def test_a_stream_replaces_what_is_cut_off_or_wrong():
    loaded = tokenizer.load(small())
    for data in (b"a\xe6\xbc", b"\xff", b"\xf0\x9f\x9aab", b"\xed\xa0\x80", b"\xe6\xe6\xbc\xa2"):
        stream = loaded.text_stream()
        pieces = [stream.push([id]) for id in loaded.encode(data)]
        assert "".join([*pieces, stream.flush()]) == data.decode("utf-8", "replace")


def test_a_stream_leaves_control_tokens_out_unless_asked():
    loaded = tokenizer.load(small())
    ids = loaded.encode("a<|end|>b", special=True)
    assert loaded.text_stream().push(ids) == "ab"
    assert loaded.text_stream(special=True).push(ids) == "a<|end|>b"
