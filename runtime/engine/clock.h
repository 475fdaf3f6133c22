/* SPDX-License-Identifier: MIT
 * Time that passes, whatever is done to the clock on the wall.
 */
#ifndef NYB_CLOCK_H
#define NYB_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t nyb_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

#endif
