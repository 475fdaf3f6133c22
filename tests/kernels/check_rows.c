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
#include <sys/mman.h>
#include <unistd.h>

#include "cpu.h"
#include "registry.h"

/* EXTREME: what makes the largest sums. SUBNORMAL: halves that are, and numbers that would be.
 * TINY: activations so small that some results are flushed. */
typedef enum mode { RANDOM, EXTREME, SUBNORMAL, TINY, NOT_A_NUMBER, MODES } mode;

static const char *const mode_names[] = {"random", "extreme", "subnormal", "tiny", "NaN"};

/* What one comparison is about. */
typedef struct trial {
    uint64_t seed;
    mode mode;
    size_t n_tiles, n_blocks, n_tokens;
} trial;

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

/* -- Memory that ends at a guard page ------------------------------------------------------- */

enum { ARENA_BYTES = 1 << 21 };
typedef enum role {
    WEIGHTS,
    INPUT,
    SECOND_INPUT,
    THIRD_INPUT,
    FOURTH_INPUT,
    FIFTH_INPUT,
    SCRATCH,
    OUTPUT,
    ROLES
} role;

static uint8_t *arena_end[ROLES];

static void make_arenas(void) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < ROLES; i++) {
        uint8_t *p = mmap(NULL, ARENA_BYTES + page, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED || mprotect(p + ARENA_BYTES, page, PROT_NONE)) {
            perror("check_rows: guard pages");
            exit(2);
        }
        arena_end[i] = p + ARENA_BYTES;
    }
}

/* The last n bytes of an arena, filled with a pattern that shows what was not written. */
static void *last(role r, size_t n) {
    if (n > ARENA_BYTES) {
        fprintf(stderr, "check_rows: an operand of %zu bytes\n", n);
        exit(2);
    }
    return memset(arena_end[r] - n, 0x5a, n);
}

/* -- Numbers -------------------------------------------------------------------------------- */

static uint64_t state;

static uint32_t random_bits(void) { /* xorshift64*, Vigna 2016 */
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)(state * 2685821657736338717u >> 32);
}

/* Uniform within -1..1. */
static float random_float(void) { return (float)(int32_t)random_bits() * 0x1p-31f; }

static float flushed(float x) { return x < NYB_TINY && x > -NYB_TINY ? 0 : x; }

/* As floats that enter a product are: 0 or at least 2^-40, or NaN. */
static float value(mode m) {
    const uint32_t pick = random_bits() % 16;
    if (m == EXTREME)
        return pick < 8 ? 1e4f : -1e4f;
    if (m == SUBNORMAL)
        return flushed(0x1p-14f * random_float());
    if (m == TINY)
        return pick < 7 ? NYB_TINY : pick < 14 ? -NYB_TINY : 0;
    if (m == NOT_A_NUMBER && random_bits() % 64 == 0)
        return pick < 8 ? NAN : pick < 12 ? INFINITY : -INFINITY;
    return flushed(pick < 2 ? 0 : 4 * random_float());
}

static float *values(role r, size_t n, mode m) {
    float *p = last(r, n * sizeof *p);
    for (size_t i = 0; i < n; i++)
        p[i] = value(m);
    return p;
}

static uint16_t half(mode m) {
    const uint32_t sign = random_bits() & 0x8000, exponent = 4 + random_bits() % 8;
    if (m == EXTREME)
        return (uint16_t)(sign | 0x7bff);
    if (m == SUBNORMAL)
        return (uint16_t)(sign | (random_bits() & 0x3ff));
    if (m == TINY)
        return (uint16_t)(sign | (1 + random_bits() % 30) << 10 | (random_bits() & 0x3ff));
    return (uint16_t)(sign | exponent << 10 | (random_bits() & 0x3ff));
}

static uint16_t *halves(role r, size_t n, mode m) {
    uint16_t *p = last(r, n * sizeof *p);
    for (size_t i = 0; i < n; i++)
        p[i] = half(m);
    return p;
}

/* -- Matrices ------------------------------------------------------------------------------- */

static nyb_tile_format tile_format(nyb_format format) {
    switch (format) {
#define NYB_ROW(op, lower, UPPER, level, needs, panel_bytes)                                       \
    case NYB_##UPPER:                                                                              \
        return NYB_TILE_##UPPER;
        NYB_QUANTIZED_ROWS(, , , )
#undef NYB_ROW
    default:
        fprintf(stderr, "check_rows: format %d has no tile\n", (int)format);
        exit(2);
    }
}

static int is_float(nyb_format f) { return f == NYB_F32 || f == NYB_F16 || f == NYB_BF16; }

static void fill_scales(nyb_tile_format f, uint8_t *tile, mode m) {
    if (f.scales == NYB_SCALES_E8M0) {
        for (int r = 0; r < NYB_TILE_ROWS; r++)
            tile[r] = (uint8_t)(random_bits() % 8 == 0 ? 0
                                : m == EXTREME         ? 254
                                : m == SUBNORMAL       ? 88 /* the least that is not flushed */
                                : m == TINY            ? 88 + random_bits() % 80
                                                       : 120 + random_bits() % 8);
        return;
    }
    for (size_t i = 0; i < (nyb_has_min(f) ? 16 : 8); i++) {
        const uint16_t h = half(m);
        memcpy(tile + 2 * i, &h, sizeof h);
    }
}

