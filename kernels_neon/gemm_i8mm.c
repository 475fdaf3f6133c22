/* SPDX-License-Identifier: MIT
 * gemm by SMMLA, for each format: two rows times two tokens, 8 columns of each, in an instruction.
 *
 * A register of sums holds two rows and two tokens: r0t0, r0t1, r1t0, r1t1.
 */
#include "tiles.h"

enum { TOKENS = 4, PAIRS = 4 /* of rows */ };

/* 8 columns of a pair of rows in a register; scales twice each, as the sums have the rows. */
typedef struct panel_block {
    uint8_t w[4][PAIRS][16];
    float d[PAIRS][4], m[PAIRS][4];
    int32_t scale[2][PAIRS][4];
} panel_block;

ALWAYS_INLINE void store_twice(float p[PAIRS][4], nyb_v8 a) {
    vst1q_f32(p[0], vzip1q_f32(a.lo, a.lo));
    vst1q_f32(p[1], vzip2q_f32(a.lo, a.lo));
    vst1q_f32(p[2], vzip1q_f32(a.hi, a.hi));
    vst1q_f32(p[3], vzip2q_f32(a.hi, a.hi));
}

ALWAYS_INLINE void store_ints_twice(int32_t p[PAIRS][4], ints a) {
    vst1q_s32(p[0], vzip1q_s32(a.lo, a.lo));
    vst1q_s32(p[1], vzip2q_s32(a.lo, a.lo));
    vst1q_s32(p[2], vzip1q_s32(a.hi, a.hi));
    vst1q_s32(p[3], vzip2q_s32(a.hi, a.hi));
}

/* Groups 2c and 2c + 1 of 4 columns, alternating. */
ALWAYS_INLINE void store_columns(uint8_t p[PAIRS][16], bytes first, bytes last) {
    const uint32x4x2_t lo = {{vreinterpretq_u32_u8(first.lo), vreinterpretq_u32_u8(last.lo)}};
    const uint32x4x2_t hi = {{vreinterpretq_u32_u8(first.hi), vreinterpretq_u32_u8(last.hi)}};
    vst2q_u32((uint32_t *)(void *)p[0], lo);
    vst2q_u32((uint32_t *)(void *)p[2], hi);
}

ALWAYS_INLINE void put_block(format f, panel_block *out, const bytes w[8], nyb_v8 d, nyb_v8 m,
                             const ints scale[2]) {
    for (int c = 0; c < 4; c++)
        store_columns(out->w[c], w[2 * c], w[2 * c + 1]);
    store_twice(out->d, d);
    if (nyb_has_min(f))
        store_twice(out->m, m);
    for (int half = 0; half < 2 && is_scaled(f); half++)
        store_ints_twice(out->scale[half], scale[half]);
}

/* A block of two tokens. */
typedef struct token_pair {
    int8x16_t a[4]; /* 8 columns of both */
    float32x4_t d, s;
} token_pair;

/* The first's and the second's, twice. */
ALWAYS_INLINE float32x4_t alternating(const float *x, const float *y) {
    const float32x2_t pair = vld1_lane_f32(y, vld1_dup_f32(x), 1);
    return vcombine_f32(pair, pair);
}

ALWAYS_INLINE token_pair load_tokens(const nyb_q8 *x, const nyb_q8 *y) {
    token_pair p;
    for (int half = 0; half < 2; half++) {
        const int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(x->q + 16 * half));
        const int64x2_t b = vreinterpretq_s64_s8(vld1q_s8(y->q + 16 * half));
        p.a[2 * half] = vreinterpretq_s8_s64(vzip1q_s64(a, b));
        p.a[2 * half + 1] = vreinterpretq_s8_s64(vzip2q_s64(a, b));
    }
    p.d = alternating(&x->d, &y->d);
    p.s = alternating(&x->s, &y->s);
    return p;
}

ALWAYS_INLINE int32x4_t smmla(int32x4_t sum, const uint8_t w[16], int8x16_t a) {
    return vmmlaq_s32(sum, vreinterpretq_s8_u8(vld1q_u8(w)), a);
}

/* The exact sums of a pair of rows and of tokens. */
ALWAYS_INLINE int32x4_t isum_of(format f, const panel_block *p, int pair, const int8x16_t a[4]) {
    const int32x4_t zero = vdupq_n_s32(0);
    const int32x4_t first = smmla(smmla(zero, p->w[0][pair], a[0]), p->w[1][pair], a[1]);
    if (!is_scaled(f))
        return smmla(smmla(first, p->w[2][pair], a[2]), p->w[3][pair], a[3]);
    const int32x4_t last = smmla(smmla(zero, p->w[2][pair], a[2]), p->w[3][pair], a[3]);
    const int32x4_t total = vmulq_s32(first, vld1q_s32(p->scale[0][pair]));
    return vmlaq_s32(total, last, vld1q_s32(p->scale[1][pair]));
}

/* 8 rows of two tokens' y; a lone token stands beside itself. */
ALWAYS_INLINE void store_tokens(const float32x4_t acc[PAIRS], float *y, float *second) {
    const nyb_v8 a = {vuzp1q_f32(acc[0], acc[1]), vuzp1q_f32(acc[2], acc[3])};
    const nyb_v8 b = {vuzp2q_f32(acc[0], acc[1]), vuzp2q_f32(acc[2], acc[3])};
    v8_store(y, v8_flush(a));
    v8_store(second, v8_flush(b));
}

ALWAYS_INLINE void multiply(format f, int tokens, const panel_block *panel, size_t n_blocks,
                            const nyb_q8 *x, size_t x_stride, float *y, size_t y_stride) {
    const int pairs = (tokens + 1) / 2;
    const size_t other = tokens > 1;
    float32x4_t acc[TOKENS / 2][PAIRS];
    for (int j = 0; j < pairs; j++)
        for (int i = 0; i < PAIRS; i++)
            acc[j][i] = vdupq_n_f32(0);
    for (size_t b = 0; b < n_blocks; b++, panel++, x++) {
        token_pair p[TOKENS / 2];
        for (int j = 0; j < pairs; j++)
            p[j] =
                load_tokens(&x[2 * (size_t)j * x_stride], &x[(2 * (size_t)j + other) * x_stride]);
        for (int i = 0; i < PAIRS; i++) {
            const float32x4_t d = vld1q_f32(panel->d[i]), m = vld1q_f32(panel->m[i]);
            for (int j = 0; j < pairs; j++) {
                const float32x4_t isum = vcvtq_f32_s32(isum_of(f, panel, i, p[j].a));
                acc[j][i] = vfmaq_f32(acc[j][i], vmulq_f32(isum, d), p[j].d);
                if (nyb_has_min(f))
                    acc[j][i] = vfmaq_f32(acc[j][i], m, p[j].s);
            }
        }
    }
    for (size_t j = 0; j < (size_t)pairs; j++)
        store_tokens(acc[j], y + 2 * j * y_stride, y + (2 * j + other) * y_stride);
}

#include "gemm.h"

_Static_assert(sizeof(panel_block) == 512, "kernels.def says so");

NYB_QUANTIZED_ROWS(gemm, i8mm, 0, 0)
