/* SPDX-License-Identifier: MIT
 * A plain read of memory, by the threads that decode.
 */
#include "nyb_read.h"

#include <stdatomic.h>

#include "nyb_pool.h"

enum { WORDS = 8 }; /* of a line */

typedef struct job {
    const uint64_t *words;
    uint64_t lines;
    uint32_t streams;
    _Atomic uint64_t sum;
} job;

/* Sums `streams` equal runs of lines side by side; a constant wherever it is inlined. Eight sums
 * a line: additions that do not wait for each other, and that a compiler turns into vectors. */
static inline __attribute__((always_inline)) uint64_t read_streams(uint32_t streams,
                                                                   const uint64_t *words,
                                                                   uint64_t lines) {
    uint64_t sum[WORDS] = {0}, total = 0;
    const uint64_t run = lines / streams;
    for (uint64_t i = 0; i < run; i++)
        for (uint32_t s = 0; s < streams; s++)
            for (uint32_t w = 0; w < WORDS; w++)
                sum[w] += words[(s * run + i) * WORDS + w];
    for (uint32_t w = 0; w < WORDS; w++)
        total += sum[w];
    return total;
}

static void read_share(void *context, nyb_team *team, uint32_t thread, uint32_t threads) {
    job *j = context;
    const uint64_t begin = j->lines * thread / threads, end = j->lines * (thread + 1) / threads;
    const uint64_t *words = j->words + begin * WORDS;
    const uint64_t sum = j->streams == 4   ? read_streams(4, words, end - begin)
                         : j->streams == 2 ? read_streams(2, words, end - begin)
                                           : read_streams(1, words, end - begin);
    atomic_fetch_add_explicit(&j->sum, sum, memory_order_relaxed);
    nyb_barrier(team, threads);
}

uint64_t nyb_read(const void *data, uint64_t nbytes, uint32_t streams, uint32_t threads) {
    job j = {.words = data, .lines = nbytes / (WORDS * sizeof(uint64_t)), .streams = streams};
    nyb_pool_run(threads, read_share, &j);
    return atomic_load_explicit(&j.sum, memory_order_relaxed);
}
