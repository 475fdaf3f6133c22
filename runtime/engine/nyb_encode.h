/* SPDX-License-Identifier: MIT
 * Text to token ids.
 *
 * Spellings of special tokens are cut out of the text first (longest spelling first, as llama.cpp
 * does). The rest is cut into words that no merge crosses, and in each word the pair of neighbours
 * with the least rank is merged, leftmost first, until none is left.
 *
 * Words of up to 32 symbols look for the least rank by scanning. In longer ones the pairs wait in
 * buckets by rank, and the least bucket is found in a tree of 64-bit masks: a constant number of
 * steps a byte, however long the word. That takes a vocabulary whose merges only use what earlier
 * ranks have made (`in_order`: GPT-2's and most others); for one that is not so (Llama 3's), and
 * where scores decide, a heap keeps the exact order in n log n steps.
 *
 * What a word is: in NYB_VOCAB_BYTES what the pre-tokenizer says (nyb_pretokenize.h). The other
 * kinds know no words, but no token of theirs, or next to none, has a space behind another
 * character; so a text is cut before its spaces where that is certain to change nothing.
 */
#ifndef NYB_ENCODE_H
#define NYB_ENCODE_H

#include "nyb_vocab.h"

/* What an encoding cost: `steps` counts characters cut, places looked at for pairs, bytes hashed,
 * moves in a queue, comparisons in a scan and, for special tokens, of 16 bytes: whatever might grow
 * faster than the text. */
typedef struct nyb_encode_stats {
    uint64_t steps;
    uint64_t merges;
} nyb_encode_stats;

/* The most ids that a text of n bytes can give. */
uint64_t nyb_encode_most(const nyb_vocab *vocab, size_t n);

/* Bytes of scratch that encoding a text of n bytes needs. */
uint64_t nyb_encode_scratch(const nyb_vocab *vocab, size_t n);

/* Encodes text[0..n), n < 2^29, into ids (room for nyb_encode_most) and returns their number.
 *
 * `special` also finds CONTROL and UNKNOWN tokens in the text. `breaks` are n_breaks ascending
 * offsets into the text: no special token is found across one (the template's marks). Bytes that
 * are not UTF-8 count as symbols; a byte for which the vocabulary has no token is left out, as
 * llama.cpp does, or becomes the unknown token if the vocabulary names one. `scratch` is aligned
 * to 8. */
size_t nyb_encode(const nyb_vocab *vocab, const uint8_t *text, size_t n, int special,
                  const uint32_t *breaks, size_t n_breaks, void *scratch, uint32_t *ids,
                  nyb_encode_stats *stats);

#endif
