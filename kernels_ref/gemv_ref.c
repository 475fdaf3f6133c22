/* SPDX-License-Identifier: MIT
 * gemv - one token times a quantized matrix, in plain C.
 *
 *   y[n] = sum_k w[n][k] * x[k]        w: packed tiles, x: int8 or int16 blocks, y: f32
 *
 * The definition that every other gemv equals bit for bit.
 */
#include "tiles.h"

typedef void unpack_fn(const uint8_t *tile, nyb_plain_tile *out);

static inline __attribute__((always_inline)) void gemv(const nyb_gemv_args *a, unpack_fn *unpack,
                                                       size_t tile_bytes, int has_min) {
    const uint8_t *w = a->w;
    for (size_t n = 0; n < a->n_tiles; n++) {
        float acc[NYB_TILE_ROWS] = {0};
        for (size_t b = 0; b < a->n_blocks; b++, w += tile_bytes) {
            nyb_plain_tile tile;
            unpack(w, &tile);
            nyb_add_block(&tile, has_min, &a->x[b], acc);
        }
        for (int r = 0; r < NYB_TILE_ROWS; r++)
            a->y[n * NYB_TILE_ROWS + (size_t)r] = nyb_flush(acc[r]);
    }
}

void nyb_gemv_q4_0_ref(const nyb_gemv_args *a) { gemv(a, nyb_unpack_q4_0, NYB_TILE_Q4_0, 0); }
void nyb_gemv_q4_1_ref(const nyb_gemv_args *a) { gemv(a, nyb_unpack_q4_1, NYB_TILE_Q4_1, 1); }
void nyb_gemv_q8_0_ref(const nyb_gemv_args *a) { gemv(a, nyb_unpack_q8_0, NYB_TILE_Q8_0, 0); }

/* As nyb_add_block, but the integer sum is 256 * (w . hi) + (w . lo): below 2^28 for 8-bit
 * weights, so exact, and rounded to float once. */
static inline void add_block16(const nyb_plain_tile *tile, int has_min, const nyb_q16 *x,
                               float acc[NYB_TILE_ROWS]) {
    int16_t hi[NYB_BLOCK], lo[NYB_BLOCK];
    for (int k = 0; k < NYB_BLOCK; k++) {
        hi[k] = x->hi[k];
        lo[k] = x->lo[k];
    }
    for (int r = 0; r < NYB_TILE_ROWS; r++) {
        int32_t high = 0, low = 0;
        for (int k = 0; k < NYB_BLOCK; k++) {
            high += tile->q[r][k] * hi[k];
            low += tile->q[r][k] * lo[k];
        }
        const float t = (float)(256 * high + low) * tile->d[r];
        acc[r] = fmaf(t, x->d, acc[r]);
        if (has_min)
            acc[r] = fmaf(tile->m[r], x->s, acc[r]);
    }
}

static inline __attribute__((always_inline)) void
gemv16(const nyb_gemv16_args *a, unpack_fn *unpack, size_t tile_bytes, int has_min) {
    const uint8_t *w = a->w;
    for (size_t n = 0; n < a->n_tiles; n++) {
        float acc[NYB_TILE_ROWS] = {0};
        for (size_t b = 0; b < a->n_blocks; b++, w += tile_bytes) {
            nyb_plain_tile tile;
            unpack(w, &tile);
            add_block16(&tile, has_min, &a->x[b], acc);
        }
        for (int r = 0; r < NYB_TILE_ROWS; r++)
            a->y[n * NYB_TILE_ROWS + (size_t)r] = nyb_flush(acc[r]);
    }
}

void nyb_gemv16_q4_0_ref(const nyb_gemv16_args *a) { gemv16(a, nyb_unpack_q4_0, NYB_TILE_Q4_0, 0); }
void nyb_gemv16_q4_1_ref(const nyb_gemv16_args *a) { gemv16(a, nyb_unpack_q4_1, NYB_TILE_Q4_1, 1); }
void nyb_gemv16_q8_0_ref(const nyb_gemv16_args *a) { gemv16(a, nyb_unpack_q8_0, NYB_TILE_Q8_0, 0); }
