/* SPDX-License-Identifier: MIT
 * A model of an embedding and three matrices, for tests that look at the calls of its kernels.
 */
#ifndef NYB_TESTS_THREE_MATRICES_H
#define NYB_TESTS_THREE_MATRICES_H

#include <string.h>

#include "checks.h"
#include "nyb_engine.h"

enum { VOCAB = 8, DIM = 32, ROWS = 16, MATRICES = 3 };
enum { X, BLOCKS, WHOLE, FIRST_PART, LOGITS = FIRST_PART + MATRICES, BUFFERS };
enum { EMBEDDING_BYTES = VOCAB * DIM * 4, MATRIX_BYTES = ROWS * 34, GAP = 32 };

typedef struct model {
    nyb_buffer buffers[BUFFERS];
    nyb_step steps[2 + MATRICES];
    nyb_program program;
} model;

/* Three matrices with the same input, which lie one behind the other, and what they give side by
 * side. */
static inline void make(model *m) {
    memset(m, 0, sizeof *m);
    m->buffers[X] = (nyb_buffer){.row_bytes = DIM * 4, .replicated = 1};
    m->buffers[BLOCKS] = (nyb_buffer){.row_bytes = 192, .replicated = 1, .holds = NYB_HOLDS_Q8};
    m->buffers[WHOLE].row_bytes = MATRICES * ROWS * 4;
    m->buffers[LOGITS] = (nyb_buffer){.row_bytes = 64, .on_logits = 1};
    m->steps[0] = (nyb_step){.op = NYB_STEP_EMBED, .rows = VOCAB, .cols = DIM, .value = 1};
    m->steps[1] = (nyb_step){.op = NYB_STEP_QUANTIZE, .rows = DIM, .in = X, .out = BLOCKS};
    for (uint32_t i = 0; i < MATRICES; i++) {
        m->buffers[FIRST_PART + i] = (nyb_buffer){
            .row_bytes = MATRICES * ROWS * 4, .part_of = WHOLE + 1, .offset = i * ROWS * 4};
        m->steps[2 + i] = (nyb_step){.op = NYB_STEP_MATMUL,
                                     .flags = i + 1 == MATRICES ? NYB_ENDS_PHASE : 0,
                                     .format = NYB_Q8_0,
                                     .rows = ROWS,
                                     .cols = DIM,
                                     .in = BLOCKS,
                                     .out = FIRST_PART + i,
                                     .unit = i * ROWS / 8,
                                     .n_units = MATRICES * ROWS / 8,
                                     .weights = EMBEDDING_BYTES + i * MATRIX_BYTES};
    }
    m->program = (nyb_program){.n_steps = 2 + MATRICES,
                               .n_buffers = BUFFERS,
                               .vocab = VOCAB,
                               .logits = LOGITS,
                               .dim = DIM,
                               .weights_bytes = EMBEDDING_BYTES + MATRICES * MATRIX_BYTES + GAP,
                               .steps = m->steps,
                               .buffers = m->buffers};
}

/* A bound model with its memory. */
typedef struct running {
    nyb_bound bound;
    uint8_t *weights, *kv, *work;
} running;

static inline void *zeroed(uint64_t nbytes) {
    uint8_t *p = allocate(nbytes);
    if (nbytes > 0)
        memset(p, 0, nbytes);
    return p;
}

/* Binds a model to the reference rows, with room for so many tokens. Returns what is wrong with it,
 * or NULL. */
static inline const char *start(running *r, const model *m, uint32_t max_tokens) {
    const nyb_limits limits = {
        .threads = 1,
        .max_tokens = max_tokens,
        .max_logits = 1,
        .max_pages = 1,
        .n_pages = 1,
        .sequences = 1,
    };
    nyb_sizes sizes;
    nyb_error error = {0};
    if (nyb_measure(&m->program, &limits, 0, &sizes, &error))
        return error.what;
    r->weights = zeroed(m->program.weights_bytes);
    r->kv = zeroed(sizes.kv_bytes);
    r->work = zeroed(sizes.work_bytes);
    must(!nyb_bind(&r->bound, &m->program, &limits, 0, r->weights, r->kv, r->work, &error),
         "what was measured can be bound");
    return NULL;
}

static inline void stop(running *r) { free(r->weights), free(r->kv), free(r->work); }

#endif
