"""Stands in for a side of a comparison: answers what is written in the file that it is given as a
model, one JSON object with a list of answers to each word, of which the last is given again and
again. One that begins with "!" is an error. What it hears goes to the model's name with ".heard".
"""

import json
import sys
from pathlib import Path

if sys.argv[1] == "quantize":
    source, out, ftype, pure = sys.argv[2:]
    if ftype == "13":
        sys.exit("driver: the model cannot be quantized")
    Path(out).write_text(Path(source).with_suffix(f".{ftype}-{pure}").read_text())
    sys.exit()

model = Path(sys.argv[2])
answers = json.loads(model.read_text())
for line in sys.stdin:
    with model.with_suffix(".heard").open("a") as heard:
        heard.write(line)
    word = line.split()[0]
    script = answers.get(word, ["ok"])
    answer = str(script.pop(0) if len(script) > 1 else script[0])
    if answer.startswith("!"):
        print(answer[1:], file=sys.stderr)
        sys.exit(3)
    print(answer, flush=True)
