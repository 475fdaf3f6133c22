"""nybble pack: pack a model into a file that is mapped and run in place."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import time
from typing import TYPE_CHECKING, Any

from nybble import hub
from nybble.cli.terminal import LONG_S, ProgressBar, megabytes, printable, say
from nybble.errors import FormatError, NybbleError, UsageError

if TYPE_CHECKING:
    from nybble.formats.packed import PackedFile

_DESCRIPTION = """\
Pack a model: write its weights in the layout that nybble's kernels read, with the tokenizer's
tables, into one file that is mapped and run in place, on every machine. It starts at once and takes
no memory but the file's own pages, which programs share.

Models are packed by themselves when they are first loaded, into the cache ($NYBBLE_HOME/cache, else
$XDG_CACHE_HOME/nybble, else ~/.cache/nybble), where deleting is safe. This verb makes a file to
keep or to copy to a board; it needs no GGUF file beside it. Of a model that is packed already it
makes a copy."""
_EXAMPLES = """\
examples:
  nybble pack smollm2-135m -o smollm2.nyb    write the packed file
  nybble run smollm2.nyb "Hello"             run it, here or on a board
  nybble pack --verify smollm2.nyb           check it, on a board too, once it has been copied
  nybble pack --verify smollm2.nyb --against ./smollm2.gguf   and compare it with this file
  nybble pull --pack smollm2-135m            fetch a model and keep it packed only