/* The scales of a block of 16 columns each, two to a row. With numbers of -32 (bytes of 0) and
 * -128, the exact sum of a block has its largest magnitude, 32 * 32 * 127 * 128 = 16,646,144: still
 * a float. The fourth row's halves have opposite signs. */
static void fill_extreme_scales16(uint8_t block[16]) {
    static const int8_t scales[8] = {127, 127, -128, -128, -127, -127, 127, -128};
    for (int i = 0; i < 16; i++)
        block[i] = (uint8_t)scales[i % 8];
}

/* Any byte is a legal number or scale of 6 or 8 bits. In EXTREME all are one of those that make
 * the largest sums in some format, which plain NEON has in int16:
 *
 *   0xff        15, 31 and 63 of 4, 5 and 6 bits before their bias is taken off
 *   0x00        -8, -16 and -32 with it; -127 of IQ4_NL
 *   0x80, 0x7f  -128 and 127 of 8 bits
 *   0x77, 0xbf  12 of FP4; numbers of both signs
 */
static const uint8_t *quantized_weights(nyb_format format, const trial *t) {
    static const uint8_t extremes[] = {0xff, 0x00, 0x80, 0x7f, 0x77, 0xbf};
    const nyb_tile_format f = tile_format(format);
    const size_t tiles = t->n_tiles * t->n_blocks / (size_t)f.blocks, bytes = nyb_tile_bytes(f);
    uint8_t *w = last(WEIGHTS, tiles * bytes);
    for (size_t i = 0; i < tiles * bytes; i++)
        w[i] = t->mode == EXTREME ? extremes[t->seed % sizeof extremes] : (uint8_t)random_bits();
    for (size_t i = 0; i < tiles; i++) {
        fill_scales(f, w + i * bytes, t->mode);
        for (int b = 0; b < f.blocks && f.scales == NYB_SCALES_K16 && t->mode == EXTREME; b++)
            fill_extreme_scales16(w + i * bytes + f.scales_bytes + b * f.block_bytes);
    }
    return w;
}

static const uint8_t *float_weights(nyb_format format, const trial *t) {
    const size_t n = t->n_tiles * NYB_TILE_ROWS * t->n_blocks * NYB_BLOCK;
    mode m = t->mode == NOT_A_NUMBER ? RANDOM : t->mode; /* weights are finite */
    if (format == NYB_F16)
        return (const uint8_t *)halves(WEIGHTS, n, m);
    if (m == TINY) /* as activations are: products of both would be flushed always */
        m = RANDOM;
    if (format == NYB_F32)
        return (const uint8_t *)values(WEIGHTS, n, m);
    uint16_t *w = last(WEIGHTS, n * sizeof *w);
    for (size_t i = 0; i < n; i++) {
        const float x = value(m);
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        w[i] = (uint16_t)(bits >> 16);
    }
    return (const uint8_t *)w;
}

static const uint8_t *weights(nyb_format format, const trial *t) {
    return is_float(format) ? float_weights(format, t) : quantized_weights(format, t);
}

static int8_t quant(const trial *t) {
    if (t->mode == EXTREME)
        return t->seed / 6 % 2 ? 127 : -127;
    return (int8_t)((int)(random_bits() % 255) - 127);
}

static float activation_scale(mode m) {
    if (m == NOT_A_NUMBER && random_bits() % 4 == 0)
        return NAN;
    if (m == TINY)
        return 0x1p-63f * (1 + (float)(random_bits() & 0xffff) * 0x1p-16f);
    return m == EXTREME ? 1e10f : random_bits() % 16 ? 0.01f * fabsf(random_float()) : 0;
}

static void fill_block8(nyb_q8 *x, const trial *t) {
    x->d = activation_scale(t->mode);
    for (int i = 0; i < NYB_BLOCK; i++)
        x->q[i] = isnan(x->d) ? 0 : quant(t);
    x->half_sum[0] = x->half_sum[1] = 0;
    for (int i = 0; i < NYB_BLOCK; i++)
        x->half_sum[i / 16] = (int16_t)(x->half_sum[i / 16] + x->q[i]);
    x->sum = x->half_sum[0] + x->half_sum[1];
    x->s = x->d * (float)x->sum;
}

static void fill_block16(nyb_q16 *x, const trial *t) {
    memset(x, 0, sizeof *x);
    x->d = activation_scale(t->mode);
    for (int i = 0; i < NYB_BLOCK && !isnan(x->d); i++) {
        x->hi[i] = quant(t);
        x->lo[i] = quant(t);
        x->half_sum[0][i / 16] = (int16_t)(x->half_sum[0][i / 16] + x->hi[i]);
        x->half_sum[1][i / 16] = (int16_t)(x->half_sum[1][i / 16] + x->lo[i]);
        x->sum += 256 * x->hi[i] + x->lo[i];
    }
    x->s = x->d * (float)x->sum;
}

static nyb_q8 *blocks8(size_t n, const trial *t) {
    nyb_q8 *x = last(INPUT, n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        fill_block8(&x[i], t);
    return x;
}

static nyb_q16 *blocks16(size_t n, const trial *t) {
    nyb_q16 *x = last(INPUT, n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        fill_block16(&x[i], t);
    return x;
}

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
        c->args.gemv = (nyb_gemv_args){t->n_tiles, nb, w, blocks8(nb, t), output_floats(c, n_rows)};
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
    state = t->seed * 0x9e3779b97f4a7c15u + 1;
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
    const size_t whole = is_matrix && !is_float(row->format)
                             ? (size_t)tile_format(row->format).blocks
                             : 1; /* blocks of a tile */
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
