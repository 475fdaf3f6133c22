/* SPDX-License-Identifier: MIT
 * A plain read of memory: the ceiling that decoding is measured against.
 */
#ifndef NYB_READ_H
#define NYB_READ_H

#include <stdint.h>

/* Reads every 64-byte line once: each of `threads` threads of the pool a contiguous range, as
 * `streams` streams (1, 2 or 4) side by side. Returns the sum of the 64-bit words, modulo 2^64.
 * `data` is 64-byte aligned; a rest of less than 64 * streams bytes a thread is left out. */
uint64_t nyb_read(const void *data, uint64_t nbytes, uint32_t streams, uint32_t threads);

#endif
