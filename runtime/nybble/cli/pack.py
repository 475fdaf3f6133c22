"""nybble pack: pack a model into a file that is mapped and run in place."""

from __future__ import annotations

import argparse
import errno
import json
import os
import time
from typing import TYPE_CHECKING, Any

from nybble import hub
from nybble.cli.terminal import ProgressBar, megabytes, printable, say
from nybble.errors import FormatError, NybbleError, UsageError

if TYPE_CHECKING:
    from nybble.formats.packed import PackedFile

_DESCRIPTION = """\
Pack a model: write its weights in the layout that nybble's kernels read, with the tokenizer's
tables, into one file that is mapped and run in place, on every machine. It starts at once and takes
no memory but the file's own pages, which programs share.

Models are packed by themselves when they are first loaded, into the cache ($NYBBLE_HOME/cache, or
~/.cache/nybble), where deleting is safe. This verb makes a file to keep or to copy to a board; it
needs no GGUF file beside it."""
_EXAMPLES = """\
examples:
  nybble pack smollm2-135m -o smollm2.nyb    write the packed file
  nybble run smollm2.nyb "Hello"             run it, here or on a board
  nybble pack --verify smollm2.nyb           check its sum, and its weights against the GGUF file
  nybble pull --pack smollm2-135m            fetch a model and keep it packed only

environment:
  NYBBLE_PACK=0                              never pack into the cache: weights are packed in memory
                                             at each start, in huge pages where the system has them
"""


def add_parser(verbs: Any) -> None:
    """Describe `nybble pack` to argparse."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "pack", help="pack a model into one file", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a known name, a .gguf file; with --verify a .nyb file too"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="the file to write, X.nyb")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="prove that the packed file has the weights of the GGUF file, bit for bit",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `nybble pack`."""
    path = hub.resolve(args.model)
    if args.output is None and not args.verify:
        raise UsageError("where to? give -o FILE.nyb (or --verify to check a packed file)")
    is_packed = _is_packed(path)
    if args.output is not None and is_packed:
        raise UsageError(f"{args.model} is packed already; copy it to {args.output}")

    if args.output is not None and os.path.lexists(args.output) and not args.force:
        raise UsageError(f"{args.output} is there already; give --force to write over it")

    started = time.monotonic()
    said: dict[str, Any] = {"path": path, "verified": None}
    if args.output is not None:
        said["path"] = write(path, args.output)
    elif not is_packed:
        said["path"] = _copy(path)
    if args.verify:
        said["verified"] = _verify(said["path"], None if is_packed else path)
    said["nbytes"] = os.stat(said["path"]).st_size
    said["seconds"] = round(time.monotonic() - started, 3)
    if args.json:
        print(json.dumps(said))
    return 0


def _is_packed(path: str) -> bool:
    from nybble.formats.gguf import GgufFile
    from nybble.formats.packed import is_packed

    with GgufFile(path) as file:
        return is_packed(file)


def _copy(path: str) -> str:
    """The packed copy of a GGUF file in the cache, made if there is none."""
    from nybble import packing

    return packing.copy_of(path) or _packed(path, None)


def write(path: str, output: str) -> str:
    """Packs the GGUF file at `path` into `output`, with a bar; says on stderr what came of it."""
    _packed(path, output)
    say(f"{printable(output)}: {megabytes(os.stat(output).st_size)}, packed from {printable(path)}")
    return output


def _packed(path: str, output: str | None) -> str:
    """Packs a GGUF file into `output`, or for None into the cache."""
    from nybble import packing
    from nybble.formats import packed
    from nybble.formats.gguf import GgufFile

    with GgufFile(path) as file:
        reading = packing.Reading(file)
        bar = ProgressBar(f"packing {printable(os.path.basename(path))}")
        try:
            if output is None:
                return packing.make_copy(file, reading, bar)
            packed.write(output, file, reading.program, reading.tokenizer, bar)
        except OSError as error:
            raise _cannot_write(output, reading.program.weights_bytes, error) from None
        finally:
            bar.close()
    return output


def _cannot_write(output: str | None, weights_bytes: int, error: OSError) -> NybbleError:
    from nybble.disk import free_bytes

    place = output or hub.cache_folder()
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return NybbleError(f"{place} cannot be written: {error.strerror or error}")
    free = free_bytes(os.path.dirname(os.path.abspath(place)))
    return NybbleError(
        f"packing takes {megabytes(weights_bytes)} and some, and the disk of {place} has "
        f"{megabytes(free)} free; free some space, or give -o on a larger disk"
    )


def _verify(path: str, source: str | None) -> str:
    """Proves a packed file, against its GGUF file if that is there; returns how far: "source" or
    "sum". FormatError if it is not what it should be."""
    from nybble import packing
    from nybble.formats.gguf import GgufFile
    from nybble.formats.packed import PackedFile, differences

    with PackedFile(path) as file:
        bar = ProgressBar(f"checking {printable(os.path.basename(path))}", is_passing=True)
        try:
            file.check_sum(bar)
        finally:
            bar.close()
        reading = packing.Reading(file)
        file.weights(reading.program)
        gguf = source or _source_of(file)
        if gguf is None:
            say(
                f"{printable(path)}: its sum is right; {printable(file.source.path)}, which it was"
                " packed from, is gone or has changed, so its weights were not compared"
            )
            return "sum"
        with GgufFile(gguf) as original:
            found = differences(file, original, packing.Reading(original).program)
        if found:
            raise FormatError(
                f"{path} is not {gguf} packed: {', '.join(found[:3])}"
                f"{f' and {len(found) - 3} more' if len(found) > 3 else ''} differ; pack it again"
            )
    say(f"{printable(path)}: its sum is right, and it is {printable(gguf)} bit for bit")
    return "source"


def _source_of(file: PackedFile) -> str | None:
    return file.source.path if file.source.is_as_it_was() else None
