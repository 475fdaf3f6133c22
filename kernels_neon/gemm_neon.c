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

/* 16 columns of 4 rows: four groups of 4 columns, turned. */
ALWAYS_INLINE void turn(const uint8x16_t group[4], uint8x16_t row[4]) {
    const uint32x4_t a = vreinterpretq_u32_u8(group[0]), b = vreinterpretq_u32_u8(group[1]);
    const uint32x4_t c = vreinterpretq_u32_u8(group[2]), d = vreinterpretq_u32_u8(group[3]);
    const uint64x2_t ab = vreinterpretq_u64_u32(vzip1q_u32(a, b));
    const uint64x2_t cd = vreinterpretq_u64_u32(vzip1q_u32(c, d));
    const uint64x2_t ab_last = vreinterpretq_u64_u32(vzip2q_u32(a, b));
    const uint64x2_t cd_last = vreinterpretq_u64_u32(vzip2q_u32(c, d));
    row[0] = vreinterpretq_u8_u64(vzip1q_u64(ab, cd));
    row[1] = vreinterpretq_u8_u64(vzip2q_u64(ab, cd));
    row[2] = vreinterpretq_u8_u64(vzip1q_u64(ab_last, cd_last));
    row[3] = vreinterpretq_u8_u64(vzip2q_u64(ab_last, cd_last));
}

/* 4 rows of 32 columns each; after them their scales of 16 columns, if there are such. */
ALWAYS_INLINE void put_rows(format f, void **panel, const uint8_t *block, int32x4_t first_scale,
                            int32x4_t last_scale) {
    uint8x16_t first[4], last[4], first_row[4], last_row[4];
    for (int g = 0; g < 4; g++) {
        uint8x16_t w[2];
        load_four_rows(f, block, g, w);
        first[g] = vsubq_u8(w[0], vdupq_n_u8((uint8_t)f.bias));
        last[g] = vsubq_u8(w[1], vdupq_n_u8((uint8_t)f.bias));
    }
    turn(first, first_row);
    turn(last, last_row);
    for (int r = 0; r < 4; r++)
        put_bytes(panel, (bytes){first_row[r], last_row[r]});
    if (is_scaled(f))
        put_ints(panel, (ints){first_scale, last_scale});
}

