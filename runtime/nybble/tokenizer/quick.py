"""The quick way to render a chat template: minijinja, for templates that are known to come out the
same as in jinja2.

jinja2's text is the contract, and its import is most of the time to a first prompt on a small
board: docs/python.md, "What a first prompt costs". minijinja reads nearly the same language, and
nearly is not enough. So it is asked only

  * where it is installed: there are no wheels of it for some machines
  * for a template whose text `nybble.tokenizer.same_templates` lists: tools/make_same_templates.py
    has rendered it in both engines with thousands of conversations
  * for conversations like those: text only, no tools, none of the four characters that Python takes
    for white space and Unicode does not

All else, and whatever minijinja refuses, is jinja2's. A template that is listed is not hostile, so
no budget is needed here but minijinja's own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from importlib import import_module

from nybble.tokenizer.same_templates import SAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import minijinja

# What a message may hold. (jinja2 finds a dict's method before its key: `items` is not among them.)
KEYS = frozenset(("role", "content", "name", "reasoning_content", "thinking"))
NOT_SPACE_IN_UNICODE = "\x1c\x1d\x1e\x1f"
FUEL = 1_000_000  # instructions of one rendering
MACHINES = ("x86_64", "aarch64", "armv7")  # ISAs of boards that have wheels of it (pyproject.toml)
NAME = "chat template"


def digest(source: str) -> str:
    """What `SAME` knows a template by. A line feed at its end makes no difference in either."""
    text = source.removesuffix("\n").encode("utf-8", "surrogatepass")
    return str(_sha256(text).hexdigest())[:32]


def _sha256(data: bytes) -> Any:
    # hashlib's comes with OpenSSL, whose loading costs more than all the rest here; CPython has
    # another one, in a module that was renamed in 3.12.
    for name in ("_sha2", "_sha256"):
        try:
            return import_module(name).sha256(data)
        except ImportError as error:
            from nybble.__main__ import lacks_memory

            if lacks_memory(error):
                raise
    return import_module("nybble.hashing").sha256(data)


def is_known(source: str) -> bool:
    """Whether minijinja is known to make the same text of this template."""
    return digest(source) in SAME


def is_there() -> bool:
    """Whether minijinja is installed; it is not loaded for that."""
    if "minijinja" in sys.modules:
        return sys.modules["minijinja"] is not None
    return any(finder.find_spec("minijinja", None) for finder in sys.meta_path)


def engine(source: str) -> minijinja.Environment | None:
    """minijinja with the template compiled, if it is there and the template is known."""
    if not is_known(source):
        return None
    try:
        return compiled(source)
    except Exception:  # not there, or another minijinja than was compared
        return None


def compiled(source: str) -> minijinja.Environment:
    """minijinja, made like the environment of transformers; ImportError, minijinja's errors."""
    import minijinja

    environment = minijinja.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined_behavior="lenient", pycompat=True
    )
    environment.auto_escape_callback = _no_escapes
    environment.fuel = FUEL
    environment.add_filter("tojson", _tojson)
    environment.add_global("raise_exception", _raise_exception)
    environment.add_global("strftime_now", time.strftime)
    environment.add_template(NAME, source)
    return environment


def render(environment: minijinja.Environment, context: dict[str, Any]) -> str | None:
    """The text of a conversation; None if jinja2 is to make it."""
    if not is_plain(context):
        return None
    try:
        return environment.render_template(NAME, **context)
    except Exception:  # jinja2 has the last word on what is an error, and says where
        return None


def is_plain(context: Mapping[str, Any]) -> bool:
    """Whether a conversation is like those that were compared."""
    for name, value in context.items():
        if name == "messages":
            for message in value:
                if not KEYS.issuperset(message) or not all(map(_is_text, message.values())):
                    return False
        elif not (value is None or isinstance(value, bool) or _is_text(value)):
            return False
    return True


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not any(c in value for c in NOT_SPACE_IN_UNICODE)


def _no_escapes(_: str) -> bool:
    return False


def _tojson(value: object) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)


def _raise_exception(message: str = "") -> None:
    raise ValueError(message)
