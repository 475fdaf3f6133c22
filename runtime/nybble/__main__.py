"""The script `nybble`, and `python -m nybble` where no script is on the PATH.

It imports next to nothing itself: most of a short command's time goes into imports, and whatever
stops those, Ctrl-C or a lack of memory, must not end in a traceback.
"""

import _signal  # type: ignore[import-not-found]  # the interpreter's own: no import to pay for
import errno
import os
import sys

_DOES_NOT_FIT, _CANNOT_RUN = 3, 5  # exit codes: those of BudgetError and CpuError
_OUT_OF_MEMORY = b"nybble: there is not enough memory\n"
# What the loader of libraries, Python's threads and its imports say where there is no memory.
_NO_MEMORY = (
    "memory",
    "failed to map segment",
    "can't start new thread",
    "without exception set",
    "without setting an exception",
)


def main() -> int:
    """Run the command line; returns its exit code."""
    # Python's own handler would raise KeyboardInterrupt inside of an import. Without it the signal
    # ends the process at once, as it does later on (nybble.cli).
    hears = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
    if hears:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    try:
        from nybble.cli import main as run
    except (ImportError, MemoryError, OSError, RuntimeError, SystemError) as error:
        return _cannot_begin(error)
    try:
        if hears:
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        return run()
    except MemoryError:  # to tell of the first one takes memory, too
        return out_of_memory()
    except KeyboardInterrupt:  # between this line and those of `run` that catch it
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        _signal.raise_signal(_signal.SIGINT)
        raise
    finally:
        if hears:  # the interpreter's end is as quiet
            _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def lacks_memory(error: Exception) -> bool:
    """Whether an error comes from a lack of memory, or of address space."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return any(words in str(error) for words in _NO_MEMORY)


def out_of_memory() -> int:
    """Say so with nothing that is yet to be made."""
    try:
        os.write(2, _OUT_OF_MEMORY)
    except OSError:  # nobody can be told
        pass
    return _DOES_NOT_FIT


def _cannot_begin(error: Exception) -> int:
    if lacks_memory(error):
        try:
            print("nybble: there is not enough memory to begin", file=sys.stderr)
        except MemoryError:
            return out_of_memory()
        return _DOES_NOT_FIT
    print(f"nybble: it is not installed so that it can run here: {error}", file=sys.stderr)
    return _CANNOT_RUN


if __name__ == "__main__":
    sys.exit(main())
