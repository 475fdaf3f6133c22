/* SPDX-License-Identifier: MIT
 * Finding special tokens in a text, the longest spelling first.
 *
 * What is to come out is defined by passes: for each special token, the longest first and of equal
 * ones that of the least id, the text is gone through from left to right, and the token is cut out
 * wherever all of its spelling is still free. Here every place of the text has one candidate, the
 * longest token that starts there, and the candidates wait in a heap in the order of the passes.
 * One whose end is taken by then gives way to the longest that stops short of that. It does so
 * log2(NYB_VOCAB_SPECIAL_BYTES) times at most: what took its end is no shorter than it is, so the
 * room that is left is halved each time that an end is taken again.
 */
#include <string.h>

#include "nyb_encoder.h"

enum { BLOCK = 16 }; /* bytes compared in a step */

/* The length of what `a` and `b` begin with in common, `to` at most; `from` bytes are known to. */
static size_t common(nyb_encoder *e, const uint8_t *a, const uint8_t *b, size_t from, size_t to) {
    size_t n = from;
    while (to - n >= BLOCK && memcmp(a + n, b + n, BLOCK) == 0) {
        n += BLOCK;
        e->stats->steps++;
    }
    while (n < to && a[n] == b[n]) {
        n++;
    }
    e->stats->steps++;
    return n;
}

/* Special token `which`, or the longest that it begins with, of `most` bytes at most; or NONE. */
static uint32_t shortened(nyb_encoder *e, const nyb_specials *s, uint32_t which, size_t most) {
    while (which != NYB_VOCAB_NONE && nyb_vocab_text(e->vocab, s->id[which]).n > most) {
        const uint32_t jump = s->jump[which];
        const int is_short =
            jump == NYB_VOCAB_NONE || nyb_vocab_text(e->vocab, s->id[jump]).n <= most;
        which = is_short ? s->parent[which] : jump;
        e->stats->steps++;
    }
    return which;
}

/* The longest special token that text[0..n), n > 0, begins with, or NONE. The last one that is not
 * behind the text in order of spelling is looked for; the text begins with as much of it as with
 * any, so it is that one or an ancestor. */
static uint32_t longest_special(nyb_encoder *e, const nyb_specials *s, const uint8_t *text,
                                size_t n) {
    const uint32_t first = s->from[text[0]];
    uint32_t low = first, high = s->from[text[0] + 1];
    size_t low_common = 1, high_common = 1; /* bytes of the text that the one there begins with */
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const nyb_string spelling = nyb_vocab_text(e->vocab, s->id[middle]);
        const size_t most = spelling.n < n ? spelling.n : n;
        const size_t known = low_common < high_common ? low_common : high_common;
        const size_t same = common(e, spelling.at, text, known, most);
        if (same == spelling.n || (same < most && spelling.at[same] < text[same])) {
            low = middle + 1;
            low_common = same;
        } else {
            high = middle;
            high_common = same;
        }
    }
    return low == first ? NYB_VOCAB_NONE : shortened(e, s, low - 1, low_common);
}

static void add_candidate(nyb_encoder *e, const nyb_specials *s, uint32_t at, uint32_t which) {
    e->word.id[at] = which;
    e->word.rank[at] = s->place[which];
    nyb_heap_put(e, at);
}

/* Cuts out what can be of the candidates in the heap. word.start has where a token starts that
 * covers a byte. Of a candidate whose first byte is free only one token can be in the way, for no
 * shorter one has been cut out yet: the one that covers its last byte. */
static void mark_candidates(nyb_encoder *e, const nyb_specials *s) {
    while (e->heap_size > 0) {
        const uint32_t at = nyb_heap_take(e), which = e->word.id[at];
        const uint32_t length = (uint32_t)nyb_vocab_text(e->vocab, s->id[which]).n;
        if (e->marks[at] != NYB_MARK_FREE) {
            continue;
        }
        if (e->marks[at + length - 1] != NYB_MARK_FREE) {
            const uint32_t room = e->word.start[at + length - 1] - at;
            const uint32_t next = shortened(e, s, which, room);
            if (next != NYB_VOCAB_NONE) {
                add_candidate(e, s, at, next);
            }
            continue;
        }
        for (uint32_t i = at; i < at + length; i++) {
            e->marks[i] = NYB_MARK_COVERED;
            e->word.start[i] = at;
        }
        e->marks[at] = s->id[which] + 1;
        e->stats->steps += length;
    }
}

int nyb_mark_specials(nyb_encoder *e, const nyb_encoder_input *in) {
    const nyb_specials specials = nyb_vocab_specials(e->tables, in->special != 0);
    size_t end = 0; /* of the candidates so far: those from there on do not touch them */
    int found = 0;
    e->heap_size = 0;
    for (size_t at = 0, next_break = 0; at < in->n; at++) {
        if (specials.from[in->text[at]] == specials.from[in->text[at] + 1]) {
            continue;
        }
        while (next_break < in->n_breaks && in->breaks[next_break] <= at) {
            next_break++;
        }
        const int is_broken = next_break < in->n_breaks && in->breaks[next_break] < in->n;
        const size_t stop = is_broken ? in->breaks[next_break] : in->n;
        const uint32_t which = longest_special(e, &specials, in->text + at, stop - at);
        if (which == NYB_VOCAB_NONE) {
            continue;
        }
        if (!found) {
            memset(e->marks, 0, in->n * sizeof e->marks[0]);
            found = 1;
        }
        if (at >= end) {
            mark_candidates(e, &specials);
        }
        const size_t length = nyb_vocab_text(e->vocab, specials.id[which]).n;
        end = at + length > end ? at + length : end;
        add_candidate(e, &specials, (uint32_t)at, which);
    }
    mark_candidates(e, &specials);
    return found;
}
