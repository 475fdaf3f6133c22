/* SPDX-License-Identifier: MIT
 * gemm - several tokens times a quantized matrix, 256 bits at a time.
 *
 *   y[t][n] = sum_k w[n][k] * x[t][k]
 *
 * A tile row is unpacked once into a panel that stays in the L1 cache, then meets all tokens,
 * TOKENS at a time: the inner loop knows bits and minimum, and no other detail of a format.
 */
#include "tiles.h"

/* A block of a tile row, unpacked. */
typedef struct panel_block {
    uint8_t w[8][32]; /* group, 8 rows x 4 columns */
    float d[8], m[8];
} panel_block;

_Static_assert(sizeof(panel_block) == 320, "kernels.def says so");

enum { TOKENS = 4 }; /* 4 int and 4 float accumulators fit 16 registers with what they meet */

ALWAYS_INLINE void unpack_row(format f, const uint8_t *w, size_t n_blocks, panel_block *panel) {
    for (size_t b = 0; b < n_blocks; b++, w += f.tile_bytes) {
        __m256i weights[8];
        load_weights(f, w, weights);
        for (int g = 0; g < 8; g++)
            _mm256_storeu_si256((__m256i *)panel[b].w[g], weights[g]);
        v8_store(panel[b].d, v8_load_half((const uint16_t *)w));
        if (f.has_min)
            v8_store(panel[b].m, v8_load_half((const uint16_t *)(w + 16)));
    }
}

/* `tokens` tokens, at most TOKENS, a constant wherever it is inlined, times the panel. */
ALWAYS_INLINE void multiply(format f, int tokens, const panel_block *panel, size_t n_blocks,
                            const nyb_q8 *x, size_t x_stride, float *y, size_t y_stride) {
    __m256 acc[TOKENS];
    for (int t = 0; t < tokens; t++)
        acc[t] = _mm256_setzero_ps();
    for (size_t b = 0; b < n_blocks; b++, panel++, x++) {
        __m256i sum[TOKENS];
        for (int t = 0; t < tokens; t++)
            sum[t] = dot_begin(f.bits, f.offset * x[(size_t)t * x_stride].sum);
        for (int g = 0; g < 8; g++) {
            const __m256i w = _mm256_loadu_si256((const __m256i *)panel->w[g]);
            for (int t = 0; t < tokens; t++) {
                sum[t] = dot_add(f.bits, sum[t], w, four(x[(size_t)t * x_stride].q + 4 * g));
                /* keeps gcc from hoisting all products before the sums, which spills them */
                __asm__("" : "+x"(sum[t]));
            }
        }
        const __m256 d = v8_load(panel->d);
        for (int t = 0; t < tokens; t++) {
            const nyb_q8 *xt = &x[(size_t)t * x_stride];
            const __m256i dot = dot_end(f.bits, sum[t], f.offset * xt->sum);
            const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), d);
            acc[t] = _mm256_fmadd_ps(scaled, _mm256_set1_ps(xt->d), acc[t]);
            if (f.has_min)
                acc[t] = _mm256_fmadd_ps(v8_load(panel->m), _mm256_set1_ps(xt->s), acc[t]);
        }
    }
    for (int t = 0; t < tokens; t++)
        v8_store(y + (size_t)t * y_stride, v8_flush(acc[t]));
}

ALWAYS_INLINE void gemm(format f, const nyb_gemm_args *a) {
    panel_block *panel = a->panel;
    for (size_t n = 0; n < a->n_tiles; n++) {
        unpack_row(f, a->w + n * a->n_blocks * f.tile_bytes, a->n_blocks, panel);
        const nyb_q8 *x = a->x;
        float *y = a->y + n * NYB_TILE_ROWS;
        size_t left = a->n_tokens;
        for (; left >= TOKENS; left -= TOKENS, x += TOKENS * a->x_stride, y += TOKENS * a->y_stride)
            multiply(f, TOKENS, panel, a->n_blocks, x, a->x_stride, y, a->y_stride);
        if (left == 3)
            multiply(f, 3, panel, a->n_blocks, x, a->x_stride, y, a->y_stride);
        else if (left == 2)
            multiply(f, 2, panel, a->n_blocks, x, a->x_stride, y, a->y_stride);
        else if (left == 1)
            multiply(f, 1, panel, a->n_blocks, x, a->x_stride, y, a->y_stride);
    }
}
