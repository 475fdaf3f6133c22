/* SPDX-License-Identifier: MIT
 * gemm by SDOT, for each format.
 */
#include "dot_dotprod.h"

enum { TOKENS = 4 };

/* Groups of 4 columns as tiles have them. */
typedef struct panel_block {
    uint8_t w[8][32];
    float d[8], m[8];    /* m: of formats that have a minimum */
    int32_t scale[2][8]; /* of formats with a scale for 16 columns */
} panel_block;

ALWAYS_INLINE void store_ints(int32_t *p, ints x) {
    vst1q_s32(p, x.lo);
    vst1q_s32(p + 4, x.hi);
}

ALWAYS_INLINE ints load_ints(const int32_t *p) { return (ints){vld1q_s32(p), vld1q_s32(p + 4)}; }

ALWAYS_INLINE void put_block(format f, panel_block *out, const bytes w[8], nyb_v8 d, nyb_v8 m,
                             const ints scale[2]) {
    for (int g = 0; g < 8; g++) {
        vst1q_u8(out->w[g], w[g].lo);
        vst1q_u8(out->w[g] + 16, w[g].hi);
    }
    v8_store(out->d, d);
    if (nyb_has_min(f))
        v8_store(out->m, m);
    for (int half = 0; half < 2 && is_scaled(f); half++)
        store_ints(out->scale[half], scale[half]);
}

/* 4 columns of a half. */
ALWAYS_INLINE void add_group(int tokens, const uint8_t *w, const int8x16_t a[TOKENS], int lane,
                             ints sum[TOKENS]) {
    const bytes group = load_bytes(w);
    for (int t = 0; t < tokens; t++)
        sum[t] = dot_rows(sum[t], group, a[t], lane);
}

/* 16 columns. */
ALWAYS_INLINE void add_half(int tokens, const uint8_t w[4][32], const nyb_q8 *x, size_t x_stride,
                            int half, ints sum[TOKENS]) {
    int8x16_t a[TOKENS];
    for (int t = 0; t < tokens; t++)
        a[t] = vld1q_s8(x[(size_t)t * x_stride].q + 16 * half);
    add_group(tokens, w[0], a, 0, sum);
    add_group(tokens, w[1], a, 1, sum);
    add_group(tokens, w[2], a, 2, sum);
    add_group(tokens, w[3], a, 3, sum);
}

ALWAYS_INLINE void multiply(format f, int tokens, const panel_block *panel, size_t n_blocks,
                            const nyb_q8 *x, size_t x_stride, float *y, size_t y_stride) {
    nyb_v8 acc[TOKENS];
    for (int t = 0; t < tokens; t++)
        acc[t] = v8_set(0);
    for (size_t b = 0; b < n_blocks; b++, panel++, x++) {
        ints sum[TOKENS], total[TOKENS];
        for (int t = 0; t < tokens; t++)
            sum[t] = ints_set(0);
        add_half(tokens, panel->w, x, x_stride, 0, sum);
        for (int t = 0; t < tokens && is_scaled(f); t++) {
            total[t] = scaled(ints_set(0), sum[t], load_ints(panel->scale[0]));
            sum[t] = ints_set(0);
        }
        add_half(tokens, panel->w + 4, x, x_stride, 1, sum);
        for (int t = 0; t < tokens && is_scaled(f); t++)
            sum[t] = scaled(total[t], sum[t], load_ints(panel->scale[1]));
        const nyb_v8 d = v8_load(panel->d), m = v8_load(panel->m);
        for (int t = 0; t < tokens; t++)
            acc[t] = add_scaled(f, acc[t], to_floats(sum[t]), d, m,
                                vld1_f32(&x[(size_t)t * x_stride].d));
    }
    for (int t = 0; t < tokens; t++)
        v8_store(y + (size_t)t * y_stride, v8_flush(acc[t]));
}

#include "gemm.h"

_Static_assert(sizeof(panel_block) == 384, "kernels.def says so");

NYB_QUANTIZED_ROWS(gemm, dotprod, 0, 0)
