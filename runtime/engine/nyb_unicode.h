/* SPDX-License-Identifier: MIT
 * Characters: strict UTF-8, and what kind of character a code point is.
 *
 * The classes are frozen (Unicode 15.1.0, tools/make_unicode_tables.py): pre-tokenizers cut text
 * by them, so another version would give a model other tokens.
 */
#ifndef NYB_UNICODE_H
#define NYB_UNICODE_H

#include <stddef.h>
#include <stdint.h>

enum {
    NYB_CHAR_LETTER = 1,       /* \p{L} */
    NYB_CHAR_NUMBER = 2,       /* \p{N}: digits, but also ½ and Ⅷ */
    NYB_CHAR_SPACE = 4,        /* \s: the White_Space property */
    NYB_CHAR_MARK = 8,         /* \p{M} */
    NYB_CHAR_PUNCTUATION = 16, /* \p{P} */
    NYB_CHAR_SYMBOL = 32,      /* \p{S} */
    NYB_CHAR_UPPER = 64,       /* \p{Lu}, \p{Lt} */
    NYB_CHAR_LOWER = 128       /* \p{Ll}; \p{Lm} and \p{Lo} are letters of neither case */
};

#define NYB_UNICODE_POINTS 0x110000
#define NYB_UNICODE_BLOCK  128
#define NYB_CHAR_INVALID   UINT32_MAX /* what a byte that is not UTF-8 decodes to; of no class */

extern const uint8_t nyb_unicode_block[NYB_UNICODE_POINTS / NYB_UNICODE_BLOCK];
extern const uint8_t nyb_unicode_class[][NYB_UNICODE_BLOCK];

/* Class bits of a code point; 0 for unassigned ones and for NYB_CHAR_INVALID. */
static inline unsigned nyb_char_class(uint32_t c) {
    if (c >= NYB_UNICODE_POINTS) {
        return 0;
    }
    return nyb_unicode_class[nyb_unicode_block[c / NYB_UNICODE_BLOCK]][c % NYB_UNICODE_BLOCK];
}

/* Decodes the character at the front of `n` > 0 bytes into *c; returns its length, 1 to 4. A byte
 * that starts no well-formed sequence (no overlong ones, no surrogates: Unicode's table 3-7) is
 * NYB_CHAR_INVALID of length 1, so that every byte of any text belongs to exactly one character. */
size_t nyb_utf8_decode(const uint8_t *text, size_t n, uint32_t *c);

/* Writes the 1 to 4 bytes of code point `c` < NYB_UNICODE_POINTS; returns their number. */
size_t nyb_utf8_encode(uint32_t c, uint8_t out[4]);

#endif
