/* SPDX-License-Identifier: MIT
 * gemm - several tokens times a quantized matrix.
 *
 *   y[t][n] = sum_k w[n][k] * x[t][k]
 *
 * A tile row is unpacked once into a panel and then meets all tokens, TOKENS at a time: the inner
 * loop knows which scales a format has, and how large weights are if int16 is what they are summed
 * in, and no other detail. Beside TOKENS and put_block (panel.h) a level defines, before it
 * includes this, multiply: the panel times `tokens` tokens, a constant; it stores 8 rows of each y.
 */
#include "panel.h"

/* The panel times all tokens; y begins at the panel's 8 rows. */
ALWAYS_INLINE void multiply_all(format f, const nyb_gemm_args *a, float *y) {
    const size_t xs = a->x_stride, ys = a->y_stride;
    const nyb_q8 *x = a->x;
    size_t left = a->n_tokens;
    for (; left >= TOKENS; left -= TOKENS, x += TOKENS * xs, y += TOKENS * ys)
        multiply(f, TOKENS, a->panel, a->n_blocks, x, xs, y, ys);
    for (; left >= 2; left -= 2, x += 2 * xs, y += 2 * ys)
        multiply(f, 2, a->panel, a->n_blocks, x, xs, y, ys);
    if (left)
        multiply(f, 1, a->panel, a->n_blocks, x, xs, y, ys);
}

typedef void multiply_row(const nyb_gemm_args *a, float *y);

/* All tile rows, each multiplied by `apart`, or in place if that is NULL. */
ALWAYS_INLINE void gemm_rows(format f, const nyb_gemm_args *a, multiply_row *apart) {
    const size_t row_bytes = a->n_blocks / (size_t)f.blocks * nyb_tile_bytes(f);
    for (size_t n = 0; n < a->n_tiles; n++) {
        float *y = a->y + n * NYB_TILE_ROWS;
        unpack_row(f, a->w + n * row_bytes, a->n_blocks, a->panel);
        if (apart)
            apart(a, y);
        else
            multiply_all(f, a, y);
    }
}
