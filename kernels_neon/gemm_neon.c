/* SPDX-License-Identifier: MIT
 * gemm on plain NEON, for each format.
 *
 * In the panel a row's 16 columns lie in a register, as a token's do. SMULL and SMLAL sum their
 * products in int16 and rows are joined pairwise, as long as the sums fit:
 *
 *   weights -16..15   4 to a lane, 16 after two joins   16 * 16 * 127 = 32,512
 *           -32..31   4, or 2 with scales of 16 columns, then 8   8 * 32 * 127 = 32,512
 *         -128..127   2                                           2 * 128 * 127 = 32,512
 */
#include "tiles.h"

enum { TOKENS = 4 };

typedef struct panel_block {
    int8_t w[2][2][4][16]; /* rows 0-3 or 4-7, columns 0-15 or 16-31, row, column */
    float d[8], m[8];
    int32_t scale[2][8];
} panel_block;

/* Four groups of 4 columns of 4 rows: ST4 turns them. */
ALWAYS_INLINE void store_turned(int8_t p[4][16], uint8x16_t a, uint8x16_t b, uint8x16_t c,
                                uint8x16_t d) {
    const uint32x4x4_t groups = {{vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b),
                                  vreinterpretq_u32_u8(c), vreinterpretq_u32_u8(d)}};
    vst4q_u32((uint32_t *)(void *)p, groups);
}

ALWAYS_INLINE void put_block(format f, panel_block *out, const bytes w[8], nyb_v8 d, nyb_v8 m,
                             const ints scale[2]) {
    for (int half = 0; half < 2; half++, w += 4) {
        store_turned(out->w[0][half], w[0].lo, w[1].lo, w[2].lo, w[3].lo);
        store_turned(out->w[1][half], w[0].hi, w[1].hi, w[2].hi, w[3].hi);
    }
    v8_store(out->d, d);
    if (nyb_has_min(f))
        v8_store(out->m, m);
    for (int half = 0; half < 2 && is_scaled(f); half++) {
        vst1q_s32(out->scale[half], scale[half].lo);
        vst1q_s32(out->scale[half] + 4, scale[half].hi);
    }
}

/* How many products of the format's weights, as the panel has them, an int16 holds. */
ALWAYS_INLINE int fitting_products(format f) {
    if (f.bits == 8 || f.codes == NYB_CODES_IQ4_NL)
        return 2;
    return f.bits == 6 || (f.bits == 5 && !f.bias) ? 8 : 16;
}

ALWAYS_INLINE int16x8_t products(int8x16_t w, int8x16_t a) {
    return vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(a)), w, a);
}

ALWAYS_INLINE int16x8_t add_products(int16x8_t sum, int8x16_t w, int8x16_t a) {
    return vmlal_high_s8(vmlal_s8(sum, vget_low_s8(w), vget_low_s8(a)), w, a);
}

/* Two rows' sums of `halves` times 16 columns, from column 16 * half on: 4 int16 lanes a row. */
ALWAYS_INLINE int16x8_t narrow_pair(const panel_block *p, int four, int row, int half, int halves,
                                    const int8x16_t a[2]) {
    int16x8_t sum[2];
    for (int i = 0; i < 2; i++) {
        sum[i] = products(vld1q_s8(p->w[four][half][row + i]), a[half]);
        if (halves == 2)
            sum[i] = add_products(sum[i], vld1q_s8(p->w[four][1][row + i]), a[1]);
    }
    return vpaddq_s16(sum[0], sum[1]);
}

/* Two rows' sums of 32 columns of weights of 8 bits: 2 int32 lanes a row. */
ALWAYS_INLINE int32x4_t wide_pair(const panel_block *p, int four, int row, const int8x16_t a[2]) {
    int32x4_t sum[2];
    for (int i = 0; i < 2; i++) {
        sum[i] = vpaddlq_s16(products(vld1q_s8(p->w[four][0][row + i]), a[0]));
        sum[i] = vpadalq_s16(sum[i], products(vld1q_s8(p->w[four][1][row + i]), a[1]));
    }
    return vpaddq_s32(sum[0], sum[1]);
}

/* The exact sums of 4 rows. */
ALWAYS_INLINE int32x4_t isum_of(format f, const panel_block *p, int four, const int8x16_t a[2]) {
    if (fitting_products(f) == 2)
        return vpaddq_s32(wide_pair(p, four, 0, a), wide_pair(p, four, 2, a));
    if (is_scaled(f)) {
        int32x4_t total = vdupq_n_s32(0);
        for (int half = 0; half < 2; half++) {
            const int16x8_t first = narrow_pair(p, four, 0, half, 1, a);
            const int16x8_t last = narrow_pair(p, four, 2, half, 1, a);
            const int32x4_t sum = vpaddlq_s16(vpaddq_s16(first, last));
            total = vmlaq_s32(total, sum, vld1q_s32(p->scale[half] + 4 * four));
        }
        return total;
    }
    const int16x8_t first = narrow_pair(p, four, 0, 0, 2, a);
    const int16x8_t last = narrow_pair(p, four, 2, 0, 2, a);
    if (fitting_products(f) == 16)
        return vpaddlq_s16(vpaddq_s16(first, last));
    return vpaddq_s32(vpaddlq_s16(first), vpaddlq_s16(last));
}

ALWAYS_INLINE void multiply(format f, int tokens, const panel_block *panel, size_t n_blocks,
                            const nyb_q8 *x, size_t x_stride, float *y, size_t y_stride) {
    nyb_v8 acc[TOKENS];
    for (int t = 0; t < tokens; t++)
        acc[t] = v8_set(0);
    for (size_t b = 0; b < n_blocks; b++, panel++, x++) {
        const nyb_v8 d = v8_load(panel->d), m = v8_load(panel->m);
        for (int t = 0; t < tokens; t++) {
            const nyb_q8 *xt = &x[(size_t)t * x_stride];
            const int8x16_t a[2] = {vld1q_s8(xt->q), vld1q_s8(xt->q + 16)};
            const ints isum = {isum_of(f, panel, 0, a), isum_of(f, panel, 1, a)};
            acc[t] = add_scaled(f, acc[t], to_floats(isum), d, m, vld1_f32(&xt->d));
        }
    }
    for (int t = 0; t < tokens; t++)
        v8_store(y + (size_t)t * y_stride, v8_flush(acc[t]));
}

#include "gemm.h"

_Static_assert(sizeof(panel_block) == 384, "kernels.def says so");

NYB_QUANTIZED_ROWS(gemm, neon, 0, 0)
