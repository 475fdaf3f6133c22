/* SPDX-License-Identifier: MIT
 * gemv, gemv16 - one token times a quantized matrix, in plain C.
 *
 *   y[n] = sum_k w[n][k] * x[k]        w: packed tiles, x: int8 or int16 blocks, y: f32
 *
 * The definition that every other gemv equals bit for bit.
 */
#include "tiles.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* x has blocks of `bits`, a constant: nyb_q8 or nyb_q16. */
ALWAYS_INLINE void multiply(nyb_tile_format f, int bits, size_t n_tiles, size_t n_blocks,
                            const uint8_t *w, const void *x, float *y) {
    for (size_t n = 0; n < n_tiles; n++, y += NYB_TILE_ROWS) {
        float acc[NYB_TILE_ROWS] = {0};
        for (size_t b = 0; b < n_blocks; w += nyb_tile_bytes(f))
            for (int i = 0; i < f.blocks; i++, b++) {
                nyb_plain_tile tile;
                nyb_unpack(f, w, i, &tile);
                if (bits == 16)
                    nyb_add_block16(&tile, nyb_has_min(f), (const nyb_q16 *)x + b, acc);
                else
                    nyb_add_block(&tile, nyb_has_min(f), (const nyb_q8 *)x + b, acc);
            }
        for (int r = 0; r < NYB_TILE_ROWS; r++)
            y[r] = nyb_flush(acc[r]);
    }
}

ALWAYS_INLINE void gemv(nyb_tile_format f, const nyb_gemv_args *a) {
    const size_t n_tiles = a->w_beside ? a->n_tiles / 2 : a->n_tiles;
    multiply(f, 8, n_tiles, a->n_blocks, a->w, a->x, a->y);
    if (a->w_beside)
        multiply(f, 8, n_tiles, a->n_blocks, a->w_beside, a->x, a->y_beside);
}

ALWAYS_INLINE void gemv16(nyb_tile_format f, const nyb_gemv16_args *a) {
    multiply(f, 16, a->n_tiles, a->n_blocks, a->w, a->x, a->y);
}

#define NYB_ROW(op, lower, UPPER, level, needs, panel_bytes)                                       \
    void nyb_##op##_##lower##_##level(const nyb_##op##_args *a) { op(NYB_TILE_##UPPER, a); }
NYB_QUANTIZED_ROWS(gemv, ref, 0, 0)
NYB_QUANTIZED_ROWS(gemv16, ref, 0, 0)
