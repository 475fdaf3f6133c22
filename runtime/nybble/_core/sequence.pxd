# The engine as Python holds it, and a sequence: a slot of its KV cache.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from nybble._core.engine cimport nyb_bound, nyb_want
from nybble._core.program cimport Arena, Program, Weights


cdef class Engine:
    cdef nyb_bound bound            # points into the arenas below and the weights' program
    cdef readonly Weights weights
    cdef readonly Arena kv
    cdef readonly Arena work
    cdef readonly Arena sampling        # the sampler's scratch, for one token at a time
    cdef readonly uint32_t context      # positions of a sequence
    cdef readonly uint32_t chunk        # tokens of prefill in one engine call
    cdef readonly uint32_t threads
    cdef readonly uint32_t sequences
    cdef readonly uint32_t max_logits


cdef class Sequence:
    cdef readonly Engine engine
    cdef uint32_t *pages            # owned: (max_pages,) of the engine's cache
    cdef int32_t *fed               # owned: (chunk,) the tokens of the call at hand
    cdef uint32_t n_pages
    cdef uint32_t slot
    cdef uint64_t written           # positions that have been in the cache since it was empty
    cdef readonly list ids          # tokens whose keys and values are in the cache

    cdef advance(self, list ids, nyb_want want)
    cdef int copy_row(self, uint32_t i, float *out) except -1
