/* SPDX-License-Identifier: MIT
 * Buffers that are parts of one, and matrices that are one in memory: built with sanitizers by
 * test_parts_sanitized.py. Prints how many calls of a kernel the three matrices of a phase take,
 * and then what each program is told whose buffers are wrong.
 */
#include "three_matrices.h"

enum { TOKENS = 2 };

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

static void run(const model *m, uint32_t n_tokens) {
    static const int32_t ids[TOKENS] = {1, 7};
    const uint32_t page = 0;
    running r;
    const char *wrong = start(&r, m, TOKENS);
    if (wrong) {
        puts(wrong);
        return;
    }
    nyb_error error;
    nyb_rows *rows = &r.bound.rows;
    gemv_row = rows->of[NYB_OP_gemv][NYB_Q8_0];
    gemm_row = rows->of[NYB_OP_gemm][NYB_Q8_0];
    counted_gemv = *gemv_row;
    counted_gemm = *gemm_row;
    counted_gemv.run.gemv = count_gemv;
    counted_gemm.run.gemm = count_gemm;
    rows->of[NYB_OP_gemv][NYB_Q8_0] = &counted_gemv;
    rows->of[NYB_OP_gemm][NYB_Q8_0] = &counted_gemm;
    const nyb_span span = {ids, n_tokens, 0, &page, 0, NYB_WANT_NONE};
    calls = tiles = 0;
    puts(nyb_run(&r.bound, &(nyb_batch){&span, 1}, &error) ? error.what : "run");
    printf("%zu calls, %zu tile rows\n", calls, tiles);
    stop(&r);
}

int main(void) {
    model m;
    make(&m);
    run(&m, 1);
    run(&m, TOKENS);
    m.steps[3].weights += GAP;
    m.steps[4].weights += GAP;
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
