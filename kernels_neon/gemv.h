/* SPDX-License-Identifier: MIT
 * gemv, gemv16 - one token times a quantized matrix.
 *
 *   y[n] = sum_k w[n][k] * x[k]        w: packed tiles, x: int8 or int16 blocks, y: f32
 *
 * Two tile rows at once, half a call apart or of two matrices, share what is done to activations
 * and hide each other's latency on cores that run in order. A level includes its dot_*.h first.
 */
#include "tiles.h"

enum { STREAMS = 2 };

/* 256 * high + low, exact before it is rounded to float once. */
ALWAYS_INLINE nyb_v8 joined_planes(format f, ints high, ints low) {
    if (is_scaled(f)) /* of up to 33 bits, but both are below 2^24 */
        return v8_fma(to_floats(high), v8_set(256), to_floats(low));
    const ints sum = {vaddq_s32(vshlq_n_s32(high.lo, 8), low.lo),
                      vaddq_s32(vshlq_n_s32(high.hi, 8), low.hi)};
    return to_floats(sum);
}

/* A tile row's place, and what it has of its 8 sums. */
typedef struct stream {
    const uint8_t *p;
    tile_scales scales;
    nyb_v8 acc;
} stream;

/* Groups g and 4 + g of the tiles times 8 columns of one plane of activations, or of two. */
ALWAYS_INLINE void add_groups(format f, const stream streams[STREAMS], int g, const int8_t *a,
                              dots sums[STREAMS], const int8_t *b, dots more[STREAMS]) {
    for (int r = 0; r < STREAMS; r++) {
        bytes w[2];
        load_weights(f, streams[r].p, g, w);
        dot_add(f, &sums[r], g, w, a);
        if (more)
            dot_add(f, &more[r], g, w, b);
    }
}

/* A call for each group, because compilers may not unroll a loop as large. */
ALWAYS_INLINE void add_products(format f, const stream streams[STREAMS], const int8_t *a,
                                dots sums[STREAMS], const int8_t *b, dots more[STREAMS]) {
    add_groups(f, streams, 0, a, sums, b, more);
    add_groups(f, streams, 1, a, sums, b, more);
    add_groups(f, streams, 2, a, sums, b, more);
    add_groups(f, streams, 3, a, sums, b, more);
}

/* Block i of the tiles times a block of x. */
ALWAYS_INLINE void add_block8(format f, stream streams[STREAMS], int i, const nyb_q8 *x) {
    dots sums[STREAMS];
    for (int r = 0; r < STREAMS; r++)
        sums[r] = dot_begin(f, x->half_sum, x->sum);
    add_products(f, streams, x->q, sums, NULL, NULL);
    for (int r = 0; r < STREAMS; r++) {
        stream *s = &streams[r];
        ints scale[2];
        nyb_v8 d, m;
        load_scales(f, &s->scales, i, &d, &m);
        if (is_scaled(f))
            load_scales16(s->p, scale);
        const ints isum = dot_end(f, &sums[r], scale);
        s->acc = add_scaled(f, s->acc, v8_mul(to_floats(isum), d), m, vld1_f32(&x->d));
    }
}

ALWAYS_INLINE void add_block16(format f, stream streams[STREAMS], int i, const nyb_q16 *x) {
    dots high[STREAMS], low[STREAMS];
    for (int r = 0; r < STREAMS; r++) {
        high[r] = dot_begin(f, x->half_sum[0], 0);
        low[r] = dot_begin(f, x->half_sum[1], x->sum);
    }
    add_products(f, streams, x->hi, high, x->lo, low);
    for (int r = 0; r < STREAMS; r++) {
        stream *s = &streams[r];
        ints scale[2];
        nyb_v8 d, m;
        load_scales(f, &s->scales, i, &d, &m);
        if (is_scaled(f))
            load_scales16(s->p, scale);
        const ints isum_high = dot_end(f, &high[r], scale);
        const ints isum_low = dot_end(f, &low[r], scale);
        const nyb_v8 isum = joined_planes(f, isum_high, isum_low);
        s->acc = add_scaled(f, s->acc, v8_mul(isum, d), m, vld1_f32(&x->d));
    }
}

/* x has blocks of `bits`, a constant: nyb_q8 or nyb_q16. The second stream and its results are
 * `beside`, or NULL: of an odd number of tile rows the middle one is in both then. */
ALWAYS_INLINE void multiply(format f, int bits, size_t n_tiles, size_t n_blocks, const uint8_t *w,
                            const void *x, float *y, const uint8_t *w_beside, float *y_beside) {
    const size_t row_bytes = n_blocks / (size_t)f.blocks * nyb_tile_bytes(f);
    const size_t pairs = (n_tiles + 1) / 2, far = n_tiles - pairs;
    stream streams[STREAMS] = {{.p = w}, {.p = w_beside ? w_beside : w + far * row_bytes}};
    float *const y_far = w_beside ? y_beside : y + far * NYB_TILE_ROWS;
    for (size_t n = 0; n < pairs; n++) {
        for (int r = 0; r < STREAMS; r++)
            streams[r].acc = v8_set(0);
        for (size_t b = 0; b < n_blocks;) {
            for (int r = 0; r < STREAMS; r++) {
                load_tile_scales(f, streams[r].p, &streams[r].scales);
                streams[r].p += f.scales_bytes;
            }
            for (int i = 0; i < f.blocks; i++, b++) {
                if (bits == 16)
                    add_block16(f, streams, i, (const nyb_q16 *)x + b);
                else
                    add_block8(f, streams, i, (const nyb_q8 *)x + b);
                for (int r = 0; r < STREAMS; r++)
                    streams[r].p += f.block_bytes;
            }
        }
        v8_store(y + n * NYB_TILE_ROWS, v8_flush(streams[0].acc));
        v8_store(y_far + n * NYB_TILE_ROWS, v8_flush(streams[1].acc));
    }
}

ALWAYS_INLINE void gemv(format f, const nyb_gemv_args *a) {
    multiply(f, 8, a->n_tiles, a->n_blocks, a->w, a->x, a->y, a->w_beside, a->y_beside);
}

ALWAYS_INLINE void gemv16(format f, const nyb_gemv16_args *a) {
    multiply(f, 16, a->n_tiles, a->n_blocks, a->w, a->x, a->y, NULL, NULL);
}
