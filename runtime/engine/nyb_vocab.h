/* SPDX-License-Identifier: MIT
 * A vocabulary: its tokens' spellings, and what merges with what.
 *
 * It is read in place from a GGUF file's arrays. Tables over it are built once into memory that
 * the caller hands in: one block of sections at offsets, no pointer inside, so that it may be
 * written to a file and mapped. Nothing here allocates. Encoding is in nyb_encode.h.
 */
#ifndef NYB_VOCAB_H
#define NYB_VOCAB_H

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

/* How tokens are spelled, and by what the symbols of a text merge into tokens. */
enum nyb_vocab_kind {
    NYB_VOCAB_BYTES,  /* GPT-2: symbols are bytes, spelled in its alphabet of printable characters;
                         they merge by a list of merges (Sennrich et al., arXiv 1508.07909) */
    NYB_VOCAB_CHARS,  /* Gemma 4: symbols are characters, a space is spelled U+2581, a byte may be
                         <0x0A>; they merge by a list of merges */
    NYB_VOCAB_PIECES, /* SentencePiece, BPE (arXiv 1808.06226): spelled likewise; two symbols merge
                         where together they are a token, the best score first */
    NYB_VOCAB_KINDS
};

enum {
    NYB_VOCAB_SPECIAL_BYTES = 1024, /* longest spelling of a special token */
    NYB_VOCAB_PIECE_BYTES = 1024,   /* longest spelling of a token of NYB_VOCAB_PIECES */
    NYB_VOCAB_PROBES = 512          /* longest search in a hash table before a file is refused */
};

/* A vocabulary as a GGUF file has it. Strings are a uint64 length and the bytes, one after
 * another; all numbers are little-endian and need no alignment. */
typedef struct nyb_vocab_file {
    const uint8_t *tokens; /* n_tokens strings in exactly tokens_bytes */
    uint64_t tokens_bytes;
    uint64_t n_tokens;
    const uint8_t *merges; /* n_merges strings "A B" in exactly merges_bytes, best first */
    uint64_t merges_bytes;
    uint64_t n_merges;
    const uint8_t *scores; /* n_scores float32; n_scores is n_tokens for PIECES, else 0 */
    uint64_t n_scores;
    const uint8_t *types; /* n_types int32, an nyb_token_type each; n_types is n_tokens, or 0 */
    uint64_t n_types;
    uint32_t kind;        /* an nyb_vocab_kind */
    uint32_t pre;         /* an nyb_pretokenizer; for BYTES */
    uint32_t unknown;     /* the token for what has none, or NYB_VOCAB_NONE; not for BYTES */
    uint8_t whole_words;  /* BYTES: a word that is a token is that token, whatever merges say */
    uint8_t space_prefix; /* not BYTES: a space is put before text, and after special tokens */
} nyb_vocab_file;

/* The head of the built tables; `*_at` are byte offsets from it. */
typedef struct nyb_vocab_tables {
    uint64_t bytes; /* of the whole block */
    uint64_t text_at_at;
    uint64_t types_at;
    uint64_t token_slots_at;
    uint64_t pair_slots_at;
    uint64_t merges_at;
    uint64_t ranks_at;
    uint64_t specials_at[2]; /* USER_DEFINED tokens, which any text may have; all special ones */
    uint32_t n_tokens;
    uint32_t n_merges;
    uint32_t n_user_defined; /* of non-empty spelling */
    uint32_t n_specials;     /* CONTROL and UNKNOWN ones too */
    uint32_t kind;
    uint32_t pre;
    uint32_t unknown;
    uint32_t whole_words;
    uint32_t space_prefix;
    uint32_t in_order;             /* there are merges, and none uses what a later one makes */
    uint32_t longest;              /* bytes of the longest spelling */
    uint32_t byte_ids[256];        /* the token of a single byte, or NYB_VOCAB_NONE */
    uint32_t special_from[2][257]; /* per list: the first special token of this first byte, or of
                                      a greater one; from these on to the next byte's */
    uint8_t joins_space[256];      /* whether some token has this byte right before U+2581 */
} nyb_vocab_tables;

#define NYB_VOCAB_NONE UINT32_MAX

typedef struct nyb_vocab {
    const uint8_t *tokens; /* borrowed: the vocabulary's strings */
    uint64_t tokens_bytes;
    const nyb_vocab_tables *tables; /* borrowed */
} nyb_vocab;

/* Checks the vocabulary's strings, types and scores and sets *bytes to the size of its tables.
 * -1 with: a region that is cut short, too long or of 4 GiB or more, counts of 2^31 or more, a type
 * outside nyb_token_type, a score that is NaN, a spelling that is too long. */
int nyb_vocab_measure(const nyb_vocab_file *file, uint64_t *bytes, nyb_error *error);

/* Builds the tables into `memory` (aligned to 8, of the size that nyb_vocab_measure said) and opens
 * them as *vocab. -1 as nyb_vocab_measure does, and with: two tokens of one spelling, a merge
 * without a space, a merge of or into something that is no token, strings made to collide in the
 * hash. */
int nyb_vocab_build(const nyb_vocab_file *file, void *memory, nyb_vocab *vocab, nyb_error *error);

/* Opens tables of `nbytes` bytes at `memory` (aligned to 8) that were built for this vocabulary
 * before. Nothing in them is trusted; of `file` only the merges, scores and types are not looked
 * at. One pass, without writing. -1 with what does not hold. */
int nyb_vocab_open(const nyb_vocab_file *file, const void *memory, uint64_t nbytes,
                   nyb_vocab *vocab, nyb_error *error);

/* The id of the token spelled so in the file, or NYB_VOCAB_NONE. */
uint32_t nyb_vocab_find(const nyb_vocab *vocab, const uint8_t *spelling, size_t n);

/* The spelling of token `id` < n_tokens in the file; returns its length. */
size_t nyb_vocab_spelling(const nyb_vocab *vocab, uint32_t id, const uint8_t **spelling);

/* The type of token `id` < n_tokens: the file's, but CONTROL where the spelling is that of a known
 * end or fill-in-the-middle token. */
unsigned nyb_vocab_type(const nyb_vocab *vocab, uint32_t id);

/* Whether token `id` < n_tokens ends a reply, going by its spelling (llama.cpp's list). */
int nyb_vocab_is_end(const nyb_vocab *vocab, uint32_t id);

/* Writes the bytes that token `id` < n_tokens stands for to `out` (as long as its spelling is
 * enough); returns their number. Special tokens stand for their spelling; in BYTES characters
 * outside the byte alphabet stand for themselves, in the other kinds U+2581 stands for a space. */
size_t nyb_vocab_bytes(const nyb_vocab *vocab, uint32_t id, uint8_t *out);

#endif
