/* SPDX-License-Identifier: MIT
 * Encoding as it is defined, word for word and without any haste: what nyb_encode() must equal.
 */
#ifndef NYB_TESTS_ORACLE_H
#define NYB_TESTS_ORACLE_H

#include "nyb_encode.h"

/* The ids of text[0..n), as nyb_encode() gives them; their number. Takes n^2 steps and more. */
size_t oracle_encode(const nyb_vocab *vocab, const uint8_t *text, size_t n, int special,
                     const uint32_t *breaks, size_t n_breaks, uint32_t *ids);

/* Encodes a text in blocks of exact sizes and checks what is promised of the ids, among it that
 * they are the oracle's if `by_oracle`. Returns the ids (to be freed) and sets *n_ids. */
uint32_t *encode_checked(const nyb_vocab *vocab, const uint8_t *text, size_t n, int special,
                         const uint32_t *breaks, size_t n_breaks, int by_oracle, size_t *n_ids);

#endif
