# The engine's contract, word for word: byte scanners, tokenizer, program runner, sampler.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from nybble._core.kernels cimport nyb_rows

cdef extern from "nyb_error.h" nogil:
    ctypedef struct nyb_error:
        const char *what
        uint64_t at
        uint64_t value

# -- programs and their runner ------------------------------------------------------------------

cdef extern from "nyb_program.h" nogil:
    enum nyb_step_op:
        NYB_STEP_EMBED
        NYB_STEP_ROPE_ANGLES
        NYB_STEP_SELECT
        NYB_STEP_NORM
        NYB_STEP_ADD
        NYB_STEP_QUANTIZE
        NYB_STEP_QUANTIZE16
        NYB_STEP_COMBINE
        NYB_STEP_MATMUL
        NYB_STEP_MATMUL16
        NYB_STEP_MATMUL32
        NYB_STEP_BIAS
        NYB_STEP_SILU_MUL
        NYB_STEP_GELU_MUL
        NYB_STEP_QUANTIZE_SHARE
        NYB_STEP_APPEND
        NYB_STEP_ATTEND
        NYB_STEP_KEEP
    enum:
        NYB_ENDS_PHASE
        NYB_ON_LOGITS
        NYB_ON_HIDDEN
        NYB_ON_WANTED
        NYB_BY_BLOCKS
        NYB_HOLDS_FLOATS
        NYB_HOLDS_Q8
        NYB_HOLDS_Q16
    ctypedef struct nyb_step:
        uint32_t op
        uint32_t flags
        uint32_t format
        uint32_t rows
        uint32_t cols
        uint32_t in_ "in"
        uint32_t in2
        uint32_t out
        uint32_t unit
        uint32_t n_units
        uint32_t index
        float value
        uint64_t weights
    ctypedef struct nyb_buffer:
        uint32_t row_bytes
        uint32_t on_logits
        uint32_t replicated
        uint32_t holds
        uint32_t part_of
        uint32_t offset
    ctypedef struct nyb_rope:
        uint32_t n
        uint32_t first
    ctypedef struct nyb_attention:
        uint32_t heads
        uint32_t kv_heads
        uint32_t head_dim
        uint32_t rope
        uint32_t q
        uint32_t k
        uint32_t v
        uint32_t angles
        uint32_t out
        uint32_t window
        float scale
        float eps
        uint64_t q_norm
        uint64_t k_norm
    ctypedef struct nyb_program:
        uint32_t n_steps
        uint32_t n_buffers
        uint32_t n_attentions
        uint32_t n_ropes
        uint32_t n_turns
        uint32_t vocab
        uint32_t logits
        uint32_t hidden
        uint32_t dim
        uint64_t weights_bytes
        const nyb_step *steps
        const nyb_buffer *buffers
        const nyb_attention *attentions
        const nyb_rope *ropes
        const uint64_t *turns

cdef extern from "nyb_engine.h" nogil:
    enum: NYB_MAX_PAGES
    ctypedef struct nyb_limits:
        uint32_t threads
        uint32_t max_tokens
        uint32_t max_logits
        uint32_t max_pages
        uint32_t n_pages
        uint32_t sequences
        uint32_t kv
        uint32_t panel
    ctypedef struct nyb_sizes:
        uint64_t kv_bytes
        uint64_t work_bytes
    ctypedef struct nyb_tuning:
        uint32_t decode_threads
        uint32_t prefill_threads
        uint32_t decode_bits
    ctypedef struct nyb_bound:
        const nyb_program *program
        nyb_rows rows
        uint32_t n_logits
    enum nyb_want:
        NYB_WANT_NONE
        NYB_WANT_LAST
        NYB_WANT_ALL
        NYB_WANT_HIDDEN
    ctypedef struct nyb_span:
        const int32_t *ids
        uint32_t n
        uint32_t position
        const uint32_t *pages
        uint32_t slot
        nyb_want want
    ctypedef struct nyb_batch:
        const nyb_span *spans
        uint32_t n_spans
    int nyb_measure(const nyb_program *program, const nyb_limits *limits, uint32_t cpu_bits,
                    nyb_sizes *sizes, nyb_error *error) noexcept
    int nyb_bind(nyb_bound *bound, const nyb_program *program, const nyb_limits *limits,
                 uint32_t cpu_bits, const uint8_t *weights, uint8_t *kv, uint8_t *work,
                 nyb_error *error) noexcept
    void nyb_tune(nyb_bound *bound, const nyb_tuning *tuning) noexcept
    int nyb_run(nyb_bound *bound, const nyb_batch *batch, nyb_error *error) noexcept
    const float *nyb_logits(const nyb_bound *bound, uint32_t i) noexcept
    const float *nyb_hidden(const nyb_bound *bound, uint32_t i) noexcept
    int nyb_can_rewind(const nyb_bound *bound, uint64_t written, uint64_t kept) noexcept
    void nyb_clear_page(nyb_bound *bound, uint32_t page) noexcept
    void nyb_clear_slot(nyb_bound *bound, uint32_t slot) noexcept

cdef extern from "layout.h" nogil:
    uint64_t nyb_page_bytes(const nyb_attention *a, uint32_t kv) noexcept

cdef extern from "nyb_pool.h" nogil:
    enum:
        NYB_MAX_THREADS
    double nyb_barrier_seconds(uint32_t threads, uint32_t n) noexcept
    void nyb_pool_stop() noexcept
    uint32_t nyb_pool_threads() noexcept
    uint64_t nyb_pool_busy_calls() noexcept

