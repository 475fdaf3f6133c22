/* SPDX-License-Identifier: MIT
 * The engine: binds a program to this machine and runs it over batches of tokens.
 *
 * The engine allocates nothing and knows no files, text or Python. Its three arenas are handed
 * in, 64-byte aligned: the packed weights (read only), the KV cache and the working memory
 * (both zeroed once). Everything that an input could spoil is checked when binding, or at the
 * start of a run; the kernels check nothing.
 */
#ifndef NYB_ENGINE_H
#define NYB_ENGINE_H

#include "nyb_error.h"
#include "nyb_program.h"
#include "registry.h"

/* The most pages of a KV cache. */
enum { NYB_MAX_PAGES = 1 << 24 };

/* What a bound program must have room for. */
typedef struct nyb_limits {
    uint32_t threads;    /* 1 or more */
    uint32_t max_tokens; /* tokens in a batch */
    uint32_t max_logits; /* tokens of a batch whose logits are wanted */
    uint32_t max_pages;  /* pages of one sequence: its context / 128, rounded up */
    uint32_t n_pages;    /* pages of the KV cache, of all sequences together */
    uint32_t sequences;  /* each with its ring in every layer that has a window */
    uint32_t kv;         /* nyb_kv: how keys and values are stored */
    uint32_t panel;      /* bytes of a panel's block, if more than this machine's rows take */
} nyb_limits;

typedef struct nyb_sizes {
    uint64_t kv_bytes, work_bytes;
} nyb_sizes;

/* A token of the batch at hand. */
typedef struct nyb_token {
    uint32_t id, position, slot;
    const uint32_t *pages; /* of its sequence: the page of the cache for each 128 positions */
} nyb_token;

/* Where a thread keeps what it need not share. */
typedef struct nyb_scratch {
    float *query;  /* (query heads of a KV head, head_dim) */
    float *key;    /* (2, head_dim) a key and a value */
    float *scores; /* (query heads of a KV head, 128) */
    float *parts;  /* (max_pages, query heads of a KV head, part stride) */
    void *panel;
} nyb_scratch;

/* What may be chosen by measurement: any choice gives the same bits. */
typedef struct nyb_tuning {
    uint32_t decode_threads;  /* that run a batch of one token: 1 to limits.threads */
    uint32_t prefill_threads; /* and one of several */
    uint32_t decode_bits; /* CPU bits that the rows which read a matrix for one token may need */
} nyb_tuning;

typedef struct nyb_bound {
    const nyb_program *program;
    nyb_limits limits;
    nyb_tuning tuning;
    nyb_rows rows;
    const uint8_t *weights;
    uint8_t *kv;
    /* in the working memory */
    uint8_t **buffers;    /* (n_buffers,) */
    uint64_t *layers;     /* (n_attentions,) byte offsets in kv */
    nyb_token *tokens;    /* (max_tokens,) of the batch at hand */
    uint32_t *selected;   /* (max_logits,) indices of tokens */
    nyb_scratch *scratch; /* (threads,) */
    float *parts;         /* of a single token: (heads, max_pages, part stride) */
    /* the batch at hand */
    uint32_t n_tokens, n_logits, n_hidden, n_wanted;
} nyb_bound;

/* Checks a program and says how much memory it needs within the limits, with the rows that need
 * no other CPU bits than these. Returns 0 or -1. */
int nyb_measure(const nyb_program *program, const nyb_limits *limits, uint32_t cpu_bits,
                nyb_sizes *sizes, nyb_error *error);

/* Binds a program to the same rows. The arenas have the sizes
 * that nyb_measure gave and outlive `bound`, as the program does. Returns 0 or -1. */
int nyb_bind(nyb_bound *bound, const nyb_program *program, const nyb_limits *limits,
             uint32_t cpu_bits, const uint8_t *weights, uint8_t *kv, uint8_t *work,
             nyb_error *error);

/* Chooses; a bound program begins with all threads and the rows it was bound to. Threads beyond
 * the limits are as many as those. */
void nyb_tune(nyb_bound *bound, const nyb_tuning *tuning);

/* Consecutive tokens of one sequence. */
typedef enum nyb_want {
    NYB_WANT_NONE,
    NYB_WANT_LAST,   /* the last token's logits */
    NYB_WANT_ALL,    /* every token's logits */
    NYB_WANT_HIDDEN, /* every token's hidden state, and no logits */
} nyb_want;

typedef struct nyb_span {
    const int32_t *ids;
    uint32_t n;
    uint32_t position;     /* of the first; those before it are in the cache */
    const uint32_t *pages; /* (max_pages,) of the cache, for layers that see everything */
    uint32_t slot;         /* of the cache, for layers with a window: below limits.sequences */
    nyb_want want;
} nyb_span;

typedef struct nyb_batch {
    const nyb_span *spans;
    uint32_t n_spans;
} nyb_batch;

/* Runs the program: keys and values go into the cache, logits into the rows of nyb_logits, in
 * the order of the tokens. Returns 0, or -1 and leaves the cache alone. */
int nyb_run(nyb_bound *bound, const nyb_batch *batch, nyb_error *error);

/* Row `i` of the last run's logits, (vocab,) floats. */
const float *nyb_logits(const nyb_bound *bound, uint32_t i);

/* The hidden state of token `i` of the last run, if one of its spans wanted them: (dim,) floats. */
const float *nyb_hidden(const nyb_bound *bound, uint32_t i);

/* Whether a sequence of which `written` positions have been in the cache can go on from position
 * `kept`: a ring has overwritten what was further back than it is long. */
int nyb_can_rewind(const nyb_bound *bound, uint64_t written, uint64_t kept);

/* Zero a page of the KV cache, or the rings of a slot, in every layer that has such: after NaN has
 * been in them. */
void nyb_clear_page(nyb_bound *bound, uint32_t page);
void nyb_clear_slot(nyb_bound *bound, uint32_t slot);

#endif
