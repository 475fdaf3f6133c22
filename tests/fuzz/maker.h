/* SPDX-License-Identifier: MIT
 * Makes vocabularies as GGUF files hold them, a token at a time.
 */
#ifndef NYB_TESTS_MAKER_H
#define NYB_TESTS_MAKER_H

#include "nyb_vocab.h"

enum { MAKER_TOKENS = 2048, MAKER_BYTES = 1 << 16 };

typedef struct maker {
    uint8_t tokens[MAKER_BYTES], merges[MAKER_BYTES];
    uint8_t scores[4 * MAKER_TOKENS], types[4 * MAKER_TOKENS];
    nyb_vocab_file file; /* points into the above */
} maker;

/* A vocabulary of a kind without tokens. */
void maker_start(maker *m, uint32_t kind);

/* Adds a token or a merge; what does not fit is left out. A score counts in PIECES only. */
void maker_token(maker *m, const void *spelling, size_t n, uint32_t type, float score);
void maker_merge(maker *m, const void *line, size_t n);

/* Adds a token for each of the first n <= 256 bytes. */
void maker_byte_tokens(maker *m, unsigned n);

/* The byte that the region's string number `i` begins at; 0 if there are fewer. */
uint64_t maker_string_at(const uint8_t *region, uint64_t nbytes, uint64_t i);

/* A vocabulary in blocks of their exact sizes. */
typedef struct made {
    nyb_vocab_file file;
    void *tables;
    nyb_vocab vocab;
} made;

/* Loads a copy of what `file` says; 0, or -1 if it was refused. made_free() in either case. */
int made_load(made *v, const nyb_vocab_file *file, nyb_error *error);
void made_free(made *v);

#endif
