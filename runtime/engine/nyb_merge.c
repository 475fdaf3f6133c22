/* SPDX-License-Identifier: MIT
 * Merging the symbols of one word into tokens.
 */
#include <string.h>

#include "nyb_encoder.h"
#include "nyb_unicode.h"

enum { SHORT_WORD = 32 }; /* symbols */

#define NONE NYB_VOCAB_NONE

/* ---- Symbols and pairs ---- */

/* The end of the symbol that starts at `at` of the word: a byte, or a character. */
static uint32_t symbol_end(const nyb_encoder *e, uint32_t at) {
    uint32_t c;
    return e->tables->kind == NYB_VOCAB_BYTES
               ? at + 1
               : at + (uint32_t)nyb_utf8_decode(e->word_text + at, e->word_bytes - at, &c);
}

/* The token of the symbol in [from, to), or NONE. */
static uint32_t symbol_id(nyb_encoder *e, uint32_t from, uint32_t to) {
    uint32_t rank;
    if (e->tables->kind == NYB_VOCAB_BYTES) {
        return e->tables->byte_ids[e->word_text[from]];
    }
    e->stats->steps += to - from;
    return e->tables->kind == NYB_VOCAB_PIECES
               ? nyb_vocab_piece(e->vocab, e->word_text + from, to - from, &rank)
               : nyb_vocab_find(e->vocab, e->word_text + from, to - from);
}

/* The rank of merging the symbols `left` and `right` that fill [from, to), or NONE. */
static inline uint32_t pair_rank(nyb_encoder *e, uint32_t left, uint32_t right, uint32_t from,
                                 uint32_t to, uint32_t *result) {
    uint32_t rank;
    if (e->tables->kind == NYB_VOCAB_PIECES) {
        e->stats->steps++;
        if (to - from > e->tables->longest) {
            return NONE;
        }
        e->stats->steps += to - from;
        *result = nyb_vocab_piece(e->vocab, e->word_text + from, to - from, &rank);
        return *result == NONE ? NONE : rank;
    }
    rank = nyb_vocab_rank(e->tables, left, right, &e->stats->steps);
    *result = rank == NONE ? NONE : e->merges[rank].result;
    return rank;
}

/* Writes the ids of a symbol: its token, or the tokens of its bytes. */
static size_t put_symbol(nyb_encoder *e, uint32_t id, uint32_t from, uint32_t to, uint32_t *ids,
                         size_t n_ids) {
    const nyb_vocab_tables *t = e->tables;
    const int was_unknown = e->is_unknown;
    e->is_unknown = 0;
    if (id != NONE) {
        ids[n_ids++] = id;
        return n_ids;
    }
    if (t->kind == NYB_VOCAB_BYTES) {
        return n_ids;
    }
    for (uint32_t at = from; at < to; at++) {
        e->is_unknown |= t->byte_ids[e->word_text[at]] == NONE;
    }
    if (e->is_unknown) { /* what is unknown in a row is one token, as in SentencePiece */
        if (t->unknown != NONE && !was_unknown) {
            ids[n_ids++] = t->unknown;
        }
        return n_ids;
    }
    for (uint32_t at = from; at < to; at++) {
        ids[n_ids++] = t->byte_ids[e->word_text[at]];
    }
    return n_ids;
}

/* ---- The queue of pairs: buckets ---- */

static void clear_buckets(nyb_encoder *e) {
    uint64_t masks = e->tables->n_merges;
    for (int level = 0; level < e->levels; level++) {
        masks = (masks + 63) / 64;
        memset(e->masks[level], 0, (size_t)(8 * masks));
    }
    e->buckets_are_clear = 1; /* and are again whenever a word is finished */
}

static void bucket_insert(nyb_encoder *e, uint32_t at) {
    uint32_t index = e->word.rank[at];
    uint32_t *first = &e->bucket[index];
    const int filled = (int)(e->masks[0][index / 64] >> index % 64 & 1);
    e->word.earlier[at] = NONE;
    e->word.later[at] = filled ? *first : NONE;
    if (filled) {
        e->word.earlier[*first] = at;
    }
    *first = at;
    for (int level = 0; level < e->levels; level++, index /= 64) {
        e->masks[level][index / 64] |= (uint64_t)1 << index % 64;
    }
}

static void bucket_remove(nyb_encoder *e, uint32_t at) {
    uint32_t index = e->word.rank[at];
    const uint32_t later = e->word.later[at], earlier = e->word.earlier[at];
    if (later != NONE) {
        e->word.earlier[later] = earlier;
    }
    if (earlier != NONE) {
        e->word.later[earlier] = later;
        return;
    }
    e->bucket[index] = later;
    for (int level = 0; later == NONE && level < e->levels; level++, index /= 64) {
        e->masks[level][index / 64] &= ~((uint64_t)1 << index % 64);
        if (e->masks[level][index / 64] != 0) {
            break;
        }
    }
}

