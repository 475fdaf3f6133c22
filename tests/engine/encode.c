/* SPDX-License-Identifier: MIT
 * Builds vocabularies and encodes with them without Python in the way, to be built with sanitizers.
 *
 *   encode FILE...                  one line a file: ids, or what is wrong
 *   encode --cut FILE               every region cut at every length; how many are accepted
 *   encode --open FILE...           one line a file: ids by tables that are opened, not built
 *   encode --open-cut FILE          tables cut at every length; how many are accepted
 *   encode --open-flip SEED ROUNDS FILE  ROUNDS copies of the tables with 1 to 4 bits turned over
 *   encode --open-swap FILE OTHER   OTHER's tables for FILE's vocabulary: ids, or what is wrong
 *
 * A file is the numbers of `enum head`, uint64 each, then tokens, merges, scores, types, text.
 * Each lies in a block of its exact size, and so do tables, scratch and ids, so that
 * AddressSanitizer sees any step outside.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checks.h"
#include "nyb_encode.h"

enum head {
    KIND,
    N_TOKENS,
    TOKENS_BYTES,
    N_MERGES,
    MERGES_BYTES,
    N_SCORES,
    N_TYPES,
    PRE,
    UNKNOWN,
    WHOLE_WORDS,
    SPACE_PREFIX,
    TEXT_BYTES,
    HEAD
};
enum { TOKENS, MERGES, SCORES, TYPES, TEXT, REGIONS };

typedef struct {
    uint64_t head[HEAD];
    uint8_t *bytes[REGIONS];
    uint64_t sizes[REGIONS];
} sample;

static void load(const char *path, sample *s) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fread(s->head, sizeof s->head, 1, file) != 1) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(2);
    }
    s->sizes[TOKENS] = s->head[TOKENS_BYTES];
    s->sizes[MERGES] = s->head[MERGES_BYTES];
    s->sizes[SCORES] = 4 * s->head[N_SCORES];
    s->sizes[TYPES] = 4 * s->head[N_TYPES];
    s->sizes[TEXT] = s->head[TEXT_BYTES];
    for (int i = 0; i < REGIONS; i++) {
        s->bytes[i] = allocate(s->sizes[i]);
        if (fread(s->bytes[i], 1, s->sizes[i], file) != s->sizes[i]) {
            fprintf(stderr, "%s is too short\n", path);
            exit(2);
        }
    }
    fclose(file);
}

static void unload(sample *s) {
    for (int i = 0; i < REGIONS; i++) {
        free(s->bytes[i]);
    }
}

static uint32_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* Encodes the text and decodes the ids; aborts if an id is none or more come out than may. Tables
 * that lie (is_true is 0) may give longer tokens than the text has. */
static void encode(const nyb_vocab *vocab, const sample *s, int special, int is_true, int verbose) {
    const size_t n = s->sizes[TEXT];
    const uint32_t breaks[] = {1, (uint32_t)(n / 2), (uint32_t)n};
    const uint64_t most = nyb_encode_most(vocab, n);
    uint32_t *ids = allocate(most * sizeof *ids);
    void *scratch = allocate(nyb_encode_scratch(vocab, n));
    nyb_encode_stats stats;
    const size_t n_breaks = special == 2 ? sizeof breaks / sizeof breaks[0] : 0;
    const size_t n_ids =
        nyb_encode(vocab, s->bytes[TEXT], n, special != 0, breaks, n_breaks, scratch, ids, &stats);
    size_t total = 0;
    for (size_t i = 0; i < n_ids; i++) {
        const uint8_t *spelling;
        if (ids[i] >= vocab->tables->n_tokens) {
            fprintf(stderr, "id %" PRIu32 " is none\n", ids[i]);
            abort();
        }
        const size_t length = nyb_vocab_spelling(vocab, ids[i], &spelling);
        uint8_t *bytes = allocate(length);
        total += nyb_vocab_bytes(vocab, ids[i], bytes);
        free(bytes);
        if (verbose) {
            printf(" %" PRIu32, ids[i]);
        }
    }
    if (n_ids > most || (is_true && vocab->tables->kind == NYB_VOCAB_BYTES && total > n)) {
        fprintf(stderr, "%zu ids of %zu bytes for a text of %zu\n", n_ids, total, n);
        abort();
    }
    free(scratch);
    free(ids);
}

static nyb_vocab_file file_of(const sample *s) {
    const nyb_vocab_file file = {.kind = (uint32_t)s->head[KIND],
                                 .tokens = s->bytes[TOKENS],
                                 .tokens_bytes = s->sizes[TOKENS],
                                 .n_tokens = s->head[N_TOKENS],
                                 .merges = s->bytes[MERGES],
                                 .merges_bytes = s->sizes[MERGES],
                                 .n_merges = s->head[N_MERGES],
                                 .scores = s->bytes[SCORES],
                                 .n_scores = s->head[N_SCORES],
                                 .types = s->bytes[TYPES],
                                 .n_types = s->head[N_TYPES],
                                 .pre = (uint32_t)s->head[PRE],
                                 .unknown = (uint32_t)s->head[UNKNOWN],
                                 .whole_words = s->head[WHOLE_WORDS] != 0,
                                 .space_prefix = s->head[SPACE_PREFIX] != 0};
    return file;
}

/* All that may be asked of a vocabulary. */
static void use(const nyb_vocab *vocab, const sample *s, int is_true, int verbose) {
    if (verbose) {
        printf("ids");
    }
    for (int special = 0; special < 3; special++) {
        encode(vocab, s, special, is_true, verbose && special == 0);
    }
    uint64_t ends = 0;
    for (uint32_t id = 0; id < vocab->tables->n_tokens; id++) {
        ends += (uint64_t)nyb_vocab_is_end(vocab, id);
    }
    if (verbose) {
        printf(" ends %" PRIu64 "\n", ends);
    }
}

