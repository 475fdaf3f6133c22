/* SPDX-License-Identifier: MIT
 * AVX registers for the loops over tiles: a register holds 8 rows, a row to a 32-bit lane.
 *
 * V(name) is the intrinsic of this width, VI(name) one whose name ends in the width.
 */
#ifndef NYB_VECTORS_H
#define NYB_VECTORS_H

#include <string.h>

#include "lanes.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#define V(name)  _mm256_##name
#define VI(name) _mm256_##name##_si256

enum { TILES = 1 }; /* whose rows a register holds */

typedef __m256i ints;
typedef __m256 floats;

/* Places in TILES tiles that are read together. */
typedef struct place {
    const uint8_t *in[TILES];
} place;

ALWAYS_INLINE floats as_floats(ints x) { return _mm256_castsi256_ps(x); }
ALWAYS_INLINE ints as_ints(floats x) { return _mm256_castps_si256(x); }

ALWAYS_INLINE place ahead(place p, size_t bytes) { return (place){{p.in[0] + bytes}}; }

/* 32 bytes of each tile. */
ALWAYS_INLINE ints load_bytes(place p) { return _mm256_loadu_si256((const __m256i *)p.in[0]); }

/* 8 halves of each. */
ALWAYS_INLINE floats load_halves(place p) { return v8_load_half((const uint16_t *)p.in[0]); }

/* 8 bytes of each, to int32. */
ALWAYS_INLINE ints load_eight(place p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p.in[0]));
}

/* 16 signed bytes of each, to int16. */
ALWAYS_INLINE ints load_sixteen(place p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p.in[0]));
}

/* The same 4 bytes in every lane. */
ALWAYS_INLINE ints four(const void *p) {
    int32_t x;
    memcpy(&x, p, sizeof x);
    return V(set1_epi32)(x);
}

ALWAYS_INLINE ints looked_up(const int8_t table[16], ints q) {
    const __m128i values = _mm_loadu_si128((const __m128i *)table);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), q);
}

/* Flushes, and writes each tile's 8 rows of the first n tiles. */
ALWAYS_INLINE void store_rows(floats acc, float *const y[TILES], size_t n) {
    (void)n; /* at least 1 */
    v8_store(y[0], v8_flush(acc));
}

#endif
