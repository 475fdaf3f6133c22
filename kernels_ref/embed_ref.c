/* SPDX-License-Identifier: MIT
 * embed - one row of a quantized matrix as floats, in plain C.
 *
 *   out[k] = flush(scale * flush(d * q[k] + m))        d * q and its sum with m rounded once
 */
#include "tiles.h"

static inline __attribute__((always_inline)) void embed(nyb_tile_format f,
                                                        const nyb_embed_args *a) {
    const size_t r = a->row % NYB_TILE_ROWS, tiles = a->n_blocks / (size_t)f.blocks;
    const uint8_t *w = a->w + a->row / NYB_TILE_ROWS * tiles * nyb_tile_bytes(f);
    float *out = a->out;
    for (size_t t = 0; t < tiles; t++, w += nyb_tile_bytes(f))
        for (int i = 0; i < f.blocks; i++, out += NYB_BLOCK) {
            nyb_plain_tile tile;
            nyb_unpack(f, w, i, &tile);
            for (size_t k = 0; k < NYB_BLOCK; k++) {
                const float value = fmaf(tile.d[r], (float)tile.q[r][k], tile.m[r]);
                out[k] = nyb_flush(a->scale * nyb_flush(value));
            }
        }
}

#define NYB_ROW(op, lower, UPPER, level, needs, panel_bytes)                                       \
    void nyb_##op##_##lower##_##level(const nyb_##op##_args *a) { op(NYB_TILE_##UPPER, a); }
NYB_QUANTIZED_ROWS(embed, ref, 0, 0)
