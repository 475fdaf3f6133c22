/* SPDX-License-Identifier: MIT
 * Builds vocabularies and encodes with them without Python in the way, to be built with sanitizers.
 *
 *   encode FILE...     one line a file: ids, or what is wrong
 *   encode --cut FILE  every region cut at every length; how many are accepted
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

/* Encodes the text and decodes the ids; aborts if an id is none or more come out than may. */
static void encode(const nyb_vocab *vocab, const sample *s, int special, int verbose) {
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
    if (n_ids > most || (vocab->tables->kind == NYB_VOCAB_BYTES && total > n)) {
        fprintf(stderr, "%zu ids of %zu bytes for a text of %zu\n", n_ids, total, n);
        abort();
    }
    free(scratch);
    free(ids);
}

/* Returns whether the vocabulary was accepted. */
static int run(const sample *s, int verbose) {
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
        if (verbose) {
            printf("ids");
        }
        for (int special = 0; special < 3; special++) {
            encode(&vocab, s, special, verbose && special == 0);
        }
        uint64_t ends = 0;
        for (uint32_t id = 0; id < vocab.tables->n_tokens; id++) {
            ends += (uint64_t)nyb_vocab_is_end(&vocab, id);
        }
        if (verbose) {
            printf(" ends %" PRIu64 "\n", ends);
        }
    } else if (verbose) {
        printf("error: %s (%" PRIu64 ", %" PRIu64 ")\n", error.what, error.at, error.value);
    }
    free(tables);
    return accepted;
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
    sample s;
    if (argc == 3 && strcmp(argv[1], "--cut") == 0) {
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
