/* SPDX-License-Identifier: MIT
 * Binding: checks a program once, lays out the working memory, chooses rows.
 *
 * After nyb_bind no step can reach outside its arenas, whatever the program says: a program may
 * come from a file.
 */
#include <float.h>
#include <string.h>

#include "layout.h"
#include "nyb_pool.h"

/* The largest number that a shape may hold; keeps every product below within 64 bits. */
enum { MAX_SHAPE = 1 << 24 };

/* The most steps, buffers, attentions or layers: keeps every sum within 64 bits. */
enum { MAX_COUNT = 1 << 16 };

/* Hands out pieces of the working memory; with a NULL base it only counts. */
typedef struct allocator {
    uint8_t *base;
    uint64_t used;
} allocator;

static void *take(allocator *a, uint64_t bytes) {
    uint8_t *p = a->base ? a->base + a->used : NULL;
    a->used += (bytes + 63) / 64 * 64;
    return p;
}

static uint64_t max64(uint64_t a, uint64_t b) { return a > b ? a : b; }

static void lay_out(const nyb_program *program, nyb_bound *bound, allocator *work) {
    const nyb_limits *limits = &bound->limits;
    uint64_t panel = 0, group = 0, head_dim = 0, parts = 0, group_parts = 0;
    for (uint32_t i = 0; i < program->n_steps; i++) {
        const nyb_step *step = &program->steps[i];
        if (step->op != NYB_STEP_MATMUL)
            continue;
        const nyb_row *gemm = bound->rows.of[NYB_OP_gemm][step->format];
        const uint64_t panel_bytes = max64(gemm->panel_bytes, limits->panel);
        panel = max64(panel, panel_bytes * (step->cols / NYB_BLOCK));
    }
    for (uint32_t i = 0; i < program->n_attentions; i++) {
        const nyb_attention *a = &program->attentions[i];
        const uint64_t stride = nyb_part_stride(a->head_dim) * (uint64_t)limits->max_pages;
        group = max64(group, a->heads / a->kv_heads);
        head_dim = max64(head_dim, a->head_dim);
        parts = max64(parts, a->heads * stride);
        group_parts = max64(group_parts, a->heads / a->kv_heads * stride);
    }

    bound->buffers = take(work, program->n_buffers * sizeof *bound->buffers);
    for (uint32_t i = 0; i < program->n_buffers; i++) {
        const nyb_buffer *b = &program->buffers[i];
        uint64_t rows = b->on_logits ? limits->max_logits : limits->max_tokens;
        if (b->replicated)
            rows = max64(rows, limits->threads);
        uint8_t *p = b->part_of ? NULL : take(work, rows * b->row_bytes);
        if (work->base && b->part_of)
            p = bound->buffers[b->part_of - 1] + b->offset;
        if (p)
            bound->buffers[i] = p;
    }
    bound->layers = take(work, program->n_attentions * sizeof *bound->layers);
    bound->tokens = take(work, limits->max_tokens * sizeof *bound->tokens);
    bound->selected = take(work, limits->max_logits * sizeof *bound->selected);
    bound->parts = take(work, parts * sizeof(float));
    bound->scratch = take(work, limits->threads * sizeof *bound->scratch);
    for (uint32_t t = 0; t < limits->threads; t++) {
        const nyb_scratch scratch = {
            .query = take(work, group * head_dim * sizeof(float)),
            .key = take(work, 2 * head_dim * sizeof(float)),
            .scores = take(work, group * NYB_PAGE * sizeof(float)),
            .parts = take(work, group_parts * sizeof(float)),
            .panel = take(work, panel),
        };
        if (work->base)
            bound->scratch[t] = scratch;
    }
}

#define CHECK(condition, what, value)                                                              \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return nyb_fail(error, what, at, (uint64_t)(value));                                   \
    } while (0)

/* The bytes of n numbers as each kind of buffer holds them. */
static uint64_t floats(uint64_t n) { return n * sizeof(float); }

static uint64_t held_bytes(nyb_buffer_holds holds, uint64_t n) {
    switch (holds) {
    case NYB_HOLDS_Q8:
        return n / NYB_BLOCK * sizeof(nyb_q8);
    case NYB_HOLDS_Q16:
        return n / NYB_BLOCK * sizeof(nyb_q16);
    default:
        return floats(n);
    }
}

