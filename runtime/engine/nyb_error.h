/* SPDX-License-Identifier: MIT
 * How the engine says what is wrong with what it was given.
 *
 * Functions that can fail return 0 or -1 and fill in an nyb_error; nothing is printed, nothing
 * aborts. `_core` turns it into a nybble.errors exception.
 */
#ifndef NYB_ERROR_H
#define NYB_ERROR_H

#include <stdint.h>

typedef struct nyb_error {
    const char *what; /* a static sentence fragment: "the string runs past the end of the file" */
    uint64_t at;      /* byte offset, token id or step index, as `what` implies */
    uint64_t value;   /* the offending value */
} nyb_error;

static inline int nyb_fail(nyb_error *error, const char *what, uint64_t at, uint64_t value) {
    error->what = what;
    error->at = at;
    error->value = value;
    return -1;
}

#endif
