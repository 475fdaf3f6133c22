/* SPDX-License-Identifier: MIT
 * Packed tiles in NEON registers: two registers hold a group of 4 columns, rows 0-3 and 4-7, 4
 * bytes to a 32-bit lane, so that a lane is a row and no sum ever crosses lanes.
 *
 * A `format` is a constant wherever these are inlined: its branches cost nothing.
 */
#ifndef NYB_TILES_H
#define NYB_TILES_H

/* gcc 12 orders instructions before it gives them registers, and here runs out of those. */
#ifndef __clang__
#pragma GCC optimize("no-schedule-insns")
#endif

#include "lanes.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

typedef nyb_tile_format format;

/* A row to a lane. */
typedef struct ints {
    int32x4_t lo, hi;
} ints;

/* 4 columns of rows 0-3 and of rows 4-7. */
typedef struct bytes {
    uint8x16_t lo, hi;
} bytes;

ALWAYS_INLINE ints ints_set(int32_t x) { return (ints){vdupq_n_s32(x), vdupq_n_s32(x)}; }

ALWAYS_INLINE nyb_v8 to_floats(ints x) {
    return (nyb_v8){vcvtq_f32_s32(x.lo), vcvtq_f32_s32(x.hi)};
}

/* Both registers: (x moved by n, to the left if n > 0), where the mask has bits, else y. */
ALWAYS_INLINE uint8x16_t moved_into(uint8x16_t y, uint8x16_t x, int n, int mask) {
    return vbslq_u8(vdupq_n_u8((uint8_t)mask), n < 0 ? x >> -n : x << n, y);
}

/* -- Scales -------------------------------------------------------------------------------- */

/* Whether 16 columns have a scale of their own, an integer that joins the integer sum. */
ALWAYS_INLINE int is_scaled(format f) { return f.scales == NYB_SCALES_K16; }

/* What a tile says of the scales of all its blocks. */
typedef struct tile_scales {
    nyb_v8 d, m;
    uint8_t six_bits[2][64]; /* K only: scales and minima, 8 rows of each block */
} tile_scales;

/* Bits 6 and 7 of a, b and c, each above the one before. */
ALWAYS_INLINE uint8x16_t joined_tops(uint8x16_t a, uint8x16_t b, uint8x16_t c) {
    return vsliq_n_u8(vshrq_n_u8(a, 6), vsliq_n_u8(vshrq_n_u8(b, 6), vshrq_n_u8(c, 6), 2), 2);
}

/* The 96 bytes of docs/formats.md to 8 times 8 scales and 8 times 8 minima. */
ALWAYS_INLINE void unpack_six_bits(const uint8_t *p, uint8_t out[2][64]) {
    const uint8x16_t low = vdupq_n_u8(63);
    for (int i = 0; i < 32; i += 16) {
        const uint8x16_t a = vld1q_u8(p + i), b = vld1q_u8(p + 32 + i), c = vld1q_u8(p + 64 + i);
        vst1q_u8(out[0] + i, vandq_u8(a, low));
        vst1q_u8(out[0] + 32 + i, vandq_u8(b, low));
        vst1q_u8(out[1] + i, vandq_u8(c, low));
        vst1q_u8(out[1] + 32 + i, joined_tops(a, b, c));
    }
}

ALWAYS_INLINE void load_tile_scales(format f, const uint8_t *tile, tile_scales *s) {
    if (f.scales == NYB_SCALES_E8M0) {
        /* the exponent of 2^(e - 128) is e - 1, and that of 0 is 0 */
        const uint16x8_t e = vmovl_u8(vqsub_u8(vld1_u8(tile), vdup_n_u8(1)));
        const uint32x4_t lo = vmovl_u16(vget_low_u16(e)), hi = vmovl_high_u16(e);
        s->d.lo = vreinterpretq_f32_u32(vshlq_n_u32(lo, 23));
        s->d.hi = vreinterpretq_f32_u32(vshlq_n_u32(hi, 23));
        return;
    }
    s->d = v8_load_half((const uint16_t *)tile);
    if (nyb_has_min(f))
        s->m = v8_load_half((const uint16_t *)(tile + 16));
    if (f.scales == NYB_SCALES_K) {
        unpack_six_bits(tile + 32, s->six_bits);
        s->m = (nyb_v8){vnegq_f32(s->m.lo), vnegq_f32(s->m.hi)};
    }
}

