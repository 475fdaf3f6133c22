/* SPDX-License-Identifier: MIT
 * Inside of nyb_vocab.h and nyb_encode.h: how the sections of the tables are reached.
 */
#ifndef NYB_VOCAB_TABLES_H
#define NYB_VOCAB_TABLES_H

#include <string.h>

#include "nyb_vocab.h"

typedef struct nyb_merge {
    uint32_t left;
    uint32_t right;
    uint32_t result;
} nyb_merge;

/* A place in the hash table of spellings. */
typedef struct nyb_token_slot {
    uint32_t hash; /* of the spelling: most others are told apart without looking at theirs */
    uint32_t id;   /* plus one; 0 where the place is free */
} nyb_token_slot;

typedef struct nyb_string {
    const uint8_t *at;
    size_t n;
} nyb_string;

/* Places in a hash table of n entries: half full. Pairs have the number of a merge plus one, or 0.
 */
#define NYB_VOCAB_SLOTS(n) (2 * (uint64_t)(n) + 2)

/* U+2581 LOWER ONE EIGHTH BLOCK: how a space is spelled, but in the byte alphabet. */
#define NYB_SPACE_MARK "\xE2\x96\x81"
enum { NYB_SPACE_MARK_BYTES = 3 };

/* A section of uint32 by the name of its offset. Building is what writes to one. */
#define nyb_vocab_section(tables, field) ((uint32_t *)((uintptr_t)(tables) + (tables)->field))

static inline nyb_merge *nyb_vocab_merges(const nyb_vocab_tables *tables) {
    return (nyb_merge *)((uintptr_t)tables + tables->merges_at);
}

static inline nyb_token_slot *nyb_vocab_slots(const nyb_vocab_tables *tables) {
    return (nyb_token_slot *)((uintptr_t)tables + tables->token_slots_at);
}

static inline uint8_t *nyb_vocab_types(const nyb_vocab_tables *tables) {
    return (uint8_t *)((uintptr_t)tables + tables->types_at);
}

/* A list of special tokens, by number in the order of their spellings. */
typedef struct nyb_specials {
    uint32_t n;
    const uint32_t *from; /* tables->special_from */
    uint32_t *id;
    uint32_t *place;  /* in the order in which they are cut out of a text: the longest first */
    uint32_t *parent; /* the longest other whose spelling this one's begins with, or NONE */
    uint32_t *jump;   /* an ancestor further up, or NONE: any is reached in log n moves */
    uint32_t *depth;  /* number of ancestors, plus one */
} nyb_specials;
enum { NYB_SPECIALS_NUMBERS = 5 }; /* per special token in a list */

static inline nyb_specials nyb_vocab_specials(const nyb_vocab_tables *tables, int control) {
    uint32_t *at = nyb_vocab_section(tables, specials_at[control]);
    const uint32_t n = control ? tables->n_specials : tables->n_user_defined;
    const nyb_specials specials = {.n = n,
                                   .from = tables->special_from[control],
                                   .id = at,
                                   .place = at + n,
                                   .parent = at + 2 * (size_t)n,
                                   .jump = at + 3 * (size_t)n,
                                   .depth = at + 4 * (size_t)n};
    return specials;
}

/* Where special token i's jump leads, whose parent is `up`, and how deep it is. Jumps are those of
 * Myers' skew-binary stacks (Information Processing Letters 17, 1983): two of equal length in a row
 * become one. */
static inline uint32_t nyb_specials_jump(const nyb_specials *s, uint32_t up, uint32_t *depth) {
    *depth = up == NYB_VOCAB_NONE ? 1 : s->depth[up] + 1;
    if (up == NYB_VOCAB_NONE || s->jump[up] == NYB_VOCAB_NONE) {
        return up;
    }
    const uint32_t over = s->jump[up], beyond = s->jump[over];
    const uint32_t depth_beyond = beyond == NYB_VOCAB_NONE ? 0 : s->depth[beyond];
    return s->depth[up] - s->depth[over] == s->depth[over] - depth_beyond ? beyond : up;
}

