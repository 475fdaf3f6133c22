# The engine's contract, word for word: byte scanners, tokenizer, program runner, sampler.

# --- nyb_gguf.h: the GGUF scanner ---
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "nyb_error.h" nogil:
    ctypedef struct nyb_error:
        const char *what
        uint64_t at
        uint64_t value

cdef extern from "nyb_gguf.h" nogil:
    enum: NYB_GGUF_MAX_DIMS
    enum:
        NYB_GGUF_UINT8
        NYB_GGUF_INT8
        NYB_GGUF_UINT16
        NYB_GGUF_INT16
        NYB_GGUF_UINT32
        NYB_GGUF_INT32
        NYB_GGUF_FLOAT32
        NYB_GGUF_BOOL
        NYB_GGUF_STRING
        NYB_GGUF_ARRAY
        NYB_GGUF_UINT64
        NYB_GGUF_INT64
        NYB_GGUF_FLOAT64
    ctypedef struct nyb_gguf_format:
        const char *name
        uint16_t block_weights
        uint16_t block_bytes
    ctypedef struct nyb_gguf_file:
        uint32_t version
        uint32_t alignment
        uint32_t n_keys
        uint32_t n_tensors
        uint64_t data_at
        uint64_t needed
    ctypedef struct nyb_gguf_key:
        uint64_t key_at
        uint64_t at
        uint64_t nbytes
        uint64_t count
        uint32_t key_length
        uint8_t type
        uint8_t element_type
    ctypedef struct nyb_gguf_tensor:
        uint64_t name_at
        uint64_t at
        uint64_t nbytes
        uint64_t dims[4]
        uint32_t name_length
        uint32_t n_dims
        uint32_t format
    int nyb_gguf_scan(const uint8_t *data, uint64_t length, nyb_gguf_file *file,
                      nyb_error *error) noexcept
    uint64_t nyb_gguf_scratch_bytes(const nyb_gguf_file *file) noexcept
    int nyb_gguf_index(const uint8_t *data, uint64_t length, nyb_gguf_file *file,
                       nyb_gguf_key *keys, nyb_gguf_tensor *tensors, uint32_t *scratch,
                       nyb_error *error) noexcept
    const char *nyb_gguf_type_name(uint32_t type) noexcept
    uint32_t nyb_gguf_type_bytes(uint32_t type) noexcept
    const nyb_gguf_format *nyb_gguf_format_of(uint32_t format) noexcept
    uint64_t nyb_gguf_number(const uint8_t *p, unsigned n) noexcept
