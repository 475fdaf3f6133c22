/* SPDX-License-Identifier: MIT
 * Packed tiles as AVX registers: one register holds a group of 4 columns of the 8 rows, 4 bytes
 * to a 32-bit lane, so that a lane is a row and no sum ever crosses lanes.
 */
#ifndef NYB_TILES_H
#define NYB_TILES_H

#include <string.h>

#include "lanes.h"

#ifndef NYB_DOT_H /* a level with other dot products includes its own first */
#include "dot_avx2.h"
#endif

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* What a loop over tiles must know of a format; constant wherever it is inlined. */
typedef struct format {
    int bits;          /* 4 or 8 */
    int has_min;       /* a minimum m beside the scale d */
    int offset;        /* quants are this much smaller than what dot_add multiplies, times -1 */
    size_t quants_at;  /* in a tile, behind the scales */
    size_t tile_bytes; /* */
} format;

#define FORMAT_Q4_0 ((format){4, 0, -8, 16, NYB_TILE_Q4_0})
#define FORMAT_Q4_1 ((format){4, 1, 0, 32, NYB_TILE_Q4_1})
#define FORMAT_Q8_0 ((format){8, 0, NYB_DOT8_OFFSET, 16, NYB_TILE_Q8_0})

/* The 8 groups of a tile, in order of columns, as dot_add takes them. */
ALWAYS_INLINE void load_weights(format f, const uint8_t *tile, __m256i w[8]) {
    const __m256i *quants = (const __m256i *)(tile + f.quants_at);
    if (f.bits == 4) {
        const __m256i low = _mm256_set1_epi8(15);
        for (int g = 0; g < 4; g++) {
            const __m256i x = _mm256_loadu_si256(quants + g);
            w[g] = _mm256_and_si256(x, low);
            w[4 + g] = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
        }
        return;
    }
    for (int g = 0; g < 8; g++)
        w[g] = dot_weights8(_mm256_loadu_si256(quants + g));
}

/* Four activations in every lane. */
ALWAYS_INLINE __m256i four(const int8_t *a) {
    int32_t x;
    memcpy(&x, a, sizeof x);
    return _mm256_set1_epi32(x);
}

/* The tile's 8 rows times 32 activations. */
ALWAYS_INLINE __m256i dot_tile(format f, const __m256i w[8], const int8_t *a, int32_t addend) {
    __m256i sum = dot_begin(f.bits, addend);
    for (int g = 0; g < 8; g++)
        sum = dot_add(f.bits, sum, w[g], four(a + 4 * g));
    return dot_end(f.bits, sum, addend);
}

#endif
