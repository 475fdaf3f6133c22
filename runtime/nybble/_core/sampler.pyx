"""From logits to a token: greedy, or a draw that the same seed repeats everywhere."""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from nybble._core.engine cimport NYB_PENALTY_WINDOW, nyb_error
from nybble._core.native cimport sample, sample_scratch
from nybble._core.program cimport Arena
from nybble._core.sequence cimport Sequence


cdef class Sampler:
    """Chooses tokens (docs/arithmetic.md, "Sampling"). The caller has checked the numbers.

    vocab          : number of logits
    temperature    : 0 is greedy
    top_k          : 0 keeps all
    top_p          : 1 keeps all
    min_p          : 0 keeps all
    repeat_penalty : 1 changes nothing
    seed, choice   : key the random numbers, with the number of tokens in the reply
    """

    def __cinit__(self, uint32_t vocab, *, float temperature=0, uint32_t top_k=0, float top_p=1,
                  float min_p=0, float repeat_penalty=1, uint64_t seed=0, uint32_t choice=0):
        self.c.temperature = temperature
        self.c.top_k, self.c.top_p, self.c.min_p = top_k, top_p, min_p
        self.c.repeat_penalty = repeat_penalty
        self.c.seed, self.c.choice = seed, choice
        self.scratch = Arena(sample_scratch(vocab))

    def next(self, Sequence sequence not None, uint64_t n_tokens):
        """The token that follows those in the sequence, as number n_tokens of the reply.
        NumericError if a logit is NaN."""
        cdef int32_t recent[NYB_PENALTY_WINDOW]
        cdef list last = sequence.ids[-NYB_PENALTY_WINDOW:]
        cdef uint32_t n = len(last), i
        cdef int32_t token = 0
        cdef nyb_error error
        for i in range(n):
            recent[i] = last[i]
        if sample(&sequence.engine.bound.rows, sequence.row(0),
                  sequence.engine.bound.program.vocab, &self.c, recent, n, n_tokens,
                  self.scratch.data, &token, &error):
            raise sequence.damaged(f"the logit of token {error.at} is not a number")
        return token
