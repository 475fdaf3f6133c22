/* SPDX-License-Identifier: MIT
 * Running a bound program: a batch of tokens through the phases.
 *
 * Work is divided by thread number and number of threads only, never by what is free: so every
 * result has one owner and one order of operations, and the bits do not depend on the threads.
 */
#include <string.h>

#include "nyb_pool.h"
#include "worker.h"

/* This thread's tile rows of a step whose units begin at step->unit of the phase's. */
static range tile_share(const worker *w, const nyb_step *step) {
    const uint64_t first = step->unit, tiles = nyb_tiles(step->rows);
    const uint64_t whole = step->flags & NYB_BY_BLOCKS ? NYB_BLOCK / NYB_TILE_ROWS : 1;
    range r = share(w, step->n_units / whole);
    r = (range){r.begin * whole, r.end * whole};
    const uint64_t begin = r.begin > first ? r.begin : first;
    const uint64_t end = r.end < first + tiles ? r.end : first + tiles;
    return begin < end ? (range){begin - first, end - first} : (range){0, 0};
}

static const uint8_t *weights_of(const worker *w, const nyb_step *step) {
    return w->bound->weights + step->weights;
}

/* -- Row steps ---------------------------------------------------------------------------- */

static void rope_angles(const worker *w, const nyb_step *step, uint64_t row) {
    const nyb_program *program = w->bound->program;
    const nyb_rope *rope = &program->ropes[step->index];
    CALL(w, rope_angles, NYB_F32, .n = rope->n, .position = token_of(w, step, row)->position,
         .turns = program->turns + rope->first, .out = row_of(w, step->out, row));
}

static void embed(const worker *w, const nyb_step *step, uint64_t row) {
    CALL(w, embed, step->format, .row = token_of(w, step, row)->id,
         .n_blocks = step->cols / NYB_BLOCK, .w = weights_of(w, step), .scale = step->value,
         .out = row_of(w, step->out, row));
}

/* A phase of logits takes over the rows of the tokens that they are wanted of: of fewer than all
 * KEEP has left no others. */
static void take_over(const worker *w, const nyb_step *step, uint64_t row) {
    const nyb_bound *bound = w->bound;
    const uint64_t from = bound->n_wanted == bound->n_tokens ? bound->selected[row] : row;
    memcpy(row_of(w, step->out, row), row_among(w, bound->n_wanted, step->in, from),
           step->rows * sizeof(float));
}

static void run_row_step(const worker *w, const nyb_step *step, uint64_t row) {
    switch ((nyb_step_op)step->op) {
    case NYB_STEP_EMBED:
        embed(w, step, row);
        break;
    case NYB_STEP_ROPE_ANGLES:
        rope_angles(w, step, row);
        break;
    case NYB_STEP_SELECT:
        take_over(w, step, row);
        break;
    case NYB_STEP_NORM:
        CALL(w, rmsnorm, NYB_F32, .n = step->rows, .eps = step->value,
             .x = row_of(w, step->in, row), .w = (const float *)weights_of(w, step),
             .out = row_of(w, step->out, row));
        break;
    case NYB_STEP_ADD:
        CALL(w, add, NYB_F32, .n = step->rows, .x = row_of(w, step->out, row),
             .y = row_of(w, step->in, row));
        break;
    case NYB_STEP_QUANTIZE:
        CALL(w, quantize, NYB_F32, .n_blocks = step->rows / NYB_BLOCK,
             .x = row_of(w, step->in, row), .out = row_of(w, step->out, row));
        break;
    case NYB_STEP_QUANTIZE16:
        CALL(w, quantize16, NYB_F32, .n_blocks = step->rows / NYB_BLOCK,
             .x = row_of(w, step->in, row), .out = row_of(w, step->out, row));
        break;
    case NYB_STEP_COMBINE:
        nyb_run_combine(w, step);
        break;
    default:
        break;
    }
}

/* -- Matrices ------------------------------------------------------------------------------- */

