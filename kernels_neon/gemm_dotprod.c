/* SPDX-License-Identifier: MIT
 * gemm by SDOT, for each format.
 */
#include "dot_dotprod.h"

enum { TOKENS = 4 };

/* Columns 0-15 as tiles have them, their scale if 16 columns have one, columns 16-31 and theirs,
 * d, the minimum if there is one. */
ALWAYS_INLINE void put_block(format f, void **panel, const uint8_t *block, nyb_v8 d, nyb_v8 m,
                             const ints scale[2]) {
    void *half[2] = {*panel, (uint8_t *)*panel + (is_scaled(f) ? 160 : 128)};
    for (int g = 0; g < 4; g++) {
        bytes w[2];
        load_centred(f, block, g, w);
        put_bytes(&half[0], w[0]);
        put_bytes(&half[1], w[1]);
    }
    for (int i = 0; i < 2 && is_scaled(f); i++)
        put_ints(&half[i], scale[i]);
    *panel = half[1];
    put(panel, d);
    if (nyb_has_min(f))
        put(panel, m);
}

/* 4 columns of a half. */
ALWAYS_INLINE void add_group(int tokens, const void **panel, const int8x16_t a[TOKENS], int lane,
                             ints sum[TOKENS]) {
    const bytes w = as_bytes(next_floats(panel));
    for (int t = 0; t < tokens; t++)
        sum[t] = dot_rows(sum[t], w, a[t], lane);
}

ALWAYS_INLINE void add_half(int tokens, const void **panel, const int8x16_t a[TOKENS],
                            ints sum[TOKENS]) {
    add_group(tokens, panel, a, 0, sum);
    add_group(tokens, panel, a, 1, sum);
    add_group(tokens, panel, a, 2, sum);
    add_group(tokens, panel, a, 3, sum);
}

/* The exact sums. Leaves the streams of x where scales are. */
ALWAYS_INLINE void sum_block(format f, int tokens, const void **panel, const void *x[TOKENS],
                             ints sum[TOKENS]) {
    int8x16_t first[TOKENS], last[TOKENS];
    ints total[TOKENS];
    for (int t = 0; t < tokens; t++) {
        sum[t] = zeros();
        const bytes a = as_bytes(next_floats(&x[t]));
        first[t] = vreinterpretq_s8_u8(a.lo), last[t] = vreinterpretq_s8_u8(a.hi);
    }
    add_half(tokens, panel, first, sum);
    if (is_scaled(f)) {
        const ints scale = as_ints(next_floats(panel));
        for (int t = 0; t < tokens; t++) {
            total[t] = scaled_first(sum[t], scale);
            sum[t] = zeros();
        }
    }
    add_half(tokens, panel, last, sum);
    if (is_scaled(f)) {
        const ints scale = as_ints(next_floats(panel));
        for (int t = 0; t < tokens; t++)
            sum[t] = scaled(total[t], sum[t], scale);
    }
}

ALWAYS_INLINE void multiply(format f, int tokens, const void *panel, size_t n_blocks,
                            const nyb_q8 *x, size_t x_stride, float *y, size_t y_stride) {
    const void *p = stream_of(panel), *xs[TOKENS];
    nyb_v8 acc[TOKENS];
    for (int t = 0; t < tokens; t++) {
        xs[t] = stream_of(x + (size_t)t * x_stride);
        acc[t] = v8_set(0);
    }
    for (size_t left = n_blocks; left > 0; left--) {
        ints sum[TOKENS];
        sum_block(f, tokens, &p, xs, sum);
        const nyb_v8 d = next_floats(&p), m = nyb_has_min(f) ? next_floats(&p) : v8_set(0);
        for (int t = 0; t < tokens; t++) {
            const nyb_v8 product = v8_mul(to_floats(sum[t]), d);
            acc[t] = add_scaled(f, acc[t], product, m, next_scales(&xs[t]));
        }
    }
    for (int t = 0; t < tokens; t++)
        v8_store(y + (size_t)t * y_stride, v8_flush(acc[t]));
}

#include "gemm.h"

/* The loop for all formats like this one, compiled by itself: gcc 12 finds registers for it then,
 * and not in the midst of a format's function. On plain NEON it is the other way round. It is named
 * like a row, for tools/count counts it as one. */
#define LOOP(name, f)                                                                              \
    static __attribute__((noinline)) void name(const nyb_gemm_args *a, float *y) {                 \
        multiply_all(f, a, y);                                                                     \
    }
LOOP(nyb_gemm_d_dotprod, NYB_TILE_Q4_0)
LOOP(nyb_gemm_min_dotprod, NYB_TILE_Q4_1)
LOOP(nyb_gemm_scaled_dotprod, NYB_TILE_Q6_K)

ALWAYS_INLINE void gemm(format f, const nyb_gemm_args *a) {
    multiply_row *plain = nyb_has_min(f) ? nyb_gemm_min_dotprod : nyb_gemm_d_dotprod;
    gemm_rows(f, a, is_scaled(f) ? nyb_gemm_scaled_dotprod : plain);
}

NYB_QUANTIZED_ROWS(gemm, dotprod, 0, 0)
