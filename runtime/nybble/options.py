"""How a reply is to be made: the keywords of `ask`, `chat.ask` and `complete`, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nybble.errors import UsageError

# Where a file may recommend a value: general.sampling.<key>
FILE_KEYS = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "penalty_repeat",
}


class Options:
    """The checked options of one reply. UsageError for a wrong type or a number out of range.

    max_tokens     : end after so many tokens; None is up to the context
    temperature    : 0 (the default) is greedy: always the likeliest token
    top_k          : draw from the k likeliest tokens; 0 from all
    top_p          : draw from the fewest tokens whose probabilities reach this; 1 from all
    min_p          : draw from tokens at least this share as likely as the likeliest; 0 from all
    repeat_penalty : divide the logits of the last 64 tokens by this; 1 changes nothing
    seed           : of the random numbers; the same seed gives the same tokens everywhere
    stop           : a string or strings that end the reply and are not part of it
    timeout_s      : end at the next token after so many seconds
    ignore_eos     : go on when the model would end
    """

    __slots__ = (
        "ignore_eos",
        "max_tokens",
        "min_p",
        "repeat_penalty",
        "seed",
        "stop",
        "temperature",
        "timeout_s",
        "top_k",
        "top_p",
    )

    def __init__(
        self,
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repeat_penalty: float = 1.0,
        seed: int = 0,
        stop: str | Iterable[str] | None = None,
        timeout_s: float | None = None,
        ignore_eos: bool = False,
    ) -> None:
        self.max_tokens = None if max_tokens is None else _whole("max_tokens", max_tokens, 1, 2**31)
        self.temperature = _number("temperature", temperature, 0.0, 100.0)
        self.top_k = _whole("top_k", top_k, 0, 2**31)
        self.top_p = _number("top_p", top_p, 0.0, 1.0)
        self.min_p = _number("min_p", min_p, 0.0, 1.0)
        self.repeat_penalty = _number("repeat_penalty", repeat_penalty, 0.01, 100.0)
        self.seed = _whole("seed", seed, 0, 2**64 - 1)
        self.stop = _strings("stop", stop)
        self.timeout_s = None if timeout_s is None else _number("timeout_s", timeout_s, 0.0, 1e9)
        self.ignore_eos = bool(ignore_eos)


def recommended(metadata: Mapping[str, object]) -> dict[str, object]:
    """The defaults that a file recommends, as keywords of Options; others are left out."""
    found: dict[str, object] = {}
    for option, key in FILE_KEYS.items():
        value = metadata.get(f"general.sampling.{key}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[option] = value
    return found


def _whole(name: str, value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{name} must be a whole number, not {value!r:.60}")
    if not least <= value <= most:
        raise UsageError(f"{name} must be {least:,} to {most:,}, not {value!r:.60}")
    return value


def _number(name: str, value: object, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{name} must be a number, not {value!r:.60}")
    if not least <= value <= most:  # NaN is not
        raise UsageError(f"{name} must be {least:g} to {most:g}, not {value!r:.60}")
    return float(value)


def _strings(name: str, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, Iterable):
        raise UsageError(f"{name} must be a string or strings, not {value!r:.60}")
    out = []
    for s in strings:
        if not isinstance(s, str) or not s:
            raise UsageError(f"{name} must be strings that are not empty, not {s!r:.60}")
        out.append(s)
    return tuple(out)
