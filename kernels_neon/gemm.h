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

#ifdef LOOP_APART
/* The loop for all formats like this one, compiled by itself: gcc 12 finds registers for SDOT's
 * loop then, and not in the midst of a format's function. On plain NEON it is the other way round.
 */
#define LOOP(name, f)                                                                              \
    static __attribute__((noinline)) void name(const nyb_gemm_args *a, float *y) {                 \
        multiply_all(f, a, y);                                                                     \
    }
LOOP(multiply_d, NYB_TILE_Q4_0)
LOOP(multiply_min, NYB_TILE_Q4_1)
LOOP(multiply_scaled, NYB_TILE_Q6_K)

ALWAYS_INLINE void multiply_row(format f, const nyb_gemm_args *a, float *y) {
    if (is_scaled(f))
        multiply_scaled(a, y);
    else
        (nyb_has_min(f) ? multiply_min : multiply_d)(a, y);
}
#else
ALWAYS_INLINE void multiply_row(format f, const nyb_gemm_args *a, float *y) {
    multiply_all(f, a, y);
}
#endif

ALWAYS_INLINE void gemm(format f, const nyb_gemm_args *a) {
    const size_t row_bytes = a->n_blocks / (size_t)f.blocks * nyb_tile_bytes(f);
    for (size_t n = 0; n < a->n_tiles; n++) {
        unpack_row(f, a->w + n * row_bytes, a->n_blocks, a->panel);
        multiply_row(f, a, a->y + n * NYB_TILE_ROWS);
    }
}
