/* SPDX-License-Identifier: MIT
 * gemm on AVX-512 VNNI, for each format.
 *
 *   y[t][n] = sum_k w[n][k] * x[t][k]
 *
 * Four tile rows are unpacked once into a panel, two side by side in a 512-bit register, and
 * meet six tokens at a time: 12 int and 12 float accumulators.
 */
#include "tiles_512.h"

enum { PAIRS = 2, TOKENS = 6, TILES = 2 * PAIRS };

/* A block of two tile rows, unpacked: in each lane 4 columns of one of 16 rows. */
typedef struct panel_block {
    uint8_t w[8][64];
    float d[16], m[16];
} panel_block;

_Static_assert(PAIRS * sizeof(panel_block) == 1280, "kernels.def says so");

/* Two tile rows that begin at a and b; the panel's blocks lie PAIRS apart. */
ALWAYS_INLINE void unpack_pair(format f, const uint8_t *a, const uint8_t *b, size_t n_blocks,
                               panel_block *panel) {
    for (size_t i = 0; i < n_blocks; i++, a += f.tile_bytes, b += f.tile_bytes, panel += PAIRS) {
        __m512i w[8];
        load_weights(f, a, b, w);
        for (int g = 0; g < 8; g++)
            _mm512_storeu_si512(panel->w[g], w[g]);
        _mm512_storeu_ps(panel->d, halves_beside(a, b));
        if (f.has_min)
            _mm512_storeu_ps(panel->m, halves_beside(a + 16, b + 16));
    }
}

/* `pairs` of tile rows times `tokens` tokens, both constant wherever this is inlined. y[p][t] of
 * `tiles` tile rows are stored; the last pair may have only one. */
ALWAYS_INLINE void multiply(format f, int pairs, int tokens, const panel_block *panel,
                            size_t n_blocks, const nyb_q8 *x, size_t x_stride, float *y,
                            size_t y_stride, size_t tiles) {
    __m512 acc[PAIRS][TOKENS];
    for (int p = 0; p < pairs; p++)
        for (int t = 0; t < tokens; t++)
            acc[p][t] = _mm512_setzero_ps();
    for (size_t b = 0; b < n_blocks; b++, panel += PAIRS, x++) {
        __m512i sum[PAIRS][TOKENS];
        for (int p = 0; p < pairs; p++)
            for (int t = 0; t < tokens; t++)
                sum[p][t] = _mm512_set1_epi32(f.offset * x[(size_t)t * x_stride].sum);
        for (int g = 0; g < 8; g++) {
            __m512i w[PAIRS];
            for (int p = 0; p < pairs; p++)
                w[p] = _mm512_loadu_si512(panel[p].w[g]);
            for (int t = 0; t < tokens; t++) {
                const __m512i a = four(x[(size_t)t * x_stride].q + 4 * g);
                for (int p = 0; p < pairs; p++)
                    sum[p][t] = _mm512_dpbusd_epi32(sum[p][t], w[p], a);
            }
        }
        for (int p = 0; p < pairs; p++) {
            const __m512 d = _mm512_loadu_ps(panel[p].d);
            for (int t = 0; t < tokens; t++) {
                const nyb_q8 *xt = &x[(size_t)t * x_stride];
                const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[p][t]), d);
                acc[p][t] = _mm512_fmadd_ps(scaled, _mm512_set1_ps(xt->d), acc[p][t]);
                if (f.has_min)
                    acc[p][t] = _mm512_fmadd_ps(_mm512_loadu_ps(panel[p].m), _mm512_set1_ps(xt->s),
                                                acc[p][t]);
            }
        }
    }
    for (int p = 0; p < pairs; p++)
        for (int t = 0; t < tokens; t++) {
            const __mmask16 rows = tiles >= 2 * (size_t)p + 2 ? 0xffff : 0xff;
            _mm512_mask_storeu_ps(y + (size_t)t * y_stride + 16 * p, rows, flush(acc[p][t]));
        }
}

/* All tokens, TOKENS at a time. */
ALWAYS_INLINE void multiply_all(format f, int pairs, const nyb_gemm_args *a, size_t n) {
    const nyb_q8 *x = a->x;
    float *y = a->y + n * NYB_TILE_ROWS;
    const size_t xs = a->x_stride, ys = a->y_stride, blocks = a->n_blocks;
    const size_t tiles = a->n_tiles - n;
    size_t left = a->n_tokens;
    for (; left >= TOKENS; left -= TOKENS, x += TOKENS * xs, y += TOKENS * ys)
        multiply(f, pairs, TOKENS, a->panel, blocks, x, xs, y, ys, tiles);
    for (; left >= 2; left -= 2, x += 2 * xs, y += 2 * ys)
        multiply(f, pairs, 2, a->panel, blocks, x, xs, y, ys, tiles);
    if (left)
        multiply(f, pairs, 1, a->panel, blocks, x, xs, y, ys, tiles);
}

ALWAYS_INLINE void gemm(format f, const nyb_gemm_args *a) {
    const size_t row_bytes = a->n_blocks * f.tile_bytes;
    for (size_t n = 0; n < a->n_tiles; n += TILES) {
        const size_t tiles = a->n_tiles - n < TILES ? a->n_tiles - n : TILES;
        const uint8_t *w = a->w + n * row_bytes;
        panel_block *panel = a->panel;
        for (size_t i = 0; i < tiles; i += 2) /* a lone last tile row stands beside itself */
            unpack_pair(f, w + i * row_bytes, w + (i + 1 < tiles ? i + 1 : i) * row_bytes,
                        a->n_blocks, panel + i / 2);
        if (tiles > 2)
            multiply_all(f, 2, a, n);
        else
            multiply_all(f, 1, a, n);
    }
}

void nyb_gemm_q4_0_avx512vnni(const nyb_gemm_args *a) { gemm(FORMAT_Q4_0, a); }
void nyb_gemm_q4_1_avx512vnni(const nyb_gemm_args *a) { gemm(FORMAT_Q4_1, a); }
void nyb_gemm_q8_0_avx512vnni(const nyb_gemm_args *a) { gemm(FORMAT_Q8_0, a); }
