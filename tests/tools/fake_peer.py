"""Stands in for a peer's driver: says what is written in the file that it is given as a model.

A line a turn: the first is taken off and printed; a line that begins with "!" is an error.
"""

import sys
from pathlib import Path

if sys.argv[1] == "quantize":
    source, out, ftype, pure = sys.argv[2:]
    if ftype == "13":
        sys.exit("driver: the model cannot be quantized")
    Path(out).write_text(Path(source).with_suffix(f".{ftype}-{pure}").read_text())
    sys.exit()

model = Path(sys.argv[2])
line, _, rest = model.read_text().partition("\n")
model.write_text(rest)
if line.startswith("!"):
    print(line[1:], file=sys.stderr)
    sys.exit(3)
print(line)
