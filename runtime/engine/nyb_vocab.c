/* SPDX-License-Identifier: MIT
 * Looking up what a vocabulary says. Its tables are built in nyb_vocab_build.c.
 */
#include "nyb_vocab.h"

#include <string.h>

#include "nyb_unicode.h"
#include "nyb_vocab_tables.h"

/* GPT-2's byte alphabet: printable bytes of Latin-1 stand for themselves, the others for U+0100
 * and on, in order. */
static uint32_t char_of_byte(uint8_t byte) {
    if (byte <= 0x20) {
        return 0x100u + byte;
    }
    if (byte >= 0x7F && byte <= 0xA0) {
        return 0x121u + (byte - 0x7Fu);
    }
    return byte == 0xAD ? 0x143u : byte;
}

/* The byte that a character of the alphabet stands for, or -1. */
static int byte_of_char(uint32_t c) {
    if (c >= 0x100 && c <= 0x120) {
        return (int)(c - 0x100);
    }
    if (c >= 0x121 && c <= 0x142) {
        return (int)(c - 0x121 + 0x7F);
    }
    if (c == 0x143) {
        return 0xAD;
    }
    return c < 0x100 && char_of_byte((uint8_t)c) == c ? (int)c : -1;
}

size_t nyb_byte_alphabet(uint8_t byte, uint8_t out[4]) {
    return nyb_utf8_encode(char_of_byte(byte), out);
}

uint32_t nyb_vocab_search(const nyb_vocab *vocab, uint32_t hash, nyb_string a, nyb_string b,
                          uint32_t *slot) {
    const nyb_token_slot *slots = nyb_vocab_slots(vocab->tables);
    const uint32_t n_slots = (uint32_t)NYB_VOCAB_SLOTS(vocab->tables->n_tokens);
    uint32_t at = nyb_slot_of(hash, n_slots);
    for (int probe = 0; probe < NYB_VOCAB_PROBES; probe++, at = at + 1 == n_slots ? 0 : at + 1) {
        if (slots[at].id == 0) {
            *slot = at;
            return NYB_VOCAB_NONE;
        }
        if (slots[at].hash != hash) {
            continue;
        }
        const nyb_string s = nyb_vocab_text(vocab, slots[at].id - 1);
        if (s.n == a.n + b.n && memcmp(s.at, a.at, a.n) == 0 &&
            memcmp(s.at + a.n, b.at, b.n) == 0) {
            return slots[at].id - 1;
        }
    }
    *slot = NYB_VOCAB_NONE;
    return NYB_VOCAB_NONE;
}

uint32_t nyb_vocab_find(const nyb_vocab *vocab, const uint8_t *spelling, size_t n) {
    const nyb_string whole = {spelling, n}, nothing = {spelling, 0};
    uint32_t slot;
    return n > vocab->tables->longest
               ? NYB_VOCAB_NONE
               : nyb_vocab_search(vocab, nyb_hash(NYB_HASH_START, whole), whole, nothing, &slot);
}

uint32_t nyb_vocab_rank(const nyb_vocab_tables *t, uint32_t left, uint32_t right, uint64_t *steps) {
    const uint32_t *slots = nyb_vocab_section(t, pair_slots_at);
    const nyb_merge *merges = nyb_vocab_merges(t);
    const uint32_t n_slots = (uint32_t)NYB_VOCAB_SLOTS(t->n_merges);
    uint32_t at = nyb_slot_of(nyb_pair_hash(left, right), n_slots);
    for (int probe = 0; probe < NYB_VOCAB_PROBES; probe++, at = at + 1 == n_slots ? 0 : at + 1) {
        ++*steps;
        if (slots[at] == 0) {
            return NYB_VOCAB_NONE;
        }
        const nyb_merge *m = &merges[slots[at] - 1];
        if (m->left == left && m->right == right) {
            return slots[at] - 1;
        }
    }
    return NYB_VOCAB_NONE; /* building has put no pair further from where it belongs */
}

uint32_t nyb_vocab_piece(const nyb_vocab *vocab, const uint8_t *spelling, size_t n,
                         uint32_t *rank) {
    const uint32_t id = nyb_vocab_find(vocab, spelling, n);
    if (id == NYB_VOCAB_NONE) {
        return NYB_VOCAB_NONE;
    }
    const unsigned type = nyb_vocab_type(vocab, id);
    if (type == NYB_TOKEN_CONTROL || type == NYB_TOKEN_UNKNOWN || type == NYB_TOKEN_BYTE ||
        type == NYB_TOKEN_USER_DEFINED) {
        return NYB_VOCAB_NONE;
    }
    *rank = nyb_vocab_section(vocab->tables, ranks_at)[id];
    return id;
}

size_t nyb_vocab_spelling(const nyb_vocab *vocab, uint32_t id, const uint8_t **spelling) {
    const nyb_string s = nyb_vocab_text(vocab, id);
    *spelling = s.at;
    return s.n;
}

unsigned nyb_vocab_type(const nyb_vocab *vocab, uint32_t id) {
    return nyb_vocab_types(vocab->tables)[id];
}

int nyb_vocab_is_end(const nyb_vocab *vocab, uint32_t id) {
    return nyb_role_of(nyb_vocab_text(vocab, id), nyb_vocab_type(vocab, id)) == NYB_ROLE_END;
}

static size_t bytes_of_alphabet(nyb_string s, uint8_t *out) {
    size_t n = 0;
    for (size_t at = 0; at < s.n;) {
        uint32_t c;
        const size_t length = nyb_utf8_decode(s.at + at, s.n - at, &c);
        const int byte = byte_of_char(c);
        if (byte >= 0) {
            out[n++] = (uint8_t)byte;
        } else {
            memcpy(out + n, s.at + at, length);
            n += length;
        }
        at += length;
    }
    return n;
}

static size_t bytes_with_spaces(nyb_string s, uint8_t *out) {
    size_t n = 0;
    for (size_t at = 0; at < s.n;) {
        const int is_space = nyb_is_space_mark(s.at, at, s.n);
        out[n++] = is_space ? ' ' : s.at[at];
        at += is_space ? NYB_SPACE_MARK_BYTES : 1;
    }
    return n;
}

static int hexadecimal(uint8_t digit) {
    if (digit >= '0' && digit <= '9') {
        return digit - '0';
    }
    const uint8_t upper = digit & 0xDFu;
    return upper >= 'A' && upper <= 'F' ? upper - 'A' + 10 : -1;
}

/* The byte that "<0x0A>" names, or -1. */
static int byte_named(nyb_string s) {
    if (s.n != 6 || memcmp(s.at, "<0x", 3) != 0 || s.at[5] != '>') {
        return -1;
    }
    const int high = hexadecimal(s.at[3]), low = hexadecimal(s.at[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

size_t nyb_vocab_bytes(const nyb_vocab *vocab, uint32_t id, uint8_t *out) {
    const nyb_string s = nyb_vocab_text(vocab, id);
    const unsigned type = nyb_vocab_type(vocab, id);
    const int is_pieces = vocab->tables->kind != NYB_VOCAB_BYTES;
    if (type == NYB_TOKEN_CONTROL || type == NYB_TOKEN_UNKNOWN ||
        (type == NYB_TOKEN_USER_DEFINED && !is_pieces)) {
        memcpy(out, s.at, s.n);
        return s.n;
    }
    if (!is_pieces) {
        return bytes_of_alphabet(s, out);
    }
    const int byte = type == NYB_TOKEN_BYTE ? byte_named(s) : -1;
    if (byte >= 0) {
        out[0] = (uint8_t)byte;
        return 1;
    }
    return bytes_with_spaces(s, out);
}
