/* SPDX-License-Identifier: MIT
 * Integer dot products by SDOT: four signed products are added to an int32 lane. The interface is
 * that of dot_neon.h.
 */
#ifndef NYB_DOT_H
#define NYB_DOT_H

#include "tiles.h"

/* A block's sums of products, with scales of columns 0-15 and of 16-31 apart. */
typedef struct dots {
    ints part[2];
} dots;

/* The lane must be a constant in the source. */
ALWAYS_INLINE int32x4_t sdot(int32x4_t sum, int8x16_t w, int8x16_t a, int lane) {
    switch (lane) {
    case 0:
        return vdotq_laneq_s32(sum, w, a, 0);
    case 1:
        return vdotq_laneq_s32(sum, w, a, 1);
    case 2:
        return vdotq_laneq_s32(sum, w, a, 2);
    default:
        return vdotq_laneq_s32(sum, w, a, 3);
    }
}

ALWAYS_INLINE ints dot_rows(ints sum, bytes w, int8x16_t a, int lane) {
    return (ints){sdot(sum.lo, vreinterpretq_s8_u8(w.lo), a, lane),
                  sdot(sum.hi, vreinterpretq_s8_u8(w.hi), a, lane)};
}

/* What the sums begin with takes the weights' bias off. */
ALWAYS_INLINE dots dot_begin(format f, const int16_t half_sum[2], int32_t sum) {
    if (!is_scaled(f))
        return (dots){{ints_set(f.bias ? -f.bias * sum : 0)}};
    return (dots){{ints_set(-f.bias * half_sum[0]), ints_set(-f.bias * half_sum[1])}};
}

/* Adds groups g and 4 + g. */
ALWAYS_INLINE void dot_add(format f, dots *s, int g, const bytes w[2], const int8_t *a) {
    for (int half = 0; half < 2; half++) {
        ints *part = &s->part[is_scaled(f) ? half : 0];
        *part = dot_rows(*part, w[half], vld1q_s8(a + 16 * half), g);
    }
}

/* The rows' exact sums of products; scale is that of 16 columns, if the format has such. */
ALWAYS_INLINE ints dot_end(format f, const dots *s, const ints scale[2]) {
    if (!is_scaled(f))
        return s->part[0];
    return scaled(scaled_first(s->part[0], scale[0]), s->part[1], scale[1]);
}

#endif
