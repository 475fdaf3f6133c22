/* SPDX-License-Identifier: MIT
 * Inside of nyb_encode.h: its three parts and what they share.
 */
#ifndef NYB_ENCODER_H
#define NYB_ENCODER_H

#include "nyb_encode.h"
#include "nyb_vocab_tables.h"

enum { NYB_MASK_LEVELS = 6 }; /* 64^6 is more than 2^31 ranks */

/* The symbols of a long word. A symbol has an id if it is a token, and the text from its start to
 * the next one's. `rank` and `result` are of the pair with the next symbol, rank is NONE if they do
 * not merge. The pairs wait in a queue: in buckets by rank, each a list through `later` and
 * `earlier`, if the merges are in order, else in a heap whose places `later` holds and `earlier`
 * finds. */
typedef struct nyb_symbols {
    uint32_t *id;
    uint32_t *start;
    uint32_t *next;
    uint32_t *previous;
    uint32_t *rank;
    uint32_t *result;
    uint32_t *later;
    uint32_t *earlier;
} nyb_symbols;

typedef struct nyb_encoder {
    const nyb_vocab *vocab;
    const nyb_vocab_tables *tables;
    const nyb_merge *merges;
    nyb_encode_stats *stats;
    nyb_symbols word;
    const uint8_t *word_text; /* of the word being merged, spelled as the tokens are */
    uint32_t word_bytes;
    uint32_t *bucket;                 /* first pair of a rank */
    uint64_t *masks[NYB_MASK_LEVELS]; /* level 0: which buckets are filled; above: which masks */
    int levels;
    int buckets_are_clear;
    uint32_t heap_size;
    int is_unknown;   /* whether the symbol before was unknown */
    uint32_t *marks;  /* per byte of the text: FREE, COVERED, or 1 + a special token's id */
    uint8_t *spelled; /* not for BYTES: text with its spaces as the tokens spell them */
} nyb_encoder;

enum { NYB_MARK_FREE = 0 };
#define NYB_MARK_COVERED UINT32_MAX

typedef struct nyb_encoder_input {
    const uint8_t *text;
    size_t n;
    int special;
    const uint32_t *breaks;
    size_t n_breaks;
} nyb_encoder_input;

/* nyb_special.c: marks the special tokens of the text; 0 if there are none. */
int nyb_mark_specials(nyb_encoder *e, const nyb_encoder_input *in);

/* nyb_merge.c: a heap of symbols or whatever has a number, below those of `word`: the least
 * word.rank comes first, of equal ones the least number. Empty when heap_size is 0. */
void nyb_heap_put(nyb_encoder *e, uint32_t at);
uint32_t nyb_heap_take(nyb_encoder *e);

/* nyb_merge.c: the ids of a word, n > 0 bytes; returns their number. */
size_t nyb_merge_word(nyb_encoder *e, const uint8_t *text, size_t n, uint32_t *ids);

#endif
