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

/* Adds groups g and 4 + g. */
ALWAYS_INLINE void dot_add(format f, dots *s, int g, const bytes w[2], const int8_t *a) {
    for (int half = 0; half < 2; half++) {
        ints *part = &s->part[is_scaled(f) ? half : 0];
        const ints before = !g && (!half || is_scaled(f)) ? ints_set(0) : *part;
        *part = dot_rows(before, w[half], vld1q_s8(a + 16 * half), g);
    }
}

ALWAYS_INLINE ints plus(ints x, int32_t y) {
    return (ints){vaddq_s32(x.lo, vdupq_n_s32(y)), vaddq_s32(x.hi, vdupq_n_s32(y))};
}

ALWAYS_INLINE ints dot_end(format f, const dots *s, const ints scale[2], const int16_t half_sum[2],
                           int32_t sum) {
    if (!is_scaled(f))
        return f.bias ? plus(s->part[0], -f.bias * sum) : s->part[0];
    ints total = ints_set(0);
    for (int half = 0; half < 2; half++)
        total = scaled(total, plus(s->part[half], -f.bias * half_sum[half]), scale[half]);
    return total;
}

#endif