/* Where a matrix's tile row lies. */
static const uint8_t *tiles_at(const worker *w, const nyb_step *step, uint64_t tile) {
    const nyb_layout *layout = nyb_layout_of(step->format);
    return weights_of(w, step) + tile * nyb_tile_row_bytes(layout, step->cols / NYB_BLOCK);
}

/* Where the results of a matrix's tile row go. */
static float *results_at(const worker *w, const nyb_step *step, uint64_t tile) {
    return (float *)row_of(w, step->out, 0) + tile * NYB_TILE_ROWS;
}

/* Tile rows of a thread's share that are one in memory, and so are their results: of one matrix, or
 * of neighbours up to the last. */
typedef struct stretch {
    const nyb_step *last;
    const uint8_t *weights;
    float *y;
    uint64_t n_tiles;
} stretch;

/* Whether a step multiplies the same input as another, by weights of the same format. */
static int is_alike(const nyb_step *step, const nyb_step *other) {
    return step->op == other->op && step->format == other->format && step->cols == other->cols &&
           step->in == other->in;
}

/* This thread's share of a matrix, and of those behind it for as long as there is no gap between
 * the weights or between the results. */
static stretch stretch_from(const worker *w, const nyb_step *step, const nyb_step *end) {
    const range tiles = tile_share(w, step);
    const uint64_t n_tiles = tiles.end - tiles.begin;
    stretch s = {step, tiles_at(w, step, tiles.begin), results_at(w, step, tiles.begin), n_tiles};
    const uint64_t row_bytes =
        nyb_tile_row_bytes(nyb_layout_of(step->format), step->cols / NYB_BLOCK);
    for (const nyb_step *next = step + 1; n_tiles && next < end && is_alike(next, step); next++) {
        const range more = tile_share(w, next);
        if (more.begin == more.end ||
            tiles_at(w, next, more.begin) != s.weights + s.n_tiles * row_bytes ||
            results_at(w, next, more.begin) != s.y + s.n_tiles * NYB_TILE_ROWS)
            break;
        s.last = next;
        s.n_tiles += more.end - more.begin;
    }
    return s;
}

/* Whether neither writes where the other does: who is last would depend on the order of a call. */
static int are_apart(const stretch *a, const stretch *b) {
    return a->y + a->n_tiles * NYB_TILE_ROWS <= b->y || b->y + b->n_tiles * NYB_TILE_ROWS <= a->y;
}

/* One call for as many matrices as are one in memory, which a token reads faster than each by
 * itself: where a stream begins, a core reads less for a microsecond. A token reads two streams at
 * once, so a second matrix may be one of them. Returns the last of them. */
static const nyb_step *matmul(const worker *w, const nyb_step *step, const nyb_step *end) {
    const stretch s = stretch_from(w, step, end);
    const uint64_t n_blocks = step->cols / NYB_BLOCK;
    if (s.n_tiles == 0)
        return step;
    if (w->rows == 1) {
        const nyb_step *next = s.last + 1;
        const int may_be_beside = next < end && is_alike(next, step);
        const stretch beside = may_be_beside ? stretch_from(w, next, end) : (stretch){0};
        if (beside.n_tiles == s.n_tiles && are_apart(&s, &beside)) {
            CALL(w, gemv, step->format, .n_tiles = 2 * s.n_tiles, .n_blocks = n_blocks,
                 .w = s.weights, .x = row_of(w, step->in, 0), .y = s.y, .w_beside = beside.weights,
                 .y_beside = beside.y);
            return beside.last;
        }
        CALL(w, gemv, step->format, .n_tiles = s.n_tiles, .n_blocks = n_blocks, .w = s.weights,
             .x = row_of(w, step->in, 0), .y = s.y);
        return s.last;
    }
    const nyb_buffer *buffers = w->bound->program->buffers;
    CALL(w, gemm, step->format, .n_tiles = s.n_tiles, .n_blocks = n_blocks, .n_tokens = w->rows,
         .w = s.weights, .x = row_of(w, step->in, 0),
         .x_stride = buffers[step->in].row_bytes / sizeof(nyb_q8), .y = s.y,
         .y_stride = buffers[step->out].row_bytes / sizeof(float),
         .panel = w->bound->scratch[w->thread].panel);
    return s.last;
}