static int check_place(const nyb_program *program, uint64_t at, nyb_error *error) {
    const nyb_buffer *b = &program->buffers[at];
    CHECK(b->row_bytes % 64 == 0 && b->row_bytes <= 16 * MAX_SHAPE,
          "a buffer's row is not a multiple of 64 bytes", b->row_bytes);
    CHECK(b->part_of <= at, "a buffer is part of none before it", b->part_of);
    CHECK(b->part_of || b->offset == 0, "a buffer that is no part has an offset", b->offset);
    if (b->part_of == 0)
        return 0;
    CHECK(b->offset % 64 == 0, "a part's offset is not a multiple of 64", b->offset);
    CHECK(b->offset <= b->row_bytes, "a part begins outside its row", b->offset);
    const nyb_buffer *whole = &program->buffers[b->part_of - 1];
    CHECK(whole->part_of == 0, "a buffer is part of a part", b->part_of);
    CHECK(whole->row_bytes == b->row_bytes && !whole->on_logits == !b->on_logits &&
              !whole->replicated == !b->replicated,
          "a buffer has other rows than the whole", b->part_of);
    CHECK(whole->holds == NYB_HOLDS_FLOATS && b->holds == NYB_HOLDS_FLOATS,
          "a buffer of blocks has parts", b->part_of);
    return 0;
}

/* A buffer in which a step has a vector of n numbers: known, for what it `holds`, wide enough, and
 * with the rows that the step has. */
static int check_held(const nyb_program *program, uint32_t number, nyb_buffer_holds holds,
                      uint64_t n, uint32_t flags, uint64_t at, nyb_error *error) {
    CHECK(number < program->n_buffers, "a step names an unknown buffer", number);
    const nyb_buffer *b = &program->buffers[number];
    CHECK(b->holds == (uint32_t)holds, "a step's buffer is for numbers of another kind", number);
    CHECK(held_bytes(holds, n) <= b->row_bytes - b->offset,
          "a step's vector is longer than its buffer", n);
    CHECK(!b->on_logits == !(flags & NYB_ON_LOGITS), "a step's rows are not its buffer's", number);
    return 0;
}

static int check_buffer(const nyb_program *program, uint32_t number, uint64_t n, uint32_t flags,
                        uint64_t at, nyb_error *error) {
    return check_held(program, number, NYB_HOLDS_FLOATS, n, flags, at, error);
}

static int check_weights(const nyb_program *program, uint64_t weights, uint64_t bytes, uint64_t at,
                         nyb_error *error) {
    CHECK(weights % 32 == 0, "weights are not aligned", weights);
    CHECK(weights <= program->weights_bytes && bytes <= program->weights_bytes - weights,
          "weights lie outside their arena", weights);
    return 0;
}

static int has_row(const nyb_rows *rows, nyb_op op, uint32_t format) {
    return format < NYB_FORMATS && rows->of[op][format] != NULL;
}

static uint64_t tiled(uint64_t rows) { return nyb_tiles((uint32_t)rows) * NYB_TILE_ROWS; }

static int check_matrix(const nyb_program *program, const nyb_rows *rows, const nyb_step *step,
                        nyb_op op, uint64_t at, nyb_error *error) {
    CHECK(has_row(rows, op, step->format), "no kernel for weights of this format", step->format);
    const nyb_layout *layout = nyb_layout_of(step->format);
    CHECK(layout != NULL, "no layout for weights of this format", step->format);
    CHECK(step->cols % NYB_BLOCK == 0 && step->cols % layout->block_cols == 0,
          "columns are not a multiple of the format's block", step->cols);
    const uint64_t row_bytes = nyb_tile_row_bytes(layout, step->cols / NYB_BLOCK);
    return check_weights(program, step->weights, nyb_tiles(step->rows) * row_bytes, at, error);
}

static int check_units(const nyb_step *step, uint64_t at, nyb_error *error) {
    CHECK((uint64_t)step->unit + nyb_tiles(step->rows) <= step->n_units,
          "a step's units go beyond its phase's", step->unit);
    const uint32_t whole = NYB_BLOCK / NYB_TILE_ROWS;
    CHECK(!(step->flags & NYB_BY_BLOCKS) || (step->unit % whole == 0 && step->n_units % whole == 0),
          "units that are divided by blocks are not of whole ones", step->unit);
    return 0;
}

