/* SPDX-License-Identifier: MIT
 * Which of two ways is the quicker, by calls whose time is known, and by those of an engine: built
 * with sanitizers by test_trial_sanitized.py, whose cases the arguments name. Prints the way of
 * each call.
 *
 *   trial times N WAY_0 WAY_1 GROWTH LATE   N calls that take so long, each GROWTH longer than the
 *                                           one before; every LATE-th takes 1,000 times as long
 *   trial engine N SLOW                     N tokens of an engine whose gemv is slow if it pairs
 *                                           tile rows so
 */
#include <time.h>

#include "three_matrices.h"

static uint32_t slow, seen;
static const nyb_row *gemv_row;

static void at_times(uint32_t n, const int64_t ns[2], int64_t growth, uint32_t late) {
    nyb_trial trial = {0};
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t way = nyb_way(&trial);
        putchar('0' + (int)way);
        const int64_t took = ns[way] + growth * i;
        nyb_took(&trial, late && i % late == late - 1 ? 1000 * took : took);
    }
}

static void paired(const nyb_gemv_args *a) {
    seen = a->pairing;
    if (a->pairing == slow)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    gemv_row->run.gemv(a);
}

static void of_engine(uint32_t n) {
    const uint32_t page = 0;
    const int32_t id = 1;
    model m;
    running r;
    make(&m);
    must(!start(&r, &m, 1), "the model is right");
    gemv_row = r.bound.rows.of[NYB_OP_gemv][NYB_Q8_0];
    nyb_tune(&r.bound, &(nyb_tuning){1, 1, 0, NYB_PAIRINGS});
    nyb_row row = *gemv_row;
    row.run.gemv = paired;
    r.bound.rows.of[NYB_OP_gemv][NYB_Q8_0] = &row;
    for (uint32_t i = 0; i < n; i++) {
        const nyb_span span = {&id, 1, 0, &page, 0, NYB_WANT_NONE};
        nyb_error error;
        must(!nyb_run(&r.bound, &(nyb_batch){&span, 1}, &error), "the model runs");
        putchar('0' + (int)seen);
    }
    stop(&r);
}

int main(int argc, char **argv) {
    must(argc >= 4, "two numbers at least are given");
    const uint32_t n = (uint32_t)atoi(argv[2]);
    if (!strcmp(argv[1], "times")) {
        must(argc == 7, "five numbers are given");
        at_times(n, (int64_t[2]){atoi(argv[3]), atoi(argv[4])}, atoi(argv[5]),
                 (uint32_t)atoi(argv[6]));
    } else {
        slow = (uint32_t)atoi(argv[3]);
        of_engine(n);
    }
    putchar('\n');
    return 0;
}
