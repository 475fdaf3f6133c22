/* SPDX-License-Identifier: MIT
 * Text to token ids: special tokens out first, then words, then merges.
 */
#include "nyb_encode.h"

#include <string.h>

#include "nyb_encoder.h"
#include "nyb_pretokenize.h"

enum { WHOLE_WORD = 512 }; /* bytes; no token is longer, or it is found by its merges only */

#define NONE NYB_VOCAB_NONE

static int mask_levels(uint64_t n_merges) {
    int levels = 1;
    for (uint64_t n = (n_merges + 63) / 64; n > 1; n = (n + 63) / 64) {
        levels++;
    }
    return levels;
}

/* Bytes of the longest text to be merged, spelled as the tokens are. */
static uint64_t spelled_bytes(const nyb_vocab_tables *t, size_t n) {
    return t->kind == NYB_VOCAB_BYTES ? n : NYB_SPACE_MARK_BYTES * ((uint64_t)n + t->space_prefix);
}

/* Hands out the scratch's parts; with a null scratch only adds them up. */
static uint64_t place(nyb_encoder *e, const nyb_vocab_tables *t, size_t n, void *scratch) {
    uint8_t *base = scratch;
    const uint64_t symbols = (uint64_t)n + t->space_prefix;
    uint64_t at = 0, masks = t->n_merges;
    e->levels = mask_levels(t->n_merges);
    for (int level = 0; level < e->levels; level++) {
        masks = (masks + 63) / 64;
        e->masks[level] = base ? (uint64_t *)(void *)(base + at) : NULL;
        at += 8 * masks;
    }
    uint32_t **parts[] = {&e->word.id,       &e->word.start,   &e->word.next,
                          &e->word.previous, &e->word.rank,    &e->word.result,
                          &e->word.later,    &e->word.earlier, &e->marks};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        *parts[i] = base ? (uint32_t *)(void *)(base + at) : NULL;
        at += 4 * symbols;
    }
    e->bucket = base ? (uint32_t *)(void *)(base + at) : NULL;
    at += 4 * (uint64_t)t->n_merges;
    e->spelled = base ? base + at : NULL;
    at += t->kind == NYB_VOCAB_BYTES ? 0 : spelled_bytes(t, n);
    return (at + 7) & ~(uint64_t)7;
}

uint64_t nyb_encode_scratch(const nyb_vocab *vocab, size_t n) {
    nyb_encoder e;
    return place(&e, vocab->tables, n, NULL);
}

uint64_t nyb_encode_most(const nyb_vocab *vocab, size_t n) {
    const nyb_vocab_tables *t = vocab->tables;
    if (t->kind == NYB_VOCAB_BYTES) {
        return n;
    }
    /* Where a space has no token it becomes three bytes; each byte of the text may be behind a
     * special token, and have a space put before it. */
    return NYB_SPACE_MARK_BYTES * (uint64_t)n * (t->space_prefix ? 2 : 1);
}

/* ---- Words of bytes ---- */

/* The token that a whole word is, or NONE. Never a special one: words are ordinary text. */
static uint32_t whole_word(const nyb_vocab *vocab, const uint8_t *text, size_t n) {
    uint8_t spelling[2 * WHOLE_WORD];
    size_t length = 0;
    if (n > WHOLE_WORD) {
        return NONE;
    }
    for (size_t i = 0; i < n; i++) {
        length += nyb_byte_alphabet(text[i], spelling + length);
    }
    const uint32_t id = nyb_vocab_find(vocab, spelling, length);
    if (id == NONE) {
        return NONE;
    }
    const unsigned type = nyb_vocab_type(vocab, id);
    const int special = type == NYB_TOKEN_CONTROL || type == NYB_TOKEN_UNKNOWN;
    return special ? NONE : id;
}

static size_t encode_words(nyb_encoder *e, const uint8_t *text, size_t from, size_t to,
                           uint32_t *ids) {
    nyb_words words;
    size_t n_ids = 0;
    nyb_words_start(&words, e->tables->pre, text, from, to);
    while (words.at < to) {
        const size_t start = words.at, n = nyb_words_next(&words) - start;
        const uint32_t whole =
            e->tables->whole_words ? whole_word(e->vocab, text + start, n) : NONE;
        e->stats->steps += n;
        if (whole != NONE) {
            ids[n_ids++] = whole;
        } else {
            n_ids += nyb_merge_word(e, text + start, n, ids + n_ids);
        }
    }
    return n_ids;
}

