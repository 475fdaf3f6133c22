/* SPDX-License-Identifier: MIT
 * gemm by SMMLA, for each format: two rows times two tokens, 8 columns of each, in an instruction.
 *
 * A register of sums holds two rows and two tokens: r0t0, r0t1, r1t0, r1t1; four of them 8 rows.
 */
#include "tiles.h"

enum { TOKENS = 4, PAIRS = TOKENS / 2 };

/* Tokens are rearranged, 64 at a time, for all tile rows; scratch holds them behind the panel. */
enum { GROUP = 64, ROW_BYTES = 448, TOKENS_BYTES = 192 };

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
 * and theirs; d; the minimum if there is one. Scales stand twice, for both tokens. */
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
    put_twice(panel, d.lo, d.hi);
    if (nyb_has_min(f))
        put_twice(panel, m.lo, m.hi);
}

ALWAYS_INLINE ints16 next_ints16(const void **panel) {
    const ints first = as_ints(next_floats(panel)), last = as_ints(next_floats(panel));
    return (ints16){{first, last}};
}

#include "panel.h"

/* -- Tokens, four by four ------------------------------------------------------------------- */

/* 32 columns of two tokens, 8 by 8. */
ALWAYS_INLINE void load_pair(const void **first, const void **second, uint8x16_t a[4]) {
    const bytes x = as_bytes(next_floats(first)), y = as_bytes(next_floats(second));
    const uint64x2_t x_lo = vreinterpretq_u64_u8(x.lo), x_hi = vreinterpretq_u64_u8(x.hi);
    const uint64x2_t y_lo = vreinterpretq_u64_u8(y.lo), y_hi = vreinterpretq_u64_u8(y.hi);
    a[0] = vreinterpretq_u8_u64(vzip1q_u64(x_lo, y_lo));
    a[1] = vreinterpretq_u8_u64(vzip2q_u64(x_lo, y_lo));
    a[2] = vreinterpretq_u8_u64(vzip1q_u64(x_hi, y_hi));
    a[3] = vreinterpretq_u8_u64(vzip2q_u64(x_hi, y_hi));
}

/* Writes a block of four tokens: their columns 8 by 8, a pair to a register; d, then s if there is
 * a minimum, of both tokens of a pair, twice. */
ALWAYS_INLINE void put_tokens(format f, void **out, const void *x[TOKENS]) {
    uint8x16_t a[PAIRS][4];
    for (int j = 0; j < PAIRS; j++)
        load_pair(&x[2 * j], &x[2 * j + 1], a[j]);
    for (int c = 0; c < 4; c++)
        put_bytes(out, (bytes){a[0][c], a[1][c]});
    float32x2_t ds[TOKENS], d[PAIRS], s[PAIRS];
    for (int t = 0; t < TOKENS; t++)
        ds[t] = next_scales(&x[t]);
    for (int j = 0; j < PAIRS; j++) {
        d[j] = vzip1_f32(ds[2 * j], ds[2 * j + 1]);
        s[j] = vzip2_f32(ds[2 * j], ds[2 * j + 1]);
    }
    put(out, (nyb_v8){vcombine_f32(d[0], d[0]), vcombine_f32(d[1], d[1])});
    if (nyb_has_min(f))
        put(out, (nyb_v8){vcombine_f32(s[0], s[0]), vcombine_f32(s[1], s[1])});
}

/* n tokens, four after four, each four's blocks one after another; the last stands for those that
 * are missing. */
ALWAYS_INLINE void pack_tokens(format f, const nyb_gemm_args *a, const nyb_q8 *x, size_t n,
                               void *out) {
    for (size_t t = 0; t < n; t += TOKENS) {
        const void *xs[TOKENS];
        for (size_t i = 0; i < TOKENS; i++)
            xs[i] = stream_of(x + (t + i < n ? t + i : n - 1) * a->x_stride);
        for (size_t b = 0; b < a->n_blocks; b++)
            put_tokens(f, &out, xs);
    }
}

/* -- Products ------------------------------------------------------------------------------- */

/* 8 columns. */
ALWAYS_INLINE void add_columns(const void **panel, bytes a, ints16 sum[PAIRS]) {
    const int8x16_t pair[PAIRS] = {vreinterpretq_s8_u8(a.lo), vreinterpretq_s8_u8(a.hi)};
    for (int r = 0; r < 2; r++) {
        const bytes w = as_bytes(next_floats(panel));
        for (int j = 0; j < PAIRS; j++) {
            ints *s = &sum[j].rows[r];
            s->lo = vmmlaq_s32(s->lo, vreinterpretq_s8_u8(w.lo), pair[j]);
            s->hi = vmmlaq_s32(s->hi, vreinterpretq_s8_u8(w.hi), pair[j]);
        }
    }
}

/* The exact sums of 32 columns. */
ALWAYS_INLINE void sum_block(format f, const void **panel, const void **x, ints16 sum[PAIRS]) {
    ints16 total[PAIRS];
    for (int half = 0; half < 2; half++) {
        if (!half || is_scaled(f))
            for (int j = 0; j < PAIRS; j++)
                sum[j] = (ints16){{zeros(), zeros()}};
        add_columns(panel, as_bytes(next_floats(x)), sum);
        add_columns(panel, as_bytes(next_floats(x)), sum);
        if (!is_scaled(f))
            continue;
        const ints16 scale = next_ints16(panel);
        for (int j = 0; j < PAIRS; j++)
            for (int r = 0; r < 2; r++) {
                const ints part = sum[j].rows[r], by = scale.rows[r];
                ints *all = &total[j].rows[r];
                *all = half ? scaled(*all, part, by) : scaled_first(part, by);
            }
    }
    for (int j = 0; j < PAIRS && is_scaled(f); j++)
        sum[j] = total[j];
}

