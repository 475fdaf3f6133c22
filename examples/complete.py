"""Continue a text without a chat: python complete.py "Once upon a time" """

import sys

import nybble

start = " ".join(sys.argv[1:]) or "The three primary colours are red,"
model = nybble.load("smollm2-135m")  # get it once: nybble pull smollm2-135m
print(start, end="", flush=True)
for text in model.complete(start, max_tokens=24, stop="\n"):
    print(text, end="", flush=True)
print()
