"""The script `nybble`, and `python -m nybble` where no script is on the PATH.

It imports next to nothing itself: most of a short command's time goes into imports, and whatever
stops those, Ctrl-C or a lack of memory, must not end in a traceback.
"""

import _signal  # type: ignore[import-not-found]  # the interpreter's own: no import to pay for
import errno
import os
import sys

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    import types
    from typing import NoReturn

INTERRUPTED = 130
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
    # ends the process at once, as `die_of_interrupt` does later on.
    hears = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
    if hears:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    try:
        from nybble.cli import main as run
    except (ImportError, MemoryError, OSError, RuntimeError, SystemError) as error:
        return _cannot_begin(error)
    try:
        if hears:
            sys.unraisablehook = _end_if_interrupted
            _signal.signal(_signal.SIGINT, _interrupt)
        return run()
    except MemoryError:  # to tell of the first one takes memory, too
        return out_of_memory()
    except KeyboardInterrupt:  # between this line and those of `run` that catch it
        die_of_interrupt()
    finally:
        if hears:  # the interpreter's end is as quiet
            _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def die_of_interrupt() -> "NoReturn":
    """End as a process that Ctrl-C ends: a shell goes on with the next round of its loop after one
    that exits, be it with 130, and stops after one that the signal ended."""
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # a second one need not wait for the flush
    try:
        sys.stdout.flush()
    except (AttributeError, OSError, RuntimeError, ValueError):  # closed, or being flushed already
        pass
    _signal.raise_signal(_signal.SIGINT)
    os._exit(INTERRUPTED)  # the first process of a container does not die of signals


def _interrupt(_: int, frame: "types.FrameType | None") -> None:
    """The command's handler of SIGINT. It raises KeyboardInterrupt, so that what has something to
    undo or to say can do so; within an import, which may swallow that, it ends the process."""
    while frame is not None and frame.f_code is not main.__code__:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            die_of_interrupt()
        frame = frame.f_back
    raise KeyboardInterrupt


def _end_if_interrupted(unraisable: "sys.UnraisableHookArgs") -> None:
    """Python's hook for what is raised where nothing can catch it, as while it frees an object:
    there it would drop an interrupt, and the command go on."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        die_of_interrupt()
    else:
        sys.__unraisablehook__(unraisable)


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
