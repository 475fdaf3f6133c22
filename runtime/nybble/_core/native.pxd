# The doors to the C library: native is the only module that refers to its symbols, the other
# modules cimport these. One thin function per C function, named without its nyb_ prefix.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from nybble._core.engine cimport (
    nyb_batch,
    nyb_bound,
    nyb_encode_stats,
    nyb_error,
    nyb_gguf_file,
    nyb_gguf_format,
    nyb_gguf_key,
    nyb_gguf_tensor,
    nyb_limits,
    nyb_program,
    nyb_sampling,
    nyb_sizes,
    nyb_tuning,
    nyb_vocab,
    nyb_vocab_file,
)
from nybble._core.kernels cimport nyb_layout, nyb_row, nyb_rows

cdef str said(const nyb_error *error)

# -- programs and their runner
cdef const nyb_layout *layout_of(uint32_t format) noexcept nogil
cdef const nyb_row *row_named(const char *name) noexcept nogil
cdef void rows_pick(nyb_rows *rows, uint32_t cpu_bits) noexcept nogil
cdef int measure(const nyb_program *program, const nyb_limits *limits, uint32_t cpu_bits,
                 nyb_sizes *sizes, nyb_error *error) noexcept nogil
cdef int bind(nyb_bound *bound, const nyb_program *program, const nyb_limits *limits,
              uint32_t cpu_bits, const uint8_t *weights, uint8_t *kv, uint8_t *work,
              nyb_error *error) noexcept nogil
cdef void tune(nyb_bound *bound, const nyb_tuning *tuning) noexcept nogil
cdef int run(nyb_bound *bound, const nyb_batch *batch, nyb_error *error) noexcept nogil
cdef const float *logits(const nyb_bound *bound, uint32_t i) noexcept nogil
cdef const float *hidden(const nyb_bound *bound, uint32_t i) noexcept nogil
cdef int can_rewind(const nyb_bound *bound, uint64_t written, uint64_t kept) noexcept nogil
cdef void clear_page(nyb_bound *bound, uint32_t page) noexcept nogil
cdef void clear_slot(nyb_bound *bound, uint32_t slot) noexcept nogil
cdef uint64_t read(const void *data, uint64_t nbytes, uint32_t streams,
                   uint32_t threads) noexcept nogil
cdef double barrier_seconds(uint32_t threads, uint32_t n) noexcept nogil
cdef uint64_t sample_scratch(uint32_t vocab) noexcept nogil
cdef int sample(const nyb_rows *rows, const float *logits, uint32_t vocab,
                const nyb_sampling *sampling, const int32_t *recent, uint32_t n_recent,
                uint64_t n_tokens, void *scratch, int32_t *token, nyb_error *error) noexcept nogil

# -- GGUF files
cdef int gguf_scan(const uint8_t *data, uint64_t have, uint64_t length, nyb_gguf_file *file,
                   nyb_error *error) noexcept nogil
cdef uint64_t gguf_scratch_bytes(const nyb_gguf_file *file) noexcept nogil
cdef int gguf_index(const uint8_t *data, uint64_t length, nyb_gguf_file *file, nyb_gguf_key *keys,
                    nyb_gguf_tensor *tensors, uint32_t *scratch, nyb_error *error) noexcept nogil
cdef const char *gguf_type_name(uint32_t type) noexcept nogil
cdef uint32_t gguf_type_bytes(uint32_t type) noexcept nogil
cdef const nyb_gguf_format *gguf_format_of(uint32_t format) noexcept nogil

# -- tokenizers
cdef int vocab_measure(const nyb_vocab_file *file, uint64_t *nbytes,
                       nyb_error *error) noexcept nogil
cdef int vocab_build(const nyb_vocab_file *file, void *memory, nyb_vocab *vocab,
                     nyb_error *error) noexcept nogil
cdef int vocab_open(const nyb_vocab_file *file, const void *memory, uint64_t nbytes,
                    nyb_vocab *vocab, nyb_error *error) noexcept nogil
cdef uint32_t vocab_find(const nyb_vocab *vocab, const uint8_t *spelling, size_t n) noexcept nogil
cdef size_t vocab_spelling(const nyb_vocab *vocab, uint32_t id,
                           const uint8_t **spelling) noexcept nogil
cdef unsigned int vocab_type(const nyb_vocab *vocab, uint32_t id) noexcept nogil
cdef int vocab_is_end(const nyb_vocab *vocab, uint32_t id) noexcept nogil
cdef size_t vocab_bytes(const nyb_vocab *vocab, uint32_t id, uint8_t *out) noexcept nogil
cdef uint64_t encode_most(const nyb_vocab *vocab, size_t n) noexcept nogil
cdef uint64_t encode_scratch(const nyb_vocab *vocab, size_t n) noexcept nogil
cdef size_t encode(const nyb_vocab *vocab, const uint8_t *text, size_t n, int special,
                   const uint32_t *breaks, size_t n_breaks, void *scratch, uint32_t *ids,
                   nyb_encode_stats *stats) noexcept nogil