/* ---- Text whose spaces are spelled U+2581 ---- */

/* Spells a text between special tokens as the tokens are; returns its length in e->spelled. */
static size_t spell(nyb_encoder *e, const uint8_t *text, size_t from, size_t to) {
    const nyb_vocab_tables *t = e->tables;
    size_t n = 0;
    if (from < to && t->space_prefix) {
        memcpy(e->spelled, NYB_SPACE_MARK, NYB_SPACE_MARK_BYTES);
        n += NYB_SPACE_MARK_BYTES;
    }
    for (size_t at = from; at < to; at++) {
        if (text[at] != ' ') {
            e->spelled[n++] = text[at];
        } else {
            memcpy(e->spelled + n, NYB_SPACE_MARK, NYB_SPACE_MARK_BYTES);
            n += NYB_SPACE_MARK_BYTES;
        }
    }
    e->stats->steps += n;
    return n;
}

/* The end of the word that starts at `at`: before a space behind something that no token has in
 * front of a space, and between line ends and what is none where merges are listed. */
static size_t word_end(const nyb_encoder *e, size_t at, size_t n) {
    const uint8_t *text = e->spelled;
    const int lines_apart = e->tables->kind == NYB_VOCAB_CHARS;
    int is_space = nyb_is_space_mark(text, at, n);
    for (size_t i = at + (is_space ? NYB_SPACE_MARK_BYTES : 1); i < n;) {
        const int was_space = is_space;
        is_space = text[i] == 0xE2 && nyb_is_space_mark(text, i, n);
        if ((is_space && !was_space && !e->tables->joins_space[text[i - 1]]) ||
            (lines_apart && (text[i] == '\n') != (text[i - 1] == '\n'))) {
            return i;
        }
        i += is_space ? NYB_SPACE_MARK_BYTES : 1;
    }
    return n;
}

static size_t encode_pieces(nyb_encoder *e, const uint8_t *text, size_t from, size_t to,
                            uint32_t *ids) {
    const size_t n = spell(e, text, from, to);
    size_t n_ids = 0;
    e->is_unknown = 0;
    for (size_t at = 0; at < n;) {
        const size_t end = word_end(e, at, n);
        const uint8_t *word = e->spelled + at;
        const int is_lines = e->tables->kind == NYB_VOCAB_CHARS && word[0] == '\n';
        const uint32_t whole = is_lines ? nyb_vocab_find(e->vocab, word, end - at) : NONE;
        e->stats->steps += end - at;
        if (whole != NONE) { /* Gemma 4 has tokens of line ends that no merges lead to */
            ids[n_ids++] = whole;
            e->is_unknown = 0;
        } else {
            n_ids += nyb_merge_word(e, word, end - at, ids + n_ids);
        }
        at = end;
    }
    return n_ids;
}

/* The ids of text[from..to): what is between special tokens, or the ends of the text. */
static size_t encode_plain(nyb_encoder *e, const uint8_t *text, size_t from, size_t to,
                           uint32_t *ids) {
    return e->tables->kind == NYB_VOCAB_BYTES ? encode_words(e, text, from, to, ids)
                                              : encode_pieces(e, text, from, to, ids);
}

size_t nyb_encode(const nyb_vocab *vocab, const uint8_t *text, size_t n, int special,
                  const uint32_t *breaks, size_t n_breaks, void *scratch, uint32_t *ids,
                  nyb_encode_stats *stats) {
    const nyb_vocab_tables *t = vocab->tables;
    const nyb_encoder_input in = {text, n, special, breaks, n_breaks};
    nyb_encoder e = {.vocab = vocab, .tables = t, .merges = nyb_vocab_merges(t), .stats = stats};
    size_t n_ids = 0, from = 0;
    memset(stats, 0, sizeof *stats);
    (void)place(&e, t, n, scratch);
    if (n == 0) {
        return 0;
    }
    if (!nyb_mark_specials(&e, &in)) {
        return encode_plain(&e, text, 0, n, ids);
    }
    for (size_t at = 0; at < n; at++) {
        if (e.marks[at] == NYB_MARK_FREE || e.marks[at] == NYB_MARK_COVERED) {
            continue;
        }
        const uint32_t id = e.marks[at] - 1;
        n_ids += encode_plain(&e, text, from, at, ids + n_ids);
        ids[n_ids++] = id;
        from = at + nyb_vocab_text(vocab, id).n;
        at = from - 1;
    }
    return n_ids + encode_plain(&e, text, from, n, ids + n_ids);
}