/* 8 bytes as floats. */
ALWAYS_INLINE nyb_v8 float_bytes(const uint8_t *p) {
    const uint16x8_t x = vmovl_u8(vld1_u8(p));
    return (nyb_v8){vcvtq_f32_u32(vmovl_u16(vget_low_u16(x))), vcvtq_f32_u32(vmovl_high_u16(x))};
}

/* d and m of the rows of block i. */
ALWAYS_INLINE void load_scales(format f, const tile_scales *s, int i, nyb_v8 *d, nyb_v8 *m) {
    *d = s->d;
    *m = nyb_has_min(f) ? s->m : v8_set(0);
    if (f.scales == NYB_SCALES_K) {
        *d = v8_mul(s->d, float_bytes(s->six_bits[0] + 8 * i));
        *m = v8_mul(s->m, float_bytes(s->six_bits[1] + 8 * i));
    }
}

/* The rows' scales of columns 0-15 and 16-31 of the block at p: bytes that alternate. */
ALWAYS_INLINE void load_scales16(const uint8_t *p, ints scale[2]) {
    const int16x8_t pairs = vreinterpretq_s16_u8(vld1q_u8(p));
    const int16x8_t first = vshrq_n_s16(vshlq_n_s16(pairs, 8), 8), last = vshrq_n_s16(pairs, 8);
    scale[0] = (ints){vmovl_s16(vget_low_s16(first)), vmovl_high_s16(first)};
    scale[1] = (ints){vmovl_s16(vget_low_s16(last)), vmovl_high_s16(last)};
}

/* 16 columns' sums * their scales, and that added to a total */
ALWAYS_INLINE ints scaled_first(ints sum, ints scale) {
    return (ints){vmulq_s32(sum.lo, scale.lo), vmulq_s32(sum.hi, scale.hi)};
}

ALWAYS_INLINE ints scaled(ints total, ints sum, ints scale) {
    return (ints){vmlaq_s32(total.lo, sum.lo, scale.lo), vmlaq_s32(total.hi, sum.hi, scale.hi)};
}

/* -- Weights ------------------------------------------------------------------------------- */

ALWAYS_INLINE uint8x16_t looked_up(const int8_t table[16], uint8x16_t q) {
    return vreinterpretq_u8_s8(vqtbl1q_s8(vld1q_s8(table), q));
}

/* Where a block's high bits begin, and its nibbles or bytes. */
ALWAYS_INLINE const uint8_t *high_bits(format f, const uint8_t *block) {
    return block + (is_scaled(f) ? 16 : 0);
}

ALWAYS_INLINE const uint8_t *low_bits(format f, const uint8_t *block) {
    return high_bits(f, block) + (f.bits == 5 ? 32 : f.bits == 6 ? 64 : 0);
}

/* What the nibbles of group g lack: the bits above them. `half` is 0 for groups 0-3. */
ALWAYS_INLINE uint8x16_t with_high_bits(format f, uint8x16_t q, const uint8_t *high, int half,
                                        int g) {
    if (f.bits == 5) /* bit g of the bytes, bit 4 + g for the later groups */
        return moved_into(q, vld1q_u8(high), half ? -g : 4 - g, 16);
    if (f.bits == 6)
        return moved_into(q, vld1q_u8(high + 32 * half), 4 - 2 * g, 48);
    return q;
}

ALWAYS_INLINE uint8x16_t decoded(format f, uint8x16_t q) {
    if (f.codes == NYB_CODES_IQ4_NL)
        return looked_up(nyb_iq4_nl, q);
    return f.codes == NYB_CODES_FP4 ? looked_up(nyb_fp4, q) : q;
}

ALWAYS_INLINE void load_four_rows(format f, const uint8_t *block, int g, uint8x16_t w[2]) {
    const uint8_t *low = low_bits(f, block) + 32 * g, *high = high_bits(f, block);
    if (f.bits == 8) {
        w[0] = vld1q_u8(low), w[1] = vld1q_u8(low + 128);
        return;
    }
    const uint8x16_t x = vld1q_u8(low);
    w[0] = decoded(f, with_high_bits(f, vandq_u8(x, vdupq_n_u8(15)), high, 0, g));
    w[1] = decoded(f, with_high_bits(f, vshrq_n_u8(x, 4), high, 1, g));
}

