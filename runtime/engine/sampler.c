/* SPDX-License-Identifier: MIT
 * The sampler. Probabilities come from the softmax row; their sums are made in double precision,
 * one after another. A vocabulary is large and a reply's next token nearly always among the few
 * best, so nothing sorts it: candidates are taken off a heap as far as they are needed.
 */
#include <string.h>

#include "nyb_sampler.h"

typedef struct candidate {
    float logit;
    int32_t id;
} candidate;

/* Room to fill the probabilities up to a multiple of 8. */
static uint64_t padded(uint32_t vocab) { return ((uint64_t)vocab + NYB_LANES - 1) / NYB_LANES * 8; }

uint64_t nyb_sample_scratch(uint32_t vocab) {
    return padded(vocab) * (2 * sizeof(candidate) + 2 * sizeof(float));
}

void nyb_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* Uniform in [0, 1), 53 bits. */
static double draw(const nyb_sampling *s, uint64_t n_tokens) {
    const uint32_t counter[4] = {(uint32_t)n_tokens, (uint32_t)(n_tokens >> 32), s->choice, 0};
    const uint32_t key[2] = {(uint32_t)s->seed, (uint32_t)(s->seed >> 32)};
    uint32_t word[4];
    nyb_philox(counter, key, word);
    return (double)((uint64_t)word[0] << 21 | word[1] >> 11) * 0x1p-53;
}

/* a is better than b: a larger logit, or the same and a lower id. */
static int better(candidate a, candidate b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* Lets c sink into a heap whose top is its best, or its worst. */
static inline void sink(candidate *heap, uint32_t n, uint32_t i, candidate c, int best_on_top) {
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= n)
            break;
        if (child + 1 < n && better(heap[child], heap[child + 1]) != best_on_top)
            child++;
        if (better(c, heap[child]) == best_on_top)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = c;
}

static inline void make_heap(candidate *c, uint32_t n, int best_on_top) {
    for (uint32_t i = n / 2; i-- > 0;)
        sink(c, n, i, c[i], best_on_top);
}

/* Takes the top off a heap of n; n - 1 are left. */
static inline candidate take(candidate *heap, uint32_t n, int best_on_top) {
    const candidate top = heap[0];
    sink(heap, n - 1, 0, heap[n - 1], best_on_top);
    return top;
}

/* The best `keep` of n candidates, best first, in place. */
static void sort_best(candidate *c, uint32_t n, uint32_t keep) {
    make_heap(c, keep, 0);
    for (uint32_t i = keep; i < n; i++)
        if (better(c[i], c[0]))
            sink(c, keep, 0, c[i], 0);
    for (uint32_t i = keep; i-- > 1;)
        c[i] = take(c, i + 1, 0);
}

/* p[i] = exp((logit[i] - max) / temperature) */
static void exponentials(const nyb_rows *rows, const candidate *c, uint32_t n, float max,
                         float temperature, float *x, float *p) {
    float sum;
    for (uint32_t i = 0; i < n; i++)
        x[i] = (c[i].logit - max) / temperature;
    for (uint32_t i = n; i < padded(n); i++)
        x[i] = -__builtin_inff();
    rows->of[NYB_OP_softmax][NYB_F32]->run.softmax(
        &(nyb_softmax_args){.n = padded(n), .x = x, .max = 0, .p = p, .sum = &sum});
}

static double sum_of(const float *p, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)p[i];
    return sum;
}

/* How many of the first candidates it takes for their sum to reach `share` of the whole. */
static uint32_t reach(const float *p, uint32_t n, double share) {
    const double enough = share * sum_of(p, n);
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += (double)p[i];
        if (sum >= enough)
            return i + 1;
    }
    return n;
}

static void penalise(candidate *c, uint32_t vocab, float penalty, const int32_t *recent,
                     uint32_t n_recent) {
    const uint32_t window = n_recent < NYB_PENALTY_WINDOW ? n_recent : NYB_PENALTY_WINDOW;
    recent += n_recent - window;
    for (uint32_t i = 0; i < window; i++) {
        uint32_t seen = 0;
        while (seen < i && recent[seen] != recent[i])
            seen++;
        if (seen < i || recent[i] < 0 || (uint32_t)recent[i] >= vocab)
            continue; /* once for each token, however often it came */
        float *logit = &c[recent[i]].logit;
        *logit = *logit > 0 ? *logit / penalty : *logit * penalty;
    }
}

enum { RUN = 1024 };

/* An integer that orders as the float does: compilers make vectors of its comparisons, and of
 * a float's, which may trap, they do not. NaNs are beyond the infinities. */
static inline int32_t key_of(float x) {
    int32_t bits;
    x += 0.0f; /* -0 becomes 0 */
    memcpy(&bits, &x, sizeof bits);
    return bits ^ (bits >> 31 & INT32_MAX);
}

