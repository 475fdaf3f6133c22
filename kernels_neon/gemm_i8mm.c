/* SPDX-License-Identifier: MIT
 * gemm by SMMLA, for each format: two rows times two tokens, 8 columns of each, in an instruction.
 *
 * A register of sums holds two rows and two tokens: r0t0, r0t1, r1t0, r1t1; four of them 8 rows.
 */
#include "tiles.h"

enum { TOKENS = 4, PAIRS = TOKENS / 2 };

/* What a register has for each of two tokens, of 8 rows. */
typedef struct ints16 {
    ints rows[2]; /* 0-3, 4-7 */
} ints16;

typedef struct floats16 {
    nyb_v8 rows[2];
} floats16;

/* 8 floats or ints, each twice. */
ALWAYS_INLINE void put_twice(void **panel, float32x4_t lo, float32x4_t hi) {
    put(panel, (nyb_v8){vzip1q_f32(lo, lo), vzip2q_f32(lo, lo)});
    put(panel, (nyb_v8){vzip1q_f32(hi, hi), vzip2q_f32(hi, hi)});
}

/* 8 columns of 4 rows: of two groups of 4 columns. */
ALWAYS_INLINE void put_columns(void **panel, uint8x16_t first, uint8x16_t last) {
    const uint32x4_t a = vreinterpretq_u32_u8(first), b = vreinterpretq_u32_u8(last);
    put_bytes(panel, (bytes){vreinterpretq_u8_u32(vzip1q_u32(a, b)),
                             vreinterpretq_u8_u32(vzip2q_u32(a, b))});
}

/* Columns 0-15, 8 by 8, a row after the other; their scale if 16 columns have one; columns 16-31
 * and theirs; the minimum if there is one; d. Scales stand twice, for both tokens. */
ALWAYS_INLINE void put_block(format f, void **panel, const uint8_t *block, nyb_v8 d, nyb_v8 m,
                             const ints scale[2]) {
    void *half[2] = {*panel, (uint8_t *)*panel + (is_scaled(f) ? 192 : 128)};
    for (int g = 0; g < 4; g += 2) {
        bytes w[2], next[2];
        load_centred(f, block, g, w);
        load_centred(f, block, g + 1, next);
        for (int i = 0; i < 2; i++) {
            put_columns(&half[i], w[i].lo, next[i].lo);
            put_columns(&half[i], w[i].hi, next[i].hi);
        }
    }
    for (int i = 0; i < 2 && is_scaled(f); i++)
        put_twice(&half[i], vreinterpretq_f32_s32(scale[i].lo), vreinterpretq_f32_s32(scale[i].hi));
    *panel = half[1];
    if (nyb_has_min(f))
        put_twice(panel, m.lo, m.hi);
    put_twice(panel, d.lo, d.hi);
}

ALWAYS_INLINE ints16 next_ints16(const void **panel) {
    const ints first = as_ints(next_floats(panel)), last = as_ints(next_floats(panel));
    return (ints16){{first, last}};
}

ALWAYS_INLINE floats16 next_floats16(const void **panel) {
    const nyb_v8 first = next_floats(panel), last = next_floats(panel);
    return (floats16){{first, last}};
}

/* 8 columns of pairs of tokens. */
ALWAYS_INLINE void add_columns(int pairs, const void **panel, const int8x16_t a[PAIRS],
                               ints16 sum[PAIRS]) {
    for (int r = 0; r < 2; r++) {
        const bytes w = as_bytes(next_floats(panel));
        for (int j = 0; j < pairs; j++) {
            ints *s = &sum[j].rows[r];
            s->lo = vmmlaq_s32(s->lo, vreinterpretq_s8_u8(w.lo), a[j]);
            s->hi = vmmlaq_s32(s->hi, vreinterpretq_s8_u8(w.hi), a[j]);
        }
    }
}

/* 32 columns of two tokens, 8 by 8. */
ALWAYS_INLINE void load_pair(const void **first, const void **second, int8x16_t a[4]) {
    const bytes x = as_bytes(next_floats(first)), y = as_bytes(next_floats(second));
    const uint64x2_t x_lo = vreinterpretq_u64_u8(x.lo), x_hi = vreinterpretq_u64_u8(x.hi);
    const uint64x2_t y_lo = vreinterpretq_u64_u8(y.lo), y_hi = vreinterpretq_u64_u8(y.hi);
    a[0] = vreinterpretq_s8_u64(vzip1q_u64(x_lo, y_lo));
    a[1] = vreinterpretq_s8_u64(vzip2q_u64(x_lo, y_lo));
    a[2] = vreinterpretq_s8_u64(vzip1q_u64(x_hi, y_hi));
    a[3] = vreinterpretq_s8_u64(vzip2q_u64(x_hi, y_hi));
}

