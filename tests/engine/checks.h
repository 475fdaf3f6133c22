/* SPDX-License-Identifier: MIT
 * What C programs of the tests have in common.
 */
#ifndef NYB_TESTS_CHECKS_H
#define NYB_TESTS_CHECKS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A block of exactly this size, so that AddressSanitizer sees any step outside. */
static inline void *allocate(uint64_t nbytes) {
    void *block = malloc(nbytes);
    if (block == NULL && nbytes > 0) {
        fprintf(stderr, "no memory for %llu bytes\n", (unsigned long long)nbytes);
        exit(2);
    }
    return block;
}

static inline void *copy_of(const void *bytes, uint64_t nbytes) {
    void *block = allocate(nbytes);
    if (nbytes > 0) {
        memcpy(block, bytes, nbytes);
    }
    return block;
}

/* Ends the program if a promise is broken. */
static inline void must(int holds, const char *broken) {
    if (!holds) {
        fprintf(stderr, "broken promise: %s\n", broken);
        abort();
    }
}

#endif
