/* SPDX-License-Identifier: MIT
 * check_rows - every kernel row that this CPU runs against its reference row, bit for bit.
 *
 *   check_rows [LEVEL]         of one level only
 *
 * Needs no Python, so a static build runs under an emulator or on a board. Operands end where
 * memory ends: reading or writing beyond them is a crash. Prints a line for each row that differs,
 * then how many rows of each level were compared; exit code 0 if all are equal and at least one
 * was.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "operands.h"
#include "registry.h"

static const char *const mode_names[] = {"random", "extreme", "subnormal", "tiny", "NaN"};

/* An operation's arguments, and what it writes. */
typedef struct call {
    union {
#define MEMBER(op) nyb_##op##_args op;
        NYB_OPERATIONS(MEMBER)
#undef MEMBER
    } args;
    uint8_t *out;
    size_t out_bytes;
} call;

/* -- Calls ---------------------------------------------------------------------------------- */

static void *output(call *c, size_t n) {
    c->out = last(OUTPUT, n);
    c->out_bytes = n;
    return c->out;
}

static float *output_floats(call *c, size_t n) { return output(c, n * sizeof(float)); }

static void prepare_matrix(const nyb_row *row, const trial *t, call *c) {
    const size_t n_rows = t->n_tiles * NYB_TILE_ROWS, nb = t->n_blocks, T = t->n_tokens;
    const size_t x_stride = nb + 1, y_stride = n_rows + 8;
    const uint8_t *w = weights(row->format, t);
    const size_t panel = (nb * row->panel_bytes + 63) / 64 * 64;
    switch (row->op) {
    case NYB_OP_gemv:
        c->args.gemv = (nyb_gemv_args){.n_tiles = t->n_tiles,
                                       .n_blocks = nb,
                                       .w = w,
                                       .x = blocks8(nb, t),
                                       .y = output_floats(c, n_rows)};
        if (t->n_tiles % 2 == 0 && t->seed % 4 < 2) { /* the second half first */
            nyb_gemv_args *a = &c->args.gemv;
            a->w_beside = a->w, a->y_beside = a->y;
            a->w += t->n_tiles / 2 * nyb_tile_row_bytes(nyb_layout_of(row->format), nb);
            a->y += n_rows / 2;
        }
        break;
    case NYB_OP_gemv16:
        c->args.gemv16 =
            (nyb_gemv16_args){t->n_tiles, nb, w, blocks16(nb, t), output_floats(c, n_rows)};
        break;
    case NYB_OP_gemv32:
        c->args.gemv32 = (nyb_gemv32_args){
            t->n_tiles, nb, w, values(INPUT, nb * NYB_BLOCK, t->mode), output_floats(c, n_rows)};
        break;
    case NYB_OP_gemm:
        c->args.gemm = (nyb_gemm_args){t->n_tiles,
                                       nb,
                                       T,
                                       w,
                                       blocks8((T - 1) * x_stride + nb, t),
                                       x_stride,
                                       output_floats(c, (T - 1) * y_stride + n_rows),
                                       y_stride,
                                       last(SCRATCH, panel)};
        break;
    default:
        c->args.gemm32 = (nyb_gemm32_args){
            t->n_tiles,
            nb,
            T,
            w,
            values(INPUT, (T - 1) * x_stride * NYB_BLOCK + nb * NYB_BLOCK, t->mode),
            x_stride * NYB_BLOCK,
            output_floats(c, (T - 1) * y_stride + n_rows),
            y_stride};
    }
}

static void prepare_embed(const nyb_row *row, const trial *t, call *c) {
    const size_t n_rows = t->n_tiles * NYB_TILE_ROWS;
    c->args.embed = (nyb_embed_args){t->seed % n_rows, t->n_blocks, weights(row->format, t), 1.5f,
                                     output_floats(c, t->n_blocks * NYB_BLOCK)};
}

/* Keys or values of a page, as halves or as int8 in -127..127. */
static const void *stored(role r, size_t n, int is_bytes, const trial *t) {
    if (!is_bytes)
        return halves(r, n, t->mode == NOT_A_NUMBER ? RANDOM : t->mode);
    int8_t *p = last(r, n);
    for (size_t i = 0; i < n; i++)
        p[i] = quant(t);
    return p;
}

