"""SHA-256, or an error where there is no memory for it.

hashlib itself prints a traceback, by way of logging, for each of its algorithms whose module cannot
be loaded, and goes on without. So these are loaded before it, and what that raises ends the import.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

for _name in ("_md5", "_sha1", "_sha2", "_sha256", "_sha512", "_sha3", "_blake2"):
    with suppress(ModuleNotFoundError):  # another version's, or what a system's Python lacks
        import_module(_name)

from hashlib import sha256  # noqa: E402

__all__ = ["sha256"]
