/* SPDX-License-Identifier: MIT
 * Running a bound program: a batch of tokens through the phases.
 *
 * Work is divided by thread number and number of threads only, never by what is free: so every
 * result has one owner and one order of operations, and the bits do not depend on the threads.
 */
#include <string.h>

#include "layout.h"
#include "nyb_pool.h"

/* One thread's view of the phase at hand. */
typedef struct worker {
    const nyb_bound *bound;
    uint32_t thread, threads;
    uint32_t rows;       /* of the phase: tokens, or those of them that its flags say */
    int row_is_repeated; /* a single row: every thread computes the row steps for itself */
} worker;

/* A range of units, rows or tile rows. */
typedef struct range {
    uint64_t begin, end;
} range;

static range share(const worker *w, uint64_t n) {
    return (range){n * w->thread / w->threads, n * (w->thread + 1) / w->threads};
}

/* This thread's tile rows of a step whose units begin at step->unit of the phase's. */
static range tile_share(const worker *w, const nyb_step *step) {
    const uint64_t first = step->unit, tiles = nyb_tiles(step->rows);
    const range r = share(w, step->n_units);
    const uint64_t begin = r.begin > first ? r.begin : first;
    const uint64_t end = r.end < first + tiles ? r.end : first + tiles;
    return begin < end ? (range){begin - first, end - first} : (range){0, 0};
}

/* Row `row` of a buffer; of a replicated one, when the phase has one row, this thread's own. */
static void *row_of(const worker *w, uint32_t number, uint64_t row) {
    const nyb_buffer *b = &w->bound->program->buffers[number];
    if (w->row_is_repeated && b->replicated)
        row = w->thread;
    return w->bound->buffers[number] + row * b->row_bytes;
}

static const uint8_t *weights_of(const worker *w, const nyb_step *step) {
    return w->bound->weights + step->weights;
}

static const nyb_row *row_for(const worker *w, nyb_op op, uint32_t format) {
    return w->bound->rows.of[op][format];
}

