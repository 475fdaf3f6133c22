/* SPDX-License-Identifier: MIT
 * embed - one row of a quantized matrix as floats, in plain C.
 *
 *   out[k] = flush(scale * (d * q[k] + m))        d * q and its sum with m rounded once
 */
#include "tiles.h"

typedef void unpack_fn(const uint8_t *tile, nyb_plain_tile *out);

static inline __attribute__((always_inline)) void embed(const nyb_embed_args *a, unpack_fn *unpack,
                                                        size_t tile_bytes) {
    const size_t r = a->row % NYB_TILE_ROWS;
    const uint8_t *w = a->w + a->row / NYB_TILE_ROWS * a->n_blocks * tile_bytes;
    for (size_t b = 0; b < a->n_blocks; b++, w += tile_bytes) {
        nyb_plain_tile tile;
        unpack(w, &tile);
        for (size_t k = 0; k < NYB_BLOCK; k++) {
            const float value = fmaf(tile.d[r], (float)tile.q[r][k], tile.m[r]);
            a->out[b * NYB_BLOCK + k] = nyb_flush(a->scale * nyb_flush(value));
        }
    }
}

void nyb_embed_q4_0_ref(const nyb_embed_args *a) { embed(a, nyb_unpack_q4_0, NYB_TILE_Q4_0); }
void nyb_embed_q4_1_ref(const nyb_embed_args *a) { embed(a, nyb_unpack_q4_1, NYB_TILE_Q4_1); }
void nyb_embed_q8_0_ref(const nyb_embed_args *a) { embed(a, nyb_unpack_q8_0, NYB_TILE_Q8_0); }