/* A matrix of floats times floats. */
static int check_matmul32(const nyb_program *program, const nyb_rows *rows, const nyb_step *s,
                          uint64_t at, nyb_error *error) {
    CHECK(has_row(rows, NYB_OP_gemm32, s->format), "no kernel for weights of this format",
          s->format);
    if (check_buffer(program, s->in, s->cols, s->flags, at, error) ||
        check_buffer(program, s->out, tiled(s->rows), s->flags, at, error) ||
        check_units(s, at, error))
        return -1;
    return check_matrix(program, rows, s, NYB_OP_gemv32, at, error);
}

/* The norms of an attention's q and k, if it has any. */
static int check_head_norms(const nyb_program *program, const nyb_attention *a, uint64_t at,
                            nyb_error *error) {
    if (a->eps == 0)
        return 0;
    CHECK(a->eps >= FLT_MIN, "the norm's epsilon must be 2^-126 or more", 0);
    if (check_weights(program, a->q_norm, floats(a->head_dim), at, error))
        return -1;
    return check_weights(program, a->k_norm, floats(a->head_dim), at, error);
}

static int check_attention(const nyb_program *program, uint64_t at, nyb_error *error) {
    const nyb_attention *a = &program->attentions[at];
    CHECK(a->heads > 0 && a->heads <= MAX_SHAPE, "heads out of range", a->heads);
    CHECK(a->kv_heads > 0 && a->heads % a->kv_heads == 0, "heads do not divide", a->kv_heads);
    CHECK(a->head_dim > 0 && a->head_dim <= 4096 && a->head_dim % NYB_LANES == 0,
          "the head's dimension is not a multiple of 8 up to 4,096", a->head_dim);
    CHECK(a->rope < program->n_ropes, "an attention names an unknown rope", a->rope);
    const nyb_rope *rope = &program->ropes[a->rope];
    CHECK(rope->n > 0 && rope->n % NYB_LANES == 0 && 2 * (uint64_t)rope->n <= a->head_dim,
          "the rope does not fit the head", rope->n);
    CHECK((uint64_t)rope->first + rope->n <= program->n_turns, "the rope's turns are missing",
          rope->first);
    const uint64_t kv = (uint64_t)a->kv_heads * a->head_dim;
    const uint64_t q = (uint64_t)a->heads * a->head_dim;
    if (check_buffer(program, a->q, q, 0, at, error) ||
        check_buffer(program, a->k, kv, 0, at, error) ||
        check_buffer(program, a->v, kv, 0, at, error) ||
        check_buffer(program, a->angles, 2 * (uint64_t)rope->n, 0, at, error) ||
        check_buffer(program, a->out, q, 0, at, error))
        return -1;
    return check_head_norms(program, a, at, error);
}

