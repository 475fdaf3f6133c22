/* SPDX-License-Identifier: MIT
 * Every kernel row of this build, and the choice among them.
 */
#ifndef NYB_REGISTRY_H
#define NYB_REGISTRY_H

#include "nyb_kernels.h"

/* All rows, fastest first within an operation and format; ends with a NULL name. */
extern const nyb_row nyb_registry[];

/* One row for each operation and format, or NULL: what a program is bound to. */
typedef struct nyb_rows {
    const nyb_row *of[NYB_OPS][NYB_FORMATS];
} nyb_rows;

/* Picks for each operation and format the first row that needs no other bits than these. */
void nyb_rows_pick(nyb_rows *rows, uint32_t cpu_bits);

/* NULL if there is no row of that name. */
const nyb_row *nyb_row_named(const char *name);

#endif