/* Some pair of the least rank, or NONE if no pair is left. */
static uint32_t bucket_least(const nyb_encoder *e) {
    uint32_t index = 0;
    for (int level = e->levels - 1; level >= 0; level--) {
        const uint64_t mask = e->masks[level][index];
        if (mask == 0) {
            return NONE;
        }
        index = index * 64 + (uint32_t)__builtin_ctzll(mask);
    }
    return e->bucket[index];
}

/* ---- The queue of pairs: a heap by rank, then position ---- */

static int heap_before(const nyb_encoder *e, uint32_t a, uint32_t b) {
    const uint32_t *rank = e->word.rank;
    return rank[a] != rank[b] ? rank[a] < rank[b] : a < b;
}

static void heap_put(nyb_encoder *e, uint32_t place_at, uint32_t at) {
    e->word.later[place_at] = at;
    e->word.earlier[at] = place_at;
}

/* Finds the place of pair `at`, for which `hole` is free, up or down from there. */
static void heap_settle(nyb_encoder *e, uint32_t hole, uint32_t at) {
    const uint32_t *heap = e->word.later;
    while (hole > 0 && heap_before(e, at, heap[(hole - 1) / 2])) {
        heap_put(e, hole, heap[(hole - 1) / 2]);
        hole = (hole - 1) / 2;
        e->stats->steps++;
    }
    for (uint32_t child; (child = 2 * hole + 1) < e->heap_size; hole = child) {
        if (child + 1 < e->heap_size && heap_before(e, heap[child + 1], heap[child])) {
            child++;
        }
        if (!heap_before(e, heap[child], at)) {
            break;
        }
        heap_put(e, hole, heap[child]);
        e->stats->steps++;
    }
    heap_put(e, hole, at);
}

static void heap_remove(nyb_encoder *e, uint32_t at) {
    const uint32_t hole = e->word.earlier[at], last = e->word.later[--e->heap_size];
    if (last != at) {
        heap_settle(e, hole, last);
    }
}

void nyb_heap_put(nyb_encoder *e, uint32_t at) { heap_settle(e, e->heap_size++, at); }

uint32_t nyb_heap_take(nyb_encoder *e) {
    const uint32_t at = e->word.later[0];
    heap_remove(e, at);
    return at;
}

/* ---- Long words ---- */

/* Looks up the pair that starts at symbol `at` and puts it in the queue. */
static void pair_insert(nyb_encoder *e, uint32_t at) {
    const nyb_symbols *w = &e->word;
    const uint32_t next = w->next[at];
    w->rank[at] = NONE;
    if (next == NONE) {
        return;
    }
    const uint32_t end = w->next[next] == NONE ? e->word_bytes : w->start[w->next[next]];
    w->rank[at] = pair_rank(e, w->id[at], w->id[next], w->start[at], end, &w->result[at]);
    if (w->rank[at] == NONE) {
        return;
    }
    if (e->tables->in_order) {
        bucket_insert(e, at);
    } else {
        nyb_heap_put(e, at);
    }
}

static void pair_remove(nyb_encoder *e, uint32_t at) {
    e->stats->steps++;
    if (e->word.rank[at] == NONE) {
        return;
    }
    if (e->tables->in_order) {
        bucket_remove(e, at);
    } else {
        heap_remove(e, at);
    }
    e->word.rank[at] = NONE;
}

static void merge_pair(nyb_encoder *e, uint32_t at) {
    const nyb_symbols *w = &e->word;
    const uint32_t gone = w->next[at], previous = w->previous[at], result = w->result[at];
    pair_remove(e, gone);
    pair_remove(e, at);
    w->id[at] = result;
    w->next[at] = w->next[gone];
    if (w->next[at] != NONE) {
        w->previous[w->next[at]] = at;
    }
    pair_insert(e, at);
    if (previous != NONE) {
        pair_remove(e, previous);
        pair_insert(e, previous);
    }
    e->stats->merges++;
}

/* Merges pairs of one rank around `at`. Where merges are in order, those that do not touch may be
 * merged in any order, since nothing of a lower or the same rank can arise between them. Those
 * that touch are runs of one symbol, A A A, and there the leftmost comes first: so the whole run
 * is merged from its start, which costs a step a symbol. */
