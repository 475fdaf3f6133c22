/* SPDX-License-Identifier: MIT
 * What running a program is made of: one thread's view of a phase, and the steps of attention.c.
 */
#ifndef NYB_WORKER_H
#define NYB_WORKER_H

#include "layout.h"

/* One thread's view of the phase at hand. */
typedef struct worker {
    const nyb_bound *bound;
    uint32_t thread, threads;
    uint32_t rows;       /* of the phase: tokens, or those of them that its flags say */
    int row_is_repeated; /* a single row: every thread has row steps' results in a row of its own */
} worker;

/* A range of units, rows or tile rows. */
typedef struct range {
    uint64_t begin, end;
} range;

static inline range share(const worker *w, uint64_t n) {
    return (range){n * w->thread / w->threads, n * (w->thread + 1) / w->threads};
}

/* Row `row` of a buffer; of a replicated one, when the phase has one row, this thread's own. */
static inline void *row_of(const worker *w, uint32_t number, uint64_t row) {
    const nyb_buffer *b = &w->bound->program->buffers[number];
    if (w->row_is_repeated && b->replicated)
        row = w->thread;
    return w->bound->buffers[number] + row * b->row_bytes;
}

/* A thread's own row of a replicated buffer. */
static inline void *row_of_thread(const worker *w, uint32_t number, uint32_t thread) {
    const nyb_buffer *b = &w->bound->program->buffers[number];
    return w->bound->buffers[number] + (uint64_t)thread * b->row_bytes;
}

static inline const nyb_row *row_for(const worker *w, nyb_op op, uint32_t format) {
    return w->bound->rows.of[op][format];
}

/* Calls the row chosen for an operation and a format with the arguments that follow. */
#define CALL(w, op, format, ...)                                                                   \
    (row_for(w, NYB_OP_##op, format)->run.op(&(nyb_##op##_args){__VA_ARGS__}))

/* The token of a row, by number, in a phase of wanted tokens or of logits. */
static inline uint64_t wanted(const nyb_bound *bound, uint64_t row) {
    return bound->n_wanted == bound->n_tokens ? row : bound->selected[row];
}

static inline uint64_t token_number(const worker *w, const nyb_step *step, uint64_t row) {
    if (step->flags & NYB_ON_LOGITS)
        return w->bound->selected[row];
    return step->flags & NYB_ON_WANTED ? wanted(w->bound, row) : row;
}

static inline const nyb_token *token_of(const worker *w, const nyb_step *step, uint64_t row) {
    return &w->bound->tokens[token_number(w, step, row)];
}

/* A row of a buffer that phases of so many rows have written. */
static inline void *row_among(const worker *w, uint32_t rows, uint32_t number, uint64_t row) {
    worker among = *w;
    among.row_is_repeated = rows == 1;
    return row_of(&among, number, row);
}

/* The steps of attention: APPEND and ATTEND, this thread's share of them, and COMBINE. */
void nyb_run_append(const worker *w, const nyb_step *step);
void nyb_run_attend(const worker *w, const nyb_step *step);
void nyb_run_combine(const worker *w, const nyb_step *step);

/* Whether each thread runs a part of this COMBINE: then they meet behind it. */
int nyb_combine_is_divided(const worker *w, const nyb_step *step);

#endif
