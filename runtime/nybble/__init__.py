"""Small language models, quantized to about four bits, on small computers.

import nybble
model = nybble.load("smollm2-135m")
for text in model.ask("Why do geese fly in a V?", max_tokens=200):
    print(text, end="", flush=True)

ARITHMETIC is the version of the arithmetic: as long as it is the same, the same request gives the
same tokens, on every machine.
"""

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
    "load",
]

__version__ = "0.1.0"