/* The largest key of n logits; *has_nan says whether one is NaN. */
static int32_t largest_key(const float *x, uint32_t n, int *has_nan) {
    const int32_t highest = key_of(__builtin_inff()), lowest = key_of(-__builtin_inff());
    int32_t most = INT32_MIN, least = INT32_MAX;
    for (uint32_t i = 0; i < n; i++) {
        const int32_t key = key_of(x[i]);
        most = key > most ? key : most;
        least = key < least ? key : least;
    }
    *has_nan = most > highest || least < lowest;
    return most;
}

/* The id of the largest logit, the lowest of equals, in *best. Returns 0, or -1 if one is NaN. */
static int find_largest(const float *logits, uint32_t vocab, uint32_t *best, nyb_error *error) {
    int32_t most = INT32_MIN;
    *best = 0;
    for (uint32_t i = 0; i < vocab; i += RUN) {
        int has_nan;
        const int32_t here = largest_key(logits + i, vocab - i < RUN ? vocab - i : RUN, &has_nan);
        if (has_nan) {
            while (logits[i] == logits[i])
                i++;
            return nyb_fail(error, "a logit is not a number", i, 0);
        }
        if (here > most) {
            most = here;
            *best = i;
        }
    }
    while (key_of(logits[*best]) != most)
        ++*best;
    return 0;
}

/* Draws from candidates whose probabilities, best first, are p, up to a common factor. */
static int32_t draw_of(const candidate *c, uint32_t n, const float *p, double random) {
    const double target = random * sum_of(p, n);
    double sum = 0;
    uint32_t i = 0;
    while (i + 1 < n && (sum += (double)p[i]) <= target)
        i++;
    return c[i].id;
}

/* The same from a heap of them all, whose probabilities are p by id: as far as it takes. */
static int32_t draw_off(candidate *heap, uint32_t n, const float *p, double random) {
    const double target = random * sum_of(p, n);
    double sum = 0;
    candidate c = heap[0];
    /* the sum best first may round below the sum by id: what cannot come ends it too */
    for (; n && p[heap[0].id] > 0 && sum <= target; n--) {
        c = take(heap, n, 1);
        sum += (double)p[c.id];
    }
    return c.id;
}

/* Takes off a heap, best first, what top-p and min-p keep; p are the probabilities by id. Returns
 * how many. */
static uint32_t take_kept(candidate *heap, uint32_t n, const float *p, const nyb_sampling *sampling,
                          candidate *kept) {
    const double top_p = (double)sampling->top_p;
    const double enough = top_p < 1 ? top_p * sum_of(p, n) : __builtin_inf();
    double sum = 0;
    uint32_t k = 0;
    for (; k < n && (k == 0 || sum < enough); k++) {
        if (k && p[heap[0].id] < sampling->min_p) /* the best one's is 1 */
            break;
        kept[k] = take(heap, n - k, 1);
        sum += (double)p[kept[k].id];
    }
    return k;
}

int nyb_sample(const nyb_rows *rows, const float *logits, uint32_t vocab,
               const nyb_sampling *sampling, const int32_t *recent, uint32_t n_recent,
               uint64_t n_tokens, void *scratch, int32_t *token, nyb_error *error) {
    candidate *c = scratch, *kept = c + padded(vocab);
    float *x = (float *)(kept + padded(vocab)), *p = x + padded(vocab);
    const int is_trimmed = sampling->top_p < 1 || sampling->min_p > 0;
    uint32_t best;
    if (find_largest(logits, vocab, &best, error))
        return -1;
    *token = (int32_t)best;
    if (sampling->temperature == 0 && sampling->repeat_penalty == 1)
        return 0;
    for (uint32_t i = 0; i < vocab; i++)
        c[i] = (candidate){logits[i], (int32_t)i};
    if (sampling->repeat_penalty != 1) {
        penalise(c, vocab, sampling->repeat_penalty, recent, n_recent);
        best = 0;
        for (uint32_t i = 1; i < vocab; i++)
            if (better(c[i], c[best]))
                best = i;
        *token = (int32_t)best;
    }
    const float max = c[best].logit;
    if (sampling->temperature == 0 || max - max != 0) /* infinite: there are no probabilities */
        return 0;

    const double random = draw(sampling, n_tokens);
    uint32_t n;
    if (sampling->top_k && sampling->top_k < vocab) {
        n = sampling->top_k;
        sort_best(c, vocab, n);
        kept = c;
        if (is_trimmed) {
            exponentials(rows, c, n, max, 1, x, p);
            if (sampling->top_p < 1)
                n = reach(p, n, (double)sampling->top_p);
            while (n > 1 && p[n - 1] < sampling->min_p) /* p[0] is 1: the largest */
                n--;
        }
    } else {
        exponentials(rows, c, vocab, max, is_trimmed ? 1 : sampling->temperature, x, p);
        make_heap(c, vocab, 1);
        if (!is_trimmed) {
            *token = draw_off(c, vocab, p, random);
            return 0;
        }
        n = take_kept(c, vocab, p, sampling, kept);
    }
    exponentials(rows, kept, n, max, sampling->temperature, x, p);
    *token = draw_of(kept, n, p, random);
    return 0;
}
