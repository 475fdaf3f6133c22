# The doors to the C library: native is the only module that refers to its symbols, the other
# modules cimport these. One thin function per C function, named without its nyb_ prefix.

# --- nyb_gguf.h ---
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from nybble._core.engine cimport (
    nyb_error, nyb_gguf_file, nyb_gguf_format, nyb_gguf_key, nyb_gguf_tensor,
)

cdef int gguf_scan(const uint8_t *data, uint64_t length, nyb_gguf_file *file,
                   nyb_error *error) noexcept nogil
cdef uint64_t gguf_scratch_bytes(const nyb_gguf_file *file) noexcept nogil
cdef int gguf_index(const uint8_t *data, uint64_t length, nyb_gguf_file *file, nyb_gguf_key *keys,
                    nyb_gguf_tensor *tensors, uint32_t *scratch, nyb_error *error) noexcept nogil
cdef const char *gguf_type_name(uint32_t type) noexcept nogil
cdef uint32_t gguf_type_bytes(uint32_t type) noexcept nogil
cdef const nyb_gguf_format *gguf_format_of(uint32_t format) noexcept nogil
