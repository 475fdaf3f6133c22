/* SPDX-License-Identifier: MIT
 * The definition of encoding, as oracle.h says. It looks up spellings and pairs in the built
 * tables; how special tokens are found and how symbols merge is written down here a second time.
 */
#include "oracle.h"

#include "../engine/checks.h"
#include "nyb_pretokenize.h"
#include "nyb_unicode.h"
#include "nyb_vocab_tables.h"

#define NONE NYB_VOCAB_NONE

typedef struct symbol {
    size_t start, end;
    uint32_t id;
} symbol;

typedef struct oracle {
    const nyb_vocab *vocab;
    uint32_t *ids;
    size_t n_ids;
    int was_unknown;
} oracle;

static uint32_t kind_of(const oracle *o) { return o->vocab->tables->kind; }

/* The rank of merging two neighbours, or NONE. */
static uint32_t rank_of(const oracle *o, const uint8_t *text, symbol a, symbol b,
                        uint32_t *result) {
    const nyb_vocab_tables *t = o->vocab->tables;
    uint32_t rank = NONE;
    if (kind_of(o) == NYB_VOCAB_PIECES) {
        *result = nyb_vocab_piece(o->vocab, text + a.start, b.end - a.start, &rank);
        return *result == NONE ? NONE : rank;
    }
    for (uint32_t i = 0; i < t->n_merges; i++) { /* the first that says so counts */
        const nyb_merge *m = &nyb_vocab_merges(t)[i];
        if (m->left == a.id && m->right == b.id) {
            *result = m->result;
            return i;
        }
    }
    return NONE;
}

static uint32_t id_of_symbol(const oracle *o, const uint8_t *text, size_t from, size_t to) {
    uint32_t rank;
    switch (kind_of(o)) {
    case NYB_VOCAB_BYTES:
        return o->vocab->tables->byte_ids[text[from]];
    case NYB_VOCAB_PIECES:
        return nyb_vocab_piece(o->vocab, text + from, to - from, &rank);
    default:
        return nyb_vocab_find(o->vocab, text + from, to - from);
    }
}

static void put(oracle *o, uint32_t id) { o->ids[o->n_ids++] = id; }

/* The ids of what merging has left: a token, the tokens of its bytes, or the unknown one. */
static void put_symbol(oracle *o, const uint8_t *text, symbol s) {
    const nyb_vocab_tables *t = o->vocab->tables;
    const int was_unknown = o->was_unknown;
    int lacks = 0;
    o->was_unknown = 0;
    if (s.id != NONE) {
        put(o, s.id);
        return;
    }
    if (kind_of(o) == NYB_VOCAB_BYTES) {
        return;
    }
    for (size_t at = s.start; at < s.end; at++) {
        lacks |= t->byte_ids[text[at]] == NONE;
    }
    for (size_t at = s.start; at < s.end && !lacks; at++) {
        put(o, t->byte_ids[text[at]]);
    }
    if (lacks && !was_unknown && t->unknown != NONE) {
        put(o, t->unknown);
    }
    o->was_unknown = lacks;
}

/* Merges the leftmost pair of the least rank until there is none. */
static void merge_all(oracle *o, const uint8_t *text, size_t n) {
    symbol *s = allocate(n * sizeof *s);
    uint32_t *ranks = allocate(n * sizeof *ranks), *results = allocate(n * sizeof *results);
    size_t n_symbols = 0;
    for (size_t at = 0; at < n;) {
        uint32_t c;
        const size_t length =
            kind_of(o) == NYB_VOCAB_BYTES ? 1 : nyb_utf8_decode(text + at, n - at, &c);
        s[n_symbols++] = (symbol){at, at + length, id_of_symbol(o, text, at, at + length)};
        at += length;
    }
    for (size_t i = 0; i + 1 < n_symbols; i++) {
        ranks[i] = rank_of(o, text, s[i], s[i + 1], &results[i]);
    }
    while (n_symbols > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n_symbols; i++) {
            best = ranks[i] < ranks[best] ? i : best;
        }
        if (ranks[best] == NONE) {
            break;
        }
        s[best].end = s[best + 1].end;
        s[best].id = results[best];
        n_symbols--;
        for (size_t i = best + 1; i < n_symbols; i++) {
            s[i] = s[i + 1];
            ranks[i] = ranks[i + 1];
            results[i] = results[i + 1];
        }
        for (size_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < n_symbols; i++) {
            ranks[i] = rank_of(o, text, s[i], s[i + 1], &results[i]);
        }
    }
    for (size_t i = 0; i < n_symbols; i++) {
        put_symbol(o, text, s[i]);
    }
    free(results);
    free(ranks);
    free(s);
}