static void matmul16(const worker *w, const nyb_step *step) {
    const range tiles = tile_share(w, step);
    for (uint64_t row = 0; row < w->rows; row++)
        CALL(w, gemv16, step->format, .n_tiles = tiles.end - tiles.begin,
             .n_blocks = step->cols / NYB_BLOCK, .w = tiles_at(w, step, tiles.begin),
             .x = row_of(w, step->in, row),
             .y = (float *)row_of(w, step->out, row) + tiles.begin * NYB_TILE_ROWS);
}

static void matmul32(const worker *w, const nyb_step *step) {
    const range tiles = tile_share(w, step);
    const uint64_t n_tiles = tiles.end - tiles.begin, n_blocks = step->cols / NYB_BLOCK;
    const uint8_t *weights = tiles_at(w, step, tiles.begin);
    const float *x = row_of(w, step->in, 0);
    float *y = results_at(w, step, tiles.begin);
    const nyb_buffer *buffers = w->bound->program->buffers;
    if (w->rows == 1)
        CALL(w, gemv32, step->format, .n_tiles = n_tiles, .n_blocks = n_blocks, .w = weights,
             .x = x, .y = y);
    else
        CALL(w, gemm32, step->format, .n_tiles = n_tiles, .n_blocks = n_blocks, .n_tokens = w->rows,
             .w = weights, .x = x, .x_stride = buffers[step->in].row_bytes / sizeof(float), .y = y,
             .y_stride = buffers[step->out].row_bytes / sizeof(float));
}

static void bias(const worker *w, const nyb_step *step) {
    const range tiles = tile_share(w, step);
    const uint64_t first = tiles.begin * NYB_TILE_ROWS;
    for (uint64_t row = 0; row < w->rows; row++)
        CALL(w, add, NYB_F32, .n = (tiles.end - tiles.begin) * NYB_TILE_ROWS,
             .x = (float *)row_of(w, step->out, row) + first,
             .y = (const float *)weights_of(w, step) + first);
}

static void activate(const worker *w, const nyb_step *step) {
    const range tiles = tile_share(w, step);
    const uint64_t first = tiles.begin * NYB_TILE_ROWS;
    const uint64_t n = (tiles.end - tiles.begin) * NYB_TILE_ROWS;
    for (uint64_t row = 0; row < w->rows; row++) {
        const float *gate = (const float *)row_of(w, step->in, row) + first;
        const float *up = (const float *)row_of(w, step->in2, row) + first;
        float *out = (float *)row_of(w, step->out, row) + first;
        if (step->op == NYB_STEP_GELU_MUL)
            CALL(w, gelu_mul, NYB_F32, .n = n, .gate = gate, .up = up, .out = out);
        else
            CALL(w, silu_mul, NYB_F32, .n = n, .gate = gate, .up = up, .out = out);
    }
}

/* What a thread has made it quantizes, once for all: the others fetch 48 bytes of its core's cache
 * for each 32 numbers, instead of 128. */
static void quantize_share(const worker *w, const nyb_step *step) {
    const range tiles = tile_share(w, step);
    const uint64_t first = tiles.begin * NYB_TILE_ROWS;
    const uint64_t n_blocks = (tiles.end - tiles.begin) * NYB_TILE_ROWS / NYB_BLOCK;
    for (uint64_t row = 0; row < w->rows; row++)
        CALL(w, quantize, NYB_F32, .n_blocks = n_blocks,
             .x = (const float *)row_of(w, step->in, row) + first,
             .out = (nyb_q8 *)row_of(w, step->out, row) + first / NYB_BLOCK);
}

/* Each thread moves its own columns, row after row: none reads what another writes. Where a single
 * row is left, every thread will look for it in its own. */
