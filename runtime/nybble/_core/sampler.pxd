# From logits to a token.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from nybble._core.engine cimport nyb_sampling
from nybble._core.kernels cimport nyb_rows
from nybble._core.program cimport Arena


cdef class Sampler:
    cdef nyb_sampling c
    cdef Arena scratch
    cdef uint32_t vocab             # number of logits that the scratch has room for

    cdef int32_t choose(self, const nyb_rows *rows, const float *logits, uint32_t vocab, list ids,
                        uint64_t n_tokens) except? -1
