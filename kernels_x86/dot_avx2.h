/* SPDX-License-Identifier: MIT
 * Integer dot products on AVX2: 8 rows by 4 columns of weights with 4 activations, repeated.
 *
 * VPMADDUBSW multiplies unsigned by signed bytes and adds neighbours into int16. There the products
 * of as many groups of 4 columns are summed as fit, two to a lane and group, and joined to an int32
 * total:
 *
 *   weights up to 15   8 groups   16 * 15 * 127 = 30,480
 *                 31   4           8 * 31 * 127 = 31,496
 *                 63   2           4 * 63 * 127 = 32,004
 *         -128..127    1           2 * 128 * 127 = 32,512
 *
 * `bits` and `scaled` are constants wherever these are inlined.
 */
#ifndef NYB_DOT_H
#define NYB_DOT_H

#include "vectors_256.h"

/* By how much the 8-bit weights that these take are too large: not at all, they are signed. */
enum { DOT8_OFFSET = 0 };
ALWAYS_INLINE ints dot_weights8(ints w) { return w; }

/* Groups whose products make a sum that must be joined to the total. */
ALWAYS_INLINE int dot_groups(int bits, int scaled) {
    (void)scaled; /* scales are of 4 groups, which all but 4 bits divide */
    return bits == 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1;
}

/* `addend` is what the block's total has beside the products. Here it joins at the end, which keeps
 * a register free. */
ALWAYS_INLINE ints dot_begin(ints addend) {
    (void)addend;
    return _mm256_setzero_si256();
}

ALWAYS_INLINE ints dot_end(ints total, ints addend) { return _mm256_add_epi32(total, addend); }

/* The sum that products are added to, until it is joined to the total. */
ALWAYS_INLINE ints dot_start(int scaled, ints total) {
    (void)scaled, (void)total;
    return _mm256_setzero_si256();
}

ALWAYS_INLINE ints dot_add(int bits, ints sum, ints w, ints a) {
    if (bits == 8) /* |w| * (a with w's sign): a is never -128, which has no opposite */
        a = _mm256_sign_epi8(a, w), w = _mm256_abs_epi8(w);
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, a));
    /* keeps gcc from hoisting all of a loop's products before the sums, which spills them */
    __asm__("" : "+x"(sum));
    return sum;
}

ALWAYS_INLINE ints dot_join(int scaled, ints total, ints sum, ints scale) {
    const ints factor = scaled ? scale : _mm256_set1_epi16(1);
    return _mm256_add_epi32(total, _mm256_madd_epi16(sum, factor));
}

/* A row's scales of columns 0-15 and of 16-31, which are int16 side by side, as dot_join wants
 * them: twice each. */
ALWAYS_INLINE void dot_scales(ints pairs, ints scale[2]) {
    scale[0] = _mm256_blend_epi16(pairs, _mm256_slli_epi32(pairs, 16), 0xaa);
    scale[1] = _mm256_blend_epi16(_mm256_srli_epi32(pairs, 16), pairs, 0xaa);
}

/* The rows' exact sums of products of 32 columns. */
ALWAYS_INLINE ints dot_block(int bits, int scaled, const ints w[8], const int8_t *a,
                             const ints scale[2], ints addend) {
    const int groups = dot_groups(bits, scaled);
    ints total = dot_begin(addend);
    for (int first = 0; first < 8; first += groups) {
        ints sum = dot_start(scaled, total);
        for (int g = first; g < first + groups; g++)
            sum = dot_add(bits, sum, w[g], four(a + 4 * g));
        total = dot_join(scaled, total, sum, scale[first / 4]);
    }
    return dot_end(total, addend);
}

#endif