static int check_step(const nyb_program *program, const nyb_rows *rows, uint64_t at,
                      nyb_error *error) {
    const nyb_step *s = &program->steps[at];
    const uint32_t flags = s->flags;
    CHECK(s->op < NYB_STEP_OPS, "unknown step", s->op);
    CHECK(s->rows <= MAX_SHAPE && s->cols <= MAX_SHAPE, "a shape is too large", s->rows);

    switch ((nyb_step_op)s->op) {
    case NYB_STEP_ROPE_ANGLES:
        CHECK(s->index < program->n_ropes, "a step names an unknown rope", s->index);
        const nyb_rope *rope = &program->ropes[s->index];
        CHECK((uint64_t)rope->first + rope->n <= program->n_turns, "the rope's turns are missing",
              rope->first);
        CHECK(rope->n % NYB_LANES == 0, "the rope is not a multiple of 8", rope->n);
        return check_buffer(program, s->out, 2 * (uint64_t)rope->n, flags, at, error);
    case NYB_STEP_SELECT:
        CHECK(flags & NYB_ON_LOGITS, "a selection must be of logits", flags);
        if (check_buffer(program, s->in, s->rows, 0, at, error))
            return -1;
        return check_buffer(program, s->out, s->rows, flags, at, error);
    case NYB_STEP_NORM:
        CHECK(s->rows % NYB_LANES == 0, "a vector is not a multiple of 8", s->rows);
        CHECK(s->value >= FLT_MIN, "the norm's epsilon must be 2^-126 or more", 0);
        if (check_buffer(program, s->in, s->rows, flags, at, error) ||
            check_buffer(program, s->out, s->rows, flags, at, error))
            return -1;
        return check_weights(program, s->weights, floats(s->rows), at, error);
    case NYB_STEP_ADD:
        CHECK(s->rows % NYB_LANES == 0, "a vector is not a multiple of 8", s->rows);
        if (check_buffer(program, s->in, s->rows, flags, at, error))
            return -1;
        return check_buffer(program, s->out, s->rows, flags, at, error);
    case NYB_STEP_QUANTIZE:
    case NYB_STEP_QUANTIZE16:
        CHECK(s->rows % NYB_BLOCK == 0, "a vector is not a multiple of 32", s->rows);
        if (check_buffer(program, s->in, s->rows, flags, at, error))
            return -1;
        return check_held(program, s->out,
                          s->op == NYB_STEP_QUANTIZE ? NYB_HOLDS_Q8 : NYB_HOLDS_Q16, s->rows, flags,
                          at, error);
    case NYB_STEP_EMBED:
        CHECK(s->rows >= program->vocab, "the embedding has fewer rows than the vocabulary",
              s->rows);
        if (check_buffer(program, s->out, s->cols, flags, at, error))
            return -1;
        return check_matrix(program, rows, s, NYB_OP_embed, at, error);
    case NYB_STEP_MATMUL:
        CHECK(has_row(rows, NYB_OP_gemm, s->format), "no kernel for weights of this format",
              s->format);
        if (check_held(program, s->in, NYB_HOLDS_Q8, s->cols, flags, at, error) ||
            check_buffer(program, s->out, tiled(s->rows), flags, at, error) ||
            check_units(s, at, error))
            return -1;
        CHECK(program->buffers[s->in].row_bytes % sizeof(nyb_q8) == 0,
              "a buffer's row is not of whole blocks", s->in);
        return check_matrix(program, rows, s, NYB_OP_gemv, at, error);
    case NYB_STEP_MATMUL16:
        if (check_held(program, s->in, NYB_HOLDS_Q16, s->cols, flags, at, error) ||
            check_buffer(program, s->out, tiled(s->rows), flags, at, error) ||
            check_units(s, at, error))
            return -1;
        return check_matrix(program, rows, s, NYB_OP_gemv16, at, error);
    case NYB_STEP_MATMUL32:
        return check_matmul32(program, rows, s, at, error);
    case NYB_STEP_BIAS:
        if (check_buffer(program, s->out, tiled(s->rows), flags, at, error) ||
            check_weights(program, s->weights, floats(tiled(s->rows)), at, error))
            return -1;
        return check_units(s, at, error);
    case NYB_STEP_SILU_MUL:
    case NYB_STEP_GELU_MUL:
        if (check_buffer(program, s->in, tiled(s->rows), flags, at, error) ||
            check_buffer(program, s->in2, tiled(s->rows), flags, at, error) ||
            check_buffer(program, s->out, tiled(s->rows), flags, at, error))
            return -1;
        return check_units(s, at, error);
    case NYB_STEP_QUANTIZE_SHARE:
        CHECK(flags & NYB_BY_BLOCKS, "a share is quantized by whole blocks", flags);
        CHECK(s->rows % NYB_BLOCK == 0, "a vector is not a multiple of 32", s->rows);
        if (check_buffer(program, s->in, s->rows, flags, at, error) ||
            check_held(program, s->out, NYB_HOLDS_Q8, s->rows, flags, at, error))
            return -1;
        return check_units(s, at, error);
    case NYB_STEP_KEEP:
        CHECK(!(flags & ~(uint32_t)NYB_ENDS_PHASE), "wanted rows are kept of all", flags);
        if (check_buffer(program, s->out, tiled(s->rows), flags, at, error))
            return -1;
        return check_units(s, at, error);
    case NYB_STEP_APPEND:
    case NYB_STEP_ATTEND:
    case NYB_STEP_COMBINE:
        CHECK(!(flags & (NYB_ON_LOGITS | NYB_ON_HIDDEN)) &&
                  !(s->op == NYB_STEP_APPEND && flags & NYB_ON_WANTED),
              "attention is for all tokens", flags);
        CHECK(s->index < program->n_attentions, "a step names an unknown attention", s->index);
        return 0;
    case NYB_STEP_OPS:
        break;
    }
    return 0;
}

