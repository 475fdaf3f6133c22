"""The one module that links nybble's C library; the others reach it by `cimport`.

Each function here is a door: the C function of the same name without its `nyb_` prefix.
Structs and constants come from `kernels.pxd` and `engine.pxd`, which alone say `cdef extern`.
"""

# --- nyb_gguf.h ---
from nybble._core.engine cimport (
    nyb_gguf_format_of, nyb_gguf_index, nyb_gguf_scan, nyb_gguf_scratch_bytes,
    nyb_gguf_type_bytes, nyb_gguf_type_name,
)


cdef int gguf_scan(const uint8_t *data, uint64_t length, nyb_gguf_file *file,
                   nyb_error *error) noexcept nogil:
    return nyb_gguf_scan(data, length, file, error)


cdef uint64_t gguf_scratch_bytes(const nyb_gguf_file *file) noexcept nogil:
    return nyb_gguf_scratch_bytes(file)


cdef int gguf_index(const uint8_t *data, uint64_t length, nyb_gguf_file *file, nyb_gguf_key *keys,
                    nyb_gguf_tensor *tensors, uint32_t *scratch, nyb_error *error) noexcept nogil:
    return nyb_gguf_index(data, length, file, keys, tensors, scratch, error)


cdef const char *gguf_type_name(uint32_t type) noexcept nogil:
    return nyb_gguf_type_name(type)


cdef uint32_t gguf_type_bytes(uint32_t type) noexcept nogil:
    return nyb_gguf_type_bytes(type)


cdef const nyb_gguf_format *gguf_format_of(uint32_t format) noexcept nogil:
    return nyb_gguf_format_of(format)