/* BYTES: the token that a word is, if words may be tokens as they are. */
static uint32_t whole_word(const oracle *o, const uint8_t *text, size_t n) {
    uint8_t spelling[1024];
    size_t length = 0;
    if (!o->vocab->tables->whole_words || n > sizeof spelling / 2) {
        return NONE;
    }
    for (size_t i = 0; i < n; i++) {
        length += nyb_byte_alphabet(text[i], spelling + length);
    }
    const uint32_t id = nyb_vocab_find(o->vocab, spelling, length);
    if (id == NONE) {
        return NONE;
    }
    const unsigned type = nyb_vocab_type(o->vocab, id);
    return type == NYB_TOKEN_CONTROL || type == NYB_TOKEN_UNKNOWN ? NONE : id;
}

static void encode_words(oracle *o, const uint8_t *text, size_t from, size_t to) {
    nyb_words words;
    nyb_words_start(&words, o->vocab->tables->pre, text, from, to);
    while (words.at < to) {
        const size_t start = words.at, end = nyb_words_next(&words);
        must(start < end && end <= to, "a word that is empty or too long");
        const uint32_t whole = whole_word(o, text + start, end - start);
        if (whole != NONE) {
            put(o, whole);
        } else {
            merge_all(o, text + start, end - start);
        }
    }
}

/* CHARS: line ends and what is between them merge apart; line ends that are a token are that. */
static void encode_lines(oracle *o, const uint8_t *text, size_t n) {
    for (size_t at = 0, end; at < n; at = end) {
        for (end = at + 1; end < n && (text[end] == '\n') == (text[at] == '\n'); end++) {
        }
        const uint32_t whole =
            text[at] == '\n' ? nyb_vocab_find(o->vocab, text + at, end - at) : NONE;
        if (whole != NONE) {
            put(o, whole);
            o->was_unknown = 0;
        } else {
            merge_all(o, text + at, end - at);
        }
    }
}

static void encode_plain(oracle *o, const uint8_t *text, size_t from, size_t to) {
    const nyb_vocab_tables *t = o->vocab->tables;
    size_t n = 0;
    if (from == to) {
        return;
    }
    if (kind_of(o) == NYB_VOCAB_BYTES) {
        encode_words(o, text, from, to);
        return;
    }
    uint8_t *spelled = allocate(NYB_SPACE_MARK_BYTES * (to - from + 1));
    for (size_t at = from; at < to; at++) {
        if (at == from && t->space_prefix) {
            memcpy(spelled, NYB_SPACE_MARK, NYB_SPACE_MARK_BYTES);
            n = NYB_SPACE_MARK_BYTES;
        }
        if (text[at] == ' ') {
            memcpy(spelled + n, NYB_SPACE_MARK, NYB_SPACE_MARK_BYTES);
            n += NYB_SPACE_MARK_BYTES;
        } else {
            spelled[n++] = text[at];
        }
    }
    o->was_unknown = 0;
    if (kind_of(o) == NYB_VOCAB_CHARS) {
        encode_lines(o, spelled, n);
    } else {
        merge_all(o, spelled, n);
    }
    free(spelled);
}

static int is_free(const uint32_t *marks, size_t from, size_t to) {
    while (from < to && marks[from] == NONE) {
        from++;
    }
    return from == to;
}

static int crosses(size_t from, size_t to, const uint32_t *breaks, size_t n_breaks) {
    for (size_t i = 0; i < n_breaks; i++) {
        if (from < breaks[i] && breaks[i] < to) {
            return 1;
        }
    }
    return 0;
}

/* The special token whose turn is after that of `last` (NONE: the first one): the longest spelling
 * first, of equal ones the least id. */
