/* SPDX-License-Identifier: MIT
 * Teams of several sizes in turn, some of them after the others have gone to sleep, and pools that
 * are stopped in between: for the thread sanitizer, built by test_pool.py. Each thread of a team
 * writes down which call it saw, and the first one reads that behind the barrier.
 *
 * Prints how many calls had a team, of how many: a busy machine's late teams work as one thread.
 */
#include <stdio.h>
#include <time.h>

#include "nyb_pool.h"

typedef struct calls {
    uint32_t n, with_team, wrong;
    uint32_t seen[NYB_MAX_THREADS];
} calls;

static void work(void *context, nyb_team *team, uint32_t thread, uint32_t threads) {
    calls *c = context;
    c->seen[thread] = c->n;
    nyb_barrier(team, threads);
    if (thread)
        return;
    c->with_team += threads > 1;
    for (uint32_t i = 0; i < threads; i++)
        c->wrong += c->seen[i] != c->n;
}

int main(void) {
    static const uint32_t sizes[] = {5, 2, 40, 3, 2, 1, 5, 64, 2};
    enum { SIZES = sizeof sizes / sizeof *sizes, ROUNDS = 12 };
    const struct timespec longer_than_awake = {.tv_nsec = 2000000};
    calls c = {.n = 0};
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < SIZES; i++) {
            for (int again = 0; again < 3; again++) {
                c.n++;
                nyb_pool_run(sizes[(i + round) % SIZES], work, &c);
            }
            if ((i + round) % 4 == 0)
                nanosleep(&longer_than_awake, NULL);
        }
        if (round % 3 == 2)
            nyb_pool_stop();
    }
    nyb_pool_stop();
    printf("%u of %u\n", c.with_team, c.n);
    return c.wrong != 0;
}
