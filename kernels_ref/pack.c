/* SPDX-License-Identifier: MIT
 * Packing: GGUF rows to tiles, one tile row at a time. Lossless, but for floats below 2^-40, which
 * become 0; docs/formats.md draws both sides.
 */
#include <string.h>

#include "nyb_kernels.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Packs one GGUF block of row r into its tile; false if a scale is not finite. */
typedef int pack_block_fn(const uint8_t *src, uint8_t *tile, size_t r);

ALWAYS_INLINE size_t pack(size_t n_tiles, const uint8_t *const rows[NYB_TILE_ROWS], uint8_t *dst,
                          size_t block_bytes, pack_block_fn *pack_block) {
    static const uint8_t zeros[256]; /* a scale of zero: a row of padding */
    size_t bad = 0;
    for (size_t t = 0; t < n_tiles; t++, dst += NYB_TILE_ROWS * block_bytes)
        for (size_t r = 0; r < NYB_TILE_ROWS; r++)
            if (!pack_block(rows[r] ? rows[r] + t * block_bytes : zeros, dst, r) && !bad)
                bad = 1 + NYB_TILE_ROWS * t + r;
    return bad;
}

/* -- Pieces ------------------------------------------------------------------------------- */

static inline uint32_t word_at(const uint8_t *p, size_t i) {
    uint32_t word;
    memcpy(&word, p + 4 * i, sizeof word);
    return word;
}

/* Word i of row r: the rows of each word stand side by side. */
static inline void put_word(uint8_t *dst, size_t i, size_t r, uint32_t word) {
    memcpy(dst + 32 * i + 4 * r, &word, sizeof word);
}

static inline void put_words(uint8_t *dst, size_t n, size_t r, const uint8_t *src) {
    for (size_t i = 0; i < n; i++)
        put_word(dst, i, r, word_at(src, i));
}

/* Nibbles of 32 columns, a byte each, as tiles have them: columns j and 16 + j in a byte. */
static inline void put_nibbles(uint8_t *dst, size_t r, const uint32_t q[8]) {
    for (size_t g = 0; g < 4; g++)
        put_word(dst, g, r, q[g] | q[4 + g] << 4);
}

/* n halves, row r's of 8; false if one is an infinity or a NaN: its exponent is all ones. */
static inline int put_halves(uint8_t *dst, size_t n, size_t r, const uint8_t *src) {
    int finite = 1;
    for (size_t i = 0; i < n; i++) {
        memcpy(dst + 16 * i + 2 * r, src + 2 * i, 2);
        finite &= (src[2 * i + 1] & 0x7c) != 0x7c;
    }
    return finite;
}

/* Bit 4g + j of 32 bits to bit g of byte j: the columns of a group, one to a byte. */
static inline uint32_t spread_bits(uint32_t bits) {
    uint32_t out = 0;
    for (unsigned j = 0; j < 4; j++) {
        uint32_t x = bits >> j & 0x11111111u;
        x = (x | x >> 3) & 0x03030303u;
        x = (x | x >> 6) & 0x000f000fu;
        out |= ((x | x >> 12) & 0xff) << 8 * j;
    }
    return out;
}

/* -- Blocks of 32 columns ------------------------------------------------------------------ */

/* n halves of scales, then 16 bytes: byte j holds columns j and 16 + j. */
ALWAYS_INLINE int nibbles(const uint8_t *src, uint8_t *tile, size_t r, size_t n) {
    put_words(tile + 16 * n, 4, r, src + 2 * n);
    return put_halves(tile, n, r, src);
}

static inline int block_q4_0(const uint8_t *src, uint8_t *tile, size_t r) {
    return nibbles(src, tile, r, 1);
}

static inline int block_q4_1(const uint8_t *src, uint8_t *tile, size_t r) {
    return nibbles(src, tile, r, 2);
}

