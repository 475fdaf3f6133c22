"""From logits to a token: greedy, or a draw that the same seed repeats everywhere."""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from nybble._core.engine cimport NYB_PENALTY_WINDOW, NYB_WANT_LAST, nyb_error
from nybble._core.kernels cimport nyb_rows
from nybble._core.native cimport logits as logits_row
from nybble._core.native cimport rows_pick, sample, sample_scratch
from nybble._core.program cimport Arena
from nybble._core.sequence cimport Engine, Sequence

from nybble._core.native import cpu_bits
from nybble._core.sequence import engine_lock
from nybble.errors import NumericError


cdef class Sampler:
    """Chooses tokens (docs/arithmetic.md, "Sampling"). The caller has checked the numbers.

    temperature    : 0 is greedy
    top_k          : 0 keeps all
    top_p          : 1 keeps all
    min_p          : 0 keeps all
    repeat_penalty : 1 changes nothing
    seed, choice   : key the random numbers, with the number of tokens in the reply
    """

    def __cinit__(self, *, float temperature=0, uint32_t top_k=0, float top_p=1,
                  float min_p=0, float repeat_penalty=1, uint64_t seed=0, uint32_t choice=0):
        self.c.temperature = temperature
        self.c.top_k, self.c.top_p, self.c.min_p = top_k, top_p, min_p
        self.c.repeat_penalty = repeat_penalty
        self.c.seed, self.c.choice = seed, choice

    def next(self, Sequence sequence not None, list ids, uint64_t n_tokens):
        """Runs these tokens, at most the engine's chunk of them, after those in the sequence, and
        chooses the one that follows, as number n_tokens of the reply. NumericError if a logit is
        NaN, ContextError if there is no room for them."""
        cdef Engine engine = sequence.engine
        cdef int32_t token = 0
        with engine_lock:
            sequence.advance(ids, NYB_WANT_LAST)
            token = self.choose(&engine.bound.rows, logits_row(&engine.bound, 0),
                                engine.bound.program.vocab, sequence.ids, n_tokens,
                                engine.sampling.data)
            if token < 0:
                raise sequence.damaged(f"the logit of token {-1 - token}")
        return token

    def next_of(self, const float[::1] logits not None, list ids, uint64_t n_tokens):
        """The same for logits (vocab,) from elsewhere: the door for tests and tools. ids are the
        tokens before, n_tokens of them the reply's."""
        cdef nyb_rows rows
        cdef uint32_t vocab = logits.shape[0]
        cdef Arena scratch = Arena(sample_scratch(vocab), "the sampler")
        rows_pick(&rows, cpu_bits())
        cdef int32_t token = self.choose(&rows, &logits[0], vocab, ids, n_tokens, scratch.data)
        if token < 0:
            raise NumericError(f"the logit of token {-1 - token} is not a number")
        return token

    cdef int32_t choose(self, const nyb_rows *rows, const float *logits, uint32_t vocab, list ids,
                        uint64_t n_tokens, void *scratch) except? -1:
        """The token, or -1 - the id of one whose logit is NaN."""
        cdef int32_t recent[NYB_PENALTY_WINDOW]
        cdef uint32_t n = 0, i
        cdef int32_t token = 0
        cdef int failed
        cdef nyb_error error
        if self.c.repeat_penalty != 1:
            last = ids[-NYB_PENALTY_WINDOW:]
            n = len(last)
            for i in range(n):
                recent[i] = last[i]
        with nogil:
            failed = sample(rows, logits, vocab, &self.c, recent, n, n_tokens, scratch, &token,
                            &error)
        return -1 - <int32_t>error.at if failed else token
