/* SPDX-License-Identifier: MIT
 * A team whose last thread takes longer than the others for each of a call's phases: they sleep, so
 * that it does not depend on what else the machine does. Prints how many threads each call had.
 *
 *     unequal THREADS OTHERS_US LAST_US CALLS
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "nyb_pool.h"

enum { PHASES = 6 };

typedef struct call {
    long others_us, last_us;
    uint32_t last, threads;
} call;

static void work(void *context, nyb_team *team, uint32_t thread, uint32_t threads) {
    call *c = context;
    const long us = thread == c->last ? c->last_us : c->others_us;
    const struct timespec time = {.tv_nsec = us * 1000};
    if (thread == 0)
        c->threads = threads;
    for (int i = 0; i < PHASES; i++) {
        nanosleep(&time, NULL);
        nyb_barrier(team, threads);
    }
}

int main(int argc, char **argv) {
    if (argc != 5)
        return 2;
    const uint32_t threads = (uint32_t)atoi(argv[1]);
    call c = {.others_us = atol(argv[2]), .last_us = atol(argv[3]), .last = threads - 1};
    for (int i = 0; i < atoi(argv[4]); i++) {
        nyb_pool_run(threads, work, &c);
        printf("%u ", c.threads);
    }
    const struct timespec later = {.tv_nsec = 400000000};
    nanosleep(&later, NULL);
    nyb_pool_run(threads, work, &c);
    printf("%u\n", c.threads);
    nyb_pool_stop();
    return 0;
}
