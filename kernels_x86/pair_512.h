/* SPDX-License-Identifier: MIT
 * Two tile rows at once for gemv.h, side by side in one 512-bit register.
 */
#include "tiles_512.h"

typedef __m512 pair;

ALWAYS_INLINE pair pair_zero(void) { return _mm512_setzero_ps(); }

/* Two chains of sums: VPDPBUSD takes four cycles, and a core does one or two in each. */
ALWAYS_INLINE __m512i dot(const __m512i w[8], const int8_t *a, int32_t addend) {
    __m512i even = _mm512_set1_epi32(addend), odd = _mm512_setzero_si512();
    for (int g = 0; g < 8; g += 2) {
        even = _mm512_dpbusd_epi32(even, w[g], four(a + 4 * g));
        odd = _mm512_dpbusd_epi32(odd, w[g + 1], four(a + 4 * g + 4));
    }
    return _mm512_add_epi32(even, odd);
}

ALWAYS_INLINE pair add_sum(format f, const uint8_t *near, const uint8_t *far, __m512i sum, float d,
                           float s, pair acc) {
    const __m512 t = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), halves_beside(near, far));
    acc = _mm512_fmadd_ps(t, _mm512_set1_ps(d), acc);
    if (f.has_min)
        acc = _mm512_fmadd_ps(halves_beside(near + 16, far + 16), _mm512_set1_ps(s), acc);
    return acc;
}

ALWAYS_INLINE pair pair_add(format f, const uint8_t *near, const uint8_t *far, const nyb_q8 *x,
                            pair acc) {
    __m512i w[8];
    load_weights(f, near, far, w);
    return add_sum(f, near, far, dot(w, x->q, f.offset * x->sum), x->d, x->s, acc);
}

/* 256 * (w . hi) + (w . lo), exact, so that it is rounded to float once. */
ALWAYS_INLINE pair pair_add16(format f, const uint8_t *near, const uint8_t *far, const nyb_q16 *x,
                              pair acc) {
    __m512i w[8];
    load_weights(f, near, far, w);
    const __m512i high = dot(w, x->hi, 0), low = dot(w, x->lo, f.offset * x->sum);
    const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
    return add_sum(f, near, far, sum, x->d, x->s, acc);
}

ALWAYS_INLINE void pair_store(pair acc, float *near, float *far) {
    acc = flush(acc);
    _mm256_storeu_ps(near, _mm512_castps512_ps256(acc));
    _mm256_storeu_ps(far, _mm512_extractf32x8_ps(acc, 1));
}
