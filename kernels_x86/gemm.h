/* SPDX-License-Identifier: MIT
 * gemm - several tokens times a quantized matrix.
 *
 *   y[t][n] = sum_k w[n][k] * x[t][k]
 *
 * As many tile rows as REGISTERS hold are unpacked once into a panel that stays near the core, then
 * meet all tokens, TOKENS at a time: the inner loop knows how large weights are and which scales
 * they have, and no other detail of a format. A level defines REGISTERS and the two numbers of
 * tokens: so many integer and float accumulators fit its registers with what they meet.
 */
#include "tiles.h"

/* A block of the tile rows of one register, unpacked. Where 16 columns have a scale, m holds the
 * bits of two int16. The panel has REGISTERS of them for each block. */
typedef struct panel_block {
    uint8_t w[8][32 * TILES]; /* group, 8 rows of each tile x 4 columns */
    float d[8 * TILES], m[8 * TILES];
} panel_block;

ALWAYS_INLINE void unpack_rows(format f, place p, size_t n_blocks, panel_block *panel) {
    for (size_t b = 0; b < n_blocks;) {
        tile_scales scales;
        load_tile_scales(f, p, &scales);
        p = ahead(p, f.scales_bytes);
        for (int i = 0; i < f.blocks; i++, b++, panel += REGISTERS, p = ahead(p, f.block_bytes)) {
            ints w[8];
            floats d, m;
            load_weights(f, p, w);
            load_scales(f, &scales, p, i, &d, &m);
            for (int g = 0; g < 8; g++)
                VI(storeu)((void *)panel->w[g], w[g]);
            V(storeu_ps)(panel->d, d);
            V(storeu_ps)(panel->m, m);
        }
    }
}

/* `registers` times `tokens` tokens, both constant wherever this is inlined. y[t] of `tiles` tile
 * rows are stored; the last register may have only one. */
ALWAYS_INLINE void multiply(format f, int registers, int tokens, const panel_block *panel,
                            size_t n_blocks, const nyb_q8 *x, size_t x_stride, float *y,
                            size_t y_stride, size_t tiles) {
    const int bits = dot_bits(f), scaled = is_scaled(f), groups = dot_groups(bits, scaled);
    floats acc[REGISTERS][TOKENS];
    for (int r = 0; r < registers; r++)
        for (int t = 0; t < tokens; t++)
            acc[r][t] = V(setzero_ps)();
    for (size_t b = 0; b < n_blocks; b++, panel += REGISTERS, x++) {
        ints sum[REGISTERS][TOKENS], total[REGISTERS][TOKENS], scale[REGISTERS][2];
        for (int r = 0; r < registers; r++) {
            const ints pairs = as_ints(V(loadu_ps)(panel[r].m));
            dot_scales(pairs, scale[r]);
            for (int t = 0; t < tokens; t++) {
                const nyb_q8 *xt = &x[(size_t)t * x_stride];
                total[r][t] = dot_begin(addend(f, pairs, xt->half_sum, xt->sum));
            }
        }
        for (int first = 0; first < 8; first += groups) {
            for (int r = 0; r < registers; r++)
                for (int t = 0; t < tokens; t++)
                    sum[r][t] = dot_start(scaled, total[r][t]);
            for (int g = first; g < first + groups; g++) {
                ints w[REGISTERS];
                for (int r = 0; r < registers; r++)
                    w[r] = VI(loadu)((const void *)panel[r].w[g]);
                for (int t = 0; t < tokens; t++) {
                    const ints a = four(x[(size_t)t * x_stride].q + 4 * g);
                    for (int r = 0; r < registers; r++)
                        sum[r][t] = dot_add(bits, sum[r][t], w[r], a);
                }
            }
            for (int r = 0; r < registers; r++)
                for (int t = 0; t < tokens; t++)
                    total[r][t] = dot_join(scaled, total[r][t], sum[r][t], scale[r][first / 4]);
        }
        for (int r = 0; r < registers; r++) {
            const floats d = V(loadu_ps)(panel[r].d);
            for (int t = 0; t < tokens; t++) {
                const nyb_q8 *xt = &x[(size_t)t * x_stride];
                const floats m = V(loadu_ps)(panel[r].m);
                const ints beside = addend(f, as_ints(m), xt->half_sum, xt->sum);
                const floats isum = V(cvtepi32_ps)(dot_end(total[r][t], beside));
                acc[r][t] = V(fmadd_ps)(V(mul_ps)(isum, d), V(set1_ps)(xt->d), acc[r][t]);
                if (nyb_has_min(f))
                    acc[r][t] = V(fmadd_ps)(m, V(set1_ps)(xt->s), acc[r][t]);
            }
        }
    }
    for (int t = 0; t < tokens; t++, y += y_stride)
        for (int r = 0; r < registers; r++) {
            float *rows[TILES];
            for (int i = 0; i < TILES; i++)
                rows[i] = y + (r * TILES + i) * NYB_TILE_ROWS;
            store_rows(acc[r][t], rows, tiles - (size_t)r * TILES);
        }
}

/* All tokens times the panel, whose first tile row is n. */
ALWAYS_INLINE void multiply_all(format f, int registers, const nyb_gemm_args *a, size_t n) {
    const int many = is_scaled(f) ? SCALED_TOKENS : TOKENS; /* totals need registers too */
    const nyb_q8 *x = a->x;
    float *y = a->y + n * NYB_TILE_ROWS;
    const size_t xs = a->x_stride, ys = a->y_stride, tiles = a->n_tiles - n;
    size_t left = a->n_tokens;
    for (; left >= (size_t)many; left -= (size_t)many, x += many * xs, y += many * ys)
        multiply(f, registers, many, a->panel, a->n_blocks, x, xs, y, ys, tiles);
    for (; left >= 2; left -= 2, x += 2 * xs, y += 2 * ys)
        multiply(f, registers, 2, a->panel, a->n_blocks, x, xs, y, ys, tiles);
    if (left)
        multiply(f, registers, 1, a->panel, a->n_blocks, x, xs, y, ys, tiles);
}

ALWAYS_INLINE void gemm(format f, const nyb_gemm_args *a) {
    const size_t row_bytes = a->n_blocks / (size_t)f.blocks * nyb_tile_bytes(f);
    for (size_t n = 0; n < a->n_tiles; n += TILES * REGISTERS) {
        const size_t left = a->n_tiles - n;
        const int registers = left > TILES ? REGISTERS : 1;
        for (int r = 0; r < registers; r++) {
            place p;
            for (size_t t = 0; t < TILES; t++) { /* a lone last tile row stands beside itself */
                const size_t i = (size_t)r * TILES + t;
                p.in[t] = a->w + (n + (i < left ? i : left - 1)) * row_bytes;
            }
            unpack_rows(f, p, a->n_blocks, (panel_block *)a->panel + r);
        }
        if (registers == 1)
            multiply_all(f, 1, a, n);
        else
            multiply_all(f, REGISTERS, a, n);
    }
}
