/* SPDX-License-Identifier: MIT
 * gemv, gemv16 - one token times a quantized matrix.
 *
 *   y[n] = sum_k w[n][k] * x[k]        w: packed tiles, x: int8 or int16 blocks, y: f32
 *
 * Memory is the limit, so what matters is how it is read: two tile rows at once, half a call
 * apart, or of another matrix, as two forward streams (docs/experiments.md has the figures).
 */
#include "tiles.h"

enum { LINE_BYTES = 64, LINES_AHEAD = 8, STREAMS = 2 };
enum { REGISTERS = STREAMS / TILES }; /* that a group of 4 columns of both takes */

/* Called for each step of a stream: prefetches the lines of one a little ahead. Two streams of
 * eight lines are what a Zen 4's L1 can wait for, the only one that was timed; more stand in the
 * way of the reads at hand, and hardware alone sees too late where a 4 KB page begins. Beyond the
 * weights it does no harm. */
ALWAYS_INLINE void follow(const uint8_t *p, size_t step_bytes) {
    for (size_t i = 0; i < step_bytes; i += LINE_BYTES)
        _mm_prefetch((const char *)p + LINES_AHEAD * LINE_BYTES + i, _MM_HINT_T0);
}

ALWAYS_INLINE floats isum8(format f, const ints w[8], const nyb_q8 *x, ints pairs) {
    ints scale[2];
    dot_scales(pairs, scale);
    const ints beside = addend(f, pairs, x->half_sum, x->sum);
    return V(cvtepi32_ps)(dot_block(dot_bits(f), is_scaled(f), w, x->q, scale, beside));
}

/* 256 * (w . hi) + (w . lo), exact, so that it is rounded to float once. */
ALWAYS_INLINE floats isum16(format f, const ints w[8], const nyb_q16 *x, ints pairs) {
    const int bits = dot_bits(f), scaled = is_scaled(f);
    ints scale[2], beside_high = VI(setzero)();
    dot_scales(pairs, scale);
    if (scaled)
        beside_high = addend(f, pairs, x->half_sum[0], 0);
    const ints high = dot_block(bits, scaled, w, x->hi, scale, beside_high);
    const ints beside_low = addend(f, pairs, x->half_sum[1], x->sum);
    const ints low = dot_block(bits, scaled, w, x->lo, scale, beside_low);
    if (!scaled)
        return V(cvtepi32_ps)(V(add_epi32)(V(slli_epi32)(high, 8), low));
    /* of up to 33 bits, but both are below 2^24 */
    const floats high_float = V(cvtepi32_ps)(high), low_float = V(cvtepi32_ps)(low);
    return V(fmadd_ps)(high_float, V(set1_ps)(256), low_float);
}

/* Block i of the tiles whose scales these are, at p, times the b-th block of x. */
ALWAYS_INLINE floats add_block(format f, int bits, place p, const tile_scales *scales, int i,
                               const void *x, size_t b, floats acc) {
    const nyb_q8 *x8 = (const nyb_q8 *)x + b;
    const nyb_q16 *x16 = (const nyb_q16 *)x + b;
    ints w[8];
    floats d, m;
    load_weights(f, p, w);
    load_scales(f, scales, p, i, &d, &m);
    const floats isum = bits == 16 ? isum16(f, w, x16, as_ints(m)) : isum8(f, w, x8, as_ints(m));
    const float x_d = bits == 16 ? x16->d : x8->d, x_s = bits == 16 ? x16->s : x8->s;
    acc = V(fmadd_ps)(V(mul_ps)(isum, d), V(set1_ps)(x_d), acc);
    return nyb_has_min(f) ? V(fmadd_ps)(m, V(set1_ps)(x_s), acc) : acc;
}

/* Register r's places in the streams. */
ALWAYS_INLINE place in_streams(const uint8_t *const stream[STREAMS], int r) {
    place p;
    for (int t = 0; t < TILES; t++)
        p.in[t] = stream[r * TILES + t];
    return p;
}

ALWAYS_INLINE void advance(const uint8_t *stream[STREAMS], size_t bytes) {
    for (int s = 0; s < STREAMS; s++, stream++) {
        follow(*stream, bytes);
        *stream += bytes;
    }
}

/* x has blocks of `bits`, a constant: nyb_q8 or nyb_q16. The second stream and its results are
 * `beside`, or NULL: of an odd number of tile rows the middle one is in both then. */
ALWAYS_INLINE void multiply(format f, int bits, size_t n_tiles, size_t n_blocks, const uint8_t *w,
                            const void *x, float *y, const uint8_t *w_beside, float *y_beside) {
    const size_t row_bytes = n_blocks / (size_t)f.blocks * nyb_tile_bytes(f);
    const size_t pairs = (n_tiles + 1) / 2, far = n_tiles - pairs;
    const uint8_t *stream[STREAMS] = {w, w_beside ? w_beside : w + far * row_bytes};
    float *const y_far = w_beside ? y_beside : y + far * NYB_TILE_ROWS;
    for (size_t n = 0; n < pairs; n++) {
        floats acc[REGISTERS];
        for (int r = 0; r < REGISTERS; r++)
            acc[r] = V(setzero_ps)();
        for (size_t b = 0; b < n_blocks;) {
            tile_scales scales[REGISTERS];
            for (int r = 0; r < REGISTERS; r++)
                load_tile_scales(f, in_streams(stream, r), &scales[r]);
            advance(stream, f.scales_bytes);
            for (int i = 0; i < f.blocks; i++, b++) {
                for (int r = 0; r < REGISTERS; r++)
                    acc[r] = add_block(f, bits, in_streams(stream, r), &scales[r], i, x, b, acc[r]);
                advance(stream, f.block_bytes);
            }
        }
        float *rows[STREAMS] = {y + n * NYB_TILE_ROWS, y_far + n * NYB_TILE_ROWS};
        for (int r = 0; r < REGISTERS; r++)
            store_rows(acc[r], rows + r * TILES, TILES);
    }
}

ALWAYS_INLINE void gemv(format f, const nyb_gemv_args *a) {
    multiply(f, 8, a->n_tiles, a->n_blocks, a->w, a->x, a->y, a->w_beside, a->y_beside);
}

ALWAYS_INLINE void gemv16(format f, const nyb_gemv16_args *a) {
    multiply(f, 16, a->n_tiles, a->n_blocks, a->w, a->x, a->y, NULL, NULL);
}