static void merge_run(nyb_encoder *e, uint32_t at) {
    const nyb_symbols *w = &e->word;
    const uint32_t rank = w->rank[at];
    while (w->previous[at] != NONE && w->rank[w->previous[at]] == rank) {
        at = w->previous[at];
        e->stats->steps++;
    }
    while (at != NONE && w->rank[at] == rank) {
        merge_pair(e, at);
        at = w->next[at];
    }
}

/* Makes the symbols of the word, each a piece of its own. */
static void start_long(nyb_encoder *e) {
    const nyb_symbols *w = &e->word;
    uint32_t last = 0;
    for (uint32_t at = 0, i = 0; at < e->word_bytes; i++) {
        const uint32_t end = symbol_end(e, at);
        w->id[i] = symbol_id(e, at, end);
        w->start[i] = at;
        w->previous[i] = i == 0 ? NONE : i - 1;
        w->next[i] = end == e->word_bytes ? NONE : i + 1;
        last = i;
        at = end;
    }
    if (e->tables->in_order && !e->buckets_are_clear) {
        clear_buckets(e);
    }
    e->heap_size = 0;
    for (uint32_t i = 0; i <= last; i++) {
        pair_insert(e, i);
    }
}

static size_t merge_long(nyb_encoder *e, uint32_t *ids) {
    const nyb_symbols *w = &e->word;
    start_long(e);
    if (e->tables->in_order) {
        for (uint32_t at; (at = bucket_least(e)) != NONE;) {
            merge_run(e, at);
        }
    } else {
        while (e->heap_size > 0) {
            merge_pair(e, w->later[0]);
        }
    }
    size_t n_ids = 0;
    for (uint32_t at = 0; at != NONE; at = w->next[at]) {
        const uint32_t end = w->next[at] == NONE ? e->word_bytes : w->start[w->next[at]];
        n_ids = put_symbol(e, w->id[at], w->start[at], end, ids, n_ids);
    }
    return n_ids;
}

/* ---- Short words ---- */

typedef struct {
    size_t n;
    uint32_t id[SHORT_WORD];
    uint32_t start[SHORT_WORD + 1]; /* the last is the end of the word */
    uint32_t rank[SHORT_WORD];
    uint32_t result[SHORT_WORD];
} short_word;

/* Makes the symbols of the word; 0 if they are too many. */
static int start_short(nyb_encoder *e, short_word *w) {
    uint32_t at = 0;
    for (w->n = 0; at < e->word_bytes; w->n++) {
        if (w->n == SHORT_WORD) {
            return 0;
        }
        w->start[w->n] = at;
        at = symbol_end(e, at);
    }
    w->start[w->n] = at;
    for (size_t i = 0; i < w->n; i++) {
        w->id[i] = symbol_id(e, w->start[i], w->start[i + 1]);
    }
    return 1;
}

static void look_up(nyb_encoder *e, short_word *w, size_t i) {
    w->rank[i] = pair_rank(e, w->id[i], w->id[i + 1], w->start[i], w->start[i + 2], &w->result[i]);
}

/* Drops the row behind `at` from an array of n. */
static void close_up(uint32_t *rows, size_t at, size_t n) {
    memmove(&rows[at + 1], &rows[at + 2], (n - at - 2) * sizeof rows[0]);
}

static size_t merge_short(nyb_encoder *e, short_word *w, uint32_t *ids) {
    for (size_t i = 0; i + 1 < w->n; i++) {
        look_up(e, w, i);
    }
    while (w->n > 1) {
        size_t least = 0;
        for (size_t i = 1; i + 1 < w->n; i++) {
            least = w->rank[i] < w->rank[least] ? i : least;
        }
        e->stats->steps += w->n;
        if (w->rank[least] == NONE) {
            break;
        }
        w->id[least] = w->result[least];
        close_up(w->id, least, w->n);
        close_up(w->start, least, w->n + 1);
        if (least + 2 < w->n) {
            close_up(w->rank, least, w->n - 1);
            close_up(w->result, least, w->n - 1);
        }
        w->n--;
        e->stats->merges++;
        if (least + 1 < w->n) {
            look_up(e, w, least);
        }
        if (least > 0) {
            look_up(e, w, least - 1);
        }
    }
    size_t n_ids = 0;
    for (size_t i = 0; i < w->n; i++) {
        n_ids = put_symbol(e, w->id[i], w->start[i], w->start[i + 1], ids, n_ids);
    }
    return n_ids;
}

size_t nyb_merge_word(nyb_encoder *e, const uint8_t *text, size_t n, uint32_t *ids) {
    short_word word;
    e->word_text = text;
    e->word_bytes = (uint32_t)n;
    e->stats->steps += n;
    if (n <= 4 * SHORT_WORD && start_short(e, &word)) {
        return merge_short(e, &word, ids);
    }
    return merge_long(e, ids);
}
