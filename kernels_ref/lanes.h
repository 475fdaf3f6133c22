/* SPDX-License-Identifier: MIT
 * Eight floats side by side, in plain C: the reference of every ISA's lanes.h.
 *
 * float_ops.h is written on these and on nothing else. Each is one IEEE operation a lane,
 * rounded to nearest even; none is contracted or reordered.
 */
#ifndef NYB_LANES_H
#define NYB_LANES_H

#include <math.h>
#include <string.h>

#include "half.h"
#include "nyb_kernels.h"

typedef struct nyb_v8 {
    float lane[NYB_LANES];
} nyb_v8;

#define NYB_EACH_LANE(i) for (int i = 0; i < NYB_LANES; i++)

static inline nyb_v8 v8_load(const float *p) {
    nyb_v8 r;
    memcpy(r.lane, p, sizeof r.lane);
    return r;
}

static inline void v8_store(float *p, nyb_v8 a) { memcpy(p, a.lane, sizeof a.lane); }

static inline nyb_v8 v8_set(float x) {
    nyb_v8 r;
    NYB_EACH_LANE(i) r.lane[i] = x;
    return r;
}

static inline nyb_v8 v8_add(nyb_v8 a, nyb_v8 b) {
    NYB_EACH_LANE(i) a.lane[i] += b.lane[i];
    return a;
}

static inline nyb_v8 v8_sub(nyb_v8 a, nyb_v8 b) {
    NYB_EACH_LANE(i) a.lane[i] -= b.lane[i];
    return a;
}

static inline nyb_v8 v8_mul(nyb_v8 a, nyb_v8 b) {
    NYB_EACH_LANE(i) a.lane[i] *= b.lane[i];
    return a;
}

static inline nyb_v8 v8_div(nyb_v8 a, nyb_v8 b) {
    NYB_EACH_LANE(i) a.lane[i] /= b.lane[i];
    return a;
}

/* a * b + c, rounded once */
static inline nyb_v8 v8_fma(nyb_v8 a, nyb_v8 b, nyb_v8 c) {
    NYB_EACH_LANE(i) c.lane[i] = fmaf(a.lane[i], b.lane[i], c.lane[i]);
    return c;
}

/* a > b ? a : b, so that a NaN in a gives b and a NaN in b gives b, on every ISA. */
static inline nyb_v8 v8_max(nyb_v8 a, nyb_v8 b) {
    NYB_EACH_LANE(i) a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
}

static inline nyb_v8 v8_abs(nyb_v8 a) {
    NYB_EACH_LANE(i) a.lane[i] = fabsf(a.lane[i]);
    return a;
}

/* a < b ? x : y; a NaN compares false. */
static inline nyb_v8 v8_select_less(nyb_v8 a, nyb_v8 b, nyb_v8 x, nyb_v8 y) {
    NYB_EACH_LANE(i) y.lane[i] = a.lane[i] < b.lane[i] ? x.lane[i] : y.lane[i];
    return y;
}

/* Tiny lanes become +0; a NaN stays. */
static inline nyb_v8 v8_flush(nyb_v8 a) {
    return v8_select_less(v8_abs(a), v8_set(NYB_TINY), v8_set(0), a);
}

/* Lanes from `first` on and before `end` keep a, the others become `other`. */
static inline nyb_v8 v8_keep(nyb_v8 a, int first, int end, float other) {
    NYB_EACH_LANE(i) a.lane[i] = i >= first && i < end ? a.lane[i] : other;
    return a;
}

/* a * 2^n, where n is the integer in the low bits of n_bits, a float of about 1.5 * 2^23 + n.
 * The result must be a normal number. */
static inline nyb_v8 v8_scale(nyb_v8 a, nyb_v8 n_bits) {
    NYB_EACH_LANE(i) {
        const uint32_t n = nyb_bits_of_float(n_bits.lane[i]) << 23;
        a.lane[i] = nyb_float_of_bits(nyb_bits_of_float(a.lane[i]) + n);
    }
    return a;
}

static inline nyb_v8 v8_load_half(const uint16_t *p) {
    nyb_v8 r;
    NYB_EACH_LANE(i) r.lane[i] = nyb_float_of_half(p[i]);
    return r;
}

/* A bfloat16 is the upper half of a float. */
static inline nyb_v8 v8_load_bf16(const uint16_t *p) {
    nyb_v8 r;
    NYB_EACH_LANE(i) r.lane[i] = nyb_float_of_bits((uint32_t)p[i] << 16);
    return r;
}

static inline void v8_store_half(uint16_t *p, nyb_v8 a) {
    NYB_EACH_LANE(i) p[i] = nyb_half_of_float(a.lane[i]);
}

static inline nyb_v8 v8_load_bytes(const int8_t *p) {
    nyb_v8 r;
    NYB_EACH_LANE(i) r.lane[i] = p[i];
    return r;
}

static inline nyb_v8 v8_load_int(const int32_t *p) {
    nyb_v8 r;
    NYB_EACH_LANE(i) r.lane[i] = (float)p[i];
    return r;
}

/* Nearest integers, ties to even, of lanes of magnitude below 2^22. */
static inline void v8_store_int(int32_t *p, nyb_v8 a) {
    NYB_EACH_LANE(i) {
        const float shifted = a.lane[i] + 0x1.8p23f;
        p[i] = (int32_t)nyb_bits_of_float(shifted) - (int32_t)nyb_bits_of_float(0x1.8p23f);
    }
}

/* The same for 32 lanes that fit int8; sums of the first and of the last 16. */
static inline void v8_store_bytes(int8_t *p, const nyb_v8 x[4], int16_t sum[2]) {
    sum[0] = sum[1] = 0;
    for (int b = 0; b < 4; b++) {
        int32_t q[NYB_LANES];
        v8_store_int(q, x[b]);
        NYB_EACH_LANE(i) {
            p[NYB_LANES * b + i] = (int8_t)q[i];
            sum[b / 2] = (int16_t)(sum[b / 2] + q[i]);
        }
    }
}

/* The one tree in which eight lanes are ever summed. */
static inline float v8_sum(nyb_v8 a) {
    const float *x = a.lane;
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

/* The same tree for the maximum, which decides between +0 and -0. */
static inline float v8_largest(nyb_v8 a) {
    float m[NYB_LANES];
    memcpy(m, a.lane, sizeof m);
    for (int half = NYB_LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            m[i] = m[i] > m[i + half] ? m[i] : m[i + half];
    return m[0];
}

static inline float v8_sqrt1(float x) { return sqrtf(x); }
static inline float v8_fma1(float a, float b, float c) { return fmaf(a, b, c); }

#endif
