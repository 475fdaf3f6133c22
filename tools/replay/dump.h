/* SPDX-License-Identifier: MIT
 * A dumped program: a header of 64 bytes, then eight sections, each a 64-bit length, 56 bytes
 * without a meaning, and its bytes, filled up to a multiple of 64.
 *
 * It is read in place: the program's arrays point into the dump, and so do weights and tokens.
 */
#ifndef NYB_REPLAY_DUMP_H
#define NYB_REPLAY_DUMP_H

#include "nyb_program.h"

enum { DUMP_ALIGNMENT = 64, DUMP_VERSION = 6 };

typedef struct dump_header {
    char magic[8]; /* "NYBRPLAY" */
    uint32_t version, max_pages, vocab, logits_buffer;
    uint32_t n_ids, n_rows; /* tokens fed, and how many of the last have expected logits */
    uint32_t kv;            /* nyb_kv: how keys and values were stored */
    uint32_t fill[7];
} dump_header;

typedef enum dump_section {
    DUMP_STEPS,
    DUMP_BUFFERS,
    DUMP_ATTENTIONS,
    DUMP_ROPES,
    DUMP_TURNS,
    DUMP_WEIGHTS,
    DUMP_IDS,
    DUMP_EXPECTED,
    DUMP_SECTIONS
} dump_section;

typedef struct dump {
    dump_header header;
    nyb_program program; /* not checked: that is nyb_measure's */
    const uint8_t *weights;
    const int32_t *ids;    /* (n_ids,) */
    const float *expected; /* (n_rows, vocab) */
} dump;

/* Reads bytes[0, length), which are aligned to DUMP_ALIGNMENT and outlive `dump`. 0, or -1 with
 * what is wrong. */
int dump_read(dump *dump, const uint8_t *bytes, uint64_t length, const char **what);

#endif