ALWAYS_INLINE nyb_v8 add_times(nyb_v8 acc, nyb_v8 a, float32x4_t x) {
    return (nyb_v8){vfmaq_f32(acc.lo, a.lo, x), vfmaq_f32(acc.hi, a.hi, x)};
}

/* Adds a block's sums, scaled. */
ALWAYS_INLINE void add_block(format f, const void **panel, const void **x, floats16 acc[PAIRS]) {
    ints16 sum[PAIRS];
    sum_block(f, panel, x, sum);
    const nyb_v8 x_d = next_floats(x);
    for (int r = 0; r < 2; r++) {
        const nyb_v8 d = next_floats(panel);
        for (int j = 0; j < PAIRS; j++) {
            const nyb_v8 t = v8_mul(to_floats(sum[j].rows[r]), d);
            acc[j].rows[r] = add_times(acc[j].rows[r], t, j ? x_d.hi : x_d.lo);
        }
    }
    if (!nyb_has_min(f))
        return;
    const nyb_v8 x_s = next_floats(x);
    for (int r = 0; r < 2; r++) {
        const nyb_v8 m = next_floats(panel);
        for (int j = 0; j < PAIRS; j++)
            acc[j].rows[r] = add_times(acc[j].rows[r], m, j ? x_s.hi : x_s.lo);
    }
}

/* 8 rows of the first n of two tokens. */
ALWAYS_INLINE void store_pair(floats16 acc, float *y, size_t y_stride, size_t n) {
    const nyb_v8 lo = acc.rows[0], hi = acc.rows[1];
    if (n > 0)
        v8_store(y, v8_flush((nyb_v8){vuzp1q_f32(lo.lo, lo.hi), vuzp1q_f32(hi.lo, hi.hi)}));
    if (n > 1)
        v8_store(y + y_stride,
                 v8_flush((nyb_v8){vuzp2q_f32(lo.lo, lo.hi), vuzp2q_f32(hi.lo, hi.hi)}));
}

/* The panel times n tokens. */
ALWAYS_INLINE void multiply(format f, const nyb_gemm_args *a, const void *panel, const void *tokens,
                            size_t n, float *y) {
    const void *x = stream_of(tokens);
    for (size_t t = 0; t < n; t += TOKENS, y += TOKENS * a->y_stride) {
        const void *p = stream_of(panel);
        floats16 acc[PAIRS];
        for (int j = 0; j < PAIRS; j++)
            acc[j] = (floats16){{v8_set(0), v8_set(0)}};
        for (size_t left = a->n_blocks; left > 0; left--)
            add_block(f, &p, &x, acc);
        store_pair(acc[0], y, a->y_stride, n - t);
        store_pair(acc[1], y + 2 * a->y_stride, a->y_stride, n - t > 2 ? n - t - 2 : 0);
    }
}

/* The loop for all formats like this one, compiled by itself: gcc 12 finds registers for it then.
 * It is named like a row, for tools/count counts it as one. */
#define LOOP(name, f)                                                                              \
    static __attribute__((noinline)) void name(const nyb_gemm_args *a, const void *tokens,         \
                                               size_t n, float *y) {                               \
        multiply(f, a, a->panel, tokens, n, y);                                                    \
    }
LOOP(nyb_gemm_d_i8mm, NYB_TILE_Q4_0)
LOOP(nyb_gemm_min_i8mm, NYB_TILE_Q4_1)
LOOP(nyb_gemm_scaled_i8mm, NYB_TILE_Q6_K)

ALWAYS_INLINE void gemm(format f, const nyb_gemm_args *a) {
    const size_t row_bytes = a->n_blocks / (size_t)f.blocks * nyb_tile_bytes(f);
    uint8_t *tokens = (uint8_t *)a->panel + a->n_blocks * ROW_BYTES;
    for (size_t t = 0; t < a->n_tokens; t += GROUP) {
        const size_t n = a->n_tokens - t < GROUP ? a->n_tokens - t : GROUP;
        float *y = a->y + t * a->y_stride;
        pack_tokens(f, a, a->x + t * a->x_stride, n, tokens);
        for (size_t i = 0; i < a->n_tiles; i++, y += NYB_TILE_ROWS) {
            unpack_row(f, a->w + i * row_bytes, a->n_blocks, a->panel);
            if (is_scaled(f))
                nyb_gemm_scaled_i8mm(a, tokens, n, y);
            else
                (nyb_has_min(f) ? nyb_gemm_min_i8mm : nyb_gemm_d_i8mm)(a, tokens, n, y);
        }
    }
}

/* kernels.def says so */
_Static_assert(ROW_BYTES + GROUP / TOKENS * TOKENS_BYTES == 3520, "a block's share of scratch");

NYB_QUANTIZED_ROWS(gemm, i8mm, 0, 0)
