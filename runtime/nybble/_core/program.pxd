# Programs, and the memory that a model's weights live in.
from libc.stdint cimport uint8_t, uint64_t

from nybble._core.engine cimport (
    nyb_attention,
    nyb_buffer,
    nyb_program,
    nyb_rope,
    nyb_step,
)


cdef class Arena:
    cdef uint8_t *data              # owned: an anonymous mapping, zeroed, page-aligned
    cdef readonly uint64_t nbytes


cdef class Program:
    cdef nyb_program c              # its arrays are owned, and freed in __dealloc__
    cdef nyb_step *steps
    cdef nyb_buffer *buffers
    cdef nyb_attention *attentions
    cdef nyb_rope *ropes
    cdef uint64_t *turns
    cdef readonly list placements   # list[Placement]: where each tensor goes in the weights


cdef class Weights:
    cdef readonly Arena arena
    cdef readonly Program program

    cdef _pack_rows(self, placement, read)
    cdef _pack_floats(self, placement, read)
