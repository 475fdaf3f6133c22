"""Answer line after line from standard input; the model remembers what was said before."""

import sys

import nybble

model = nybble.load("smollm2-135m")  # get it once: nybble pull smollm2-135m
chat = model.chat(system="You answer in one short sentence.")
for line in sys.stdin:
    for text in chat.ask(line.strip(), max_tokens=60):
        print(text, end="", flush=True)
    print()
