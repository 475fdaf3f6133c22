/* SPDX-License-Identifier: MIT
 * Packed tiles, read one number at a time: what the layouts mean (docs/formats.md draws them).
 *
 * A tile is 8 rows by 32 columns: a binary16 scale d for each row (and a minimum m, where the
 * format has one), then for each group of 4 columns the 8 rows one after another.
 */
#ifndef NYB_TILES_H
#define NYB_TILES_H

#include <math.h>
#include <string.h>

#include "half.h"
#include "nyb_kernels.h"

/* A tile as plain numbers: w[row][k] = d[row] * q[row][k] + m[row]. */
typedef struct nyb_plain_tile {
    int16_t q[NYB_TILE_ROWS][NYB_BLOCK];
    float d[NYB_TILE_ROWS], m[NYB_TILE_ROWS];
} nyb_plain_tile;

static inline float nyb_half_at(const uint8_t *p, int i) {
    uint16_t half;
    memcpy(&half, p + 2 * i, sizeof half);
    return nyb_float_of_half(half);
}

/* Group g of a tile's nibbles: columns 4g.. in low nibbles, 16+4g.. in high ones. */
static inline void nyb_unpack_nibbles(const uint8_t *nibbles, int offset, nyb_plain_tile *out) {
    for (int g = 0; g < 4; g++)
        for (int r = 0; r < NYB_TILE_ROWS; r++)
            for (int j = 0; j < 4; j++) {
                const uint8_t byte = nibbles[32 * g + 4 * r + j];
                out->q[r][4 * g + j] = (int16_t)((byte & 15) - offset);
                out->q[r][16 + 4 * g + j] = (int16_t)((byte >> 4) - offset);
            }
}

/* 16 bytes of d, then nibbles that are 8 too large. */
static inline void nyb_unpack_q4_0(const uint8_t *tile, nyb_plain_tile *out) {
    for (int r = 0; r < NYB_TILE_ROWS; r++) {
        out->d[r] = nyb_half_at(tile, r);
        out->m[r] = 0;
    }
    nyb_unpack_nibbles(tile + 16, 8, out);
}

/* 16 bytes of d, 16 of m, then nibbles. */
static inline void nyb_unpack_q4_1(const uint8_t *tile, nyb_plain_tile *out) {
    for (int r = 0; r < NYB_TILE_ROWS; r++) {
        out->d[r] = nyb_half_at(tile, r);
        out->m[r] = nyb_half_at(tile + 16, r);
    }
    nyb_unpack_nibbles(tile + 32, 0, out);
}

/* 16 bytes of d; group g holds columns 4g.. as signed bytes. No minimum. */
static inline void nyb_unpack_q8_0(const uint8_t *tile, nyb_plain_tile *out) {
    for (int r = 0; r < NYB_TILE_ROWS; r++) {
        out->d[r] = nyb_half_at(tile, r);
        out->m[r] = 0;
    }
    for (int g = 0; g < 8; g++)
        for (int r = 0; r < NYB_TILE_ROWS; r++)
            for (int j = 0; j < 4; j++)
                out->q[r][4 * g + j] = (int8_t)tile[16 + 32 * g + 4 * r + j];
}

/* One block's share of each row's sum (docs/arithmetic.md, "Blocks"): the integer dot product
 * is exact, then two or three roundings in an order that is the same everywhere. */
static inline void nyb_add_block(const nyb_plain_tile *tile, int has_min, const nyb_q8 *x,
                                 float acc[NYB_TILE_ROWS]) {
    int16_t a[NYB_BLOCK];
    for (int k = 0; k < NYB_BLOCK; k++)
        a[k] = x->q[k];
    for (int r = 0; r < NYB_TILE_ROWS; r++) {
        int32_t sum = 0;
        for (int k = 0; k < NYB_BLOCK; k++)
            sum += tile->q[r][k] * a[k];
        const float t = (float)sum * tile->d[r];
        acc[r] = fmaf(t, x->d, acc[r]);
        if (has_min)
            acc[r] = fmaf(tile->m[r], x->s, acc[r]);
    }
}

/* Outputs are 0 or at least 2^-40, because they will be factors; a NaN stays. */
static inline float nyb_flush(float x) { return x < NYB_TINY && x > -NYB_TINY ? 0.0f : x; }

#endif
