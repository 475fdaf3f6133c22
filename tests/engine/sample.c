/* SPDX-License-Identifier: MIT
 * nyb_sample over every small vocabulary, on memory of just the size it asks for: built with
 * sanitizers by test_sampler_sanitized.py. Prints how many tokens it chose.
 */
#include <stdio.h>
#include <stdlib.h>

#include "nyb_sampler.h"

enum { VOCABULARIES = 70 };

static const nyb_sampling SAMPLINGS[] = {
    {.temperature = 0, .top_p = 1, .repeat_penalty = 1},
    {.temperature = 1, .top_p = 1, .repeat_penalty = 1.5f},
    {.temperature = 0.5f, .top_p = 0.5f, .min_p = 0.1f, .repeat_penalty = 0.5f, .top_k = 1},
    {.temperature = 1e-40f, .top_p = 0, .min_p = 1, .repeat_penalty = 100, .top_k = 7},
    {.temperature = 100, .top_p = 1e-30f, .repeat_penalty = 1, .top_k = UINT32_MAX},
    {.temperature = 2, .top_p = 1, .repeat_penalty = 1, .top_k = 64, .seed = UINT64_MAX},
};

/* Ordinary logits, and by `kind` equal ones, large ones or infinite ones among them. */
static float logit(uint32_t kind, uint32_t i) {
    const float x = (float)(i * 2654435761u >> 20) / 256 - 8;
    switch (kind) {
    case 1:
        return 0;
    case 2:
        return x * 4e37f;
    case 3:
        return i % 3 == 0 ? -__builtin_inff() : x;
    case 4:
        return i % 5 == 4 ? __builtin_inff() : x;
    default:
        return x;
    }
}

int main(void) {
    unsigned chosen = 0;
    nyb_rows rows;
    nyb_rows_pick(&rows, 0);
    for (uint32_t vocab = 1; vocab < VOCABULARIES; vocab++)
        for (uint32_t kind = 0; kind < 5; kind++)
            for (size_t s = 0; s < sizeof(SAMPLINGS) / sizeof(SAMPLINGS[0]); s++) {
                float *logits = malloc(vocab * sizeof(float));
                void *scratch = aligned_alloc(64, (nyb_sample_scratch(vocab) + 63) / 64 * 64);
                const uint32_t n_recent = vocab * 3 / 2;
                int32_t *recent = malloc((n_recent + 1) * sizeof(int32_t));
                for (uint32_t i = 0; i < vocab; i++)
                    logits[i] = logit(kind, i);
                for (uint32_t i = 0; i < n_recent; i++)
                    recent[i] = (int32_t)(i * 7 % (vocab + 2)) - 1; /* some are no tokens */
                int32_t token;
                nyb_error error;
                if (nyb_sample(&rows, logits, vocab, &SAMPLINGS[s], recent, n_recent, s, scratch,
                               &token, &error) ||
                    token < 0 || (uint32_t)token >= vocab)
                    return 1;
                chosen++;
                logits[vocab - 1] = __builtin_nanf("");
                if (!nyb_sample(&rows, logits, vocab, &SAMPLINGS[s], recent, n_recent, s, scratch,
                                &token, &error) ||
                    error.at != vocab - 1)
                    return 2;
                free(recent);
                free(scratch);
                free(logits);
            }
    printf("%u\n", chosen);
    return 0;
}
