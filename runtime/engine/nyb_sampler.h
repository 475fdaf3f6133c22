/* SPDX-License-Identifier: MIT
 * From logits to a token: part of the arithmetic, so the same everywhere (docs/arithmetic.md).
 *
 * In this order: repeat penalty, top-k, top-p, min-p, temperature, draw. Ties go to the lowest id.
 */
#ifndef NYB_SAMPLER_H
#define NYB_SAMPLER_H

#include "nyb_error.h"
#include "registry.h"

/* How many of the last tokens, the prompt's included, the repeat penalty looks at. */
enum { NYB_PENALTY_WINDOW = 64 };

typedef struct nyb_sampling {
    float temperature;    /* 0 is greedy */
    float top_p;          /* 1 keeps all */
    float min_p;          /* 0 keeps all */
    float repeat_penalty; /* 1 changes nothing */
    uint32_t top_k;       /* 0 keeps all */
    uint32_t choice;      /* index of the reply within its request */
    uint64_t seed;
} nyb_sampling;

/* Bytes of scratch for a vocabulary, 64-byte aligned. */
uint64_t nyb_sample_scratch(uint32_t vocab);

/* Chooses a token. Returns 0, or -1 if a logit is NaN (error->at is its id).
 *
 * logits    (vocab,)
 * recent    (n_recent,) the last tokens: not read where repeat_penalty is 1, which changes nothing,
 *           else at most NYB_PENALTY_WINDOW of them
 * n_tokens  tokens already in the reply: with seed and choice it keys the random number
 */
int nyb_sample(const nyb_rows *rows, const float *logits, uint32_t vocab,
               const nyb_sampling *sampling, const int32_t *recent, uint32_t n_recent,
               uint64_t n_tokens, void *scratch, int32_t *token, nyb_error *error);

/* Four random words from a 128-bit counter and a 64-bit key: Philox4x32-10 (Salmon, Moraes, Dror,
 * Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011). */
void nyb_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

#endif