/* Groups g and 4 + g of a block, g < 4: q, or the table's value; a byte of either sign. */
ALWAYS_INLINE void load_weights(format f, const uint8_t *block, int g, bytes w[2]) {
    uint8x16_t lo[2], hi[2];
    load_four_rows(f, block, g, lo);
    load_four_rows(f, block + 16, g, hi);
    for (int half = 0; half < 2; half++)
        w[half] = (bytes){lo[half], hi[half]};
}

/* The same without the bias. */
ALWAYS_INLINE void load_centred(format f, const uint8_t *block, int g, bytes w[2]) {
    const uint8x16_t bias = vdupq_n_u8((uint8_t)f.bias);
    load_weights(f, block, g, w);
    for (int half = 0; half < 2; half++)
        w[half] = (bytes){vsubq_u8(w[half].lo, bias), vsubq_u8(w[half].hi, bias)};
}

/* acc + t * x_d + m * x_s, with t = isum * d; x_ds is the activations' d and s. */
ALWAYS_INLINE nyb_v8 add_scaled(format f, nyb_v8 acc, nyb_v8 t, nyb_v8 m, float32x2_t x_ds) {
    acc.lo = vfmaq_lane_f32(acc.lo, t.lo, x_ds, 0);
    acc.hi = vfmaq_lane_f32(acc.hi, t.hi, x_ds, 0);
    if (nyb_has_min(f)) {
        acc.lo = vfmaq_lane_f32(acc.lo, m.lo, x_ds, 1);
        acc.hi = vfmaq_lane_f32(acc.hi, m.hi, x_ds, 1);
    }
    return acc;
}

/* -- Streams of 32 bytes -------------------------------------------------------------------- *
 *
 * A panel and a token's blocks are read by pairs of registers, each instruction moving on to what
 * the next one reads. Compilers load 16 bytes by 16 and count addresses, a sixth of a loop's
 * instructions.
 */

/* Where a stream begins. What was stored is there for the asm below, which does not say that it
 * reads. */
ALWAYS_INLINE const void *stream_of(const void *p) {
    __asm__("" : "+r"(p) : : "memory");
    return p;
}

ALWAYS_INLINE nyb_v8 next_floats(const void **p) {
    nyb_v8 a;
    __asm__("ldp %q0, %q1, [%2], #32" : "=w"(a.lo), "=w"(a.hi), "+r"(*p));
    return a;
}

ALWAYS_INLINE bytes as_bytes(nyb_v8 a) {
    return (bytes){vreinterpretq_u8_f32(a.lo), vreinterpretq_u8_f32(a.hi)};
}

ALWAYS_INLINE ints as_ints(nyb_v8 a) {
    return (ints){vreinterpretq_s32_f32(a.lo), vreinterpretq_s32_f32(a.hi)};
}

/* Zeros for sums to begin with, loaded each time: copies of a register would need the units that
 * multiply, and gcc makes more of them than there are sums. */
ALWAYS_INLINE ints zeros(void) {
    static const int32_t zero[8];
    ints a;
    __asm__ volatile("ldp %q0, %q1, [%2]" : "=w"(a.lo), "=w"(a.hi) : "r"(zero));
    return a;
}

/* A block's d and s, which follow its 32 bytes; then the next block. */
ALWAYS_INLINE float32x2_t next_scales(const void **p) {
    float32x2_t ds;
    __asm__("ldr %d0, [%1], #16" : "=w"(ds), "+r"(*p));
    return ds;
}

_Static_assert(sizeof(nyb_q8) == 48 && offsetof(nyb_q8, d) == 32 && offsetof(nyb_q8, s) == 36,
               "a block of activations is 32 bytes, d, s and 8 bytes");

/* Writes 32 bytes of a panel. */
ALWAYS_INLINE void put(void **p, nyb_v8 a) {
    __asm__ volatile("stp %q1, %q2, [%0], #32" : "+r"(*p) : "w"(a.lo), "w"(a.hi) : "memory");
}

ALWAYS_INLINE void put_bytes(void **p, bytes a) {
    put(p, (nyb_v8){vreinterpretq_f32_u8(a.lo), vreinterpretq_f32_u8(a.hi)});
}

ALWAYS_INLINE void put_ints(void **p, ints a) {
    put(p, (nyb_v8){vreinterpretq_f32_s32(a.lo), vreinterpretq_f32_s32(a.hi)});
}

#define NYB_ROW(op, lower, UPPER, level, needs, panel_bytes)                                       \
    void nyb_##op##_##lower##_##level(const nyb_##op##_args *a) { op(NYB_TILE_##UPPER, a); }

#endif