/* The exact sums. Leaves the streams of x where scales are. */
ALWAYS_INLINE void sum_block(format f, int pairs, const void **panel, const void *x[TOKENS],
                             ints16 sum[PAIRS]) {
    int8x16_t a[4][PAIRS];
    ints16 total[PAIRS];
    for (int j = 0; j < pairs; j++) {
        int8x16_t pair[4];
        load_pair(&x[2 * j], &x[2 * j + 1], pair);
        for (int c = 0; c < 4; c++)
            a[c][j] = pair[c];
        sum[j] = (ints16){{zeros(x[2 * j]), zeros(x[2 * j + 1])}};
    }
    add_columns(pairs, panel, a[0], sum);
    add_columns(pairs, panel, a[1], sum);
    if (is_scaled(f)) {
        const ints16 scale = next_ints16(panel);
        for (int j = 0; j < pairs; j++)
            for (int r = 0; r < 2; r++) {
                total[j].rows[r] = scaled_first(sum[j].rows[r], scale.rows[r]);
                sum[j].rows[r] = zeros(x[2 * j + r]);
            }
    }
    add_columns(pairs, panel, a[2], sum);
    add_columns(pairs, panel, a[3], sum);
    if (is_scaled(f)) {
        const ints16 scale = next_ints16(panel);
        for (int j = 0; j < pairs; j++)
            for (int r = 0; r < 2; r++)
                sum[j].rows[r] = scaled(total[j].rows[r], sum[j].rows[r], scale.rows[r]);
    }
}

ALWAYS_INLINE nyb_v8 add_pair(format f, nyb_v8 acc, nyb_v8 t, nyb_v8 m, float32x4_t x_d,
                              float32x4_t x_s) {
    acc = (nyb_v8){vfmaq_f32(acc.lo, t.lo, x_d), vfmaq_f32(acc.hi, t.hi, x_d)};
    if (nyb_has_min(f))
        acc = (nyb_v8){vfmaq_f32(acc.lo, m.lo, x_s), vfmaq_f32(acc.hi, m.hi, x_s)};
    return acc;
}

/* Adds a block's sums, scaled; the streams of x move on to the next block. */
ALWAYS_INLINE void add_block(format f, int pairs, const void **panel, const void *x[TOKENS],
                             const ints16 sum[PAIRS], floats16 acc[PAIRS]) {
    const floats16 none = {{v8_set(0), v8_set(0)}};
    const floats16 m = nyb_has_min(f) ? next_floats16(panel) : none, d = next_floats16(panel);
    for (int j = 0; j < pairs; j++) {
        const float32x2_t first = next_scales(&x[2 * j]), second = next_scales(&x[2 * j + 1]);
        const float32x2_t ds = vzip1_f32(first, second), ss = vzip2_f32(first, second);
        const float32x4_t x_d = vcombine_f32(ds, ds), x_s = vcombine_f32(ss, ss);
        for (int r = 0; r < 2; r++) {
            const nyb_v8 t = v8_mul(to_floats(sum[j].rows[r]), d.rows[r]);
            acc[j].rows[r] = add_pair(f, acc[j].rows[r], t, m.rows[r], x_d, x_s);
        }
    }
}

ALWAYS_INLINE void store_pair(const floats16 *acc, float *first, float *second) {
    const nyb_v8 lo = acc->rows[0], hi = acc->rows[1];
    v8_store(first, v8_flush((nyb_v8){vuzp1q_f32(lo.lo, lo.hi), vuzp1q_f32(hi.lo, hi.hi)}));
    v8_store(second, v8_flush((nyb_v8){vuzp2q_f32(lo.lo, lo.hi), vuzp2q_f32(hi.lo, hi.hi)}));
}

/* A lone token stands beside itself. */
ALWAYS_INLINE void multiply(format f, int tokens, const void *panel, size_t n_blocks,
                            const nyb_q8 *x, size_t x_stride, float *y, size_t y_stride) {
    const int pairs = (tokens + 1) / 2;
    const void *p = stream_of(panel), *xs[TOKENS];
    floats16 acc[PAIRS];
    for (int j = 0; j < pairs; j++) {
        const size_t first = 2 * (size_t)j, second = tokens > 1 ? first + 1 : first;
        xs[first] = stream_of(x + first * x_stride);
        xs[first + 1] = stream_of(x + second * x_stride);
        acc[j] = (floats16){{v8_set(0), v8_set(0)}};
    }
    for (size_t b = 0; b < n_blocks; b++) {
        ints16 sum[PAIRS];
        sum_block(f, pairs, &p, xs, sum);
        add_block(f, pairs, &p, xs, sum, acc);
    }
    for (int j = 0; j < pairs; j++) {
        float *first = y + 2 * (size_t)j * y_stride;
        store_pair(&acc[j], first, tokens > 1 ? first + y_stride : first);
    }
}

#include "gemm.h"

NYB_QUANTIZED_ROWS(gemm, i8mm, 0, 0)
