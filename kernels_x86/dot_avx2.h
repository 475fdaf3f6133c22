/* SPDX-License-Identifier: MIT
 * Integer dot products on AVX2: 8 rows by 4 columns of weights with 4 activations, repeated.
 *
 * VPMADDUBSW multiplies unsigned by signed bytes and adds neighbours into int16. For 4-bit
 * weights a whole block's sum stays in int16: 8 times two products of at most 15 * 127 are
 * 30,480. For 8-bit ones two products fill it (2 * 128 * 127 = 32,512) and are widened at once.
 *
 * `bits` is a constant wherever these are inlined. `addend` joins the sum: a multiple of the
 * activations' sum, by which a format's quants are larger than its weights.
 */
#ifndef NYB_DOT_H
#define NYB_DOT_H

#include <immintrin.h>
#include <stdint.h>

/* By how much the 8-bit weights that dot_add takes are too large: not at all. */
enum { NYB_DOT8_OFFSET = 0 };
static inline __m256i dot_weights8(__m256i w) { return w; }

static inline __m256i dot_begin(int bits, int32_t addend) {
    return bits == 4 ? _mm256_setzero_si256() : _mm256_set1_epi32(addend);
}

static inline __m256i dot_add(int bits, __m256i sum, __m256i w, __m256i a) {
    if (bits == 4)
        return _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, a));
    /* |w| * (a with w's sign): a is never -128, which has no opposite */
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

static inline __m256i dot_end(int bits, __m256i sum, int32_t addend) {
    if (bits == 4)
        return _mm256_add_epi32(_mm256_madd_epi16(sum, _mm256_set1_epi16(1)),
                                _mm256_set1_epi32(addend));
    return sum;
}

#endif
