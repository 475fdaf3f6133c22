# The doors to the C library: native is the only module that refers to its symbols, the other
# modules cimport these. One thin function per C function, named without its nyb_ prefix.

# ---- Byte-pair tokenizer ----

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from nybble._core.engine cimport nyb_bpe, nyb_bpe_stats, nyb_bpe_vocab, nyb_error

cdef int bpe_measure(const nyb_bpe_vocab *vocab, uint64_t *nbytes,
                     nyb_error *error) noexcept nogil
cdef int bpe_build(const nyb_bpe_vocab *vocab, void *memory, nyb_bpe *bpe,
                   nyb_error *error) noexcept nogil
cdef uint32_t bpe_find(const nyb_bpe *bpe, const uint8_t *spelling, size_t n) noexcept nogil
cdef size_t bpe_spelling(const nyb_bpe *bpe, uint32_t id,
                         const uint8_t **spelling) noexcept nogil
cdef unsigned int bpe_type(const nyb_bpe *bpe, uint32_t id) noexcept nogil
cdef int bpe_is_end(const nyb_bpe *bpe, uint32_t id) noexcept nogil
cdef size_t bpe_bytes(const nyb_bpe *bpe, uint32_t id, uint8_t *out) noexcept nogil
cdef uint64_t bpe_scratch_bytes(const nyb_bpe *bpe, size_t n) noexcept nogil
cdef size_t bpe_encode(const nyb_bpe *bpe, const uint8_t *text, size_t n, int special,
                       const uint32_t *breaks, size_t n_breaks, void *scratch, uint32_t *ids,
                       nyb_bpe_stats *stats) noexcept nogil
