/* SPDX-License-Identifier: MIT
 * Eight floats side by side in two NEON registers of AArch64. What each does, and why just so, is
 * told in kernels_ref/lanes.h.
 */
#ifndef NYB_LANES_H
#define NYB_LANES_H

#include <arm_neon.h>
#include <math.h>

#include "nyb_kernels.h"

typedef struct nyb_v8 {
    float32x4_t lo, hi;
} nyb_v8;

static inline nyb_v8 v8_load(const float *p) { return (nyb_v8){vld1q_f32(p), vld1q_f32(p + 4)}; }

static inline void v8_store(float *p, nyb_v8 a) {
    vst1q_f32(p, a.lo);
    vst1q_f32(p + 4, a.hi);
}

static inline nyb_v8 v8_set(float x) { return (nyb_v8){vdupq_n_f32(x), vdupq_n_f32(x)}; }

static inline nyb_v8 v8_add(nyb_v8 a, nyb_v8 b) {
    return (nyb_v8){vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)};
}

static inline nyb_v8 v8_sub(nyb_v8 a, nyb_v8 b) {
    return (nyb_v8){vsubq_f32(a.lo, b.lo), vsubq_f32(a.hi, b.hi)};
}

static inline nyb_v8 v8_mul(nyb_v8 a, nyb_v8 b) {
    return (nyb_v8){vmulq_f32(a.lo, b.lo), vmulq_f32(a.hi, b.hi)};
}

static inline nyb_v8 v8_div(nyb_v8 a, nyb_v8 b) {
    return (nyb_v8){vdivq_f32(a.lo, b.lo), vdivq_f32(a.hi, b.hi)};
}

static inline nyb_v8 v8_fma(nyb_v8 a, nyb_v8 b, nyb_v8 c) {
    return (nyb_v8){vfmaq_f32(c.lo, a.lo, b.lo), vfmaq_f32(c.hi, a.hi, b.hi)};
}

/* FMAX would pass a NaN on and knows the sign of zero: so a compare and a select. */
static inline nyb_v8 v8_max(nyb_v8 a, nyb_v8 b) {
    return (nyb_v8){vbslq_f32(vcgtq_f32(a.lo, b.lo), a.lo, b.lo),
                    vbslq_f32(vcgtq_f32(a.hi, b.hi), a.hi, b.hi)};
}

static inline nyb_v8 v8_abs(nyb_v8 a) { return (nyb_v8){vabsq_f32(a.lo), vabsq_f32(a.hi)}; }

static inline nyb_v8 v8_select_less(nyb_v8 a, nyb_v8 b, nyb_v8 x, nyb_v8 y) {
    return (nyb_v8){vbslq_f32(vcltq_f32(a.lo, b.lo), x.lo, y.lo),
                    vbslq_f32(vcltq_f32(a.hi, b.hi), x.hi, y.hi)};
}

/* Bits of lanes below NYB_TINY in magnitude are cleared; a NaN compares false. */
static inline float32x4_t v4_flush(float32x4_t a) {
    const uint32x4_t is_tiny = vcaltq_f32(a, vdupq_n_f32(NYB_TINY));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a), is_tiny));
}

static inline nyb_v8 v8_flush(nyb_v8 a) { return (nyb_v8){v4_flush(a.lo), v4_flush(a.hi)}; }

static inline float32x4_t v4_keep(float32x4_t a, int first, int end, float other) {
    static const int32_t lanes[4] = {0, 1, 2, 3};
    const int32x4_t i = vld1q_s32(lanes);
    const uint32x4_t from = vcgeq_s32(i, vdupq_n_s32(first));
    const uint32x4_t before = vcltq_s32(i, vdupq_n_s32(end));
    return vbslq_f32(vandq_u32(from, before), a, vdupq_n_f32(other));
}

