/* SPDX-License-Identifier: MIT
 * Integer dot products on VNNI: VPDPBUSD multiplies four unsigned by four signed bytes and adds
 * all to an int32. The interface is that of dot_avx2.h; the registers are those of the vectors_*.h
 * that was included before, or of 256 bits.
 */
#ifndef NYB_DOT_H
#define NYB_DOT_H

#ifndef NYB_VECTORS_H
#include "vectors_256.h"
#endif

/* The VEX form, where there is no other. */
#ifdef __AVX512VNNI__
#define DPBUSD V(dpbusd_epi32)
#else
#define DPBUSD V(dpbusd_avx_epi32)
#endif

/* 8-bit weights are made unsigned, 128 larger. */
enum { DOT8_OFFSET = -128 };
ALWAYS_INLINE ints dot_weights8(ints w) { return VI(xor)(w, V(set1_epi8)(-128)); }

/* Without scales all products go straight to the total. */
ALWAYS_INLINE int dot_groups(int bits, int scaled) {
    (void)bits;
    return scaled ? 4 : 8;
}

ALWAYS_INLINE ints dot_begin(ints addend) { return addend; }

ALWAYS_INLINE ints dot_end(ints total, ints addend) {
    (void)addend;
    return total;
}

ALWAYS_INLINE ints dot_start(int scaled, ints total) { return scaled ? VI(setzero)() : total; }

ALWAYS_INLINE ints dot_add(int bits, ints sum, ints w, ints a) {
    (void)bits;
    return DPBUSD(sum, w, a);
}

ALWAYS_INLINE ints dot_join(int scaled, ints total, ints sum, ints scale) {
    return scaled ? V(add_epi32)(total, V(mullo_epi32)(sum, scale)) : sum;
}

/* A row's scales of columns 0-15 and of 16-31, which are int16 side by side, as int32. */
ALWAYS_INLINE void dot_scales(ints pairs, ints scale[2]) {
    scale[0] = V(srai_epi32)(V(slli_epi32)(pairs, 16), 16);
    scale[1] = V(srai_epi32)(pairs, 16);
}

/* The rows' exact sums of products of 32 columns, as two chains: VPDPBUSD takes four cycles, and a
 * core does one or two in each. */
ALWAYS_INLINE ints dot_block(int bits, int scaled, const ints w[8], const int8_t *a,
                             const ints scale[2], ints addend) {
    ints first = dot_start(scaled, addend), last = VI(setzero)();
    for (int g = 0; g < 4; g++) {
        first = dot_add(bits, first, w[g], four(a + 4 * g));
        last = dot_add(bits, last, w[4 + g], four(a + 16 + 4 * g));
    }
    if (!scaled)
        return V(add_epi32)(first, last);
    return dot_join(scaled, dot_join(scaled, addend, first, scale[0]), last, scale[1]);
}

#endif
