/* SPDX-License-Identifier: MIT
 * gemv, gemv16 - one token times a quantized matrix, 256 bits at a time.
 *
 *   y[n] = sum_k w[n][k] * x[k]        w: packed tiles, x: int8 or int16 blocks, y: f32
 *
 * Memory is the limit: tiles are read as one forward stream, prefetched PREFETCH bytes ahead,
 * and where the stream ends, on at `next`. A prefetch outside the weights does no harm.
 */
#include "tiles.h"

/* Into the second cache: on a Zen 4, prefetching 8 to 16 KB ahead into the first one decoded 6 to
 * 20 % slower, and no prefetch at all as fast as this at one thread. */
enum { PREFETCH = 8 * 1024 };

ALWAYS_INLINE void prefetch_tile(const uint8_t *p, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)p + i, _MM_HINT_T1);
}

/* Where to prefetch while a tile row at w is read, of weights that end at `end`. */
ALWAYS_INLINE const uint8_t *ahead_of(const uint8_t *w, const uint8_t *end, const uint8_t *next) {
    const size_t left = (size_t)(end - w);
    return left > PREFETCH || !next ? w + PREFETCH : next + (PREFETCH - left);
}

ALWAYS_INLINE __m256 add_block(format f, const uint8_t *tile, __m256i dot, float d, float s,
                               __m256 acc) {
    const __m256 t = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), v8_load_half((const uint16_t *)tile));
    acc = _mm256_fmadd_ps(t, _mm256_set1_ps(d), acc);
    if (f.has_min)
        acc = _mm256_fmadd_ps(v8_load_half((const uint16_t *)(tile + 16)), _mm256_set1_ps(s), acc);
    return acc;
}

ALWAYS_INLINE void gemv(format f, const nyb_gemv_args *a) {
    const uint8_t *w = a->w, *end = w + a->n_tiles * a->n_blocks * f.tile_bytes;
    for (size_t n = 0; n < a->n_tiles; n++) {
        const uint8_t *ahead = ahead_of(w, end, a->next);
        __m256 acc = _mm256_setzero_ps();
        for (size_t b = 0; b < a->n_blocks; b++, w += f.tile_bytes, ahead += f.tile_bytes) {
            const nyb_q8 *x = &a->x[b];
            __m256i weights[8];
            prefetch_tile(ahead, f.tile_bytes);
            load_weights(f, w, weights);
            acc = add_block(f, w, dot_tile(f, weights, x->q, f.offset * x->sum), x->d, x->s, acc);
        }
        v8_store(a->y + n * NYB_TILE_ROWS, v8_flush(acc));
    }
}

/* 256 * (w . hi) + (w . lo), exact, so that it is rounded to float once. */
ALWAYS_INLINE void gemv16(format f, const nyb_gemv16_args *a) {
    const uint8_t *w = a->w, *end = w + a->n_tiles * a->n_blocks * f.tile_bytes;
    for (size_t n = 0; n < a->n_tiles; n++) {
        const uint8_t *ahead = ahead_of(w, end, a->next);
        __m256 acc = _mm256_setzero_ps();
        for (size_t b = 0; b < a->n_blocks; b++, w += f.tile_bytes, ahead += f.tile_bytes) {
            const nyb_q16 *x = &a->x[b];
            __m256i weights[8];
            prefetch_tile(ahead, f.tile_bytes);
            load_weights(f, w, weights);
            const __m256i high = dot_tile(f, weights, x->hi, 0);
            const __m256i low = dot_tile(f, weights, x->lo, f.offset * x->sum);
            const __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(high, 8), low);
            acc = add_block(f, w, sum, x->d, x->s, acc);
        }
        v8_store(a->y + n * NYB_TILE_ROWS, v8_flush(acc));
    }
}
