/* SPDX-License-Identifier: MIT
 * gemm - several tokens times a quantized matrix.
 *
 *   y[t][n] = sum_k w[n][k] * x[t][k]
 *
 * A tile row is unpacked once into a panel that stays near the core, then meets all tokens, TOKENS
 * at a time: the inner loop knows which scales a format has, and how large weights are if int16 is
 * what they are summed in, and no other detail. In the panel weights are signed, their bias taken
 * off.
 *
 * A level defines, before it includes this, TOKENS and
 *
 *   panel_block   a block of a tile row, unpacked
 *   put_block     writes one: weights of 8 groups, scales
 *   multiply      the panel times `tokens` tokens, a constant: stores 8 rows of each y
 */
ALWAYS_INLINE void unpack_block(format f, const tile_scales *scales, const uint8_t *p, int i,
                                panel_block *out) {
    const uint8x16_t bias = vdupq_n_u8((uint8_t)f.bias);
    bytes w[8];
    ints scale[2];
    nyb_v8 d, m;
    for (int g = 0; g < 4; g++) {
        bytes pair[2];
        load_weights(f, p, g, pair);
        for (int half = 0; half < 2; half++)
            w[4 * half + g] = (bytes){vsubq_u8(pair[half].lo, bias), vsubq_u8(pair[half].hi, bias)};
    }
    load_scales(f, scales, i, &d, &m);
    if (is_scaled(f))
        load_scales16(p, scale);
    put_block(f, out, w, d, m, scale);
}

ALWAYS_INLINE void unpack_row(format f, const uint8_t *p, size_t n_blocks, panel_block *panel) {
    for (size_t b = 0; b < n_blocks;) {
        tile_scales scales;
        load_tile_scales(f, p, &scales);
        p += f.scales_bytes;
        for (int i = 0; i < f.blocks; i++, b++, p += f.block_bytes)
            unpack_block(f, &scales, p, i, &panel[b]);
    }
}

ALWAYS_INLINE void gemm(format f, const nyb_gemm_args *a) {
    const size_t row_bytes = a->n_blocks / (size_t)f.blocks * nyb_tile_bytes(f);
    const size_t xs = a->x_stride, ys = a->y_stride;
    const panel_block *panel = a->panel;
    for (size_t n = 0; n < a->n_tiles; n++) {
        unpack_row(f, a->w + n * row_bytes, a->n_blocks, a->panel);
        const nyb_q8 *x = a->x;
        float *y = a->y + n * NYB_TILE_ROWS;
        size_t left = a->n_tokens;
        for (; left >= TOKENS; left -= TOKENS, x += TOKENS * xs, y += TOKENS * ys)
            multiply(f, TOKENS, panel, a->n_blocks, x, xs, y, ys);
        for (; left >= 2; left -= 2, x += 2 * xs, y += 2 * ys)
            multiply(f, 2, panel, a->n_blocks, x, xs, y, ys);
        if (left)
            multiply(f, 1, panel, a->n_blocks, x, xs, y, ys);
    }
}
