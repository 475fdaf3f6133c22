/* SPDX-License-Identifier: MIT
 * Packed tiles as AVX-512 registers: the tiles of two tile rows side by side, so that a lane is
 * one of 16 rows. VPDPBUSD takes unsigned weights; a format's offset from its true weights begins
 * the sum.
 */
#ifndef NYB_TILES_512_H
#define NYB_TILES_512_H

#include <immintrin.h>
#include <string.h>

#include "nyb_kernels.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* What a loop over tiles must know of a format; constant wherever it is inlined. */
typedef struct format {
    int bits, has_min, offset;
    size_t quants_at, tile_bytes;
} format;

#define FORMAT_Q4_0 ((format){4, 0, -8, 16, NYB_TILE_Q4_0})
#define FORMAT_Q4_1 ((format){4, 1, 0, 32, NYB_TILE_Q4_1})
#define FORMAT_Q8_0 ((format){8, 0, -128, 16, NYB_TILE_Q8_0})

/* 32 bytes of one tile beside the same 32 of another. */
ALWAYS_INLINE __m512i beside(const uint8_t *a, const uint8_t *b) {
    const __m256i low = _mm256_loadu_si256((const __m256i *)a);
    const __m256i high = _mm256_loadu_si256((const __m256i *)b);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

ALWAYS_INLINE __m512 halves_beside(const uint8_t *a, const uint8_t *b) {
    const __m128i low = _mm_loadu_si128((const __m128i *)a);
    const __m128i high = _mm_loadu_si128((const __m128i *)b);
    return _mm512_cvtph_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1));
}

/* The 8 groups of 4 columns of the tiles at a and b, unsigned. */
ALWAYS_INLINE void load_weights(format f, const uint8_t *a, const uint8_t *b, __m512i w[8]) {
    a += f.quants_at;
    b += f.quants_at;
    if (f.bits == 4) {
        const __m512i low = _mm512_set1_epi8(15);
        for (int g = 0; g < 4; g++) {
            const __m512i x = beside(a + 32 * g, b + 32 * g);
            w[g] = _mm512_and_si512(x, low);
            w[4 + g] = _mm512_and_si512(_mm512_srli_epi16(x, 4), low);
        }
        return;
    }
    for (int g = 0; g < 8; g++)
        w[g] = _mm512_xor_si512(beside(a + 32 * g, b + 32 * g), _mm512_set1_epi8(-128));
}

/* Four activations in every lane. */
ALWAYS_INLINE __m512i four(const int8_t *a) {
    int32_t x;
    memcpy(&x, a, sizeof x);
    return _mm512_set1_epi32(x);
}

ALWAYS_INLINE __m512 flush(__m512 x) {
    const __m512 tiny = _mm512_set1_ps(NYB_TINY);
    const __mmask16 keep = _mm512_cmp_ps_mask(_mm512_abs_ps(x), tiny, _CMP_NLT_UQ);
    return _mm512_maskz_mov_ps(keep, x);
}

#endif
