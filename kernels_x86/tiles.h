/* SPDX-License-Identifier: MIT
 * Packed tiles in registers: one register holds a group of 4 columns, 4 bytes to a 32-bit lane, so
 * that a lane is a row and no sum ever crosses lanes.
 *
 * A level that has more than AVX2 includes its vectors_*.h and dot_*.h first. A `format` is a
 * constant wherever these are inlined: its branches cost nothing.
 */
#ifndef NYB_TILES_H
#define NYB_TILES_H

#include "nyb_kernels.h"

#ifndef NYB_DOT_H
#include "dot_avx2.h"
#endif

typedef nyb_tile_format format;

/* -- Scales -------------------------------------------------------------------------------- */

/* Whether 16 columns have a scale of their own, an integer that joins the integer sum. */
ALWAYS_INLINE int is_scaled(format f) { return f.scales == NYB_SCALES_K16; }

/* What tiles say of the scales of all their blocks. */
typedef struct tile_scales {
    floats d, m;
    /* K only: scales and minima, of blocks 0-3 and 4-7, a byte a row: 32 bytes of each tile */
    uint8_t six_bits[2][2][32 * TILES];
} tile_scales;

ALWAYS_INLINE void load_tile_scales(format f, place p, tile_scales *s) {
    if (f.scales == NYB_SCALES_E8M0) {
        /* the exponent of 2^(e - 128) is e - 1, and that of 0 is 0 */
        const ints e = load_eight(p), one = V(set1_epi32)(1);
        const ints exponent = V(sub_epi32)(e, V(min_epi32)(e, one));
        s->d = as_floats(V(slli_epi32)(exponent, 23));
        return;
    }
    s->d = load_halves(p);
    if (nyb_has_min(f))
        s->m = load_halves(ahead(p, 16));
    if (f.scales == NYB_SCALES_K) {
        const ints a = load_bytes(ahead(p, 32)), b = load_bytes(ahead(p, 64));
        const ints c = load_bytes(ahead(p, 96)), low = V(set1_epi8)(63);
        /* the top two bits of a, b and c, each below the next */
        const ints top_a = VI(and)(V(srli_epi16)(a, 6), V(set1_epi8)(3));
        const ints top_b = VI(and)(V(srli_epi16)(b, 4), V(set1_epi8)(12));
        const ints top_c = VI(and)(V(srli_epi16)(c, 2), V(set1_epi8)(48));
        VI(storeu)((void *)s->six_bits[0][0], VI(and)(a, low));
        VI(storeu)((void *)s->six_bits[0][1], VI(and)(b, low));
        VI(storeu)((void *)s->six_bits[1][0], VI(and)(c, low));
        VI(storeu)((void *)s->six_bits[1][1], VI(or)(top_a, VI(or)(top_b, top_c)));
        s->m = V(sub_ps)(V(setzero_ps)(), s->m);
    }
}

/* Block i's scales or minima as floats. */
ALWAYS_INLINE floats six_bits(const uint8_t bits[2][32 * TILES], int i) {
    place p;
    for (int t = 0; t < TILES; t++)
        p.in[t] = bits[i / 4] + 32 * t + 8 * (i % 4);
    return V(cvtepi32_ps)(load_eight(p));
}

/* The scales of block i, which lies at p: d and m of each row, or d and the bits of two int16, a
 * row's scales of 16 columns. */
ALWAYS_INLINE void load_scales(format f, const tile_scales *s, place p, int i, floats *d,
                               floats *m) {
    *d = s->d;
    *m = nyb_has_min(f) ? s->m : V(setzero_ps)();
    if (f.scales == NYB_SCALES_K) {
        *d = V(mul_ps)(s->d, six_bits(s->six_bits[0], i));
        *m = V(mul_ps)(s->m, six_bits(s->six_bits[1], i));
    }
    if (is_scaled(f))
        *m = as_floats(load_sixteen(p));
}

/* -- Weights ------------------------------------------------------------------------------- */

/* How large the weights are that load_weights makes: up to 15, 31 or 63, or 8 bits. */
ALWAYS_INLINE int dot_bits(format f) {
    return f.codes == NYB_CODES_IQ4_NL ? 8 : f.codes == NYB_CODES_FP4 ? 5 : f.bits;
}

/* What is to be added to them: a multiple of the activations' sum joins the block's. */
ALWAYS_INLINE int dot_offset(format f) {
    return f.codes == NYB_CODES_FP4 ? -12 : dot_bits(f) == 8 ? DOT8_OFFSET : -f.bias;
}

/* The bytes of `bits` moved by n, to the left if n > 0, that then lie under the mask. */
ALWAYS_INLINE ints moved(ints bits, int n, int mask) {
    const ints x = n < 0 ? V(srli_epi32)(bits, -n) : V(slli_epi32)(bits, n);
    return VI(and)(x, V(set1_epi8)((char)mask));
}

/* The 8 groups of a block, in order of columns, as the dot products take them. */
ALWAYS_INLINE void load_weights(format f, place p, ints w[8]) {
    p = ahead(p, is_scaled(f) ? 16 : 0);
    if (f.bits == 8) {
        for (int g = 0; g < 8; g++)
            w[g] = dot_weights8(load_bytes(ahead(p, 32 * (size_t)g)));
        return;
    }
    ints high[2];
    for (int i = 0; i < f.bits - 4; i++, p = ahead(p, 32))
        high[i] = load_bytes(p);
    for (int g = 0; g < 4; g++) {
        const ints x = load_bytes(ahead(p, 32 * (size_t)g));
        w[g] = moved(x, 0, 15);
        w[4 + g] = moved(x, -4, 15);
    }
    for (int g = 0; g < 8; g++) {
        if (f.bits == 5)
            w[g] = VI(or)(w[g], moved(high[0], 4 - g, 16));
        if (f.bits == 6)
            w[g] = VI(or)(w[g], moved(high[g / 4], 4 - 2 * (g % 4), 48));
        if (f.codes == NYB_CODES_IQ4_NL)
            w[g] = dot_weights8(looked_up(nyb_iq4_nl, w[g]));
        if (f.codes == NYB_CODES_FP4)
            w[g] = V(add_epi8)(looked_up(nyb_fp4, w[g]), V(set1_epi8)(12));
    }
}

/* -- Dot products -------------------------------------------------------------------------- */

/* What a block's integer sum has beside the products. `pairs`: a row's scales of 16 columns;
 * `half_sum`: the sums of those activations. */
ALWAYS_INLINE ints addend(format f, ints pairs, const int16_t half_sum[2], int32_t sum) {
    if (!is_scaled(f))
        return V(set1_epi32)(dot_offset(f) * sum);
    /* -32 (sc_0 A_0 + sc_1 A_1) */
    return V(sub_epi32)(VI(setzero)(), V(slli_epi32)(V(madd_epi16)(four(half_sum), pairs), 5));
}

#define NYB_ROW(op, lower, UPPER, level, needs, panel_bytes)                                       \
    void nyb_##op##_##lower##_##level(const nyb_##op##_args *a) { op(NYB_TILE_##UPPER, a); }

#endif