cdef extern from "nyb_read.h" nogil:
    uint64_t nyb_read(const void *data, uint64_t nbytes, uint32_t streams,
                      uint32_t threads) noexcept

cdef extern from "nyb_sampler.h" nogil:
    enum:
        NYB_PENALTY_WINDOW
    ctypedef struct nyb_sampling:
        float temperature
        float top_p
        float min_p
        float repeat_penalty
        uint32_t top_k
        uint32_t choice
        uint64_t seed
    uint64_t nyb_sample_scratch(uint32_t vocab) noexcept
    int nyb_sample(const nyb_rows *rows, const float *logits, uint32_t vocab,
                   const nyb_sampling *sampling, const int32_t *recent, uint32_t n_recent,
                   uint64_t n_tokens, void *scratch, int32_t *token, nyb_error *error) noexcept
    void nyb_philox(const uint32_t *counter, const uint32_t *key, uint32_t *out) noexcept

# -- nyb_gguf.h: the GGUF scanner ----------------------------------------

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
        uint64_t head
        uint64_t needed
        uint64_t wanted
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
    int nyb_gguf_scan(const uint8_t *data, uint64_t have, uint64_t length, nyb_gguf_file *file,
                      nyb_error *error) noexcept
    uint64_t nyb_gguf_scratch_bytes(const nyb_gguf_file *file) noexcept
    int nyb_gguf_index(const uint8_t *data, uint64_t length, nyb_gguf_file *file,
                       nyb_gguf_key *keys, nyb_gguf_tensor *tensors, uint32_t *scratch,
                       nyb_error *error) noexcept
    const char *nyb_gguf_type_name(uint32_t type) noexcept
    uint32_t nyb_gguf_type_bytes(uint32_t type) noexcept
    const nyb_gguf_format *nyb_gguf_format_of(uint32_t format) noexcept
    uint64_t nyb_gguf_number(const uint8_t *p, unsigned n) noexcept

# -- Tokenizers: nyb_pretokenize.h, nyb_vocab.h, nyb_encode.h --------------------------------------


cdef extern from "nyb_pretokenize.h" nogil:
    enum nyb_pretokenizer:
        NYB_PRE_DEFAULT
        NYB_PRE_GPT2
        NYB_PRE_SMOLLM
        NYB_PRE_FALCON
        NYB_PRE_LLAMA3
        NYB_PRE_QWEN2
        NYB_PRE_QWEN35
        NYB_PRE_DEEPSEEK_LLM
        NYB_PRE_DEEPSEEK_CODER

cdef extern from "nyb_vocab.h" nogil:
    enum nyb_token_type:
        NYB_TOKEN_UNDEFINED
        NYB_TOKEN_NORMAL
        NYB_TOKEN_UNKNOWN
        NYB_TOKEN_CONTROL
        NYB_TOKEN_USER_DEFINED
        NYB_TOKEN_UNUSED
        NYB_TOKEN_BYTE

    enum nyb_vocab_kind:
        NYB_VOCAB_BYTES
        NYB_VOCAB_CHARS
        NYB_VOCAB_PIECES

    const uint32_t NYB_VOCAB_NONE

    ctypedef struct nyb_vocab_file:
        const uint8_t *tokens
        uint64_t tokens_bytes
        uint64_t n_tokens
        const uint8_t *merges
        uint64_t merges_bytes
        uint64_t n_merges
        const uint8_t *scores
        uint64_t n_scores
        const uint8_t *types
        uint64_t n_types
        uint32_t kind
        uint32_t pre
        uint32_t unknown
        uint8_t whole_words
        uint8_t space_prefix

    ctypedef struct nyb_vocab_tables:
        uint64_t bytes
        uint32_t n_tokens
        uint32_t n_merges
        uint32_t n_specials
        uint32_t space_prefix
        uint32_t in_order
        uint32_t byte_ids[256]

    ctypedef struct nyb_vocab:
        const uint8_t *tokens
        const nyb_vocab_tables *tables

    int nyb_vocab_measure(const nyb_vocab_file *file, uint64_t *bytes, nyb_error *error) nogil
    int nyb_vocab_build(const nyb_vocab_file *file, void *memory, nyb_vocab *vocab,
                        nyb_error *error) nogil
    int nyb_vocab_open(const nyb_vocab_file *file, const void *memory, uint64_t nbytes,
                       nyb_vocab *vocab, nyb_error *error) nogil
    uint32_t nyb_vocab_find(const nyb_vocab *vocab, const uint8_t *spelling, size_t n) nogil
    size_t nyb_vocab_spelling(const nyb_vocab *vocab, uint32_t id,
                              const uint8_t **spelling) nogil
    unsigned nyb_vocab_type(const nyb_vocab *vocab, uint32_t id) nogil
    int nyb_vocab_is_end(const nyb_vocab *vocab, uint32_t id) nogil
    size_t nyb_vocab_bytes(const nyb_vocab *vocab, uint32_t id, uint8_t *out) nogil

cdef extern from "nyb_encode.h" nogil:
    ctypedef struct nyb_encode_stats:
        uint64_t steps
        uint64_t merges

    uint64_t nyb_encode_most(const nyb_vocab *vocab, size_t n) nogil
    uint64_t nyb_encode_scratch(const nyb_vocab *vocab, size_t n) nogil
    size_t nyb_encode(const nyb_vocab *vocab, const uint8_t *text, size_t n, int special,
                      const uint32_t *breaks, size_t n_breaks, void *scratch, uint32_t *ids,
                      nyb_encode_stats *stats) nogil