/* Of int8: a half for each position and 32 columns, not negative. */
static const uint16_t *stored_scales(role r, size_t dim, const trial *t) {
    const size_t n = (dim + NYB_BLOCK - 1) / NYB_BLOCK * NYB_PAGE;
    uint16_t *p = halves(r, n, t->mode == NOT_A_NUMBER ? RANDOM : t->mode);
    for (size_t i = 0; i < n; i++)
        p[i] &= 0x7fff;
    return p;
}

static void prepare_attend(const nyb_row *row, const trial *t, call *c) {
    const size_t dim = 8 * (1 + t->seed % 17), heads = 1 + t->seed % 9, stride = dim + 3;
    const size_t first = random_bits() % NYB_PAGE, some = random_bits() % (NYB_PAGE - first);
    const int has_byte_keys = row->format == NYB_KV_INT8, has_bytes = row->format != NYB_KV_F16;
    c->args.attend = (nyb_attend_args){.head_dim = dim,
                                       .n_queries = heads,
                                       .first = first,
                                       .end = first + 1 + some,
                                       .q = values(INPUT, heads * dim, t->mode),
                                       .k = stored(SECOND_INPUT, NYB_PAGE * dim, has_byte_keys, t),
                                       .v = stored(THIRD_INPUT, NYB_PAGE * dim, has_bytes, t),
                                       .k_scales = stored_scales(FOURTH_INPUT, dim, t),
                                       .v_scales = stored_scales(FIFTH_INPUT, dim, t),
                                       .scores = last(SCRATCH, heads * NYB_PAGE * sizeof(float)),
                                       .out = output_floats(c, heads * stride),
                                       .out_stride = stride};
    c->args.attend.next = c->args.attend.k;
}

/* Key and value of one position into a page, which is the output. */
static void prepare_append(const trial *t, call *c) {
    const size_t dim = 8 * (1 + t->seed % 17);
    float *key = values(INPUT, dim, t->mode), *value_ = values(SECOND_INPUT, dim, t->mode);
    key[0] = 1e6f, key[1] = -65519.9f, key[2] = 3e-8f, value_[0] = -6.1e-5f;
    const size_t numbers = NYB_PAGE * dim, scales = (dim + NYB_BLOCK - 1) / NYB_BLOCK * NYB_PAGE;
    uint16_t *k = output(c, 2 * (numbers + scales) * sizeof *k), *v = k + numbers;
    c->args.append = (nyb_append_args){dim,         random_bits() % NYB_PAGE, key, value_, k, v,
                                       v + numbers, v + numbers + scales};
}

static void prepare_combine(const trial *t, call *c) {
    const size_t dim = 8 * (1 + t->seed % 17), parts = 1 + t->seed % 7, stride = dim + 2;
    float *p = values(INPUT, parts * stride, t->mode);
    for (size_t i = 0; i < parts; i++)
        p[i * stride + dim + 1] = 1 + fabsf(random_float());
    c->args.combine = (nyb_combine_args){dim, parts, p, stride, output_floats(c, dim)};
}

static void prepare_rope(const trial *t, call *c) {
    const size_t n = 8 * (1 + t->seed % 5), dim = 2 * n + 8 * (t->seed % 3);
    float *angles = values(INPUT, 2 * n, RANDOM);
    c->args.rope = (nyb_rope_args){
        n, dim, angles, 0.125f, values(SECOND_INPUT, dim, t->mode), output_floats(c, dim)};
}

static void prepare_hadamard(const trial *t, call *c) {
    const size_t n_block = (size_t)8 << t->seed % 6, n = n_block * (1 + t->seed % 3);
    c->args.hadamard =
        (nyb_hadamard_args){n, n_block, values(INPUT, n, t->mode), output_floats(c, n)};
}