With NYBBLE_PACK=0 in the environment nothing is packed into the cache: weights are packed in memory
at each start, in huge pages where the system has them.
"""


def add_parser(verbs: Any) -> None:
    """Describe `nybble pack` to argparse."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "pack", help="pack a model into one file", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument("model", metavar="MODEL", help="a known name, a .gguf or a .nyb file")
    parser.add_argument("-o", "--output", metavar="FILE", help="the file to write, X.nyb")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="check the packed file's sum, and prove that it has the weights of the GGUF file it"
        " was packed from, bit for bit, if that is still there",
    )
    parser.add_argument(
        "--against", metavar="MODEL", help="with --verify: the GGUF file, wherever it is now"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `nybble pack`."""
    from nybble import packing
    from nybble.formats.packed import PackedFile

    path = hub.resolve(args.model)
    if args.against and not args.verify:
        raise UsageError("--against says what --verify compares with; give --verify too")
    if not args.output and not args.verify:
        raise UsageError("where to? give -o FILE.nyb (or --verify to check a packed file)")
    with packing.open_file(path) as file:
        is_packed = isinstance(file, PackedFile)
    source = None if is_packed else path
    if args.against:
        source = hub.resolve(args.against)
        with packing.open_file(source) as file:
            if isinstance(file, PackedFile):
                raise UsageError(f"{source} is packed itself; give --against a GGUF file")
    if args.output:
        _check_output(args.output, path, args.force)

    started = time.monotonic()
    verified = compared = None
    if args.output:
        (copy if is_packed else write)(path, args.output)
        packed = args.output
    elif is_packed:
        packed = path
    else:
        packed = _copy(path)
    if args.verify:
        compared = verify(packed, source)
        verified = "source" if compared else "sum"
    if args.json:
        said = {
            "path": packed,
            "nbytes": os.stat(packed).st_size,
            "verified": verified,
            "compared_with": compared,
            "seconds": round(time.monotonic() - started, 3),
        }
        print(json.dumps(said))
    return 0


def _check_output(output: str, path: str, is_forced: bool) -> None:
    """UsageError if the model at `path` must not be packed into that file."""
    is_there = os.path.lexists(output)
    if is_there and not os.path.isfile(output):  # /dev/null must stay what it is
        raise UsageError(f"{output} is there and is no file; give -o the name of a file")
    if is_there and os.path.samefile(output, path):
        raise UsageError(f"{output} is the model that is to be packed; give another name")
    if not output.endswith(hub.PACKED):
        raise UsageError(
            f"{output} could not be run: only what ends in {hub.PACKED} is mapped; give -o"
            f" FILE{hub.PACKED}"
        )
    if is_there and not is_forced:
        raise UsageError(f"{output} is there already; give --force to write over it")


def _copy(path: str) -> str:
    """The packed copy of a GGUF file in the cache, made if there is none, or if it is damaged."""
    from nybble import packing

    if not packing.is_wanted():
        raise UsageError("NYBBLE_PACK=0 says that nothing is packed into the cache; give -o")
    copy = packing.copied(path)
    if copy is not None:
        if is_whole(copy.file.path):
            return copy.file.path
        os.unlink(copy.file.path)
    return _packed(path, None)


def is_whole(packed: str) -> bool:
    """Whether the packed file is as it was written, by its sum, and by a version that packs as this
    one does; says on stderr what is wrong."""
    from nybble import packing
    from nybble.formats.packed import PackedFile

    bar = ProgressBar(f"checking {printable(packed)}", after_s=LONG_S, is_passing=True)
    try:
        with PackedFile(packed) as file:
            file.check_sum(bar)
            packing.Reading(file)
    except FormatError as error:
        bar.close()
        say(f"nybble: {printable(str(error))}")
        return False
    finally:
        bar.close()
    return True


def write(path: str, output: str) -> None:
    """Packs the GGUF file at `path` into `output`, with a bar; says on stderr what came of it."""
    _packed(path, output)
    say(f"{printable(output)}: {megabytes(os.stat(output).st_size)}, packed from {printable(path)}")


def copy(path: str, output: str) -> None:
    """Copies the packed file at `path`, if its sum is right and this version reads it, to `output`,
    which is there whole or as it was before; says so on stderr."""
    import shutil

    from nybble import packing
    from nybble.disk import part_of
    from nybble.formats.packed import PackedFile

    with PackedFile(path) as file:
        _check_sum(file)
        packing.Reading(file)
        try:
            with open(path, "rb") as there, part_of(output, file.nbytes, lambda: False) as part:
                assert part is not None
                shutil.copyfileobj(there, part, 1 << 20)
                part.flush()
                os.fsync(part.fileno())
        except OSError as error:
            raise _cannot_write(output, file.nbytes, error) from None
    say(f"{printable(output)}: {megabytes(os.stat(output).st_size)}, a copy of {printable(path)}")


def _packed(path: str, output: str | None) -> str:
    """Packs a GGUF file into `output`, or for None into the cache; returns where that is."""
    from nybble import packing
    from nybble.formats import packed_writer
    from nybble.formats.gguf import GgufFile

    with GgufFile(path) as file:
        reading = packing.Reading(file)
        bar = ProgressBar(f"packing {printable(os.path.basename(path))}")
        try:
            if output is None:
                return packing.make_copy(reading, bar)
            with packing.blaming(file):
                packed_writer.write(output, file, reading.program, reading.tokenizer, bar)
        except OSError as error:
            raise _cannot_write(output, reading.packed_nbytes, error) from None
        finally:
            bar.close()
    return output


def _cannot_write(output: str | None, nbytes: int, error: OSError) -> NybbleError:
    from nybble.disk import free_bytes

    place = output or hub.cache_folder()
    if error.errno != errno.ENOSPC:
        return NybbleError(f"{place} cannot be written: {error.strerror or error}")
    free = free_bytes(os.path.dirname(os.path.abspath(place)))
    return NybbleError(
        f"packing takes {megabytes(nbytes)} and some, and the disk of {place} has "
        f"{megabytes(free)} free; free some space, or pack to a larger disk (nybble pack -o)"
    )


def _check_sum(file: PackedFile) -> None:
    bar = ProgressBar(
        f"checking {printable(os.path.basename(file.path))}", after_s=LONG_S, is_passing=True
    )
    try:
        file.check_sum(bar)
    finally:
        bar.close()


def _source_of(file: PackedFile) -> tuple[str | None, bool]:
    """The GGUF file that it was packed from, and whether that is certain. It is looked for where it
    was, or under its name beside the packed file and among the models."""
    source = file.source
    if source.has_place:
        places = [source.path]
    else:
        name, folders = os.path.basename(source.path), [os.path.dirname(file.path)]
        with contextlib.suppress(UsageError):  # a user without a home has no models
            folders.append(hub.models_folder())
        places = [os.path.join(folder, name) for folder in folders]
    for place in places:
        if source.is_at(place):
            return place, True
    return next(filter(source.is_like, places), None), False


def verify(packed: str, source: str | None) -> str | None:
    """Checks a packed file's sum, and proves it against the GGUF file `source`, or for None the one
    that it was packed from, if that is found; says on stderr how far. Returns the GGUF file it was
    compared with, None for none. FormatError if it is not what it should be."""
    from nybble import packing
    from nybble.formats.gguf import GgufFile
    from nybble.formats.packed import PackedFile
    from nybble.formats.packed_writer import differences

    with PackedFile(packed) as file:
        _check_sum(file)
        packing.Reading(file)
        source, is_certain = (source, True) if source else _source_of(file)
        found = []
        if source:
            with GgufFile(source) as original:
                reading = packing.Reading(original)
                with packing.blaming(original):
                    found = differences(file, original, reading.program, reading.tokenizer)
        if source is None or (found and not is_certain):
            say(
                f"{printable(packed)}: its sum is right, but its weights were compared with"
                f" nothing: {printable(file.source.path)}, which it was packed from, is not here or"
                " has changed (--against MODEL.gguf names another file to compare with)"
            )
            return None
        if found:
            raise FormatError(
                f"{packed} is not {source} packed: {', '.join(found[:3])}"
                f"{f' and {len(found) - 3} more' if len(found) > 3 else ''} differ; pack it again"
            )
    say(f"{printable(packed)}: its sum is right, and it is {printable(source)} bit for bit")
    return source
