"""SHA-256, or an error where there is no memory for it.

hashlib itself prints a traceback, by way of logging, for each of its algorithms whose module cannot
be loaded, and goes on without. So these are loaded before it, and what that raises ends the import.
"""

from __future__ import annotations

from importlib import import_module

from nybble.__main__ import lacks_memory

for _name in ("_md5", "_sha1", "_sha2", "_sha256", "_sha512", "_sha3", "_blake2"):
    try:
        import_module(_name)
    except ImportError as error:
        if lacks_memory(error):  # else it is another version's, or what a system's Python lacks
            raise

from hashlib import sha256  # noqa: E402

__all__ = ["sha256"]