/* n halves of scales, 4 bytes of fifth bits in order of columns, 16 bytes of nibbles. */
ALWAYS_INLINE int five_bits(const uint8_t *src, uint8_t *tile, size_t r, size_t n) {
    const uint8_t *high = src + 2 * n;
    put_word(tile + 16 * n, 0, r, spread_bits(word_at(high, 0)));
    put_words(tile + 16 * n + 32, 4, r, high + 4);
    return put_halves(tile, n, r, src);
}

static inline int block_q5_0(const uint8_t *src, uint8_t *tile, size_t r) {
    return five_bits(src, tile, r, 1);
}

static inline int block_q5_1(const uint8_t *src, uint8_t *tile, size_t r) {
    return five_bits(src, tile, r, 2);
}

static inline int block_q8_0(const uint8_t *src, uint8_t *tile, size_t r) {
    put_words(tile + 16, 8, r, src + 2);
    return put_halves(tile, 1, r, src);
}

/* An exponent e of 2^(e - 128), of which 255 is a NaN, then nibbles. Scales below 2^-40 are 0. */
static inline int block_mxfp4(const uint8_t *src, uint8_t *tile, size_t r) {
    put_words(tile + 8, 4, r, src + 1);
    tile[r] = src[0] < 128 - 40 ? 0 : src[0];
    return src[0] != 255;
}

/* -- K-quants: 256 columns ---------------------------------------------------------------- */

/* d, dmin, then 12 bytes with the 6-bit scales and minima of 8 blocks: of the first four in the
 * low bits of bytes 0-3 and 4-7, of the others in bytes 8-11, their top two bits in what bytes 0-7
 * have left. To 32 bytes of scales of blocks 0-3, 32 of blocks 4-7, 32 of minima of blocks 0-3, in
 * whose top bits are the minima of blocks 4-7. */
static inline int put_scales6(const uint8_t *src, uint8_t *tile, size_t r) {
    const uint8_t *s = src + 4;
    uint8_t *dst = tile + 32 + r;
    for (size_t i = 0; i < 4; i++, dst += 8) {
        const unsigned low = s[8 + i] & 15, min = s[8 + i] >> 4 | s[4 + i] >> 6 << 4;
        dst[0] = (uint8_t)((s[i] & 63) | (min & 3) << 6);
        dst[32] = (uint8_t)(low | s[i] >> 6 << 4 | (min >> 2 & 3) << 6);
        dst[64] = (uint8_t)((s[4 + i] & 63) | min >> 4 << 6);
    }
    return put_halves(tile, 2, r, src);
}

/* 128 bytes, 32 for two blocks: byte j holds column j of both. */
ALWAYS_INLINE void put_nibbles_k(const uint8_t *src, uint8_t *dst, size_t block_bytes, size_t r) {
    for (size_t i = 0; i < 8; i++) {
        uint32_t q[8];
        for (size_t g = 0; g < 8; g++)
            q[g] = word_at(src + i / 2 * 32, g) >> i % 2 * 4 & 0x0f0f0f0fu;
        put_nibbles(dst + i * block_bytes, r, q);
    }
}

static inline int block_q4_k(const uint8_t *src, uint8_t *tile, size_t r) {
    put_nibbles_k(src + 16, tile + 128, 128, r);
    return put_scales6(src, tile, r);
}

/* Between scales and nibbles 32 bytes of fifth bits: bit i of byte j is of column j of block i. */
static inline int block_q5_k(const uint8_t *src, uint8_t *tile, size_t r) {
    for (size_t i = 0; i < 8; i++) {
        uint32_t high = 0;
        for (size_t g = 0; g < 8; g++)
            high |= (word_at(src + 16, g) >> i & 0x01010101u) << g;
        put_word(tile + 128 + 160 * i, 0, r, high);
    }
    put_nibbles_k(src + 48, tile + 128 + 32, 160, r);
    return put_scales6(src, tile, r);
}

/* 128 bytes of nibbles, 64 of two high bits, 16 int8 scales of 16 columns each, d. In each half of
 * 4 blocks, byte j of 32 holds column j: of blocks 0 and 2, then of 1 and 3, in nibbles; of all
 * four in pairs of bits. */
