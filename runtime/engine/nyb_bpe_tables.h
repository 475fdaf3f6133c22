/* SPDX-License-Identifier: MIT
 * Inside of nyb_bpe.h: how the sections of the tables are reached. For nyb_bpe*.c only.
 */
#ifndef NYB_BPE_TABLES_H
#define NYB_BPE_TABLES_H

#include "nyb_bpe.h"

typedef struct nyb_bpe_merge {
    uint32_t left;
    uint32_t right;
    uint32_t result;
} nyb_bpe_merge;

/* Slots of a hash table of n entries: a slot holds an entry's number plus one, or 0. Half full. */
#define NYB_BPE_SLOTS(n) (2 * (uint64_t)(n) + 2)

/* A section of uint32 by the name of its offset. Building is what writes to one. */
#define nyb_bpe_section(tables, field) ((uint32_t *)((uintptr_t)(tables) + (tables)->field))

static inline nyb_bpe_merge *nyb_bpe_merges(const nyb_bpe_tables *tables) {
    return (nyb_bpe_merge *)((uintptr_t)tables + tables->merges_at);
}

static inline uint8_t *nyb_bpe_types(const nyb_bpe_tables *tables) {
    return (uint8_t *)((uintptr_t)tables + tables->types_at);
}

/* The rank of merging `left` with `right`, or NYB_BPE_NONE. */
uint32_t nyb_bpe_rank(const nyb_bpe_tables *tables, uint32_t left, uint32_t right);

/* Spells a byte in GPT-2's alphabet, in UTF-8; returns the length, 1 or 2. */
size_t nyb_bpe_alphabet(uint8_t byte, uint8_t out[4]);

#endif
