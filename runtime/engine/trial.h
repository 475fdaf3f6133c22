/* SPDX-License-Identifier: MIT
 * Which of two ways of a call is the quicker, found out while they are in use.
 *
 * Calls come in pairs, one in each way, the first of a pair by turns; the way that is quicker in
 * most of 16 pairs is kept for some minutes. Only neighbours are compared, so it does not matter
 * that calls get slower as a context grows, or that a pair is disturbed.
 */
#ifndef NYB_TRIAL_H
#define NYB_TRIAL_H

#include <stdint.h>

enum {
    NYB_TRIAL_PAIRS = 16,
    NYB_TRIAL_CALLS = 4096, /* until it is tried again: memory may have got other pages by then */
};

/* Begins as zeros. */
typedef struct nyb_trial {
    uint32_t call;  /* the number of the next */
    uint32_t wins;  /* pairs in which way 1 was the quicker */
    uint32_t way;   /* 0 or 1: what the last trial found */
    int64_t before; /* nanoseconds that the pair's first call took */
} nyb_trial;

static inline int nyb_is_trying(const nyb_trial *t) { return t->call < 2 * NYB_TRIAL_PAIRS; }

/* 0 or 1: how the next call is done. */
static inline uint32_t nyb_way(const nyb_trial *t) {
    const uint32_t pair = t->call / 2, is_second = t->call % 2;
    return nyb_is_trying(t) ? (pair + is_second) % 2 : t->way;
}

/* That call took so long. */
static inline void nyb_took(nyb_trial *t, int64_t ns) {
    if (nyb_is_trying(t)) {
        const uint32_t is_second = t->call % 2, way = nyb_way(t);
        const int is_quicker = is_second && ns < t->before;
        if (is_second)
            t->wins += is_quicker ? way : !way;
        t->before = ns;
    }
    t->call = (t->call + 1) % NYB_TRIAL_CALLS;
    if (t->call == 2 * NYB_TRIAL_PAIRS) {
        t->way = t->wins > NYB_TRIAL_PAIRS / 2;
        t->wins = 0;
    }
}

#endif