static void keep(const worker *w, const nyb_step *step) {
    const nyb_bound *bound = w->bound;
    const range tiles = tile_share(w, step);
    const uint64_t first = tiles.begin * NYB_TILE_ROWS * sizeof(float);
    const uint64_t nbytes = (tiles.end - tiles.begin) * NYB_TILE_ROWS * sizeof(float);
    if (bound->n_wanted == bound->n_tokens)
        return;
    for (uint64_t row = 0; row < bound->n_wanted; row++)
        if (bound->selected[row] != row)
            memcpy((uint8_t *)row_of(w, step->out, row) + first,
                   (uint8_t *)row_of(w, step->out, bound->selected[row]) + first, nbytes);
    if (bound->n_wanted == 1 && bound->program->buffers[step->out].replicated)
        for (uint64_t thread = 1; thread < w->threads; thread++)
            memcpy((uint8_t *)row_of_thread(w, step->out, thread) + first,
                   (uint8_t *)row_of_thread(w, step->out, 0) + first, nbytes);
}

/* Returns the last step that it ran. */
static const nyb_step *run_split_step(const worker *w, const nyb_step *step, const nyb_step *end) {
    switch ((nyb_step_op)step->op) {
    case NYB_STEP_MATMUL:
        return matmul(w, step, end);
    case NYB_STEP_MATMUL16:
        matmul16(w, step);
        break;
    case NYB_STEP_MATMUL32:
        matmul32(w, step);
        break;
    case NYB_STEP_BIAS:
        bias(w, step);
        break;
    case NYB_STEP_SILU_MUL:
    case NYB_STEP_GELU_MUL:
        activate(w, step);
        break;
    case NYB_STEP_QUANTIZE_SHARE:
        quantize_share(w, step);
        break;
    case NYB_STEP_APPEND:
        nyb_run_append(w, step);
        break;
    case NYB_STEP_ATTEND:
        nyb_run_attend(w, step);
        break;
    case NYB_STEP_KEEP:
        keep(w, step);
        break;
    default:
        break;
    }
    return step;
}

/* -- Phases --------------------------------------------------------------------------------- */

static int is_split(const nyb_step *step) { return step->op >= NYB_STEP_FIRST_SPLIT; }

/* ATTEND appends a single token itself. */
static int has_work(const nyb_step *step, uint32_t rows) {
    return rows > 1 || (rows == 1 && step->op != NYB_STEP_APPEND);
}

static void run_row_part(const worker *w, nyb_team *team, const nyb_step *step,
                         const nyb_step *end) {
    const range rows = w->row_is_repeated ? (range){0, 1} : share(w, w->rows);
    for (; step < end && !is_split(step); step++) {
        for (uint64_t row = rows.begin; row < rows.end; row++)
            run_row_step(w, step, row);
        if (step->op == NYB_STEP_COMBINE && nyb_combine_is_divided(w, step))
            nyb_barrier(team, w->threads);
    }
}

static void run_split_part(const worker *w, const nyb_step *step, const nyb_step *end) {
    for (; step < end; step++)
        if (is_split(step))
            step = run_split_step(w, step, end);
}

/* One thread's way through the whole program. All threads take the same turns, so they meet at
 * the same barriers: one where a phase ends, and one after row steps that were divided, be it by
 * rows or by heads. */
static void run_program(void *context, nyb_team *team, uint32_t thread, uint32_t threads) {
    const nyb_bound *bound = context;
    const nyb_step *step = bound->program->steps, *end = step + bound->program->n_steps;
    while (step < end) {
        const nyb_step *next = step + 1;
        while (!(next[-1].flags & NYB_ENDS_PHASE))
            next++;
        const uint32_t rows = step->flags & NYB_ON_LOGITS   ? bound->n_logits
                              : step->flags & NYB_ON_HIDDEN ? bound->n_hidden
                              : step->flags & NYB_ON_WANTED ? bound->n_wanted
                                                            : bound->n_tokens;
        const worker w = {bound, thread, threads, rows, rows == 1};
        if (has_work(step, rows)) {
            run_row_part(&w, team, step, next);
            if (rows > 1 && !is_split(step))
                nyb_barrier(team, threads);
            run_split_part(&w, step, next);
            nyb_barrier(team, threads);
        }
        step = next;
    }
}

