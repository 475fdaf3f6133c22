/* SPDX-License-Identifier: MIT
 * gemm - several tokens times a quantized matrix, in plain C.
 *
 *   y[t][n] = sum_k w[n][k] * x[t][k]
 *
 * Each tile row is unpacked once into the panel, then meets every token: the loop over tokens
 * knows no format. Every y equals the gemv of its token, because the sums are the same.
 */
#include "tiles.h"

_Static_assert(sizeof(nyb_plain_tile) == NYB_REF_PANEL_BYTES, "the panel holds plain tiles");

static inline __attribute__((always_inline)) void gemm(nyb_tile_format f, const nyb_gemm_args *a) {
    nyb_plain_tile *panel = a->panel;
    const uint8_t *w = a->w;
    for (size_t n = 0; n < a->n_tiles; n++) {
        for (size_t b = 0; b < a->n_blocks; w += nyb_tile_bytes(f))
            for (int i = 0; i < f.blocks; i++, b++)
                nyb_unpack(f, w, i, &panel[b]);
        for (size_t t = 0; t < a->n_tokens; t++) {
            const nyb_q8 *x = a->x + t * a->x_stride;
            float *y = a->y + t * a->y_stride + n * NYB_TILE_ROWS;
            float acc[NYB_TILE_ROWS] = {0};
            for (size_t b = 0; b < a->n_blocks; b++)
                nyb_add_block(&panel[b], nyb_has_min(f), &x[b], acc);
            for (int r = 0; r < NYB_TILE_ROWS; r++)
                y[r] = nyb_flush(acc[r]);
        }
    }
}

#define NYB_ROW(op, lower, UPPER, level, needs, panel_bytes)                                       \
    void nyb_##op##_##lower##_##level(const nyb_##op##_args *a) { op(NYB_TILE_##UPPER, a); }
NYB_QUANTIZED_ROWS(gemm, ref, 0, 0)
