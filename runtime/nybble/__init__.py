"""Small language models, quantized to about four bits, on small computers.

import nybble
model = nybble.load("smollm2-135m")
for text in model.ask("Why do geese fly in a V?", max_tokens=200):
    print(text, end="", flush=True)

ARITHMETIC is the version of the arithmetic: as long as it is the same, the same request gives the
same tokens, on every machine.

What is named here is imported when it is first used: a command that needs no model loads none of
it, and Ctrl-C during its imports finds `nybble.__main__` ready.
"""

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    from nybble import errors
    from nybble._core.native import ARITHMETIC
    from nybble.chat import Chat
    from nybble.errors import NybbleError
    from nybble.model import Model, load
    from nybble.reply import Reply, Stats

__all__ = [
    "ARITHMETIC",
    "Chat",
    "Model",
    "NybbleError",
    "Reply",
    "Stats",
    "__version__",
    "errors",
    "load",
]

__version__ = "0.1.0"

_PLACES = {
    "ARITHMETIC": "_core.native",
    "Chat": "chat",
    "Model": "model",
    "NybbleError": "errors",
    "Reply": "reply",
    "Stats": "reply",
    "load": "model",
}

if not TYPE_CHECKING:  # to whom it would say that any name is there

    def __getattr__(name: str) -> object:
        if name == "errors":
            return __import__("nybble.errors", fromlist=("errors",))
        if name not in _PLACES:
            raise AttributeError(f"module 'nybble' has no attribute {name!r}")
        # As importlib's import_module, which is slow to import itself.
        value = getattr(__import__(f"nybble.{_PLACES[name]}", fromlist=(name,)), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