/* Calls the row chosen for an operation and a format with the arguments that follow. */
#define CALL(w, op, format, ...)                                                                   \
    (row_for(w, NYB_OP_##op, format)->run.op(&(nyb_##op##_args){__VA_ARGS__}))

/* -- Row steps ---------------------------------------------------------------------------- */

/* The token of a row, by number, in a phase of wanted tokens or of logits. */
static uint64_t wanted(const nyb_bound *bound, uint64_t row) {
    return bound->n_wanted == bound->n_tokens ? row : bound->selected[row];
}

static uint64_t token_number(const worker *w, const nyb_step *step, uint64_t row) {
    if (step->flags & NYB_ON_LOGITS)
        return w->bound->selected[row];
    return step->flags & NYB_ON_WANTED ? wanted(w->bound, row) : row;
}

static const nyb_token *token_of(const worker *w, const nyb_step *step, uint64_t row) {
    return &w->bound->tokens[token_number(w, step, row)];
}

/* A row of a buffer that phases of so many rows have written. */
static void *row_among(const worker *w, uint32_t rows, uint32_t number, uint64_t row) {
    worker among = *w;
    among.row_is_repeated = rows == 1;
    return row_of(&among, number, row);
}

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

/* The pages that a token sees, by number within its sequence. */
static range pages_seen(const nyb_attention *a, uint64_t position) {
    return (range){nyb_first_seen(a, position) / NYB_PAGE, position / NYB_PAGE + 1};
}

/* What is stored as int8 is rotated before, in blocks of the columns that share a scale, or of the
 * largest power of two that divides a head. With the keys the queries are, and what is summed of
 * the values is rotated back. */
static void rotate(const worker *w, const nyb_attention *a, const float *x, float *out) {
    const uint64_t n_block = (NYB_BLOCK | a->head_dim) & (0 - (uint64_t)(NYB_BLOCK | a->head_dim));
    CALL(w, hadamard, NYB_F32, .n = a->head_dim, .n_block = n_block, .x = x, .out = out);
}

static int keys_are_rotated(const worker *w) { return w->bound->limits.kv == NYB_KV_INT8; }
static int values_are_rotated(const worker *w) { return w->bound->limits.kv != NYB_KV_F16; }

static void join(const worker *w, const nyb_attention *a, const float *parts, uint64_t n_parts,
                 uint64_t stride, float *out) {
    CALL(w, combine, NYB_F32, .head_dim = a->head_dim, .n_parts = n_parts, .parts = parts,
         .stride = stride, .out = out);
    if (values_are_rotated(w))
        rotate(w, a, out, out);
}

/* What ATTEND left of a single token: for each query head the parts of its pages. */
static void combine_pages(const worker *w, const nyb_step *step) {
    const nyb_attention *a = &w->bound->program->attentions[step->index];
    const uint64_t stride = nyb_part_stride(a->head_dim);
    const range pages = pages_seen(a, token_of(w, step, 0)->position);
    float *out = row_of(w, a->out, 0);
    for (uint64_t h = 0; h < a->heads; h++)
        join(w, a, w->bound->parts + h * w->bound->limits.max_pages * stride,
             pages.end - pages.begin, stride, out + h * a->head_dim);
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
        if (w->rows == 1) /* ATTEND joins the pages of several tokens itself */
            combine_pages(w, step);
        break;
    default:
        break;
    }
}

/* -- Matrices ------------------------------------------------------------------------------- */

/* This thread's tile rows of a matrix, as bytes. */
static const uint8_t *tiles_at(const worker *w, const nyb_step *step, uint64_t tile) {
    const nyb_layout *layout = nyb_layout_of(step->format);
    return weights_of(w, step) + tile * nyb_tile_row_bytes(layout, step->cols / NYB_BLOCK);
}

static void matmul(const worker *w, const nyb_step *step) {
    const range tiles = tile_share(w, step);
    const uint64_t n_blocks = step->cols / NYB_BLOCK;
    const uint8_t *weights = tiles_at(w, step, tiles.begin);
    float *y = (float *)row_of(w, step->out, 0) + tiles.begin * NYB_TILE_ROWS;
    if (tiles.begin == tiles.end)
        return;
    if (w->rows == 1) {
        CALL(w, gemv, step->format, .n_tiles = tiles.end - tiles.begin, .n_blocks = n_blocks,
             .w = weights, .x = row_of(w, step->in, 0), .y = y);
        return;
    }
    const nyb_buffer *buffers = w->bound->program->buffers;
    CALL(w, gemm, step->format, .n_tiles = tiles.end - tiles.begin, .n_blocks = n_blocks,
         .n_tokens = w->rows, .w = weights, .x = row_of(w, step->in, 0),
         .x_stride = buffers[step->in].row_bytes / sizeof(nyb_q8), .y = y,
         .y_stride = buffers[step->out].row_bytes / sizeof(float),
         .panel = w->bound->scratch[w->thread].panel);
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
    float *y = (float *)row_of(w, step->out, 0) + tiles.begin * NYB_TILE_ROWS;
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

/* -- Attention ------------------------------------------------------------------------------ */

/* One KV head of one attention layer, as a thread works on it. */
typedef struct head {
    const worker *w;
    const nyb_attention *a;
    uint8_t *pages; /* in the KV arena */
    uint64_t ring;  /* pages; 0 without a window */
    uint64_t kv_head;
    uint64_t group; /* query heads that share it */
} head;

static uint8_t *pages_of(const nyb_bound *bound, uint64_t attention, uint64_t kv_head) {
    const nyb_attention *a = &bound->program->attentions[attention];
    return bound->kv + bound->layers[attention] +
           kv_head * nyb_layer_pages(a, &bound->limits) * nyb_head_page_bytes(a, bound->limits.kv);
}

static head head_of(const worker *w, const nyb_step *step, uint64_t kv_head) {
    const nyb_attention *a = &w->bound->program->attentions[step->index];
    return (head){w,
                  a,
                  pages_of(w->bound, step->index, kv_head),
                  nyb_ring_pages(a, &w->bound->limits),
                  kv_head,
                  a->heads / a->kv_heads};
}

/* A page of the token's sequence in the cache: the keys, and what lies behind them. */
typedef struct kv_page {
    uint8_t *k, *v;
    uint16_t *k_scales, *v_scales; /* behind the numbers, where these are int8 */
} kv_page;

static kv_page page_of(const head *h, const nyb_token *token, uint64_t page) {
    const uint32_t kv = h->w->bound->limits.kv;
    const uint64_t at = h->ring ? token->slot * h->ring + page % h->ring : token->pages[page];
    uint8_t *k = h->pages + at * nyb_head_page_bytes(h->a, kv);
    uint8_t *v = k + nyb_keys_bytes(h->a, kv);
    const uint64_t numbers = NYB_PAGE * (uint64_t)h->a->head_dim;
    return (kv_page){k, v, (uint16_t *)(k + numbers), (uint16_t *)(v + numbers)};
}

/* A token's head of a query or key as the scores need it: normed, if this attention does that (with
 * the weights at byte `norm`), rotated and scaled. */
static void prepare(const head *h, uint64_t token, uint64_t norm, float scale, const float *x,
                    float *out) {
    const float *angles = row_among(h->w, h->w->bound->n_tokens, h->a->angles, token);
    if (h->a->eps > 0) {
        CALL(h->w, rmsnorm, NYB_F32, .n = h->a->head_dim, .eps = h->a->eps, .x = x,
             .w = (const float *)(h->w->bound->weights + norm), .out = out);
        x = out;
    }
    CALL(h->w, rope, NYB_F32, .n = h->w->bound->program->ropes[h->a->rope].n,
         .head_dim = h->a->head_dim, .angles = angles, .scale = scale, .x = x, .out = out);
}

/* The key (prepared) and value of a token, which are in its row, go to their place in the cache. */
static void append(const head *h, uint64_t number) {
    const worker *w = h->w;
    const nyb_token *token = &w->bound->tokens[number];
    const uint64_t dim = h->a->head_dim, first = h->kv_head * dim;
    const kv_page page = page_of(h, token, token->position / NYB_PAGE);
    float *key = w->bound->scratch[w->thread].key;
    const float *value = (const float *)row_of(w, h->a->v, number) + first;
    prepare(h, number, h->a->k_norm, 1, (const float *)row_of(w, h->a->k, number) + first, key);
    if (keys_are_rotated(w))
        rotate(w, h->a, key, key);
    if (values_are_rotated(w)) {
        rotate(w, h->a, value, key + dim);
        value = key + dim;
    }
    CALL(w, append, w->bound->limits.kv, .head_dim = dim,
         .position_in_page = token->position % NYB_PAGE, .key = key, .value = value, .k = page.k,
         .v = page.v, .k_scales = page.k_scales, .v_scales = page.v_scales);
}

/* The group's queries of a row's token, prepared, in this thread's scratch. */
static const float *queries(const head *h, uint64_t row, uint64_t token) {
    const uint64_t first = h->kv_head * h->group * h->a->head_dim;
    const float *q = (const float *)row_of(h->w, h->a->q, row) + first;
    float *out = h->w->bound->scratch[h->w->thread].query;
    for (uint64_t i = 0; i < h->group; i++, q += h->a->head_dim) {
        float *one = out + i * h->a->head_dim;
        prepare(h, token, h->a->q_norm, h->a->scale, q, one);
        if (keys_are_rotated(h->w))
            rotate(h->w, h->a, one, one);
    }
    return out;
}

/* The group's attention to one page, before the keys at `next` are read: query i's part goes to
 * parts + i * stride. */
static void attend_page(const head *h, const float *q, const nyb_token *token, uint64_t page,
                        const void *next, float *parts, uint64_t stride) {
    const kv_page kv = page_of(h, token, page);
    const uint64_t begin = page * NYB_PAGE, seen = nyb_first_seen(h->a, token->position);
    const uint64_t behind = token->position - begin + 1;
    CALL(h->w, attend, h->w->bound->limits.kv, .head_dim = h->a->head_dim, .n_queries = h->group,
         .first = seen > begin ? seen - begin : 0, .end = behind < NYB_PAGE ? behind : NYB_PAGE,
         .q = q, .k = kv.k, .v = kv.v, .k_scales = kv.k_scales, .v_scales = kv.v_scales,
         .next = next, .scores = h->w->bound->scratch[h->w->thread].scores, .out = parts,
         .out_stride = stride);
}

/* A single row: the units are (KV head, page), so that a long context feeds every thread. If it is
 * the batch's only token, the owner of a head's newest page appends to it first. COMBINE joins the
 * parts in the next phase. */
static void attend_single(const worker *w, const nyb_step *step) {
    const nyb_attention *a = &w->bound->program->attentions[step->index];
    const uint64_t number = token_number(w, step, 0);
    const nyb_token *token = &w->bound->tokens[number];
    const range pages = pages_seen(a, token->position);
    const uint64_t n_pages = pages.end - pages.begin;
    const uint64_t part = nyb_part_stride(a->head_dim);
    const uint64_t stride = w->bound->limits.max_pages * part;
    const range units = share(w, a->kv_heads * n_pages);
    const float *q = NULL;
    for (uint64_t u = units.begin; u < units.end; u++) {
        const head h = head_of(w, step, u / n_pages);
        const uint64_t i = u % n_pages;
        if (!q || i == 0)
            q = queries(&h, 0, number);
        if (w->bound->n_tokens == 1 && i == n_pages - 1)
            append(&h, 0);
        const uint64_t following = u + 1 < units.end ? u + 1 : u;
        const head next = head_of(w, step, following / n_pages);
        attend_page(&h, q, token, pages.begin + i,
                    page_of(&next, token, pages.begin + following % n_pages).k,
                    w->bound->parts + h.kv_head * h.group * stride + i * part, stride);
    }
}

/* Several rows: the units are (KV head, row), all pages at once and joined on the spot. */
static void attend_several(const worker *w, const nyb_step *step) {
    const nyb_attention *a = &w->bound->program->attentions[step->index];
    const uint64_t part = nyb_part_stride(a->head_dim);
    const uint64_t stride = w->bound->limits.max_pages * part;
    float *parts = w->bound->scratch[w->thread].parts;
    const range units = share(w, (uint64_t)a->kv_heads * w->rows);
    for (uint64_t u = units.begin; u < units.end; u++) {
        const head h = head_of(w, step, u / w->rows);
        const uint64_t row = u % w->rows;
        const uint64_t number = token_number(w, step, row);
        const nyb_token *token = &w->bound->tokens[number];
        const range pages = pages_seen(a, token->position);
        const float *q = queries(&h, row, number);
        for (uint64_t page = pages.begin; page < pages.end; page++) {
            const uint64_t next = page + 1 < pages.end ? page + 1 : pages.begin;
            attend_page(&h, q, token, page, page_of(&h, token, next).k,
                        parts + (page - pages.begin) * part, stride);
        }
        float *out = (float *)row_of(w, a->out, row) + h.kv_head * h.group * a->head_dim;
        for (uint64_t i = 0; i < h.group; i++)
            join(w, a, parts + i * stride, pages.end - pages.begin, part, out + i * a->head_dim);
    }
}

/* Several tokens see each other's keys, so these are appended a phase earlier. */
static void append_several(const worker *w, const nyb_step *step) {
    const nyb_attention *a = &w->bound->program->attentions[step->index];
    const range units = share(w, (uint64_t)a->kv_heads * w->rows);
    for (uint64_t u = units.begin; u < units.end; u++) {
        const head h = head_of(w, step, u / w->rows);
        append(&h, u % w->rows);
    }
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
            memcpy((uint8_t *)row_of(w, step->out, thread) + first,
                   (uint8_t *)row_of(w, step->out, 0) + first, nbytes);
}

static void run_split_step(const worker *w, const nyb_step *step) {
    switch ((nyb_step_op)step->op) {
    case NYB_STEP_MATMUL:
        matmul(w, step);
        break;
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
    case NYB_STEP_APPEND:
        append_several(w, step);
        break;
    case NYB_STEP_ATTEND:
        if (w->rows > 1)
            attend_several(w, step);
        else
            attend_single(w, step);
        break;
    case NYB_STEP_KEEP:
        keep(w, step);
        break;
    default:
        break;
    }
}

/* -- Phases --------------------------------------------------------------------------------- */

static int is_split(const nyb_step *step) { return step->op >= NYB_STEP_FIRST_SPLIT; }

/* ATTEND appends a single token itself. */
static int has_work(const nyb_step *step, uint32_t rows) {
    return rows > 1 || (rows == 1 && step->op != NYB_STEP_APPEND);
}

static void run_row_part(const worker *w, const nyb_step *step, const nyb_step *end) {
    const range rows = w->row_is_repeated ? (range){0, 1} : share(w, w->rows);
    for (; step < end && !is_split(step); step++)
        for (uint64_t row = rows.begin; row < rows.end; row++)
            run_row_step(w, step, row);
}

static void run_split_part(const worker *w, const nyb_step *step, const nyb_step *end) {
    for (; step < end; step++)
        if (is_split(step))
            run_split_step(w, step);
}

/* One thread's way through the whole program. All threads take the same turns, so they meet at
 * the same barriers: one where a phase ends, and one after row steps that were divided. */
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
            run_row_part(&w, step, next);
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

int nyb_can_rewind(const nyb_bound *bound, uint64_t written, uint64_t kept) {
    if (kept == 0)
        return 1;
    for (uint32_t i = 0; i < bound->program->n_attentions; i++) {
        const nyb_attention *a = &bound->program->attentions[i];
        const uint64_t ring = nyb_ring_pages(a, &bound->limits) * NYB_PAGE;
        if (ring && written > nyb_first_seen(a, kept) + ring)
            return 0;
    }
    return 1;
}

void nyb_clear_page(nyb_bound *bound, uint32_t page) {
    if (page >= bound->limits.n_pages)
        return;
    for (uint32_t i = 0; i < bound->program->n_attentions; i++) {
        const nyb_attention *a = &bound->program->attentions[i];
        const uint64_t bytes = nyb_head_page_bytes(a, bound->limits.kv);
        for (uint64_t h = 0; !a->window && h < a->kv_heads; h++)
            memset(pages_of(bound, i, h) + page * bytes, 0, bytes);
    }
}

void nyb_clear_slot(nyb_bound *bound, uint32_t slot) {
    if (slot >= bound->limits.sequences)
        return;
    for (uint32_t i = 0; i < bound->program->n_attentions; i++) {
        const nyb_attention *a = &bound->program->attentions[i];
        const uint64_t bytes =
            nyb_ring_pages(a, &bound->limits) * nyb_head_page_bytes(a, bound->limits.kv);
        for (uint64_t h = 0; h < a->kv_heads; h++)
            memset(pages_of(bound, i, h) + slot * bytes, 0, bytes);
    }
}