static inline int block_q6_k(const uint8_t *src, uint8_t *tile, size_t r) {
    for (size_t i = 0; i < 8; i++) {
        const uint8_t *low = src + 64 * (i / 4) + 32 * (i % 2), *high = src + 128 + 32 * (i / 4);
        uint8_t *block = tile + 16 + 208 * i;
        uint32_t q[8], h[2] = {0, 0};
        for (size_t g = 0; g < 8; g++) {
            q[g] = word_at(low, g) >> i % 4 / 2 * 4 & 0x0f0f0f0fu;
            h[g / 4] |= (word_at(high, g) >> i % 4 * 2 & 0x03030303u) << 2 * (g % 4);
        }
        memcpy(block + 2 * r, src + 192 + 2 * i, 2);
        put_word(block + 16, 0, r, h[0]);
        put_word(block + 16, 1, r, h[1]);
        put_nibbles(block + 80, r, q);
    }
    return put_halves(tile, 1, r, src + 208);
}

/* -- Floats: a block is a column ----------------------------------------------------------- */

/* Flushed; false if not finite. */
static inline int finite_float(uint32_t *bits) {
    const uint32_t magnitude = *bits & 0x7fffffff;
    if (magnitude < (uint32_t)(127 - 40) << 23) /* the exponent of 2^-40 */
        *bits = 0;
    return magnitude < 0x7f800000;
}

static inline int block_f32(const uint8_t *src, uint8_t *tile, size_t r) {
    uint32_t bits = word_at(src, 0);
    const int finite = finite_float(&bits);
    put_word(tile, 0, r, bits);
    return finite;
}

static inline int block_f16(const uint8_t *src, uint8_t *tile, size_t r) {
    return put_halves(tile, 1, r, src);
}

static inline int block_bf16(const uint8_t *src, uint8_t *tile, size_t r) {
    uint32_t bits = (uint32_t)src[0] << 16 | (uint32_t)src[1] << 24;
    const int finite = finite_float(&bits);
    tile[2 * r] = (uint8_t)(bits >> 16);
    tile[2 * r + 1] = (uint8_t)(bits >> 24);
    return finite;
}

/* -- The formats -------------------------------------------------------------------------- */

/* name, name of the block's function, block's columns and bytes */
#define LAYOUTS(X)                                                                                 \
    X(Q4_0, q4_0, 32, 18)                                                                          \
    X(Q4_1, q4_1, 32, 20)                                                                          \
    X(Q5_0, q5_0, 32, 22)                                                                          \
    X(Q5_1, q5_1, 32, 24)                                                                          \
    X(Q8_0, q8_0, 32, 34)                                                                          \
    X(Q4_K, q4_k, 256, 144)                                                                        \
    X(Q5_K, q5_k, 256, 176)                                                                        \
    X(Q6_K, q6_k, 256, 210)                                                                        \
    X(IQ4_NL, q4_0, 32, 18)                                                                        \
    X(MXFP4, mxfp4, 32, 17)                                                                        \
    X(F32, f32, 1, 4)                                                                              \
    X(F16, f16, 1, 2)                                                                              \
    X(BF16, bf16, 1, 2)

#define PACK(name, block, block_cols, block_bytes)                                                 \
    static size_t pack_##name(size_t n_tiles, const uint8_t *const rows[NYB_TILE_ROWS],            \
                              uint8_t *dst) {                                                      \
        return pack(n_tiles, rows, dst, block_bytes, block_##block);                               \
    }
LAYOUTS(PACK)

static const nyb_layout layouts[] = {
#define LAYOUT(name, block, block_cols, block_bytes)                                               \
    {#name, NYB_##name, block_cols, block_bytes, pack_##name},
    LAYOUTS(LAYOUT)};

const nyb_layout *nyb_layout_of(uint32_t format) {
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        if (layouts[i].format == format)
            return &layouts[i];
    return NULL;
}
