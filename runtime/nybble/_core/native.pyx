"""The one module that links nybble's C library; the others reach it by `cimport`.

Each function here is a door: the C function of the same name without its `nyb_` prefix.
Structs and constants come from `kernels.pxd` and `engine.pxd`, which alone say `cdef extern`.
"""

# ---- Byte-pair tokenizer ----

from nybble._core.engine cimport (
    nyb_bpe_build,
    nyb_bpe_bytes,
    nyb_bpe_encode,
    nyb_bpe_find,
    nyb_bpe_is_end,
    nyb_bpe_measure,
    nyb_bpe_scratch_bytes,
    nyb_bpe_spelling,
    nyb_bpe_type,
)


cdef int bpe_measure(const nyb_bpe_vocab *vocab, uint64_t *nbytes,
                     nyb_error *error) noexcept nogil:
    return nyb_bpe_measure(vocab, nbytes, error)


cdef int bpe_build(const nyb_bpe_vocab *vocab, void *memory, nyb_bpe *bpe,
                   nyb_error *error) noexcept nogil:
    return nyb_bpe_build(vocab, memory, bpe, error)


cdef uint32_t bpe_find(const nyb_bpe *bpe, const uint8_t *spelling, size_t n) noexcept nogil:
    return nyb_bpe_find(bpe, spelling, n)


cdef size_t bpe_spelling(const nyb_bpe *bpe, uint32_t id,
                         const uint8_t **spelling) noexcept nogil:
    return nyb_bpe_spelling(bpe, id, spelling)


cdef unsigned int bpe_type(const nyb_bpe *bpe, uint32_t id) noexcept nogil:
    return nyb_bpe_type(bpe, id)


cdef int bpe_is_end(const nyb_bpe *bpe, uint32_t id) noexcept nogil:
    return nyb_bpe_is_end(bpe, id)


cdef size_t bpe_bytes(const nyb_bpe *bpe, uint32_t id, uint8_t *out) noexcept nogil:
    return nyb_bpe_bytes(bpe, id, out)


cdef uint64_t bpe_scratch_bytes(const nyb_bpe *bpe, size_t n) noexcept nogil:
    return nyb_bpe_scratch_bytes(bpe, n)


cdef size_t bpe_encode(const nyb_bpe *bpe, const uint8_t *text, size_t n, int special,
                       const uint32_t *breaks, size_t n_breaks, void *scratch, uint32_t *ids,
                       nyb_bpe_stats *stats) noexcept nogil:
    return nyb_bpe_encode(bpe, text, n, special, breaks, n_breaks, scratch, ids, stats)
