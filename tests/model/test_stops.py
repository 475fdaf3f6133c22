"""Stop strings: found wherever tokens end, no part of one shown, as many as one likes."""

import random
import time

import pytest

import nybble
from nybble.stops import StopSearch

from .models import edited, speaking

TEXT = "Gehn wir,é世🙂!"  # no byte comes twice; a token a byte


def expected(text, stops):
    """The text up to the string that is complete first, of those the longest; None if none is."""
    for end in range(1, len(text) + 1):
        starts = [end - len(s) for s in stops if text.endswith(s, 0, end)]
        if starts:
            return text[: min(starts)]
    return None


def search(pieces, stops):
    """(what was shown, whether one was found), checking that nothing is shown too soon."""
    text = "".join(pieces)
    cut = expected(text, stops)
    searching, shown, seen = StopSearch(stops), "", ""
    for piece in pieces:
        seen += piece
        shown += searching.push(piece)
        assert (text if cut is None else cut).startswith(shown)
        if searching.found:
            break
        held = seen[len(shown) :]
        assert not held or any(s.startswith(held) for s in stops), "held without a reason"
    return shown + searching.flush(), searching.found


def cut_up(rng, text):
    """The text in pieces of one to five characters."""
    pieces = []
    while text:
        n = rng.randint(1, 5)
        pieces.append(text[:n])
        text = text[n:]
    return pieces


def test_against_a_plain_search():
    """Few letters, so that strings overlap, begin within each other and hold each other."""
    rng = random.Random(1)
    found = 0
    for _ in range(4000):
        letters = rng.choice(("ab", "abc", "aé世🙂"))
        text = "".join(rng.choices(letters, k=rng.randint(0, 30)))
        stops = [
            "".join(rng.choices(letters, k=rng.randint(1, 7))) for _ in range(rng.randint(1, 6))
        ]
        cut = expected(text, stops)
        shown, was_found = search(cut_up(rng, text), stops)
        assert (shown, was_found) == ((text, False) if cut is None else (cut, True))
        found += was_found
    assert 1000 < found < 3900


def test_the_pieces_do_not_matter():
    stops = ["bcd", "abcde", "de"]
    for pieces in (["abcdef"], list("abcdef"), ["abc", "def"], ["", "ab", "", "cdef"]):
        searching = StopSearch(stops)
        assert "".join(map(searching.push, pieces)) == "a"
        assert searching.found


def test_a_million_strings_cost_no_more_than_one():
    """The sort is done once; after it a character takes two look-ups. A search for each string
    would take a million times ten thousand steps."""
    stops = [f"stop {i:07d}" for i in range(1_000_000)]
    text = "stop and go, stop 12 and " * 400
    started = time.process_time()
    searching = StopSearch(stops)
    sorted_at = time.process_time()
    shown = "".join(map(searching.push, text))
    assert not searching.found
    assert text.startswith(shown)
    assert time.process_time() - sorted_at < 2
    assert shown + searching.push("stop 0999999 and more") + searching.flush() == text
    assert searching.found
    assert sorted_at - started < 30


def test_a_string_of_its_own_beginnings_is_not_quadratic():
    """A text that begins the string at each of its characters, again and again."""
    long = "a" * 2000 + "b"
    started = time.process_time()
    searching = StopSearch([long])
    shown = "".join(map(searching.push, "a" * 20_000))
    assert len(shown) == 18_000
    assert searching.push("b") == ""
    assert searching.found
    assert time.process_time() - started < 10


# -- in replies


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return speaking(tmp_path_factory.mktemp("model"), TEXT)


def test_every_part_of_the_text_may_be_a_stop_string(path):
    """Across tokens, and tokens that are parts of characters."""
    model = nybble.load(path)
    for begin in range(len(TEXT)):
        for end in range(begin + 1, len(TEXT) + 1):
            shown = ""
            for piece in (
                reply := model.ask("Hello", stop=["never", TEXT[begin:end], "Gehn wirr"])
            ):
                shown += piece
                assert TEXT[:begin].startswith(shown)
            assert (shown, reply.stats.stop_reason) == (TEXT[:begin], "stop")


def test_a_million_stop_strings_may_be_given(path):
    model = nybble.load(path)
    reply = model.ask("Hello", stop=[f"n{i}" for i in range(1_000_000)])
    assert reply.text == TEXT
    assert model.ask("Hello", stop=[*(f"n{i}" for i in range(1000)), "n w"]).text == "Geh"


def test_half_a_stop_string_is_let_go_when_the_reply_ends_otherwise(path):
    model = nybble.load(path)
    for options, text, reason in (
        ({"max_tokens": 7}, "Gehn wi", "length"),
        ({"stop": "wir,é世🙂!!"}, TEXT, "end"),
    ):
        reply = model.ask("Hello", **{"stop": "wirt", **options})
        assert (reply.text, reply.stats.stop_reason) == (text, reason)


@pytest.mark.parametrize("name", ["eos", "eot", "eom"])
def test_each_end_token_of_the_file_ends_a_reply(path, tmp_path, name):
    """The token of the letter w, if the file calls it one."""
    file = edited(path, tmp_path / "ends.gguf", {f"tokenizer.ggml.{name}_token_id": 3 + ord("w")})
    model = nybble.load(file)
    reply = model.ask("Hello")
    assert (reply.text, reply.stats.stop_reason, reply.stats.tokens) == ("Gehn ", "end", 5)
    assert model.ask("Hello", ignore_eos=True, max_tokens=8).text == "Gehn wir"