/* A buffer that a step writes. Row steps are repeated by every thread when there is one row, or, as
 * COMBINE, divided and written to all threads' rows: they need a row for each then. What split
 * steps write is one for all. */
static int check_written(const nyb_program *program, uint32_t number, int by_row_step, uint64_t at,
                         nyb_error *error) {
    CHECK(!program->buffers[number].replicated == !by_row_step,
          "a buffer is not written by the kind of step that it is for", number);
    return 0;
}

static int check_writes(const nyb_program *program, nyb_error *error) {
    for (uint64_t at = 0; at < program->n_steps; at++) {
        const nyb_step *s = &program->steps[at];
        if (s->op == NYB_STEP_APPEND || s->op == NYB_STEP_ATTEND || s->op == NYB_STEP_KEEP)
            continue; /* ATTEND writes COMBINE's buffer when there are several rows, KEEP any */
        const uint32_t out = s->op == NYB_STEP_COMBINE ? program->attentions[s->index].out : s->out;
        if (check_written(program, out, s->op < NYB_STEP_FIRST_SPLIT, at, error))
            return -1;
    }
    return 0;
}

/* A thread quantizes what the step before, and nothing else, has made of the same rows; and of the
 * phase no step comes behind that reads the blocks of all threads. */
static int check_quantized_share(const nyb_step *s, int starts, uint64_t at, nyb_error *error) {
    CHECK(!starts && s[-1].op >= NYB_STEP_FIRST_SPLIT && s[-1].out == s->in &&
              s[-1].rows == s->rows && s[-1].unit == s->unit && s[-1].n_units == s->n_units,
          "a share is quantized that the step before has not made", s->in);
    CHECK(s->flags & NYB_ENDS_PHASE, "a phase goes on behind a share that is quantized", s->flags);
    return 0;
}

/* Row steps come before split steps in a phase, COMBINE, whose barrier is behind it, first of all;
 * and all its steps have the same rows. */
static int check_phases(const nyb_program *program, nyb_error *error) {
    int split = 0;
    for (uint64_t at = 0; at < program->n_steps; at++) {
        const nyb_step *s = &program->steps[at];
        const int starts = at == 0 || (s[-1].flags & NYB_ENDS_PHASE);
        const int is_split = s->op >= NYB_STEP_FIRST_SPLIT;
        CHECK(starts || !split || is_split, "a row step follows a split step in its phase", s->op);
        const uint32_t kinds = NYB_ON_LOGITS | NYB_ON_HIDDEN | NYB_ON_WANTED;
        CHECK(starts || (s->flags & kinds) == (s[-1].flags & kinds),
              "the steps of a phase have different rows", s->flags);
        CHECK(starts || !split || (s->flags & NYB_BY_BLOCKS) == (s[-1].flags & NYB_BY_BLOCKS),
              "the units of a phase are divided in two ways", s->flags);
        if (s->op == NYB_STEP_QUANTIZE_SHARE && check_quantized_share(s, starts, at, error))
            return -1;
        CHECK(starts || s->op != NYB_STEP_COMBINE, "a phase joins pages behind another step", at);
        split = is_split;
    }
    const uint64_t at = program->n_steps;
    CHECK(at > 0 && (program->steps[at - 1].flags & NYB_ENDS_PHASE), "the last phase has no end",
          at);
    return 0;
}

