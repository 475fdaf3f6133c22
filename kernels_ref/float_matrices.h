/* SPDX-License-Identifier: MIT
 * Matrices of plain floats, written once on eight lanes (included by float_ops.h).
 *
 *   y[t][n] = sum_k w[n][k] * x[t][k]        w: tiles of 8 rows x 1 column, x and y: f32
 *
 * Each sum is a chain of fused multiply-adds in order of k, so several of them are done at once:
 * tile rows of one token, or tile rows and tokens.
 */

/* What a loop must know of a format, constant wherever it is inlined. */
static inline size_t column_bytes(nyb_format format) { return format == NYB_F32 ? 32 : 16; }

static inline nyb_v8 load_column(nyb_format format, const uint8_t *w) {
    if (format == NYB_F32)
        return v8_load((const float *)w);
    if (format == NYB_F16)
        return v8_load_half((const uint16_t *)w);
    return v8_load_bf16((const uint16_t *)w);
}

enum { FLOAT_TOKENS = 4, FLOAT_TILES = 4, FLOAT_SUMS = 8 };

/* `tiles` tile rows, row_bytes apart, times `tokens` tokens: at most FLOAT_SUMS sums. */
NYB_INLINE void multiply_floats(nyb_format format, int tiles, int tokens, size_t n_cols,
                                const uint8_t *w, size_t row_bytes, const float *x, size_t x_stride,
                                float *y, size_t y_stride) {
    nyb_v8 sum[FLOAT_SUMS];
    for (int i = 0; i < tiles * tokens; i++)
        sum[i] = v8_set(0);
    for (size_t k = 0; k < n_cols; k++, w += column_bytes(format)) {
        nyb_v8 column[FLOAT_TILES];
        for (int n = 0; n < tiles; n++)
            column[n] = load_column(format, w + (size_t)n * row_bytes);
        for (int t = 0; t < tokens; t++) {
            const nyb_v8 xk = v8_set(x[(size_t)t * x_stride + k]);
            for (int n = 0; n < tiles; n++)
                sum[t * tiles + n] = v8_fma(column[n], xk, sum[t * tiles + n]);
        }
    }
    for (int t = 0; t < tokens; t++)
        for (int n = 0; n < tiles; n++)
            v8_store(y + (size_t)t * y_stride + n * NYB_LANES, v8_flush(sum[t * tiles + n]));
}

/* All tile rows, `tiles` at a time, times `tokens` tokens. */
NYB_INLINE void multiply_tiles(nyb_format format, int tiles, int tokens, const nyb_gemm32_args *a,
                               const float *x, float *y) {
    const size_t n_cols = a->n_blocks * NYB_BLOCK, row_bytes = n_cols * column_bytes(format);
    const uint8_t *w = a->w;
    size_t left = a->n_tiles;
    for (; left >= (size_t)tiles; left -= (size_t)tiles, y += tiles * NYB_LANES) {
        multiply_floats(format, tiles, tokens, n_cols, w, row_bytes, x, a->x_stride, y,
                        a->y_stride);
        w += (size_t)tiles * row_bytes;
    }
    for (; left > 0; left--, w += row_bytes, y += NYB_LANES)
        multiply_floats(format, 1, tokens, n_cols, w, row_bytes, x, a->x_stride, y, a->y_stride);
}

NYB_INLINE void gemm32(nyb_format format, const nyb_gemm32_args *a) {
    const float *x = a->x;
    float *y = a->y;
    size_t left = a->n_tokens;
    for (; left >= FLOAT_TOKENS; left -= FLOAT_TOKENS) {
        multiply_tiles(format, FLOAT_SUMS / FLOAT_TOKENS, FLOAT_TOKENS, a, x, y);
        x += FLOAT_TOKENS * a->x_stride;
        y += FLOAT_TOKENS * a->y_stride;
    }
    for (; left > 0; left--, x += a->x_stride, y += a->y_stride)
        multiply_tiles(format, FLOAT_TILES, 1, a, x, y);
}

NYB_INLINE void gemv32(nyb_format format, const nyb_gemv32_args *a) {
    const nyb_gemm32_args one = {a->n_tiles, a->n_blocks, 1, a->w, a->x, 0, a->y, 0};
    multiply_tiles(format, FLOAT_TILES, 1, &one, a->x, a->y);
}

#define NYB_ROW(op, lower, UPPER, level, needs, panel_bytes)                                       \
    void NYB_KERNEL(op##_##lower)(const nyb_##op##_args *a) { op(NYB_##UPPER, a); }
NYB_FLOAT_MATRIX_ROWS(gemv32, , )
NYB_FLOAT_MATRIX_ROWS(gemm32, , )
#undef NYB_ROW
