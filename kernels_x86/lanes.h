/* SPDX-License-Identifier: MIT
 * Eight floats side by side in one AVX register (AVX2, FMA, F16C). What each does, and why just
 * so, is told in kernels_ref/lanes.h.
 */
#ifndef NYB_LANES_H
#define NYB_LANES_H

#include <immintrin.h>
#include <math.h>

#include "nyb_kernels.h"

typedef __m256 nyb_v8;

static inline nyb_v8 v8_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void v8_store(float *p, nyb_v8 a) { _mm256_storeu_ps(p, a); }
static inline nyb_v8 v8_set(float x) { return _mm256_set1_ps(x); }
static inline nyb_v8 v8_add(nyb_v8 a, nyb_v8 b) { return _mm256_add_ps(a, b); }
static inline nyb_v8 v8_sub(nyb_v8 a, nyb_v8 b) { return _mm256_sub_ps(a, b); }
static inline nyb_v8 v8_mul(nyb_v8 a, nyb_v8 b) { return _mm256_mul_ps(a, b); }
static inline nyb_v8 v8_div(nyb_v8 a, nyb_v8 b) { return _mm256_div_ps(a, b); }
static inline nyb_v8 v8_fma(nyb_v8 a, nyb_v8 b, nyb_v8 c) { return _mm256_fmadd_ps(a, b, c); }

/* MAXPS is a > b ? a : b, NaN and zeros included. */
static inline nyb_v8 v8_max(nyb_v8 a, nyb_v8 b) { return _mm256_max_ps(a, b); }

static inline nyb_v8 v8_abs(nyb_v8 a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }

static inline nyb_v8 v8_select_less(nyb_v8 a, nyb_v8 b, nyb_v8 x, nyb_v8 y) {
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}

static inline nyb_v8 v8_flush(nyb_v8 a) {
    return v8_select_less(v8_abs(a), v8_set(NYB_TINY), v8_set(0), a);
}

static inline nyb_v8 v8_keep(nyb_v8 a, int first, int end, float other) {
    const __m256i i = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i from = _mm256_cmpgt_epi32(i, _mm256_set1_epi32(first - 1));
    const __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32(end), i);
    const __m256 inside = _mm256_castsi256_ps(_mm256_and_si256(from, before));
    return _mm256_blendv_ps(_mm256_set1_ps(other), a, inside);
}

static inline nyb_v8 v8_scale(nyb_v8 a, nyb_v8 n_bits) {
    const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(n_bits), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), n));
}

static inline nyb_v8 v8_load_half(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

static inline nyb_v8 v8_load_bf16(const uint16_t *p) {
    const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}

/* MINPS is a < b ? a : b: with the limit first, a NaN passes both. */
static inline void v8_store_half(uint16_t *p, nyb_v8 a) {
    a = _mm256_min_ps(_mm256_set1_ps(65504.0f), a);
    a = _mm256_max_ps(_mm256_set1_ps(-65504.0f), a);
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

static inline nyb_v8 v8_load_bytes(const int8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

static inline nyb_v8 v8_load_int(const int32_t *p) {
    return _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)p));
}

static inline void v8_store_int(int32_t *p, nyb_v8 a) {
    _mm256_storeu_si256((__m256i *)p, _mm256_cvtps_epi32(a));
}

static inline void v8_store_bytes(int8_t *p, const nyb_v8 x[4], int16_t sum[2]) {
    const __m256i a = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
    const __m256i b = _mm256_packs_epi32(_mm256_cvtps_epi32(x[2]), _mm256_cvtps_epi32(x[3]));
    /* packing works in each half of a register: the dwords come as 0 2 4 6 1 3 5 7 */
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order);
    _mm256_storeu_si256((__m256i *)p, bytes);
    /* bytes + 128 are unsigned, which PSADBW sums, eight to a 64-bit lane; 16 * 128 too many */
    const __m256i shifted = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
    const __m256i eights = _mm256_sad_epu8(shifted, _mm256_setzero_si256());
    const __m256i halves = _mm256_add_epi32(eights, _mm256_unpackhi_epi64(eights, eights));
    sum[0] = (int16_t)(_mm256_cvtsi256_si32(halves) - 2048);
    sum[1] = (int16_t)(_mm_cvtsi128_si32(_mm256_extracti128_si256(halves, 1)) - 2048);
}

static inline float v8_sum(nyb_v8 a) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float v8_largest(nyb_v8 a) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

static inline float v8_sqrt1(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

static inline float v8_fma1(float a, float b, float c) {
    return _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)));
}

#endif
