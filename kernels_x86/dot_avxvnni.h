/* SPDX-License-Identifier: MIT
 * Integer dot products on AVX-VNNI: VPDPBUSD multiplies four unsigned by four signed bytes and
 * adds all to an int32. The interface is that of dot_avx2.h.
 */
#ifndef NYB_DOT_H
#define NYB_DOT_H

#include <immintrin.h>
#include <stdint.h>

/* 8-bit weights are made unsigned, 128 larger, and the sum begins that much lower. */
enum { NYB_DOT8_OFFSET = -128 };
static inline __m256i dot_weights8(__m256i w) {
    return _mm256_xor_si256(w, _mm256_set1_epi8(-128));
}

static inline __m256i dot_begin(int bits, int32_t addend) {
    (void)bits;
    return _mm256_set1_epi32(addend);
}

static inline __m256i dot_add(int bits, __m256i sum, __m256i w, __m256i a) {
    (void)bits;
    return _mm256_dpbusd_avx_epi32(sum, w, a);
}

static inline __m256i dot_end(int bits, __m256i sum, int32_t addend) {
    (void)bits, (void)addend;
    return sum;
}

#endif
