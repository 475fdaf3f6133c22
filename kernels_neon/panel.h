/* SPDX-License-Identifier: MIT
 * gemm's panel: a tile row, unpacked, that stays near the core while it meets tokens. In it weights
 * are signed, their bias taken off, and scales are floats.
 *
 * A level defines, before it includes this, put_block: writes a block's weights, which lie in a
 * tile, and its scales in the order in which its loop reads them, and moves on behind them.
 */
ALWAYS_INLINE void unpack_block(format f, const tile_scales *scales, const uint8_t *p, int i,
                                void **panel) {
    ints scale[2];
    nyb_v8 d, m;
    load_scales(f, scales, i, &d, &m);
    if (is_scaled(f))
        load_scales16(p, scale);
    put_block(f, panel, p, d, m, scale);
}

ALWAYS_INLINE void unpack_row(format f, const uint8_t *p, size_t n_blocks, void *panel) {
    for (size_t b = 0; b < n_blocks;) {
        tile_scales scales;
        load_tile_scales(f, p, &scales);
        p += f.scales_bytes;
        for (int i = 0; i < f.blocks; i++, b++, p += f.block_bytes)
            unpack_block(f, &scales, p, i, &panel);
    }
}
