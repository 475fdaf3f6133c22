/* SPDX-License-Identifier: MIT
 * embed - one row of a matrix as floats, in plain C.
 *
 *   out[k] = flush(scale * flush(d * q[k] + m))        d * q and its sum with m rounded once
 *   out[k] = flush(scale * w[k])                       weights that are floats
 */
#include "tiles.h"

static inline __attribute__((always_inline)) void embed(nyb_tile_format f,
                                                        const nyb_embed_args *a) {
    const int r = (int)(a->row % NYB_TILE_ROWS);
    const size_t tiles = a->n_blocks / (size_t)f.blocks;
    const uint8_t *w = a->w + a->row / NYB_TILE_ROWS * tiles * nyb_tile_bytes(f);
    float *out = a->out;
    for (size_t t = 0; t < tiles; t++, w += nyb_tile_bytes(f))
        for (int i = 0; i < f.blocks; i++, out += NYB_BLOCK) {
            float d, m;
            int16_t q[NYB_BLOCK];
            nyb_unpack_scales(f, w, i, r, &d, &m);
            nyb_unpack_row(f, w, i, r, q);
            for (size_t k = 0; k < NYB_BLOCK; k++)
                out[k] = nyb_flush(a->scale * nyb_flush(fmaf(d, (float)q[k], m)));
        }
}

#define NYB_ROW(op, lower, UPPER, level, needs, panel_bytes)                                       \
    void nyb_##op##_##lower##_##level(const nyb_##op##_args *a) { op(NYB_TILE_##UPPER, a); }
NYB_QUANTIZED_ROWS(embed, ref, 0, 0)
#undef NYB_ROW

static inline __attribute__((always_inline)) void embed_floats(nyb_format format,
                                                               const nyb_embed_args *a) {
    const size_t n_cols = a->n_blocks * NYB_BLOCK, bytes = format == NYB_F32 ? 4 : 2;
    const uint8_t *tiles = a->w + a->row / NYB_TILE_ROWS * NYB_TILE_ROWS * n_cols * bytes;
    const uint8_t *w = tiles + a->row % NYB_TILE_ROWS * bytes;
    for (size_t k = 0; k < n_cols; k++, w += NYB_TILE_ROWS * bytes) {
        uint32_t bits = 0; /* a bfloat16 is the upper half of a float */
        memcpy((uint8_t *)&bits + (format == NYB_BF16 ? 2 : 0), w, bytes);
        const float value =
            format == NYB_F16 ? nyb_float_of_half((uint16_t)bits) : nyb_float_of_bits(bits);
        a->out[k] = nyb_flush(a->scale * value);
    }
}

#define NYB_ROW(op, lower, UPPER, level, needs, panel_bytes)                                       \
    void nyb_##op##_##lower##_##level(const nyb_##op##_args *a) { op##_floats(NYB_##UPPER, a); }
NYB_FLOAT_MATRIX_ROWS(embed, ref, 0)
