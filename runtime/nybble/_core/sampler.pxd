# From logits to a token.
from nybble._core.engine cimport nyb_sampling
from nybble._core.program cimport Arena


cdef class Sampler:
    cdef nyb_sampling c
    cdef Arena scratch
