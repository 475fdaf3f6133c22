/* SPDX-License-Identifier: MIT
 * Operands of kernel rows: random numbers of several kinds, in memory that ends where they do.
 */
#ifndef OPERANDS_H
#define OPERANDS_H

#include <stddef.h>
#include <stdint.h>

#include "nyb_kernels.h"

/* EXTREME: what makes the largest sums. SUBNORMAL: halves that are, and numbers that would be.
 * TINY: activations so small that some results are flushed. */
typedef enum mode { RANDOM, EXTREME, SUBNORMAL, TINY, NOT_A_NUMBER, MODES } mode;

/* What one comparison is about. */
typedef struct trial {
    uint64_t seed;
    mode mode;
    size_t n_tiles, n_blocks, n_tokens;
} trial;

enum { ARENA_BYTES = 1 << 21 }; /* of an operand, at most */

/* What an operand is for; each has memory of its own. */
typedef enum role {
    WEIGHTS,
    INPUT,
    SECOND_INPUT,
    THIRD_INPUT,
    FOURTH_INPUT,
    FIFTH_INPUT,
    SCRATCH,
    OUTPUT,
    ROLES
} role;

/* To be called once, before all others. */
void make_arenas(void);

/* The last n bytes of an operand's memory, filled with a pattern that shows what was not written.
 */
void *last(role r, size_t n);

/* The numbers that follow depend on the seed only. */
void begin_numbers(uint64_t seed);
uint32_t random_bits(void);
float random_float(void); /* uniform within -1..1 */

/* n of them, which are the operand. */
float *values(role r, size_t n, mode m);
uint16_t *halves(role r, size_t n, mode m);

/* The matrix of a trial, in tiles; so many of its blocks are one. */
const uint8_t *weights(nyb_format format, const trial *t);
size_t blocks_of_tile(nyb_format format);

/* Activations, as the first input. */
int8_t quant(const trial *t);
nyb_q8 *blocks8(size_t n, const trial *t);
nyb_q16 *blocks16(size_t n, const trial *t);

#endif
