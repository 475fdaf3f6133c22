"""Ask one question and print the answer as it comes: python ask.py "Why is the sky blue?" """

import sys

import nybble

model = nybble.load("smollm2-135m")  # get it once: nybble pull smollm2-135m
reply = model.ask(" ".join(sys.argv[1:]) or "Why is the sky blue?", max_tokens=60)
for text in reply:
    print(text, end="", flush=True)
print()
print(f"{reply.stats.tokens} tokens, {reply.stats.decode_tok_s:.1f} a second", file=sys.stderr)
