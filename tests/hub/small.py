"""The small models that these tests pull, processes that pull them, and what lies there then.

On web servers there is CONTENT, and OTHER, which is another version or file. In packages there is
PACKAGED, as a known model of one part or of four.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

from nybble.hub.known import KnownModel, Part

CONTENT = b"GGUF" + bytes(range(256)) * 8_000  # 2 MB
OTHER = b"GGUF" + bytes(reversed(range(256))) * 7_000
SUM = hashlib.sha256(CONTENT).hexdigest()
FILE = "hf:someone/tiny-GGUF/tiny-Q4_0.gguf"

PACKAGED = bytes(range(256)) * 12_288  # 3 MiB: more than one chunk
MEMBER = "tiny_model/tiny.gguf"
CUTS = [0, 1_000_000, 1_000_001, 2_500_000, len(PACKAGED)]  # of a model in four parts

# A process that pulls a model; `hook` may break something first. In it "tiny" is what `row` makes.
CHILD = """
import os, signal, sys
sys.path.insert(0, {root!r})
from nybble import hub
from nybble.hub import web
from nybble.hub.known import KNOWN
from tests.hub import small
web.RETRY_S = 0.01
KNOWN["tiny"] = small.{row}()
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
on_progress = None
{hook}
print(hub.pull({name!r}, on_progress, lambda: print("waited", flush=True)).path)
"""


def whole(**changes):
    """The small model in one part; `changes` are of the part, or the sum."""
    sha256 = changes.pop("sha256", hashlib.sha256(PACKAGED).hexdigest())
    fields = {
        "package": "tiny-model",
        "version": "1.0",
        "member": MEMBER,
        "nbytes": len(PACKAGED),
        "download_nbytes": len(PACKAGED),
    }
    return model((Part(**fields | changes),), sha256)


def parted():
    """The small model in four parts."""
    sizes = [end - start for start, end in zip(CUTS, CUTS[1:], strict=False)]
    parts = tuple(
        Part(f"tiny-part{n}", "1.0", MEMBER, nbytes=size, download_nbytes=size + 400)
        for n, size in enumerate(sizes, start=1)
    )
    return model(parts, hashlib.sha256(PACKAGED).hexdigest())


def model(parts, sha256):
    return KnownModel(
        name="tiny",
        parts=parts,
        sha256=sha256,
        about="a model for tests",
        licence="MIT",
    )


def child(name, hook="", row="whole"):
    code = CHILD.format(root=str(Path(__file__).parents[2]), row=row, hook=hook, name=name)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def url_of(server, path="/models/tiny.gguf"):
    return server.url + path


def names(home):
    """What lies in the models folder, but the lock, which stays."""
    folder = home / "models"
    return sorted(p.name for p in folder.iterdir() if p.name != ".lock") if folder.exists() else []


def leftovers(home):
    return sorted(path.name for path in (home / "models").glob(".pull-*"))
