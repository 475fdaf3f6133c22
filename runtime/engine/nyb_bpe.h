/* SPDX-License-Identifier: MIT
 * Byte-level byte-pair encoding, as GPT-2 has it: text to token ids and back.
 *
 * The vocabulary is read in place from a GGUF file's arrays. Tables over it are built once into
 * memory that the caller hands in: one block of sections at offsets, no pointer inside, so that
 * it may be written to a file and mapped. Nothing here allocates.
 *
 * Encoding: spellings of special tokens are cut out of the text first (longest spelling first, as
 * llama.cpp does), the rest is cut into words (nyb_pretokenize.h), and in each word the pair of
 * neighbours with the least rank is merged, leftmost first, until none is left (Sennrich et al.,
 * arXiv 1508.07909). Words of up to 32 bytes look for the least rank by scanning; longer ones keep
 * their pairs in buckets by rank, and find the least bucket in a tree of 64-bit masks: a constant
 * number of steps a byte, however long the word. That takes a vocabulary whose merges only use
 * what earlier ranks have made (`in_order`: GPT-2's and most others); for one that is not so (Llama
 * 3's) a heap keeps the exact order in n log n steps.
 */
#ifndef NYB_BPE_H
#define NYB_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "nyb_error.h"

enum nyb_token_type { /* GGUF's numbers, tokenizer.ggml.token_type */
                      NYB_TOKEN_UNDEFINED = 0,
                      NYB_TOKEN_NORMAL = 1,
                      NYB_TOKEN_UNKNOWN = 2,
                      NYB_TOKEN_CONTROL = 3, /* found in text only on request */
                      NYB_TOKEN_USER_DEFINED =
                          4, /* found in any text before it is cut into words */
                      NYB_TOKEN_UNUSED = 5,
                      NYB_TOKEN_BYTE = 6
};

enum {
    NYB_BPE_SPECIAL_BYTES = 1024, /* longest spelling of a special token */
    NYB_BPE_PROBES = 512          /* longest search in a hash table before a file is refused */
};

/* A vocabulary as a GGUF file has it. Strings are a uint64 length and the bytes, one after
 * another; all numbers are little-endian and need no alignment. */
typedef struct nyb_bpe_vocab {
    const uint8_t *tokens; /* n_tokens strings in exactly tokens_bytes */
    uint64_t tokens_bytes;
    uint64_t n_tokens;
    const uint8_t *merges; /* n_merges strings "A B" in exactly merges_bytes, best first */
    uint64_t merges_bytes;
    uint64_t n_merges;
    const uint8_t *types; /* n_types int32, an nyb_token_type each; n_types is n_tokens, or 0 */
    uint64_t n_types;
    uint32_t pre;         /* an nyb_pretokenizer */
    uint32_t whole_words; /* a word that is a token is that token, whatever the merges say */
} nyb_bpe_vocab;

/* The head of the built tables; `*_at` are byte offsets from it. */
typedef struct nyb_bpe_tables {
    uint64_t bytes; /* of the whole block */
    uint64_t text_at_at;
    uint64_t types_at;
    uint64_t token_slots_at;
    uint64_t pair_slots_at;
    uint64_t merges_at;
    uint64_t specials_at;
    uint64_t special_order_at;
    uint32_t n_tokens;
    uint32_t n_merges;
    uint32_t n_specials;
    uint32_t pre;
    uint32_t whole_words;
    uint32_t in_order;          /* no merge uses what a later one makes */
    uint32_t byte_ids[256];     /* the token of a single byte, or NYB_BPE_NONE */
    uint8_t special_first[256]; /* whether some special token's spelling starts with this byte */
} nyb_bpe_tables;

#define NYB_BPE_NONE UINT32_MAX

typedef struct nyb_bpe {
    const uint8_t *tokens; /* borrowed: the vocabulary's strings */
    uint64_t tokens_bytes;
    const nyb_bpe_tables *tables; /* borrowed */
} nyb_bpe;

/* What an encoding cost: `steps` counts characters cut, pairs looked up, moved in a queue or
 * compared in a scan, whatever might grow faster than the text. */
typedef struct nyb_bpe_stats {
    uint64_t steps;
    uint64_t merges;
} nyb_bpe_stats;

/* Checks the vocabulary's strings and types and sets *bytes to the size of its tables.
 * -1 with: a region that is cut short, too long or of 4 GiB or more, counts of 2^31 or more, a type
 * outside nyb_token_type, a special spelling beyond NYB_BPE_SPECIAL_BYTES. */
int nyb_bpe_measure(const nyb_bpe_vocab *vocab, uint64_t *bytes, nyb_error *error);

/* Builds the tables into `memory` (aligned to 8, of the size that nyb_bpe_measure said) and opens
 * them as *bpe. -1 as nyb_bpe_measure does, and with: two tokens of one spelling, a merge without
 * a space, a merge of or into something that is no token, strings made to collide in the hash. */
int nyb_bpe_build(const nyb_bpe_vocab *vocab, void *memory, nyb_bpe *bpe, nyb_error *error);

/* The id of the token spelled so in the file, or NYB_BPE_NONE. */
uint32_t nyb_bpe_find(const nyb_bpe *bpe, const uint8_t *spelling, size_t n);

/* The spelling of token `id` < n_tokens in the file; returns its length. */
size_t nyb_bpe_spelling(const nyb_bpe *bpe, uint32_t id, const uint8_t **spelling);

/* The type of token `id` < n_tokens: the file's, but CONTROL where the spelling is that of a known
 * end or fill-in-the-middle token. */
unsigned nyb_bpe_type(const nyb_bpe *bpe, uint32_t id);

/* Whether token `id` < n_tokens ends a reply, going by its spelling (llama.cpp's list). */
int nyb_bpe_is_end(const nyb_bpe *bpe, uint32_t id);

/* Writes the bytes that token `id` < n_tokens stands for to `out` (as long as its spelling is
 * enough); returns their number. Characters outside the byte alphabet stand for themselves. */
size_t nyb_bpe_bytes(const nyb_bpe *bpe, uint32_t id, uint8_t *out);

/* Bytes of scratch that encoding a text of n bytes needs. */
uint64_t nyb_bpe_scratch_bytes(const nyb_bpe *bpe, size_t n);

/* Encodes text[0..n), n < 2^31, into ids (room for n) and returns their number.
 *
 * `special` also finds CONTROL and UNKNOWN tokens in the text. `breaks` are n_breaks ascending
 * offsets into the text: no special token is found across one (the template's marks). Bytes that
 * are not UTF-8 count as symbols; a byte for which the vocabulary has no token is left out, as
 * llama.cpp does. `scratch` is aligned to 8. */
size_t nyb_bpe_encode(const nyb_bpe *bpe, const uint8_t *text, size_t n, int special,
                      const uint32_t *breaks, size_t n_breaks, void *scratch, uint32_t *ids,
                      nyb_bpe_stats *stats);

#endif
