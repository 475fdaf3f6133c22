/* SPDX-License-Identifier: MIT
 * Text to token ids: special tokens out first, then words, then merges.
 */
#include <string.h>

#include "nyb_bpe.h"
#include "nyb_bpe_tables.h"
#include "nyb_pretokenize.h"

enum {
    SHORT_WORD = 32,
    WHOLE_WORD = 512, /* no token is longer, or it is found by its merges only */
    MASK_LEVELS = 6   /* 64^6 is more than 2^31 ranks */
};

#define NONE NYB_BPE_NONE

/* The symbols of a long word, a row per byte of it; a symbol stands at its first byte. `rank` is
 * that of the pair with the next symbol, NONE if they do not merge. The pairs wait in a queue:
 * in buckets by rank, each a list through `later` and `earlier`, if the merges are in order, else
 * in a heap whose places `later` holds and `earlier` finds. */
typedef struct {
    uint32_t *id;
    uint32_t *next;
    uint32_t *previous;
    uint32_t *rank;
    uint32_t *later;
    uint32_t *earlier;
} symbols;

typedef struct {
    const nyb_bpe_tables *tables;
    const nyb_bpe_merge *merges;
    nyb_bpe_stats *stats;
    symbols word;
    uint32_t *bucket;             /* first pair of a rank */
    uint64_t *masks[MASK_LEVELS]; /* level 0: which buckets are filled; above: which masks are */
    int levels;
    int buckets_are_clear;
    uint32_t heap_size;
    uint32_t *marks; /* per byte of the text: FREE, COVERED, or 1 + number of a special token */
    uint8_t *seen;   /* per special token: whether its spelling is somewhere in the text */
} encoder;

enum { FREE = 0 };
#define COVERED UINT32_MAX

static int mask_levels(uint64_t n_merges) {
    int levels = 1;
    for (uint64_t n = (n_merges + 63) / 64; n > 1; n = (n + 63) / 64) {
        levels++;
    }
    return levels;
}

/* Hands out the scratch's parts; with a null scratch only adds them up. */
static uint64_t place(encoder *e, const nyb_bpe_tables *t, size_t n, void *scratch) {
    uint8_t *base = scratch;
    uint64_t at = 0, masks = t->n_merges;
    e->levels = mask_levels(t->n_merges);
    for (int level = 0; level < e->levels; level++) {
        masks = (masks + 63) / 64;
        e->masks[level] = base ? (uint64_t *)(void *)(base + at) : NULL;
        at += 8 * masks;
    }
    uint32_t **parts[] = {&e->word.id,    &e->word.next,    &e->word.previous, &e->word.rank,
                          &e->word.later, &e->word.earlier, &e->marks};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        *parts[i] = base ? (uint32_t *)(void *)(base + at) : NULL;
        at += 4 * (uint64_t)n;
    }
    e->bucket = base ? (uint32_t *)(void *)(base + at) : NULL;
    at += 4 * (uint64_t)t->n_merges;
    e->seen = base ? base + at : NULL;
    at += t->n_specials;
    return (at + 7) & ~(uint64_t)7;
}

uint64_t nyb_bpe_scratch_bytes(const nyb_bpe *bpe, size_t n) {
    encoder e;
    return place(&e, bpe->tables, n, NULL);
}

/* ---- The queue of pairs: buckets ---- */

static void clear_buckets(encoder *e) {
    uint64_t masks = e->tables->n_merges;
    for (int level = 0; level < e->levels; level++) {
        masks = (masks + 63) / 64;
        memset(e->masks[level], 0, (size_t)(8 * masks));
    }
    e->buckets_are_clear = 1; /* and are again whenever a word is finished */
}