/* Rows 0-3, rows 4-7, d, the minimum if there is one. */
ALWAYS_INLINE void put_block(format f, void **panel, const uint8_t *block, nyb_v8 d, nyb_v8 m,
                             const ints scale[2]) {
    put_rows(f, panel, block, scale[0].lo, scale[1].lo);
    put_rows(f, panel, block + 16, scale[0].hi, scale[1].hi);
    put(panel, d);
    if (nyb_has_min(f))
        put(panel, m);
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

/* A row's sums of 32 columns: 8 int16 lanes. */
ALWAYS_INLINE int16x8_t narrow_sums(bytes w, bytes a) {
    const int8x16_t lo = vreinterpretq_s8_u8(w.lo), hi = vreinterpretq_s8_u8(w.hi);
    return add_products(products(lo, vreinterpretq_s8_u8(a.lo)), hi, vreinterpretq_s8_u8(a.hi));
}

/* The same of weights of 8 bits: 4 int32 lanes. */
ALWAYS_INLINE int32x4_t wide_sums(bytes w, bytes a) {
    const int8x16_t lo = vreinterpretq_s8_u8(w.lo), hi = vreinterpretq_s8_u8(w.hi);
    const int32x4_t first = vpaddlq_s16(products(lo, vreinterpretq_s8_u8(a.lo)));
    return vpadalq_s16(first, products(hi, vreinterpretq_s8_u8(a.hi)));
}

/* What a token has of rows while their sums are joined, two and two. */
typedef struct partial {
    int16x8_t narrow[2]; /* of two rows; of columns 0-15 and 16-31 if they have scales */
    int32x4_t wide;
} partial;

/* The sums of two rows. */
ALWAYS_INLINE partial join_rows(format f, bytes w, bytes next, bytes a) {
    const int8x16_t a_lo = vreinterpretq_s8_u8(a.lo), a_hi = vreinterpretq_s8_u8(a.hi);
    partial p = {0};
    if (fitting_products(f) == 2)
        p.wide = vpaddq_s32(wide_sums(w, a), wide_sums(next, a));
    else if (is_scaled(f)) {
        p.narrow[0] = vpaddq_s16(products(vreinterpretq_s8_u8(w.lo), a_lo),
                                 products(vreinterpretq_s8_u8(next.lo), a_lo));
        p.narrow[1] = vpaddq_s16(products(vreinterpretq_s8_u8(w.hi), a_hi),
                                 products(vreinterpretq_s8_u8(next.hi), a_hi));
    } else
        p.narrow[0] = vpaddq_s16(narrow_sums(w, a), narrow_sums(next, a));
    return p;
}

/* The exact sums of four rows, of which these are two and two. */
ALWAYS_INLINE int32x4_t join_pairs(format f, const partial *p, const partial *q, ints scale) {
    if (fitting_products(f) == 2)
        return vpaddq_s32(p->wide, q->wide);
    if (is_scaled(f)) {
        const int32x4_t first = vpaddlq_s16(vpaddq_s16(p->narrow[0], q->narrow[0]));
        const int32x4_t last = vpaddlq_s16(vpaddq_s16(p->narrow[1], q->narrow[1]));
        return vmlaq_s32(vmulq_s32(first, scale.lo), last, scale.hi);
    }
    if (fitting_products(f) == 16)
        return vpaddlq_s16(vpaddq_s16(p->narrow[0], q->narrow[0]));
    return vpaddq_s32(vpaddlq_s16(p->narrow[0]), vpaddlq_s16(q->narrow[0]));
}

/* Four rows' exact sums for each token. */
ALWAYS_INLINE void sum_rows(format f, int tokens, const void **panel, const bytes a[TOKENS],
                            int32x4_t sum[TOKENS]) {
    partial first[TOKENS], last[TOKENS];
    const bytes w0 = as_bytes(next_floats(panel)), w1 = as_bytes(next_floats(panel));
    for (int t = 0; t < tokens; t++)
        first[t] = join_rows(f, w0, w1, a[t]);
    const bytes w2 = as_bytes(next_floats(panel)), w3 = as_bytes(next_floats(panel));
    for (int t = 0; t < tokens; t++)
        last[t] = join_rows(f, w2, w3, a[t]);
    const ints scale = is_scaled(f) ? as_ints(next_floats(panel)) : ints_set(0);
    for (int t = 0; t < tokens; t++)
        sum[t] = join_pairs(f, &first[t], &last[t], scale);
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
        bytes a[TOKENS];
        int32x4_t lo[TOKENS], hi[TOKENS];
        for (int t = 0; t < tokens; t++)
            a[t] = as_bytes(next_floats(&xs[t]));
        sum_rows(f, tokens, &p, a, lo);
        sum_rows(f, tokens, &p, a, hi);
        const nyb_v8 d = next_floats(&p), m = nyb_has_min(f) ? next_floats(&p) : v8_set(0);
        for (int t = 0; t < tokens; t++) {
            const nyb_v8 product = v8_mul(to_floats((ints){lo[t], hi[t]}), d);
            acc[t] = add_scaled(f, acc[t], product, m, next_scales(&xs[t]));
        }
    }
    for (int t = 0; t < tokens; t++)
        v8_store(y + (size_t)t * y_stride, v8_flush(acc[t]));
}

#include "gemm.h"

ALWAYS_INLINE void gemm(format f, const nyb_gemm_args *a) { gemm_rows(f, a, NULL); }

NYB_QUANTIZED_ROWS(gemm, neon, 0, 0)
