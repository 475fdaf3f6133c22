/* SPDX-License-Identifier: MIT
 * What this CPU can do, and the ISA levels that can be asked for by name.
 */
#ifndef NYB_CPU_H
#define NYB_CPU_H

#include <stdint.h>

/* NYB_CPU_... bits of the machine this runs on, asked of the CPU or the kernel each time. */
uint32_t nyb_cpu_bits(void);

/* An ISA level: the name that rows, NYBBLE_ISA and `doctor` use. */
typedef struct nyb_level {
    const char *name;
    uint32_t bits; /* what rows of this level may need */
} nyb_level;

/* The levels of this build from the least on; ends with a NULL name. "ref" is first and needs
 * nothing. */
extern const nyb_level nyb_levels[];

/* Levels of this machine's kind that the compiler could not build; ends with NULL. */
extern const char *const nyb_levels_missing[];

/* The compiler that built this, as it calls itself. */
const char *nyb_compiler(void);

/* NULL for an unknown name. */
const nyb_level *nyb_level_of(const char *name);

#endif
