"""The keywords of ask, chat.ask and complete: what they take, and how they refuse."""

import inspect

import numpy as np
import pytest

import nybble
from nybble.errors import UsageError
from nybble.options import FILE_KEYS, Options, recommended

from .models import edited, speaking

WHOLE = {"max_tokens": (1, 2**31), "top_k": (0, 2**31), "seed": (0, 2**64 - 1)}
NUMBERS = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repeat_penalty": (0.01, 100.0),
    "timeout_s": (0.0, 1e9),
}


def test_every_option_is_tested_here():
    others = {"stop", "ignore_eos", "think"}
    assert {*WHOLE, *NUMBERS, *others} == set(inspect.signature(Options).parameters)
    assert set(Options.__slots__) == set(inspect.signature(Options).parameters)


def test_without_options_it_is_greedy():
    o = Options()
    assert (o.temperature, o.top_k, o.top_p, o.min_p, o.repeat_penalty) == (0, 0, 1, 0, 1)
    assert (o.seed, o.max_tokens, o.stop, o.timeout_s, o.ignore_eos) == (0, None, (), None, False)


@pytest.mark.parametrize(("name", "limits"), WHOLE.items())
def test_whole_numbers(name, limits):
    for value in (*limits, np.int64(5), np.uint8(7)):
        got = getattr(Options(**{name: value}), name)
        assert (got, type(got)) == (value, int)
    for bad in (limits[0] - 1, limits[1] + 1, np.int64(-1)):
        with pytest.raises(UsageError, match=f"^{name} must be .* to .*, not "):
            Options(**{name: bad})
    for bad in (True, 1.0, "1", [1], float("nan"), np.float32(1)):
        with pytest.raises(UsageError, match=f"^{name} must be a whole number, not "):
            Options(**{name: bad})


@pytest.mark.parametrize(("name", "limits"), NUMBERS.items())
def test_numbers(name, limits):
    for value in (*limits, 1, np.float32(0.5), np.int64(1)):
        got = getattr(Options(**{name: value}), name)
        assert (got, type(got)) == (value, float)
    nan = float("nan")
    for bad in (limits[0] - 0.01, limits[1] * 1.01, nan, float("inf"), -float("inf"), 10**400):
        with pytest.raises(UsageError, match=f"^{name} must be .* to .*, not "):
            Options(**{name: bad})
    for bad in (True, "0.5", b"1", [0.5], 1j):
        with pytest.raises(UsageError, match=f"^{name} must be a number, not "):
            Options(**{name: bad})


@pytest.mark.parametrize("name", [*WHOLE, *NUMBERS])
def test_none_is_for_limits_alone(name):
    if name in ("max_tokens", "timeout_s"):
        assert getattr(Options(**{name: None}), name) is None
    else:
        with pytest.raises(UsageError, match=f"^{name} must be a"):
            Options(**{name: None})


def test_stop_strings():
    assert Options(stop="x").stop == ("x",)
    assert Options(stop=["a", "b"]).stop == Options(stop=iter("ab")).stop == ("a", "b")
    assert Options(stop=[]).stop == ()
    for bad in ("", ["a", ""], [5], b"x", 5, [None]):
        with pytest.raises(UsageError, match="^stop must be"):
            Options(stop=bad)


@pytest.mark.parametrize("bad", [1, 0, "no", None])
def test_ignore_eos_is_true_or_false(bad):
    with pytest.raises(UsageError, match="^ignore_eos must be True or False"):
        Options(ignore_eos=bad)


def test_a_long_value_is_cut_in_the_text():
    with pytest.raises(UsageError) as caught:
        Options(temperature="x" * 10_000)
    assert len(str(caught.value)) < 120


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return speaking(tmp_path_factory.mktemp("model"), "Yes.")


def test_a_bad_option_is_refused_when_asking(path):
    model = nybble.load(path)
    for call in (model.ask, model.complete, model.chat().ask):
        with pytest.raises(UsageError, match="there is no option 'max_token'; .*max_tokens"):
            call("Hello", max_token=5)
        with pytest.raises(UsageError, match="^top_k must be a whole number, not '5'"):
            call("Hello", top_k="5")


# -- what a file recommends: general.sampling.*

FILE = {"temp": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "penalty_repeat": 1.1}


def test_a_file_recommends():
    metadata = {f"general.sampling.{key}": value for key, value in FILE.items()}
    found = recommended(metadata)
    assert found == {option: FILE[key] for option, key in FILE_KEYS.items()}
    assert recommended({}) == {}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1, "0.5", True, None, [1], 1e9])
@pytest.mark.parametrize("key", FILE)
def test_a_bad_recommendation_is_left_out(key, bad):
    metadata = {f"general.sampling.{k}": v for k, v in {**FILE, key: bad}.items()}
    assert len(recommended(metadata)) == len(FILE) - 1


def test_the_request_outweighs_the_file(tmp_path):
    """The file wants it hot; a request for the likeliest token is obeyed."""
    source = speaking(tmp_path, "Yes.")
    model = nybble.load(edited(source, tmp_path / "hot.gguf", {"general.sampling.temp": 100.0}))
    assert model.complete("\n", temperature=0).text == "Yes."
    texts = {model.complete("\n", seed=seed, max_tokens=8).text for seed in range(5)}
    assert len(texts) > 1


def test_a_file_with_bad_recommendations_can_be_asked(tmp_path):
    source = speaking(tmp_path, "Yes.")
    bad = {"general.sampling.temp": float("nan"), "general.sampling.top_k": "many"}
    model = nybble.load(edited(source, tmp_path / "bad.gguf", bad))
    assert model.ask("Hello").text == "Yes."