static uint32_t next_special(const nyb_vocab *vocab, int special, uint32_t last) {
    uint32_t next = NONE;
    size_t next_length = 0;
    for (uint32_t id = 0; id < vocab->tables->n_tokens; id++) {
        const unsigned type = nyb_vocab_type(vocab, id);
        const size_t n = nyb_vocab_text(vocab, id).n;
        const size_t last_length = last == NONE ? SIZE_MAX : nyb_vocab_text(vocab, last).n;
        const int is_special =
            type == NYB_TOKEN_USER_DEFINED ||
            (special && (type == NYB_TOKEN_CONTROL || type == NYB_TOKEN_UNKNOWN));
        const int is_later = n < last_length || (n == last_length && id > last);
        if (is_special && n > next_length && is_later) {
            next = id;
            next_length = n;
        }
    }
    return next;
}

size_t oracle_encode(const nyb_vocab *vocab, const uint8_t *text, size_t n, int special,
                     const uint32_t *breaks, size_t n_breaks, uint32_t *ids) {
    oracle o = {.vocab = vocab, .ids = ids};
    uint32_t *marks = allocate(n * sizeof *marks); /* the token that covers a byte */
    uint8_t *starts = allocate(n);
    size_t from = 0;
    for (size_t at = 0; at < n; at++) {
        marks[at] = NONE;
        starts[at] = 0;
    }
    for (uint32_t id = NONE; (id = next_special(vocab, special, id)) != NONE;) {
        const nyb_string s = nyb_vocab_text(vocab, id);
        for (size_t at = 0; at + s.n <= n; at++) {
            if (memcmp(text + at, s.at, s.n) == 0 && is_free(marks, at, at + s.n) &&
                !crosses(at, at + s.n, breaks, n_breaks)) {
                starts[at] = 1;
                for (size_t i = at; i < at + s.n; i++) {
                    marks[i] = id;
                }
            }
        }
    }
    for (size_t at = 0; at < n; at++) {
        if (starts[at]) {
            encode_plain(&o, text, from, at);
            put(&o, marks[at]);
            from = at + nyb_vocab_text(vocab, marks[at]).n;
        }
    }
    encode_plain(&o, text, from, n);
    free(starts);
    free(marks);
    return o.n_ids;
}

/* Encodes into new blocks, whose bytes are `filling` before. */
static uint32_t *encode_once(const nyb_vocab *vocab, const uint8_t *text, size_t n, int special,
                             const uint32_t *breaks, size_t n_breaks, int filling, size_t *n_ids) {
    const uint64_t most = nyb_encode_most(vocab, n), nbytes = nyb_encode_scratch(vocab, n);
    uint32_t *ids = allocate(most * sizeof *ids);
    uint8_t *scratch = allocate(nbytes);
    nyb_encode_stats stats;
    memset(scratch, filling, nbytes);
    *n_ids = nyb_encode(vocab, text, n, special, breaks, n_breaks, scratch, ids, &stats);
    must(*n_ids <= most, "more ids than may come out");
    /* Of a byte of the text at most three become bytes to be merged; each of these is in at most
     * log2(3 n) merges with a search of NYB_VOCAB_PROBES places, and may begin a special token. */
    must(stats.steps <= (n + 1) * 3 * 32 * NYB_VOCAB_PROBES, "an encoding without end");
    free(scratch);
    return ids;
}

uint32_t *encode_checked(const nyb_vocab *vocab, const uint8_t *text, size_t n, int special,
                         const uint32_t *breaks, size_t n_breaks, int by_oracle, size_t *n_ids) {
    size_t n_again;
    uint32_t *ids = encode_once(vocab, text, n, special, breaks, n_breaks, 0, n_ids);
    uint32_t *again = encode_once(vocab, text, n, special, breaks, n_breaks, 0xA5, &n_again);
    must(*n_ids == n_again && (n_again == 0 || memcmp(ids, again, n_again * sizeof *ids) == 0),
         "ids that depend on what was in the scratch");
    free(again);
    for (size_t i = 0; i < *n_ids; i++) {
        must(ids[i] < vocab->tables->n_tokens, "an id that is none");
    }
    if (by_oracle) {
        uint32_t *defined = allocate(nyb_encode_most(vocab, n) * sizeof *defined);
        const size_t n_defined = oracle_encode(vocab, text, n, special, breaks, n_breaks, defined);
        must(*n_ids == n_defined, "another number of ids than the definition gives");
        must(n_defined == 0 || memcmp(ids, defined, n_defined * sizeof *ids) == 0,
             "other ids than the definition gives");
        free(defined);
    }
    return ids;
}
