/* SPDX-License-Identifier: MIT
 * Pre-tokenizing: cutting text into the words that merges never cross.
 *
 * Tokenizers define it by regular expressions over Unicode classes; here each expression is a
 * short function that finds the end of the first piece, and a pre-tokenizer is a list of them,
 * each cutting the pieces of the one before. A piece's end counts as the end of the text for the
 * stages after it (`\s+(?!\S)` sees no character behind it), as in llama.cpp.
 */
#ifndef NYB_PRETOKENIZE_H
#define NYB_PRETOKENIZE_H

#include <stddef.h>
#include <stdint.h>

enum nyb_pretokenizer {
    NYB_PRE_DEFAULT, /* what llama.cpp does with a file that names no pre-tokenizer */
    NYB_PRE_GPT2,   /* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
    NYB_PRE_SMOLLM, /* \p{N} alone, then as NYB_PRE_GPT2 */
    NYB_PRE_FALCON, /* punctuation, then as NYB_PRE_GPT2, then three digits */
    NYB_PRE_LLAMA3, /* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}
                       | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
    NYB_PRE_QWEN2,  /* the same, but \p{N} alone */
    NYB_PRE_QWEN35, /* as NYB_PRE_QWEN2, but marks (\p{M}) are letters */
    NYB_PRE_DEEPSEEK_LLM,   /* line ends alone, \s?[letters of two cases]+, \s?[punctuation]+, \s+$,
                               [CJK]+, \p{N}+ */
    NYB_PRE_DEEPSEEK_CODER, /* line ends alone, \s?\p{L}+, \s?\p{P}+, [CJK]+, \p{N} alone */
    NYB_PRE_COUNT
};

enum { NYB_PRE_STAGES = 6 };

/* A text being cut. Ends are offsets into it, the end of the current piece of every stage. */
typedef struct nyb_words {
    const uint8_t *text;
    size_t at;
    size_t ends[NYB_PRE_STAGES + 1]; /* [0] is the end of the text */
    unsigned pre;                    /* an nyb_pretokenizer */
} nyb_words;

/* Starts cutting text[from..to) by pre-tokenizer `pre` < NYB_PRE_COUNT. */
void nyb_words_start(nyb_words *words, unsigned pre, const uint8_t *text, size_t from, size_t to);

/* The end of the next word, which starts at words->at as it was before the call; words->at moves
 * there. To be called while words->at < words->ends[0]; a word has at least one byte. */
size_t nyb_words_next(nyb_words *words);

#endif
