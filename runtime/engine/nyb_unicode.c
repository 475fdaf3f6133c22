/* SPDX-License-Identifier: MIT */
#include "nyb_unicode.h"

size_t nyb_utf8_decode(const uint8_t *text, size_t n, uint32_t *c) {
    const uint8_t lead = text[0];
    size_t length;
    uint32_t code, least;
    *c = lead;
    if (lead < 0x80) {
        return 1;
    }
    *c = NYB_CHAR_INVALID;
    if (lead >= 0xC2 && lead <= 0xDF) {
        length = 2, code = lead & 0x1Fu, least = 0x80;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
        length = 3, code = lead & 0x0Fu, least = 0x800;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
        length = 4, code = lead & 0x07u, least = 0x10000;
    } else {
        return 1;
    }
    if (length > n) {
        return 1;
    }
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xC0u) != 0x80) {
            return 1;
        }
        code = code << 6 | (text[i] & 0x3Fu);
    }
    if (code < least || code >= NYB_UNICODE_POINTS || (code >= 0xD800 && code <= 0xDFFF)) {
        return 1;
    }
    *c = code;
    return length;
}

size_t nyb_utf8_encode(uint32_t c, uint8_t out[4]) {
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    const size_t length = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--, c >>= 6) {
        out[i] = (uint8_t)(0x80u | (c & 0x3Fu));
    }
    out[0] = (uint8_t)((0xF00u >> length & 0xFFu) | c);
    return length;
}
