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

typedef void unpack_fn(const uint8_t *tile, nyb_plain_tile *out);

static inline __attribute__((always_inline)) void gemm(const nyb_gemm_args *a, unpack_fn *unpack,
                                                       size_t tile_bytes, int has_min) {
    nyb_plain_tile *panel = a->panel;
    const uint8_t *w = a->w;
    for (size_t n = 0; n < a->n_tiles; n++) {
        for (size_t b = 0; b < a->n_blocks; b++, w += tile_bytes)
            unpack(w, &panel[b]);
        for (size_t t = 0; t < a->n_tokens; t++) {
            const nyb_q8 *x = a->x + t * a->x_stride;
            float *y = a->y + t * a->y_stride + n * NYB_TILE_ROWS;
            float acc[NYB_TILE_ROWS] = {0};
            for (size_t b = 0; b < a->n_blocks; b++)
                nyb_add_block(&panel[b], has_min, &x[b], acc);
            for (int r = 0; r < NYB_TILE_ROWS; r++)
                y[r] = nyb_flush(acc[r]);
        }
    }
}

void nyb_gemm_q4_0_ref(const nyb_gemm_args *a) { gemm(a, nyb_unpack_q4_0, NYB_TILE_Q4_0, 0); }
void nyb_gemm_q4_1_ref(const nyb_gemm_args *a) { gemm(a, nyb_unpack_q4_1, NYB_TILE_Q4_1, 1); }
void nyb_gemm_q8_0_ref(const nyb_gemm_args *a) { gemm(a, nyb_unpack_q8_0, NYB_TILE_Q8_0, 0); }