static void prepare_rope_angles(const trial *t, call *c) {
    const size_t n = 8 * (1 + t->seed % 5);
    uint64_t *turns = last(INPUT, n * sizeof *turns);
    for (size_t i = 0; i < n; i++)
        turns[i] = (uint64_t)random_bits() << 32 >> (t->mode == RANDOM ? 0 : 30) | random_bits();
    c->args.rope_angles =
        (nyb_rope_angles_args){n, random_bits() % 9000, turns, output_floats(c, 2 * n)};
}

/* The sum stands behind p. */
static void prepare_softmax(const trial *t, call *c) {
    const size_t n = 8 * (1 + t->seed % 17);
    float *x = values(INPUT, n, t->mode);
    x[0] = -INFINITY, x[1] = -54.0f, x[2] = -60.0f;
    float *p = output_floats(c, n + 1);
    c->args.softmax = (nyb_softmax_args){n, x, 4.0f, p, p + n};
}

static int prepare(const nyb_row *row, const trial *t, call *c) {
    const size_t n = 8 * (1 + t->seed % 17), blocks = 1 + t->seed % 5;
    begin_numbers(t->seed);
    switch (row->op) {
    case NYB_OP_gemv:
    case NYB_OP_gemv16:
    case NYB_OP_gemv32:
    case NYB_OP_gemm:
    case NYB_OP_gemm32:
        prepare_matrix(row, t, c);
        return 1;
    case NYB_OP_embed:
        prepare_embed(row, t, c);
        return 1;
    case NYB_OP_rmsnorm:
        c->args.rmsnorm = (nyb_rmsnorm_args){n, 1e-5f, values(INPUT, n, t->mode),
                                             values(SECOND_INPUT, n, RANDOM), output_floats(c, n)};
        return 1;
    case NYB_OP_quantize:
        c->args.quantize = (nyb_quantize_args){blocks, values(INPUT, blocks * NYB_BLOCK, t->mode),
                                               output(c, blocks * sizeof(nyb_q8))};
        return 1;
    case NYB_OP_quantize16:
        c->args.quantize16 =
            (nyb_quantize16_args){blocks, values(INPUT, blocks * NYB_BLOCK, t->mode),
                                  output(c, blocks * sizeof(nyb_q16))};
        return 1;
    case NYB_OP_add: {
        float *x = output_floats(c, n);
        memcpy(x, values(INPUT, n, t->mode), n * sizeof *x);
        c->args.add = (nyb_add_args){n, x, values(SECOND_INPUT, n, RANDOM)};
        return 1;
    }
    case NYB_OP_silu_mul:
    case NYB_OP_gelu_mul: /* of the same type */
        c->args.silu_mul = (nyb_silu_mul_args){
            n, values(INPUT, n, t->mode), values(SECOND_INPUT, n, RANDOM), output_floats(c, n)};
        return 1;
    case NYB_OP_rope_angles:
        prepare_rope_angles(t, c);
        return 1;
    case NYB_OP_rope:
        prepare_rope(t, c);
        return 1;
    case NYB_OP_hadamard:
        prepare_hadamard(t, c);
        return 1;
    case NYB_OP_append:
        prepare_append(t, c);
        return 1;
    case NYB_OP_attend:
        prepare_attend(row, t, c);
        return 1;
    case NYB_OP_combine:
        prepare_combine(t, c);
        return 1;
    case NYB_OP_softmax:
        prepare_softmax(t, c);
        return 1;
    case NYB_OPS:
        break;
    }
    return 0;
}

static void run(const nyb_row *row, call *c) {
    switch (row->op) {
#define RUN(op)                                                                                    \
    case NYB_OP_##op:                                                                              \
        row->run.op(&c->args.op);                                                                  \
        break;
        NYB_OPERATIONS(RUN)
#undef RUN
    case NYB_OPS:
        break;
    }
}

/* -- Comparing ------------------------------------------------------------------------------ */

/* Which NaN it is does not matter. Only floats that may be NaN are looked at: bytes of blocks could
 * look like one. */
