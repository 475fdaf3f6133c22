/* SPDX-License-Identifier: MIT
 * gemv, gemv16 - one token times a quantized matrix.
 *
 *   y[n] = sum_k w[n][k] * x[k]        w: packed tiles, x: int8 or int16 blocks, y: f32
 *
 * Memory is the limit, so what matters is how it is read: two tile rows at once, and lines
 * are prefetched before. Which two is chosen by trying (docs/experiments.md has the figures):
 *
 *   halves       half a call apart: two long streams, each prefetched a little ahead
 *   neighbours   side by side, so that a call is one stream, prefetched far ahead
 *
 * Where a stream begins the hardware needs a microsecond until it follows, unless what is
 * prefetched lies further on already. But that crosses pages, which small ones make dear; and both
 * rows have to stay in L1 with what is fetched ahead, so of wide rows the halves are read in any
 * case.
 */
#include "tiles.h"

enum { LINE_BYTES = 64, STREAMS = 2 };
enum { REGISTERS = STREAMS / TILES }; /* that a group of 4 columns of both takes */

/* The figures of a Zen 4, the only one that was timed. Two streams of eight lines are what its L1
 * can wait for; more stand in the way of the reads at hand. */
enum { NARROW_ROW_BYTES = 4608, AHEAD_OF_ONE = 4096, AHEAD_OF_EACH = 8 * LINE_BYTES };

/* Where a matrix is being read, and where it is prefetched. */
typedef struct reading {
    const uint8_t *stream[STREAMS]; /* in the two rows */
    const uint8_t *fetched;         /* up to here, of one stream or of the first */
    size_t apart; /* bytes from what is fetched of the first to that of the second;
                     0 of one */
} reading;

/* Beyond the weights it does no harm. */
ALWAYS_INLINE void fetch(const uint8_t *p, size_t bytes) {
    for (size_t i = 0; i < bytes; i += LINE_BYTES)
        _mm_prefetch((const char *)p + i, _MM_HINT_T0);
}

/* Goes on by so many bytes in both rows, and fetches as many. */
ALWAYS_INLINE void advance(reading *r, size_t bytes) {
    fetch(r->fetched, bytes);
    fetch(r->fetched + (r->apart ? r->apart : bytes), bytes);
    r->fetched += r->apart ? bytes : STREAMS * bytes;
    for (int s = 0; s < STREAMS; s++)
        r->stream[s] += bytes;
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

/* x has blocks of `bits`, a constant: nyb_q8 or nyb_q16. Of an odd number of tile rows one is read
 * twice at once: the middle one, or the last. */
ALWAYS_INLINE void multiply(format f, int bits, size_t n_tiles, size_t n_blocks, const uint8_t *w,
                            const void *x, float *y, uint32_t pairing) {
    const size_t row_bytes = n_blocks / (size_t)f.blocks * nyb_tile_bytes(f);
    const size_t pairs = (n_tiles + 1) / 2;
    const int is_one = pairing == NYB_PAIR_NEIGHBOURS && row_bytes <= NARROW_ROW_BYTES;
    const size_t far = is_one ? 1 : n_tiles - pairs; /* tile rows from a pair's first to its last */
    reading r;
    r.fetched = w + (is_one ? row_bytes + AHEAD_OF_ONE : AHEAD_OF_EACH);
    r.apart = is_one ? 0 : far * row_bytes;
    for (size_t n = 0; n < pairs; n++) {
        const size_t first = is_one ? 2 * n : n;
        const size_t last = first + far < n_tiles ? first + far : first;
        r.stream[0] = w + first * row_bytes;
        r.stream[1] = w + last * row_bytes;
        floats acc[REGISTERS];
        for (int i = 0; i < REGISTERS; i++)
            acc[i] = V(setzero_ps)();
        for (size_t b = 0; b < n_blocks;) {
            tile_scales scales[REGISTERS];
            for (int i = 0; i < REGISTERS; i++)
                load_tile_scales(f, in_streams(r.stream, i), &scales[i]);
            advance(&r, f.scales_bytes);
            for (int k = 0; k < f.blocks; k++, b++) {
                for (int i = 0; i < REGISTERS; i++)
                    acc[i] =
                        add_block(f, bits, in_streams(r.stream, i), &scales[i], k, x, b, acc[i]);
                advance(&r, f.block_bytes);
            }
        }
        float *rows[STREAMS] = {y + first * NYB_TILE_ROWS, y + last * NYB_TILE_ROWS};
        for (int i = 0; i < REGISTERS; i++)
            store_rows(acc[i], rows + i * TILES, TILES);
    }
}

ALWAYS_INLINE void gemv(format f, const nyb_gemv_args *a) {
    multiply(f, 8, a->n_tiles, a->n_blocks, a->w, a->x, a->y, a->pairing);
}

ALWAYS_INLINE void gemv16(format f, const nyb_gemv16_args *a) {
    multiply(f, 16, a->n_tiles, a->n_blocks, a->w, a->x, a->y, a->pairing);
}