/* Sets where the sections lie for these counts, and the counts. */
void nyb_vocab_lay_out(nyb_vocab_tables *t, const nyb_vocab_file *file,
                       const uint64_t n_specials[2]);

static inline uint64_t nyb_vocab_number(const uint8_t *at, size_t n) { /* little-endian */
    uint64_t value = 0;
    for (size_t i = n; i > 0; i--) {
        value = value << 8 | at[i - 1];
    }
    return value;
}

/* The spelling of a token. Its length is the tables', not the file's, which may have changed. */
static inline nyb_string nyb_vocab_text(const nyb_vocab *vocab, uint32_t id) {
    const uint32_t *text_at = nyb_vocab_section(vocab->tables, text_at_at) + id;
    const nyb_string s = {vocab->tokens + text_at[0] + 8, text_at[1] - text_at[0] - 8};
    return s;
}

/* Strings in order of their bytes: less than 0 if s comes first, 0 if they are equal. */
static inline int nyb_compare(nyb_string s, nyb_string t) {
    const int order = memcmp(s.at, t.at, s.n < t.n ? s.n : t.n);
    return order != 0 ? order : (s.n > t.n) - (s.n < t.n);
}

static inline int nyb_is_space_mark(const uint8_t *text, size_t at, size_t end) {
    return end - at >= NYB_SPACE_MARK_BYTES && text[at] == 0xE2 && text[at + 1] == 0x96 &&
           text[at + 2] == 0x81;
}

/* FNV-1a, which can go on where it stopped: the hash of A and B written together is that of B
 * started from A's. */
#define NYB_HASH_START 2166136261u
static inline uint32_t nyb_hash(uint32_t start, nyb_string s) {
    for (size_t i = 0; i < s.n; i++) {
        start = (start ^ s.at[i]) * 16777619u;
    }
    return start;
}

/* A place for a hash, evenly over `slots` of them: the low bits of FNV are mixed up first. */
static inline uint32_t nyb_slot_of(uint32_t hash, uint32_t slots) {
    hash = (hash ^ hash >> 15) * 0x2C1B3C6Du;
    hash = hash ^ hash >> 13;
    return (uint32_t)((uint64_t)hash * slots >> 32);
}

static inline uint32_t nyb_pair_hash(uint32_t left, uint32_t right) {
    return (uint32_t)(((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u >> 32);
}

/* Looks for the token spelled a then b, hash being theirs. Sets *slot to the free place where the
 * search ended, if it did without finding (NYB_VOCAB_NONE after too many probes). */
uint32_t nyb_vocab_search(const nyb_vocab *vocab, uint32_t hash, nyb_string a, nyb_string b,
                          uint32_t *slot);

/* The rank of merging `left` with `right`, or NYB_VOCAB_NONE; the less, the sooner. Adds to *steps
 * the places looked at, NYB_VOCAB_PROBES at most. */
uint32_t nyb_vocab_rank(const nyb_vocab_tables *tables, uint32_t left, uint32_t right,
                        uint64_t *steps);

/* PIECES: the token that symbols may merge into, with its rank; NYB_VOCAB_NONE if there is none.
 * Special tokens and those of bytes are never made so. (A user-defined one is cut out of a text
 * wherever it is; where a break forbids that, its spelling is text.) */
uint32_t nyb_vocab_piece(const nyb_vocab *vocab, const uint8_t *spelling, size_t n, uint32_t *rank);

/* Spells a byte in GPT-2's alphabet, in UTF-8; returns the length, 1 or 2. */
size_t nyb_byte_alphabet(uint8_t byte, uint8_t out[4]);

/* What a spelling means by itself, whatever type the file gives its token. */
enum nyb_token_role { NYB_ROLE_NONE, NYB_ROLE_END, NYB_ROLE_FILL };
enum nyb_token_role nyb_role_of(nyb_string spelling, unsigned type);

#endif
