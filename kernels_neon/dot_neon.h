/* SPDX-License-Identifier: MIT
 * Integer dot products on plain NEON: 8 rows by 4 columns of weights with 4 activations, repeated.
 *
 * SMULL and SMLAL multiply bytes into int16. There the products of as many groups of 4 columns are
 * summed as fit, one to a lane and group, before neighbours are joined to int32:
 *
 *   weights up to 15   8 groups, and once more when neighbours are joined   16 * 15 * 127 = 30,480
 *                 31   8                                                     8 * 31 * 127 = 31,496
 *                 63   4                                                     4 * 63 * 127 = 32,004
 *         -128..127    2                                                    2 * 128 * 127 = 32,512
 */
#ifndef NYB_DOT_H
#define NYB_DOT_H

#include "tiles.h"

/* A block's sums of products: of rows 01, 23, 45, 67, four lanes each, with scales of columns 0-15
 * and of 16-31 apart. */
typedef struct dots {
    int16x8_t sum[2][4];
    int32x4_t total[4]; /* of weights of 8 bits: two lanes a row */
    int32_t beside[2];  /* what takes the weights' bias off */
    int32x4_t besides;  /* the same in every lane, where there are registers for it */
} dots;

ALWAYS_INLINE int has_wide_weights(format f) { return f.bits == 8 || f.codes == NYB_CODES_IQ4_NL; }

/* Whether a lane holds the products of two lanes. */
ALWAYS_INLINE int fits_twice(format f) { return f.bits == 4 && !has_wide_weights(f); }

ALWAYS_INLINE int16x8_t multiplied(int is_first, int is_high, int16x8_t sum, uint8x16_t w,
                                   int8x16_t a) {
    const int8x16_t s = vreinterpretq_s8_u8(w);
    if (is_high)
        return is_first ? vmull_high_s8(s, a) : vmlal_high_s8(sum, s, a);
    const int8x8_t low = vget_low_s8(s), a_low = vget_low_s8(a);
    return is_first ? vmull_s8(low, a_low) : vmlal_s8(sum, low, a_low);
}

ALWAYS_INLINE dots dot_begin(format f, const int16_t half_sum[2], int32_t sum) {
    dots s;
    s.beside[0] = -f.bias * (is_scaled(f) ? half_sum[0] : sum);
    s.beside[1] = -f.bias * half_sum[1];
    s.besides = vmulq_n_s32(vdupq_n_s32(sum), -f.bias);
    return s;
}

/* The same 4 activations in every lane. */
ALWAYS_INLINE int8x16_t four(const int8_t *a) {
    return vreinterpretq_s8_s32(vld1q_dup_s32((const int32_t *)(const void *)a));
}

/* Adds groups g and 4 + g. */
ALWAYS_INLINE void dot_add(format f, dots *s, int g, const bytes w[2], const int8_t *a) {
    for (int half = 0; half < 2; half++) {
        const int8x16_t four_a = four(a + 16 * half + 4 * g);
        const int is_first = has_wide_weights(f) ? !half : !g && (!half || is_scaled(f));
        int16x8_t *sum = s->sum[is_scaled(f) ? half : 0];
        sum[0] = multiplied(is_first, 0, sum[0], w[half].lo, four_a);
        sum[1] = multiplied(is_first, 1, sum[1], w[half].lo, four_a);
        sum[2] = multiplied(is_first, 0, sum[2], w[half].hi, four_a);
        sum[3] = multiplied(is_first, 1, sum[3], w[half].hi, four_a);
    }
    if (has_wide_weights(f))
        for (int i = 0; i < 4; i++)
            s->total[i] = g ? vpadalq_s16(s->total[i], s->sum[0][i]) : vpaddlq_s16(s->sum[0][i]);
}

ALWAYS_INLINE int32x4_t joined(format f, const int16x8_t sum[2]) {
    if (fits_twice(f))
        return vpaddlq_s16(vpaddq_s16(sum[0], sum[1]));
    return vpaddq_s32(vpaddlq_s16(sum[0]), vpaddlq_s16(sum[1]));
}

ALWAYS_INLINE ints plus(ints x, int32x4_t y) {
    return (ints){vaddq_s32(x.lo, y), vaddq_s32(x.hi, y)};
}

/* The rows' exact sums of products; scale is that of 16 columns, if the format has such. */
ALWAYS_INLINE ints dot_end(format f, const dots *s, const ints scale[2]) {
    if (has_wide_weights(f))
        return (ints){vpaddq_s32(s->total[0], s->total[1]), vpaddq_s32(s->total[2], s->total[3])};
    ints part[2];
    for (int half = 0; half <= is_scaled(f); half++) {
        part[half] = (ints){joined(f, s->sum[half]), joined(f, s->sum[half] + 2)};
        if (f.bias)
            part[half] =
                plus(part[half], fits_twice(f) ? s->besides : vdupq_n_s32(s->beside[half]));
    }
    if (!is_scaled(f))
        return part[0];
    return scaled(scaled_first(part[0], scale[0]), part[1], scale[1]);
}

#endif
