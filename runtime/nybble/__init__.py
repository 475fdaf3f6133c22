"""Small language models, quantized to about four bits, on small computers.

import nybble
model = nybble.load("smollm2-135m")
for text in model.ask("Why do geese fly in a V?", max_tokens=200):
    print(text, end="", flush=True)
"""

from nybble.chat import Chat
from nybble.errors import NybbleError
from nybble.model import Model, load
from nybble.reply import Reply, Stats

__all__ = ["Chat", "Model", "NybbleError", "Reply", "Stats", "__version__", "load"]

__version__ = "0.1.0"
