"""How a reply is to be made: the keywords of `ask`, `chat.ask` and `complete`, checked."""

from __future__ import annotations

from _operator import index
from collections.abc import Iterable, Mapping

from nybble.errors import UsageError

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    from typing import TypedDict

    class AskOptions(TypedDict, total=False):
        """The keywords of `ask`, `chat.ask` and `complete`; `Model.ask` says what they mean."""

        max_tokens: int | None
        temperature: float
        top_k: int
        top_p: float
        min_p: float
        repeat_penalty: float
        seed: int
        stop: str | Iterable[str] | None
        timeout_s: float | None
        ignore_eos: bool
        think: bool | None


# Where a file may recommend a value: general.sampling.<key>
FILE_KEYS = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "penalty_repeat",
}


MAX_STOPS = 1 << 21  # stop strings, and
MAX_STOP_CHARACTERS = 1 << 26  # their characters: what never ends would take all memory
NO_NUMBER = (TypeError, ValueError, ArithmeticError)  # what a type's own __index__ may raise
SHOWN = 60  # characters of a value in an error
# What `load` takes for kv=
KV = ("f16", "v8", "int8", "auto")
# and for overflow=
OVERFLOW = ("error", "shift")
# and for on_exceed=
ON_EXCEED = ("refuse", "adapt")


class Options:
    """The checked options of one reply: `Model.ask` says what they mean. UsageError for a wrong
    type or a number out of range."""

    __slots__ = (
        "ignore_eos",
        "max_tokens",
        "min_p",
        "repeat_penalty",
        "seed",
        "stop",
        "temperature",
        "think",
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
        think: bool | None = None,
    ) -> None:
        self.max_tokens = None if max_tokens is None else whole("max_tokens", max_tokens, 1, 2**31)
        self.temperature = _number("temperature", temperature, 0.0, 100.0)
        self.top_k = whole("top_k", top_k, 0, 2**31)
        self.top_p = _number("top_p", top_p, 0.0, 1.0)
        self.min_p = _number("min_p", min_p, 0.0, 1.0)
        self.repeat_penalty = _number("repeat_penalty", repeat_penalty, 0.01, 100.0)
        self.seed = whole("seed", seed, 0, 2**64 - 1)
        self.stop = _strings("stop", stop)
        self.timeout_s = None if timeout_s is None else _number("timeout_s", timeout_s, 0.0, 1e9)
        self.ignore_eos = flag("ignore_eos", ignore_eos)
        if think is not None and not isinstance(think, bool):
            raise UsageError(f"think must be True, False or None, not {shown(think)}")
        self.think = think


def checked(recommended: Mapping[str, object], options: Mapping[str, object]) -> Options:
    """Options from keywords, with a file's recommendations for those that are not given."""
    for name in options:
        if name not in Options.__slots__:
            raise UsageError(
                f"there is no option {shown(name)}; the options are {', '.join(Options.__slots__)}"
            )
    return Options(**{**recommended, **options})  # type: ignore[arg-type]


def recommended(metadata: Mapping[str, object]) -> dict[str, object]:
    """The defaults that a file recommends, as keywords of Options. What is no number or out of its
    range is left out: a bad recommendation is no reason not to run the model."""
    found: dict[str, object] = {}
    for option, key in FILE_KEYS.items():
        value = metadata.get(f"general.sampling.{key}")
        try:
            Options(**{option: value})  # type: ignore[arg-type]
        except UsageError:
            continue
        found[option] = value
    return found


def whole(name: str, value: object, least: int, most: int) -> int:
    """A whole number of any type, NumPy's among them, from `least` to `most`."""
    try:
        number = index(value)  # type: ignore[arg-type]
    except NO_NUMBER:
        number = None
    if number is None or isinstance(value, bool):
        raise UsageError(f"{name} must be a whole number, not {shown(value)}")
    if not least <= number <= most:
        raise UsageError(f"{name} must be {least:,} to {most:,}, not {shown(value)}")
    return number


def flag(name: str, value: object) -> bool:
    """True or False, and nothing that is taken for one of them."""
    if not isinstance(value, bool):
        raise UsageError(f"{name} must be True or False, not {shown(value)}")
    return value


def _number(name: str, value: object, least: float, most: float) -> float:
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise UsageError(f"{name} must be a number, not {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    except NO_NUMBER:  # some types have the method and no use for it
        number = float("nan")
    if not least <= number <= most:  # NaN is not
        raise UsageError(f"{name} must be {least:g} to {most:g}, not {shown(value)}")
    return number


def _strings(name: str, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, Iterable):
        raise UsageError(f"{name} must be a string or strings, not {shown(value)}")
    out: list[str] = []
    size = 0
    for s in strings:
        if not isinstance(s, str) or not s:
            raise UsageError(f"{name} must be strings that are not empty, not {shown(s)}")
        size += len(s)
        if len(out) == MAX_STOPS or size > MAX_STOP_CHARACTERS:
            raise UsageError(
                f"{name} must be at most {MAX_STOPS:,} strings, of {MAX_STOP_CHARACTERS:,} "
                "characters"
            )
        out.append(s)
    return tuple(out)


def shown(value: object) -> str:
    """A value in an error: as it is written, if it can be, and cut."""
    try:
        return repr(value)[:SHOWN]
    except Exception:  # of a number of very many digits, or a type's own
        return f"a {type(value).__name__:.{SHOWN}}"
