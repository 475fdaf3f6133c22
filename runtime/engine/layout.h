/* SPDX-License-Identifier: MIT
 * How the engine's arenas are laid out: shared by binding and running.
 */
#ifndef NYB_LAYOUT_H
#define NYB_LAYOUT_H

#include "nyb_engine.h"

/* A partial result of attention: D floats, the maximum, the sum, filled up to 8. */
static inline uint32_t nyb_part_stride(uint32_t head_dim) { return head_dim + NYB_LANES; }

/* Bytes of one KV head's keys in a page, or its values: halves, or int8 and then the scales of 32
 * columns, halves. */
static inline uint64_t nyb_side_bytes(const nyb_attention *a, int is_int8) {
    const uint64_t blocks = (a->head_dim + NYB_BLOCK - 1) / NYB_BLOCK;
    const uint64_t position =
        is_int8 ? a->head_dim + blocks * sizeof(uint16_t) : a->head_dim * sizeof(uint16_t);
    return NYB_PAGE * position;
}

static inline uint64_t nyb_keys_bytes(const nyb_attention *a, uint32_t kv) {
    return nyb_side_bytes(a, kv == NYB_KV_INT8);
}

/* Bytes of one KV head's page: keys, then values. */
static inline uint64_t nyb_head_page_bytes(const nyb_attention *a, uint32_t kv) {
    return nyb_keys_bytes(a, kv) + nyb_side_bytes(a, kv != NYB_KV_F16);
}

static inline uint64_t nyb_page_bytes(const nyb_attention *a, uint32_t kv) {
    return a->kv_heads * nyb_head_page_bytes(a, kv);
}

/* The first position that a token at `position` sees. */
static inline uint64_t nyb_first_seen(const nyb_attention *a, uint64_t position) {
    return a->window && position >= a->window ? position + 1 - a->window : 0;
}

/* Pages of the ring in which a layer with a window keeps a sequence, by page modulo this: what the
 * first token of a batch sees and the batch itself, whose keys are all there before it is run. So
 * no two of these positions share a place; the oldest and the newest page may share theirs, each
 * seen in its own part. Nor do they share a tile, which is read whole, for one thread may append to
 * the newest while another attends to the oldest. Of a context that is shorter it is the whole.
 * 0 without a window. */
static inline uint64_t nyb_ring_pages(const nyb_attention *a, const nyb_limits *limits) {
    const uint64_t batch = limits->max_tokens > NYB_LANES ? limits->max_tokens : NYB_LANES;
    const uint64_t pages = (a->window + batch + NYB_PAGE - 1) / NYB_PAGE;
    if (!a->window)
        return 0;
    return pages < limits->max_pages ? pages : limits->max_pages;
}

/* Pages that a layer keeps of each KV head. A head's lie one after another, before the next head's,
 * because a thread reads them so. */
static inline uint64_t nyb_layer_pages(const nyb_attention *a, const nyb_limits *limits) {
    const uint64_t ring = nyb_ring_pages(a, limits);
    return ring ? ring * limits->sequences : limits->n_pages;
}

static inline uint32_t nyb_tiles(uint32_t rows) {
    return (rows + NYB_TILE_ROWS - 1) / NYB_TILE_ROWS;
}

#endif
