/* SPDX-License-Identifier: MIT
 * gemv, gemv16 - one token times a quantized matrix.
 *
 *   y[n] = sum_k w[n][k] * x[k]        w: packed tiles, x: int8 or int16 blocks, y: f32
 *
 * Memory is the limit, so what matters is how it is read: two tile rows at once, half a matrix
 * apart, as two forward streams (docs/experiments.md has the figures). A level includes
 * pair_256.h or pair_512.h first: what is done with a tile of each.
 */
enum { PAGE_BYTES = 4096, LINE_BYTES = 64, LINES_AHEAD = 4 };

/* Called for each step of a stream. Hardware follows a stream to the end of its 4 KB page and
 * begins anew in the next, so once in a page the first lines of the page to come are prefetched.
 * Prefetching more is slower; beyond the weights it does no harm. */
ALWAYS_INLINE void follow(const uint8_t *p, size_t step_bytes) {
    const size_t in_page = (uintptr_t)p % PAGE_BYTES;
    if (in_page < step_bytes)
        for (int i = 0; i < LINES_AHEAD; i++)
            _mm_prefetch((const char *)p - in_page + PAGE_BYTES + i * LINE_BYTES, _MM_HINT_T0);
}

/* One of x8 and x16 is NULL, a constant. Of an odd number of tile rows the middle one is in both
 * streams. */
ALWAYS_INLINE void multiply(format f, size_t n_tiles, size_t n_blocks, const uint8_t *w,
                            const nyb_q8 *x8, const nyb_q16 *x16, float *y) {
    const size_t pairs = (n_tiles + 1) / 2, far = n_tiles - pairs;
    const uint8_t *near_tile = w, *far_tile = w + far * n_blocks * f.tile_bytes;
    for (size_t n = 0; n < pairs; n++) {
        pair acc = pair_zero();
        for (size_t b = 0; b < n_blocks; b++) {
            follow(near_tile, f.tile_bytes);
            follow(far_tile, f.tile_bytes);
            acc = x16 ? pair_add16(f, near_tile, far_tile, &x16[b], acc)
                      : pair_add(f, near_tile, far_tile, &x8[b], acc);
            near_tile += f.tile_bytes;
            far_tile += f.tile_bytes;
        }
        pair_store(acc, y + n * NYB_TILE_ROWS, y + (far + n) * NYB_TILE_ROWS);
    }
}

ALWAYS_INLINE void gemv(format f, const nyb_gemv_args *a) {
    multiply(f, a->n_tiles, a->n_blocks, a->w, a->x, NULL, a->y);
}

ALWAYS_INLINE void gemv16(format f, const nyb_gemv16_args *a) {
    multiply(f, a->n_tiles, a->n_blocks, a->w, NULL, a->x, a->y);
}
