/* SPDX-License-Identifier: MIT
 * Batches of spans that nyb_run takes or refuses, of a program that looks up an embedding: built
 * with sanitizers by test_batch_sanitized.py. Prints what each batch was told, "run" or the reason.
 */
#include <stdio.h>
#include <stdlib.h>

#include "nyb_engine.h"

enum { VOCAB = 8, DIM = 32, SEQUENCES = 3 };

static const nyb_buffer BUFFERS[] = {
    {.row_bytes = 128, .replicated = 1},
    {.row_bytes = 64, .on_logits = 1},
};

static const nyb_step STEPS[] = {{
    .op = NYB_STEP_EMBED,
    .flags = NYB_ENDS_PHASE,
    .format = NYB_F32,
    .rows = VOCAB,
    .cols = DIM,
    .value = 1,
}};

static const nyb_program PROGRAM = {
    .n_steps = 1,
    .n_buffers = 2,
    .vocab = VOCAB,
    .logits = 1,
    .dim = DIM,
    .weights_bytes = VOCAB * DIM * sizeof(float),
    .steps = STEPS,
    .buffers = BUFFERS,
};

static void *zeroed(uint64_t nbytes) {
    void *p = calloc(nbytes / 64 + 1, 64);
    if (!p)
        exit(2);
    return p;
}

/* A span of n tokens in a slot, on that slot's page. */
static nyb_span span(const int32_t *ids, uint32_t n, uint32_t slot) {
    static const uint32_t pages[SEQUENCES + 1] = {0, 1, 2, 3};
    return (nyb_span){.ids = ids, .n = n, .pages = &pages[slot], .slot = slot};
}

int main(void) {
    const nyb_limits limits = {
        .threads = 2,
        .max_tokens = 8,
        .max_logits = 1,
        .max_pages = 1,
        .n_pages = SEQUENCES,
        .sequences = SEQUENCES,
    };
    static const int32_t ids[] = {1, 7, 0};
    const nyb_span a = span(ids, 3, 0), b = span(ids, 1, 1), c = span(ids, 2, 2);
    const nyb_batch batches[] = {
        {(nyb_span[]){a}, 1},       {(nyb_span[]){a, b, c}, 3},
        {(nyb_span[]){c, a}, 2},    {(nyb_span[]){a, a}, 2},
        {(nyb_span[]){b, c, b}, 3}, {(nyb_span[]){b, span(ids, 1, SEQUENCES)}, 2},
    };
    nyb_sizes sizes;
    nyb_error error = {0};
    nyb_bound bound;
    if (nyb_measure(&PROGRAM, &limits, 0, &sizes, &error)) {
        fprintf(stderr, "%s\n", error.what);
        return 1;
    }
    uint8_t *weights = zeroed(PROGRAM.weights_bytes), *kv = zeroed(sizes.kv_bytes);
    uint8_t *work = zeroed(sizes.work_bytes);
    if (nyb_bind(&bound, &PROGRAM, &limits, 0, weights, kv, work, &error))
        return 1;
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++)
        puts(nyb_run(&bound, &batches[i], &error) ? error.what : "run");
    free(weights), free(kv), free(work);
    return 0;
}