static void make_nan_one(const nyb_row *row, uint8_t *out, size_t n) {
    size_t first = 0, step = sizeof(float), floats = 1;
    if (row->op == NYB_OP_append)
        return;
    if (row->op == NYB_OP_quantize)
        first = offsetof(nyb_q8, d), step = sizeof(nyb_q8), floats = 2;
    if (row->op == NYB_OP_quantize16)
        first = offsetof(nyb_q16, d), step = sizeof(nyb_q16), floats = 2;
    for (size_t at = first; at < n; at += step)
        for (size_t i = 0; i < floats; i++) {
            float x;
            memcpy(&x, out + at + i * sizeof x, sizeof x);
            x = isnan(x) ? NAN : x;
            memcpy(out + at + i * sizeof x, &x, sizeof x);
        }
}

static int is_equal(const nyb_row *row, const nyb_row *ref, const trial *t) {
    static uint8_t expected[ARENA_BYTES];
    call c;
    if (!prepare(ref, t, &c)) {
        fprintf(stderr, "check_rows: no arguments for %s\n", row->name);
        exit(2);
    }
    run(ref, &c);
    make_nan_one(row, c.out, c.out_bytes);
    memcpy(expected, c.out, c.out_bytes);
    prepare(row, t, &c);
    run(row, &c);
    make_nan_one(row, c.out, c.out_bytes);
    for (size_t i = 0; i < c.out_bytes; i++)
        if (c.out[i] != expected[i]) {
            printf("%s differs from %s at byte %zu: %s, seed %d, %zu tile rows, %zu blocks, %zu "
                   "tokens\n",
                   row->name, ref->name, i, mode_names[t->mode], (int)t->seed, t->n_tiles,
                   t->n_blocks, t->n_tokens);
            return 0;
        }
    return 1;
}

/* A few shapes; matrices of several tokens at all counts up to 17, as loops take them by 2, 4, 8,
 * and at two that are more than the 64 that are rearranged at once. */
static int check(const nyb_row *row, const nyb_row *ref) {
    const int has_tokens = row->op == NYB_OP_gemm || row->op == NYB_OP_gemm32;
    const int is_matrix = has_tokens || row->op <= NYB_OP_embed;
    const size_t whole = is_matrix ? blocks_of_tile(row->format) : 1;
    const uint64_t seeds = has_tokens ? 17 : 36;
    for (mode m = RANDOM; m < MODES; m++)
        for (uint64_t seed = 0; seed < seeds; seed++) {
            const trial t = {.seed = seed,
                             .mode = m,
                             .n_tiles = 1 + seed % 5,
                             .n_blocks = whole * (1 + seed % 3),
                             .n_tokens = 1 + seed};
            if (!is_equal(row, ref, &t))
                return 0;
        }
    for (size_t n = 65; has_tokens && n <= 130; n += 65) {
        const trial t = {.seed = n, .n_tiles = 2, .n_blocks = whole, .n_tokens = n};
        if (!is_equal(row, ref, &t))
            return 0;
    }
    return 1;
}

static const nyb_row *reference(const nyb_row *row) {
    for (const nyb_row *ref = nyb_registry; ref->name; ref++)
        if (ref->op == row->op && ref->format == row->format && !strcmp(ref->level, "ref"))
            return ref;
    fprintf(stderr, "check_rows: %s has no reference\n", row->name);
    exit(2);
}

static int is_level(const char *name) {
    for (const nyb_level *level = nyb_levels + 1; level->name; level++)
        if (!strcmp(level->name, name))
            return 1;
    return 0;
}

int main(int argc, char **argv) {
    const uint32_t have = nyb_cpu_bits();
    int compared = 0, different = 0;
    if (argc > 1 && !is_level(argv[1])) {
        fprintf(stderr, "check_rows: no such level: %s\n", argv[1]);
        return 2;
    }
    make_arenas();
    for (const nyb_level *level = nyb_levels + 1; level->name; level++) {
        int rows = 0;
        for (const nyb_row *row = nyb_registry; row->name; row++) {
            if (strcmp(row->level, level->name) || (row->needs & ~have) ||
                (argc > 1 && strcmp(argv[1], level->name)))
                continue;
            different += !check(row, reference(row));
            rows++;
        }
        printf("%s: %d rows\n", level->name, rows);
        compared += rows;
    }
    return !compared || different;
}
