/* SPDX-License-Identifier: MIT
 * Packing: GGUF rows to tiles, one tile row at a time. Lossless; docs/formats.md draws both.
 */
#include <string.h>

#include "half.h"
#include "nyb_kernels.h"

/* A binary16 whose exponent is all ones is an infinity or a NaN. */
static int is_finite_half(const uint8_t *p) { return (p[1] & 0x7c) != 0x7c; }

/* GGUF's Q4_0 block: d (binary16), then 16 bytes: byte j holds columns j and 16 + j. */
static size_t pack_q4_0(size_t n_blocks, const uint8_t *const rows[NYB_TILE_ROWS], uint8_t *dst) {
    enum { BLOCK_BYTES = 18 };
    /* 8 in a nibble is a weight of zero, but the scale of a row of padding is zero anyway */
    static const uint8_t zeros[BLOCK_BYTES];
    size_t bad = 0;
    for (size_t b = 0; b < n_blocks; b++, dst += NYB_TILE_Q4_0)
        for (size_t r = 0; r < NYB_TILE_ROWS; r++) {
            const uint8_t *src = rows[r] ? rows[r] + b * BLOCK_BYTES : zeros;
            if (!is_finite_half(src) && !bad)
                bad = 1 + 8 * b + r;
            memcpy(dst + 2 * r, src, 2);
            for (size_t g = 0; g < 4; g++)
                memcpy(dst + 16 + 32 * g + 4 * r, src + 2 + 4 * g, 4);
        }
    return bad;
}

/* GGUF's Q4_1 block: d, m (binary16), then 16 bytes: byte j holds columns j and 16 + j. */
static size_t pack_q4_1(size_t n_blocks, const uint8_t *const rows[NYB_TILE_ROWS], uint8_t *dst) {
    enum { BLOCK_BYTES = 20 };
    size_t bad = 0;
    for (size_t b = 0; b < n_blocks; b++, dst += NYB_TILE_Q4_1)
        for (size_t r = 0; r < NYB_TILE_ROWS; r++) {
            static const uint8_t zeros[BLOCK_BYTES];
            const uint8_t *src = rows[r] ? rows[r] + b * BLOCK_BYTES : zeros;
            if (!(is_finite_half(src) && is_finite_half(src + 2)) && !bad)
                bad = 1 + 8 * b + r;
            memcpy(dst + 2 * r, src, 2);
            memcpy(dst + 16 + 2 * r, src + 2, 2);
            for (size_t g = 0; g < 4; g++)
                memcpy(dst + 32 + 32 * g + 4 * r, src + 4 + 4 * g, 4);
        }
    return bad;
}

/* GGUF's Q8_0 block: d (binary16), then 32 signed bytes. */
static size_t pack_q8_0(size_t n_blocks, const uint8_t *const rows[NYB_TILE_ROWS], uint8_t *dst) {
    enum { BLOCK_BYTES = 34 };
    size_t bad = 0;
    for (size_t b = 0; b < n_blocks; b++, dst += NYB_TILE_Q8_0)
        for (size_t r = 0; r < NYB_TILE_ROWS; r++) {
            static const uint8_t zeros[BLOCK_BYTES];
            const uint8_t *src = rows[r] ? rows[r] + b * BLOCK_BYTES : zeros;
            if (!is_finite_half(src) && !bad)
                bad = 1 + 8 * b + r;
            memcpy(dst + 2 * r, src, 2);
            for (size_t g = 0; g < 8; g++)
                memcpy(dst + 16 + 32 * g + 4 * r, src + 2 + 4 * g, 4);
        }
    return bad;
}

static const nyb_layout layouts[] = {
    {"Q4_0", NYB_Q4_0, 18, NYB_TILE_Q4_0, pack_q4_0},
    {"Q4_1", NYB_Q4_1, 20, NYB_TILE_Q4_1, pack_q4_1},
    {"Q8_0", NYB_Q8_0, 34, NYB_TILE_Q8_0, pack_q8_0},
};

const nyb_layout *nyb_layout_of(uint32_t format) {
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        if (layouts[i].format == format)
            return &layouts[i];
    return NULL;
}
