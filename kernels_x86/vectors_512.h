/* SPDX-License-Identifier: MIT
 * AVX-512 registers for the loops over tiles: a register holds 8 rows of each of two tiles side by
 * side, a row to a 32-bit lane. What each is for: vectors_256.h.
 */
#ifndef NYB_VECTORS_H
#define NYB_VECTORS_H

#include <string.h>

#include "lanes.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#define V(name)  _mm512_##name
#define VI(name) _mm512_##name##_si512

enum { TILES = 2 };

typedef __m512i ints;
typedef __m512 floats;

typedef struct place {
    const uint8_t *in[TILES];
} place;

ALWAYS_INLINE floats as_floats(ints x) { return _mm512_castsi512_ps(x); }
ALWAYS_INLINE ints as_ints(floats x) { return _mm512_castps_si512(x); }

ALWAYS_INLINE place ahead(place p, size_t bytes) {
    return (place){{p.in[0] + bytes, p.in[1] + bytes}};
}

ALWAYS_INLINE ints load_bytes(place p) {
    const __m256i low = _mm256_loadu_si256((const __m256i *)p.in[0]);
    const __m256i high = _mm256_loadu_si256((const __m256i *)p.in[1]);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* 16 bytes of each tile. */
ALWAYS_INLINE __m256i load_halves_of(place p) {
    const __m128i low = _mm_loadu_si128((const __m128i *)p.in[0]);
    const __m128i high = _mm_loadu_si128((const __m128i *)p.in[1]);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

ALWAYS_INLINE floats load_halves(place p) { return _mm512_cvtph_ps(load_halves_of(p)); }

ALWAYS_INLINE ints load_eight(place p) {
    const __m128i low = _mm_loadl_epi64((const __m128i *)p.in[0]);
    const __m128i high = _mm_loadl_epi64((const __m128i *)p.in[1]);
    return _mm512_cvtepu8_epi32(_mm_unpacklo_epi64(low, high));
}

ALWAYS_INLINE ints load_sixteen(place p) { return _mm512_cvtepi8_epi16(load_halves_of(p)); }

ALWAYS_INLINE ints four(const void *p) {
    int32_t x;
    memcpy(&x, p, sizeof x);
    return V(set1_epi32)(x);
}

ALWAYS_INLINE ints looked_up(const int8_t table[16], ints q) {
    const __m128i values = _mm_loadu_si128((const __m128i *)table);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), q);
}

ALWAYS_INLINE void store_rows(floats acc, float *const y[TILES], size_t n) {
    v8_store(y[0], v8_flush(_mm512_castps512_ps256(acc)));
    if (n > 1)
        v8_store(y[1], v8_flush(_mm512_extractf32x8_ps(acc, 1)));
}

#endif
