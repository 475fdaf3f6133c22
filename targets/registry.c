/* SPDX-License-Identifier: MIT
 * The registry: each room's kernels.def, once to declare the kernels and once to fill the table.
 * Rooms stand in order of preference; within one, rows stand fastest first.
 */
#include "registry.h"

#include <string.h>

#define NYB_ROW(op, format_lower, format_upper, level, needs, panel_bytes)                         \
    void nyb_##op##_##format_lower##_##level(const nyb_##op##_args *args);
#define NYB_FLOAT_ROW(op, level, needs) void nyb_##op##_##level(const nyb_##op##_args *args);
#include "all_kernels.def"
#undef NYB_ROW
#undef NYB_FLOAT_ROW

#define NYB_ROW(op, format_lower, format_upper, level, needs, panel_bytes)                         \
    {#op "_" #format_lower "_" #level,                                                             \
     #level,                                                                                       \
     NYB_OP_##op,                                                                                  \
     NYB_##format_upper,                                                                           \
     needs,                                                                                        \
     panel_bytes,                                                                                  \
     {.op = nyb_##op##_##format_lower##_##level}},
#define NYB_FLOAT_ROW(op, level, needs)                                                            \
    {#op "_" #level, #level, NYB_OP_##op, NYB_F32, needs, 0, {.op = nyb_##op##_##level}},

const nyb_row nyb_registry[] = {
#include "all_kernels.def"
    {0},
};

void nyb_rows_pick(nyb_rows *rows, uint32_t cpu_bits) {
    memset(rows, 0, sizeof *rows);
    for (const nyb_row *row = nyb_registry; row->name; row++) {
        const nyb_row **slot = &rows->of[row->op][row->format];
        if (!*slot && !(row->needs & ~cpu_bits))
            *slot = row;
    }
}

const nyb_row *nyb_row_named(const char *name) {
    for (const nyb_row *row = nyb_registry; row->name; row++)
        if (!strcmp(row->name, name))
            return row;
    return NULL;
}
