/* SPDX-License-Identifier: MIT
 * A program: what a model does to a batch of tokens, as plain data.
 *
 * A program is a flat array of steps. A step holds an operation, shapes, buffer numbers and an
 * offset in the weights, never an address or a function: the same bytes run on every machine,
 * once they are bound there (nyb_engine.h).
 *
 * Steps form phases. In a phase come first steps of *rows* (a token at a time: norms,
 * quantizing), then *split* steps, whose units (tile rows of a matrix, pieces of attention) are
 * divided among the threads as one contiguous range each. A phase ends in one barrier. When a
 * phase has one row, as in decode, every thread computes the row steps for itself, which is
 * cheaper than a barrier; with more rows they are divided, and one more barrier follows them. So it
 * does a COMBINE of many pages, which comes first in its phase: of one row too each thread joins
 * some heads, for all threads.
 */
#ifndef NYB_PROGRAM_H
#define NYB_PROGRAM_H

#include <stdint.h>

typedef enum nyb_step_op {
    /* row steps */
    NYB_STEP_EMBED,       /* out = value * the weights' row of the token */
    NYB_STEP_ROPE_ANGLES, /* out = cosines and sines of the token's position; `index` a rope */
    NYB_STEP_SELECT,      /* out = the in-row, of those of NYB_ON_WANTED, of each token whose
                             logits are wanted */
    NYB_STEP_NORM,        /* out = rmsnorm(in) * weights, eps = value */
    NYB_STEP_ADD,         /* out += in */
    NYB_STEP_QUANTIZE,    /* out (nyb_q8) = in */
    NYB_STEP_QUANTIZE16,  /* out (nyb_q16) = in */
    NYB_STEP_COMBINE,     /* joins the pages of an attention that ATTEND split; `index` */
    /* split steps */
    NYB_STEP_MATMUL,         /* out = weights * in (nyb_q8); units: tile rows */
    NYB_STEP_MATMUL16,       /* out = weights * in (nyb_q16); units: tile rows */
    NYB_STEP_MATMUL32,       /* out = weights * in, both floats; units: tile rows */
    NYB_STEP_BIAS,           /* out += weights, a vector; units: tile rows */
    NYB_STEP_SILU_MUL,       /* out = silu(in) * in2; units: tile rows */
    NYB_STEP_GELU_MUL,       /* out = gelu(in) * in2; units: tile rows */
    NYB_STEP_QUANTIZE_SHARE, /* out (nyb_q8) = in, with NYB_BY_BLOCKS; units: tile rows */
    NYB_STEP_APPEND,         /* keys and values of several tokens into the cache; `index` */
    NYB_STEP_ATTEND,         /* attention (and of a single token its key and value); `index` */
    NYB_STEP_KEEP,           /* out's rows of NYB_ON_WANTED move to its front; units: tile rows */
    NYB_STEP_OPS,
    NYB_STEP_FIRST_SPLIT = NYB_STEP_MATMUL,
} nyb_step_op;

/* Wanted are all tokens of a batch if hidden states are, else those whose logits are; a batch's
 * single token always is. */
enum {
    NYB_ENDS_PHASE = 1, /* a barrier follows this step */
    NYB_ON_LOGITS = 2,  /* the rows are the tokens whose logits are wanted, not all tokens */
    NYB_ON_HIDDEN = 4,  /* the rows are all tokens if hidden states are wanted, and none if not */
    NYB_ON_WANTED = 8,  /* the rows are the tokens of which anything is wanted, as KEEP left them */
    NYB_BY_BLOCKS = 16, /* the phase's units are divided by whole blocks: four tile rows each */
};

typedef struct nyb_step {
    uint32_t op;            /* nyb_step_op */
    uint32_t flags;         /* */
    uint32_t format;        /* of the weights: GGUF's type number */
    uint32_t rows, cols;    /* of the weights, or of the vectors (then rows is their length) */
    uint32_t in, in2, out;  /* buffers */
    uint32_t unit, n_units; /* where this step's units begin in its phase, and the phase's all */
    uint32_t index;         /* of the attention or the rope */
    float value;            /* eps or scale */
    uint64_t weights;       /* byte offset in the weights */
} nyb_step;

/* A buffer has a row for each token, or for each token whose logits are wanted. `replicated`
 * buffers are written by row steps only (and KEEP): when those are repeated by every thread, each
 * has a row of its own. Parts of a buffer are buffers too, so that what several matrices give lies
 * side by side. */
typedef struct nyb_buffer {
    uint32_t row_bytes; /* a multiple of 64; of a part: those of the whole */
    uint32_t on_logits; /* rows are those of NYB_ON_LOGITS */
    uint32_t replicated;
    uint32_t holds;   /* nyb_buffer_holds: blocks are only read where blocks were written */
    uint32_t part_of; /* 0, or of a part 1 + the number of the whole, which comes before it */
    uint32_t offset;  /* of a part: the byte of the whole's rows where its own begin */
} nyb_buffer;

typedef enum nyb_buffer_holds {
    NYB_HOLDS_FLOATS,
    NYB_HOLDS_Q8,  /* nyb_q8 blocks */
    NYB_HOLDS_Q16, /* nyb_q16 blocks */
} nyb_buffer_holds;

typedef struct nyb_rope {
    uint32_t n;     /* pairs that rotate: (i, i + n) of a head */
    uint32_t first; /* index in nyb_program.turns of the first of n */
} nyb_rope;

/* A layer of attention, with its part of the KV cache. */
typedef struct nyb_attention {
    uint32_t heads, kv_heads, head_dim;
    uint32_t rope;
    uint32_t q, k, v, angles, out; /* buffers */
    uint32_t window;               /* positions seen, the token's own among them; 0: all */
    float scale;                   /* of the scores: 1 / sqrt(head_dim) as a rule */
    float eps;                     /* of the norms of each head of q and k; 0: they have none */
    uint64_t q_norm, k_norm;       /* byte offsets in the weights: (head_dim,) floats each */
} nyb_attention;

typedef struct nyb_program {
    uint32_t n_steps, n_buffers, n_attentions, n_ropes, n_turns;
    uint32_t vocab;  /* ids are below this */
    uint32_t logits; /* buffer */
    uint32_t hidden; /* buffer: what the head is given, of every token, after NYB_ON_HIDDEN */
    uint32_t dim;    /* of a hidden state */
    uint64_t weights_bytes;
    const nyb_step *steps;
    const nyb_buffer *buffers;
    const nyb_attention *attentions;
    const nyb_rope *ropes;
    const uint64_t *turns; /* turns a position, times 2^64 */
} nyb_program;

#endif
