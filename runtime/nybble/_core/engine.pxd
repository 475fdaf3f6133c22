# The engine's contract, word for word: byte scanners, tokenizer, program runner, sampler.

# ---- Byte-pair tokenizer: nyb_pretokenize.h, nyb_bpe.h ----

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

cdef extern from "nyb_error.h":
    ctypedef struct nyb_error:
        const char *what
        uint64_t at
        uint64_t value

cdef extern from "nyb_pretokenize.h":
    enum nyb_pretokenizer:
        NYB_PRE_DEFAULT
        NYB_PRE_GPT2
        NYB_PRE_SMOLLM

cdef extern from "nyb_bpe.h":
    enum nyb_token_type:
        NYB_TOKEN_UNDEFINED
        NYB_TOKEN_NORMAL
        NYB_TOKEN_UNKNOWN
        NYB_TOKEN_CONTROL
        NYB_TOKEN_USER_DEFINED
        NYB_TOKEN_UNUSED
        NYB_TOKEN_BYTE

    const uint32_t NYB_BPE_NONE

    ctypedef struct nyb_bpe_vocab:
        const uint8_t *tokens
        uint64_t tokens_bytes
        uint64_t n_tokens
        const uint8_t *merges
        uint64_t merges_bytes
        uint64_t n_merges
        const uint8_t *types
        uint64_t n_types
        uint32_t pre
        uint32_t whole_words

    ctypedef struct nyb_bpe_tables:
        uint64_t bytes
        uint32_t n_tokens
        uint32_t n_merges
        uint32_t n_specials
        uint32_t in_order

    ctypedef struct nyb_bpe:
        const uint8_t *tokens
        const nyb_bpe_tables *tables

    ctypedef struct nyb_bpe_stats:
        uint64_t steps
        uint64_t merges

    int nyb_bpe_measure(const nyb_bpe_vocab *vocab, uint64_t *bytes, nyb_error *error) nogil
    int nyb_bpe_build(const nyb_bpe_vocab *vocab, void *memory, nyb_bpe *bpe,
                      nyb_error *error) nogil
    uint32_t nyb_bpe_find(const nyb_bpe *bpe, const uint8_t *spelling, size_t n) nogil
    size_t nyb_bpe_spelling(const nyb_bpe *bpe, uint32_t id, const uint8_t **spelling) nogil
    unsigned nyb_bpe_type(const nyb_bpe *bpe, uint32_t id) nogil
    int nyb_bpe_is_end(const nyb_bpe *bpe, uint32_t id) nogil
    size_t nyb_bpe_bytes(const nyb_bpe *bpe, uint32_t id, uint8_t *out) nogil
    uint64_t nyb_bpe_scratch_bytes(const nyb_bpe *bpe, size_t n) nogil
    size_t nyb_bpe_encode(const nyb_bpe *bpe, const uint8_t *text, size_t n, int special,
                          const uint32_t *breaks, size_t n_breaks, void *scratch, uint32_t *ids,
                          nyb_bpe_stats *stats) nogil
