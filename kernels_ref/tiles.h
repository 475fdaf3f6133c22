/* SPDX-License-Identifier: MIT
 * Packed tiles, read one number at a time: what the layouts mean (docs/formats.md draws them).
 */
#ifndef NYB_TILES_H
#define NYB_TILES_H

#include <math.h>
#include <string.h>

#include "half.h"
#include "nyb_kernels.h"

/* 32 columns of a tile as plain numbers: w[row][k] = d[row] * q[row][k] + m[row]. The scales of 16
 * columns that Q6_K has are in q. */
typedef struct nyb_plain_tile {
    int16_t q[NYB_TILE_ROWS][NYB_BLOCK];
    float d[NYB_TILE_ROWS], m[NYB_TILE_ROWS];
} nyb_plain_tile;

static inline float nyb_half_at(const uint8_t *p, int i) {
    uint16_t half;
    memcpy(&half, p + 2 * i, sizeof half);
    return nyb_float_of_half(half);
}

/* 6 bits of block i's scale of row r, or of its minimum. The low 6 bits of the 96 bytes are the
 * scales of the 8 blocks and the minima of blocks 0-3; their high 2 bits the other minima's. */
static inline int nyb_scale6(const uint8_t *p, int i, int r) { return p[8 * i + r] & 63; }

static inline int nyb_min6(const uint8_t *p, int i, int r) {
    if (i < 4)
        return nyb_scale6(p + 64, i, r);
    p += 8 * (i - 4) + r;
    return p[0] >> 6 | p[32] >> 6 << 2 | p[64] >> 6 << 4;
}

/* Of row r of block i. Both factors have few enough bits for an exact product: 11 and 6. */
static inline __attribute__((always_inline)) void
nyb_unpack_scales(nyb_tile_format f, const uint8_t *tile, int i, int r, float *d, float *m) {
    if (f.scales == NYB_SCALES_E8M0)
        *d = tile[r] ? nyb_float_of_bits((uint32_t)(tile[r] - 1) << 23) : 0;
    else
        *d = nyb_half_at(tile, r);
    *m = nyb_has_min(f) ? nyb_half_at(tile + 16, r) : 0;
    if (f.scales == NYB_SCALES_K) {
        *d *= (float)nyb_scale6(tile + 32, i, r);
        *m *= (float)-nyb_min6(tile + 32, i, r);
    }
}

/* The number in the tile at row r, column k of a block, whose high bits and low bits these are. */
static inline int nyb_quant_at(nyb_tile_format f, const uint8_t *high, const uint8_t *low, int r,
                               int k) {
    const int g = k / 4, at = 4 * r + k % 4;
    if (f.bits == 8)
        return (int8_t)low[32 * g + at];
    int q = low[32 * (g % 4) + at] >> (g < 4 ? 0 : 4) & 15;
    if (f.bits == 5)
        q |= (high[at] >> g & 1) << 4;
    if (f.bits == 6)
        q |= (high[32 * (g / 4) + at] >> 2 * (g % 4) & 3) << 4;
    return q;
}

/* Row r of block i of a tile. */
static inline void nyb_unpack_row(nyb_tile_format f, const uint8_t *tile, int i, int r,
                                  int16_t out[NYB_BLOCK]) {
    const uint8_t *block = tile + f.scales_bytes + (size_t)i * f.block_bytes;
    const uint8_t *high = block + (f.scales == NYB_SCALES_K16 ? 16 : 0);
    const uint8_t *low = high + (f.bits == 5 ? 32 : f.bits == 6 ? 64 : 0);
    for (int k = 0; k < NYB_BLOCK; k++) {
        int q = nyb_quant_at(f, high, low, r, k);
        if (f.codes == NYB_CODES_LINEAR)
            q -= f.bias;
        else
            q = f.codes == NYB_CODES_FP4 ? nyb_fp4[q] : nyb_iq4_nl[q];
        if (f.scales == NYB_SCALES_K16)
            q *= (int8_t)block[2 * r + k / 16];
        out[k] = (int16_t)q;
    }
}

/* Block i of a tile. */
static inline void nyb_unpack(nyb_tile_format f, const uint8_t *tile, int i, nyb_plain_tile *out) {
    for (int r = 0; r < NYB_TILE_ROWS; r++) {
        nyb_unpack_scales(f, tile, i, r, &out->d[r], &out->m[r]);
        nyb_unpack_row(f, tile, i, r, out->q[r]);
    }
}

/* Row r's exact sum of products. */
static inline int32_t nyb_dot(const nyb_plain_tile *tile, int r, const int8_t *a) {
    int32_t sum = 0;
    for (int k = 0; k < NYB_BLOCK; k++)
        sum += tile->q[r][k] * (int16_t)a[k];
    return sum;
}

/* A block's share of row r's sum (docs/arithmetic.md, "Blocks"): the integer sum is exact, then
 * come two or three roundings in an order that is the same everywhere. */
static inline float nyb_add_scaled(const nyb_plain_tile *tile, int has_min, int r, float isum,
                                   float d, float s, float acc) {
    acc = fmaf(isum * tile->d[r], d, acc);
    return has_min ? fmaf(tile->m[r], s, acc) : acc;
}

static inline void nyb_add_block(const nyb_plain_tile *tile, int has_min, const nyb_q8 *x,
                                 float acc[NYB_TILE_ROWS]) {
    for (int r = 0; r < NYB_TILE_ROWS; r++) {
        const float isum = (float)nyb_dot(tile, r, x->q);
        acc[r] = nyb_add_scaled(tile, has_min, r, isum, x->d, x->s, acc[r]);
    }
}

/* The same for 16 bits: the exact 256 * (w . hi) + (w . lo), of up to 33 bits, is rounded to float
 * once. Each of the two is below 2^24, so the fma does just that. */
static inline void nyb_add_block16(const nyb_plain_tile *tile, int has_min, const nyb_q16 *x,
                                   float acc[NYB_TILE_ROWS]) {
    for (int r = 0; r < NYB_TILE_ROWS; r++) {
        const float high = (float)nyb_dot(tile, r, x->hi), low = (float)nyb_dot(tile, r, x->lo);
        acc[r] = nyb_add_scaled(tile, has_min, r, fmaf(high, 256.0f, low), x->d, x->s, acc[r]);
    }
}

/* Outputs are 0 or at least 2^-40, because they will be factors; a NaN stays. */
static inline float nyb_flush(float x) { return x < NYB_TINY && x > -NYB_TINY ? 0.0f : x; }

#endif
