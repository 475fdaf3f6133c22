/* SPDX-License-Identifier: MIT
 * The sampler. Sums of probabilities are made in the order of the sorted candidates, by the
 * softmax row (eight lanes, one tree) or in double precision one after another.
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
    return padded(vocab) * (sizeof(candidate) + 2 * sizeof(float));
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

/* Lets c sink into a heap whose top is its worst. */
static void sink(candidate *heap, uint32_t n, uint32_t i, candidate c) {
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= n)
            break;
        if (child + 1 < n && better(heap[child], heap[child + 1]))
            child++;
        if (!better(c, heap[child]))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = c;
}

/* The best `keep` of n candidates, best first, in place. */
static void sort_best(candidate *c, uint32_t n, uint32_t keep) {
    for (uint32_t i = keep / 2; i-- > 0;)
        sink(c, keep, i, c[i]);
    for (uint32_t i = keep; i < n; i++)
        if (better(c[i], c[0]))
            sink(c, keep, 0, c[i]);
    for (uint32_t i = keep; i-- > 1;) {
        const candidate worst = c[0];
        sink(c, i, 0, c[i]);
        c[i] = worst;
    }
}

/* p[i] = exp((logit[i] - max) / temperature) for sorted candidates. */
static void exponentials(const nyb_rows *rows, const candidate *c, uint32_t n, float temperature,
                         float *x, float *p) {
    float sum;
    for (uint32_t i = 0; i < n; i++)
        x[i] = (c[i].logit - c[0].logit) / temperature;
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

/* The id of the largest logit, the lowest of equals. */
static int32_t largest(const float *logits, uint32_t vocab) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

int nyb_sample(const nyb_rows *rows, const float *logits, uint32_t vocab,
               const nyb_sampling *sampling, const int32_t *recent, uint32_t n_recent,
               uint64_t n_tokens, void *scratch, int32_t *token, nyb_error *error) {
    candidate *c = scratch;
    float *x = (float *)(c + padded(vocab)), *p = x + padded(vocab);
    for (uint32_t i = 0; i < vocab; i++)
        if (logits[i] != logits[i])
            return nyb_fail(error, "a logit is not a number", i, 0);
    if (sampling->temperature == 0 && sampling->repeat_penalty == 1) {
        *token = largest(logits, vocab);
        return 0;
    }
    for (uint32_t i = 0; i < vocab; i++)
        c[i] = (candidate){logits[i], (int32_t)i};
    if (sampling->repeat_penalty != 1)
        penalise(c, vocab, sampling->repeat_penalty, recent, n_recent);
    if (sampling->temperature == 0) {
        sort_best(c, vocab, 1);
        *token = c[0].id;
        return 0;
    }

    uint32_t n = sampling->top_k && sampling->top_k < vocab ? sampling->top_k : vocab;
    sort_best(c, vocab, n);
    if (c[0].logit - c[0].logit != 0) { /* infinite: there are no probabilities */
        *token = c[0].id;
        return 0;
    }
    if (sampling->top_p < 1 || sampling->min_p > 0) {
        exponentials(rows, c, n, 1, x, p);
        if (sampling->top_p < 1)
            n = reach(p, n, (double)sampling->top_p);
        while (n > 1 && p[n - 1] < sampling->min_p) /* p[0] is 1: the largest */
            n--;
    }
    exponentials(rows, c, n, sampling->temperature, x, p);
    const double target = draw(sampling, n_tokens) * sum_of(p, n);
    double sum = 0;
    uint32_t i = 0;
    while (i + 1 < n && (sum += (double)p[i]) <= target)
        i++;
    *token = c[i].id;
    return 0;
}