static void complain(const nyb_error *error) {
    printf("error: %s (%" PRIu64 ", %" PRIu64 ")\n", error->what, error->at, error->value);
}

/* Returns whether the vocabulary was accepted. */
static int run(const sample *s, int verbose) {
    const nyb_vocab_file file = file_of(s);
    nyb_error error;
    nyb_vocab vocab;
    uint64_t nbytes;
    void *tables = NULL;
    int accepted = nyb_vocab_measure(&file, &nbytes, &error) == 0;
    if (accepted) {
        tables = allocate(nbytes);
        accepted = nyb_vocab_build(&file, tables, &vocab, &error) == 0;
    }
    if (accepted) {
        use(&vocab, s, 1, verbose);
    } else if (verbose) {
        complain(&error);
    }
    free(tables);
    return accepted;
}

/* The tables of a sound vocabulary, in a block of their size. */
static uint8_t *built(const sample *s, uint64_t *nbytes) {
    const nyb_vocab_file file = file_of(s);
    nyb_error error;
    nyb_vocab vocab;
    if (nyb_vocab_measure(&file, nbytes, &error) != 0) {
        abort();
    }
    uint8_t *tables = allocate(*nbytes);
    if (nyb_vocab_build(&file, tables, &vocab, &error) != 0) {
        abort();
    }
    return tables;
}

/* Opens a copy of the tables, in a block of its size, with `flips` bits of it turned over; returns
 * whether it was accepted. */
static int reopen(const sample *s, const uint8_t *tables, uint64_t nbytes, uint32_t flips,
                  uint64_t *seed, int verbose) {
    const nyb_vocab_file file = file_of(s);
    nyb_error error;
    nyb_vocab vocab;
    const int are_true = flips == 0;
    uint8_t *copy = allocate(nbytes);
    memcpy(copy, tables, nbytes);
    for (; flips > 0; flips--) {
        const uint64_t at = next_random(seed) % nbytes;
        copy[at] ^= (uint8_t)(1u << next_random(seed) % 8);
    }
    const int accepted = nyb_vocab_open(&file, copy, nbytes, &vocab, &error) == 0;
    if (accepted) {
        use(&vocab, s, are_true, verbose);
    } else if (verbose) {
        complain(&error);
    }
    free(copy);
    return accepted;
}

static void open_cut(const sample *s) {
    uint64_t nbytes, accepted = 0;
    uint8_t *tables = built(s, &nbytes);
    for (uint64_t n = 0; n < nbytes; n++) {
        accepted += (uint64_t)reopen(s, tables, n, 0, NULL, 0);
    }
    free(tables);
    printf("accepted %" PRIu64 " of %" PRIu64 "\n", accepted, nbytes);
}

static void open_flip(uint64_t seed, uint64_t rounds, const sample *s) {
    uint64_t nbytes, accepted = 0;
    uint8_t *tables = built(s, &nbytes);
    for (uint64_t round = 0; round < rounds; round++) {
        const uint32_t flips = 1 + next_random(&seed) % 4;
        accepted += (uint64_t)reopen(s, tables, nbytes, flips, &seed, 0);
    }
    free(tables);
    printf("accepted %" PRIu64 " of %" PRIu64 "\n", accepted, rounds);
}

static void open_as_it_is(const sample *s, const sample *other) {
    uint64_t nbytes;
    uint8_t *tables = built(other, &nbytes);
    (void)reopen(s, tables, nbytes, 0, NULL, 1);
    free(tables);
}

static sample copy(const sample *from) {
    sample s = *from;
    for (int i = 0; i < REGIONS; i++) {
        s.bytes[i] = allocate(s.sizes[i]);
        if (s.sizes[i] > 0) {
            memcpy(s.bytes[i], from->bytes[i], s.sizes[i]);
        }
    }
    return s;
}

static void cut(const sample *whole) {
    uint64_t accepted = 0, tried = 0;
    for (int region = TOKENS; region <= MERGES; region++) {
        for (uint64_t n = 0; n < whole->sizes[region]; n++, tried++) {
            sample shorter = *whole;
            shorter.sizes[region] = n;
            sample s = copy(&shorter);
            accepted += (uint64_t)run(&s, 0);
            unload(&s);
        }
    }
    printf("accepted %" PRIu64 " of %" PRIu64 "\n", accepted, tried);
}

int main(int argc, char **argv) {
    sample s, other;
    if (argc > 1 && strcmp(argv[1], "--open") == 0) {
        for (int i = 2; i < argc; i++) {
            load(argv[i], &s);
            open_as_it_is(&s, &s);
            unload(&s);
        }
    } else if (argc == 4 && strcmp(argv[1], "--open-swap") == 0) {
        load(argv[2], &s);
        load(argv[3], &other);
        open_as_it_is(&s, &other);
        unload(&s);
        unload(&other);
    } else if (argc == 3 && strcmp(argv[1], "--open-cut") == 0) {
        load(argv[2], &s);
        open_cut(&s);
        unload(&s);
    } else if (argc == 5 && strcmp(argv[1], "--open-flip") == 0) {
        load(argv[4], &s);
        open_flip(strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10), &s);
        unload(&s);
    } else if (argc == 3 && strcmp(argv[1], "--cut") == 0) {
        load(argv[2], &s);
        cut(&s);
        unload(&s);
    } else {
        for (int i = 1; i < argc; i++) {
            load(argv[i], &s);
            run(&s, 1);
            unload(&s);
        }
    }
    return 0;
}
