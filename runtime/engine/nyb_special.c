/* SPDX-License-Identifier: MIT
 * Finding special tokens in a text, the longest spelling first.
 */
#include <string.h>

#include "nyb_encoder.h"

enum { SEEN_CHECKED = 64 }; /* special tokens */

/* Whether a break lies inside text[at..end), that is after its first byte and before its last. */
static int is_broken(const nyb_encoder_input *in, size_t at, size_t end) {
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
static int see_specials(nyb_encoder *e, const nyb_encoder_input *in, size_t at) {
    const uint32_t *specials = nyb_vocab_section(e->tables, specials_at);
    uint32_t low = 0, high = e->tables->n_specials;
    int found = 0;
    for (size_t depth = 0; at + depth < in->n && low < high; depth++) {
        if (high - low <= SEEN_CHECKED && memchr(e->seen + low, 0, high - low) == NULL) {
            break; /* runs of one character: the tokens of all their lengths have been seen */
        }
        const uint8_t byte = in->text[at + depth];
        for (int side = 0; side < 2; side++) { /* first with this byte, first beyond it */
            uint32_t from = low, to = high;
            while (from < to) {
                const uint32_t middle = from + (to - from) / 2;
                const uint8_t *spelling = nyb_vocab_text(e->vocab, specials[middle]).at;
                if (spelling[depth] < byte || (side == 1 && spelling[depth] == byte)) {
                    from = middle + 1;
                } else {
                    to = middle;
                }
                e->stats->steps++;
            }
            *(side == 0 ? &low : &high) = from;
        }
        if (low < high && nyb_vocab_text(e->vocab, specials[low]).n == depth + 1) {
            const unsigned type = nyb_vocab_type(e->vocab, specials[low]);
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
static void mark_special(nyb_encoder *e, const nyb_encoder_input *in, uint32_t which) {
    const uint32_t *specials = nyb_vocab_section(e->tables, specials_at);
    const uint32_t id = specials[which];
    const uint8_t *spelling = nyb_vocab_text(e->vocab, id).at;
    const size_t length = nyb_vocab_text(e->vocab, id).n;
    for (size_t at = 0; at + length <= in->n;) {
        const uint8_t *found = memchr(in->text + at, spelling[0], in->n - length + 1 - at);
        if (found == NULL) {
            break;
        }
        at = (size_t)(found - in->text);
        e->stats->steps++;
        if (e->marks[at] != NYB_MARK_FREE && e->marks[at] != NYB_MARK_COVERED) {
            at += nyb_vocab_text(e->vocab, specials[e->marks[at] - 1]).n;
            continue;
        }
        if (e->marks[at] != NYB_MARK_FREE || e->marks[at + length - 1] != NYB_MARK_FREE ||
            memcmp(found, spelling, length) != 0 || is_broken(in, at, at + length)) {
            at++;
            continue;
        }
        for (size_t i = 1; i < length; i++) {
            e->marks[at + i] = NYB_MARK_COVERED;
        }
        e->marks[at] = which + 1;
        at += length;
    }
}

int nyb_mark_specials(nyb_encoder *e, const nyb_encoder_input *in) {
    const uint32_t *order = nyb_vocab_section(e->tables, special_order_at);
    int found = 0;
    memset(e->seen, 0, e->tables->n_specials);
    for (size_t at = 0; at < in->n; at++) {
        if (e->tables->special_first[in->text[at]]) {
            found |= see_specials(e, in, at);
        }
    }
    if (found) {
        memset(e->marks, 0, in->n * sizeof e->marks[0]);
        for (uint32_t i = 0; i < e->tables->n_specials; i++) {
            if (e->seen[order[i]]) {
                mark_special(e, in, order[i]);
            }
        }
    }
    return found;
}
