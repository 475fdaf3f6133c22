/* SPDX-License-Identifier: MIT
 * How the engine's arenas are laid out: shared by binding and running.
 */
#ifndef NYB_LAYOUT_H
#define NYB_LAYOUT_H

#include "nyb_engine.h"

/* A partial result of attention: D floats, the maximum, the sum, filled up to 8. */
static inline uint32_t nyb_part_stride(uint32_t head_dim) { return head_dim + NYB_LANES; }

/* Bytes of one KV head's page: keys, then values, as halves. */
static inline uint64_t nyb_head_page_bytes(const nyb_attention *a) {
    return (uint64_t)NYB_PAGE * a->head_dim * 2 * sizeof(uint16_t);
}

static inline uint64_t nyb_page_bytes(const nyb_attention *a) {
    return a->kv_heads * nyb_head_page_bytes(a);
}

static inline uint32_t nyb_tiles(uint32_t rows) {
    return (rows + NYB_TILE_ROWS - 1) / NYB_TILE_ROWS;
}

#endif
