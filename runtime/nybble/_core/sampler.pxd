# From logits to a token.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from nybble._core.engine cimport nyb_sampling
from nybble._core.kernels cimport nyb_rows


cdef class Sampler:
    cdef nyb_sampling c

    cdef int32_t choose(self, const nyb_rows *rows, const float *logits, uint32_t vocab, list ids,
                        uint64_t n_tokens, void *scratch) except? -1
