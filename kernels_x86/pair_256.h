/* SPDX-License-Identifier: MIT
 * Two tile rows at once for gemv.h, each in its own 256-bit registers.
 */
#include "tiles.h"

typedef struct pair {
    __m256 near, far;
} pair;

ALWAYS_INLINE pair pair_zero(void) { return (pair){_mm256_setzero_ps(), _mm256_setzero_ps()}; }

ALWAYS_INLINE __m256 add_sum(format f, const uint8_t *tile, __m256i sum, float d, float s,
                             __m256 acc) {
    const __m256 t = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), v8_load_half((const uint16_t *)tile));
    acc = _mm256_fmadd_ps(t, _mm256_set1_ps(d), acc);
    if (f.has_min)
        acc = _mm256_fmadd_ps(v8_load_half((const uint16_t *)(tile + 16)), _mm256_set1_ps(s), acc);
    return acc;
}

ALWAYS_INLINE __m256 add_tile(format f, const uint8_t *tile, const nyb_q8 *x, __m256 acc) {
    __m256i w[8];
    load_weights(f, tile, w);
    return add_sum(f, tile, dot_tile(f, w, x->q, f.offset * x->sum), x->d, x->s, acc);
}

/* 256 * (w . hi) + (w . lo), exact, so that it is rounded to float once. */
ALWAYS_INLINE __m256 add_tile16(format f, const uint8_t *tile, const nyb_q16 *x, __m256 acc) {
    __m256i w[8];
    load_weights(f, tile, w);
    const __m256i high = dot_tile(f, w, x->hi, 0), low = dot_tile(f, w, x->lo, f.offset * x->sum);
    const __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(high, 8), low);
    return add_sum(f, tile, sum, x->d, x->s, acc);
}

ALWAYS_INLINE pair pair_add(format f, const uint8_t *near, const uint8_t *far, const nyb_q8 *x,
                            pair acc) {
    return (pair){add_tile(f, near, x, acc.near), add_tile(f, far, x, acc.far)};
}

ALWAYS_INLINE pair pair_add16(format f, const uint8_t *near, const uint8_t *far, const nyb_q16 *x,
                              pair acc) {
    return (pair){add_tile16(f, near, x, acc.near), add_tile16(f, far, x, acc.far)};
}

ALWAYS_INLINE void pair_store(pair acc, float *near, float *far) {
    v8_store(near, v8_flush(acc.near));
    v8_store(far, v8_flush(acc.far));
}