static inline nyb_v8 v8_keep(nyb_v8 a, int first, int end, float other) {
    return (nyb_v8){v4_keep(a.lo, first, end, other), v4_keep(a.hi, first - 4, end - 4, other)};
}

static inline float32x4_t v4_scale(float32x4_t a, float32x4_t n_bits) {
    const uint32x4_t n = vshlq_n_u32(vreinterpretq_u32_f32(n_bits), 23);
    return vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(a), n));
}

static inline nyb_v8 v8_scale(nyb_v8 a, nyb_v8 n_bits) {
    return (nyb_v8){v4_scale(a.lo, n_bits.lo), v4_scale(a.hi, n_bits.hi)};
}

/* FCVTL knows subnormal halves whatever FPCR says of flushing. */
static inline nyb_v8 v8_load_half(const uint16_t *p) {
    const float16x8_t halves = vreinterpretq_f16_u16(vld1q_u16(p));
    return (nyb_v8){vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)};
}

static inline nyb_v8 v8_load_bf16(const uint16_t *p) {
    const uint16x8_t bits = vld1q_u16(p);
    return (nyb_v8){vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(bits), 16)),
                    vreinterpretq_f32_u32(vshll_high_n_u16(bits, 16))};
}

/* FMIN and FMAX pass a NaN on. */
static inline float32x4_t v4_half_range(float32x4_t a) {
    return vmaxq_f32(vminq_f32(a, vdupq_n_f32(65504.0f)), vdupq_n_f32(-65504.0f));
}

static inline void v8_store_half(uint16_t *p, nyb_v8 a) {
    const float16x4_t lo = vcvt_f16_f32(v4_half_range(a.lo));
    vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(lo, v4_half_range(a.hi))));
}

static inline nyb_v8 v8_load_bytes(const int8_t *p) {
    const int16x8_t x = vmovl_s8(vld1_s8(p));
    return (nyb_v8){vcvtq_f32_s32(vmovl_s16(vget_low_s16(x))), vcvtq_f32_s32(vmovl_high_s16(x))};
}

static inline nyb_v8 v8_load_int(const int32_t *p) {
    return (nyb_v8){vcvtq_f32_s32(vld1q_s32(p)), vcvtq_f32_s32(vld1q_s32(p + 4))};
}

static inline void v8_store_int(int32_t *p, nyb_v8 a) {
    vst1q_s32(p, vcvtnq_s32_f32(a.lo));
    vst1q_s32(p + 4, vcvtnq_s32_f32(a.hi));
}

static inline int16x8_t v8_to_int16(nyb_v8 a) {
    return vmovn_high_s32(vmovn_s32(vcvtnq_s32_f32(a.lo)), vcvtnq_s32_f32(a.hi));
}

static inline void v8_store_bytes(int8_t *p, const nyb_v8 x[4], int16_t sum[2]) {
    for (int i = 0; i < 2; i++) {
        const int16x8_t a = v8_to_int16(x[2 * i]), b = v8_to_int16(x[2 * i + 1]);
        vst1q_s8(p + 16 * i, vmovn_high_s16(vmovn_s16(a), b));
        sum[i] = vaddvq_s16(vaddq_s16(a, b));
    }
}

static inline float v8_sum(nyb_v8 a) {
    const float32x4_t four = vaddq_f32(a.lo, a.hi);
    return vaddv_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)));
}

static inline float v8_largest(nyb_v8 a) {
    const float32x4_t four = vbslq_f32(vcgtq_f32(a.lo, a.hi), a.lo, a.hi);
    const float32x2_t lo = vget_low_f32(four), hi = vget_high_f32(four);
    const float32x2_t two = vbsl_f32(vcgt_f32(lo, hi), lo, hi);
    const float x = vget_lane_f32(two, 0), y = vget_lane_f32(two, 1);
    return x > y ? x : y;
}

static inline float v8_sqrt1(float x) { return sqrtf(x); }
static inline float v8_fma1(float a, float b, float c) { return fmaf(a, b, c); }

#endif
