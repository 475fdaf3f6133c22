/* SPDX-License-Identifier: MIT
 * Buffers that are parts of one, and matrices that are one in memory: built with sanitizers by
 * test_parts_sanitized.py. Prints how many calls of a kernel the three matrices of a phase take,
 * and then what each program is told whose buffers are wrong.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nyb_engine.h"

enum { VOCAB = 8, DIM = 32, ROWS = 16, MATRICES = 3, TOKENS = 2 };
enum { X, BLOCKS, WHOLE, FIRST_PART, LOGITS = FIRST_PART + MATRICES, BUFFERS };
enum { EMBEDDING_BYTES = VOCAB * DIM * 4, MATRIX_BYTES = ROWS * 34, GAP = 32 };

static size_t calls, tiles;
static nyb_row counted_gemv, counted_gemm;
static const nyb_row *gemv_row, *gemm_row;

static void count_gemv(const nyb_gemv_args *a) {
    calls++, tiles += a->n_tiles;
    gemv_row->run.gemv(a);
}

static void count_gemm(const nyb_gemm_args *a) {
    calls++, tiles += a->n_tiles;
    gemm_row->run.gemm(a);
}

typedef struct model {
    nyb_buffer buffers[BUFFERS];
    nyb_step steps[2 + MATRICES];
    nyb_program program;
} model;

/* Three matrices with the same input, which lie one behind the other, and what they give side by
 * side. */
static void make(model *m) {
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
                               .weights_bytes = EMBEDDING_BYTES + MATRICES * MATRIX_BYTES + 2 * GAP,
                               .steps = m->steps,
                               .buffers = m->buffers};
}

static void *zeroed(uint64_t nbytes) {
    void *p = calloc(nbytes / 64 + 1, 64);
    if (!p)
        exit(2);
    return p;
}

static void run(const model *m, uint32_t n_tokens) {
    static const int32_t ids[TOKENS] = {1, 7};
    const uint32_t page = 0;
    const nyb_limits limits = {
        .threads = 1,
        .max_tokens = TOKENS,
        .max_logits = 1,
        .max_pages = 1,
        .n_pages = 1,
        .sequences = 1,
    };
    nyb_sizes sizes;
    nyb_error error = {0};
    nyb_bound bound;
    if (nyb_measure(&m->program, &limits, 0, &sizes, &error)) {
        puts(error.what);
        return;
    }
    uint8_t *weights = zeroed(m->program.weights_bytes), *kv = zeroed(sizes.kv_bytes);
    uint8_t *work = zeroed(sizes.work_bytes);
    if (nyb_bind(&bound, &m->program, &limits, 0, weights, kv, work, &error))
        exit(1);
    gemv_row = bound.rows.of[NYB_OP_gemv][NYB_Q8_0];
    gemm_row = bound.rows.of[NYB_OP_gemm][NYB_Q8_0];
    counted_gemv = *gemv_row;
    counted_gemm = *gemm_row;
    counted_gemv.run.gemv = count_gemv;
    counted_gemm.run.gemm = count_gemm;
    bound.rows.of[NYB_OP_gemv][NYB_Q8_0] = &counted_gemv;
    bound.rows.of[NYB_OP_gemm][NYB_Q8_0] = &counted_gemm;
    const nyb_span span = {ids, n_tokens, 0, &page, 0, NYB_WANT_NONE};
    calls = tiles = 0;
    puts(nyb_run(&bound, &(nyb_batch){&span, 1}, &error) ? error.what : "run");
    printf("%zu calls, %zu tile rows\n", calls, tiles);
    free(weights), free(kv), free(work);
}

int main(void) {
    model m;
    make(&m);
    run(&m, 1);
    run(&m, TOKENS);
    m.steps[3].weights += GAP;
    m.steps[4].weights += GAP;
    run(&m, 1);
    m.steps[4].weights += GAP;
    run(&m, 1);
    run(&m, TOKENS);
    for (int i = 1; i < MATRICES; i++)
        m.buffers[FIRST_PART + i].offset = 0;
    run(&m, 1);
    make(&m);
    m.buffers[FIRST_PART + 2] = (nyb_buffer){.row_bytes = 64};
    run(&m, 1);

    for (int wrong = 0; wrong < 11; wrong++) {
        make(&m);
        nyb_buffer *part = &m.buffers[FIRST_PART + 1];
        switch (wrong) {
        case 0:
            part->part_of = FIRST_PART + 2; /* itself */
            break;
        case 1:
            part->part_of = FIRST_PART + 1; /* its neighbour */
            break;
        case 2:
            part->offset = 32;
            break;
        case 3:
            part->offset = part->row_bytes + 64;
            break;
        case 4:
            m.buffers[X].offset = 64;
            break;
        case 5:
            part->row_bytes += 64;
            break;
        case 6:
            part->part_of = BLOCKS + 1;
            part->replicated = 1;
            break;
        case 7:
            m.buffers[FIRST_PART + 2].offset = part->row_bytes;
            break;
        case 8:
            part->on_logits = 1;
            break;
        case 9:
            part->replicated = 1;
            break;
        case 10:
            part->holds = NYB_HOLDS_Q8;
            break;
        }
        run(&m, 1);
    }
    return 0;
}