/* -- The batch ------------------------------------------------------------------------------ */

static int check_span(const nyb_bound *bound, const nyb_batch *batch, uint64_t at,
                      nyb_error *error) {
    const nyb_limits *limits = &bound->limits;
    const nyb_span *span = &batch->spans[at];
    const uint64_t end = (uint64_t)span->position + span->n;
    if (span->n == 0)
        return nyb_fail(error, "a span has no tokens", at, 0);
    if (end > (uint64_t)limits->max_pages * NYB_PAGE)
        return nyb_fail(error, "a span goes beyond the context", at, end);
    for (uint32_t i = 0; i < span->n; i++)
        if (span->ids[i] < 0 || (uint32_t)span->ids[i] >= bound->program->vocab)
            return nyb_fail(error, "a token is not in the vocabulary", i, (uint64_t)span->ids[i]);
    if (span->slot >= limits->sequences)
        return nyb_fail(error, "a span names an unknown slot", at, span->slot);
    for (uint64_t s = 0; s < at; s++) /* the keys of one would be written over the other's */
        if (batch->spans[s].slot == span->slot)
            return nyb_fail(error, "two spans of a batch name one slot", at, span->slot);
    for (uint64_t p = 0; p < (end + NYB_PAGE - 1) / NYB_PAGE; p++)
        if (span->pages[p] >= limits->n_pages)
            return nyb_fail(error, "a span names an unknown page", p, span->pages[p]);
    return 0;
}

static int load_batch(nyb_bound *bound, const nyb_batch *batch, nyb_error *error) {
    int wants_hidden = 0;
    bound->n_tokens = bound->n_logits = 0;
    for (uint32_t s = 0; s < batch->n_spans; s++) {
        const nyb_span *span = &batch->spans[s];
        if (check_span(bound, batch, s, error))
            return -1;
        if (span->n > bound->limits.max_tokens - bound->n_tokens)
            return nyb_fail(error, "a batch has too many tokens", s, span->n);
        const uint32_t wanted = span->want == NYB_WANT_ALL ? span->n : span->want == NYB_WANT_LAST;
        wants_hidden |= span->want == NYB_WANT_HIDDEN;
        if (wanted > bound->limits.max_logits - bound->n_logits)
            return nyb_fail(error, "a batch wants too many logits", s, wanted);
        for (uint32_t i = 0; i < span->n; i++) {
            if (i >= span->n - wanted)
                bound->selected[bound->n_logits++] = bound->n_tokens;
            bound->tokens[bound->n_tokens++] =
                (nyb_token){(uint32_t)span->ids[i], span->position + i, span->slot, span->pages};
        }
    }
    const int wants_all = wants_hidden || bound->n_tokens == 1;
    bound->n_hidden = wants_hidden ? bound->n_tokens : 0;
    bound->n_wanted = wants_all ? bound->n_tokens : bound->n_logits;
    return 0;
}

int nyb_run(nyb_bound *bound, const nyb_batch *batch, nyb_error *error) {
    if (load_batch(bound, batch, error))
        return -1;
    const nyb_tuning *tuning = &bound->tuning;
    nyb_pool_run(bound->n_tokens == 1 ? tuning->decode_threads : tuning->prefill_threads,
                 run_program, bound);
    return 0;
}

const float *nyb_logits(const nyb_bound *bound, uint32_t i) {
    const uint32_t number = bound->program->logits;
    return (const float *)(bound->buffers[number] +
                           (uint64_t)i * bound->program->buffers[number].row_bytes);
}

const float *nyb_hidden(const nyb_bound *bound, uint32_t i) {
    const uint32_t number = bound->program->hidden;
    return (const float *)(bound->buffers[number] +
                           (uint64_t)i * bound->program->buffers[number].row_bytes);
}
