/* SPDX-License-Identifier: MIT
 * Vocabularies for the fuzz targets.
 */
#include "maker.h"

#include "../engine/checks.h"
#include "nyb_vocab_tables.h"

static void put_number(uint8_t *at, uint64_t value, size_t n) {
    for (size_t i = 0; i < n; i++) {
        at[i] = (uint8_t)(value >> 8 * i);
    }
}

void maker_start(maker *m, uint32_t kind) {
    m->file = (nyb_vocab_file){.tokens = m->tokens,
                               .merges = m->merges,
                               .scores = m->scores,
                               .types = m->types,
                               .kind = kind,
                               .unknown = NYB_VOCAB_NONE};
}

/* Appends a string to a region; whether it had room. */
static int put_string(uint8_t *region, uint64_t *nbytes, const void *text, size_t n) {
    if (n > MAKER_BYTES - 8 || *nbytes > MAKER_BYTES - 8 - n) {
        return 0;
    }
    put_number(region + *nbytes, n, 8);
    if (n > 0) {
        memcpy(region + *nbytes + 8, text, n);
    }
    *nbytes += 8 + n;
    return 1;
}

void maker_token(maker *m, const void *spelling, size_t n, uint32_t type, float score) {
    nyb_vocab_file *f = &m->file;
    uint32_t bits;
    if (f->n_tokens == MAKER_TOKENS || !put_string(m->tokens, &f->tokens_bytes, spelling, n)) {
        return;
    }
    put_number(m->types + 4 * f->n_tokens, type, 4);
    memcpy(&bits, &score, sizeof bits);
    put_number(m->scores + 4 * f->n_tokens, bits, 4);
    f->n_types = ++f->n_tokens;
    f->n_scores = f->kind == NYB_VOCAB_PIECES ? f->n_tokens : 0;
}

void maker_merge(maker *m, const void *line, size_t n) {
    m->file.n_merges += (uint64_t)put_string(m->merges, &m->file.merges_bytes, line, n);
}

void maker_byte_tokens(maker *m, unsigned n) {
    static const char DIGITS[] = "0123456789ABCDEF";
    for (unsigned byte = 0; byte < n; byte++) {
        const char named[6] = {'<', '0', 'x', DIGITS[byte / 16], DIGITS[byte % 16], '>'};
        uint8_t spelling[4];
        if (m->file.kind == NYB_VOCAB_BYTES) {
            maker_token(m, spelling, nyb_byte_alphabet((uint8_t)byte, spelling), NYB_TOKEN_NORMAL,
                        0);
        } else {
            maker_token(m, named, sizeof named, NYB_TOKEN_BYTE, 0);
        }
    }
}

uint64_t maker_string_at(const uint8_t *region, uint64_t nbytes, uint64_t i) {
    uint64_t at = 0;
    for (; i > 0 && at < nbytes; i--) {
        at += 8 + nyb_vocab_number(region + at, 8);
    }
    return at < nbytes ? at : 0;
}

int made_load(made *v, const nyb_vocab_file *file, nyb_error *error) {
    uint64_t nbytes;
    *v = (made){.file = *file};
    v->file.tokens = copy_of(file->tokens, file->tokens_bytes);
    v->file.merges = copy_of(file->merges, file->merges_bytes);
    v->file.scores = copy_of(file->scores, 4 * file->n_scores);
    v->file.types = copy_of(file->types, 4 * file->n_types);
    if (nyb_vocab_measure(&v->file, &nbytes, error)) {
        return -1;
    }
    v->tables = allocate(nbytes);
    memset(v->tables, 0xA5, nbytes);
    return nyb_vocab_build(&v->file, v->tables, &v->vocab, error);
}

void made_free(made *v) {
    free((void *)(uintptr_t)v->file.tokens);
    free((void *)(uintptr_t)v->file.merges);
    free((void *)(uintptr_t)v->file.scores);
    free((void *)(uintptr_t)v->file.types);
    free(v->tables);
}