static void bucket_insert(encoder *e, uint32_t at) {
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

static void bucket_remove(encoder *e, uint32_t at) {
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
static uint32_t bucket_least(const encoder *e) {
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

static int heap_before(const encoder *e, uint32_t a, uint32_t b) {
    const uint32_t *rank = e->word.rank;
    return rank[a] != rank[b] ? rank[a] < rank[b] : a < b;
}

static void heap_put(encoder *e, uint32_t place_at, uint32_t at) {
    e->word.later[place_at] = at;
    e->word.earlier[at] = place_at;
}

/* Finds the place of pair `at`, for which `hole` is free, up or down from there. */
static void heap_settle(encoder *e, uint32_t hole, uint32_t at) {
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

static void heap_remove(encoder *e, uint32_t at) {
    const uint32_t hole = e->word.earlier[at], last = e->word.later[--e->heap_size];
    if (last != at) {
        heap_settle(e, hole, last);
    }
}

/* ---- Long words ---- */

/* Looks up the pair that starts at symbol `at` and puts it in the queue. */
static void pair_insert(encoder *e, uint32_t at) {
    const symbols *w = &e->word;
    const uint32_t next = w->next[at];
    e->stats->steps++;
    w->rank[at] = next == NONE ? NONE : nyb_bpe_rank(e->tables, w->id[at], w->id[next]);
    if (w->rank[at] == NONE) {
        return;
    }
    if (e->tables->in_order) {
        bucket_insert(e, at);
    } else {
        heap_settle(e, e->heap_size++, at);
    }
}

static void pair_remove(encoder *e, uint32_t at) {
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

static void merge_pair(encoder *e, uint32_t at) {
    const symbols *w = &e->word;
    const uint32_t gone = w->next[at], previous = w->previous[at], rank = w->rank[at];
    pair_remove(e, gone);
    pair_remove(e, at);
    w->id[at] = e->merges[rank].result;
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
static void merge_run(encoder *e, uint32_t at) {
    const symbols *w = &e->word;
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

/* Encodes the n bytes of a word; returns the number of ids. */
static size_t encode_long(encoder *e, const uint8_t *text, size_t n, uint32_t *ids) {
    const symbols *w = &e->word;
    const uint32_t last = (uint32_t)n - 1;
    if (e->tables->in_order && !e->buckets_are_clear) {
        clear_buckets(e);
    }
    e->heap_size = 0;
    for (uint32_t at = 0; at <= last; at++) {
        w->id[at] = e->tables->byte_ids[text[at]];
        w->previous[at] = at == 0 ? NONE : at - 1;
        w->next[at] = at == last ? NONE : at + 1;
    }
    for (uint32_t at = 0; at <= last; at++) {
        pair_insert(e, at);
    }
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
        if (w->id[at] != NONE) {
            ids[n_ids++] = w->id[at];
        }
    }
    return n_ids;
}

/* ---- Short words ---- */

static size_t encode_short(encoder *e, const uint8_t *text, size_t n, uint32_t *ids) {
    uint32_t id[SHORT_WORD], rank[SHORT_WORD];
    for (size_t i = 0; i < n; i++) {
        id[i] = e->tables->byte_ids[text[i]];
    }
    for (size_t i = 0; i + 1 < n; i++) {
        rank[i] = nyb_bpe_rank(e->tables, id[i], id[i + 1]);
    }
    e->stats->steps += n;
    for (;;) {
        size_t least = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            least = rank[i] < rank[least] ? i : least;
        }
        if (n < 2 || rank[least] == NONE) {
            break;
        }
        e->stats->steps += n;
        e->stats->merges++;
        id[least] = e->merges[rank[least]].result;
        n--;
        memmove(&id[least + 1], &id[least + 2], (n - least - 1) * sizeof id[0]);
        if (least + 1 < n) {
            memmove(&rank[least + 1], &rank[least + 2], (n - least - 2) * sizeof rank[0]);
            rank[least] = nyb_bpe_rank(e->tables, id[least], id[least + 1]);
        }
        if (least > 0) {
            rank[least - 1] = nyb_bpe_rank(e->tables, id[least - 1], id[least]);
        }
    }
    size_t n_ids = 0;
    for (size_t i = 0; i < n; i++) {
        if (id[i] != NONE) {
            ids[n_ids++] = id[i];
        }
    }
    return n_ids;
}

/* ---- Words and special tokens ---- */

/* The token that a whole word is, or NONE. Never a special one: words are ordinary text. */
static uint32_t whole_word(const nyb_bpe *bpe, const uint8_t *text, size_t n) {
    uint8_t spelling[2 * WHOLE_WORD];
    size_t length = 0;
    if (n > WHOLE_WORD) {
        return NONE;
    }
    for (size_t i = 0; i < n; i++) {
        length += nyb_bpe_alphabet(text[i], spelling + length);
    }
    const uint32_t id = nyb_bpe_find(bpe, spelling, length);
    if (id == NONE) {
        return NONE;
    }
    const unsigned type = nyb_bpe_type(bpe, id);
    const int special = type == NYB_TOKEN_CONTROL || type == NYB_TOKEN_UNKNOWN;
    return special ? NONE : id;
}

static size_t encode_words(encoder *e, const nyb_bpe *bpe, const uint8_t *text, size_t from,
                           size_t to, uint32_t *ids) {
    nyb_words words;
    size_t n_ids = 0;
    nyb_words_start(&words, e->tables->pre, text, from, to);
    while (words.at < to) {
        const size_t start = words.at, n = nyb_words_next(&words) - start;
        const uint32_t whole = e->tables->whole_words ? whole_word(bpe, text + start, n) : NONE;
        e->stats->steps += n;
        if (whole != NONE) {
            ids[n_ids++] = whole;
        } else if (n <= SHORT_WORD) {
            n_ids += encode_short(e, text + start, n, ids + n_ids);
        } else {
            n_ids += encode_long(e, text + start, n, ids + n_ids);
        }
    }
    return n_ids;
}

typedef struct {
    const uint8_t *text;
    size_t n;
    int special;
    const uint32_t *breaks;
    size_t n_breaks;
} input;

/* Whether a break lies inside text[at..end), that is after its first byte and before its last. */
static int is_broken(const input *in, size_t at, size_t end) {
    size_t low = 0, high = in->n_breaks; /* the first break beyond `at` */
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (in->breaks[middle] <= at) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < in->n_breaks && in->breaks[low] < end;
}

/* Marks as seen the special tokens whose spelling starts at `at`. They are sorted by spelling, so
 * those that start with the bytes read so far are a range, and the shortest is its first. */
static int see_specials(encoder *e, const nyb_bpe *bpe, const input *in, size_t at) {
    const uint32_t *specials = nyb_bpe_section(e->tables, specials_at);
    uint32_t low = 0, high = e->tables->n_specials;
    int found = 0;
    for (size_t depth = 0; at + depth < in->n && low < high; depth++) {
        const uint8_t byte = in->text[at + depth];
        for (int side = 0; side < 2; side++) { /* first with this byte, first beyond it */
            uint32_t from = low, to = high;
            while (from < to) {
                const uint32_t middle = from + (to - from) / 2;
                const uint8_t *spelling;
                (void)nyb_bpe_spelling(bpe, specials[middle], &spelling);
                if (spelling[depth] < byte || (side == 1 && spelling[depth] == byte)) {
                    from = middle + 1;
                } else {
                    to = middle;
                }
                e->stats->steps++;
            }
            *(side == 0 ? &low : &high) = from;
        }
        const uint8_t *spelling;
        if (low < high && nyb_bpe_spelling(bpe, specials[low], &spelling) == depth + 1) {
            const unsigned type = nyb_bpe_type(bpe, specials[low]);
            if ((in->special || type == NYB_TOKEN_USER_DEFINED) &&
                !is_broken(in, at, at + depth + 1)) {
                e->seen[low] = 1;
                found = 1;
            }
            low++;
        }
    }
    return found;
}

/* Marks where special token number `which` is, left to right, in what is still free. What covers
 * a part of it already is no shorter, so it covers the first or the last byte. */
static void mark_special(encoder *e, const nyb_bpe *bpe, const input *in, uint32_t which) {
    const uint8_t *spelling;
    const uint32_t id = nyb_bpe_section(e->tables, specials_at)[which];
    const size_t length = nyb_bpe_spelling(bpe, id, &spelling);
    for (size_t at = 0; at + length <= in->n;) {
        const uint8_t *found = memchr(in->text + at, spelling[0], in->n - length + 1 - at);
        if (found == NULL) {
            break;
        }
        at = (size_t)(found - in->text);
        e->stats->steps++;
        if (e->marks[at] != FREE || e->marks[at + length - 1] != FREE ||
            memcmp(found, spelling, length) != 0 || is_broken(in, at, at + length)) {
            at++;
            continue;
        }
        for (size_t i = 1; i < length; i++) {
            e->marks[at + i] = COVERED;
        }
        e->marks[at] = which + 1;
        at += length;
    }
}

/* Marks all special tokens of the text, longest spelling first; 0 if there are none. */
static int mark_specials(encoder *e, const nyb_bpe *bpe, const input *in) {
    const uint32_t *order = nyb_bpe_section(e->tables, special_order_at);
    int found = 0;
    memset(e->seen, 0, e->tables->n_specials);
    for (size_t at = 0; at < in->n; at++) {
        if (e->tables->special_first[in->text[at]]) {
            found |= see_specials(e, bpe, in, at);
        }
    }
    if (found) {
        memset(e->marks, 0, in->n * sizeof e->marks[0]);
        for (uint32_t i = 0; i < e->tables->n_specials; i++) {
            if (e->seen[order[i]]) {
                mark_special(e, bpe, in, order[i]);
            }
        }
    }
    return found;
}

size_t nyb_bpe_encode(const nyb_bpe *bpe, const uint8_t *text, size_t n, int special,
                      const uint32_t *breaks, size_t n_breaks, void *scratch, uint32_t *ids,
                      nyb_bpe_stats *stats) {
    encoder e = {.tables = bpe->tables, .merges = nyb_bpe_merges(bpe->tables), .stats = stats};
    const input in = {text, n, special, breaks, n_breaks};
    const uint32_t *specials = nyb_bpe_section(bpe->tables, specials_at);
    size_t n_ids = 0, from = 0;
    memset(stats, 0, sizeof *stats);
    (void)place(&e, bpe->tables, n, scratch);
    if (n == 0) {
        return 0;
    }
    if (!mark_specials(&e, bpe, &in)) {
        return encode_words(&e, bpe, text, 0, n, ids);
    }
    for (size_t at = 0; at < n; at++) {
        if (e.marks[at] == FREE || e.marks[at] == COVERED) {
            continue;
        }
        const uint32_t id = specials[e.marks[at] - 1];
        const uint8_t *spelling;
        n_ids += encode_words(&e, bpe, text, from, at, ids + n_ids);
        ids[n_ids++] = id;
        from = at + nyb_bpe_spelling(bpe, id, &spelling);
        at = from - 1;
    }
    return n_ids + encode_words(&e, bpe, text, from, n, ids + n_ids);
}
