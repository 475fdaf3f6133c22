# The engine's contract, word for word: byte scanners, tokenizer, program runner, sampler.
