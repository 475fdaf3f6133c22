/* SPDX-License-Identifier: MIT
 * Operands of kernel rows, for check_rows.c.
 */
#include "operands.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* -- Memory that ends at a guard page ------------------------------------------------------- */

static uint8_t *arena_end[ROLES];

void make_arenas(void) {
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

void *last(role r, size_t n) {
    if (n > ARENA_BYTES) {
        fprintf(stderr, "check_rows: an operand of %zu bytes\n", n);
        exit(2);
    }
    return memset(arena_end[r] - n, 0x5a, n);
}

/* -- Numbers -------------------------------------------------------------------------------- */

static uint64_t state;

void begin_numbers(uint64_t seed) { state = seed * 0x9e3779b97f4a7c15u + 1; }

uint32_t random_bits(void) { /* xorshift64*, Vigna 2016 */
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)(state * 2685821657736338717u >> 32);
}

float random_float(void) { return (float)(int32_t)random_bits() * 0x1p-31f; }

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

float *values(role r, size_t n, mode m) {
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

uint16_t *halves(role r, size_t n, mode m) {
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

size_t blocks_of_tile(nyb_format format) {
    return is_float(format) ? 1 : (size_t)tile_format(format).blocks;
}

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

const uint8_t *weights(nyb_format format, const trial *t) {
    return is_float(format) ? float_weights(format, t) : quantized_weights(format, t);
}

int8_t quant(const trial *t) {
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

nyb_q8 *blocks8(size_t n, const trial *t) {
    nyb_q8 *x = last(INPUT, n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        fill_block8(&x[i], t);
    return x;
}

nyb_q16 *blocks16(size_t n, const trial *t) {
    nyb_q16 *x = last(INPUT, n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        fill_block16(&x[i], t);
    return x;
}