static int check(const nyb_program *program, const nyb_limits *limits, const nyb_rows *rows,
                 nyb_error *error) {
    uint64_t at = 0;
    CHECK(limits->threads >= 1 && limits->threads <= NYB_MAX_THREADS, "threads must be 1 to 64",
          limits->threads);
    CHECK(limits->max_tokens >= 1 && limits->max_tokens <= 1 << 20,
          "tokens in a batch must be 1 to 1,048,576", limits->max_tokens);
    CHECK(limits->max_logits >= 1 && limits->max_logits <= limits->max_tokens,
          "logits in a batch must be 1 to its tokens", limits->max_logits);
    CHECK(limits->max_pages >= 1 && limits->max_pages <= limits->n_pages &&
              limits->n_pages <= NYB_MAX_PAGES,
          "pages out of range", limits->max_pages);
    CHECK(limits->sequences >= 1 && limits->sequences <= limits->n_pages,
          "sequences must be 1 to the pages", limits->sequences);
    CHECK(limits->panel <= MAX_SHAPE, "a panel is too large", limits->panel);
    CHECK(limits->kv < NYB_KVS, "keys and values of an unknown type", limits->kv);
    CHECK(program->vocab >= 1 && program->vocab <= MAX_SHAPE, "vocabulary out of range",
          program->vocab);
    CHECK(program->n_steps <= MAX_COUNT && program->n_buffers <= MAX_COUNT &&
              program->n_attentions <= MAX_COUNT,
          "a program has too many parts", program->n_steps);
    for (nyb_op op = NYB_OP_rmsnorm; op < NYB_OPS; op++) {
        const int on_kv = op == NYB_OP_append || op == NYB_OP_attend;
        CHECK(has_row(rows, op, on_kv ? limits->kv : NYB_F32), "no kernel for an operation", op);
    }
    for (at = 0; at < program->n_buffers; at++)
        if (check_place(program, at, error))
            return -1;
    for (at = 0; at < program->n_attentions; at++)
        if (check_attention(program, at, error))
            return -1;
    for (at = 0; at < program->n_steps; at++)
        if (check_step(program, rows, at, error))
            return -1;
    if (check_buffer(program, program->logits, program->vocab, NYB_ON_LOGITS, at, error) ||
        check_buffer(program, program->hidden, program->dim, 0, at, error))
        return -1;
    if (check_writes(program, error))
        return -1;
    return check_phases(program, error);
}

/* Where each layer's part of the KV cache begins (unless NULL), and the bytes of all. */
static int lay_out_kv(const nyb_program *program, const nyb_limits *limits, uint64_t *layers,
                      uint64_t *bytes, nyb_error *error) {
    *bytes = 0;
    for (uint64_t at = 0; at < program->n_attentions; at++) {
        const nyb_attention *a = &program->attentions[at];
        const uint64_t pages = nyb_layer_pages(a, limits);
        const uint64_t page_bytes = nyb_page_bytes(a, limits->kv);
        if (layers)
            layers[at] = *bytes;
        CHECK(pages <= (UINT64_MAX - *bytes) / page_bytes, "the KV cache is too large", pages);
        *bytes += page_bytes * pages;
    }
    return 0;
}

int nyb_measure(const nyb_program *program, const nyb_limits *limits, uint32_t cpu_bits,
                nyb_sizes *sizes, nyb_error *error) {
    nyb_bound bound = {.limits = *limits};
    allocator work = {NULL, 0};
    nyb_rows_pick(&bound.rows, cpu_bits);
    if (check(program, limits, &bound.rows, error))
        return -1;
    lay_out(program, &bound, &work);
    sizes->work_bytes = work.used;
    return lay_out_kv(program, limits, NULL, &sizes->kv_bytes, error);
}

int nyb_bind(nyb_bound *bound, const nyb_program *program, const nyb_limits *limits,
             uint32_t cpu_bits, const uint8_t *weights, uint8_t *kv, uint8_t *work,
             nyb_error *error) {
    allocator allocator = {work, 0};
    *bound = (nyb_bound){.program = program, .limits = *limits, .weights = weights, .kv = kv};
    nyb_rows_pick(&bound->rows, cpu_bits);
    if (check(program, limits, &bound->rows, error))
        return -1;
    nyb_tune(bound, &(nyb_tuning){limits->threads, limits->threads, cpu_bits});
    lay_out(program, bound, &allocator);
    uint64_t kv_bytes;
    return lay_out_kv(program, limits, bound->layers, &kv_bytes, error);
}

void nyb_tune(nyb_bound *bound, const nyb_tuning *tuning) {
    static const nyb_op decode[] = {NYB_OP_gemv, NYB_OP_gemv16, NYB_OP_gemv32};
    nyb_rows rows;
    nyb_rows_pick(&rows, tuning->decode_bits);
    for (size_t i = 0; i < sizeof decode / sizeof *decode; i++)
        memcpy(bound->rows.of[decode[i]], rows.of[decode[i]], sizeof rows.of[decode[i]]);
    const uint32_t most = bound->limits.threads;
    bound->tuning = *tuning;
    bound->tuning.decode_threads = tuning->decode_threads < most ? tuning->decode_threads : most;
    bound->tuning.prefill_threads = tuning->prefill_threads < most ? tuning->prefill_threads : most;
}
